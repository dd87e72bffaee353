//! Values of Arrow arrays: texts by path, and whole rows as JSON.

use arrow_array::{
    Array, ArrayRef, Decimal128Array, Decimal256Array, RecordBatch, StructArray, cast::AsArray, types::*,
};
use arrow_schema::{DataType, Field, Fields, Schema};

use super::offer::offer_names;
use crate::message::Message;

/// Maximum depth of lists and structs.
const MOST_NESTED: usize = 32;

/// The column that a path starts with, and the rest of the path. Of several matching names the longest wins.
pub fn split_path<'p>(names: impl Iterator<Item = &'p str>, path: &'p str) -> Option<(usize, &'p str)> {
    let fitting = names.enumerate().filter_map(|(number, name)| match path.strip_prefix(name)? {
        "" => Some((number, name.len(), "")),
        rest => Some((number, name.len(), rest.strip_prefix('.').filter(|rest| !rest.is_empty())?)),
    });
    fitting.max_by_key(|&(_, length, _)| length).map(|(number, _, rest)| (number, rest))
}

/// Checks that `path` leads to a text. The error names the columns that contain text.
pub fn check_path(schema: &Schema, path: &str) -> Result<(), Message> {
    let kind = match find(schema.fields(), path) {
        Some(kind) if is_text(kind, MOST_NESTED) => return Ok(()),
        kind => kind,
    };
    let mut names = Vec::new();
    for field in schema.fields() {
        text_paths(field, "", 0, &mut names);
    }
    let what = match kind {
        Some(kind) => format!("the column `{path}` holds {}, no text", name_of(kind)),
        None => format!("no column `{path}`"),
    };
    Err(Message::from(format!("{what}; ")).join(offer_names(&names)))
}

fn find<'f>(fields: &'f Fields, path: &str) -> Option<&'f DataType> {
    let (number, rest) = split_path(fields.iter().map(|field| field.name().as_str()), path)?;
    let mut kind = fields.get(number)?.data_type();
    if rest.is_empty() {
        return Some(kind);
    }
    loop {
        match kind {
            DataType::Struct(fields) => return find(fields, rest),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                kind = item.data_type();
            }
            _ => return None,
        }
    }
}

fn is_text(kind: &DataType, nested: usize) -> bool {
    match kind {
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => true,
        DataType::Dictionary(_, values) => is_text(values, nested),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            nested > 0 && is_text(item.data_type(), nested - 1)
        }
        _ => false,
    }
}

fn name_of(kind: &DataType) -> String {
    match kind {
        DataType::Null => "nothing but null".into(),
        DataType::Struct(_) => "fields of its own".into(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            match item.data_type() {
                DataType::Struct(_) => "lists of fields of their own".into(),
                kind => format!("lists ({})", name_of(kind)),
            }
        }
        kind if kind.is_integer() || kind.is_floating() => "numbers".into(),
        DataType::Boolean => "true and false".into(),
        kind => format!("values of type {kind}"),
    }
}

fn text_paths(field: &Field, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let name = if prefix.is_empty() { field.name().clone() } else { format!("{prefix}.{}", field.name()) };
    if is_text(field.data_type(), MOST_NESTED) {
        names.push(name);
        return;
    }
    let mut kind = field.data_type();
    while let DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) = kind {
        kind = item.data_type();
    }
    if let DataType::Struct(fields) = kind
        && depth < 3
    {
        fields.iter().for_each(|field| text_paths(field, &name, depth + 1, names));
    }
}

/// Appends the texts of `row` in `paths`, joined by newlines, to `out`. The error says which column is null.
pub fn append_texts(
    batch: &RecordBatch,
    row: usize,
    paths: &[String],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let schema = batch.schema_ref();
    for (number, path) in paths.iter().enumerate() {
        if number > 0 {
            out.push(b'\n');
        }
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let (column, rest) = split_path(names, path).ok_or_else(|| format!("no column `{path}`"))?;
        if !append_text(batch.column(column), row, rest, out) {
            return Err(format!("the column `{path}` is null here"));
        }
    }
    Ok(())
}

