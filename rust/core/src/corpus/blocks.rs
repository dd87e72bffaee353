//! Reads files in blocks of whole lines, cut at places that depend on the file alone.

use std::{
    fs::File,
    io::{BufReader, Read},
    sync::Arc,
};

use super::input::Source;
use crate::{Error, Result};

/// Bytes a block holds at least (the last one of a file holds less); a longer line makes a longer block.
pub const BLOCK_BYTES: usize = 4 << 20;

/// Some whole lines of one file.
#[derive(Debug)]
pub struct Block {
    /// The file.
    pub source: Arc<Source>,
    /// Number of the first line, from 1.
    pub line: u64,
    /// Where the block starts in the file.
    pub offset: u64,
    /// The lines, each ended by `\n` (the last one of a file need not be).
    pub bytes: Vec<u8>,
}

/// The blocks of one file.
pub struct Blocks {
    source: Arc<Source>,
    file: BufReader<File>,
    line: u64,
    offset: u64,
    /// Bytes read behind the last whole line.
    carry: Vec<u8>,
}

impl Blocks {
    /// Opens the file. A byte-order mark at its start is not part of the first line.
    pub fn open(source: Arc<Source>) -> Result<Self> {
        let file = File::open(&source.path).map_err(Error::io(&source.path))?;
        let mut blocks = Self { source, file: BufReader::new(file), line: 1, offset: 0, carry: Vec::new() };
        blocks.read_up_to(3)?;
        if blocks.carry == "\u{FEFF}".as_bytes() {
            blocks.carry.clear();
            blocks.offset = 3;
        }
        Ok(blocks)
    }

    /// The next block, or `None` at the end of the file.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        let mut whole = 0;
        let mut searched = 0;
        while whole == 0 {
            let wanted = (self.carry.len() + 1).max(BLOCK_BYTES).max(self.carry.len() * 2);
            let at_end = self.read_up_to(wanted)?;
            whole = if at_end {
                self.carry.len()
            } else {
                memchr::memrchr(b'\n', &self.carry[searched..]).map_or(0, |at| searched + at + 1)
            };
            searched = self.carry.len();
            if at_end && whole == 0 {
                return Ok(None);
            }
        }
        let rest = self.carry.split_off(whole);
        let bytes = std::mem::replace(&mut self.carry, rest);
        let block = Block { source: self.source.clone(), line: self.line, offset: self.offset, bytes };
        self.line += memchr::memchr_iter(b'\n', &block.bytes).count() as u64;
        self.offset += block.bytes.len() as u64;
        Ok(Some(block))
    }

    /// Reads until `carry` holds `wanted` bytes; true if the file ended before.
    fn read_up_to(&mut self, wanted: usize) -> Result<bool> {
        let missing = wanted.saturating_sub(self.carry.len()) as u64;
        let read = (&mut self.file).take(missing).read_to_end(&mut self.carry);
        Ok((read.map_err(Error::io(&self.source.path))? as u64) < missing)
    }
}
