//! `zhuzi_core::corpus` for Python.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use pyo3::prelude::*;
use zhuzi_core::corpus::{self, EncodeOptions};

use crate::{errors::to_py, tokenizer::Tokenizer};

/// How often the progress callback runs and signals are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Encodes files into the empty folder `out`. `progress(bytes, total_bytes, documents, tokens)` is called
/// a few times a second; what it raises stops the work and comes back to the caller.
#[pyfunction]
#[pyo3(signature = (inputs, tokenizer, fingerprint, out, *, field, eos, threads, shard_bytes, progress))]
#[expect(clippy::too_many_arguments, reason = "keyword arguments on the Python side")]
pub fn encode_corpus(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    tokenizer: &Tokenizer,
    fingerprint: String,
    out: PathBuf,
    field: String,
    eos: bool,
    threads: usize,
    shard_bytes: u64,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let options = EncodeOptions { field, eos, threads, shard_bytes, fingerprint };
    let mut raised = None;
    let result = py.detach(|| {
        let sources = corpus::list_sources(&inputs)?;
        let total: u64 = sources.iter().map(|source| source.bytes).sum();
        let mut told = Instant::now();
        let each_block = |at: corpus::Progress| {
            if at.bytes < total && told.elapsed() < TICK {
                return true;
            }
            told = Instant::now();
            let tell = |py: Python<'_>| {
                py.check_signals()?;
                if let Some(progress) = &progress {
                    progress.call1(py, (at.bytes, total, at.documents, at.tokens))?;
                }
                Ok(())
            };
            raised = Python::attach(tell).err();
            raised.is_none()
        };
        corpus::encode_corpus(&tokenizer.core, &sources, &out, &options, each_block).map(drop)
    });
    match raised {
        Some(error) => Err(error),
        None => result.map_err(to_py),
    }
}
