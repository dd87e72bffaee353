//! `zhuzi_core::vocab::merge` for Python.

use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};
use zhuzi_core::{
    Result, SpmModel,
    vocab::{self, Filters, Tokens},
};

use crate::errors::to_py;

/// The fields of `zhuzi.vocab.MergeOptions`, which holds their defaults and says what they mean.
#[derive(FromPyObject)]
pub struct MergeOptions {
    policy: String,
    scripts: String,
    ascii: bool,
    digits: bool,
    max_length: Option<usize>,
    top: Option<usize>,
    repair: bool,
}

impl MergeOptions {
    fn into_core(self) -> PyResult<vocab::MergeOptions> {
        let han = match self.scripts.as_str() {
            "han" => true,
            "all" => false,
            other => {
                return Err(PyValueError::new_err(format!("scripts must be 'han' or 'all', not {other:?}")));
            }
        };
        Ok(vocab::MergeOptions {
            policy: self.policy.parse().map_err(to_py)?,
            filters: Filters {
                han,
                no_ascii: !self.ascii,
                no_digits: !self.digits,
                max_length: self.max_length,
            },
            top: self.top,
            repair: self.repair,
        })
    }
}

/// A base, donors and tokens beside the base's model, read.
struct Parts {
    base: SpmModel,
    donors: Vec<SpmModel>,
    kept: Vec<String>,
    other: Vec<String>,
}

/// A model file's bytes, and the name of the file.
type Named = (Vec<u8>, String);

impl Parts {
    fn read(base: &Named, donors: &[Named], kept: Vec<String>, other: Vec<String>) -> Result<Self> {
        let donors = donors.iter().map(|(bytes, origin)| SpmModel::from_bytes(bytes, origin));
        Ok(Self {
            base: SpmModel::from_bytes(&base.0, &base.1)?,
            donors: donors.collect::<Result<_>>()?,
            kept,
            other,
        })
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens { kept: &self.kept, other: &self.other }
    }
}

/// A new piece: text, kind, number of its donor, how often it was made.
type NewPiece = (String, &'static str, Option<usize>, Option<u64>);

/// A piece that stayed out: text, kind, number of its donor, why, and what about.
type LeftOut = (String, &'static str, usize, &'static str, String);

/// What `zhuzi._core._Merged` describes.
#[derive(IntoPyObject)]
pub struct Merged {
    model: Py<PyBytes>,
    new: Vec<NewPiece>,
    left_out: Vec<LeftOut>,
    overruled: Vec<String>,
    dead: Vec<u32>,
    killed: Vec<u32>,
}

/// Merges models given as bytes; `kept` and `other` are the tokens beside the base's model.
#[pyfunction]
pub fn merge_vocab(
    py: Python<'_>,
    base: Named,
    donors: Vec<Named>,
    kept: Vec<String>,
    other: Vec<String>,
    options: MergeOptions,
    counts: Option<Vec<u64>>,
) -> PyResult<Merged> {
    let options = options.into_core()?;
    let work = || {
        let parts = Parts::read(&base, &donors, kept, other)?;
        let merged = vocab::merge(&parts.base, &parts.donors, parts.tokens(), &options, counts.as_deref())?;
        Ok((merged.model.to_bytes(), merged))
    };
    let (bytes, merged) = py.detach(work).map_err(to_py)?;
    let vocab::Merged { new, left_out, overruled, dead, killed, .. } = merged;
    let new = new.into_iter().map(|piece| (piece.text, piece.kind.name(), piece.donor, piece.uses));
    let left_out = left_out
        .into_iter()
        .map(|piece| (piece.text, piece.kind.name(), piece.donor, piece.reason.name(), piece.about));
    Ok(Merged {
        model: PyBytes::new(py, &bytes).unbind(),
        new: new.collect(),
        left_out: left_out.collect(),
        overruled,
        dead,
        killed,
    })
}

/// The model with which the use of the donors' pieces is counted, as bytes.
#[pyfunction]
pub fn counting_model(
    py: Python<'_>,
    base: Named,
    donors: Vec<Named>,
    tokens: Vec<String>,
    options: MergeOptions,
) -> PyResult<Py<PyBytes>> {
    let options = options.into_core()?;
    let work = || {
        let parts = Parts::read(&base, &donors, Vec::new(), tokens)?;
        let model = vocab::counting_model(&parts.base, &parts.donors, parts.tokens(), &options)?;
        Ok(model.to_bytes())
    };
    let bytes = py.detach(work).map_err(to_py)?;
    Ok(PyBytes::new(py, &bytes).unbind())
}
