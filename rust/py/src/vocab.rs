//! `zhuzi_core::vocab` for Python; merging is in `merge`.

use pyo3::prelude::*;
use zhuzi_core::{SpmModel, vocab};

use crate::errors::to_py;

/// How a model takes text to pieces, as far as it is not in the pieces themselves.
#[derive(IntoPyObject)]
pub struct ModelSettings {
    kind: &'static str,
    byte_fallback: bool,
    has_charsmap: bool,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    whitespace_as_suffix: bool,
    unk_surface: String,
}

/// The settings of a model given as bytes.
#[pyfunction]
pub fn model_settings(py: Python<'_>, model: &[u8], origin: &str) -> PyResult<ModelSettings> {
    let model = py.detach(|| SpmModel::from_bytes(model, origin)).map_err(to_py)?;
    let normalizer = model.normalizer();
    Ok(ModelSettings {
        kind: model.kind().name(),
        byte_fallback: model.byte_fallback(),
        has_charsmap: !normalizer.charsmap.is_empty(),
        add_dummy_prefix: normalizer.add_dummy_prefix,
        remove_extra_whitespaces: normalizer.remove_extra_whitespaces,
        escape_whitespaces: normalizer.escape_whitespaces,
        whitespace_as_suffix: normalizer.whitespace_as_suffix,
        unk_surface: model.unk_surface().into(),
    })
}

/// The NORMAL pieces of a model that no text becomes: their ids, and those of what their text becomes instead.
#[pyfunction]
pub fn dead_pieces(py: Python<'_>, model: &[u8], origin: &str) -> PyResult<Vec<(u32, Vec<u32>)>> {
    let work = || vocab::dead_pieces(&SpmModel::from_bytes(model, origin)?);
    let dead = py.detach(work).map_err(to_py)?;
    Ok(dead.into_iter().map(|dead| (dead.id, dead.becomes)).collect())
}

/// The 8,105 common characters, the most common first, as one string.
#[pyfunction]
pub fn common_han() -> String {
    vocab::script::common_han().collect()
}

/// True for Chinese characters: those whose Unicode script is Han.
#[pyfunction]
pub fn is_han(character: char) -> bool {
    vocab::script::is_han(character)
}

/// True for the punctuation of Chinese text.
#[pyfunction]
pub fn is_cjk_punctuation(character: char) -> bool {
    vocab::script::is_cjk_punctuation(character)
}
