//! Python bindings of `zhuzi-core`. They convert, release the GIL and map errors; no algorithm lives here.

mod arrow;
mod convert;
mod corpus;
mod errors;
mod extend;
mod merge;
mod options;
mod read;
mod report;
mod strings;
mod tokenizer;
mod vocab;

use pyo3::prelude::*;
use zhuzi_core::bpe;

/// The compiled core of Zhuzi.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("CACHE_BYTES", bpe::CACHE_BYTES)?;
    m.add("MAX_CACHE_BYTES", bpe::MAX_CACHE_BYTES)?;
    m.add("ZhuziError", m.py().get_type::<errors::ZhuziError>())?;
    m.add("ModelFileError", m.py().get_type::<errors::ModelFileError>())?;
    m.add("InputError", m.py().get_type::<errors::InputError>())?;
    m.add("OutputExistsError", m.py().get_type::<errors::OutputExistsError>())?;
    m.add_class::<tokenizer::Tokenizer>()?;
    m.add_class::<tokenizer::Buffer>()?;
    m.add_class::<read::InputReader>()?;
    m.add_class::<corpus::CorpusLock>()?;
    m.add_function(wrap_pyfunction!(merge::merge_vocab, m)?)?;
    m.add_function(wrap_pyfunction!(merge::counting_model, m)?)?;
    m.add_class::<extend::RunCounter>()?;
    m.add_function(wrap_pyfunction!(vocab::dead_pieces, m)?)?;
    m.add_function(wrap_pyfunction!(vocab::model_settings, m)?)?;
    m.add_function(wrap_pyfunction!(vocab::common_han, m)?)?;
    m.add_function(wrap_pyfunction!(vocab::is_han, m)?)?;
    m.add_function(wrap_pyfunction!(vocab::is_cjk_punctuation, m)?)?;
    m.add_function(wrap_pyfunction!(options::check_options, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::corpus_progress, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::encode_corpus, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::encode_tasks, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::estimate_corpus, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::locate_document, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::merge_shards, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::count_occurrences, m)?)?;
    m.add_function(wrap_pyfunction!(corpus::verify_corpus, m)?)?;
    Ok(())
}
