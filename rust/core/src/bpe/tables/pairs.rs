//! What is known of each character, and of each pair of neighbouring characters: one load each.
//!
//! The pairs live in a row-displaced table: a character has a row (where its pairs as the left one start) and a
//! column (its number as a right one), and the pair is at row + column. Rows are laid over each other where
//! their entries do not clash; an entry names its column, and as no two rows start at the same place, the
//! column tells whose entry it is. Row 0 is kept free for characters that are no pair's left one.

use std::cmp::Reverse;

use rustc_hash::FxHashMap;

use crate::bpe::symbol::{SYMBOL_BITS, Symbol};

/// How a character takes part in pairs, in one word: row (bits 40 to 63), symbol (16 to 39), column (0 to 15).
pub type CharWord = u64;
/// An entry of the pair table: flags (bits 40 to 63), what the pair becomes (16 to 39), column (0 to 15).
pub type PairWord = u64;

/// Bits of the column within a word.
pub const COLUMN_MASK: u64 = 0xFFFF;
/// Lowest bit of the symbol.
pub const SYMBOL_SHIFT: u32 = 16;
/// Lowest bit of the row.
const ROW_SHIFT: u32 = SYMBOL_SHIFT + SYMBOL_BITS;
/// Set in the word of a pair that is a piece.
pub const PIECE: u64 = 1 << 40;
/// Set in the word of a pair of which all pieces that hold it have the one common score.
pub const ONE_SCORE: u64 = 1 << 41;

/// Column of free entries; no character has it.
const FREE: PairWord = COLUMN_MASK;
/// Work that laying out the rows may take: real models need a hundredth.
const MAX_TRIES: usize = 1 << 28;

/// The tables of one model.
#[derive(Debug)]
pub struct Pairs {
    chars: Box<[CharWord; 1 << 16]>,
    pairs: Box<[PairWord]>,
}

/// What is looked up of 65 codes.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct LookUps {
    /// The entries of neighbours. (First, so that a vector of them is in one cache line.)
    pub entries: [PairWord; 64],
    /// The words of the codes.
    pub chars: [CharWord; 65],
}

impl Default for LookUps {
    fn default() -> Self {
        Self { entries: [0; 64], chars: [0; 65] }
    }
}

/// What is known of a pair of codes while the tables are built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// What the pair becomes, if it is a piece.
    pub piece: Option<Symbol>,
    /// False once a piece of another than the common score holds the pair.
    pub one_score: bool,
}

impl Pairs {
    /// Lays the tables out. `symbols` are those of all codes; `None` if a model is too strange for the packed
    /// words (no real one is).
    pub fn new(symbols: &[Symbol; 1 << 16], links: &FxHashMap<(u16, u16), Link>) -> Option<Self> {
        let mut columns = vec![0u16; 1 << 16];
        let mut used = 0u16;
        let mut rows: FxHashMap<u16, Vec<(u16, PairWord)>> = FxHashMap::default();
        let mut sorted: Vec<_> = links.iter().collect();
        sorted.sort_unstable_by_key(|(pair, _)| **pair);
        for (&(left, right), link) in sorted {
            let column = &mut columns[usize::from(right)];
            if *column == 0 {
                // Two numbers are kept back: 0 for no column, 0xFFFF for free entries.
                used = used.checked_add(1).filter(|&used| used < u16::MAX)?;
                *column = used;
            }
            let flags = link.piece.map_or(0, |_| PIECE) | if link.one_score { ONE_SCORE } else { 0 };
            let word = flags | (u64::from(link.piece.unwrap_or(0)) << SYMBOL_SHIFT) | u64::from(*column);
            rows.entry(left).or_default().push((*column, word));
        }
        let (row_of, pairs) = lay_out(rows.into_iter().collect(), usize::from(used))?;
        let chars = (0..1usize << 16).map(|code| {
            let row = row_of.get(&(code as u16)).copied().unwrap_or(0);
            (u64::from(row) << ROW_SHIFT)
                | (u64::from(symbols[code]) << SYMBOL_SHIFT)
                | u64::from(columns[code])
        });
        let chars: Box<[CharWord]> = chars.collect();
        Some(Self { chars: chars.try_into().ok()?, pairs })
    }

