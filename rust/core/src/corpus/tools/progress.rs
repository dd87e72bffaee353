//! How far a corpus folder is, by its plan and its commit records.

use std::path::Path;

use crate::{
    Error, Result,
    corpus::{
        run::progress::Progress,
        store::{commit, plan::Plan},
    },
};

/// What the plan of a corpus folder asks for, and what of it is committed.
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

/// Reads how far the corpus in `out` is; other processes may work there meanwhile.
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
