use std::str::FromStr;

use rustc_hash::FxHashSet;

use crate::{
    Error, Result,
    spm::{ModelKind, PieceKind, SpmModel},
};

/// How the pieces of the donor enter the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergePolicy {
    /// As published (arXiv 2304.08177, `merge_tokenizers.py`): every piece that the base lacks, in the
    /// donor's order, as a NORMAL piece with score 0.
    Paper,
}

impl FromStr for MergePolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "paper" => Ok(Self::Paper),
            _ => Err(Error::Argument(format!("policy `{name}` is unknown; there is: paper"))),
        }
    }
}

/// A merged model and how it came about.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The base with the new pieces behind its own; its old ids keep their meaning.
    pub model: SpmModel,
    /// Pieces appended.
    pub appended: usize,
    /// Pieces of the donor that the base already had.
    pub shared: usize,
    /// Pieces of the donor that stand for no text (control, unknown, byte) and that the base lacks: left out.
    pub left_out: usize,
}

/// Appends the pieces of `donor` that `base` lacks.
///
/// # Errors
/// [`Error::Model`] if the base is not BPE (its scores would mean something else), or if the donor adds
/// nothing.
pub fn merge(base: &SpmModel, donor: &SpmModel, policy: MergePolicy) -> Result<Merged> {
    let MergePolicy::Paper = policy;
    if base.kind() != ModelKind::Bpe {
        return Err(Error::model(
            base.origin(),
            format!(
                "a {} model cannot be the base of a merge, only BPE can (LLaMA's is); give it as the donor",
                base.kind().name()
            ),
        ));
    }
    let mut known: FxHashSet<&str> = base.pieces().iter().map(|p| p.text.as_str()).collect();
    let mut model = base.clone();
    let (mut shared, mut left_out) = (0, 0);
    for piece in donor.pieces() {
        if !known.insert(&piece.text) {
            shared += 1;
        } else if matches!(piece.kind, PieceKind::Control | PieceKind::Unknown | PieceKind::Byte) {
            left_out += 1;
        } else {
            model.append(&piece.text, 0.0);
        }
    }
    let appended = model.pieces().len() - base.pieces().len();
    if appended == 0 {
        return Err(Error::model(
            donor.origin(),
            format!("the base {} already has every piece of this donor; give another donor", base.origin()),
        ));
    }
    Ok(Merged { model, appended, shared, left_out })
}
