//! What can go wrong, by kind. Messages name the file, the place and what to do about it.

use std::{fmt, io, path::PathBuf};

use crate::message::Message;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused something.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A model file that is damaged or of the wrong kind.
    Model {
        /// The file (or what it came from).
        origin: String,
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// A record of a corpus that cannot be read.
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// Where the line starts in the file, in bytes from 0.
        offset: u64,
        /// What is wrong and what to do about it.
        reason: Message,
    },
    /// An element of a JSON array that cannot be read.
    Element {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        element: u64,
        /// The line in which it starts, from 1.
        line: u64,
        /// Where it starts in the file, in bytes from 0.
        offset: u64,
        /// What is wrong and what to do about it.
        reason: Message,
    },
    /// A row of a corpus that cannot be used.
    Row {
        /// The file.
        path: PathBuf,
        /// The row, counted from 0 over the whole file.
        row: u64,
        /// What is wrong and what to do about it.
        reason: Message,
    },
    /// A file that is damaged, or changes while it is read.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do about it.
        reason: Message,
    },
    /// An output folder that holds something else, or that another run works in.
    Occupied(Message),
    /// An invalid argument.
    Argument(Message),
    /// The caller asked to stop.
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

    /// The whole message, with the options that it names.
    pub fn message(&self) -> Message {
        match self {
            Self::Io { path, source } => format!("{}: {source}", path.display()).into(),
            Self::Model { origin, reason } => format!("{origin}: {reason}").into(),
            Self::Record { path, line, offset, reason } => {
                let place = format!("{}: line {line} (byte {offset}): ", path.display());
                Message::from(place).join(reason.clone())
            }
            Self::Element { path, element, line, offset, reason } => {
                let path = path.display();
                let place = format!("{path}: record {element} (line {line}, byte {offset}): ");
                Message::from(place).join(reason.clone())
            }
            Self::Row { path, row, reason } => {
                let place = format!("{}: row {row}: ", path.display());
                Message::from(place).join(reason.clone()).text(" (rows are counted from 0)")
            }
            Self::Damaged { path, reason } => {
                Message::from(format!("{}: ", path.display())).join(reason.clone())
            }
            Self::Occupied(message) | Self::Argument(message) => message.clone(),
            Self::Stopped => "stopped on request".into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message().fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
