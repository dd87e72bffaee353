//! What a run is asked for and what it reports.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::corpus::{
    listing::LeftOut,
    options::EncodeOptions,
    read::input::Rules,
    store::{
        plan::Plan,
        records::{Commit, Counts},
    },
};

/// The inputs and how to encode them.
#[derive(Clone, Debug)]
pub struct Request {
    /// Files, folders, patterns, `-`.
    pub inputs: Vec<PathBuf>,
    /// The corpus folder.
    pub out: PathBuf,
    /// The tokenizer's fingerprint.
    pub fingerprint: String,
    /// What decides the bytes.
    pub options: EncodeOptions,
}

impl Request {
    /// How its inputs are listed.
    pub fn rules(&self, skip: bool) -> Rules<'_> {
        Rules { stdin: self.options.stdin, skip, out: Some(&self.out), first_version: false }
    }
}

/// How to run; nothing of it changes a byte of shards or manifest.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Threads that encode.
    pub threads: usize,
    /// Replace what the folder holds, unless it is an unfinished run of this very request.
    pub overwrite: bool,
    /// Add files that a finished corpus does not know yet.
    pub append: bool,
    /// Put bad records aside, and pass over what cannot be looked at.
    pub skip_bad: bool,
    /// Do part I of N only, and leave the sealing to a run without it.
    pub part: Option<(usize, usize)>,
    /// Prepare only: plan, and tell which tasks are missing.
    pub plan_only: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything is encoded and sealed.
    Finished,
    /// It was before this run: nothing was done.
    Already,
    /// The part, or the planning, is done; the corpus is not sealed.
    Unsealed,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What the corpus (or, unsealed, what is committed of it) holds.
    #[serde(flatten)]
    pub counts: Counts,
    /// Its shards.
    pub shards: usize,
    /// Tasks of the plan.
    pub tasks: usize,
    /// Tasks that were committed before this run.
    pub resumed: usize,
    /// Tasks that nobody has done yet.
    pub missing: Vec<usize>,
    /// Unpacked bytes that this run itself read.
    pub read_bytes: u64,
    /// Bytes of text that this run itself encoded.
    pub encoded_bytes: u64,
    /// Input files.
    pub files: usize,
    /// What folders and patterns hold and is no document.
    pub left_out: LeftOut,
}

impl Report {
    /// Of the corpus as `commits` have it, before this run's own figures are added.
    pub fn new(
        outcome: Outcome,
        plan: &Plan,
        commits: &BTreeMap<usize, Commit>,
        resumed: usize,
        missing: Vec<usize>,
    ) -> Self {
        let mut counts = total(commits);
        counts.bad_records += plan.unreadable.len() as u64;
        let shards = commits.values().map(|commit| commit.shards.len()).sum();
        Self {
            outcome,
            counts,
            shards,
            tasks: plan.tasks.len(),
            resumed,
            missing,
            read_bytes: 0,
            encoded_bytes: 0,
            files: plan.sources.len(),
            left_out: plan.left_out.clone(),
        }
    }
}

/// The sum of what was counted.
pub fn total(commits: &BTreeMap<usize, Commit>) -> Counts {
    let mut counts = Counts::default();
    commits.values().for_each(|commit| counts.add(&commit.counts));
    counts
}
