//! Reads rows of parquet and Arrow files in batches.

use std::{fs::File, sync::Arc};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{
    arrow::{append_row, append_texts, split_path},
    ipc::{Failed, Ipc},
    parquet::FlatRows,
    row_batch::{RowBatch, broken, check_columns, guarded},
};
use crate::{
    Error, Result,
    corpus::source::{Format, Source},
};

/// Rows of nested columns per batch.
const BATCH_ROWS: usize = 64;
/// Bytes of text after which a batch of such rows ends.
const BATCH_BYTES: usize = 1 << 20;

/// Reads rows.
pub enum Rows {
    /// Columns of text at the top level of a parquet file.
    Flat(Box<FlatRows>),
    /// Everything else.
    Nested(Box<NestedRows>),
}

impl Rows {
    /// Opens row groups `start..end` of a parquet file, or a whole Arrow file. If `columns` is empty, rows
    /// become JSON.
    ///
    /// # Errors
    /// [`Error::Argument`] if a column is missing or contains no text; [`Error::Damaged`]; [`Error::Io`].
    pub fn open(source: Arc<Source>, file: File, columns: &[String], start: u64, end: u64) -> Result<Self> {
        guarded(&source.clone(), || {
            if source.format == Format::Arrow {
                let ipc = open_arrow(&source, file, columns)?;
                let nested = NestedRows::new(source, columns, Batches::Ipc(Box::new(ipc)), 0);
                return Ok(Self::Nested(Box::new(nested)));
            }
            match FlatRows::open(source.clone(), file, columns, start, end)? {
                Ok(flat) => Ok(Self::Flat(Box::new(flat))),
                Err(file) => {
                    let (batches, row) = open_nested(&source, file, columns, start, end)?;
                    Ok(Self::Nested(Box::new(NestedRows::new(source, columns, batches, row))))
                }
            }
        })
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Damaged`]; [`Error::Io`].
    pub fn next_batch(&mut self) -> Result<Option<RowBatch>> {
        match self {
            Self::Flat(rows) => guarded(&rows.source(), || rows.next_batch()),
            Self::Nested(rows) => guarded(&rows.source.clone(), || rows.next_batch()),
        }
    }

    /// The bytes of the file that count for rows `start..end`, which come next.
    pub fn take_packed(&mut self, source: &Source, start: u64, end: u64) -> u64 {
        let all = match self {
            Self::Flat(rows) => rows.all_rows(),
            Self::Nested(rows) => match &mut rows.batches {
                Batches::Parquet(_, all) => *all,
                Batches::Ipc(ipc) => return ipc.take_packed(),
            },
        };
        // Spread evenly.
        let before = |row: u64| (u128::from(source.bytes) * u128::from(row) / u128::from(all.max(1))) as u64;
        before(end) - before(start)
    }
}

/// Rows that come as Arrow's record batches.
pub struct NestedRows {
    source: Arc<Source>,
    columns: Vec<String>,
    batches: Batches,
    batch: Option<RecordBatch>,
    /// The next row of `batch`, and of the file.
    next: usize,
    row: u64,
}

enum Batches {
    /// With the number of rows of the file.
    Parquet(ParquetRecordBatchReader, u64),
    Ipc(Box<Ipc>),
}

impl NestedRows {
    fn new(source: Arc<Source>, columns: &[String], batches: Batches, row: u64) -> Self {
        Self { source, columns: columns.into(), batches, batch: None, next: 0, row }
    }

    fn next_batch(&mut self) -> Result<Option<RowBatch>> {
        while self.batch.as_ref().is_none_or(|batch| self.next == batch.num_rows()) {
            let Some(batch) = self.batches.next(&self.source)? else { return Ok(None) };
            (self.batch, self.next) = (Some(batch), 0);
        }
        let Some(batch) = &self.batch else { return Ok(None) };
        let mut found = RowBatch { row: self.row, ..RowBatch::default() };
        while self.next < batch.num_rows() && found.ends.len() < BATCH_ROWS && found.bytes.len() < BATCH_BYTES
        {
            let wrong = if self.columns.is_empty() {
                append_row(batch, self.next, &mut found.bytes);
                None
            } else {
                append_texts(batch, self.next, &self.columns, &mut found.bytes).err()
            };
            found.ends.push((found.bytes.len(), wrong));
            self.next += 1;
        }
        self.row += found.ends.len() as u64;
        Ok(Some(found))
    }
}

impl Batches {
    fn next(&mut self, source: &Source) -> Result<Option<RecordBatch>> {
        match self {
            Self::Parquet(reader, _) => reader.next().transpose().map_err(|e| broken(source, &e.to_string())),
            Self::Ipc(ipc) => ipc.next().map_err(|e| failed(source, e)),
        }
    }
}

/// Checks that an Arrow file has the columns. Other errors are reported when the file is read.
///
/// # Errors
/// [`Error::Argument`] if a column is missing or contains no text.
pub fn check_arrow(source: &Source, columns: &[String]) -> Result<()> {
    let file = File::open(&source.path).map_err(Error::io(&source.path))?;
    match guarded(source, || open_arrow(source, file, columns)) {
        Err(e @ Error::Argument(_)) => Err(e),
        _ => Ok(()),
    }
}

fn open_arrow(source: &Source, file: File, columns: &[String]) -> Result<Ipc> {
    let ipc = Ipc::open(file).map_err(|e| failed(source, e))?;
    check_columns(source, ipc.schema(), columns)?;
    let roots = find_roots(ipc.schema(), columns);
    Ok(if columns.is_empty() { ipc } else { ipc.project(roots) })
}

/// Numbers of the columns that the paths start with, each once.
fn find_roots(schema: &Schema, columns: &[String]) -> Vec<usize> {
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    let mut roots: Vec<usize> =
        columns.iter().filter_map(|path| split_path(names(), path)).map(|(root, _)| root).collect();
    roots.sort_unstable();
    roots.dedup();
    roots
}

/// Opens row groups of a parquet file as record batches; also the number of their first row.
fn open_nested(
    source: &Source,
    file: File,
    columns: &[String],
    start: u64,
    end: u64,
) -> Result<(Batches, u64)> {
    // Types derived from parquet's own: no dictionaries, and no extensions of other libraries.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .map_err(|e| broken(source, &e.to_string()))?;
    let schema = builder.schema().clone();
    check_columns(source, &schema, columns)?;
    let mask = if columns.is_empty() {
        ProjectionMask::all()
    } else {
        ProjectionMask::roots(builder.parquet_schema(), find_roots(&schema, columns))
    };
    let metadata = builder.metadata().clone();
    let rows = |group: usize| metadata.row_group(group).num_rows().max(0) as u64;
    let row = (0..start as usize).map(rows).sum();
    let reader = builder
        .with_projection(mask)
        .with_row_groups((start as usize..end as usize).collect())
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|e| broken(source, &e.to_string()))?;
    let all = metadata.file_metadata().num_rows().max(0) as u64;
    Ok((Batches::Parquet(reader, all), row))
}

fn failed(source: &Source, failed: Failed) -> Error {
    match failed {
        Failed::Io(e) => Error::io(&source.path)(e),
        Failed::Broken(reason) => broken(source, &reason),
        Failed::Damaged(reason) => Error::Damaged { path: source.path.clone(), reason: reason.into() },
    }
}
