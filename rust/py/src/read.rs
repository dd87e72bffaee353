//! `zhuzi_core::corpus::InputReader` for Python: texts and records, a block at a time.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pyo3::prelude::*;
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

/// Path, bytes and kind of a file.
type Found = (PathBuf, u64, String);

/// Reads inputs block by block; the GIL is released meanwhile.
///
/// Whoever reads holds the reader and asks for the GIL now and then (for signals). So nothing that runs with the
/// GIL held may wait for the reader: what it is asked for lies beside it.
#[pyclass(module = "zhuzi._core", frozen)]
pub struct InputReader {
    reader: Mutex<corpus::InputReader>,
    /// As they were after the last block.
    counts: Mutex<corpus::ReadCounts>,
    files: Vec<Found>,
    left_out: String,
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
        let mut looked = lock(&self.looked);
        if looked.elapsed() < TICK {
            return false;
        }
        *looked = Instant::now();
        let Err(error) = Python::attach(|py| py.check_signals()) else { return false };
        *lock(&self.raised) = Some(error);
        true
    }

    /// What a handler has raised.
    fn take(&self) -> Option<PyErr> {
        lock(&self.raised).take()
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
        let reader = match py.detach(open) {
            Ok(reader) => reader,
            Err(error) => return Err(signals.take().unwrap_or_else(|| to_py(error))),
        };
        let kind = |source: &corpus::Source| format!("{:?}", source.format).to_lowercase();
        let files =
            reader.sources().iter().map(|source| (source.path.clone(), source.bytes, kind(source))).collect();
        let listing = reader.listing();
        let left_out = json!({"left_out": listing.left_out, "unreadable": listing.unreadable}).to_string();
        let counts = Mutex::new(reader.counts());
        Ok(Self { reader: Mutex::new(reader), counts, files, left_out, signals })
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
    fn files(&self) -> Vec<Found> {
        self.files.clone()
    }

    /// Bytes read, documents, characters, empty documents and bad records so far.
    fn counts(&self) -> (u64, u64, u64, u64, u64) {
        let counts = *lock(&self.counts);
        (counts.bytes, counts.documents, counts.characters, counts.empty_documents, counts.bad_records)
    }

    /// What of the inputs is not read, as JSON.
    fn left_out(&self) -> &str {
        &self.left_out
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InputReader {
    fn read<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut corpus::InputReader) -> Result<T> + Send,
    ) -> PyResult<T> {
        let result = py.detach(|| {
            let mut reader = lock(&self.reader);
            let result = work(&mut reader);
            *lock(&self.counts) = reader.counts();
            result
        });
        match self.signals.take() {
            Some(error) => Err(error),
            None => result.map_err(to_py),
        }
    }
}