/// False if the value, or a part of it, is null.
fn append_text(array: &ArrayRef, row: usize, path: &str, out: &mut Vec<u8>) -> bool {
    if array.is_null(row) {
        return false;
    }
    match array.data_type() {
        DataType::Utf8 => out.extend_from_slice(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => out.extend_from_slice(array.as_string::<i64>().value(row).as_bytes()),
        DataType::Utf8View => out.extend_from_slice(array.as_string_view().value(row).as_bytes()),
        DataType::Binary => out.extend_from_slice(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => out.extend_from_slice(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => out.extend_from_slice(array.as_binary_view().value(row)),
        DataType::Dictionary(..) => {
            let Some((values, key)) = dictionary_value(array, row) else { return false };
            return append_text(&values, key, path, out);
        }
        DataType::Struct(fields) => {
            let names = fields.iter().map(|field| field.name().as_str());
            let Some((column, rest)) = split_path(names, path) else { return false };
            return append_text(array.as_struct().column(column), row, rest, out);
        }
        _ => {
            let Some(items) = list_value(array, row) else { return false };
            for item in 0..items.len() {
                if item > 0 {
                    out.push(b'\n');
                }
                if !append_text(&items, item, path, out) {
                    return false;
                }
            }
        }
    }
    true
}

fn list_value(array: &ArrayRef, row: usize) -> Option<ArrayRef> {
    match array.data_type() {
        DataType::List(_) => Some(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => Some(array.as_fixed_size_list().value(row)),
        DataType::Map(..) => {
            let entries: StructArray = array.as_map().value(row);
            Some(std::sync::Arc::new(entries))
        }
        _ => None,
    }
}

/// The values of a dictionary array, and the index of the value of `row`.
fn dictionary_value(array: &ArrayRef, row: usize) -> Option<(ArrayRef, usize)> {
    let dictionary = array.as_any_dictionary_opt()?;
    let keys = dictionary.keys();
    let key = match keys.data_type() {
        DataType::Int8 => keys.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => keys.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => keys.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => keys.as_primitive::<Int64Type>().value(row),
        DataType::UInt8 => keys.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => keys.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => keys.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => i64::try_from(keys.as_primitive::<UInt64Type>().value(row)).ok()?,
        _ => return None,
    };
    let key = usize::try_from(key).ok().filter(|&key| key < dictionary.values().len())?;
    Some((dictionary.values().clone(), key))
}

/// Appends `row` as a JSON object. Times and dates become the integers that represent them; bytes that are
/// not text, and types without a JSON form, become null.
pub fn append_row(batch: &RecordBatch, row: usize, out: &mut Vec<u8>) {
    append_object(batch.schema_ref().fields(), batch.columns(), row, 0, out);
}

fn append_object(fields: &Fields, columns: &[ArrayRef], row: usize, nested: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (number, (field, column)) in fields.iter().zip(columns).enumerate() {
        if number > 0 {
            out.extend_from_slice(b", ");
        }
        append_string(field.name(), out);
        out.extend_from_slice(b": ");
        append_value(column, row, nested + 1, out);
    }
    out.push(b'}');
}

fn append_string(text: &str, out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn append_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => append_string(text, out),
        Err(_) => out.extend_from_slice(b"null"),
    }
}

fn append_float(value: f64, out: &mut Vec<u8>) {
    let word = match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value => format!("{value:?}"),
    };
    out.extend_from_slice(word.as_bytes());
}

fn append_value(array: &ArrayRef, row: usize, nested: usize, out: &mut Vec<u8>) {
    macro_rules! number {
        ($kind:ty) => {
            out.extend_from_slice(array.as_primitive::<$kind>().value(row).to_string().as_bytes())
        };
    }
    if array.is_null(row) || nested > 2 * MOST_NESTED {
        return out.extend_from_slice(b"null");
    }
    match array.data_type() {
        DataType::Boolean => {
            out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" });
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => append_float(array.as_primitive::<Float16Type>().value(row).to_f64(), out),
        DataType::Float32 => append_float(array.as_primitive::<Float32Type>().value(row).into(), out),
        DataType::Float64 => append_float(array.as_primitive::<Float64Type>().value(row), out),
        DataType::Decimal128(..) => {
            let value = array.as_any().downcast_ref::<Decimal128Array>().map(|a| a.value_as_string(row));
            out.extend_from_slice(value.as_deref().unwrap_or("null").as_bytes());
        }
        DataType::Decimal256(..) => {
            let value = array.as_any().downcast_ref::<Decimal256Array>().map(|a| a.value_as_string(row));
            out.extend_from_slice(value.as_deref().unwrap_or("null").as_bytes());
        }
        DataType::Date32 => number!(Date32Type),
        DataType::Date64 => number!(Date64Type),
        DataType::Timestamp(unit, _) => {
            use arrow_schema::TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
            match unit {
                Second => number!(TimestampSecondType),
                Millisecond => number!(TimestampMillisecondType),
                Microsecond => number!(TimestampMicrosecondType),
                Nanosecond => number!(TimestampNanosecondType),
            }
        }
        DataType::Utf8 => append_string(array.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => append_string(array.as_string::<i64>().value(row), out),
        DataType::Utf8View => append_string(array.as_string_view().value(row), out),
        DataType::Binary => append_bytes(array.as_binary::<i32>().value(row), out),
        DataType::LargeBinary => append_bytes(array.as_binary::<i64>().value(row), out),
        DataType::BinaryView => append_bytes(array.as_binary_view().value(row), out),
        DataType::Dictionary(..) => match dictionary_value(array, row) {
            Some((values, key)) => append_value(&values, key, nested + 1, out),
            None => out.extend_from_slice(b"null"),
        },
        DataType::Struct(fields) => append_object(fields, array.as_struct().columns(), row, nested, out),
        _ => match list_value(array, row) {
            Some(items) => {
                out.push(b'[');
                for item in 0..items.len() {
                    if item > 0 {
                        out.extend_from_slice(b", ");
                    }
                    append_value(&items, item, nested + 1, out);
                }
                out.push(b']');
            }
            None => out.extend_from_slice(b"null"),
        },
    }
}
