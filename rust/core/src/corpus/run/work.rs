//! What the threads of a run need to know.

use std::path::Path;

use crate::{Tokenizer, corpus::store::plan::Plan};

/// Threads that encode, per lane: a lane writes what three or four encode.
const THREADS_PER_LANE: usize = 2;

/// The context of a run. None of it but the plan changes the bytes of the shards.
#[derive(Clone, Debug)]
pub struct Work<'a> {
    /// The tokenizer of the plan.
    pub tokenizer: &'a Tokenizer,
    /// The plan.
    pub plan: &'a Plan,
    /// The corpus folder.
    pub out: &'a Path,
    /// Part of the names of temporary files.
    pub tag: &'a str,
    /// Threads that encode.
    pub threads: usize,
    /// Put bad records aside instead of stopping at the first.
    pub skip_bad: bool,
}

impl Work<'_> {
    /// How many tasks are read and written at the same time.
    pub fn lanes(&self, tasks: usize) -> usize {
        let options = &self.plan.config.options;
        // Then what a task keeps depends on all tasks before.
        if options.dedup || options.limit.is_some() {
            return 1;
        }
        self.threads.div_ceil(THREADS_PER_LANE).min(tasks).max(1)
    }
}
