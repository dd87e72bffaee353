//! Reads a piece in blocks of whole records, cut at places that depend on the file alone.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    cut::{first_byte, is_blank, is_space, whole_records},
    documents::Reject,
    input::{Format, Source},
    json::Elements,
    options::{EncodeOptions, Split},
    plan::Piece,
    rows::{Batch, Rows},
    stream::{Stream, check_unchanged, contradiction, open_unchanged},
};
use crate::{Error, Result};

/// Bytes a block holds at least (the last one of a piece holds less); a longer record makes a longer block.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Says when to give up reading.
#[derive(Clone)]
pub enum Stop {
    /// Once this is true.
    Flag(Arc<AtomicBool>),
    /// Once this says so; it is asked several times a second.
    Asked(Arc<dyn Fn() -> bool + Send + Sync>),
}

impl Stop {
    fn is_set(&self) -> bool {
        match self {
            Self::Flag(flag) => flag.load(Ordering::Relaxed),
            Self::Asked(ask) => ask(),
        }
    }
}

/// The piece a block comes from.
#[derive(Debug)]
pub struct Origin {
    /// Number of the file.
    pub number: usize,
    /// The file.
    pub source: Arc<Source>,
    /// How it parts into records.
    pub split: Split,
    /// It is one JSON array.
    pub is_array: bool,
    /// Where the piece starts.
    start: u64,
    first_line: OnceLock<u64>,
}

impl Origin {
    fn new(
        number: usize,
        source: Arc<Source>,
        options: &EncodeOptions,
        piece: Piece,
        is_array: bool,
    ) -> Arc<Self> {
        let split = if source.format == Format::Txt { options.split.clone() } else { Split::Line };
        let first_line = OnceLock::new();
        Arc::new(Self { number, source, split, is_array, start: piece.start, first_line })
    }

    /// Number, from 1, of the line that is `line` lines behind the piece's first. Only errors need it, so
    /// the lines before the piece are counted when the first one asks.
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
            return Error::Row { path, row: offset, reason: reason.into() };
        }
        let packed = !self.source.is_cuttable() && !self.source.is_stdin();
        let note = if packed {
            " (bytes are counted unpacked)"
        } else if self.source.is_stdin() && self.source.format == Format::Jsonl {
            "; standard input is read as JSON lines, plain text needs --stdin txt"
        } else {
            ""
        };
        let (line, reason) = (self.line(line), format!("{reason}{note}"));
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

/// Some whole records of one piece.
#[derive(Debug)]
pub struct Block {
    /// Where it comes from.
    pub origin: Arc<Origin>,
    /// Lines of the piece before the block.
    pub line: u64,
    /// Of a JSON array, elements before the block.
    pub element: u64,
    /// Where it starts: bytes of the unpacked file, or rows.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
    /// Bytes of the file that were read for it.
    pub packed: u64,
    /// What it holds.
    pub content: Content,
}

/// What a block holds.
#[derive(Debug)]
pub enum Content {
    /// Records as they stand in the file.
    Text(Vec<u8>),
    /// Elements of a JSON array as they stand in the file, and where.
    Elements(Vec<u8>, Vec<Range<usize>>),
    /// Rows of a parquet or Arrow file.
    Rows(Batch),
    /// One record of this many bytes, which is more than a record may have.
    TooLong(u64),
    /// Nothing: the rest of the file cannot be unpacked.
    Broken(String),
}

impl Block {
    /// Bytes of text it holds in memory.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Text(bytes) | Content::Elements(bytes, _) => bytes.len(),
            Content::Rows(batch) => batch.bytes.len(),
            Content::TooLong(_) | Content::Broken(_) => 0,
        }
    }
}

impl Block {
    /// Bytes of unpacked input it stands for.
    pub fn input_bytes(&self) -> u64 {
        match &self.content {
            Content::Rows(batch) => batch.bytes.len() as u64,
            _ => self.end - self.offset,
        }
    }
}

/// The blocks of one piece.
pub enum Blocks {
    /// Of a text file.
    Text(Box<TextBlocks>),
    /// Of a parquet or Arrow file.
    Rows(Arc<Origin>, Box<Rows>, File),
}

