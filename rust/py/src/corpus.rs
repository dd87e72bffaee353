//! `zhuzi_core::corpus` for Python.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pyo3::prelude::*;
use zhuzi_core::{
    Result,
    corpus::{self, Progress, Request, RunOptions},
};

use crate::{
    errors::to_py,
    options::CorpusOptions,
    report::{EncodeReport, Estimate, FolderProgress},
    tokenizer::Tokenizer,
};

/// The least time between two calls of the progress callback; signals are checked as often.
const TICK: Duration = Duration::from_millis(100);

/// Encodes files into the folder `out`, or resumes a run there. `progress(bytes, total_bytes, documents, tokens)`
/// is called a few times per second; what it raises stops the work and is raised here.
#[pyfunction]
#[pyo3(signature = (inputs, tokenizer, fingerprint, out, options, *, threads, overwrite, append, skip_bad,
                    part, plan_only, progress))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments on the Python side")]
pub fn encode_corpus(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    tokenizer: &Tokenizer,
    fingerprint: String,
    out: PathBuf,
    options: CorpusOptions,
    threads: usize,
    overwrite: bool,
    append: bool,
    skip_bad: bool,
    part: Option<(usize, usize)>,
    plan_only: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<EncodeReport> {
    let request = Request { inputs, out, fingerprint, options: options.into_core()? };
    let run = RunOptions { threads, overwrite, append, skip_bad, part, plan_only };
    let mut callback = Callback::new(progress);
    let result = py.detach(|| {
        corpus::encode_corpus(&tokenizer.core, &request, &run, |at, total| callback.state(at, total))
    });
    callback.finish(result).map(EncodeReport::from)
}

/// Plans without writing anything, and estimates what the plan would take; `out` may be empty.
#[pyfunction]
#[pyo3(signature = (inputs, tokenizer, fingerprint, out, options, *, overwrite, append, skip_bad))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments on the Python side")]
pub fn estimate_corpus(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    tokenizer: &Tokenizer,
    fingerprint: String,
    out: PathBuf,
    options: CorpusOptions,
    overwrite: bool,
    append: bool,
    skip_bad: bool,
) -> PyResult<Estimate> {
    let request = Request { inputs, out, fingerprint, options: options.into_core()? };
    let run = RunOptions { overwrite, append, skip_bad, ..RunOptions::default() };
    let estimate = py.detach(|| corpus::estimate(&tokenizer.core, &request, &run)).map_err(to_py)?;
    Ok(estimate.into())
}

/// Runs tasks of the plan in `out`, for the workers of a cluster; bytes of the input files, documents and tokens.
#[pyfunction]
#[pyo3(signature = (out, tokenizer, fingerprint, tasks, *, threads, skip_bad))]
pub fn encode_tasks(
    py: Python<'_>,
    out: PathBuf,
    tokenizer: &Tokenizer,
    fingerprint: &str,
    tasks: Vec<usize>,
    threads: usize,
    skip_bad: bool,
) -> PyResult<(u64, u64, u64)> {
    let mut callback = Callback::new(None);
    let result = py.detach(|| {
        let tell = |at| callback.state(at, 0);
        corpus::encode_tasks(&tokenizer.core, fingerprint, &out, &tasks, threads, skip_bad, tell)
    });
    callback.finish(result).map(|done| (done.bytes, done.documents, done.tokens))
}

/// What the plan of a corpus folder asks for, and what of it is committed.
#[pyfunction]
pub fn corpus_progress(py: Python<'_>, out: PathBuf) -> PyResult<FolderProgress> {
    py.detach(|| corpus::progress_of(&out)).map(FolderProgress::from).map_err(to_py)
}

/// Everything that is wrong with a corpus; `progress(bytes)` is called a few times per second.
#[pyfunction]
pub fn verify_corpus(py: Python<'_>, out: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Vec<String>> {
    let mut callback = Callback::new(progress);
    let result = py.detach(|| corpus::verify(&out, |bytes| callback.bytes(bytes)));
    callback.finish(result)
}

/// Where document `number` of a corpus came from: file, offset, line. `progress(bytes)` is called a few times per
/// second.
#[pyfunction]
pub fn locate_document(
    py: Python<'_>,
    out: PathBuf,
    number: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<(PathBuf, u64, Option<u64>)> {
    let mut callback = Callback::new(progress);
    let result = py.detach(|| corpus::locate(&out, number, |bytes| callback.bytes(bytes)));
    callback.finish(result).map(|found| (found.path, found.offset, found.line))
}

/// Merges the shards of a corpus into `<prefix>.bin` and `.idx`; returns documents and tokens.
#[pyfunction]
pub fn merge_shards(
    py: Python<'_>,
    folder: PathBuf,
    prefix: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64)> {
    let mut callback = Callback::new(progress);
    let result = py.detach(|| corpus::merge_shards(&folder, &prefix, |bytes| callback.bytes(bytes)));
    callback.finish(result).map(|manifest| (manifest.counts.documents, manifest.counts.tokens))
}

/// How often the text of each of these ids occurs in a corpus. `progress(bytes)` is called a few times per second.
#[pyfunction]
pub fn count_occurrences(
    py: Python<'_>,
    folder: PathBuf,
    tokenizer: &Tokenizer,
    ids: Vec<u32>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<u64>> {
    let mut callback = Callback::new(progress);
    let result = py.detach(|| {
        corpus::count_occurrences(&folder, &tokenizer.core, &ids, threads, |bytes| callback.bytes(bytes))
    });
    callback.finish(result)
}

/// Keeps runs out of a corpus folder while other processes do its tasks; a context manager.
#[pyclass(module = "zhuzi._core", frozen)]
pub struct CorpusLock(Mutex<Option<corpus::Lock>>);

#[pymethods]
impl CorpusLock {
    /// Raises `OutputExistsError` if a run works in the folder.
    #[new]
    fn new(out: PathBuf) -> PyResult<Self> {
        corpus::Lock::tasks(&out).map(|lock| Self(Mutex::new(Some(lock)))).map_err(to_py)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(&self, _kind: &Bound<'_, PyAny>, _error: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Calls `progress` and checks for signals, a few times per second, and keeps what is raised there.
struct Callback {
    progress: Option<Py<PyAny>>,
    /// When it was called last, and with how many bytes.
    last: Option<(Instant, u64)>,
    raised: Option<PyErr>,
}

impl Callback {
    fn new(progress: Option<Py<PyAny>>) -> Self {
        Self { progress, last: None, raised: None }
    }

    fn state(&mut self, at: Progress, total: u64) -> bool {
        // The last call says that all is read; it must happen exactly once.
        let is_last = at.bytes == total && self.last.is_none_or(|(_, bytes)| bytes != total);
        if !is_last && self.last.is_some_and(|(when, _)| when.elapsed() < TICK) {
            return true;
        }
        self.last = Some((Instant::now(), at.bytes));
        let call = |py: Python<'_>| {
            py.check_signals()?;
            if let Some(progress) = &self.progress {
                progress.call1(py, (at.bytes, total, at.documents, at.tokens))?;
            }
            Ok(())
        };
        self.raised = Python::attach(call).err();
        self.raised.is_none()
    }

    fn bytes(&mut self, bytes: u64) -> bool {
        if self.last.is_some_and(|(when, _)| when.elapsed() < TICK) {
            return true;
        }
        self.last = Some((Instant::now(), bytes));
        let call = |py: Python<'_>| {
            py.check_signals()?;
            self.progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (bytes,)).map(drop))
        };
        self.raised = Python::attach(call).err();
        self.raised.is_none()
    }

    fn finish<T>(self, result: Result<T>) -> PyResult<T> {
        match self.raised {
            Some(error) => Err(error),
            None => result.map_err(to_py),
        }
    }
}
