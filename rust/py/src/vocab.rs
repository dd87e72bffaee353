//! `zhuzi_core::vocab` for Python.

use pyo3::{prelude::*, types::PyBytes};
use zhuzi_core::{SpmModel, vocab};

use crate::errors::to_py;

/// The merged model's bytes; pieces appended and in both; names of donor pieces left out, appended as
/// user-defined, and overruled by the base.
type Merged<'py> = (Bound<'py, PyBytes>, usize, usize, Vec<String>, Vec<String>, Vec<String>);

/// Merges two models given as bytes; `beside` are the tokens beside the base's model.
#[pyfunction]
pub fn merge_vocab<'py>(
    py: Python<'py>,
    base: &[u8],
    base_origin: &str,
    donor: &[u8],
    donor_origin: &str,
    policy: &str,
    beside: Vec<String>,
) -> PyResult<Merged<'py>> {
    let work = || {
        let base = SpmModel::from_bytes(base, base_origin)?;
        let donor = SpmModel::from_bytes(donor, donor_origin)?;
        let merged = vocab::merge(&base, &donor, policy.parse()?, &beside)?;
        Ok((merged.model.to_bytes(), merged))
    };
    let (bytes, merged) = py.detach(work).map_err(to_py)?;
    let vocab::Merged { appended, shared, left_out, user_defined, overruled, .. } = merged;
    Ok((PyBytes::new(py, &bytes), appended, shared, left_out, user_defined, overruled))
}

/// The NORMAL pieces of a model that no text becomes: their ids, and those of what their text becomes instead.
#[pyfunction]
pub fn dead_pieces(py: Python<'_>, model: &[u8], origin: &str) -> PyResult<Vec<(u32, Vec<u32>)>> {
    let work = || vocab::dead_pieces(&SpmModel::from_bytes(model, origin)?);
    let dead = py.detach(work).map_err(to_py)?;
    Ok(dead.into_iter().map(|dead| (dead.id, dead.becomes)).collect())
}
