//! `zhuzi_core::corpus::InputReader` for Python: texts and records, block by block.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pyo3::prelude::*;
use zhuzi_core::{
    Result,
    corpus::{self, Stop},
};

use crate::{
    errors::to_py,
    options::CorpusOptions,
    report::{LeftOut, ReadCounts},
};

/// The least time between two checks for signals.
const TICK: Duration = Duration::from_millis(100);

/// Records of one file: its path, what is numbered (`line`, `record`, `row`), and each record's JSON and number.
type Records = (PathBuf, &'static str, Vec<(String, u64)>);

/// Path, bytes and kind of a file.
type Found = (PathBuf, u64, String);

/// Reads inputs block by block; the GIL is released meanwhile.
///
/// The thread that reads holds the reader and takes the GIL now and then (for signals). So nothing that holds the
/// GIL may wait for the reader: what callers ask for meanwhile is kept beside it.
#[pyclass(module = "zhuzi._core", frozen)]
pub struct InputReader {
    reader: Mutex<corpus::InputReader>,
    /// As they were after the last block.
    counts: Mutex<corpus::ReadCounts>,
    files: Vec<Found>,
    left_out: LeftOut,
    /// Path and reason of what could not be opened.
    unreadable: Vec<(PathBuf, String)>,
    signals: Arc<Signals>,
}

/// Python's signal handlers run while Rust reads; what they raise is kept.
struct Signals {
    last_check: Mutex<Instant>,
    raised: Mutex<Option<PyErr>>,
}

impl Signals {
    /// True once a handler has raised something.
    fn have_raised(&self) -> bool {
        let mut last_check = lock(&self.last_check);
        if last_check.elapsed() < TICK {
            return false;
        }
        *last_check = Instant::now();
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
        options: CorpusOptions,
        skip_bad: bool,
        whole: bool,
    ) -> PyResult<Self> {
        let options = options.into_core()?;
        let signals = Arc::new(Signals { last_check: Mutex::new(Instant::now()), raised: Mutex::new(None) });
        let asked = signals.clone();
        let stop = Stop::Asked(Arc::new(move || asked.have_raised()));
        let open = || corpus::InputReader::open(&inputs, options, skip_bad, whole, stop);
        let reader = match py.detach(open) {
            Ok(reader) => reader,
            Err(error) => return Err(signals.take().unwrap_or_else(|| to_py(error))),
        };
        let kind = |source: &corpus::Source| format!("{:?}", source.format).to_lowercase();
        let files =
            reader.sources().iter().map(|source| (source.path.clone(), source.bytes, kind(source))).collect();
        let listing = reader.listing();
        let left_out = listing.left_out.clone().into();
        let unreadable =
            listing.unreadable.iter().map(|file| (file.path.clone(), file.reason.clone())).collect();
        let counts = Mutex::new(reader.counts());
        Ok(Self { reader: Mutex::new(reader), counts, files, left_out, unreadable, signals })
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

    /// What was read so far.
    fn counts(&self) -> ReadCounts {
        (*lock(&self.counts)).into()
    }

    /// What folders and patterns hold besides the files.
    fn left_out(&self) -> LeftOut {
        self.left_out.clone()
    }

    /// Path and reason of each file and folder that could not be opened.
    fn unreadable(&self) -> Vec<(PathBuf, String)> {
        self.unreadable.clone()
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
