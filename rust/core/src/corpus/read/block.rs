//! A block: some whole records of a file, and where they come from.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::row_batch::RowBatch;
use crate::{
    Error,
    corpus::{
        options::{EncodeOptions, Split},
        source::{Format, Source, Span},
    },
    message::{Message, STDIN_TXT},
};

/// Minimum size of a block in bytes, except for the last one of a span. A longer record makes a longer block.
pub const BLOCK_BYTES: usize = 1 << 20;

/// When to stop reading.
#[derive(Clone)]
pub enum Stop {
    /// Once this is true.
    Flag(Arc<AtomicBool>),
    /// Once this returns true; it is called several times per second.
    Asked(Arc<dyn Fn() -> bool + Send + Sync>),
}

impl Stop {
    /// True once reading is to stop.
    pub fn is_set(&self) -> bool {
        match self {
            Self::Flag(flag) => flag.load(Ordering::Relaxed),
            Self::Asked(ask) => ask(),
        }
    }
}

/// The span that a block comes from.
#[derive(Debug)]
pub struct Origin {
    /// Number of the file.
    pub number: usize,
    /// The file.
    pub source: Arc<Source>,
    /// How it is split into records.
    pub split: Split,
    /// It is one JSON array.
    pub is_array: bool,
    /// Where the span starts.
    start: u64,
    first_line: OnceLock<u64>,
}

impl Origin {
    /// The origin of the blocks of `span`, which is a part of `source`.
    pub fn new(source: Arc<Source>, options: &EncodeOptions, span: Span, is_array: bool) -> Arc<Self> {
        let split = if source.format == Format::Txt { options.split.clone() } else { Split::Line };
        let first_line = OnceLock::new();
        Arc::new(Self { number: span.source, source, split, is_array, start: span.start, first_line })
    }

    /// Number, from 1, of the line that is `line` lines after the first of the span. Only errors need it, so
    /// the lines before the span are counted on the first call.
    pub fn line(&self, line: u64) -> u64 {
        let count = || {
            if self.source.is_cuttable() { lines_before(&self.source, self.start).unwrap_or(0) } else { 0 }
        };
        self.first_line.get_or_init(count) + line + 1
    }

    /// The error for a bad record.
    pub fn bad_record(&self, reject: &Reject) -> Error {
        let Reject { offset, line, reason, .. } = reject;
        let (path, offset, line) = (self.source.path.clone(), *offset, *line);
        if self.source.format.has_rows() {
            return Error::Row { path, row: offset, reason: reason.clone() };
        }
        let packed = !self.source.is_cuttable() && !self.source.is_stdin();
        let reason = if packed {
            reason.clone().text(" (bytes are counted unpacked)")
        } else if self.source.is_stdin() && self.source.format == Format::Jsonl {
            reason.clone().text("; standard input is read as JSON lines, plain text needs ").option(STDIN_TXT)
        } else {
            reason.clone()
        };
        let line = self.line(line);
        match reject.element {
            Some(element) if self.is_array => Error::Element { path, element, line, offset, reason },
            _ => Error::Record { path, line, offset, reason },
        }
    }
}

fn lines_before(source: &Source, end: u64) -> io::Result<u64> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(&source.path)?.take(end));
    let mut lines = 0;
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', buffer).count() as u64;
        let used = buffer.len();
        file.consume(used);
    }
}

/// Some whole records of one span.
#[derive(Debug)]
pub struct Block {
    /// Where it comes from.
    pub origin: Arc<Origin>,
    /// Lines of the span before the block.
    pub line: u64,
    /// Elements before the block, if the file is a JSON array.
    pub element: u64,
    /// Where it starts: bytes of the unpacked file, or rows.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
    /// Bytes of the file that were read for it.
    pub packed: u64,
    /// What it contains.
    pub content: BlockContent,
}

/// What a block contains.
#[derive(Debug)]
pub enum BlockContent {
    /// Records as they are in the file.
    Text(Vec<u8>),
    /// Elements of a JSON array as they are in the file, and their ranges.
    Elements(Vec<u8>, Vec<Range<usize>>),
    /// Rows of a parquet or Arrow file.
    Rows(RowBatch),
    /// One record of this many bytes, which is over the maximum.
    TooLong(u64),
    /// Nothing: the rest of the file cannot be unpacked.
    Broken(String),
}

impl Block {
    /// Bytes of text in memory.
    pub fn bytes(&self) -> usize {
        match &self.content {
            BlockContent::Text(bytes) | BlockContent::Elements(bytes, _) => bytes.len(),
            BlockContent::Rows(batch) => batch.bytes.len(),
            BlockContent::TooLong(_) | BlockContent::Broken(_) => 0,
        }
    }

    /// Bytes of unpacked input.
    pub fn input_bytes(&self) -> u64 {
        match &self.content {
            BlockContent::Rows(batch) => batch.bytes.len() as u64,
            _ => self.end - self.offset,
        }
    }
}

/// A record that cannot be read.
#[derive(Clone, Debug)]
pub struct Reject {
    /// Where it starts: bytes of the unpacked file, or the row.
    pub offset: u64,
    /// Lines of the span before it.
    pub line: u64,
    /// Its number, from 1, if the file is a JSON array.
    pub element: Option<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// What is wrong and what to do about it.
    pub reason: Message,
    /// Its first bytes.
    pub head: String,
}

impl Reject {
    /// A bad record with the bytes it has.
    pub fn new(offset: u64, line: u64, element: Option<u64>, record: &[u8], reason: Message) -> Self {
        let head = String::from_utf8_lossy(&record[..record.len().min(200)]).into_owned();
        Self { offset, line, element, bytes: record.len() as u64, reason, head }
    }
}
