//! `manifest.json`: what an encoded corpus holds and what it was made with.

use serde::{Deserialize, Serialize};

/// The manifest's name inside a corpus folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// An encoded corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// What the text was encoded with.
    pub tokenizer: TokenizerEntry,
    /// The numpy name of a stored token.
    pub dtype: String,
    /// True if the end-of-sequence id follows each document.
    pub eos: bool,
    /// Documents written.
    pub documents: u64,
    /// Documents without characters, left out.
    pub empty_documents: u64,
    /// Tokens written, end-of-sequence ids included.
    pub tokens: u64,
    /// Characters (code points) of the documents written.
    pub characters: u64,
    /// UTF-8 bytes of the documents written.
    pub text_bytes: u64,
    /// The shards, in document order.
    pub shards: Vec<ShardEntry>,
    /// The files it came from, in document order.
    pub sources: Vec<SourceEntry>,
}

/// A tokenizer, by what makes it that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// SHA-256 over model file and added tokens.
    pub fingerprint: String,
    /// Number of ids, added tokens included.
    pub vocab_size: u64,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its files' name without the ending.
    pub name: String,
    /// Documents (= sequences).
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of the `.bin` file.
    pub bytes: u64,
    /// SHA-256 of the `.bin` file.
    pub sha256: String,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// As it was named.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}
