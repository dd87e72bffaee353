//! A batch of rows, and what reading parquet and Arrow files has in common.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_schema::Schema;

use super::arrow::check_path;
use crate::{
    Error, Result,
    corpus::source::{Format, Source},
    message::Message,
};

/// A batch of rows: all texts in one buffer.
#[derive(Debug, Default)]
pub struct RowBatch {
    /// Number of the first row, from 0.
    pub row: u64,
    /// The texts, concatenated.
    pub bytes: Vec<u8>,
    /// Where each row ends in `bytes`, and what is wrong with it if it has no text.
    pub ends: Vec<(usize, Option<String>)>,
}

/// Checks that the paths lead to text.
///
/// # Errors
/// [`Error::Argument`].
pub fn check_columns(source: &Source, schema: &Schema, columns: &[String]) -> Result<()> {
    columns.iter().try_for_each(|path| {
        let refuse =
            |reason| Error::Argument(Message::from(format!("{}: ", source.path.display())).join(reason));
        check_path(schema, path).map_err(refuse)
    })
}

/// Calls `read`. A panic of a library on a damaged file must not end the process.
///
/// # Errors
/// Those of `read`; [`Error::Damaged`] if it panics.
pub fn guarded<T>(source: &Source, read: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = catch_unwind(AssertUnwindSafe(read));
    done.unwrap_or_else(|_| Err(broken(source, "a part of it makes no sense")))
}

/// The error for a parquet or Arrow file that cannot be parsed.
pub fn broken(source: &Source, reason: &str) -> Error {
    let kind = if source.format == Format::Arrow { "Arrow IPC" } else { "parquet" };
    Error::Damaged {
        path: source.path.clone(),
        reason: format!("damaged, truncated or no {kind} file ({reason}); copy it again").into(),
    }
}
