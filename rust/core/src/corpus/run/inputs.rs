//! The inputs of a run: listed, and refused where they do not fit the request.

use std::{collections::HashSet, fs};

use super::request::{Request, RunOptions};
use crate::{
    Error, Result,
    corpus::{
        listing::Listing,
        options::EncodeOptions,
        read::input::{ListingRules, in_output, list_sources},
        source::Source,
        store::plan::Plan,
    },
    message::{Message, OVERWRITE, PART},
};

/// What the inputs expand to.
pub struct Inputs {
    /// For a new plan, or for appended files.
    pub listing: Listing,
    /// For comparison with a plan of version 1 in the folder.
    pub then: Option<Listing>,
}

/// Lists the inputs. Version 1 listed other files for the same inputs; a plan made then is completed by its
/// rules.
pub fn list_inputs(request: &Request, run: &RunOptions) -> Result<Inputs> {
    let rules = request.rules(run.skip_bad);
    let now = list_sources(&request.inputs, rules);
    // Errors of the folder are reported once it is locked.
    let plan = Plan::load(&request.out).ok().flatten();
    let Some(plan) = plan.filter(|plan| plan.is_of_first_version() && !run.append) else {
        return Ok(Inputs { listing: now?, then: None });
    };
    let Ok(mut then) = list_sources(&request.inputs, ListingRules { first_version: true, ..rules }) else {
        return Ok(Inputs { listing: now?, then: None });
    };
    let now = match now {
        Ok(now) => now,
        Err(e) if run.overwrite || plan.appended > 0 => return Err(e),
        // A run that resumes by the old rules does not depend on the new ones.
        Err(_) => return Ok(Inputs { listing: then.clone(), then: Some(then) }),
    };
    if plan.appended > 0 {
        // Appended files were listed by today's rules; what only version 1 would read was in the plan before.
        let is: HashSet<_> = now.sources.iter().map(|source| &source.path).collect();
        let was: HashSet<_> = plan.sources.iter().map(|source| &source.path).collect();
        then.sources.retain(|source| was.contains(&source.path) && !is.contains(&source.path));
        then.sources.extend(now.sources.iter().cloned());
    }
    Ok(Inputs { listing: now, then: Some(then) })
}

/// Checks that the request is consistent, before anything is written.
pub fn check_request(request: &Request, run: &RunOptions, listing: &Listing) -> Result<()> {
    if let Some((part, of)) = run.part {
        if part >= of {
            let last = of.saturating_sub(1);
            return Err(Error::Argument(
                Message::from(PART).text(format!(" {part}/{of}: parts are numbered from 0 to {last}")),
            ));
        }
        if run.overwrite {
            return Err(Error::Argument(Message::from(OVERWRITE).text(" with ").option(PART).text(
                ": a part may come later than others, and would remove their work; remove the folder yourself",
            )));
        }
    }
    if run.part.is_some() || run.plan_only {
        check_side_by_side(&request.options, listing)?;
    }
    let out = fs::canonicalize(&request.out).unwrap_or_else(|_| request.out.clone());
    for source in listing.sources.iter().filter(|source| !source.is_stdin()) {
        let path = fs::canonicalize(&source.path).map_err(Error::io(&source.path))?;
        if path.starts_with(&out) {
            return Err(in_output(&source.path, &request.out));
        }
    }
    Ok(())
}

/// Checks that the options and inputs allow tasks to run side by side.
pub fn check_side_by_side(options: &EncodeOptions, listing: &Listing) -> Result<()> {
    let reason = if options.dedup {
        "dropping duplicates needs to know all documents before"
    } else if options.limit.is_some() {
        "a limit counts all documents before"
    } else if listing.sources.iter().any(Source::is_stdin) {
        "standard input can be read by one process only"
    } else {
        return Ok(());
    };
    Err(Error::Argument(
        Message::from(format!("{reason}, which parts that run side by side ("))
            .option(PART)
            .text(", a Ray cluster) do not; leave it out, or run in one process"),
    ))
}
