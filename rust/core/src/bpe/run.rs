//! Merges a run of up to 64 symbols: the simple algorithm, on flat arrays.

use super::{
    kernel::{Kernel, RUN},
    merges::{Merge, Merges, NO_RANK, Symbol},
};

/// A run while it is merged. A place whose symbol has merged into the one to its left is no longer alive;
/// nothing is moved.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Run {
    /// Rank of the pair that starts at a place.
    ranks: [u32; RUN],
    symbols: [Symbol; RUN],
    /// What the pair that starts at a place becomes.
    results: [Symbol; RUN],
    alive: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self { ranks: [NO_RANK; RUN], symbols: [0; RUN], results: [0; RUN], alive: 0 }
    }
}

impl Run {
    /// Merges 1 to 64 symbols of which the first pairs are already looked up; returns how many are left.
    #[inline(always)]
    pub fn merge<K: Kernel>(
        &mut self,
        merges: &Merges,
        symbols: impl Iterator<Item = Symbol>,
        pairs: impl Iterator<Item = Merge>,
    ) -> usize {
        let mut n = 0usize;
        for (place, symbol) in self.symbols.iter_mut().zip(symbols) {
            *place = symbol;
            n += 1;
        }
        let mut known = 0usize;
        for ((rank, result), pair) in self.ranks.iter_mut().zip(&mut self.results).zip(pairs) {
            (*rank, *result) = (pair.rank, pair.result);
            known += 1;
        }
        self.ranks[known..n.next_multiple_of(8).min(RUN)].fill(NO_RANK);
        let mut alive = u64::MAX >> (RUN - n);

        loop {
            let (rank, at) = K::best(&self.ranks, known);
            if rank == NO_RANK {
                break;
            }
            let at = at & (RUN - 1);
            let merged = self.results[at];
            self.symbols[at] = merged;
            // The place merged away is the next living one; `at` has a pair, so there is one.
            let behind = alive & (u64::MAX << at << 1);
            let to = behind.trailing_zeros() as usize & (RUN - 1);
            alive &= !(1 << to);
            self.ranks[to] = NO_RANK;
            let behind = behind & (behind - 1);
            let mut pair = super::merges::NO_MERGE;
            if behind != 0 {
                let next = behind.trailing_zeros() as usize;
                pair = merges.find(merged, self.symbols[next & (RUN - 1)]);
            }
            (self.ranks[at], self.results[at]) = (pair.rank, pair.result);
            let before = alive & ((1 << at) - 1);
            if before != 0 {
                let previous = (RUN - 1) - before.leading_zeros() as usize;
                let pair = merges.find(self.symbols[previous], merged);
                (self.ranks[previous], self.results[previous]) = (pair.rank, pair.result);
            }
        }
        self.alive = alive;
        alive.count_ones() as usize
    }

    /// The first `n` symbols that are left.
    #[inline]
    pub fn symbols(&self, n: usize) -> impl Iterator<Item = Symbol> {
        let mut alive = self.alive;
        (0..n).map(move |_| {
            let at = alive.trailing_zeros() as usize & (RUN - 1);
            alive &= alive.wrapping_sub(1);
            self.symbols[at]
        })
    }
}
