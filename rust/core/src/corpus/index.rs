//! Reads the files of a shard back, in bounded memory.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    options::hex,
    shard::{MAGIC, TokenWidth, VERSION},
};
use crate::{Error, Result};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
const HEADER_BYTES: usize = 34;

/// A file read from its beginning to its end, with its checksum.
pub struct HashedReader {
    path: PathBuf,
    file: BufReader<File>,
    hash: Sha256,
}

impl HashedReader {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        Ok(Self { path: path.into(), file: BufReader::with_capacity(CHUNK, file), hash: Sha256::new() })
    }

    /// Reads `bytes` bytes, chunk by chunk (of a multiple of eight bytes each but the last).
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file ends before.
    pub fn read(&mut self, bytes: u64, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = bytes;
        let mut buffer = vec![0; CHUNK.min(usize::try_from(bytes).unwrap_or(CHUNK))];
        while left > 0 {
            let chunk = &mut buffer[..CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            self.file.read_exact(chunk).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => damaged(&self.path, "ends too early: it was cut off"),
                _ => Error::io(&self.path)(e),
            })?;
            self.hash.update(&*chunk);
            each(chunk)?;
            left -= chunk.len() as u64;
        }
        Ok(())
    }

    /// SHA-256 (hex) of the file; nothing may be left of it.
    pub fn finish(mut self) -> Result<String> {
        let more = self.file.read(&mut [0]).map_err(Error::io(&self.path))?;
        if more > 0 {
            return Err(damaged(&self.path, "goes on behind its end"));
        }
        Ok(hex(&self.hash.finalize()))
    }
}

/// What stands in an index before the lengths.
pub fn read_header(file: &mut HashedReader) -> Result<(TokenWidth, u64)> {
    let mut header = Vec::new();
    file.read(HEADER_BYTES as u64, |chunk| {
        header.extend_from_slice(chunk);
        Ok(())
    })?;
    let number = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let width = match header[17] {
        8 => TokenWidth::U16,
        4 => TokenWidth::I32,
        other => return Err(damaged(&file.path, &format!("holds tokens of type {other}; want 8 or 4"))),
    };
    if header[..9] != MAGIC[..] || number(9) != VERSION {
        return Err(damaged(&file.path, "is no Megatron index of version 1"));
    }
    if number(26) != number(18) + 1 {
        return Err(damaged(&file.path, "does not hold one sequence a document"));
    }
    Ok((width, number(18)))
}

/// Reads the lengths of the documents, in tokens.
pub fn read_lengths(
    file: &mut HashedReader,
    documents: u64,
    mut each: impl FnMut(i32) -> Result<()>,
) -> Result<()> {
    file.read(4 * documents, |chunk| {
        chunk.as_chunks::<4>().0.iter().try_for_each(|bytes| each(i32::from_le_bytes(*bytes)))
    })
}

/// Reads an index whole. Every field must follow from the lengths; width, documents, tokens and checksum.
pub fn check_index(path: &Path) -> Result<(TokenWidth, u64, u64, String)> {
    let mut file = HashedReader::open(path)?;
    let (width, documents) = read_header(&mut file)?;
    let wrong = || damaged(path, "does not lie end to end: lengths and offsets do not fit");
    let mut tokens = 0_i64;
    read_lengths(&mut file, documents, |length| {
        tokens += i64::from(length);
        if length > 0 { Ok(()) } else { Err(wrong()) }
    })?;
    // The lengths once more, beside the offsets, which they must add up to.
    let mut again = HashedReader::open(path)?;
    read_header(&mut again)?;
    let mut offset = 0;
    let mut left = documents;
    while left > 0 {
        let part = left.min(CHUNK as u64 / 8);
        let mut lengths = Vec::new();
        read_lengths(&mut again, part, |length| {
            lengths.push(length);
            Ok(())
        })?;
        let mut lengths = lengths.into_iter();
        file.read(8 * part, |chunk| {
            chunk.as_chunks::<8>().0.iter().zip(&mut lengths).try_for_each(|(bytes, length)| {
                let found = i64::from_le_bytes(*bytes);
                let wanted = offset;
                offset += i64::from(length) * width.bytes() as i64;
                if found == wanted { Ok(()) } else { Err(wrong()) }
            })
        })?;
        left -= part;
    }
    let mut number = 0;
    file.read(8 * (documents + 1), |chunk| {
        chunk.as_chunks::<8>().0.iter().try_for_each(|bytes| {
            number += 1;
            if i64::from_le_bytes(*bytes) == number - 1 { Ok(()) } else { Err(wrong()) }
        })
    })?;
    Ok((width, documents, tokens as u64, file.finish()?))
}

/// The error for a file that is not as it should be.
pub fn damaged(path: &Path, what: &str) -> Error {
    Error::Damaged { path: path.into(), reason: format!("{what}; copy it again, or encode the corpus again") }
}
