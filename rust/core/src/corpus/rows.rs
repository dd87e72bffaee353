//! Rows of parquet and Arrow files, some at a time.

use std::{
    fs::File,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
};

use super::{
    arrow::{append_row, append_texts, check_path, split_path},
    input::{Format, Source},
    parquet::{FlatRows, damaged},
};
use crate::{Error, Result};

/// Rows of nested columns asked for at a time.
const BATCH_ROWS: usize = 64;
/// Bytes of an Arrow file read at a time.
const CHUNK: usize = 1 << 20;
/// What an IPC file (not a stream) begins with; a stream follows.
const FILE_MAGIC: &[u8] = b"ARROW1\0\0";

/// A batch of rows: all texts in one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of the first row, from 0.
    pub row: u64,
    /// The texts, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each row ends in `bytes`, and what is wrong with it if it has no text.
    pub ends: Vec<(usize, Option<String>)>,
}

/// Reads rows.
pub enum Rows {
    /// Columns of text at the top level of a parquet file.
    Flat(Box<FlatRows>),
    /// All else.
    Nested(Box<NestedRows>),
}

impl Rows {
    /// Opens row groups `start..end` of a parquet file, or a whole Arrow file. Without `columns` a row is its JSON.
    ///
    /// # Errors
    /// [`Error::Argument`] if a column is not there or holds no text; [`Error::Damaged`]; [`Error::Io`].
    pub fn open(source: Arc<Source>, file: File, columns: &[String], start: u64, end: u64) -> Result<Self> {
        if source.format == Format::Arrow {
            let nested = NestedRows::new(source, columns, Batches::Ipc(Box::new(Ipc::new(file))), 0);
            return Ok(Self::Nested(Box::new(nested)));
        }
        match FlatRows::open(source.clone(), file, columns, start, end)? {
            Ok(flat) => Ok(Self::Flat(Box::new(flat))),
            Err(file) => {
                let (batches, row) = open_nested(&source, file, columns, start, end)?;
                Ok(Self::Nested(Box::new(NestedRows::new(source, columns, batches, row))))
            }
        }
    }

