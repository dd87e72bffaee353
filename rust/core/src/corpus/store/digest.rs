//! SHA-256 of records, and of files while they are written or read.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::disk::NewFile;
use crate::{Error, Result};

/// Bytes collected before they are hashed and written, and bytes read at a time.
pub const CHUNK: usize = 1 << 20;

/// SHA-256 (hex) of a value's JSON.
pub fn hash_json(value: &impl Serialize) -> String {
    // Serialising our own plain structs into memory cannot fail; if it did, the hash would match nothing.
    hex(&Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A file written through a buffer, with its checksum.
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
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// Hashes and writes what is buffered.
    fn flush(&mut self) -> Result<()> {
        self.hash.update(&self.buffer);
        self.file.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Flushes the file to the disk; returns its path and SHA-256 (hex).
    pub fn finish(mut self) -> Result<(PathBuf, String)> {
        self.flush()?;
        self.file.sync()?;
        Ok((self.file.path().into(), hex(&self.hash.finalize())))
    }
}

/// A file read from start to end, with its checksum.
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

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `bytes` bytes in chunks. The size of every chunk but the last is a multiple of eight.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file ends earlier.
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

    /// SHA-256 (hex) of the file, which must be read to its end.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file continues.
    pub fn finish(mut self) -> Result<String> {
        let more = self.file.read(&mut [0]).map_err(Error::io(&self.path))?;
        if more > 0 {
            return Err(damaged(&self.path, "continues after its end"));
        }
        Ok(hex(&self.hash.finalize()))
    }
}

/// The error for a damaged file of a corpus.
pub fn damaged(path: &Path, what: &str) -> Error {
    Error::Damaged {
        path: path.into(),
        reason: format!("{what}; copy it again, or encode the corpus again").into(),
    }
}
