//! Which two symbols merge into which piece, in one hash table.

use crate::{
    bpe::symbol::{Merge, NO_MERGE, NONE, SYMBOL_BITS, Symbol},
    memory::prefetch,
};

/// The merges whose result has three or more characters (those of two are in the pair table).
///
/// An open-addressing table with linear probing. It has to stay in the second-level cache, so a slot has eight bytes only:
/// the upper 40 bits check the key, the lower 23 are the result, and one bit says whether a merge whose home this slot is
/// had to go to a later one. So one slot nearly always says that a pair does not merge, as half of the pairs do not.
///
/// The check is exact. A key has 48 bits, and its hash is the key times an odd number modulo 2^48: a permutation, so the
/// hash identifies the key. Its upper bits are the home slot and the slot holds the lower 40; as a probe goes less than
/// 256 slots far, the slot's index tells the missing eight.
#[derive(Debug)]
pub struct Merges {
    slots: Box<[u64]>,
    shift: u32,
    /// Rank of the merge that makes a piece, by symbol.
    ranks: Box<[u32]>,
}

/// Set in a slot if the probe may have to go past it.
const DISPLACED: u64 = 1 << (SYMBOL_BITS - 1);
/// If the check of a key is all ones, this leaves [`NONE`].
const EMPTY: u64 = !DISPLACED;
const MIN_BITS: u32 = 16;
/// Slots that a probe looks at, at most. With 256 the check would not be exact.
const MAX_PROBE: usize = 255;
/// Odd, times 2^16: so that the 48 bits are the upper ones of the word.
const FACTOR: u64 = 0x9E37_79B9_7F4B << 16;

impl Merges {
    /// A table for up to `entries` merges into pieces of these ranks.
    pub fn new(entries: usize, ranks: Vec<u32>) -> Self {
        let bits = (entries * 3 / 2).next_power_of_two().trailing_zeros().max(MIN_BITS);
        Self { slots: vec![EMPTY; 1 << bits].into(), shift: 64 - bits, ranks: ranks.into() }
    }

    /// The hash of a pair, for [`Self::result_at`].
    #[inline(always)]
    pub fn hash(left: Symbol, right: Symbol) -> u64 {
        ((u64::from(left) << SYMBOL_BITS) | u64::from(right)).wrapping_mul(FACTOR)
    }

    /// Adds a merge; false if the slots around its home are too crowded.
    pub fn insert(&mut self, left: Symbol, right: Symbol, result: Symbol) -> bool {
        let hash = Self::hash(left, right);
        let home = (hash >> self.shift) as usize;
        let mask = self.slots.len() - 1;
        for at in (home..home + MAX_PROBE).map(|at| at & mask) {
            if self.slots[at] == EMPTY {
                self.slots[at] = (hash << 8) | u64::from(result);
                return true;
            }
            self.slots[home & mask] |= DISPLACED;
        }
        false
    }

    /// What two neighbours become, [`NONE`] if they stay apart. One of them has two or more characters.
    #[inline(always)]
    pub fn result(&self, left: Symbol, right: Symbol) -> Symbol {
        self.result_at(Self::hash(left, right))
    }

    /// Prefetches the home slot of a pair.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&raw const self.slots[(hash >> self.shift) as usize & (self.slots.len() - 1)]);
    }

    /// [`Self::result`] of the pair with this hash.
    #[inline(always)]
    pub fn result_at(&self, hash: u64) -> Symbol {
        let slot = self.slots[(hash >> self.shift) as usize & (self.slots.len() - 1)];
        let rest = slot ^ (hash << 8);
        let is_here = rest >> SYMBOL_BITS == 0;
        if !is_here && slot & DISPLACED != 0 {
            return self.probe(hash);
        }
        if is_here { rest as Symbol & NONE } else { NONE }
    }

    /// [`Self::result_at`] of a pair that is not in its home slot.
    #[inline(never)]
    fn probe(&self, hash: u64) -> Symbol {
        let home = (hash >> self.shift) as usize;
        let mask = self.slots.len() - 1;
        for at in home + 1..home + MAX_PROBE {
            let slot = self.slots[at & mask];
            let rest = slot ^ (hash << 8);
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
