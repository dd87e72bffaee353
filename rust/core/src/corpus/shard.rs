//! Megatron-LM `IndexedDataset` files: `<name>.bin` (the tokens, little-endian) and `<name>.idx`.
//!
//! Source of the layout: `megatron/core/datasets/indexed_dataset.py`. One sequence a document.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{
    disk::NewFile,
    folder::temporary,
    manifest::{InputRange, ShardEntry},
    options::hex,
};
use crate::{Error, Result};

/// What an index starts with.
pub const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
/// The version of the index.
pub const VERSION: u64 = 1;
/// Bytes gathered before they are hashed and written.
const WRITE_BYTES: usize = 1 << 20;

/// How wide a token is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWidth {
    /// Two bytes, unsigned.
    U16,
    /// Four bytes, signed.
    I32,
}

impl TokenWidth {
    /// Megatron's rule: two bytes where the vocabulary has fewer than 65,500 ids.
    pub fn for_vocab(size: usize) -> Self {
        if size < 65_500 { Self::U16 } else { Self::I32 }
    }

    /// Bytes a token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    /// The name numpy gives the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::U16 => "uint16",
            Self::I32 => "int32",
        }
    }

    /// The number an index gives the type.
    pub fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    /// Ids as they are stored.
    pub fn store(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::U16 => ids.iter().map(|&id| (id as u16).to_le_bytes()).collect::<Vec<_>>().into_flattened(),
            Self::I32 => ids.iter().map(|id| id.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
        }
    }
}

/// Writes one shard under temporary names.
pub struct ShardWriter {
    name: String,
    width: TokenWidth,
    bin: NewFile,
    index: PathBuf,
    lengths: Vec<i32>,
    inputs: Vec<InputRange>,
    bytes: u64,
    hash: Sha256,
    buffer: Vec<u8>,
}

/// A shard that is whole and durable, but not under its name yet.
pub struct WrittenShard {
    /// What it holds.
    pub entry: ShardEntry,
    /// Its files and the endings they get.
    pub files: [(PathBuf, &'static str); 2],
}

impl ShardWriter {
    /// Creates the files of shard `name` for the run or part `tag`.
    pub fn create(out: &Path, tag: &str, name: String, width: TokenWidth) -> Result<Self> {
        Ok(Self {
            bin: NewFile::create(temporary(out, tag, &format!("{name}.bin")))?,
            index: temporary(out, tag, &format!("{name}.idx")),
            name,
            width,
            lengths: Vec::new(),
            inputs: Vec::new(),
            bytes: 0,
            hash: Sha256::new(),
            buffer: Vec::with_capacity(2 * WRITE_BYTES),
        })
    }

    /// Documents so far.
    pub fn documents(&self) -> usize {
        self.lengths.len()
    }

    /// Appends documents that follow each other in `range` of one file: all their tokens as they are stored,
    /// and how many each has.
    pub fn push(
        &mut self,
        tokens: &[u8],
        lengths: impl Iterator<Item = u32>,
        range: InputRange,
    ) -> Result<()> {
        for length in lengths {
            self.lengths.push(i32::try_from(length).map_err(|_| {
                Error::Argument(format!("a document of {length} tokens: the shard format ends at 2^31"))
            })?);
        }
        match self.inputs.last_mut() {
            Some(last) if last.source == range.source => {
                last.end = range.end;
                last.documents += range.documents;
                last.tokens += range.tokens;
                last.characters += range.characters;
            }
            _ => self.inputs.push(range),
        }
        self.bytes += tokens.len() as u64;
        self.buffer.extend_from_slice(tokens);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.hash.update(&self.buffer);
        self.bin.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the index and makes both files durable.
    pub fn finish(mut self) -> Result<WrittenShard> {
        self.flush()?;
        self.bin.sync()?;
        let mut index = HashedFile::create(self.index)?;
        write_index(&mut index, self.width, &self.lengths)?;
        let (index, index_sha256) = index.finish()?;
        let entry = ShardEntry {
            documents: self.lengths.len() as u64,
            tokens: self.bytes / self.width.bytes() as u64,
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
            index_sha256,
            inputs: self.inputs,
            name: self.name,
        };
        Ok(WrittenShard { entry, files: [(self.bin.path().into(), "bin"), (index, "idx")] })
    }
}

/// A buffered file with its checksum.
pub struct HashedFile {
    file: NewFile,
    hash: Sha256,
    buffer: Vec<u8>,
}

impl HashedFile {
    /// Creates the file.
    pub fn create(path: PathBuf) -> Result<Self> {
        Ok(Self { file: NewFile::create(path)?, hash: Sha256::new(), buffer: Vec::new() })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.hash.update(&self.buffer);
        self.file.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes it durable; path and SHA-256.
    pub fn finish(mut self) -> Result<(PathBuf, String)> {
        self.flush()?;
        self.file.sync()?;
        Ok((self.file.path().into(), hex(&self.hash.finalize())))
    }
}

fn write_index(out: &mut HashedFile, width: TokenWidth, lengths: &[i32]) -> Result<()> {
    write_index_header(out, width, lengths.len() as u64)?;
    for length in lengths {
        out.write(&length.to_le_bytes())?;
    }
    let mut at = 0_i64;
    for &length in lengths {
        out.write(&at.to_le_bytes())?;
        at += i64::from(length) * width.bytes() as i64;
    }
    for document in 0..=lengths.len() as i64 {
        out.write(&document.to_le_bytes())?;
    }
    Ok(())
}

/// Writes what stands before the lengths.
pub fn write_index_header(out: &mut HashedFile, width: TokenWidth, documents: u64) -> Result<()> {
    out.write(MAGIC)?;
    out.write(&VERSION.to_le_bytes())?;
    out.write(&[width.code()])?;
    out.write(&documents.to_le_bytes())?;
    out.write(&(documents + 1).to_le_bytes())
}
