//! `zhuzi_core::corpus::InputReader` for Python: texts and records, a block at a time.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use serde_json::json;
use zhuzi_core::{
    Result,
    corpus::{self, EncodeOptions, Stop},
};

use crate::errors::to_py;

/// How often signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Records of one file: its path, what is numbered (`line`, `record`, `row`), and each record's JSON and number.
type Records = (PathBuf, &'static str, Vec<(String, u64)>);

/// Reads inputs block by block; the GIL is released meanwhile.
#[pyclass(module = "zhuzi._core", frozen)]
pub struct InputReader {
    reader: Mutex<corpus::InputReader>,
    signals: Arc<Signals>,
}

/// Python's signal handlers run while Rust reads; what they raise is kept.
struct Signals {
    looked: Mutex<Instant>,
    raised: Mutex<Option<PyErr>>,
}

impl Signals {
    /// True once a handler has raised something.
    fn ask(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < TICK {
            return false;
        }
        *looked = Instant::now();
        let Err(error) = Python::attach(|py| py.check_signals()) else { return false };
        *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        true
    }
}

#[pymethods]
impl InputReader {
    #[new]
    fn new(
        py: Python<'_>,
        inputs: Vec<PathBuf>,
        options: &str,
        skip_bad: bool,
        whole: bool,
    ) -> PyResult<Self> {
        let options = EncodeOptions::from_json(options).map_err(to_py)?;
        let signals = Arc::new(Signals { looked: Mutex::new(Instant::now()), raised: Mutex::new(None) });
        let asked = signals.clone();
        let stop = Stop::Asked(Arc::new(move || asked.ask()));
        let open = || corpus::InputReader::open(&inputs, options, skip_bad, whole, stop);
        Ok(Self { reader: Mutex::new(py.detach(open).map_err(to_py)?), signals })
    }

    /// The texts of the next block, `None` at the end.
    fn next_texts(&self, py: Python<'_>) -> PyResult<Option<Vec<String>>> {
        self.read(py, |reader| {
            let mut texts = Vec::new();
            Ok(reader.next_texts(&mut texts)?.then_some(texts))
        })
    }

    /// The records of the next block, `None` at the end.
    fn next_records(&self, py: Python<'_>) -> PyResult<Option<Records>> {
        let found = self.read(py, corpus::InputReader::next_records)?;
        Ok(found.map(|found| (found.path, found.unit, found.records)))
    }

    /// The files, each with its kind: path, bytes, kind.
    fn files(&self) -> Vec<(PathBuf, u64, String)> {
        let reader = self.lock();
        let kind = |source: &corpus::Source| format!("{:?}", source.format).to_lowercase();
        reader.sources().iter().map(|source| (source.path.clone(), source.bytes, kind(source))).collect()
    }

    /// Bytes read, documents, characters, empty documents and bad records so far.
    fn counts(&self) -> (u64, u64, u64, u64, u64) {
        let counts = self.lock().counts();
        (counts.bytes, counts.documents, counts.characters, counts.empty_documents, counts.bad_records)
    }

    /// What of the inputs is not read, as JSON.
    fn left_out(&self) -> PyResult<String> {
        let reader = self.lock();
        let listing = reader.listing();
        serde_json::to_string(&json!({"left_out": listing.left_out, "unreadable": listing.unreadable}))
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))
    }
}

impl InputReader {
    fn lock(&self) -> std::sync::MutexGuard<'_, corpus::InputReader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut corpus::InputReader) -> Result<T> + Send,
    ) -> PyResult<T> {
        let result = py.detach(|| work(&mut self.lock()));
        match self.signals.raised.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => result.map_err(to_py),
        }
    }
}
