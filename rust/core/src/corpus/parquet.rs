//! Rows of parquet files: text columns by name, batch by batch.

use std::{fs::File, sync::Arc};

use parquet::{
    basic::Type,
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
};

use super::input::Source;
use crate::{Error, Result};

/// Rows asked for at a time.
const BATCH_ROWS: usize = 256;

/// Unpacked bytes of the text columns of each row group.
pub fn row_groups(source: &Source, columns: &[String]) -> Result<Vec<u64>> {
    let file = File::open(&source.path).map_err(Error::io(&source.path))?;
    let reader = open(source, file)?;
    let columns = find_columns(source, &reader, columns)?;
    let groups = reader.metadata().row_groups();
    let bytes = |c: &usize, group: usize| groups[group].column(*c).uncompressed_size().max(0) as u64;
    Ok((0..groups.len()).map(|group| columns.iter().map(|c| bytes(c, group)).sum()).collect())
}

/// Reads rows of some row groups.
pub struct Rows {
    source: Arc<Source>,
    reader: SerializedFileReader<File>,
    columns: Vec<usize>,
    /// The row group being read, and the one to end before.
    group: usize,
    end: usize,
    open: Vec<Column>,
    /// Rows of the open group not asked for yet.
    left: usize,
    /// Number of the next row in the file.
    row: u64,
}

/// A batch of rows: all texts in one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of the first row, from 0.
    pub row: u64,
    /// The texts, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each row ends in `bytes`, or none if one of its columns is null.
    pub ends: Vec<std::result::Result<usize, usize>>,
}

struct Column {
    reader: parquet::column::reader::ColumnReaderImpl<parquet::data_type::ByteArrayType>,
    nullable: bool,
    values: Vec<ByteArray>,
    levels: Vec<i16>,
}

impl Rows {
    /// Opens row groups `start..end` of the file.
    pub fn open(source: Arc<Source>, file: File, columns: &[String], start: u64, end: u64) -> Result<Self> {
        let reader = open(&source, file)?;
        let columns = find_columns(&source, &reader, columns)?;
        let rows = |group: usize| reader.metadata().row_group(group).num_rows().max(0) as u64;
        let row = (0..start as usize).map(rows).sum();
        Ok(Self {
            source,
            columns,
            reader,
            group: start as usize,
            end: end as usize,
            open: vec![],
            left: 0,
            row,
        })
    }

    /// Rows of the whole file.
    pub fn all_rows(&self) -> u64 {
        self.reader.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// The next rows, `None` behind the last.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        while self.left == 0 {
            if self.group == self.end {
                return Ok(None);
            }
            self.open_group()?;
            self.group += 1;
        }
        let wanted = self.left.min(BATCH_ROWS);
        for column in &mut self.open {
            column.values.clear();
            column.levels.clear();
            let levels = column.nullable.then_some(&mut column.levels);
            let (read, _, _) = column
                .reader
                .read_records(wanted, levels, None, &mut column.values)
                .map_err(|e| damaged(&self.source, &e))?;
            if read != wanted {
                let e = ParquetError::General("a column chunk ends early".into());
                return Err(damaged(&self.source, &e));
            }
        }
        let mut batch = Batch { row: self.row, ..Batch::default() };
        let mut next: Vec<usize> = vec![0; self.open.len()];
        for row in 0..wanted {
            let mut whole = true;
            for (number, column) in self.open.iter().enumerate() {
                if number > 0 {
                    batch.bytes.push(b'\n');
                }
                if column.nullable && column.levels[row] == 0 {
                    whole = false;
                    continue;
                }
                let value = column.values.get(next[number]).map_or(&[][..], |v| v.data());
                batch.bytes.extend_from_slice(value);
                next[number] += 1;
            }
            let end = batch.bytes.len();
            batch.ends.push(if whole { Ok(end) } else { Err(end) });
        }
        self.left -= wanted;
        self.row += wanted as u64;
        Ok(Some(batch))
    }

    fn open_group(&mut self) -> Result<()> {
        let group = self.reader.get_row_group(self.group).map_err(|e| damaged(&self.source, &e))?;
        self.open.clear();
        for &number in &self.columns {
            let column = group.get_column_reader(number).map_err(|e| damaged(&self.source, &e))?;
            let nullable = group.metadata().column(number).column_descr().max_def_level() > 0;
            if let ColumnReader::ByteArrayColumnReader(reader) = column {
                self.open.push(Column { reader, nullable, values: vec![], levels: vec![] });
            }
        }
        self.left = group.metadata().num_rows().max(0) as usize;
        Ok(())
    }
}

fn open(source: &Source, file: File) -> Result<SerializedFileReader<File>> {
    let options = ReadOptionsBuilder::new().build();
    SerializedFileReader::new_with_options(file, options).map_err(|e| damaged(source, &e))
}

/// Numbers of the columns that hold the text.
fn find_columns(source: &Source, reader: &impl FileReader, names: &[String]) -> Result<Vec<usize>> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let find = |name: &String| {
        let all = schema.columns();
        let number = all.iter().position(|c| c.path().string() == *name).ok_or_else(|| {
            let known: Vec<_> = all.iter().map(|c| c.path().string()).collect();
            Error::Argument(format!(
                "{}: no column `{name}`; name one of {} with --field",
                source.path.display(),
                known.join(", ")
            ))
        })?;
        let column = &all[number];
        if column.physical_type() != Type::BYTE_ARRAY
            || column.max_rep_level() > 0
            || column.max_def_level() > 1
        {
            return Err(Error::Argument(format!(
                "{}: the column `{name}` holds no text; name another with --field",
                source.path.display()
            )));
        }
        Ok(number)
    };
    names.iter().map(find).collect()
}

fn damaged(source: &Source, error: &ParquetError) -> Error {
    Error::Damaged {
        path: source.path.clone(),
        reason: format!("damaged, truncated or no parquet file ({error}); copy it again"),
    }
}