impl Blocks {
    /// Opens the piece of source number `number`. Reading gives up with [`Error::Stopped`] once `stop` is set.
    pub fn open(
        number: usize,
        source: Arc<Source>,
        piece: Piece,
        options: &EncodeOptions,
        stop: Stop,
    ) -> Result<Self> {
        if !source.format.has_rows() {
            return Ok(Self::Text(Box::new(TextBlocks::open(number, source, piece, options, stop)?)));
        }
        let file = open_unchanged(&source)?;
        let again = file.try_clone().map_err(Error::io(&source.path))?;
        let origin = Origin::new(number, source.clone(), options, piece, false);
        let rows = Rows::open(source, file, &options.fields, piece.start, piece.end)?;
        Ok(Self::Rows(origin, Box::new(rows), again))
    }

    /// Bytes of the file that were read since the last block.
    pub fn take_packed(&self) -> u64 {
        match self {
            Self::Text(text) => text.stream.take_packed(),
            Self::Rows(..) => 0,
        }
    }

    /// The next block, or `None` at the end of the piece.
    ///
    /// # Errors
    /// What the system refuses; [`Error::Damaged`] if the file changed meanwhile.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        match self {
            Self::Text(text) => text.next_block(),
            Self::Rows(origin, rows, file) => {
                let Some(batch) = rows.next_batch()? else {
                    check_unchanged(&origin.source, file)?;
                    return Ok(None);
                };
                let (offset, end) = (batch.row, batch.row + batch.ends.len() as u64);
                let packed = rows.take_packed(&origin.source, offset, end);
                let origin = origin.clone();
                let content = Content::Rows(batch);
                Ok(Some(Block { origin, line: 0, element: 0, offset, end, packed, content }))
            }
        }
    }
}

/// The blocks of a piece of a text file.
pub struct TextBlocks {
    origin: Arc<Origin>,
    stream: Stream,
    /// The same file once more, to see whether it changed; none for standard input.
    file: Option<File>,
    max_record: usize,
    stop: Stop,
    line: u64,
    /// Of a JSON array, what finds its elements, and how many were found.
    elements: Option<Elements>,
    element: u64,
    offset: u64,
    /// Bytes read behind the last whole record.
    carry: Vec<u8>,
    at_end: bool,
    broken: Option<String>,
}

impl TextBlocks {
    fn open(
        number: usize,
        source: Arc<Source>,
        piece: Piece,
        options: &EncodeOptions,
        stop: Stop,
    ) -> Result<Self> {
        let (stream, file) = if source.is_stdin() {
            (Stream::stdin(), None)
        } else {
            let file = open_unchanged(&source)?;
            let again = file.try_clone().map_err(Error::io(&source.path))?;
            (Stream::new(&source, file, piece)?, Some(again))
        };
        let offset = if source.is_cuttable() { piece.start } else { 0 };
        let is_whole = offset == 0 && (!source.is_cuttable() || piece.end == source.bytes);
        let mut blocks = Self {
            stream,
            file,
            max_record: usize::try_from(options.max_record_bytes).unwrap_or(usize::MAX),
            stop,
            line: 0,
            elements: None,
            element: 0,
            offset,
            carry: Vec::new(),
            at_end: false,
            broken: None,
            origin: Origin::new(number, source.clone(), options, piece, false),
        };
        if offset == 0 {
            blocks.check_magic();
            blocks.skip_mark()?;
            if is_whole && source.format == Format::Jsonl && blocks.begins_array()? {
                blocks.elements = Some(Elements::default());
                blocks.origin = Origin::new(number, source, options, piece, true);
            }
        }
        Ok(blocks)
    }

    /// A file whose first bytes contradict its name is not read.
    fn check_magic(&mut self) {
        let mut start = [0; 8];
        let Some(file) = &self.file else { return };
        let read = file.read_at(&mut start, 0).unwrap_or(0);
        self.broken = contradiction(self.origin.source.packing, &start[..read]);
        self.at_end = self.broken.is_some();
    }

    /// A byte-order mark at the start of a file is not part of its first record.
    fn skip_mark(&mut self) -> Result<()> {
        self.read_up_to(3)?;
        if self.carry.starts_with("\u{FEFF}".as_bytes()) {
            self.carry.drain(..3);
            self.offset = 3;
        }
        Ok(())
    }

