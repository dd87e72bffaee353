//! Corpus encoding: text files in, Megatron shards out, the documents in order, on all cores.
//!
//! [`input`] lists the files, [`blocks`] reads them in blocks of whole lines, [`record`] finds the documents
//! in a block, [`shard`] writes tokens, [`encode`] joins them. The bytes written depend on the input and the
//! options, never on the number of threads.

mod blocks;
mod encode;
mod input;
mod manifest;
mod record;
mod shard;

pub use encode::{EncodeOptions, Progress, encode_corpus};
pub use input::{Format, Source, list_sources};
pub use manifest::{MANIFEST_FILE, Manifest, ShardEntry, SourceEntry, TokenizerEntry};
pub use shard::{ShardWriter, TokenWidth};
