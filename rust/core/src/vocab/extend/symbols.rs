//! Symbols: the base's pieces, the characters that it lacks, and the pieces learned.

use rustc_hash::{FxHashMap, FxHashSet};

use super::cut::{SPACE, Scripts};
use crate::vocab::script::is_han;

/// A prime below which hashes of texts are computed: `hash(ab) = hash(a) * BASE^len(b) + hash(b)`, so that the text of a
/// pair is known by the hashes of its parts.
const PRIME: u64 = (1 << 61) - 1;
const BASE: u64 = 0x0123_4567_89AB_CDEF;

/// Both are below the prime, which is one less than a power of two: what is above the power counts once more.
fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    plus(product as u64 & PRIME, (product >> 61) as u64)
}

fn plus(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= PRIME { sum - PRIME } else { sum }
}

/// The hash of a text.
pub(super) fn hash_of(text: &str) -> u64 {
    text.chars().fold(0, |hash, c| plus(times(hash, BASE), u64::from(u32::from(c)) + 1))
}

/// In place of lengths that a byte does not hold.
const LONG: u8 = u8::MAX;

/// What is asked of a symbol in the inner loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    hash: u64,
    /// `BASE` to the power of its length.
    power: u64,
    /// Its length in characters.
    length: u32,
    has_han: bool,
    has_space: bool,
    /// False for a character that is no piece yet: it takes part in no merge.
    pub is_piece: bool,
}

/// The symbols by their numbers: those of the base's pieces are their ids.
#[derive(Debug)]
pub(super) struct Symbols {
    all: Vec<Symbol>,
    /// Their lengths once more, in little memory: walks along the runs wait for nothing else. [`LONG`] for longer ones.
    lengths: Vec<u8>,
    texts: Vec<Box<str>>,
    /// The pieces that text is merged to, by the hashes of their texts.
    pieces: FxHashMap<u64, u32>,
    /// Hashes of texts that must not become pieces.
    forbidden: FxHashSet<u64>,
    scripts: Scripts,
    max_length: u32,
}

impl Symbols {
    pub fn new(scripts: Scripts, max_length: usize, forbidden: impl Iterator<Item = u64>) -> Self {
        let max_length = u32::try_from(max_length).unwrap_or(u32::MAX);
        let forbidden = forbidden.collect();
        Self {
            all: Vec::new(),
            lengths: Vec::new(),
            texts: Vec::new(),
            pieces: FxHashMap::default(),
            forbidden,
            scripts,
            max_length,
        }
    }

    /// Adds a symbol; returns its number.
    pub fn add(&mut self, text: &str, is_piece: bool) -> u32 {
        let number = self.all.len() as u32;
        let length = text.chars().count() as u32;
        let power = (0..length).fold(1, |power, _| times(power, BASE));
        let symbol = Symbol {
            hash: hash_of(text),
            power,
            length,
            has_han: text.chars().any(is_han),
            has_space: text.contains(SPACE),
            is_piece,
        };
        if is_piece {
            self.pieces.insert(symbol.hash, number);
        }
        self.all.push(symbol);
        self.lengths.push(u8::try_from(length).unwrap_or(LONG));
        self.texts.push(text.into());
        number
    }

    /// Makes a piece of a character.
    pub fn activate(&mut self, number: u32) {
        self.all[number as usize].is_piece = true;
        self.pieces.insert(self.all[number as usize].hash, number);
    }

    /// Adds the pair's text as a piece.
    pub fn join(&mut self, left: u32, right: u32) -> u32 {
        let text = [self.text(left), self.text(right)].concat();
        self.add(&text, true)
    }

    pub fn get(&self, number: u32) -> Symbol {
        self.all[number as usize]
    }

    /// The length of a symbol in characters.
    pub fn length(&self, number: u32) -> u32 {
        match self.lengths[number as usize] {
            LONG => self.all[number as usize].length,
            length => length.into(),
        }
    }

    pub fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// The piece that the pair's text is, if there is one.
    pub fn piece_of(&self, left: u32, right: u32) -> Option<u32> {
        let (left, right) = (self.get(left), self.get(right));
        let hash = plus(times(left.hash, right.power), right.hash);
        self.pieces.get(&hash).copied().filter(|&piece| self.get(piece).length == left.length + right.length)
    }

    /// True if text is merged to both.
    pub fn are_pieces(&self, left: u32, right: u32) -> bool {
        self.get(left).is_piece && self.get(right).is_piece
    }

    /// True if the pair's text is that of a piece, and no unknown character is among it.
    #[cfg(test)]
    pub fn are(&self, left: u32, right: u32, piece: u32) -> bool {
        self.are_pieces(left, right) && self.piece_of(left, right) == Some(piece)
    }

    /// True if a character may become a piece.
    pub fn may_be_piece(&self, character: u32) -> bool {
        (self.scripts == Scripts::All || self.get(character).has_han) && self.is_free(self.text(character))
    }

    /// True if the text may become a piece.
    pub fn is_free(&self, text: &str) -> bool {
        !self.forbidden.contains(&hash_of(text))
    }

    /// True if both are pieces and so may their joint text be.
    pub fn may_join(&self, left: u32, right: u32) -> bool {
        let (left, right) = (self.get(left), self.get(right));
        left.is_piece
            && right.is_piece
            && !right.has_space
            && left.length + right.length <= self.max_length
            && (self.scripts == Scripts::All || left.has_han || right.has_han)
            && (self.forbidden.is_empty() || {
                let hash = plus(times(left.hash, right.power), right.hash);
                !self.forbidden.contains(&hash)
            })
    }

    /// The pairs of pieces that make the text of a piece: for `中国人` both `中 国人` and `中国 人`.
    pub fn splits(&self, piece: u32) -> Vec<(u32, u32)> {
        let text = self.text(piece);
        let mut found = Vec::new();
        for (at, _) in text.char_indices().skip(1) {
            let left = self.pieces.get(&hash_of(&text[..at]));
            if let Some((&left, &right)) = left.zip(self.pieces.get(&hash_of(&text[at..]))) {
                found.push((left, right));
            }
        }
        found
    }
}
