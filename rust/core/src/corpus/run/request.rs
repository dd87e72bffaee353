//! What a run is asked for and what it reports.

use std::{collections::BTreeMap, path::PathBuf};

use crate::corpus::{
    listing::LeftOut,
    options::EncodeOptions,
    read::input::ListingRules,
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
    pub fn rules(&self, skip: bool) -> ListingRules<'_> {
        ListingRules { stdin: self.options.stdin, skip, out: Some(&self.out), first_version: false }
    }
}

/// How to run. Nothing here changes the bytes of shards or manifest.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Threads that encode.
    pub threads: usize,
    /// Replace what the folder contains, unless that is an unfinished run of the same request.
    pub overwrite: bool,
    /// Add files that a finished corpus does not contain yet.
    pub append: bool,
    /// Put bad records aside, and skip what cannot be accessed.
    pub skip_bad: bool,
    /// Do only part I of N; a run without this option completes the corpus.
    pub part: Option<(usize, usize)>,
    /// Only plan, and report which tasks are missing.
    pub plan_only: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is encoded and the manifest is written.
    Finished,
    /// It was finished before this run: nothing was done.
    Already,
    /// The part, or the planning, is done; there is no manifest yet.
    Unsealed,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Totals of the corpus, or of the committed tasks if there is no manifest yet.
    pub counts: Counts,
    /// Its shards.
    pub shards: usize,
    /// Tasks of the plan.
    pub tasks: usize,
    /// Tasks that were committed before this run.
    pub resumed: usize,
    /// Tasks that are not done yet.
    pub missing: Vec<usize>,
    /// Unpacked bytes that this run itself read.
    pub read_bytes: u64,
    /// Bytes of text that this run itself encoded.
    pub encoded_bytes: u64,
    /// Input files.
    pub files: usize,
    /// What folders and patterns contain that is not read.
    pub left_out: LeftOut,
}

impl Report {
    /// A report of what `commits` contain; the figures of this run alone are 0.
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

/// The totals of all commits.
pub fn total(commits: &BTreeMap<usize, Commit>) -> Counts {
    let mut counts = Counts::default();
    commits.values().for_each(|commit| counts.add(&commit.counts));
    counts
}
