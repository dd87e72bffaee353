//! The progress of a corpus folder, from its plan and commit records.

use std::path::Path;

use crate::{
    Error, Result,
    corpus::{
        run::progress::Progress,
        store::{commit, plan::Plan},
    },
};

/// How much of a corpus is planned, and how much is committed.
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderProgress {
    /// Tasks of the plan.
    pub tasks: usize,
    /// Tasks that are committed.
    pub committed: usize,
    /// Bytes of all input files.
    pub total_bytes: u64,
    /// What the committed tasks have read and written.
    pub done: Progress,
}

/// The progress of the corpus in `out`. Other processes may work there at the same time.
///
/// # Errors
/// [`Error::Argument`] if the folder holds no plan; [`Error::Occupied`] if the plan cannot be parsed;
/// [`Error::Io`].
pub fn progress_of(out: &Path) -> Result<FolderProgress> {
    let Some(plan) = Plan::load(out)? else {
        return Err(Error::Argument(format!("{}: holds no plan of a corpus", out.display()).into()));
    };
    let commits = commit::load_all(out, &plan)?;
    Ok(FolderProgress {
        tasks: plan.tasks.len(),
        committed: commits.len(),
        total_bytes: plan.bytes(),
        done: Progress::of(commits.values()),
    })
}
