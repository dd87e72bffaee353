//! `zhuzi_core::Tokenizer` for Python.

use std::{ffi::c_int, sync::Arc};

use pyo3::{exceptions::PyBufferError, ffi, prelude::*};
use zhuzi_core::{SpmModel, Tokenizer as Core};

use crate::{arrow::ArrowTexts, convert::Texts, errors::to_py};

/// An exact tokenizer: the ids of `sentencepiece`, every one.
#[pyclass(frozen, module = "zhuzi._core")]
pub struct Tokenizer {
    pub core: Arc<Core>,
}

#[pymethods]
impl Tokenizer {
    /// Builds the tokenizer from the bytes of a model file; `origin` names it in errors.
    #[new]
    fn new(
        py: Python<'_>,
        model: &[u8],
        added: Vec<String>,
        origin: &str,
        cache_bytes: usize,
    ) -> PyResult<Self> {
        let build = || Ok(Core::new(&SpmModel::from_bytes(model, origin)?, &added)?.with_cache(cache_bytes));
        let core = py.detach(build).map_err(to_py)?;
        Ok(Self { core: Arc::new(core) })
    }

    #[pyo3(signature = (text, threads=1))]
    fn encode(&self, py: Python<'_>, text: &Bound<'_, PyAny>, threads: usize) -> PyResult<Vec<u32>> {
        let texts = Texts::one(text)?;
        let one = &texts.as_slice()[..1];
        let ids = py.detach(|| match threads {
            0 | 1 => self.core.encode(&one[0]),
            _ => self.core.encode_batch(one, threads).ids,
        });
        texts.check(py)?;
        Ok(ids)
    }

    /// Ids, and for each token its first character and the one after its last.
    fn encode_with_offsets(&self, py: Python<'_>, text: &str) -> (Vec<u32>, Vec<(usize, usize)>) {
        py.detach(|| self.core.encode_with_offsets(text))
    }

    fn encode_piece(&self, piece: &str) -> Vec<u32> {
        self.core.encode_piece(piece)
    }

    /// Ids (uint32) and offsets (int64) of many texts, as buffers.
    fn encode_batch(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        threads: usize,
    ) -> PyResult<(Buffer, Buffer)> {
        let batch = match ArrowTexts::from_py(texts)? {
            Some(array) => py.detach(|| self.core.encode_batch(&array.texts(), threads)),
            None => {
                let texts = Texts::many(texts)?;
                let batch = py.detach(|| self.core.encode_batch(texts.as_slice(), threads));
                texts.check(py)?;
                batch
            }
        };
        Ok((Buffer(Values::Ids(batch.ids)), Buffer(Values::Offsets(batch.offsets))))
    }

    fn decode(&self, py: Python<'_>, ids: Vec<u32>) -> PyResult<String> {
        py.detach(|| self.core.decode(&ids)).map_err(to_py)
    }

    fn decode_batch(&self, py: Python<'_>, batch: Vec<Vec<u32>>) -> PyResult<Vec<String>> {
        py.detach(|| batch.iter().map(|ids| self.core.decode(ids)).collect::<Result<_, _>>()).map_err(to_py)
    }

    /// Text, score and kind of every piece, added tokens included.
    fn pieces(&self) -> Vec<(String, f32, &'static str)> {
        (0u32..)
            .map_while(|id| self.core.piece(id))
            .map(|p| (p.text.clone(), p.score, p.kind.name()))
            .collect()
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.core.id_of(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.core.piece(id).map(|piece| piece.text.clone())
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.core.vocab_size()
    }

    /// Ids of the unknown, begin, end and padding tokens.
    #[getter]
    fn special_ids(&self) -> (u32, Option<u32>, Option<u32>, Option<u32>) {
        let ids = self.core.special_ids();
        (ids.unk, ids.bos, ids.eos, ids.pad)
    }
}

enum Values {
    Ids(Vec<u32>),
    Offsets(Vec<i64>),
}

/// Integers owned by Rust, read in place through the buffer protocol (`numpy.frombuffer`).
#[pyclass(frozen, module = "zhuzi._core")]
pub struct Buffer(Values);

#[pymethods]
impl Buffer {
    fn __len__(&self) -> usize {
        match &self.0 {
            Values::Ids(ids) => ids.len(),
            Values::Offsets(offsets) => offsets.len(),
        }
    }

    /// # Safety
    /// Called by the interpreter with a view that it owns.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let (pointer, bytes) = match &slf.get().0 {
            Values::Ids(ids) => (ids.as_ptr().cast_mut().cast(), size_of_val(ids.as_slice())),
            Values::Offsets(offsets) => (offsets.as_ptr().cast_mut().cast(), size_of_val(offsets.as_slice())),
        };
        let bytes = ffi::Py_ssize_t::try_from(bytes).map_err(|e| PyBufferError::new_err(e.to_string()))?;
        // SAFETY: the class is frozen, so the vector neither moves nor changes while `slf` lives, and the view
        // holds a reference to `slf`. The buffer is marked read-only.
        let failed = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), pointer, bytes, 1, flags) };
        if failed == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
