//! BPE over up to 64 symbols: the simple algorithm on flat arrays, the keys of all pairs in registers.

use crate::bpe::{
    kernel::{Kernel, PairKeys, WINDOW, pair_key},
    symbol::{Merge, NO_RANK, Symbol},
    tables::merges::Merges,
};

/// Up to 64 symbols while they are merged. Nothing is moved: a symbol that has merged into the one to its left is no
/// longer alive.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct RegisterMerger {
    /// Keys of the pairs before anything merges.
    keys: [u32; WINDOW],
    symbols: [Symbol; WINDOW],
    /// What the pair that starts at an index becomes.
    results: [Symbol; WINDOW],
    alive: u64,
}

impl Default for RegisterMerger {
    fn default() -> Self {
        Self { keys: [NO_RANK; WINDOW], symbols: [0; WINDOW], results: [0; WINDOW], alive: 0 }
    }
}

impl RegisterMerger {
    /// Merges 1 to 64 symbols, whose pairs are looked up already; returns how many are left.
    #[inline(always)]
    pub fn merge<K: Kernel>(
        &mut self,
        merges: &Merges,
        symbols: impl Iterator<Item = Symbol>,
        pairs: impl Iterator<Item = Merge>,
    ) -> usize {
        let mut n = 0usize;
        for (to, symbol) in self.symbols.iter_mut().zip(symbols) {
            *to = symbol;
            n += 1;
        }
        let mut known = 0usize;
        for (at, pair) in pairs.enumerate().take(WINDOW) {
            self.keys[at] = pair_key(pair.rank, at);
            self.results[at] = pair.result;
            known = at + 1;
        }
        let end = known.next_multiple_of(8).max(8);
        self.keys[known..end].fill(NO_RANK);
        self.alive = u64::MAX >> (WINDOW - n);
        match end {
            8 => self.merge_keys::<K::Keys<1>>(merges),
            16 => self.merge_keys::<K::Keys<2>>(merges),
            24 | 32 => {
                self.keys[end..32].fill(NO_RANK);
                self.merge_keys::<K::Keys<4>>(merges);
            }
            _ => {
                self.keys[end..].fill(NO_RANK);
                self.merge_keys::<K::Keys<8>>(merges);
            }
        }
        self.alive.count_ones() as usize
    }

    /// Merges until nothing merges.
    #[inline(always)]
    fn merge_keys<P: PairKeys>(&mut self, merges: &Merges) {
        let mut keys = P::load(&self.keys);
        let mut alive = self.alive;
        loop {
            let best = keys.best();
            if best == NO_RANK {
                break;
            }
            let at = best as usize & (WINDOW - 1);
            let merged = self.results[at];
            self.symbols[at] = merged;
            // What merges into it is the next one alive; `at` has a pair, so there is one.
            let later = alive & (u64::MAX << at << 1);
            let to = later.trailing_zeros() as usize & (WINDOW - 1);
            alive &= !(1 << to);
            keys.set(to, NO_RANK);
            let later = later & later.wrapping_sub(1);
            let mut key = NO_RANK;
            if later != 0 {
                let next = later.trailing_zeros() as usize & (WINDOW - 1);
                let pair = merges.find(merged, self.symbols[next]);
                key = pair_key(pair.rank, at);
                self.results[at] = pair.result;
            }
            keys.set(at, key);
            let before = alive & ((1 << at) - 1);
            if before != 0 {
                let previous = (WINDOW - 1) - before.leading_zeros() as usize;
                let pair = merges.find(self.symbols[previous], merged);
                keys.set(previous, pair_key(pair.rank, previous));
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
            let at = alive.trailing_zeros() as usize & (WINDOW - 1);
            alive &= alive.wrapping_sub(1);
            self.symbols[at]
        })
    }
}
