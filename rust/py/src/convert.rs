//! What Python may pass as text.

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
    types::{PyBytes, PyString},
};
use zhuzi_core::{
    Text as CoreText,
    batch::{Content, Document},
};

use crate::strings::InPlace;

/// A `str` or `bytes` object, read in place and kept alive.
pub enum Text {
    InPlace(InPlace),
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl Document for Text {
    fn content(&self) -> Content<'_> {
        match self {
            Self::InPlace(text) => Content::Text(text.text()),
            Self::Str(text) => Content::Text(CoreText::Utf8(text)),
            Self::Bytes(bytes) => Content::Bytes(bytes),
        }
    }

    fn is_valid(&self) -> bool {
        match self {
            Self::InPlace(text) => text.is_valid(),
            Self::Str(_) | Self::Bytes(_) => true,
        }
    }
}

impl Text {
    /// Raises Python's own error if the text, encoded by now, turned out not to be one.
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::InPlace(text) => text.check(py),
            Self::Str(_) | Self::Bytes(_) => Ok(()),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return Ok(match InPlace::new(&text) {
                Some(text) => Self::InPlace(text),
                // Raises Python's own error for what is no text.
                None => Self::Str(text.to_owned().try_into()?),
            });
        }
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.to_owned().into()));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("a text must be str or bytes, not {kind}")))
    }
}
