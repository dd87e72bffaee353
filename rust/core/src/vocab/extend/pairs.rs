//! The pairs of symbols side by side, with the places where they stand.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    slots::{END, Slots},
    symbols::Symbols,
};

/// Two symbols side by side; with [`END`] on the right, a character that may become a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pair {
    pub left: u32,
    pub right: u32,
}

/// What may become a piece.
#[derive(Debug, Default)]
pub(super) struct Candidate {
    /// How many tokens the piece would save.
    pub count: u64,
    /// Where its left symbol begins. Places where it stands no more are found out when it is merged.
    pub places: Box<[u32]>,
}

/// Parts in which the pairs are collected, so that little memory is used beside the result.
const PARTS: usize = 16;

/// The pairs and the characters that save at least `min_count` tokens.
pub(super) fn first_candidates(
    symbols: &Symbols,
    slots: &Slots,
    min_count: u64,
    saved: impl Fn(&str) -> u64 + Sync,
    threads: usize,
) -> Vec<(Pair, Candidate)> {
    let mut frequency = vec![0_usize; symbols.len() as usize];
    for (symbol, _) in slots.symbols(0, slots.len(), symbols) {
        frequency[symbol as usize] += 1;
    }
    let bounds = bounds(&frequency);
    let parts: Vec<Mutex<Vec<_>>> = (1..bounds.len()).map(|_| Mutex::default()).collect();
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
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    parts.into_iter().flat_map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// Where the ranges of symbols begin that are about equally frequent in sum.
fn bounds(frequency: &[usize]) -> Vec<usize> {
    let most = frequency.iter().sum::<usize>() / PARTS + 1;
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

/// The candidates whose left symbol is one of those from `first` on, whose frequencies are given.
fn collect(
    symbols: &Symbols,
    slots: &Slots,
    frequency: &[usize],
    first: u32,
    min_count: u64,
    saved: &impl Fn(&str) -> u64,
) -> Vec<(Pair, Candidate)> {
    let mut ends: Vec<usize> = frequency
        .iter()
        .scan(0, |sum, count| {
            let start = *sum;
            *sum += count;
            Some(start)
        })
        .collect();
    let mut places = vec![0; frequency.iter().sum()];
    for (symbol, at) in slots.symbols(0, slots.len(), symbols) {
        if let Some(end) = symbol.checked_sub(first).and_then(|index| ends.get_mut(index as usize)) {
            places[*end] = at;
            *end += 1;
        }
    }
    let (mut found, mut neighbours, mut start) = (Vec::new(), Vec::new(), 0);
    for (left, &end) in (first..).zip(&ends) {
        let here = &places[start..end];
        start = end;
        if here.is_empty() {
            continue;
        }
        let symbol = symbols.get(left);
        if !symbol.is_piece {
            let text = symbols.text(left);
            let count: u64 = here.iter().map(|&at| slots.count(at)).sum::<u64>().saturating_mul(saved(text));
            if count >= min_count && symbols.may_be_piece(left) {
                found.push((Pair { left, right: END }, Candidate { count, places: here.into() }));
            }
            continue;
        }
        neighbours.clear();
        neighbours.extend(here.iter().filter_map(|&at| Some((slots.after(at, symbol.length)?.0, at))));
        neighbours.sort_unstable();
        for same in neighbours.chunk_by(|one, other| one.0 == other.0) {
            let right = same[0].0;
            if !symbols.may_join(left, right) {
                continue;
            }
            let count = same.iter().map(|&(_, at)| slots.count(at)).sum();
            if count >= min_count {
                let places = same.iter().map(|&(_, at)| at).collect();
                found.push((Pair { left, right }, Candidate { count, places }));
            }
        }
    }
    found
}
