//! What can go wrong, by meaning. Messages name the file, the place and the mend.

use std::{io, path::PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A model file that is damaged or of the wrong kind.
    #[error("{origin}: {reason}")]
    Model {
        /// The file (or what stands for it).
        origin: String,
        /// What is wrong and what mends it.
        reason: String,
    },
    /// A record of a corpus that cannot be read.
    #[error("{}: line {line} (byte {offset}): {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// Where the line starts in the file, in bytes from 0.
        offset: u64,
        /// What is wrong and what mends it.
        reason: String,
    },
    /// An element of a JSON array that cannot be read.
    #[error("{}: record {element} (line {line}, byte {offset}): {reason}", path.display())]
    Element {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        element: u64,
        /// The line in which it starts, from 1.
        line: u64,
        /// Where it starts in the file, in bytes from 0.
        offset: u64,
        /// What is wrong and what mends it.
        reason: String,
    },
    /// A row of a corpus that cannot be used.
    #[error("{}: row {row}: {reason} (rows are counted from 0)", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0 over the whole file.
        row: u64,
        /// What is wrong and what mends it.
        reason: String,
    },
    /// A file that is damaged, or changes while it is read.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and what mends it.
        reason: String,
    },
    /// An output folder that holds something else, or that another run works in.
    #[error("{0}")]
    Occupied(String),
    /// An argument that cannot be.
    #[error("{0}")]
    Argument(String),
    /// The caller asked to stop.
    #[error("stopped on request")]
    Stopped,
}

impl Error {
    /// Returns a function that wraps an [`io::Error`] with the path it happened on, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn model(origin: &str, reason: impl Into<String>) -> Self {
        Self::Model { origin: origin.into(), reason: reason.into() }
    }
}
