//! Segments of any length: in windows that are joined where theorem P3 says they may be.
//!
//! P3: a sequence of tokens is the encoding of its text if each token and each adjacent pair of tokens encode to
//! themselves. So a long segment is encoded window by window, each one starting where a token of the one before
//! ended; that token and the new window's first one are checked as a pair. What is near the end of a window may
//! still change with the text behind it and is not used.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    kernel::{Kernel, RUN},
    merges::{Merge, NO_RANK, Symbol},
    rules::Rules,
    run::Run,
};

/// Longest period that is looked for.
const MAX_PERIOD: usize = 16;

/// Working memory for long segments.
#[derive(Debug, Default)]
pub struct Long {
    run: Run,
    heap: LongRun,
    window: Vec<Symbol>,
}

/// What must be undone if the seam behind a window does not hold.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    /// Where the window starts, in codes.
    at: usize,
    /// Tokens that stood before it.
    tokens: usize,
    /// Its length.
    size: usize,
}

impl Long {
    /// Appends the symbols of one segment to `out`.
    #[inline(always)]
    pub fn encode<K: Kernel>(&mut self, rules: &Rules, codes: &[u16], out: &mut Vec<Symbol>) {
        let start = out.len();
        let mut base = RUN;
        while !self.encode_windows::<K>(rules, codes, base, start, out) {
            out.truncate(start);
            base *= 4;
        }
    }

    /// Encodes in windows of `base` codes; false if that does not do.
    #[inline(always)]
    fn encode_windows<K: Kernel>(
        &mut self,
        rules: &Rules,
        codes: &[u16],
        base: usize,
        start: usize,
        out: &mut Vec<Symbol>,
    ) -> bool {
        let (mut at, mut size) = (0, base);
        let mut before = Before { at: 0, tokens: start, size };
        // The token that followed the last one used, in the window of that one: these two go together.
        let mut expected: Option<Symbol> = None;
        loop {
            let end = codes.len().min(at + size);
            self.merge_codes::<K>(rules, &codes[at..end]);
            let first = self.window[0];
            if expected.is_some_and(|expected| first != expected)
                && !self.goes_behind::<K>(rules, codes, at, first, out)
            {
                // The text behind the last window changed what was used of it: take that window longer. If that
                // does not help either, start anew.
                if before.at == at || before.size > 4 * base {
                    return false;
                }
                out.truncate(before.tokens);
                (at, size) = (before.at, 4 * before.size);
                // The pair in front of the longer window must be looked at again.
                expected = (out.len() > start).then_some(Symbol::MAX);
                continue;
            }
            if end == codes.len() {
                out.extend_from_slice(&self.window);
                return true;
            }
            before = Before { at, tokens: out.len(), size };
            let length = end - at;
            if let Some(period) = find_period(&codes[at..end])
                && let Some((used, used_codes)) = self.used(rules, length, period)
                && self.window[used] == first
            {
                // Windows that start a whole number of periods on and lie in the same stretch hold the same codes.
                let (shifted, rest) = (&codes[at + period..], &codes[at..]);
                let stretch = period + shifted.iter().zip(rest).take_while(|(a, b)| a == b).count();
                let times = (stretch - length) / used_codes + 1;
                for _ in 0..times {
                    out.extend_from_slice(&self.window[..used]);
                }
                before.tokens = out.len() - used;
                at += times * used_codes;
                before.at = at - used_codes;
                expected = Some(self.window[used]);
            } else if let Some((used, used_codes)) = self.used(rules, length, 1) {
                out.extend_from_slice(&self.window[..used]);
                expected = Some(self.window[used]);
                at += used_codes;
            } else {
                // A piece as long as the window.
                size *= 2;
                expected = (out.len() > start).then_some(Symbol::MAX);
                continue;
            }
            size = base;
        }
    }

    /// Merges a window into `self.window`.
    #[inline(always)]
    fn merge_codes<K: Kernel>(&mut self, rules: &Rules, codes: &[u16]) {
        self.window.clear();
        let symbols = codes.iter().map(|&code| rules.pairs.symbol(code));
        if codes.len() <= RUN {
            let pairs = codes.windows(2).map(|pair| rules.char_merge(pair[0], pair[1]));
            let n = self.run.merge::<K>(&rules.merges, symbols, pairs);
            self.window.extend(self.run.symbols(n));
        } else {
            self.window.extend(symbols);
            let mut at = 0;
            self.heap.merge(&mut self.window, |left, right| {
                // The first pairs to be asked for are those of characters, from left to right.
                at += 1;
                match codes.get(at - 1..=at) {
                    Some(pair) => rules.char_merge(pair[0], pair[1]),
                    None => rules.merges.find(left, right),
                }
            });
        }
    }

    /// How many tokens of the window are used, and their codes (a multiple of `period`): all but what ends in
    /// its last quarter.
    fn used(&self, rules: &Rules, length: usize, period: usize) -> Option<(usize, usize)> {
        let (mut codes, mut best) = (0, None);
        for (i, &symbol) in self.window.iter().enumerate() {
            codes += rules.length(symbol);
            if codes > length / 4 * 3 {
                break;
            }
            if codes % period == 0 {
                best = Some((i + 1, codes));
            }
        }
        best
    }

    /// True if the last token of `out` and `first`, which starts at `at`, encode to themselves side by side.
    #[inline(always)]
    pub fn goes_behind<K: Kernel>(
        &mut self,
        rules: &Rules,
        codes: &[u16],
        at: usize,
        first: Symbol,
        out: &[Symbol],
    ) -> bool {
        let Some(&last) = out.last() else { return true };
        let window = std::mem::take(&mut self.window);
        self.merge_codes::<K>(rules, &codes[at - rules.length(last)..at + rules.length(first)]);
        let holds = self.window == [last, first];
        self.window = window;
        holds
    }
}

/// The shortest period of a window, if it is short.
fn find_period(codes: &[u16]) -> Option<usize> {
    (1..=MAX_PERIOD).find(|&period| codes.get(period..).is_some_and(|rest| codes.starts_with(rest)))
}

/// Working memory for merging many symbols at once.
#[derive(Debug, Default)]
pub struct LongRun {
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
/// Marks a place whose symbol has merged into the one to its left; above every symbol.
const GONE: Symbol = Symbol::MAX;

impl LongRun {
    /// Replaces `symbols` by what BPE makes of it, in O(n log n). `find` says what a pair becomes; it is asked
    /// once for each pair that comes to stand side by side, in the order in which SentencePiece asks.
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
