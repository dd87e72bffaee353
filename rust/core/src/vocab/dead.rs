use rustc_hash::FxHashSet;

use crate::{
    Error, Result,
    bpe::{Encoder, Scratch},
    normalize::{Normalizer, Part, PrefixMatcher},
    spm::{ModelKind, PieceKind, SpmModel},
};

/// A piece that no text ever becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its id.
    pub id: u32,
    /// What its own text becomes instead.
    pub becomes: Vec<u32>,
}

/// The NORMAL pieces that no text becomes, in the order of their ids.
///
/// Until a piece is made, no merge has crossed its ends: so it is made in no text if it is not made of its own text, and
/// otherwise in every text where characters stand around it that no piece holds. A piece is dead if its text, normalised
/// and without the dummy `▁`, becomes other ids: as merges of a higher score break it up, as a USER_DEFINED piece is cut
/// out of it, or as the normaliser rewrites it. UNUSED pieces change nothing here: what they are split into has been made
/// before.
///
/// Of a text that a character map rewrites to what it would rewrite again, nothing is known here; in `nmt_nfkc` only U+0344 is
/// one.
///
/// # Errors
/// [`Error::Model`] for a model that is not BPE, or whose character map is broken.
pub fn dead_pieces(model: &SpmModel) -> Result<Vec<Dead>> {
    if model.kind() != ModelKind::Bpe {
        return Err(Error::model(
            model.origin(),
            format!(
                "a {} model, and only of a BPE model can be told which pieces no text becomes",
                model.kind().name()
            ),
        ));
    }
    let encoder = Encoder::new(model)?;
    let forms = Forms::new(model)?;
    let (mut scratch, mut ids) = (Scratch::default(), Vec::new());
    let mut dead = Vec::new();
    for (id, piece) in (0u32..).zip(model.pieces()).filter(|(_, piece)| piece.kind == PieceKind::Normal) {
        let form = forms.of(&piece.text);
        ids.clear();
        encoder.encode(&form, true, &mut scratch, &mut ids);
        if form != piece.text || ids != [id] {
            dead.push(Dead { id, becomes: ids.clone() });
        }
    }
    Ok(dead)
}

/// What the normaliser makes of pieces in the middle of a text.
struct Forms {
    normalizer: Normalizer,
    /// A character that the normaliser leaves alone and no piece holds.
    stranger: char,
}

impl Forms {
    fn new(model: &SpmModel) -> Result<Self> {
        let user_defined = model.pieces().iter().filter(|piece| piece.kind == PieceKind::UserDefined);
        let user_defined = PrefixMatcher::new(user_defined.map(|piece| piece.text.as_bytes()));
        let normalizer = Normalizer::new(model.normalizer(), user_defined, model.origin())?;
        let known: FxHashSet<char> = model.pieces().iter().flat_map(|piece| piece.text.chars()).collect();
        let is_stranger = |c: &char| !known.contains(c) && normalizer.may_cut(*c, *c);
        let stranger = ('\0'..='\u{FFFF}').rev().find(is_stranger);
        let stranger = stranger
            .ok_or_else(|| Error::model(model.origin(), "its pieces hold every character up to U+FFFF"))?;
        Ok(Self { normalizer, stranger })
    }

    /// The piece's text as it comes out of the normaliser, which is the piece where some text does: written with spaces,
    /// or with `▁` (which some character maps leave alone, so that even where spaces are collapsed there can be several).
    fn of(&self, piece: &str) -> String {
        let spaced = self.normalized(&piece.replace('\u{2581}', " "));
        if spaced != piece && self.normalized(piece) == piece { piece.to_string() } else { spaced }
    }

    fn normalized(&self, text: &str) -> String {
        let mut out = Vec::new();
        let part = Part { is_first: false, is_last: false };
        let between = format!("{0}{text}{0}", self.stranger);
        self.normalizer.normalize_part(between.as_bytes(), part, true, &mut out);
        // Valid UTF-8, by the normaliser's promise.
        String::from_utf8_lossy(&out).trim_matches(self.stranger).to_string()
    }
}
