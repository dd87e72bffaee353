//! The blocks of a text file: lines, parts of text, or elements of a JSON array.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use super::{
    block::{BLOCK_BYTES, Block, BlockContent, Origin, Stop},
    cut::{first_byte, is_blank, is_space, whole_records},
    json::{elements::Elements, fields::fault_before_end},
    stream::{Stream, check_unchanged, contradiction, open_unchanged},
};
use crate::{
    Error, Result,
    corpus::{
        options::{EncodeOptions, Split},
        source::{Format, Source, Span},
    },
};

/// The blocks of a span of a text file.
pub struct TextBlocks {
    origin: Arc<Origin>,
    stream: Stream,
    /// A second handle of the file, to check whether it has changed; `None` for standard input.
    file: Option<File>,
    max_record: usize,
    stop: Stop,
    line: u64,
    /// For a JSON array, what finds its elements, and how many were found.
    elements: Option<Elements>,
    element: u64,
    offset: u64,
    /// Bytes read after the last whole record.
    carry: Vec<u8>,
    at_end: bool,
    broken: Option<String>,
}

impl TextBlocks {
    /// Opens a span of `source`; as [`super::blocks::Blocks::open`].
    pub fn open(source: Arc<Source>, span: Span, options: &EncodeOptions, stop: Stop) -> Result<Self> {
        let (stream, file) = if source.is_stdin() {
            (Stream::stdin(), None)
        } else {
            let file = open_unchanged(&source)?;
            let again = file.try_clone().map_err(Error::io(&source.path))?;
            (Stream::new(&source, file, span)?, Some(again))
        };
        let offset = if source.is_cuttable() { span.start } else { 0 };
        let is_whole = offset == 0 && (!source.is_cuttable() || span.end == source.bytes);
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
            origin: Origin::new(source.clone(), options, span, false),
        };
        if offset == 0 {
            blocks.check_magic();
            blocks.skip_mark()?;
            if is_whole && source.format == Format::Jsonl && blocks.begins_array()? {
                blocks.elements = Some(Elements::default());
                blocks.origin = Origin::new(source, options, span, true);
            }
        }
        Ok(blocks)
    }

    /// Bytes of the file that were read since the last block.
    pub fn take_packed(&self) -> u64 {
        self.stream.take_packed()
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

    /// True if the first character that is not white space starts a JSON array.
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

    /// The next block, or `None` at the end of the span.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
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
                let block = self.block(bytes.len() as u64, lines, BlockContent::Elements(bytes, ranges));
                self.element += count;
                return Ok(Some(block));
            }
            if elements.has_ended() {
                self.check_after_array(elements)?;
            } else if self.at_end && self.broken.is_none() {
                self.broken = Some(self.why_unfinished(elements));
            }
            if let Some(reason) = self.broken.take() {
                self.carry.clear();
                self.at_end = true;
                // Reported once: what comes after is not read.
                *elements = Elements::ended();
                return Ok(Some(self.block(0, 0, BlockContent::Broken(reason))));
            }
            if self.at_end {
                return self.finish();
            }
            if self.carry.len() > self.max_record {
                let (bytes, lines) = self.pass_over_element(elements)?;
                let block = self.block(bytes, lines, BlockContent::TooLong(bytes));
                self.element += 1;
                return Ok(Some(block));
            }
        }
    }

    /// What is wrong with an array that does not end; the element at its end, if any, is then first in `carry`.
    fn why_unfinished(&mut self, elements: &Elements) -> String {
        let blank = self.carry[elements.start()..].iter().take_while(|&&byte| is_space(byte)).count();
        self.pass(elements.start() + blank);
        fault_before_end(&self.carry).map_or_else(
            || "the array is not closed: a `]` is missing; is the file truncated?".into(),
            |fault| fault.to_string(),
        )
    }

    /// After the array there may only be white space.
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

    /// Drops the first `bytes` of `carry`, which belong to no block.
    fn pass(&mut self, bytes: usize) {
        self.line += memchr::memchr_iter(b'\n', &self.carry[..bytes]).count() as u64;
        self.offset += bytes as u64;
        self.carry.drain(..bytes);
    }

    /// Reads to the end of the element in `carry` without keeping it; returns its number of bytes and lines.
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

    /// The end of the span.
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
                // With room for the next block: growing would copy it repeatedly.
                let mut rest = Vec::with_capacity(BLOCK_BYTES.max(self.carry.len() - whole));
                rest.extend_from_slice(&self.carry[whole..]);
                let mut bytes = std::mem::replace(&mut self.carry, rest);
                bytes.truncate(whole);
                let lines = memchr::memchr_iter(b'\n', &bytes).count() as u64;
                return Ok(Some(self.block(bytes.len() as u64, lines, BlockContent::Text(bytes))));
            }
            if let Some(reason) = self.broken.take() {
                self.carry.clear();
                return Ok(Some(self.block(0, 0, BlockContent::Broken(reason))));
            }
            if self.at_end {
                return self.finish();
            }
            if self.carry.len() > self.max_record {
                let (bytes, lines) = self.pass_over()?;
                return Ok(Some(self.block(bytes, lines, BlockContent::TooLong(bytes))));
            }
        }
    }

    fn block(&mut self, bytes: u64, lines: u64, content: BlockContent) -> Block {
        let (line, offset) = (self.line, self.offset);
        self.line += lines;
        self.offset += bytes;
        let packed = self.stream.take_packed();
        let (origin, element, end) = (self.origin.clone(), self.element, self.offset);
        Block { origin, line, element, offset, end, packed, content }
    }

    /// Reads to the end of the record in `carry` without keeping it; returns its number of bytes and lines.
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
                // A separator may start in these bytes and end in the next ones.
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

    /// Reads until `carry` has `wanted` bytes, or to the end.
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

/// Finds a blank line in bytes that arrive in parts.
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
