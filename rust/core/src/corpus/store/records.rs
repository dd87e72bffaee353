//! The records that plan, commits and manifest consist of.

use serde::{Deserialize, Serialize};

use crate::corpus::source::Span;

/// What one task reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Parts of files, in document order; called `pieces` on disk.
    #[serde(rename = "pieces")]
    pub spans: Vec<Span>,
}

/// The result of a finished task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Number of the task.
    pub task: usize,
    /// Hash of everything that determines its shards.
    pub hash: String,
    /// Bytes of the files it read.
    pub packed_bytes: u64,
    /// Totals.
    pub counts: Counts,
    /// Its shards, in document order.
    pub shards: Vec<ShardEntry>,
}

/// Totals of a task or of a whole corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents written.
    pub documents: u64,
    /// Tokens written, begin- and end-of-sequence ids included.
    pub tokens: u64,
    /// Characters (code points) of the documents written.
    pub characters: u64,
    /// UTF-8 bytes of the documents written.
    pub text_bytes: u64,
    /// Unpacked bytes of input.
    pub input_bytes: u64,
    /// Documents without characters, left out.
    pub empty_documents: u64,
    /// Documents below the minimum length, left out.
    pub short_documents: u64,
    /// Documents above the maximum length, left out.
    pub long_documents: u64,
    /// Documents with too small a share of Han, left out.
    pub foreign_documents: u64,
    /// Documents outside the sample, left out.
    pub unsampled_documents: u64,
    /// Documents equal to an earlier one, left out.
    pub duplicate_documents: u64,
    /// Records that could not be read, left out.
    pub bad_records: u64,
}

impl Counts {
    /// Adds other totals.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.characters += other.characters;
        self.text_bytes += other.text_bytes;
        self.input_bytes += other.input_bytes;
        self.empty_documents += other.empty_documents;
        self.short_documents += other.short_documents;
        self.long_documents += other.long_documents;
        self.foreign_documents += other.foreign_documents;
        self.unsampled_documents += other.unsampled_documents;
        self.duplicate_documents += other.duplicate_documents;
        self.bad_records += other.bad_records;
    }
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name of its files without the extension.
    pub name: String,
    /// Documents (= sequences).
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of the `.bin` file.
    pub bytes: u64,
    /// SHA-256 of the `.bin` file.
    pub sha256: String,
    /// SHA-256 of the `.idx` file.
    pub index_sha256: String,
    /// Where its documents came from, in document order.
    pub inputs: Vec<InputRange>,
}

/// Consecutive documents of one file and of one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRange {
    /// Number of the file in `sources`.
    pub source: usize,
    /// Where they start: bytes of the unpacked file, or rows of a parquet file.
    pub start: u64,
    /// Where they end.
    pub end: u64,
    /// Number of documents.
    pub documents: u64,
    /// Their number of tokens.
    pub tokens: u64,
    /// Their number of characters.
    pub characters: u64,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// Its path, as it was given.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}
