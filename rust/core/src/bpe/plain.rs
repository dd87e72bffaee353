//! The plain way, for models the fast one does not take (see [`super::rules::Rules::new`]): a text is merged as one run,
//! nothing is cut, and UNUSED pieces are split the way they were last offered, as SentencePiece does it.

use aho_corasick::AhoCorasick;
use rustc_hash::FxHashMap;

use super::{
    long::LongRun,
    merges::{Merge, NO_MERGE},
    rules::score_order,
    write::Sink,
};
use crate::spm::{Piece, PieceKind, SpmModel};

/// A symbol: the id of a piece that text can make, or a character that is no piece by itself, marked by
/// [`CHARACTER`].
pub type Symbol = u32;

/// Set in the symbol of a character that is no piece; the other bits are its code point.
pub const CHARACTER: Symbol = 1 << 31;

/// Set in the symbol of a USER_DEFINED piece that was cut out of the text: it merges with nothing.
const FROZEN: Symbol = 1 << 30;

/// The merge rules of one model.
#[derive(Debug)]
pub struct PlainRules {
    /// Symbols of the characters up to U+FFFF.
    bmp: Box<[Symbol]>,
    /// Symbols of the others, where they are pieces.
    astral: FxHashMap<char, Symbol>,
    merges: FxHashMap<(Symbol, Symbol), Merge>,
    unused: Vec<bool>,
    bytes: Option<Box<[u32; 256]>>,
    unk: u32,
}

impl PlainRules {
    /// Derives the rules from the pieces. Work and memory grow with the total length of the pieces.
    pub fn new(model: &SpmModel) -> Self {
        let pieces = model.pieces();
        let mergeable = || (0u32..).zip(pieces).filter(|(_, p)| p.kind.matches_text());
        // An UNUSED piece of one character is as good as none.
        let is_symbol = |p: &Piece| p.kind != PieceKind::Unused || single_char(&p.text).is_none();
        let symbols = || mergeable().filter(|(_, p)| is_symbol(p));
        let by_text: FxHashMap<&str, Symbol> = symbols().map(|(id, p)| (p.text.as_str(), id)).collect();
        let symbol = |text: &str| {
            by_text.get(text).copied().or_else(|| single_char(text).map(|c| CHARACTER | c as u32))
        };

        let ranks = dense_ranks(mergeable().map(|(_, p)| p.score));
        let mut merges = FxHashMap::default();
        for (id, piece) in mergeable() {
            let Some(&rank) = ranks.get(&score_order(piece.score)) else { continue };
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(left), Some(right)) = (symbol(left), symbol(right)) {
                    merges.insert((left, right), Merge { rank, result: id });
                }
            }
        }

        let mut bmp: Box<[Symbol]> = (0..1 << 16).map(|c| CHARACTER | c).collect();
        let mut astral = FxHashMap::default();
        for (id, piece) in symbols() {
            if let Some(c) = single_char(&piece.text) {
                match bmp.get_mut(c as usize) {
                    Some(slot) => *slot = id,
                    None => _ = astral.insert(c, id),
                }
            }
        }

        let unused: Vec<bool> = pieces.iter().map(|p| p.kind == PieceKind::Unused).collect();
        let bytes = model.byte_fallback().then(|| super::rules::byte_ids(pieces));
        Self { bmp, astral, merges, unused, bytes, unk: model.special_ids().unk }
    }

    fn symbol(&self, c: char) -> Symbol {
        match self.bmp.get(c as usize) {
            Some(&symbol) => symbol,
            None => self.astral.get(&c).copied().unwrap_or(CHARACTER | c as u32),
        }
    }

    /// Appends the ids of `text`.
    pub fn encode(
        &self,
        text: &str,
        user_defined: Option<&(AhoCorasick, Vec<u32>)>,
        scratch: &mut PlainScratch,
        sink: &mut Sink<'_>,
    ) {
        let PlainScratch { symbols, run } = scratch;
        symbols.clear();
        let mut rest = 0;
        if let Some((matcher, ids)) = user_defined {
            for found in matcher.find_iter(text) {
                symbols.extend(text[rest..found.start()].chars().map(|c| self.symbol(c)));
                symbols.push(FROZEN | ids[found.pattern()]);
                rest = found.end();
            }
        }
        symbols.extend(text[rest..].chars().map(|c| self.symbol(c)));

        // How an UNUSED piece was last offered to a merge: the pair that would make it.
        let mut splits: FxHashMap<Symbol, (Symbol, Symbol)> = FxHashMap::default();
        run.merge(symbols, |left, right| {
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
        if symbol & CHARACTER == 0 {
            sink.after_unknown = false;
            return sink.ids.push(symbol & !FROZEN);
        }
        if let Some(bytes) = &self.bytes {
            let c = char::from_u32(symbol & !CHARACTER).unwrap_or(char::REPLACEMENT_CHARACTER);
            let mut buffer = [0; 4];
            return sink.ids.extend(c.encode_utf8(&mut buffer).bytes().map(|b| bytes[usize::from(b)]));
        }
        if !sink.after_unknown {
            sink.ids.push(self.unk);
        }
        sink.after_unknown = sink.fuses;
    }

    /// True for UNUSED pieces, which are split again at the end.
    fn is_unused(&self, symbol: Symbol) -> bool {
        self.unused.get(symbol as usize).copied().unwrap_or(false)
    }
}

/// Working memory of the plain way; grows with the longest text.
#[derive(Debug, Default)]
pub struct PlainScratch {
    symbols: Vec<Symbol>,
    run: LongRun,
}

/// The character, if the text is just one.
fn single_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Rank of each distinct score, the highest score first.
fn dense_ranks(scores: impl Iterator<Item = f32>) -> FxHashMap<i32, u32> {
    let mut keys: Vec<i32> = scores.map(score_order).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    keys.dedup();
    keys.into_iter().zip(0..).collect()
}
