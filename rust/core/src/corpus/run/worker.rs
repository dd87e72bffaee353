//! Runs some tasks of a plan that another process made; for the workers of a cluster.

use std::{fs, path::Path};

use super::{
    inputs::check_side_by_side,
    pipeline::run_tasks,
    progress::{Clock, Progress},
    work::Work,
    write::History,
};
use crate::{
    Error, Result, Tokenizer,
    corpus::{
        listing::Listing,
        store::{commit, config::Config, plan::Plan},
    },
};

/// Runs some tasks of the plan in `out` and returns what they have read and written. Other processes may run
/// other tasks there at the same time.
///
/// # Errors
/// [`Error::Argument`] if there is no plan, or it was made for another tokenizer or by another version.
pub fn encode_tasks(
    tokenizer: &Tokenizer,
    fingerprint: &str,
    out: &Path,
    tasks: &[usize],
    threads: usize,
    skip_bad: bool,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Progress> {
    let refuse = |reason: String| Err(Error::Argument(format!("{}: {reason}", out.display()).into()));
    let Some(plan) = Plan::load(out)? else {
        return refuse("holds no plan; is this a shared file system, seen under the same path here?".into());
    };
    let config = Config::new(tokenizer, fingerprint.into(), plan.config.options.clone())?;
    let differences = config.differences(&plan.config);
    if !differences.is_empty() {
        return refuse(format!("the worker differs from the planner: {}", differences.join("; ")));
    }
    if let Some(task) = tasks.iter().find(|task| **task >= plan.tasks.len()) {
        return refuse(format!("task {task} of {}", plan.tasks.len()));
    }
    check_side_by_side(
        &plan.config.options,
        &Listing { sources: plan.sources.clone(), ..Listing::default() },
    )?;
    // Unique names for temporary files, across machines.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_alphanumeric).collect();
    let tag = format!("{host}-{}", std::process::id());
    let work = Work { tokenizer, plan: &plan, out, tag: &tag, threads, skip_bad };
    let result = run_tasks(&work, tasks, &mut History::default(), &Clock::default(), &mut progress);
    if result.is_err() {
        let _ = commit::remove_temporary(out, &tag);
    }
    result.map(|commits| Progress::of(&commits))
}