    /// True if the first character that is no white space begins a JSON array.
    fn begins_array(&mut self) -> Result<bool> {
        loop {
            if let Some(byte) = first_byte(&self.carry) {
                return Ok(byte == b'[');
            }
            if self.at_end || self.carry.len() > self.max_record {
                return Ok(false);
            }
            self.read_up_to((2 * self.carry.len()).max(64))?;
        }
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        if self.elements.is_some() { self.next_elements() } else { self.next_records() }
    }

    /// The next elements of a JSON array.
    fn next_elements(&mut self) -> Result<Option<Block>> {
        let Some(mut elements) = self.elements.take() else { return Ok(None) };
        let found = self.find_elements(&mut elements);
        self.elements = Some(elements);
        found
    }

    fn find_elements(&mut self, elements: &mut Elements) -> Result<Option<Block>> {
        loop {
            let most = self.max_record.saturating_add(1).max(BLOCK_BYTES);
            self.read_up_to(self.carry.len().saturating_mul(2).max(BLOCK_BYTES).min(most))?;
            let mut ranges = Vec::new();
            let mut whole = 0;
            while let Some(range) = elements.next(&self.carry) {
                ranges.push(range);
                whole = elements.at;
            }
            if !ranges.is_empty() {
                let rest = self.carry.split_off(whole);
                let bytes = std::mem::replace(&mut self.carry, rest);
                elements.shift(whole);
                let lines = memchr::memchr_iter(b'\n', &bytes).count() as u64;
                let count = ranges.len() as u64;
                let block = self.block(bytes.len() as u64, lines, Content::Elements(bytes, ranges));
                self.element += count;
                return Ok(Some(block));
            }
            if elements.has_ended() {
                self.check_after_array(elements)?;
            } else if self.at_end && self.broken.is_none() {
                self.broken =
                    Some("the array is not closed: a `]` is missing; is the file truncated?".into());
            }
            if let Some(reason) = self.broken.take() {
                self.carry.clear();
                self.at_end = true;
                // Said once: what comes after is not looked at.
                *elements = Elements::ended();
                return Ok(Some(self.block(0, 0, Content::Broken(reason))));
            }
            if self.at_end {
                return self.finish();
            }
            if self.carry.len() > self.max_record {
                let (bytes, lines) = self.pass_over_element(elements)?;
                let block = self.block(bytes, lines, Content::TooLong(bytes));
                self.element += 1;
                return Ok(Some(block));
            }
        }
    }

    /// After the array nothing but white space may come.
    fn check_after_array(&mut self, elements: &mut Elements) -> Result<()> {
        let passed = elements.at;
        self.pass(passed);
        elements.shift(passed);
        loop {
            let blank = self.carry.iter().take_while(|&&byte| is_space(byte)).count();
            self.pass(blank);
            if let Some(byte) = self.carry.first() {
                let what = if *byte == b'[' { "a second array" } else { "something else" };
                self.broken =
                    Some(format!("after the array comes {what}; a file holds one array, or a record a line"));
                return Ok(());
            }
            if self.at_end || self.broken.is_some() {
                return Ok(());
            }
            self.read_up_to(BLOCK_BYTES)?;
        }
    }

    /// Drops the first `bytes` of `carry`, which are in no block.
    fn pass(&mut self, bytes: usize) {
        self.line += memchr::memchr_iter(b'\n', &self.carry[..bytes]).count() as u64;
        self.offset += bytes as u64;
        self.carry.drain(..bytes);
    }

    /// Reads on to the end of the element in `carry` without keeping it; its bytes and lines.
    fn pass_over_element(&mut self, elements: &mut Elements) -> Result<(u64, u64)> {
        let (mut bytes, mut lines) = (0, 0);
        loop {
            let ends = elements.next(&self.carry).is_some();
            let passed = elements.at;
            lines += memchr::memchr_iter(b'\n', &self.carry[..passed]).count() as u64;
            bytes += passed as u64;
            self.carry.drain(..passed);
            elements.shift(passed);
            if ends || self.at_end {
                return Ok((bytes, lines));
            }
            self.read_up_to(BLOCK_BYTES)?;
        }
    }

    /// The end of the piece.
    fn finish(&self) -> Result<Option<Block>> {
        if let Some(file) = &self.file {
            check_unchanged(&self.origin.source, file)?;
        }
        Ok(None)
    }

