//! `zhuzi_core::corpus` for Python. Options go in and reports come out as JSON.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use serde::Serialize;
use zhuzi_core::{
    Result,
    corpus::{self, EncodeOptions, Progress, Request, RunOptions},
};

use crate::{errors::to_py, tokenizer::Tokenizer};

/// How often the progress callback runs and signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Encodes files into the folder `out`, or goes on with it; returns the report. `progress(bytes, total_bytes,
/// documents, tokens)` is called a few times a second; what it raises stops the work and comes back to the
/// caller.
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
    options: &str,
    threads: usize,
    overwrite: bool,
    append: bool,
    skip_bad: bool,
    part: Option<(usize, usize)>,
    plan_only: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let options = EncodeOptions::from_json(options).map_err(to_py)?;
    let request = Request { inputs, out, fingerprint, options };
    let run = RunOptions { threads, overwrite, append, skip_bad, part, plan_only };
    let mut teller = Teller::new(progress);
    let result = py.detach(|| {
        corpus::encode_corpus(&tokenizer.core, &request, &run, |at, total| teller.tell(at, total))
    });
    teller.finish(result).and_then(|report| to_json(&report))
}

/// Plans without writing anything; returns the plan and what it would take.
#[pyfunction]
#[pyo3(signature = (inputs, tokenizer, fingerprint, out, options, *, skip_bad))]
pub fn estimate_corpus(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    tokenizer: &Tokenizer,
    fingerprint: String,
    out: PathBuf,
    options: &str,
    skip_bad: bool,
) -> PyResult<String> {
    let options = EncodeOptions::from_json(options).map_err(to_py)?;
    let request = Request { inputs, out, fingerprint, options };
    let run = RunOptions { skip_bad, ..RunOptions::default() };
    let estimate = py.detach(|| corpus::estimate(&tokenizer.core, &request, &run)).map_err(to_py)?;
    to_json(&estimate)
}

/// Runs tasks of the plan in `out`; for the workers of a cluster.
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
) -> PyResult<()> {
    let mut teller = Teller::new(None);
    let result = py.detach(|| {
        let tell = |at| teller.tell(at, 0);
        corpus::encode_tasks(&tokenizer.core, fingerprint, &out, &tasks, threads, skip_bad, tell)
    });
    teller.finish(result).map(drop)
}

/// All that is wrong with a corpus; `progress(bytes)` is called now and then.
#[pyfunction]
pub fn verify_corpus(py: Python<'_>, out: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Vec<String>> {
    let mut teller = Teller::new(progress);
    let result = py.detach(|| corpus::verify(&out, |bytes| teller.tell_bytes(bytes)));
    teller.finish(result)
}

/// Where document `number` of a corpus came from: file, offset, line; `progress(bytes)` is called now and then.
#[pyfunction]
pub fn locate_document(
    py: Python<'_>,
    out: PathBuf,
    number: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<(PathBuf, u64, Option<u64>)> {
    let mut teller = Teller::new(progress);
    let result = py.detach(|| corpus::locate(&out, number, |bytes| teller.tell_bytes(bytes)));
    teller.finish(result).map(|found| (found.path, found.offset, found.line))
}

/// Joins the shards of a corpus into `<prefix>.bin` and `.idx`; documents and tokens.
#[pyfunction]
pub fn merge_shards(
    py: Python<'_>,
    folder: PathBuf,
    prefix: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64)> {
    let mut teller = Teller::new(progress);
    let result = py.detach(|| corpus::merge_shards(&folder, &prefix, |bytes| teller.tell_bytes(bytes)));
    teller.finish(result).map(|manifest| (manifest.counts.documents, manifest.counts.tokens))
}

/// How often the text of each of these ids stands in a corpus; `progress(bytes)` is called now and then.
#[pyfunction]
pub fn count_occurrences(
    py: Python<'_>,
    folder: PathBuf,
    tokenizer: &Tokenizer,
    ids: Vec<u32>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<u64>> {
    let mut teller = Teller::new(progress);
    let result = py.detach(|| {
        corpus::count_occurrences(&folder, &tokenizer.core, &ids, threads, |bytes| teller.tell_bytes(bytes))
    });
    teller.finish(result)
}

/// Calls back into Python now and then, and keeps what is raised there.
struct Teller {
    progress: Option<Py<PyAny>>,
    told: Option<(Instant, u64)>,
    raised: Option<PyErr>,
}

impl Teller {
    fn new(progress: Option<Py<PyAny>>) -> Self {
        Self { progress, told: None, raised: None }
    }

    fn tell(&mut self, at: Progress, total: u64) -> bool {
        // The last call says that all is read; it must not be one too many or too few.
        let is_last = at.bytes == total && self.told.is_none_or(|(_, bytes)| bytes != total);
        if !is_last && self.told.is_some_and(|(when, _)| when.elapsed() < TICK) {
            return true;
        }
        self.told = Some((Instant::now(), at.bytes));
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

    fn tell_bytes(&mut self, bytes: u64) -> bool {
        if self.told.is_some_and(|(when, _)| when.elapsed() < TICK) {
            return true;
        }
        self.told = Some((Instant::now(), bytes));
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

fn to_json(value: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(value).map_err(|e| PyRuntimeError::new_err(e.to_string()))
}
