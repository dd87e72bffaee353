//! `zhuzi_core::vocab::extend` for Python.

use std::{
    mem::take,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use pyo3::{buffer::PyBuffer, exceptions::PyValueError, prelude::*, types::PyBytes};
use zhuzi_core::{
    Error, Result, SpmModel,
    vocab::extend::{self, ExtendOptions, Placement},
};

use crate::errors::to_py;

/// The least time between two reports.
const TICK: Duration = Duration::from_millis(100);

/// Counts the runs of text that new pieces may be made of.
#[pyclass(module = "zhuzi._core", frozen)]
pub struct RunCounter {
    base: SpmModel,
    counter: Mutex<Option<extend::RunCounter>>,
}

/// The model's bytes; where the scores lie; new pieces, those of them that are listed characters, and those of these
/// that the text does not have.
type Extended<'py> = (Bound<'py, PyBytes>, &'static str, usize, usize, usize);

#[pymethods]
impl RunCounter {
    #[new]
    fn new(base: &[u8], origin: &str, scripts: &str) -> PyResult<Self> {
        let make = || {
            let base = SpmModel::from_bytes(base, origin)?;
            extend::check_base(&base)?;
            let counter = extend::RunCounter::new(&base, scripts.parse()?)?;
            Ok(Self { base, counter: Mutex::new(Some(counter)) })
        };
        make().map_err(to_py)
    }

    /// Counts texts that stand one after the other in a buffer; `sizes` are their lengths in bytes.
    fn add(
        &self,
        py: Python<'_>,
        text: PyBuffer<u8>,
        sizes: PyBuffer<u32>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let sizes = sizes.to_vec(py)?;
        if sizes.iter().map(|&size| size as usize).sum::<usize>() > text.item_count()
            || !text.is_c_contiguous()
        {
            return Err(PyValueError::new_err("the texts are longer than the buffer"));
        }
        // SAFETY: the buffer is contiguous, and held until the end of this function; while it is, the object that owns it
        // neither moves nor frees it. Only `zhuzi.vocab.extend` calls this, and writes nothing to it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(text.buf_ptr().cast::<u8>(), text.item_count()) };
        let mut watch = Watch::new(progress);
        let result = py.detach(|| match &*lock(&self.counter) {
            Some(counter) => counter.add(bytes, &sizes, threads, &mut |done| watch.report(done)),
            None => Ok(()),
        });
        watch.end(result)
    }

    /// Counts a word so many times.
    fn add_word(&self, word: &str, count: u64) {
        if let Some(counter) = &*lock(&self.counter) {
            counter.add_word(word, count);
        }
    }

    /// Learns pieces from what was counted, which is gone then.
    #[pyo3(signature = (*, scripts, new_pieces, characters, max_length, min_count, protected, forbidden, beside, threads, progress))]
    #[expect(clippy::too_many_arguments, reason = "keywords of one call")]
    fn extend<'py>(
        &self,
        py: Python<'py>,
        scripts: &str,
        new_pieces: usize,
        characters: &str,
        max_length: usize,
        min_count: u64,
        protected: Vec<String>,
        forbidden: Vec<String>,
        beside: Vec<String>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Extended<'py>> {
        let scripts = scripts.parse().map_err(to_py)?;
        let characters = characters.chars().collect();
        let options = ExtendOptions {
            scripts,
            new_pieces,
            characters,
            max_length,
            min_count,
            protected,
            forbidden,
            beside,
            threads,
        };
        let counter = take(&mut *lock(&self.counter));
        let Some(counter) = counter else { return Err(PyValueError::new_err("the counts are used already")) };
        let mut watch = Watch::new(progress);
        let result = py.detach(|| {
            let made = extend::extend(&self.base, counter, &options, &mut |done| watch.report(done as u64))?;
            Ok((made.model.to_bytes(), made))
        });
        let (bytes, made) = watch.end(result)?;
        let placement = match made.placement {
            Placement::Above => "above",
            Placement::Below => "below",
        };
        Ok((PyBytes::new(py, &bytes), placement, made.new_pieces, made.characters, made.unseen))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells Python how far the work has come, and stops it where Python raises something.
struct Watch {
    progress: Option<Py<PyAny>>,
    last: Instant,
    raised: Option<PyErr>,
}

impl Watch {
    fn new(progress: Option<Py<PyAny>>) -> Self {
        Self { progress, last: Instant::now(), raised: None }
    }

    fn report(&mut self, done: u64) -> Result<()> {
        if self.last.elapsed() < TICK {
            return Ok(());
        }
        self.last = Instant::now();
        let call = |py: Python<'_>| {
            py.check_signals()?;
            self.progress.as_ref().map_or(Ok(()), |progress| progress.call1(py, (done,)).map(drop))
        };
        Python::attach(call).map_err(|error| {
            self.raised = Some(error);
            Error::Stopped
        })
    }

    fn end<T>(self, result: Result<T>) -> PyResult<T> {
        match self.raised {
            Some(error) => Err(error),
            None => result.map_err(to_py),
        }
    }
}
