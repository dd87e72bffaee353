//! Which two symbols merge into which piece, in one hash table.

use crate::memory::prefetch;

/// A symbol of the engine: the id of a piece, or (from the vocabulary's size on) a character that is no
/// piece, as size + code, or, behind these, an UNUSED piece. Below [`NONE`].
pub type Symbol = u32;

/// Bits of a symbol.
pub const SYMBOL_BITS: u32 = 24;
/// No symbol.
pub const NONE: Symbol = (1 << (SYMBOL_BITS - 1)) - 1;

/// What a pair of neighbouring symbols becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Place in the order of scores, 0 merging first; equal scores share a rank.
    pub rank: u32,
    /// The symbol that replaces the pair.
    pub result: Symbol,
}

/// The rank of a pair that does not merge.
pub const NO_RANK: u32 = u32::MAX;
/// What a pair that does not merge becomes.
pub const NO_MERGE: Merge = Merge { rank: NO_RANK, result: NONE };

/// The merges whose result has three or more characters (those of two are in the pair table).
///
/// What counts is that the table stays in the second-level cache, so a slot has eight bytes only: the upper 40
/// bits check the key, the lower 23 are the result, and one bit says whether a merge that belongs there had to go to a
/// slot behind. So a pair that does not merge, which half of them do not, is known by its first slot, nearly always.
/// The check is exact. A key has 48 bits; times an odd number,
/// modulo 2^48, it has 48 bits that are as good a name of it. The upper ones say where the search begins, the
/// slot holds the lower 40, and as a search goes less than 256 slots far, the place tells the missing eight.
#[derive(Debug)]
pub struct Merges {
    slots: Box<[u64]>,
    shift: u32,
    /// Rank of the merge that makes a piece, by symbol.
    ranks: Box<[u32]>,
}

/// Set in a slot if the search may have to go on behind it.
const DISPLACED: u64 = 1 << (SYMBOL_BITS - 1);
/// If the check of a key is all ones, this leaves [`NONE`].
const EMPTY: u64 = !DISPLACED;
const MIN_BITS: u32 = 16;
/// Slots that a search looks at, at most. With 256 the check would not be exact.
const MAX_SEARCH: usize = 255;
/// Odd, times 2^16: so the 48 bits stand at the top of the word.
const FACTOR: u64 = 0x9E37_79B9_7F4B << 16;

impl Merges {
    /// A table for up to `entries` merges into pieces of these ranks.
    pub fn new(entries: usize, ranks: Vec<u32>) -> Self {
        let bits = (entries * 3 / 2).next_power_of_two().trailing_zeros().max(MIN_BITS);
        Self { slots: vec![EMPTY; 1 << bits].into(), shift: 64 - bits, ranks: ranks.into() }
    }

    /// The name of a pair, from which [`Self::result_at`] goes on.
    #[inline(always)]
    pub fn name(left: Symbol, right: Symbol) -> u64 {
        ((u64::from(left) << SYMBOL_BITS) | u64::from(right)).wrapping_mul(FACTOR)
    }

    /// Adds a merge; false if its place is too crowded.
    pub fn insert(&mut self, left: Symbol, right: Symbol, result: Symbol) -> bool {
        let name = Self::name(left, right);
        let home = (name >> self.shift) as usize;
        let mask = self.slots.len() - 1;
        for at in (home..home + MAX_SEARCH).map(|at| at & mask) {
            if self.slots[at] == EMPTY {
                self.slots[at] = (name << 8) | u64::from(result);
                return true;
            }
            self.slots[home & mask] |= DISPLACED;
        }
        false
    }

    /// What two neighbours become, [`NONE`] if they stay apart. One of them has two or more characters.
    #[inline(always)]
    pub fn result(&self, left: Symbol, right: Symbol) -> Symbol {
        self.result_at(Self::name(left, right))
    }

    /// Asks the processor to bring the slot of a pair nearer.
    #[inline(always)]
    pub fn prefetch(&self, name: u64) {
        prefetch(&raw const self.slots[(name >> self.shift) as usize & (self.slots.len() - 1)]);
    }

    /// [`Self::result`] of a pair with this name.
    #[inline(always)]
    pub fn result_at(&self, name: u64) -> Symbol {
        let slot = self.slots[(name >> self.shift) as usize & (self.slots.len() - 1)];
        let rest = slot ^ (name << 8);
        let is_here = rest >> SYMBOL_BITS == 0;
        if !is_here && slot & DISPLACED != 0 {
            return self.result_behind(name);
        }
        if is_here { rest as Symbol & NONE } else { NONE }
    }

    /// [`Self::result_at`] where it is not at its place.
    #[inline(never)]
    fn result_behind(&self, name: u64) -> Symbol {
        let home = (name >> self.shift) as usize;
        let mask = self.slots.len() - 1;
        for at in home + 1..home + MAX_SEARCH {
            let slot = self.slots[at & mask];
            let rest = slot ^ (name << 8);
            if rest >> SYMBOL_BITS == 0 {
                return rest as Symbol & NONE;
            }
            if slot == EMPTY {
                break;
            }
        }
        NONE
    }

    /// [`Self::result`] with its rank.
    #[inline(always)]
    pub fn find(&self, left: Symbol, right: Symbol) -> Merge {
        match self.result(left, right) {
            NONE => NO_MERGE,
            result => self.making(result),
        }
    }

    /// The merge that makes a piece.
    #[inline(always)]
    pub fn making(&self, piece: Symbol) -> Merge {
        Merge { rank: self.ranks[piece as usize], result: piece }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let mut merges = Merges::new(40_000, vec![7; 40_000]);
        let pair = |i: u32| (i.wrapping_mul(0x9E37) % 0xFF_0000, i * 3 % 50_000);
        for i in 0..40_000 {
            assert!(merges.insert(pair(i).0, pair(i).1, i));
        }
        for i in 0..40_000 {
            let (left, right) = pair(i);
            assert_eq!(merges.find(left, right), Merge { rank: 7, result: i });
            assert_eq!(merges.find(left, right + 50_000), NO_MERGE);
        }
    }
}
