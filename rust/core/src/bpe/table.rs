//! What a model says about symbols: which merge into what, in which order, and which id each one has.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::spm::{PieceKind, SpmModel};

/// A symbol: the id of a piece that text can make, or a character that is no piece by itself, marked by
/// [`CHARACTER`].
pub type Symbol = u32;

/// Set in the symbol of a character that is no piece; the other bits are its code point.
pub const CHARACTER: Symbol = 1 << 31;

/// What a pair of neighbouring symbols becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Place in the order of scores, 0 merging first; equal scores share a rank.
    pub rank: u32,
    /// The symbol that replaces the pair.
    pub result: Symbol,
}

/// The merge rules of one model.
#[derive(Debug)]
pub struct Table {
    /// Symbols of the characters up to U+FFFF.
    bmp: Box<[Symbol]>,
    /// Symbols of the others, where they are pieces.
    astral: FxHashMap<char, Symbol>,
    merges: FxHashMap<(Symbol, Symbol), Merge>,
    /// Neighbouring characters that some piece holds side by side.
    links: FxHashSet<(char, char)>,
    /// The id each piece is written as: its own, unless a reserved piece has the same text.
    ids: Vec<u32>,
    unused: Vec<bool>,
    has_unused: bool,
}

impl Table {
    /// Derives the rules from the pieces. Work and memory grow with the total length of the pieces.
    pub fn new(model: &SpmModel) -> Self {
        let pieces = model.pieces();
        let mergeable = || (0u32..).zip(pieces).filter(|(_, p)| p.kind.matches_text());
        let by_text: FxHashMap<&str, Symbol> = mergeable().map(|(id, p)| (p.text.as_str(), id)).collect();
        let symbol = |text: &str| {
            by_text.get(text).copied().or_else(|| single_char(text).map(|c| CHARACTER | c as u32))
        };

        let ranks = dense_ranks(mergeable().map(|(_, p)| p.score));
        let mut merges = FxHashMap::default();
        let mut links = FxHashSet::default();
        for (id, piece) in mergeable() {
            let Some(&rank) = ranks.get(&order_of(piece.score)) else { continue };
            for (at, c) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                links.extend(left.chars().next_back().map(|before| (before, c)));
                if let (Some(left), Some(right)) = (symbol(left), symbol(right)) {
                    merges.insert((left, right), Merge { rank, result: id });
                }
            }
        }

        let mut bmp: Box<[Symbol]> = (0..1 << 16).map(|c| CHARACTER | c).collect();
        let mut astral = FxHashMap::default();
        for (id, piece) in mergeable() {
            if let Some(c) = single_char(&piece.text) {
                match bmp.get_mut(c as usize) {
                    Some(slot) => *slot = id,
                    None => _ = astral.insert(c, id),
                }
            }
        }

        // SentencePiece looks a finished symbol up among the reserved pieces first (`PieceToId`).
        let mut ids: Vec<u32> = (0u32..).zip(pieces).map(|(id, _)| id).collect();
        for (id, piece) in (0u32..).zip(pieces).filter(|(_, p)| !p.kind.matches_text()) {
            if let Some(&twin) = by_text.get(piece.text.as_str()) {
                ids[twin as usize] = id;
            }
        }
        let unused: Vec<bool> = pieces.iter().map(|p| p.kind == PieceKind::Unused).collect();
        let has_unused = unused.contains(&true);
        Self { bmp, astral, merges, links, ids, unused, has_unused }
    }

    /// The symbol of one character.
    #[inline]
    pub fn symbol(&self, c: char) -> Symbol {
        match self.bmp.get(c as usize) {
            Some(&symbol) => symbol,
            None => self.astral.get(&c).copied().unwrap_or(CHARACTER | c as u32),
        }
    }

    /// What two neighbours become, if anything.
    #[inline]
    pub fn merge(&self, left: Symbol, right: Symbol) -> Option<Merge> {
        self.merges.get(&(left, right)).copied()
    }

    /// True if some piece holds these characters side by side. Where it is false, no merge ever crosses
    /// (theorem P1), because every result of a merge is a piece.
    #[inline]
    pub fn linked(&self, left: char, right: char) -> bool {
        self.links.contains(&(left, right))
    }

    /// The id a finished symbol is written as, or the character that is no piece.
    #[inline]
    pub fn finish(&self, symbol: Symbol) -> std::result::Result<u32, char> {
        match self.ids.get(symbol as usize) {
            Some(&id) => Ok(id),
            None => Err(char::from_u32(symbol & !CHARACTER).unwrap_or(char::REPLACEMENT_CHARACTER)),
        }
    }

    /// True for UNUSED pieces, which are split again at the end.
    pub fn is_unused(&self, symbol: Symbol) -> bool {
        self.unused.get(symbol as usize).copied().unwrap_or(false)
    }

    /// True if the model has UNUSED pieces at all; then no text may be cut.
    pub fn has_unused(&self) -> bool {
        self.has_unused
    }
}

/// The character, if the text is just one.
fn single_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// A score as SentencePiece 0.2.3 orders it: -0.0 below 0.0 (IEEE total order).
fn order_of(score: f32) -> i32 {
    let bits = score.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// Rank of each distinct score, the highest score first.
fn dense_ranks(scores: impl Iterator<Item = f32>) -> FxHashMap<i32, u32> {
    let mut keys: Vec<i32> = scores.map(order_of).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    keys.dedup();
    keys.into_iter().zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_ordered_totally() {
        let scores = [f32::NEG_INFINITY, -2.5, -1.0, -0.0, 0.0, 1e-20, 3.0, f32::INFINITY];
        assert!(scores.map(order_of).is_sorted_by(|a, b| a < b));
        let ranks = dense_ranks([0.0, 3.0, 0.0, -0.0].into_iter());
        assert_eq!((ranks[&order_of(3.0)], ranks[&order_of(0.0)], ranks[&order_of(-0.0)]), (0, 1, 2));
    }
}
