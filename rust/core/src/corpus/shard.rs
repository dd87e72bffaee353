//! Megatron-LM `IndexedDataset` files: `<name>.bin` (the tokens, little-endian) and `<name>.idx`.
//!
//! Source of the layout: `megatron/core/datasets/indexed_dataset.py`. One sequence a document.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::manifest::ShardEntry;
use crate::{Error, Result};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;

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

    fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }
}

/// Writes one shard.
pub struct ShardWriter {
    name: String,
    folder: PathBuf,
    width: TokenWidth,
    bin: BufWriter<File>,
    lengths: Vec<i32>,
    bytes: u64,
    hash: Sha256,
    buffer: Vec<u8>,
}

impl ShardWriter {
    /// Creates `<folder>/<name>.bin`, which must not be there yet.
    pub fn create(folder: &Path, name: String, width: TokenWidth) -> Result<Self> {
        let path = folder.join(format!("{name}.bin"));
        let file = File::create_new(&path).map_err(Error::io(&path))?;
        Ok(Self {
            name,
            folder: folder.into(),
            width,
            bin: BufWriter::with_capacity(1 << 20, file),
            lengths: Vec::new(),
            bytes: 0,
            hash: Sha256::new(),
            buffer: Vec::new(),
        })
    }

    /// Appends documents: all their tokens, and how many each has.
    pub fn push(&mut self, tokens: &[u32], lengths: &[u32]) -> Result<()> {
        self.buffer.clear();
        match self.width {
            TokenWidth::U16 => {
                self.buffer.extend(tokens.iter().flat_map(|&t| (t as u16).to_le_bytes()));
            }
            TokenWidth::I32 => self.buffer.extend(tokens.iter().flat_map(|&t| t.to_le_bytes())),
        }
        for &length in lengths {
            let length = i32::try_from(length).map_err(|_| {
                Error::Argument(format!("a document of {length} tokens: the shard format ends at 2^31"))
            })?;
            self.lengths.push(length);
        }
        self.hash.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        let path = || self.folder.join(format!("{}.bin", self.name));
        self.bin.write_all(&self.buffer).map_err(|e| Error::io(path())(e))
    }

    /// Writes the index, flushes both files to the disk and tells what the shard holds.
    pub fn finish(self) -> Result<ShardEntry> {
        let path = |kind| self.folder.join(format!("{}.{kind}", self.name));
        let bin = self.bin.into_inner().map_err(|e| Error::io(path("bin"))(e.into_error()))?;
        bin.sync_all().map_err(Error::io(path("bin")))?;
        let write_index = || {
            let mut idx = BufWriter::new(File::create_new(path("idx"))?);
            write_index(&mut idx, self.width, &self.lengths)?;
            idx.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
        };
        write_index().map_err(Error::io(path("idx")))?;
        Ok(ShardEntry {
            documents: self.lengths.len() as u64,
            tokens: self.bytes / self.width.bytes() as u64,
            bytes: self.bytes,
            sha256: hex(&self.hash.finalize()),
            name: self.name,
        })
    }
}

fn write_index(out: &mut impl Write, width: TokenWidth, lengths: &[i32]) -> std::io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&[width.code()])?;
    out.write_all(&(lengths.len() as u64).to_le_bytes())?;
    out.write_all(&(lengths.len() as u64 + 1).to_le_bytes())?;
    for length in lengths {
        out.write_all(&length.to_le_bytes())?;
    }
    let mut at = 0_i64;
    for &length in lengths {
        out.write_all(&at.to_le_bytes())?;
        at += i64::from(length) * width.bytes() as i64;
    }
    for document in 0..=lengths.len() as i64 {
        out.write_all(&document.to_le_bytes())?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
