//! An input file: its format, its compression, and spans of it.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The argument that means standard input.
pub const STDIN: &str = "-";

/// How a file holds its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON record per line, or one JSON array of records; the first character says which.
    Jsonl,
    /// Plain text.
    Txt,
    /// One row per document, the text in a column.
    Parquet,
    /// The same as Arrow IPC, stream or file.
    Arrow,
}

impl Format {
    /// True if the file has numbered rows instead of lines.
    pub fn has_rows(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, several members allowed.
    Gz,
    /// Zstandard, several frames allowed.
    Zst,
    /// xz, several streams allowed.
    Xz,
    /// bzip2, several streams allowed.
    Bz2,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// How to read it.
    pub format: Format,
    /// How to unpack it.
    pub packing: Packing,
    /// Its size in bytes when it was listed; 0 for standard input.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Source {
    /// True for standard input.
    pub fn is_stdin(&self) -> bool {
        self.path.as_os_str() == STDIN
    }

    /// True if a part of the file can be read without reading what precedes it (unless it is one JSON array).
    pub fn is_cuttable(&self) -> bool {
        !self.is_stdin() && self.packing == Packing::Plain && self.format != Format::Arrow
    }

    /// Current size and modification time, to compare with those in the plan.
    pub fn stamp(found: &fs::Metadata) -> (u64, i64) {
        (found.len(), found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()))
    }
}

/// A part of one file that contains whole records: a byte range of an uncompressed file, all bytes of a
/// compressed one, or row groups of a parquet file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Number of the source.
    pub source: usize,
    /// Where it starts.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
}
