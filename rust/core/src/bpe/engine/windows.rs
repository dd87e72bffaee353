//! Segments of any length: in windows that are joined where theorem P3 says they may be.
//!
//! P3: a sequence of tokens is the encoding of its text if each token and each adjacent pair of tokens encode to
//! themselves. So a long segment is encoded window by window, each one starting where a token of the one before
//! ended; that token and the new window's first one are checked as a pair. Tokens near the end of a window may
//! still change with the text that follows and are not used.

use super::registers::RegisterMerger;
use crate::bpe::{
    heap::HeapMerger,
    kernel::{Kernel, WINDOW},
    symbol::Symbol,
    tables::Tables,
};

/// Longest period that is looked for.
const MAX_PERIOD: usize = 16;

/// Encodes segments in windows.
#[derive(Debug, Default)]
pub struct Windows {
    registers: RegisterMerger,
    heap: HeapMerger,
    /// The tokens of the window in work.
    window: Vec<Symbol>,
}

/// The last window used, to be taken back if its seam with the next does not hold.
#[derive(Clone, Copy, Debug, Default)]
struct LastWindow {
    /// Where it starts, in codes.
    at: usize,
    /// Tokens of the segment before it.
    tokens: usize,
    /// Its length in codes.
    size: usize,
}

impl Windows {
    /// Appends the symbols of one segment to `out`.
    #[inline(always)]
    pub fn encode<K: Kernel>(&mut self, tables: &Tables, codes: &[u16], out: &mut Vec<Symbol>) {
        let start = out.len();
        let mut base = WINDOW;
        while !self.encode_windows::<K>(tables, codes, base, start, out) {
            out.truncate(start);
            base *= 4;
        }
    }

    /// Encodes in windows of `base` codes; false if they turn out too short.
    #[inline(always)]
    fn encode_windows<K: Kernel>(
        &mut self,
        tables: &Tables,
        codes: &[u16],
        base: usize,
        start: usize,
        out: &mut Vec<Symbol>,
    ) -> bool {
        let (mut at, mut size) = (0, base);
        let mut previous = LastWindow { at: 0, tokens: start, size };
        // The token that followed the last one used, in the window of that one: these two go together.
        let mut expected: Option<Symbol> = None;
        loop {
            let end = codes.len().min(at + size);
            self.merge_codes::<K>(tables, &codes[at..end]);
            let first = self.window[0];
            if expected.is_some_and(|expected| first != expected)
                && !self.may_follow::<K>(tables, codes, at, first, out)
            {
                // What follows the last window changes the tokens used of it: take a longer window there. If that
                // does not help either, start again.
                if previous.at == at || previous.size > 4 * base {
                    return false;
                }
                out.truncate(previous.tokens);
                (at, size) = (previous.at, 4 * previous.size);
                // The pair before the longer window must be checked again.
                expected = (out.len() > start).then_some(Symbol::MAX);
                continue;
            }
            if end == codes.len() {
                out.extend_from_slice(&self.window);
                return true;
            }
            previous = LastWindow { at, tokens: out.len(), size };
            let length = end - at;
            if let Some(period) = find_period(&codes[at..end])
                && let Some((used, used_codes)) = self.used(tables, length, period)
                && self.window[used] == first
            {
                // Windows a whole number of periods later hold the same codes, as long as the period lasts.
                let (shifted, rest) = (&codes[at + period..], &codes[at..]);
                let periodic = period + shifted.iter().zip(rest).take_while(|(a, b)| a == b).count();
                let times = (periodic - length) / used_codes + 1;
                for _ in 0..times {
                    out.extend_from_slice(&self.window[..used]);
                }
                previous.tokens = out.len() - used;
                at += times * used_codes;
                previous.at = at - used_codes;
                expected = Some(self.window[used]);
            } else if let Some((used, used_codes)) = self.used(tables, length, 1) {
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
    fn merge_codes<K: Kernel>(&mut self, tables: &Tables, codes: &[u16]) {
        self.window.clear();
        let symbols = codes.iter().map(|&code| tables.pairs.symbol(code));
        if codes.len() <= WINDOW {
            let pairs = codes.windows(2).map(|pair| tables.char_merge(pair[0], pair[1]));
            let n = self.registers.merge::<K>(&tables.merges, symbols, pairs);
            self.window.extend(self.registers.symbols(n));
        } else {
            self.window.extend(symbols);
            let mut at = 0;
            self.heap.merge(&mut self.window, |left, right| {
                // The first pairs are those of characters, from left to right.
                at += 1;
                match codes.get(at - 1..=at) {
                    Some(pair) => tables.char_merge(pair[0], pair[1]),
                    None => tables.merges.find(left, right),
                }
            });
        }
    }

    /// How many tokens of the window are used, and their codes (a multiple of `period`): all but what ends in
    /// its last quarter.
    fn used(&self, tables: &Tables, length: usize, period: usize) -> Option<(usize, usize)> {
        let (mut codes, mut best) = (0, None);
        for (i, &symbol) in self.window.iter().enumerate() {
            codes += tables.length(symbol);
            if codes > length / 4 * 3 {
                break;
            }
            if codes % period == 0 {
                best = Some((i + 1, codes));
            }
        }
        best
    }

    /// True if the last token of `out` and `first`, which starts at `at`, encode to themselves as neighbours.
    #[inline(always)]
    pub fn may_follow<K: Kernel>(
        &mut self,
        tables: &Tables,
        codes: &[u16],
        at: usize,
        first: Symbol,
        out: &[Symbol],
    ) -> bool {
        let Some(&last) = out.last() else { return true };
        let window = std::mem::take(&mut self.window);
        self.merge_codes::<K>(tables, &codes[at - tables.length(last)..at + tables.length(first)]);
        let holds = self.window == [last, first];
        self.window = window;
        holds
    }
}

/// The shortest period of a window, if it is short.
fn find_period(codes: &[u16]) -> Option<usize> {
    (1..=MAX_PERIOD).find(|&period| codes.get(period..).is_some_and(|rest| codes.starts_with(rest)))
}
