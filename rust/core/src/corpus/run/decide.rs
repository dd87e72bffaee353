//! What a run does with the folder it is given: resume, append, start over, or refuse.

use std::{collections::BTreeMap, path::Path};

use super::{
    inputs::Inputs,
    request::{Request, RunOptions},
};
use crate::{
    Error, Result,
    corpus::{
        source::Source,
        store::{
            config::Config,
            folder::{self, MANIFEST_FILE},
            plan::Plan,
            records::Commit,
        },
    },
    message::{Message, ON_ERROR_SKIP, OUT, OVERWRITE},
};

/// What becomes of the folder's plan.
pub enum Decision {
    /// The plan is for this request: what it lacks is done.
    Resume(Plan),
    /// The plan is for this request; inputs that it does not know are added.
    Append(Plan),
    /// A new plan is made.
    Begin,
}

/// Decides by what the folder holds; nothing is written.
///
/// # Errors
/// [`Error::Occupied`] if the folder holds something else, or a run on other inputs or with other options.
pub fn decide(request: &Request, run: &RunOptions, config: &Config, inputs: &Inputs) -> Result<Decision> {
    let out = request.out.as_path();
    let plan = match Plan::load(out) {
        Ok(plan) => plan,
        Err(_) if run.overwrite => None,
        Err(e) => return Err(e),
    };
    let Some(plan) = plan else {
        return if run.overwrite { Ok(Decision::Begin) } else { require_empty(out) };
    };
    let Inputs { listing, then } = inputs;
    let now = then.as_ref().filter(|_| plan.is_of_first_version()).unwrap_or(listing);
    let differences =
        if run.append { plan.append_differences(config, now) } else { plan.differences(config, now) };
    let of_stdin = plan.sources.iter().any(Source::is_stdin);
    let shown = out.display();
    if run.append && differences.is_empty() {
        if of_stdin && listing.sources.iter().any(Source::is_stdin) {
            let reason = format!(
                "{shown}: holds text of standard input already, and more of it cannot be told from that; write it to \
                 a file and append the file"
            );
            return Err(Error::Occupied(reason.into()));
        }
        return Ok(Decision::Append(plan));
    }
    let sealed = out.join(MANIFEST_FILE).exists();
    if differences.is_empty() && !of_stdin && !(run.overwrite && sealed) {
        return Ok(Decision::Resume(plan));
    }
    if run.overwrite {
        return Ok(Decision::Begin);
    }
    if of_stdin {
        let reason = format!("{shown}: holds a run on standard input, which cannot be resumed; ");
        return Err(Error::Occupied(Message::from(reason).text("start anew with ").option(OVERWRITE)));
    }
    let state = if sealed { "corpus" } else { "unfinished run" };
    let differences = differences.join("; ");
    let reason = format!(
        "{shown}: holds the {state} of another command; what differs: {differences}. Give the same as then, start \
         anew with "
    );
    Err(Error::Occupied(Message::from(reason).option(OVERWRITE).text(", or choose another ").option(OUT)))
}

fn require_empty(out: &Path) -> Result<Decision> {
    let Some(name) = folder::names(out)?.into_iter().find(|name| !folder::is_passing(name)) else {
        return Ok(Decision::Begin);
    };
    let out = out.display();
    let reason =
        format!("{out}: already holds something ({name}); choose another folder, or replace it with ");
    Err(Error::Occupied(Message::from(reason).option(OVERWRITE)))
}

/// A run that stops at bad records cannot resume one that put some aside.
///
/// # Errors
/// [`Error::Occupied`].
pub fn check_rejects(out: &Path, run: &RunOptions, commits: &BTreeMap<usize, Commit>) -> Result<()> {
    let Some(commit) = commits.values().find(|commit| commit.counts.bad_records > 0 && !run.skip_bad) else {
        return Ok(());
    };
    let (out, bad) = (out.display(), commit.counts.bad_records);
    let reason = format!("{out}: holds a run that put {bad} bad records aside so far; resume it with ");
    Err(Error::Occupied(
        Message::from(reason).option(ON_ERROR_SKIP).text(", or start anew with ").option(OVERWRITE),
    ))
}
