//! What Python may pass as texts.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBytes, PyFloat, PyMapping, PyString, PyTuple, PyType},
};
use zhuzi_core::{
    Text as CoreText,
    text::{Document, RawText},
};

use crate::strings::{self, in_place};

/// `str` and `bytes` objects, read in place and kept alive meanwhile.
///
/// A tuple keeps them: making one is the quickest way to take hold of many objects scattered over memory.
pub struct Texts {
    kept: Py<PyTuple>,
    texts: Vec<Text>,
}

/// One of them.
pub struct Text {
    /// `'static` means "as long as [`Texts::kept`]"; [`Texts`] lends it out for no longer.
    raw: RawText<'static>,
    /// Set when it turned out to hold lone surrogates.
    invalid: AtomicBool,
}

/// How many objects ahead are prefetched: they are scattered over memory.
const AHEAD: usize = 16;

impl Texts {
    /// The one text that `object` is.
    pub fn one(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let text = Text::new(object.as_borrowed())?.ok_or_else(|| {
            let kind = object.get_type();
            PyTypeError::new_err(format!("a text must be str or bytes, not {}", name(&kind)))
        })?;
        Ok(Self { kept: PyTuple::new(object.py(), [object])?.unbind(), texts: vec![text] })
    }

    /// The texts in any iterable. Raises `TypeError` for what is no text, with its index.
    pub fn many(objects: &Bound<'_, PyAny>) -> PyResult<Self> {
        let kind = objects.get_type();
        if objects.cast::<PyMapping>().is_ok() {
            let kind = name(&kind);
            return Err(PyTypeError::new_err(format!(
                "want a list of texts, not a {kind}; give one of its values"
            )));
        }
        let tuple = objects.py().get_type::<PyTuple>();
        let tuple = tuple.call1((objects,)).map_err(|e| {
            if objects.try_iter().is_ok() {
                return e; // raised while iterating
            }
            PyTypeError::new_err(format!("want a list of texts, not {}", name(&kind)))
        })?;
        Self::new(tuple.cast_into()?)
    }

    fn new(kept: Bound<'_, PyTuple>) -> PyResult<Self> {
        let mut texts = Vec::with_capacity(kept.len());
        let mut ahead = kept.iter_borrowed().skip(AHEAD);
        for object in kept.iter_borrowed() {
            ahead.next().into_iter().for_each(strings::expect);
            match Text::new(object)? {
                Some(text) => texts.push(text),
                None => return Err(no_text(texts.len(), object)),
            }
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

/// The error for text `at` being missing; `shown` is what the caller has in its place.
pub fn missing(at: usize, shown: &str) -> PyErr {
    PyTypeError::new_err(format!("text {at} is missing ({shown}); leave it out, or put '' in its place"))
}

/// Why `object` is no text: missing (None, NaN, pandas' NA), or of another kind.
fn no_text(at: usize, object: Borrowed<'_, '_, PyAny>) -> PyErr {
    let kind = name(&object.get_type());
    let is_nan = object.cast::<PyFloat>().is_ok_and(|number| number.value().is_nan());
    if is_nan || matches!(kind.as_str(), "NoneType" | "NAType" | "NaTType") {
        return missing(at, &object.to_string());
    }
    PyTypeError::new_err(format!("text {at} must be str or bytes, not {kind}"))
}

fn name(kind: &Bound<'_, PyType>) -> String {
    kind.name().map_or_else(|_| "that".into(), |name| name.to_string())
}

impl Text {
    /// The text that an object is; `None` if it is none.
    fn new(object: Borrowed<'_, '_, PyAny>) -> PyResult<Option<Self>> {
        // SAFETY: strings and bytes never change, and `Texts::kept` keeps the object alive.
        let lend = |raw: RawText<'_>| unsafe { std::mem::transmute::<_, RawText<'static>>(raw) };
        let raw = if let Ok(string) = object.cast::<PyString>() {
            lend(RawText::Text(match in_place(&string) {
                Some(text) => text,
                // The bytes stay with the string. Raises Python's own error for what is no text.
                None => CoreText::Utf8(string.to_str()?),
            }))
        } else if let Ok(bytes) = object.cast::<PyBytes>() {
            lend(RawText::Bytes(bytes.as_bytes()))
        } else {
            return Ok(None);
        };
        Ok(Some(Self { raw, invalid: AtomicBool::new(false) }))
    }
}

impl Document for Text {
    fn raw(&self) -> RawText<'_> {
        self.raw
    }

    fn is_valid(&self) -> bool {
        let valid = match self.raw {
            RawText::Text(text) => text.is_valid(),
            RawText::Bytes(_) => true,
        };
        if !valid {
            self.invalid.store(true, Ordering::Relaxed);
        }
        valid
    }
}
