//! The plain encoder, for models that the engine's tables do not take (see [`super::tables::Tables::new`]): a text is
//! merged as a whole, nothing is cut, and UNUSED pieces are split the way they were last offered, as SentencePiece does
//! it.

use aho_corasick::AhoCorasick;
use rustc_hash::FxHashMap;

use super::{
    heap::HeapMerger,
    ranks::ScoreRanks,
    sink::{Fallback, Sink},
    symbol::{Merge, NO_MERGE, Symbol},
};
use crate::spm::{Piece, PieceKind, SpmModel};

/// Number of code points. From the vocabulary's size on, so many symbols are the characters that are no piece; those after
/// them are the USER_DEFINED pieces that were cut out of the text, which merge with nothing.
const CODE_POINTS: Symbol = 0x11_0000;

/// The merges of one model.
#[derive(Debug)]
pub struct PlainEncoder {
    /// Symbols below this are ids of pieces.
    vocab: u32,
    /// Symbols of the characters up to U+FFFF.
    bmp: Box<[Symbol]>,
    /// Symbols of the others, where they are pieces.
    astral: FxHashMap<char, Symbol>,
    merges: FxHashMap<(Symbol, Symbol), Merge>,
    unused: Vec<bool>,
    /// What is written for characters that are no piece.
    pub fallback: Fallback,
}

impl PlainEncoder {
    /// Derives the merges from the pieces. Work and memory grow with the total length of the pieces.
    pub fn new(model: &SpmModel) -> Self {
        let pieces = model.pieces();
        let vocab = pieces.len() as u32;
        let mergeable = || (0u32..).zip(pieces).filter(|(_, p)| p.kind.matches_text());
        // An UNUSED piece of one character is as good as none.
        let is_symbol = |p: &Piece| p.kind != PieceKind::Unused || single_char(&p.text).is_none();
        let symbols = || mergeable().filter(|(_, p)| is_symbol(p));
        let by_text: FxHashMap<&str, Symbol> = symbols().map(|(id, p)| (p.text.as_str(), id)).collect();
        let symbol = |text: &str| {
            by_text.get(text).copied().or_else(|| single_char(text).map(|c| vocab + u32::from(c)))
        };

        let ranks = ScoreRanks::new(mergeable().map(|(_, p)| p.score));
        let mut merges = FxHashMap::default();
        for (id, piece) in mergeable() {
            let rank = ranks.of(piece.score);
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(left), Some(right)) = (symbol(left), symbol(right)) {
                    merges.insert((left, right), Merge { rank, result: id });
                }
            }
        }

        let mut bmp: Box<[Symbol]> = (0..1 << 16).map(|c| vocab + c).collect();
        let mut astral = FxHashMap::default();
        for (id, piece) in symbols() {
            if let Some(c) = single_char(&piece.text) {
                match bmp.get_mut(c as usize) {
                    Some(symbol) => *symbol = id,
                    None => _ = astral.insert(c, id),
                }
            }
        }

        let unused: Vec<bool> = pieces.iter().map(|p| p.kind == PieceKind::Unused).collect();
        Self { vocab, bmp, astral, merges, unused, fallback: Fallback::new(model) }
    }

    fn symbol(&self, c: char) -> Symbol {
        match self.bmp.get(c as usize) {
            Some(&symbol) => symbol,
            None => self.astral.get(&c).copied().unwrap_or(self.vocab + u32::from(c)),
        }
    }

    /// Writes the ids of normalised text.
    pub fn encode(
        &self,
        text: &str,
        user_defined: Option<&(AhoCorasick, Vec<u32>)>,
        scratch: &mut PlainScratch,
        sink: &mut Sink<'_>,
    ) {
        let PlainScratch { symbols, merger } = scratch;
        symbols.clear();
        let mut rest = 0;
        if let Some((matcher, ids)) = user_defined {
            for found in matcher.find_iter(text) {
                symbols.extend(text[rest..found.start()].chars().map(|c| self.symbol(c)));
                symbols.push(self.vocab + CODE_POINTS + ids[found.pattern()]);
                rest = found.end();
            }
        }
        symbols.extend(text[rest..].chars().map(|c| self.symbol(c)));

        // How an UNUSED piece was last offered to a merge: the pair that would make it.
        let mut splits: FxHashMap<Symbol, (Symbol, Symbol)> = FxHashMap::default();
        merger.merge(symbols, |left, right| {
            let merge = self.merges.get(&(left, right)).copied().unwrap_or(NO_MERGE);
            if merge != NO_MERGE && self.is_unused(merge.result) {
                splits.insert(merge.result, (left, right));
            }
            merge
        });
        symbols.reverse();
        while let Some(symbol) = symbols.pop() {
            match splits.get(&symbol) {
                Some(&(left, right)) => symbols.extend([right, left]),
                None => self.write(symbol, sink),
            }
        }
    }

    fn write(&self, symbol: Symbol, sink: &mut Sink<'_>) {
        match symbol.checked_sub(self.vocab) {
            None => sink.piece(symbol),
            Some(code @ 0..CODE_POINTS) => {
                sink.unknown(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(cut_out) => sink.piece(cut_out - CODE_POINTS),
        }
    }

    /// True for UNUSED pieces, which are split again at the end.
    fn is_unused(&self, symbol: Symbol) -> bool {
        self.unused.get(symbol as usize).copied().unwrap_or(false)
    }
}

/// Working memory of the plain encoder; grows with the longest text.
#[derive(Debug, Default)]
pub struct PlainScratch {
    symbols: Vec<Symbol>,
    merger: HeapMerger,
}

/// The character, if the text is just one.
fn single_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}