    fn next_records(&mut self) -> Result<Option<Block>> {
        loop {
            let most = self.max_record.saturating_add(1).max(BLOCK_BYTES);
            let wanted = self.carry.len().saturating_mul(2).max(BLOCK_BYTES).min(most);
            self.read_up_to(wanted)?;
            let whole = if self.at_end && self.broken.is_none() {
                self.carry.len()
            } else {
                whole_records(&self.origin.split, &self.carry)
            };
            if whole > 0 {
                // With room for the next block at once: growing would copy it again and again.
                let mut rest = Vec::with_capacity(BLOCK_BYTES.max(self.carry.len() - whole));
                rest.extend_from_slice(&self.carry[whole..]);
                let mut bytes = std::mem::replace(&mut self.carry, rest);
                bytes.truncate(whole);
                let lines = memchr::memchr_iter(b'\n', &bytes).count() as u64;
                return Ok(Some(self.block(bytes.len() as u64, lines, Content::Text(bytes))));
            }
            if let Some(reason) = self.broken.take() {
                self.carry.clear();
                return Ok(Some(self.block(0, 0, Content::Broken(reason))));
            }
            if self.at_end {
                return self.finish();
            }
            if self.carry.len() > self.max_record {
                let (bytes, lines) = self.pass_over()?;
                return Ok(Some(self.block(bytes, lines, Content::TooLong(bytes))));
            }
        }
    }

    fn block(&mut self, bytes: u64, lines: u64, content: Content) -> Block {
        let (line, offset) = (self.line, self.offset);
        self.line += lines;
        self.offset += bytes;
        let packed = self.stream.take_packed();
        let (origin, element, end) = (self.origin.clone(), self.element, self.offset);
        Block { origin, line, element, offset, end, packed, content }
    }

    /// Reads on to the end of the record in `carry` without keeping it; its bytes and lines.
    fn pass_over(&mut self) -> Result<(u64, u64)> {
        let (mut bytes, mut lines) = (0, 0);
        let mut blank = BlankSearch::default();
        loop {
            let end = match &self.origin.split {
                Split::BlankLine => blank.end_in(&self.carry),
                split => first_end(split, &self.carry),
            };
            let keep = match (&self.origin.split, end) {
                (_, Some(end)) => self.carry.len() - end,
                // A separator may begin in what was read and end in what comes.
                (Split::Separator(text), None) if !self.at_end => self.carry.len().min(text.len() - 1),
                _ => 0,
            };
            let passed = self.carry.len() - keep;
            lines += memchr::memchr_iter(b'\n', &self.carry[..passed]).count() as u64;
            bytes += passed as u64;
            self.carry.drain(..passed);
            if end.is_some() || self.at_end {
                return Ok((bytes, lines));
            }
            self.read_up_to(keep + BLOCK_BYTES)?;
        }
    }

    /// Reads until `carry` holds `wanted` bytes, or to the end.
    fn read_up_to(&mut self, wanted: usize) -> Result<()> {
        self.carry.reserve(wanted.saturating_sub(self.carry.len()));
        while !self.at_end && self.carry.len() < wanted {
            if self.stop.is_set() {
                return Err(Error::Stopped);
            }
            let missing = wanted - self.carry.len();
            match self.stream.read(missing, &mut self.carry) {
                Ok(read) => self.at_end = read < missing,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.raw_os_error().is_some() => return Err(Error::io(&self.origin.source.path)(e)),
                Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                    self.at_end = true;
                    self.broken = Some(e.to_string());
                }
                Err(e) => {
                    self.at_end = true;
                    self.broken =
                        Some(format!("damaged or truncated from here on ({e}); copy the file again"));
                }
            }
        }
        Ok(())
    }
}

/// Where the first record that ends in `bytes` ends.
fn first_end(split: &Split, bytes: &[u8]) -> Option<usize> {
    match split {
        Split::Separator(text) => memchr::memmem::find(bytes, text.as_bytes()).map(|at| at + text.len()),
        Split::File => None,
        Split::Line | Split::BlankLine => memchr::memchr(b'\n', bytes).map(|at| at + 1),
    }
}

/// Looks for a blank line in bytes that come bit by bit.
#[derive(Default)]
struct BlankSearch {
    line_has_text: bool,
}

impl BlankSearch {
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            at += line.len();
            let ended = line.ends_with(b"\n");
            self.line_has_text |= !is_blank(line);
            if ended && !std::mem::take(&mut self.line_has_text) {
                return Some(at);
            }
        }
        None
    }
}
