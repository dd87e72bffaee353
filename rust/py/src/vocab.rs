//! `zhuzi_core::vocab` for Python.

use pyo3::{prelude::*, types::PyBytes};
use zhuzi_core::{SpmModel, vocab};

use crate::errors::to_py;

/// Merges two models given as bytes; returns the merged bytes and how many pieces were appended, were in
/// both, and were left out.
#[pyfunction]
pub fn merge_vocab<'py>(
    py: Python<'py>,
    base: &[u8],
    base_origin: &str,
    donor: &[u8],
    donor_origin: &str,
    policy: &str,
) -> PyResult<(Bound<'py, PyBytes>, usize, usize, usize)> {
    let work = || {
        let base = SpmModel::from_bytes(base, base_origin)?;
        let donor = SpmModel::from_bytes(donor, donor_origin)?;
        let merged = vocab::merge(&base, &donor, policy.parse()?)?;
        Ok((merged.model.to_bytes(), merged))
    };
    let (bytes, merged) = py.detach(work).map_err(to_py)?;
    Ok((PyBytes::new(py, &bytes), merged.appended, merged.shared, merged.left_out))
}
