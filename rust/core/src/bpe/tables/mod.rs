//! What the engine knows of a model, derived once: characters as codes, which of them any piece holds side by side, and
//! all merges.

pub mod codes;
pub mod merges;
pub mod pairs;

use rustc_hash::FxHashMap;

use self::{
    codes::{ASTRAL, Codes, SPACE},
    merges::Merges,
    pairs::{Link, PIECE, Pairs, symbol_of},
};
use super::{
    heap::HeapMerger,
    ranks::ScoreRanks,
    sink::Fallback,
    symbol::{Merge, NO_MERGE, NO_RANK, NONE, Symbol},
};
use crate::spm::{Piece, PieceKind, SpmModel};

/// The tables of one model.
///
/// A symbol is the id of a piece; or the vocabulary's size plus a code, for a character that is no piece; or, after
/// these, an UNUSED piece.
#[derive(Debug)]
pub struct Tables {
    /// Symbols below this are ids of pieces.
    pub vocab: u32,
    /// Characters as codes.
    pub codes: Codes,
    /// Characters and pairs of characters.
    pub pairs: Pairs,
    /// All merges.
    pub merges: Merges,
    /// Characters of a symbol (a character that is no piece has one).
    lengths: Box<[u16]>,
    /// What is written in the end for each UNUSED piece that merges make, in symbols of other kinds. Their own symbols
    /// follow those of the characters.
    pub splits: Box<[Box<[Symbol]>]>,
    /// What is written for characters that are no piece.
    pub fallback: Fallback,
}

impl Tables {
    /// Derives the tables; `None` for a model that needs the plain encoder: spaces that are not escaped, or sizes beyond
    /// the packed words.
    pub fn new(model: &SpmModel) -> Option<Self> {
        let pieces = model.pieces();
        let vocab = u32::try_from(pieces.len()).ok()?;
        // A USER_DEFINED piece is cut out of the text wherever it occurs, so that no merge ever makes one. An UNUSED one
        // of one character is as good as none.
        let normal = (0u32..).zip(pieces).filter(|(_, p)| p.kind == PieceKind::Normal);
        let unused = pieces.iter().filter(|p| p.kind == PieceKind::Unused && p.text.chars().nth(1).is_some());
        let first_unused = vocab.checked_add(1 << 16)?;
        let unused: Vec<_> = (first_unused..).zip(unused).collect();
        if !model.normalizer().escape_whitespaces || first_unused.checked_add(unused.len() as u32)? >= NONE {
            return None;
        }
        let makeable = || normal.clone().chain(unused.iter().copied());
        let codes = Codes::new(makeable().map(|(_, p)| p.text.as_str()))?;

        let fallback = Fallback::new(model);
        let mut symbols: Box<[Symbol]> = (0..1 << 16).map(|code| vocab + code).collect();
        for byte in (0..0x80).filter(|&byte| u16::from(byte) != SPACE) {
            // A character of one byte that is no piece is that byte's piece, at once and for good: byte pieces take part
            // in no merge.
            if let Some(id) = fallback.byte(byte) {
                symbols[usize::from(byte)] = id;
            }
        }
        let mut words = Vec::with_capacity(pieces.len());
        for (symbol, piece) in makeable() {
            let text: Vec<u16> = piece.text.chars().map(|c| codes.code(c)).collect();
            if let [code] = text[..] {
                symbols[usize::from(code)] = symbol;
            } else if text.len() <= usize::from(u16::MAX) {
                words.push(Word { symbol, text, made_of: None });
            } else {
                return None;
            }
        }
        let symbols: &[Symbol; 1 << 16] = symbols[..].try_into().ok()?;

        let ranks = rank_symbols(pieces, &unused);
        let (merges, lengths) = find_merges(&mut words, symbols, &ranks)?;
        let common = most_common(words.iter().map(|word| ranks[word.symbol as usize]));
        let mut links: FxHashMap<(u16, u16), Link> = FxHashMap::default();
        for Word { symbol, text, .. } in &words {
            let is_common = Some(ranks[*symbol as usize]) == common;
            for pair in text.windows(2) {
                let link = links.entry((pair[0], pair[1])).or_insert(Link { piece: None, one_score: true });
                link.one_score &= is_common;
                if text.len() == 2 {
                    link.piece = Some(*symbol);
                }
            }
        }
        debug_assert!(!links.keys().any(|&(a, b)| a == ASTRAL || b == ASTRAL));
        let pairs = Pairs::new(symbols, &links)?;
        let splits = split_unused(&words, first_unused, unused.len());
        Some(Self { vocab, codes, pairs, merges, lengths, splits, fallback })
    }

