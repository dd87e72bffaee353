//! Corpus encoding: files in, Megatron shards out, the documents in order, on all cores.
//!
//! [`read`] turns inputs into blocks and documents; [`store`] is the corpus folder on disk; [`run`] combines
//! the two; [`tools`] verify, merge and search a corpus. All of them use the types in [`options`], [`source`]
//! and [`listing`].
//!
//! The bytes written depend on the input and the [`options`], never on threads, machines or interruptions.

mod listing;
mod options;
mod read;
mod run;
mod source;
mod store;
#[cfg(test)]
mod tests;
mod tools;

pub use listing::{LeftOut, Unreadable};
pub use options::{EncodeOptions, Split};
pub use read::{
    block::Stop,
    reader::{InputReader, ReadCounts, Records},
};
pub use run::{
    estimate::{Estimate, EstimatedSource, estimate},
    progress::Progress,
    request::{Outcome, Report, Request, RunOptions},
    start::encode_corpus,
    worker::encode_tasks,
};
pub use source::{Format, Packing, Source};
pub use store::{
    config::TokenizerEntry,
    folder::{MANIFEST_FILE, PLAN_FILE, REJECTS_FILE, RUN_FILE},
    lock::Lock,
    manifest::Manifest,
    records::{Counts, InputRange, ShardEntry, SourceEntry},
    width::TokenWidth,
};
pub use tools::{
    locate::{Location, locate},
    merge::merge_shards,
    occurrences::count_occurrences,
    progress::{FolderProgress, progress_of},
    verify::verify,
};