    /// The word of a code.
    #[inline(always)]
    pub fn char(&self, code: u16) -> CharWord {
        self.chars[usize::from(code)]
    }

    /// The symbol of a code.
    #[inline(always)]
    pub fn symbol(&self, code: u16) -> Symbol {
        symbol_of(self.char(code))
    }

    /// The entry where the pair would be; it is the pair's if [`Self::matches`].
    #[inline(always)]
    pub fn entry(&self, left: CharWord, right: CharWord) -> PairWord {
        let at = (left >> ROW_SHIFT) as usize + (right & COLUMN_MASK) as usize;
        debug_assert!(at < self.pairs.len());
        // SAFETY: the table is as long as the largest row plus the largest column plus one (`lay_out`), and
        // both words come from `chars`.
        unsafe { *self.pairs.get_unchecked(at) }
    }

    /// Looks up the words of 65 codes and the entries of their first `n` neighbour pairs, or of some more.
    #[inline(always)]
    pub fn look_up(&self, codes: &[u16; 65], n: usize, found: &mut LookUps) {
        let LookUps { chars, entries } = found;
        let mut left = self.char(codes[0]);
        chars[0] = left;
        for from in (0..n.min(64)).step_by(8) {
            for i in from..from + 8 {
                let right = self.char(codes[i + 1]);
                chars[i + 1] = right;
                entries[i] = self.entry(left, right);
                left = right;
            }
        }
    }

    /// True if `entry` belongs to a pair with `right`: some piece holds the two side by side. Where it is false
    /// no merge ever crosses (theorem P1).
    #[inline(always)]
    pub fn matches(entry: PairWord, right: CharWord) -> bool {
        (entry ^ right) & COLUMN_MASK == 0
    }

    /// The entry of a pair of codes, if they are linked.
    #[inline]
    pub fn link(&self, left: u16, right: u16) -> Option<PairWord> {
        let (left, right) = (self.char(left), self.char(right));
        let entry = self.entry(left, right);
        Self::matches(entry, right).then_some(entry)
    }
}

/// The symbol in a word: the character's own, or what the pair becomes.
#[inline(always)]
pub fn symbol_of(word: u64) -> Symbol {
    (word >> SYMBOL_SHIFT) as u32 & ((1 << SYMBOL_BITS) - 1)
}

/// A left code and its entries, with their columns.
type Row = (u16, Vec<(u16, PairWord)>);
type RowStarts = FxHashMap<u16, u32>;

/// First fit, the fullest rows first; a row is tried from where the last one of its size was put. Sixty-four starts are
/// tried at once.
fn lay_out(mut rows: Vec<Row>, columns: usize) -> Option<(RowStarts, Box<[PairWord]>)> {
    rows.sort_unstable_by_key(|(code, row)| (Reverse(row.len()), *code));
    let mut table = vec![FREE; columns + 1];
    let (mut entries, mut starts) = (Bits::default(), Bits::default());
    starts.set(0);
    let mut row_of = FxHashMap::default();
    let (mut start, mut size, mut tries) = (1, usize::MAX, 0);
    for (code, row) in rows {
        if row.len() != size {
            (start, size) = (1, row.len());
        }
        loop {
            let mut clashes = starts.window(start);
            for &(column, _) in &row {
                clashes |= entries.window(start + usize::from(column));
                tries += 1;
                if clashes == u64::MAX {
                    break;
                }
            }
            start += clashes.trailing_ones() as usize;
            if tries > MAX_TRIES || start >= 1 << 24 {
                return None;
            }
            if clashes != u64::MAX {
                break;
            }
        }
        if table.len() < start + columns + 1 {
            table.resize(start + columns + 1, FREE);
        }
        starts.set(start);
        row_of.insert(code, start as u32);
        for (column, word) in row {
            entries.set(start + usize::from(column));
            table[start + usize::from(column)] = word;
        }
    }
    Some((row_of, table.into()))
}

/// A set of numbers, one bit each.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// The bits of 64 numbers from `at` on.
    fn window(&self, at: usize) -> u64 {
        let word = |i: usize| u128::from(self.0.get(i).copied().unwrap_or(0));
        ((word(at / 64) | (word(at / 64 + 1) << 64)) >> (at % 64)) as u64
    }
}