    /// The merge of two neighbouring characters.
    #[inline]
    pub fn char_merge(&self, left: u16, right: u16) -> Merge {
        match self.pairs.link(left, right) {
            Some(entry) if entry & PIECE != 0 => self.merges.making(symbol_of(entry)),
            _ => NO_MERGE,
        }
    }

    /// True if text may be cut between these: no merge crosses, and the left part does not end in the unknown
    /// token, into which the right part's first character might fuse.
    pub fn may_cut(&self, left: char, right: char) -> bool {
        let [left, right] = [left, right].map(|c| self.codes.code(c));
        self.pairs.link(left, right).is_none() && self.pairs.symbol(left) < self.vocab
    }

    /// Characters that a symbol covers.
    #[inline]
    pub fn length(&self, symbol: Symbol) -> usize {
        self.lengths.get(symbol as usize).map_or(1, |&length| length.into())
    }
}

/// The rank of each symbol that is a piece.
fn rank_symbols(pieces: &[Piece], unused: &[(Symbol, &Piece)]) -> Vec<u32> {
    let scores = ScoreRanks::new(pieces.iter().map(|piece| piece.score));
    let mut ranks: Vec<u32> = pieces.iter().map(|piece| scores.of(piece.score)).collect();
    if let [(first, _), ..] = unused {
        ranks.resize(*first as usize, NO_RANK);
        ranks.extend(unused.iter().map(|(_, piece)| scores.of(piece.score)));
    }
    ranks
}

/// A piece of two or more characters.
struct Word {
    symbol: Symbol,
    text: Vec<u16>,
    /// The pair that makes it.
    made_of: Option<[Symbol; 2]>,
}

/// The merges that can happen, one per piece, and the lengths of symbols; `None` if the table does not take them. The
/// words are sorted by length, and those that nothing makes are dropped.
///
/// A piece can be made, in whatever text, only as its own text alone makes it: until it is there, no merge has
/// crossed its ends. So each piece is encoded with the shorter ones, and if two symbols are left, these are the
/// one pair that ever makes it; if more are left, no text makes it at all, and it is dropped.
fn find_merges(
    words: &mut Vec<Word>,
    symbols: &[Symbol; 1 << 16],
    ranks: &[u32],
) -> Option<(Merges, Box<[u16]>)> {
    words.sort_by_key(|word| word.text.len());
    let pairs = words.partition_point(|word| word.text.len() == 2);
    let (short, longer) = words.split_at_mut(pairs);
    let two: FxHashMap<&[u16], Symbol> = short.iter().map(|word| (&word.text[..], word.symbol)).collect();
    let mut merges = Merges::new(longer.len(), ranks.to_vec());
    let mut lengths = vec![1u16; ranks.len()];
    let (mut merger, mut parts) = (HeapMerger::default(), Vec::new());
    for Word { symbol, text, made_of } in longer {
        lengths[*symbol as usize] = text.len() as u16;
        parts.clear();
        parts.extend(text.iter().map(|&code| symbols[usize::from(code)]));
        let mut at = 0;
        merger.merge(&mut parts, |left, right| {
            // The first pairs are those of characters, from left to right.
            at += 1;
            match text.get(at - 1..=at) {
                Some(pair) => two.get(pair).map_or(NO_MERGE, |&id| merges.making(id)),
                None => merges.find(left, right),
            }
        });
        if let [left, right] = parts[..] {
            if !merges.insert(left, right, *symbol) {
                return None;
            }
            *made_of = Some([left, right]);
        }
    }
    for Word { symbol, text, made_of } in short {
        lengths[*symbol as usize] = 2;
        *made_of = Some([0, 1].map(|i| symbols[usize::from(text[i])]));
    }
    words.retain(|word| word.made_of.is_some());
    Some((merges, lengths.into()))
}

/// What UNUSED pieces are split into: the pair that makes them, and of that what is UNUSED again. `words` are sorted by
/// length.
fn split_unused(words: &[Word], first: Symbol, n: usize) -> Box<[Box<[Symbol]>]> {
    let mut splits = vec![Box::default(); n];
    for word in words.iter().filter(|word| word.symbol >= first) {
        let mut split = Vec::new();
        for part in word.made_of.into_iter().flatten() {
            match part.checked_sub(first) {
                Some(unused) => split.extend_from_slice(&splits[unused as usize]),
                None => split.push(part),
            }
        }
        splits[(word.symbol - first) as usize] = split.into();
    }
    splits.into()
}

fn most_common(ranks: impl Iterator<Item = u32>) -> Option<u32> {
    let mut counts: FxHashMap<u32, u32> = FxHashMap::default();
    ranks.for_each(|rank| *counts.entry(rank).or_default() += 1);
    counts.into_iter().max_by_key(|&(rank, count)| (count, rank)).map(|(rank, _)| rank)
}
