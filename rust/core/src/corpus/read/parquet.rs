//! Reads top-level text columns of parquet files in batches, without going through Arrow.

use std::{fs::File, sync::Arc};

use parquet::{
    arrow::parquet_to_arrow_schema,
    basic::Type,
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        reader::{FileReader, SerializedFileReader},
        serialized_reader::ReadOptionsBuilder,
    },
};

use super::{
    arrow::split_path,
    row_batch::{RowBatch, broken, check_columns, guarded},
};
use crate::{Error, Result, corpus::source::Source};

/// Rows per batch.
const BATCH_ROWS: usize = 256;

/// Unpacked bytes of each row group in the text columns; in all columns if `columns` is empty.
///
/// # Errors
/// [`Error::Argument`] if a column is missing or contains no text; [`Error::Damaged`]; [`Error::Io`].
pub fn row_groups(source: &Source, columns: &[String]) -> Result<Vec<u64>> {
    let file = File::open(&source.path).map_err(Error::io(&source.path))?;
    guarded(source, || size_row_groups(source, file, columns))
}

fn size_row_groups(source: &Source, file: File, columns: &[String]) -> Result<Vec<u64>> {
    let reader = open(source, file)?;
    if find_columns(&reader, columns).is_none() {
        let schema = reader.metadata().file_metadata().schema_descr();
        let schema = parquet_to_arrow_schema(schema, None).map_err(|e| broken(source, &e.to_string()))?;
        check_columns(source, &schema, columns)?;
    }
    let root = reader.metadata().file_metadata().schema();
    let roots: Vec<&str> = root.get_fields().iter().map(|field| field.name()).collect();
    let wanted: Vec<usize> =
        columns.iter().filter_map(|path| split_path(roots.iter().copied(), path)).map(|(at, _)| at).collect();
    let schema = reader.metadata().file_metadata().schema_descr();
    let is_wanted = |leaf: usize| columns.is_empty() || wanted.contains(&schema.get_column_root_idx(leaf));
    let leaves: Vec<usize> = (0..schema.num_columns()).filter(|&leaf| is_wanted(leaf)).collect();
    let groups = reader.metadata().row_groups();
    let bytes = |leaf: &usize, group: usize| groups[group].column(*leaf).uncompressed_size().max(0) as u64;
    Ok((0..groups.len()).map(|group| leaves.iter().map(|leaf| bytes(leaf, group)).sum()).collect())
}

/// Reads rows of some row groups.
pub struct FlatRows {
    source: Arc<Source>,
    reader: SerializedFileReader<File>,
    /// Numbers and names.
    columns: Vec<(usize, String)>,
    /// The row group being read, and the one to end before.
    group: usize,
    end: usize,
    open: Vec<Column>,
    /// Rows of the open group that are still to be read.
    left: usize,
    /// Number of the next row in the file.
    row: u64,
}

struct Column {
    name: String,
    reader: parquet::column::reader::ColumnReaderImpl<parquet::data_type::ByteArrayType>,
    nullable: bool,
    values: Vec<ByteArray>,
    levels: Vec<i16>,
}

impl FlatRows {
    /// Opens row groups `start..end` of the file; returns the file if not all columns are top-level text.
    pub fn open(
        source: Arc<Source>,
        file: File,
        columns: &[String],
        start: u64,
        end: u64,
    ) -> Result<std::result::Result<Self, File>> {
        let again = file.try_clone().map_err(Error::io(&source.path))?;
        let reader = open(&source, file)?;
        let Some(numbers) = find_columns(&reader, columns) else { return Ok(Err(again)) };
        let columns = numbers.into_iter().zip(columns.iter().cloned()).collect();
        let rows = |group: usize| reader.metadata().row_group(group).num_rows().max(0) as u64;
        let row = (0..start as usize).map(rows).sum();
        let (group, end) = (start as usize, end as usize);
        Ok(Ok(Self { source, columns, reader, group, end, open: vec![], left: 0, row }))
    }

    /// The file.
    pub fn source(&self) -> Arc<Source> {
        self.source.clone()
    }

    /// Rows of the whole file.
    pub fn all_rows(&self) -> u64 {
        self.reader.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// The next rows; `None` after the last.
    pub fn next_batch(&mut self) -> Result<Option<RowBatch>> {
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
                .map_err(|e| broken(&self.source, &e.to_string()))?;
            if read != wanted {
                let e = ParquetError::General("a column chunk ends early".into());
                return Err(broken(&self.source, &e.to_string()));
            }
        }
        let mut batch = RowBatch { row: self.row, ..RowBatch::default() };
        let mut next: Vec<usize> = vec![0; self.open.len()];
        for row in 0..wanted {
            let mut null = None;
            for (number, column) in self.open.iter().enumerate() {
                if number > 0 {
                    batch.bytes.push(b'\n');
                }
                if column.nullable && column.levels[row] == 0 {
                    null = null.or_else(|| Some(format!("the column `{}` is null here", column.name)));
                    continue;
                }
                let value = column.values.get(next[number]).map_or(&[][..], |v| v.data());
                batch.bytes.extend_from_slice(value);
                next[number] += 1;
            }
            batch.ends.push((batch.bytes.len(), null));
        }
        self.left -= wanted;
        self.row += wanted as u64;
        Ok(Some(batch))
    }

    fn open_group(&mut self) -> Result<()> {
        let group =
            self.reader.get_row_group(self.group).map_err(|e| broken(&self.source, &e.to_string()))?;
        self.open.clear();
        for (number, name) in &self.columns {
            let (number, name) = (*number, name.clone());
            let column = group.get_column_reader(number).map_err(|e| broken(&self.source, &e.to_string()))?;
            let nullable = group.metadata().column(number).column_descr().max_def_level() > 0;
            if let ColumnReader::ByteArrayColumnReader(reader) = column {
                self.open.push(Column { name, reader, nullable, values: vec![], levels: vec![] });
            }
        }
        self.left = group.metadata().num_rows().max(0) as usize;
        Ok(())
    }
}

fn open(source: &Source, file: File) -> Result<SerializedFileReader<File>> {
    let options = ReadOptionsBuilder::new().build();
    SerializedFileReader::new_with_options(file, options).map_err(|e| broken(source, &e.to_string()))
}

/// Numbers of the columns that contain the text, if all of them are top-level columns of text or bytes.
fn find_columns(reader: &impl FileReader, names: &[String]) -> Option<Vec<usize>> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let find = |name: &String| {
        let all = schema.columns();
        let number = all.iter().position(|c| matches!(c.path().parts(), [only] if only == name))?;
        let column = &all[number];
        let plain = column.physical_type() == Type::BYTE_ARRAY
            && column.max_rep_level() == 0
            && column.max_def_level() <= 1;
        plain.then_some(number)
    };
    if names.is_empty() { None } else { names.iter().map(find).collect() }
}
