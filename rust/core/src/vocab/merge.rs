use std::str::FromStr;

use rustc_hash::FxHashMap;

use crate::{
    Error, Result,
    spm::{ModelKind, PieceKind, SpmModel},
};

/// How the pieces of the donor enter the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergePolicy {
    /// As published (arXiv 2304.08177, `merge_tokenizers.py`): every piece that the base lacks, in the
    /// donor's order, with score 0.
    Paper,
}

impl FromStr for MergePolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "paper" => Ok(Self::Paper),
            _ => Err(Error::Argument(format!("policy `{name}` is unknown; there is: paper").into())),
        }
    }
}

/// A merged model and how it came about.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The base with the new pieces after its own; its old ids keep their meaning.
    pub model: SpmModel,
    /// Pieces appended.
    pub appended: usize,
    /// Pieces of the donor that the base already had.
    pub shared: usize,
    /// Pieces of the donor that no text makes (control, unknown, byte) and that the base lacks: left out.
    pub left_out: Vec<String>,
    /// User-defined pieces of the donor that were appended as such.
    pub user_defined: Vec<String>,
    /// User-defined pieces of the donor that the base has already, and not as user-defined: they stay what
    /// they are in the base.
    pub overruled: Vec<String>,
}

/// Appends the pieces of `donor` that `base` lacks; tokens beside the base's model (`beside`) count as its own.
///
/// User-defined and unused pieces keep their kind: the first are found in text before anything is merged, the
/// others never stay in an encoding.
///
/// # Errors
/// [`Error::Model`] if the base is not BPE (its scores would mean something else), or if the donor adds
/// nothing.
pub fn merge(base: &SpmModel, donor: &SpmModel, policy: MergePolicy, beside: &[String]) -> Result<Merged> {
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
    let mut known: FxHashMap<&str, PieceKind> =
        beside.iter().map(|token| (token.as_str(), PieceKind::Control)).collect();
    known.extend(base.pieces().iter().map(|piece| (piece.text.as_str(), piece.kind)));
    let mut merged = Merged {
        model: base.clone(),
        appended: 0,
        shared: 0,
        left_out: Vec::new(),
        user_defined: Vec::new(),
        overruled: Vec::new(),
    };
    for piece in donor.pieces() {
        if let Some(&kind) = known.get(piece.text.as_str()) {
            merged.shared += 1;
            if piece.kind == PieceKind::UserDefined && kind != PieceKind::UserDefined {
                merged.overruled.push(piece.text.clone());
            }
            continue;
        }
        known.insert(&piece.text, piece.kind);
        match piece.kind {
            PieceKind::Control | PieceKind::Unknown | PieceKind::Byte => {
                merged.left_out.push(piece.text.clone());
            }
            PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                merged.model.append(&piece.text, 0.0, piece.kind);
                merged.appended += 1;
                if piece.kind == PieceKind::UserDefined {
                    merged.user_defined.push(piece.text.clone());
                }
            }
        }
    }
    if merged.appended == 0 {
        return Err(Error::model(
            donor.origin(),
            format!("the base {} already has every piece of this donor; give another donor", base.origin()),
        ));
    }
    Ok(merged)
}
