//! Writes the files of a shard (Megatron-LM's `IndexedDataset`): `<name>.bin`, the tokens, little-endian, and
//! `<name>.idx`.

use std::path::{Path, PathBuf};

use super::{
    digest::HashedFile,
    folder::temporary,
    index::write_index,
    records::{InputRange, ShardEntry},
    width::TokenWidth,
};
use crate::{Error, Result};

/// Writes one shard under temporary names.
pub struct ShardWriter {
    name: String,
    width: TokenWidth,
    bin: HashedFile,
    index: PathBuf,
    lengths: Vec<i32>,
    inputs: Vec<InputRange>,
    bytes: u64,
}

/// A shard that is complete and flushed to the disk, but still has temporary names.
pub struct WrittenShard {
    /// What it contains.
    pub entry: ShardEntry,
    /// Its files and the extensions they get.
    pub files: [(PathBuf, &'static str); 2],
}

impl ShardWriter {
    /// Creates the files of shard `name` for the run or part `tag`.
    pub fn create(out: &Path, tag: &str, name: String, width: TokenWidth) -> Result<Self> {
        Ok(Self {
            bin: HashedFile::create(temporary(out, tag, &format!("{name}.bin")))?,
            index: temporary(out, tag, &format!("{name}.idx")),
            name,
            width,
            lengths: Vec::new(),
            inputs: Vec::new(),
            bytes: 0,
        })
    }

    /// Documents so far.
    pub fn documents(&self) -> usize {
        self.lengths.len()
    }

    /// Appends consecutive documents from `range` of one file: the stored form of all their tokens, and the
    /// number of tokens of each.
    pub fn push(
        &mut self,
        tokens: &[u8],
        lengths: impl Iterator<Item = u32>,
        range: InputRange,
    ) -> Result<()> {
        for length in lengths {
            self.lengths.push(i32::try_from(length).map_err(|_| {
                Error::Argument(
                    format!("a document of {length} tokens: the shard format ends at 2^31").into(),
                )
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
        self.bin.write(tokens)
    }

    /// Writes the index and flushes both files to the disk.
    pub fn finish(self) -> Result<WrittenShard> {
        let (bin, sha256) = self.bin.finish()?;
        let mut index = HashedFile::create(self.index)?;
        write_index(&mut index, self.width, &self.lengths)?;
        let (index, index_sha256) = index.finish()?;
        let entry = ShardEntry {
            documents: self.lengths.len() as u64,
            tokens: self.bytes / self.width.bytes() as u64,
            bytes: self.bytes,
            sha256,
            index_sha256,
            inputs: self.inputs,
            name: self.name,
        };
        Ok(WrittenShard { entry, files: [(bin, "bin"), (index, "idx")] })
    }
}
