//! Corpus encoding: files in, Megatron shards out, the documents in order, on all cores.
//!
//! [`run`] joins the steps: [`input`] lists the files; [`plan`] cuts them into tasks at record boundaries that
//! [`cut`] finds; for each task [`stream`] unpacks, [`blocks`] and [`parquet`] read in blocks of whole records,
//! [`documents`] takes the texts out ([`json`], [`clean`]), [`pipeline`] encodes blocks side by side and hands
//! them to [`write`] in order; [`commit`] makes shards durable and says that they are; [`manifest`] seals.
//!
//! The bytes written depend on the input and the [`options`], never on threads, machines or interruptions:
//! [`disk`] holds every operation that could leave something half done, [`lock`] keeps runs apart. [`verify`] and [`merge`] read
//! shards back through [`index`], [`occurrences`] searches their text; [`locate`] finds where a document came from.

mod arrow;
mod blocks;
mod clean;
mod commit;
mod cut;
mod disk;
mod documents;
mod estimate;
mod folder;
mod index;
mod input;
mod ipc;
mod json;
mod kinds;
mod locate;
mod lock;
mod manifest;
mod merge;
mod occurrences;
mod options;
mod parquet;
mod pipeline;
mod plan;
mod progress;
mod read;
mod rows;
mod run;
mod shard;
mod stream;
#[cfg(test)]
mod tests;
mod verify;
mod write;

pub use blocks::Stop;
pub use estimate::{Estimate, EstimatedSource, estimate};
pub use folder::{MANIFEST_FILE, PLAN_FILE, REJECTS_FILE, RUN_FILE};
pub use input::{Format, Packing, Source, Unreadable};
pub use kinds::LeftOut;
pub use locate::{Location, locate};
pub use lock::Lock;
pub use manifest::{Counts, InputRange, Manifest, ShardEntry, SourceEntry};
pub use merge::merge_shards;
pub use occurrences::count_occurrences;
pub use options::{EncodeOptions, Split, TokenizerEntry};
pub use pipeline::Progress;
pub use progress::{FolderProgress, progress_of};
pub use read::{InputReader, ReadCounts, Records};
pub use run::{Outcome, Report, Request, RunOptions, encode_corpus, encode_tasks};
pub use shard::TokenWidth;
pub use verify::verify;
