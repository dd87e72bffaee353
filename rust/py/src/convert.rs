//! What Python may pass as texts.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBytes, PyString, PyTuple},
};
use zhuzi_core::{
    Text as CoreText,
    batch::{Content, Document},
};

use crate::strings::{self, in_place};

/// `str` and `bytes` objects, read in place and kept alive meanwhile.
///
/// A tuple keeps them: making one is the quickest way to take hold of many objects that lie all over memory.
pub struct Texts {
    kept: Py<PyTuple>,
    texts: Vec<Text>,
}

/// One of them.
pub struct Text {
    /// `'static` stands for "as long as [`Texts::kept`]"; [`Texts`] lends it out for no longer.
    content: Content<'static>,
    /// Set when it turned out to hold lone surrogates.
    invalid: AtomicBool,
}

/// Objects that are asked for before their turn: they lie all over memory.
const AHEAD: usize = 16;

impl Texts {
    /// The one text that `object` is.
    pub fn one(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::new(PyTuple::new(object.py(), [object])?)
    }

    /// The texts in any iterable.
    pub fn many(objects: &Bound<'_, PyAny>) -> PyResult<Self> {
        let tuple = objects.py().get_type::<PyTuple>();
        Self::new(tuple.call1((objects,))?.cast_into()?)
    }

    fn new(kept: Bound<'_, PyTuple>) -> PyResult<Self> {
        let mut texts = Vec::with_capacity(kept.len());
        let mut ahead = kept.iter_borrowed().skip(AHEAD);
        for object in kept.iter_borrowed() {
            ahead.next().into_iter().for_each(strings::expect);
            texts.push(Text::new(object)?);
        }
        Ok(Self { kept: kept.unbind(), texts })
    }

    /// The texts.
    pub fn as_slice(&self) -> &[Text] {
        &self.texts
    }

    /// Raises Python's own error if one of the texts, encoded by now, turned out not to be one.
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        for at in (0..self.texts.len()).filter(|&at| self.texts[at].invalid.load(Ordering::Relaxed)) {
            self.kept.bind(py).get_item(at)?.cast::<PyString>()?.to_str()?;
        }
        Ok(())
    }
}

impl Text {
    fn new(object: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        // SAFETY: strings and bytes never change, and the tuple beside the text keeps the object alive.
        let lend = |content: Content<'_>| unsafe { std::mem::transmute::<_, Content<'static>>(content) };
        let content = if let Ok(string) = object.cast::<PyString>() {
            lend(Content::Text(match in_place(&string) {
                Some(text) => text,
                // The bytes stay with the string. Raises Python's own error for what is no text.
                None => CoreText::Utf8(string.to_str()?),
            }))
        } else if let Ok(bytes) = object.cast::<PyBytes>() {
            lend(Content::Bytes(bytes.as_bytes()))
        } else {
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!("a text must be str or bytes, not {kind}")));
        };
        Ok(Self { content, invalid: AtomicBool::new(false) })
    }
}

impl Document for Text {
    fn content(&self) -> Content<'_> {
        self.content
    }

    fn is_valid(&self) -> bool {
        let valid = match self.content {
            Content::Text(text) => text.is_valid(),
            Content::Bytes(_) => true,
        };
        if !valid {
            self.invalid.store(true, Ordering::Relaxed);
        }
        valid
    }
}