    /// The next rows, `None` behind the last.
    ///
    /// # Errors
    /// [`Error::Damaged`]; of an Arrow file, whose columns are known only now, [`Error::Argument`], too.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        match self {
            Self::Flat(rows) => rows.next_batch(),
            Self::Nested(rows) => rows.next_batch(),
        }
    }

    /// Of the file's bytes, those that stand for rows `start..end`, which come next.
    pub fn take_packed(&mut self, source: &Source, start: u64, end: u64) -> u64 {
        let all = match self {
            Self::Flat(rows) => rows.all_rows(),
            Self::Nested(rows) => match &mut rows.batches {
                Batches::Parquet(_, all) => *all,
                Batches::Ipc(ipc) => return std::mem::take(&mut ipc.untold),
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

    fn next_batch(&mut self) -> Result<Option<Batch>> {
        while self.batch.as_ref().is_none_or(|batch| self.next == batch.num_rows()) {
            // A broken file must not take the process down, whatever a library makes of it.
            let next = catch_unwind(AssertUnwindSafe(|| self.batches.next()));
            let next = next.unwrap_or_else(|_| Err(Failed::Broken("a part of it makes no sense".into())));
            let batch = next.map_err(|failed| match failed {
                Failed::Io(e) => Error::io(&self.source.path)(e),
                Failed::Broken(reason) => broken(&self.source, &reason),
            })?;
            let Some(batch) = batch else { return Ok(None) };
            if self.batch.is_none() && batch.num_rows() > 0 {
                check_columns(&self.source, &batch.schema(), &self.columns)?;
            }
            (self.batch, self.next) = (Some(batch), 0);
        }
        let Some(batch) = &self.batch else { return Ok(None) };
        let mut found = Batch { row: self.row, ..Batch::default() };
        while self.next < batch.num_rows() && found.ends.len() < BATCH_ROWS && found.bytes.len() < CHUNK {
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

enum Failed {
    Io(io::Error),
    Broken(String),
}

impl Batches {
    fn next(&mut self) -> std::result::Result<Option<RecordBatch>, Failed> {
        match self {
            Self::Parquet(reader, _) => reader.next().transpose().map_err(|e| Failed::Broken(e.to_string())),
            Self::Ipc(ipc) => ipc.next(),
        }
    }
}

/// Arrow IPC, stream or file: behind its first bytes a file is a stream, too. Memory: one record batch.
struct Ipc {
    file: File,
    decoder: StreamDecoder,
    buffer: Buffer,
    /// Nothing was read so far.
    is_first: bool,
    /// Bytes read since they were last asked for.
    untold: u64,
}

impl Ipc {
    fn new(file: File) -> Self {
        Self {
            file,
            decoder: StreamDecoder::new(),
            buffer: Buffer::from_vec(Vec::<u8>::new()),
            is_first: true,
            untold: 0,
        }
    }

    fn next(&mut self) -> std::result::Result<Option<RecordBatch>, Failed> {
        loop {
            if self.buffer.is_empty() {
                let mut chunk = Vec::with_capacity(CHUNK);
                let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut chunk).map_err(Failed::Io)?;
                if read == 0 {
                    self.decoder.finish().map_err(|e| Failed::Broken(e.to_string()))?;
                    return Ok(None);
                }
                self.untold += read as u64;
                let is_file = std::mem::take(&mut self.is_first) && chunk.starts_with(FILE_MAGIC);
                self.buffer = Buffer::from_vec(chunk);
                if is_file {
                    self.buffer.advance(FILE_MAGIC.len());
                }
            }
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(batch)) => return Ok(Some(batch)),
                Ok(None) => {}
                // Behind the end of a stream may come the footer of a file.
                Err(e) if e.to_string().contains("Unexpected EOS") => return Ok(None),
                Err(e) => return Err(Failed::Broken(e.to_string())),
            }
        }
    }
}

/// Opens row groups of a parquet file as record batches; also the number of their first row.
fn open_nested(
    source: &Source,
    file: File,
    columns: &[String],
    start: u64,
    end: u64,
) -> Result<(Batches, u64)> {
    // The types that follow from parquet's own: no dictionaries, and nothing that another library made up.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .map_err(|e| damaged(source, &e))?;
    let schema = builder.schema().clone();
    check_columns(source, &schema, columns)?;
    let names = || schema.fields().iter().map(|field| field.name().as_str());
    let roots: Vec<usize> =
        columns.iter().filter_map(|path| split_path(names(), path)).map(|(root, _)| root).collect();
    let mask = if columns.is_empty() {
        ProjectionMask::all()
    } else {
        ProjectionMask::roots(builder.parquet_schema(), roots)
    };
    let metadata = builder.metadata().clone();
    let rows = |group: usize| metadata.row_group(group).num_rows().max(0) as u64;
    let row = (0..start as usize).map(rows).sum();
    let reader = builder
        .with_projection(mask)
        .with_row_groups((start as usize..end as usize).collect())
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|e| damaged(source, &e))?;
    let all = metadata.file_metadata().num_rows().max(0) as u64;
    Ok((Batches::Parquet(reader, all), row))
}

fn check_columns(source: &Source, schema: &arrow_schema::Schema, columns: &[String]) -> Result<()> {
    columns.iter().try_for_each(|path| {
        let refuse = |reason| Error::Argument(format!("{}: {reason}", source.path.display()));
        check_path(schema, path).map_err(refuse)
    })
}

fn broken(source: &Source, reason: &str) -> Error {
    let kind = if source.format == Format::Arrow { "Arrow IPC" } else { "parquet" };
    Error::Damaged {
        path: source.path.clone(),
        reason: format!("damaged, truncated or no {kind} file ({reason}); copy it again"),
    }
}
