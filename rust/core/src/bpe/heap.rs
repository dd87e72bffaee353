//! BPE over any number of symbols, with a heap of offered merges: O(n log n).

use std::{cmp::Reverse, collections::BinaryHeap};

use super::symbol::{Merge, NO_RANK, Symbol};

/// Working memory for merging many symbols at once.
#[derive(Debug, Default)]
pub struct HeapMerger {
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

/// One offered merge; the order of the fields is the order in which merges happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: u32,
    left: Symbol,
    right: Symbol,
    result: Symbol,
}

const END: u32 = u32::MAX;
/// Marks an index whose symbol has merged into the one to its left; above every symbol.
const GONE: Symbol = Symbol::MAX;

impl HeapMerger {
    /// Replaces `symbols` by what BPE makes of them. `find` says what a pair becomes; it is asked once for each pair of
    /// symbols that become neighbours, in the order in which SentencePiece asks: first the pairs of the given symbols,
    /// from left to right.
    pub fn merge(&mut self, symbols: &mut Vec<Symbol>, mut find: impl FnMut(Symbol, Symbol) -> Merge) {
        let Self { next, previous, heap } = self;
        let n = symbols.len() as u32;
        next.clear();
        next.extend((1..n).chain([END]));
        previous.clear();
        previous.extend([END].into_iter().chain(0..n.saturating_sub(1)));
        heap.clear();

        let mut offer = |heap: &mut BinaryHeap<_>, symbols: &[Symbol], at: u32, to: u32| {
            if at == END || to == END {
                return;
            }
            let (left, right) = (symbols[at as usize], symbols[to as usize]);
            let Merge { rank, result } = find(left, right);
            if rank != NO_RANK {
                heap.push(Reverse(Candidate { rank, at, left, right, result }));
            }
        };
        for at in 1..n {
            offer(heap, symbols, at - 1, at);
        }
        while let Some(Reverse(best)) = heap.pop() {
            let at = best.at as usize;
            let to = next[at];
            // Stale: one of the two has merged with another symbol since.
            if symbols[at] != best.left || to == END || symbols[to as usize] != best.right {
                continue;
            }
            symbols[at] = best.result;
            symbols[to as usize] = GONE;
            let after = next[to as usize];
            next[at] = after;
            if after != END {
                previous[after as usize] = best.at;
            }
            offer(heap, symbols, previous[at], best.at);
            offer(heap, symbols, best.at, after);
        }
        symbols.retain(|&s| s != GONE);
    }
}
