//! Arrow arrays of strings, read in place through the C data interface.
//!
//! Source of the protocol: the Arrow PyCapsule interface. An object offers `__arrow_c_stream__` (a chunked
//! array) or `__arrow_c_array__` (one array); neither pyarrow nor any other library is needed here.

use arrow_array::{
    Array, ArrayRef,
    cast::AsArray,
    ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi},
    ffi_stream::FFI_ArrowArrayStream,
    make_array,
};
use arrow_schema::DataType;
use pyo3::{
    exceptions::{PyException, PyTypeError, PyValueError},
    prelude::*,
    types::PyCapsule,
};

use crate::convert::missing;

/// The chunks of an array of strings or bytes.
pub struct ArrowTexts(Vec<ArrayRef>);

impl ArrowTexts {
    /// The array that `object` offers; `None` if it offers none.
    ///
    /// Raises `TypeError` for an array of anything but texts, and for a null, with its index.
    pub fn from_py(object: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let chunks = if object.hasattr("__arrow_c_stream__")? {
            let capsule = match object.call_method0("__arrow_c_stream__") {
                Ok(capsule) => capsule,
                // A pandas series of mixed objects cannot become an Arrow array, nor can any series without
                // pyarrow. Then its objects are read one by one, and an error names the one that is no text.
                Err(e) if e.is_instance_of::<PyException>(object.py()) && is_flat(object) => return Ok(None),
                Err(e) => return Err(e),
            };
            read_stream(capsule.cast::<PyCapsule>()?)?
        } else if object.hasattr("__arrow_c_array__")? {
            let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) =
                object.call_method0("__arrow_c_array__")?.extract()?;
            let schema = pointer::<FFI_ArrowSchema>(&schema, c"arrow_schema")?;
            let array = pointer::<FFI_ArrowArray>(&array, c"arrow_array")?;
            // SAFETY: the capsules' names say what they point to; `from_raw` moves the content out and leaves
            // an empty struct, as the protocol requires.
            let (schema, array) =
                unsafe { (FFI_ArrowSchema::from_raw(schema), FFI_ArrowArray::from_raw(array)) };
            vec![import(array, &schema)?]
        } else {
            return Ok(None);
        };
        let mut before = 0;
        for chunk in &chunks {
            check(chunk, before)?;
            before += chunk.len();
        }
        Ok(Some(Self(chunks)))
    }

    /// The texts, borrowed from Arrow's buffers.
    pub fn texts(&self) -> Vec<&[u8]> {
        let mut texts = Vec::with_capacity(self.0.iter().map(|chunk| chunk.len()).sum());
        for chunk in &self.0 {
            match chunk.as_any_dictionary_opt() {
                Some(dictionary) if !dictionary.values().is_empty() => {
                    let mut values = Vec::with_capacity(dictionary.values().len());
                    push_texts(dictionary.values(), &mut values);
                    texts.extend(dictionary.normalized_keys().into_iter().map(|key| values[key]));
                }
                Some(_) => {} // without values there are no rows, since none may be null
                None => push_texts(chunk, &mut texts),
            }
        }
        texts
    }
}

/// Appends the texts of an array that is not a dictionary; a null becomes an empty text.
fn push_texts<'a>(array: &'a ArrayRef, texts: &mut Vec<&'a [u8]>) {
    match array.data_type() {
        DataType::Utf8 => texts.extend(array.as_string::<i32>().iter().map(|t| t.unwrap_or("").as_bytes())),
        DataType::LargeUtf8 => {
            texts.extend(array.as_string::<i64>().iter().map(|t| t.unwrap_or("").as_bytes()));
        }
        DataType::Utf8View => {
            texts.extend(array.as_string_view().iter().map(|t| t.unwrap_or("").as_bytes()));
        }
        DataType::Binary => texts.extend(array.as_binary::<i32>().iter().map(Option::unwrap_or_default)),
        DataType::LargeBinary => texts.extend(array.as_binary::<i64>().iter().map(Option::unwrap_or_default)),
        DataType::BinaryView => texts.extend(array.as_binary_view().iter().map(Option::unwrap_or_default)),
        // A column of type null, which has no rows: nulls were refused.
        _ => texts.extend(std::iter::repeat_n(b"".as_slice(), array.len())),
    }
}

/// Raises `TypeError` unless each row of the chunk, which has `before` rows before it, holds a text.
fn check(chunk: &ArrayRef, before: usize) -> PyResult<()> {
    let mend = match chunk.data_type() {
        kind if is_text(kind) => None,
        DataType::Dictionary(_, values) if is_text(values) => None,
        DataType::Struct(_) => Some("of a table, give one column"),
        DataType::List(_) | DataType::LargeList(_) => Some("flatten it first"),
        _ => Some("cast it to strings first"),
    };
    if let Some(mend) = mend {
        let kind = chunk.data_type();
        return Err(PyTypeError::new_err(format!(
            "want an Arrow array of strings or bytes, not of {kind}; {mend}"
        )));
    }
    let nulls = chunk.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    match nulls.and_then(|nulls| (0..nulls.len()).find(|&at| nulls.is_null(at))) {
        Some(at) => Err(missing(before + at, "null")),
        None => Ok(()),
    }
}

fn is_text(kind: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Null, Utf8, Utf8View};
    matches!(kind, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | Null)
}

/// True for an object of one dimension. A table has two, and iterating over it gives its columns.
fn is_flat(object: &Bound<'_, PyAny>) -> bool {
    let dimensions = object.getattr("ndim").and_then(|number| number.extract::<usize>());
    dimensions.is_ok_and(|number| number == 1)
}

/// The address in a capsule of the wanted name.
fn pointer<T>(capsule: &Bound<'_, PyCapsule>, name: &std::ffi::CStr) -> PyResult<*mut T> {
    Ok(capsule.pointer_checked(Some(name))?.as_ptr().cast())
}

fn read_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<Vec<ArrayRef>> {
    let stream = pointer::<FFI_ArrowArrayStream>(capsule, c"arrow_array_stream")?;
    // SAFETY: as above.
    let mut stream = unsafe { FFI_ArrowArrayStream::from_raw(stream) };
    let (Some(get_schema), Some(get_next)) = (stream.get_schema(), stream.get_next()) else {
        return Err(PyValueError::new_err("the Arrow stream was consumed before"));
    };
    let failed = |code: i32| PyValueError::new_err(format!("the Arrow stream failed with code {code}"));
    let mut schema = FFI_ArrowSchema::empty();
    // SAFETY: the callbacks are those of a live stream, called with it and a place to write to.
    let code = unsafe { get_schema(&mut stream, &mut schema) };
    if code != 0 {
        return Err(failed(code));
    }
    let mut chunks = Vec::new();
    loop {
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: as above.
        let code = unsafe { get_next(&mut stream, &mut array) };
        if code != 0 {
            return Err(failed(code));
        }
        if array.is_released() {
            return Ok(chunks);
        }
        chunks.push(import(array, &schema)?);
    }
}

fn import(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> PyResult<ArrayRef> {
    // SAFETY: array and schema come from one producer.
    let data = unsafe { from_ffi(array, schema) }.map_err(|e| PyValueError::new_err(e.to_string()))?;
    Ok(make_array(data))
}
