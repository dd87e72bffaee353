//! The inputs of a run: listed, and refused where they do not fit the request.

use std::{collections::HashSet, fs};

use super::request::{Request, RunOptions};
use crate::{
    Error, Result,
    corpus::{
        listing::Listing,
        options::EncodeOptions,
        read::input::{Rules, in_output, list_sources},
        source::Source,
        store::plan::Plan,
    },
    message::{Message, OVERWRITE, PART},
};

/// What the inputs stand for.
pub struct Inputs {
    /// For a new plan, or for what is appended.
    pub listing: Listing,
    /// For comparison with the plan of the first version that the folder has.
    pub then: Option<Listing>,
}

/// Lists the inputs. For the first version they stood for other files: what was begun then is ended so.
pub fn list_inputs(request: &Request, run: &RunOptions) -> Result<Inputs> {
    let rules = request.rules(run.skip_bad);
    let now = list_sources(&request.inputs, rules);
    // What is wrong with the folder is said once it is locked.
    let plan = Plan::load(&request.out).ok().flatten();
    let Some(plan) = plan.filter(|plan| plan.is_of_first_version() && !run.append) else {
        return Ok(Inputs { listing: now?, then: None });
    };
    let Ok(mut then) = list_sources(&request.inputs, Rules { first_version: true, ..rules }) else {
        return Ok(Inputs { listing: now?, then: None });
    };
    let now = match now {
        Ok(now) => now,
        Err(e) if run.overwrite || plan.appended > 0 => return Err(e),
        // For what goes on as it began, the rules of now do not matter.
        Err(_) => return Ok(Inputs { listing: then.clone(), then: Some(then) }),
    };
    if plan.appended > 0 {
        // What was appended was listed as now; what only the first version would read was known before.
        let is: HashSet<_> = now.sources.iter().map(|source| &source.path).collect();
        let was: HashSet<_> = plan.sources.iter().map(|source| &source.path).collect();
        then.sources.retain(|source| was.contains(&source.path) && !is.contains(&source.path));
        then.sources.extend(now.sources.iter().cloned());
    }
    Ok(Inputs { listing: now, then: Some(then) })
}

/// Refuses what cannot go together, before anything is written.
pub fn check_request(request: &Request, run: &RunOptions, listing: &Listing) -> Result<()> {
    if let Some((part, of)) = run.part {
        if part >= of {
            let last = of.saturating_sub(1);
            return Err(Error::Argument(
                Message::from("")
                    .option(PART)
                    .text(format!(" {part}/{of}: parts are numbered from 0 to {last}")),
            ));
        }
        if run.overwrite {
            return Err(Error::Argument(Message::from("").option(OVERWRITE).text(" with ").option(PART).text(
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

/// Refuses what tasks that run side by side cannot do.
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
