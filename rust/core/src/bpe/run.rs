//! Merges a run of up to 64 symbols: the simple algorithm, on flat arrays.

use super::{
    kernel::{Kernel, RUN, Ranks, rank_key},
    merges::{Merge, Merges, NO_RANK, Symbol},
};

/// A run while it is merged. A place whose symbol has merged into the one to its left is no longer alive;
/// nothing is moved.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Run {
    /// Keys of the pairs as they stand at first.
    keys: [u32; RUN],
    symbols: [Symbol; RUN],
    /// What the pair that starts at a place becomes.
    results: [Symbol; RUN],
    alive: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self { keys: [NO_RANK; RUN], symbols: [0; RUN], results: [0; RUN], alive: 0 }
    }
}

impl Run {
    /// Merges 1 to 64 symbols, whose pairs are looked up already; returns how many are left.
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
        for (at, pair) in pairs.enumerate().take(RUN) {
            self.keys[at] = rank_key(pair.rank, at);
            self.results[at] = pair.result;
            known = at + 1;
        }
        let end = known.next_multiple_of(8).max(8);
        self.keys[known..end].fill(NO_RANK);
        self.alive = u64::MAX >> (RUN - n);
        match end {
            8 => self.work::<K::Ranks<1>>(merges),
            16 => self.work::<K::Ranks<2>>(merges),
            24 | 32 => {
                self.keys[end..32].fill(NO_RANK);
                self.work::<K::Ranks<4>>(merges);
            }
            _ => {
                self.keys[end..].fill(NO_RANK);
                self.work::<K::Ranks<8>>(merges);
            }
        }
        self.alive.count_ones() as usize
    }

    /// Merges until nothing merges.
    #[inline(always)]
    fn work<R: Ranks>(&mut self, merges: &Merges) {
        let mut ranks = R::load(&self.keys);
        let mut alive = self.alive;
        loop {
            let best = ranks.best();
            if best == NO_RANK {
                break;
            }
            let at = best as usize & (RUN - 1);
            let merged = self.results[at];
            self.symbols[at] = merged;
            // The place merged away is the next living one; `at` has a pair, so there is one.
            let behind = alive & (u64::MAX << at << 1);
            let to = behind.trailing_zeros() as usize & (RUN - 1);
            alive &= !(1 << to);
            ranks.set(to, NO_RANK);
            let behind = behind & behind.wrapping_sub(1);
            let mut key = NO_RANK;
            if behind != 0 {
                let next = behind.trailing_zeros() as usize & (RUN - 1);
                let pair = merges.find(merged, self.symbols[next]);
                key = rank_key(pair.rank, at);
                self.results[at] = pair.result;
            }
            ranks.set(at, key);
            let before = alive & ((1 << at) - 1);
            if before != 0 {
                let previous = (RUN - 1) - before.leading_zeros() as usize;
                let pair = merges.find(self.symbols[previous], merged);
                ranks.set(previous, rank_key(pair.rank, previous));
                self.results[previous] = pair.result;
            }
        }
        self.alive = alive;
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
