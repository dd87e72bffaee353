//! The index of a shard (`.idx` of Megatron-LM's `IndexedDataset`), written and read back in bounded memory.
//!
//! Source of the layout: `megatron/core/datasets/indexed_dataset.py`. One sequence per document.

use std::path::Path;

use super::{
    digest::{CHUNK, HashedFile, HashedReader, damaged},
    width::TokenWidth,
};
use crate::Result;

/// The first bytes of an index.
const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
/// The version of the index.
const VERSION: u64 = 1;
const HEADER_BYTES: usize = 34;

/// Writes the index of documents of these lengths in tokens.
pub fn write_index(out: &mut HashedFile, width: TokenWidth, lengths: &[i32]) -> Result<()> {
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

/// Writes the header, which precedes the lengths.
pub fn write_index_header(out: &mut HashedFile, width: TokenWidth, documents: u64) -> Result<()> {
    out.write(MAGIC)?;
    out.write(&VERSION.to_le_bytes())?;
    out.write(&[width.code()])?;
    out.write(&documents.to_le_bytes())?;
    out.write(&(documents + 1).to_le_bytes())
}

/// Reads the header: the width of tokens and the number of documents.
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
        other => return Err(damaged(file.path(), &format!("holds tokens of type {other}; want 8 or 4"))),
    };
    if header[..9] != MAGIC[..] || number(9) != VERSION {
        return Err(damaged(file.path(), "is no Megatron index of version 1"));
    }
    if number(26) != number(18) + 1 {
        return Err(damaged(file.path(), "does not hold one sequence a document"));
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

/// Reads a whole index and checks that every field follows from the lengths. Returns the width, the number of
/// documents and of tokens, and the SHA-256 (hex).
pub fn check_index(path: &Path) -> Result<(TokenWidth, u64, u64, String)> {
    let mut file = HashedReader::open(path)?;
    let (width, documents) = read_header(&mut file)?;
    let wrong = || damaged(path, "does not lie end to end: lengths and offsets do not fit");
    let mut tokens = 0_i64;
    read_lengths(&mut file, documents, |length| {
        tokens += i64::from(length);
        if length > 0 { Ok(()) } else { Err(wrong()) }
    })?;
    // The lengths are read again in step with the offsets, which are their running sum.
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
