//! What Python may pass as text.

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
};

/// A `str` or `bytes` object, its UTF-8 read in place and kept alive.
pub enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Str(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<pyo3::types::PyString>() {
            return Ok(Self::Str(text.to_owned().try_into()?));
        }
        if let Ok(bytes) = object.cast::<pyo3::types::PyBytes>() {
            return Ok(Self::Bytes(bytes.to_owned().into()));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("a text must be str or bytes, not {kind}")))
    }
}
