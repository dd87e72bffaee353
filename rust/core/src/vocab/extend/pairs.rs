//! The pairs of symbols side by side, with the places where they stand.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    count::on_threads,
    slots::{END, Slots},
    symbols::Symbols,
};

/// Two symbols side by side; with [`END`] on the right, a character that may become a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub left: u32,
    pub right: u32,
}

impl Pair {
    /// Both in one word, in the order of the left one first: faster to compare and to hash.
    pub fn word(self) -> u64 {
        u64::from(self.left) << 32 | u64::from(self.right)
    }

    /// The pair of a word.
    pub fn of(word: u64) -> Self {
        Self { left: (word >> 32) as u32, right: word as u32 }
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.word().cmp(&other.word())
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.word());
    }
}

/// Pairs and characters that may become pieces, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct FirstPairs {
    pub pairs: Vec<FirstPair>,
    /// Where their left symbols begin, those of one pair after those of another.
    pub places: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FirstPair {
    pub pair: Pair,
    /// How many tokens the piece would save.
    pub count: u64,
    /// Which of the places are its own.
    pub start: u32,
    pub length: u32,
}

impl FirstPairs {
    fn add(&mut self, pair: Pair, count: u64, words: &[u64]) {
        let (start, length) = (self.places.len() as u32, words.len() as u32);
        self.places.extend(words.iter().map(|&word| word as u32));
        self.pairs.push(FirstPair { pair, count, start, length });
    }
}

/// Parts in which the pairs are collected, so that little memory is used beside the result; each walks through all slots.
const PARTS: usize = 4;

/// The pairs and the characters that save at least `min_count` tokens.
pub(super) fn first_pairs(
    symbols: &Symbols,
    slots: &Slots,
    min_count: u64,
    saved: impl Fn(&str) -> u64 + Sync,
    threads: usize,
) -> Vec<FirstPairs> {
    let mut frequency = vec![0_usize; symbols.len() as usize];
    slots.for_each_pair(symbols, |symbol, _, _| frequency[symbol as usize] += 1);
    let bounds = bounds(&frequency, threads.max(PARTS));
    let parts: Vec<Mutex<FirstPairs>> = (1..bounds.len()).map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let part = next.fetch_add(1, Ordering::Relaxed);
            let Some(result) = parts.get(part) else { break };
            let (from, to) = (bounds[part], bounds[part + 1]);
            let found = collect(symbols, slots, &frequency[from..to], from as u32, min_count, &saved);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
    };
    on_threads(threads, work);
    parts.into_iter().map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// Where the ranges of symbols begin that are about equally frequent in sum.
fn bounds(frequency: &[usize], parts: usize) -> Vec<usize> {
    let most = frequency.iter().sum::<usize>() / parts + 1;
    let (mut bounds, mut sum) = (vec![0], 0);
    for (symbol, &count) in frequency.iter().enumerate() {
        if sum > 0 && sum + count > most {
            bounds.push(symbol);
            sum = 0;
        }
        sum += count;
    }
    bounds.push(frequency.len());
    bounds
}

/// The pairs whose left symbol is one of those from `first` on, whose frequencies are given.
fn collect(
    symbols: &Symbols,
    slots: &Slots,
    frequency: &[usize],
    first: u32,
    min_count: u64,
    saved: &impl Fn(&str) -> u64,
) -> FirstPairs {
    let mut ends: Vec<usize> = frequency
        .iter()
        .scan(0, |sum, count| {
            let start = *sum;
            *sum += count;
            Some(start)
        })
        .collect();
    // The symbol after it and where it begins in one word, so that sorting brings equal pairs together.
    let mut words = vec![0; frequency.iter().sum()];
    slots.for_each_pair(symbols, |symbol, next, at| {
        if let Some(end) = symbol.checked_sub(first).and_then(|index| ends.get_mut(index as usize)) {
            words[*end] = u64::from(next) << 32 | u64::from(at);
            *end += 1;
        }
    });
    let (mut found, mut start) = (FirstPairs::default(), 0);
    for (left, &end) in (first..).zip(&ends) {
        let here = &mut words[start..end];
        start = end;
        if here.is_empty() {
            continue;
        }
        let count = |words: &[u64]| words.iter().map(|&word| slots.count(word as u32)).sum::<u64>();
        if !symbols.get(left).is_piece {
            let count = count(here).saturating_mul(saved(symbols.text(left)));
            if count >= min_count && symbols.may_be_piece(left) {
                found.add(Pair { left, right: END }, count, here);
            }
            continue;
        }
        here.sort_unstable();
        for same in here.chunk_by(|one, other| one >> 32 == other >> 32) {
            let right = (same[0] >> 32) as u32;
            if right == END || !symbols.may_join(left, right) {
                continue;
            }
            let count = count(same);
            if count >= min_count {
                found.add(Pair { left, right }, count, same);
            }
        }
    }
    found.places.shrink_to_fit();
    found
}
