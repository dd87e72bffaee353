//! Merges one run of symbols: the pair of best rank first, the leftmost of equals first, until none is left.

use std::{cmp::Reverse, collections::BinaryHeap};

use rustc_hash::FxHashMap;

use super::table::{Merge, Symbol, Table};

/// Up to this many symbols the best pair is found by looking at all of them: no heap, no links, and the
/// whole run stays in the first cache lines.
const SHORT: usize = 24;

const NO_PAIR: Merge = Merge { rank: u32::MAX, result: Symbol::MAX };

/// How an UNUSED piece was last offered to a merge: the pair that would make it.
pub type Splits = FxHashMap<Symbol, (Symbol, Symbol)>;

/// Working memory of [`merge_run`], kept between calls.
#[derive(Debug, Default)]
pub struct MergeScratch {
    pairs: Vec<Merge>,
    next: Vec<u32>,
    previous: Vec<u32>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

/// Replaces `symbols` by what BPE makes of it.
pub fn merge_run(table: &Table, symbols: &mut Vec<Symbol>, scratch: &mut MergeScratch) {
    if symbols.len() <= SHORT {
        merge_short(table, symbols, &mut scratch.pairs);
    } else {
        merge_long(table, symbols, &[], scratch, None);
    }
}

fn merge_short(table: &Table, symbols: &mut Vec<Symbol>, pairs: &mut Vec<Merge>) {
    let pair = |left, right| table.merge(left, right).unwrap_or(NO_PAIR);
    pairs.clear();
    pairs.extend(symbols.windows(2).map(|w| pair(w[0], w[1])));
    // `min_by_key` keeps the first of equals: the leftmost pair.
    while let Some((at, best)) = pairs.iter().copied().enumerate().min_by_key(|(_, p)| p.rank) {
        if best.rank == NO_PAIR.rank {
            break;
        }
        symbols[at] = best.result;
        symbols.remove(at + 1);
        pairs.remove(at);
        if at > 0 {
            pairs[at - 1] = pair(symbols[at - 1], symbols[at]);
        }
        if at < pairs.len() {
            pairs[at] = pair(symbols[at], symbols[at + 1]);
        }
    }
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
/// Marks a place whose symbol has merged into the one to its left; above every id and every character.
const GONE: Symbol = Symbol::MAX;

/// Merges a run of any length in O(n log n). `frozen` lists (sorted) the places of symbols that take no part;
/// `splits`, where given, collects how each UNUSED piece was offered, the last offer winning, in the order
/// in which SentencePiece's loop makes them.
pub fn merge_long(
    table: &Table,
    symbols: &mut Vec<Symbol>,
    frozen: &[u32],
    scratch: &mut MergeScratch,
    mut splits: Option<&mut Splits>,
) {
    let MergeScratch { next, previous, heap, .. } = scratch;
    let n = symbols.len() as u32;
    next.clear();
    next.extend((1..n).chain([END]));
    previous.clear();
    previous.extend([END].into_iter().chain(0..n.saturating_sub(1)));
    heap.clear();

    let is_frozen = |at: u32| !frozen.is_empty() && frozen.binary_search(&at).is_ok();
    let mut offer = |heap: &mut BinaryHeap<_>, symbols: &[Symbol], at: u32, to: u32| {
        if at == END || to == END || is_frozen(at) || is_frozen(to) {
            return;
        }
        let (left, right) = (symbols[at as usize], symbols[to as usize]);
        let Some(Merge { rank, result }) = table.merge(left, right) else { return };
        heap.push(Reverse(Candidate { rank, at, left, right, result }));
        if let Some(splits) = splits.as_deref_mut().filter(|_| table.is_unused(result)) {
            splits.insert(result, (left, right));
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
