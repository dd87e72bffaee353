//! What may become a piece: pairs with their counts and places, in tables that threads change apart from each other.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::{
    pairs::{FirstPairs, Pair},
    slots::Slots,
    symbols::Symbols,
};

/// A pair or a character that may become a piece.
#[derive(Debug)]
struct Candidate {
    /// How many tokens the piece would save.
    count: u64,
    /// Where its left symbol begins. Places where it stands no more are found out when it is merged.
    places: Places,
}

/// Those from the start lie side by side in few arrays: a million small ones take long to make and to free.
#[derive(Debug)]
enum Places {
    /// So many from here on of the first places.
    First(u32, u32),
    Own(Box<[u32]>),
}

/// The places of the pairs that stood there at the start.
#[derive(Debug, Default)]
pub(super) struct FirstPlaces {
    parts: Vec<Vec<u32>>,
    /// How many places are before each part.
    starts: Vec<u32>,
}

impl FirstPlaces {
    fn get(&self, start: u32, length: u32) -> &[u32] {
        let part = self.starts.partition_point(|&first| first <= start) - 1;
        &self.parts[part][(start - self.starts[part]) as usize..][..length as usize]
    }
}

/// What a merge changes in one table: words of a neighbour of the new symbol and of where the pair begins, so that
/// sorting brings equal pairs together.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Pairs that stand at a place less, as words, each with the count of the place.
    pub gone: Vec<(u64, u64)>,
    /// Pairs with the neighbour on the left.
    pub lefts: Vec<u64>,
    /// Pairs with the neighbour on the right, among them all of the symbol with itself.
    pub rights: Vec<u64>,
}

impl Changes {
    pub fn len(&self) -> usize {
        self.gone.len() + self.lefts.len() + self.rights.len()
    }

    fn append(&mut self, mut other: Self) {
        self.gone.append(&mut other.gone);
        self.lefts.append(&mut other.lefts);
        self.rights.append(&mut other.rights);
    }
}

/// What tables need to know to take in changes.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub symbols: &'a Symbols,
    pub slots: &'a Slots,
    pub first: &'a FirstPlaces,
    pub min_count: u64,
}

/// Some of the candidates.
#[derive(Debug, Default)]
pub(super) struct Table {
    candidates: FxHashMap<Pair, Candidate>,
    /// Counts and pairs; outdated where the candidate has another count.
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    /// Pairs whose text is a piece, by its number.
    due: BTreeSet<(u32, Pair)>,
}

/// Which of so many tables has a pair.
pub(super) fn table_of(pair: Pair, tables: usize) -> usize {
    // The upper half of the product depends on all bits.
    let mixed = pair.word().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (mixed as usize * tables) >> 32
}

/// So many tables of the pairs at the start, made side by side.
pub(super) fn first_tables(found: Vec<FirstPairs>, tables: usize) -> (Vec<Table>, FirstPlaces) {
    let mut first = FirstPlaces::default();
    let mut pairs = Vec::new();
    let mut start = 0;
    for part in found {
        first.starts.push(start);
        pairs.push((start, part.pairs));
        start += part.places.len() as u32;
        first.parts.push(part.places);
    }
    let make = |number: usize| {
        let about = pairs.iter().map(|(_, pairs)| pairs.len()).sum::<usize>() / tables;
        let mut table = Table::default();
        table.candidates.reserve(about);
        let mut heap = Vec::with_capacity(about);
        for (start, pairs) in &pairs {
            let here = pairs.iter().filter(|found| table_of(found.pair, tables) == number);
            for found in here {
                let places = Places::First(start + found.start, found.length);
                table.candidates.insert(found.pair, Candidate { count: found.count, places });
                heap.push((found.count, Reverse(found.pair)));
            }
        }
        table.heap = heap.into();
        table
    };
    (on_each((0..tables).collect(), make), first)
}

/// Does the same with each item, on the threads of the pool that this one belongs to; what it gives is in order.
pub(super) fn on_each<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    if items.len() < 2 {
        return items.into_iter().map(work).collect();
    }
    items.into_par_iter().with_max_len(1).map(work).collect()
}

impl Table {
    /// The candidate with the highest count, and of equal ones that with the lowest numbers.
    pub fn best(&mut self) -> Option<(u64, Reverse<Pair>)> {
        while let Some(&(count, Reverse(pair))) = self.heap.peek() {
            match self.candidates.get(&pair) {
                Some(candidate) if candidate.count == count => return Some((count, Reverse(pair))),
                Some(candidate) if candidate.count < count => {
                    let now = (candidate.count, Reverse(pair));
                    if let Some(mut top) = self.heap.peek_mut() {
                        *top = now;
                    }
                }
                _ => drop(self.heap.pop()),
            }
        }
        None
    }

    /// Takes the best one off the list.
    pub fn pop_best(&mut self) {
        self.heap.pop();
    }

    /// The first pair whose text is a piece.
    pub fn first_due(&self) -> Option<(u32, Pair)> {
        self.due.first().copied()
    }

    /// Takes that pair off the list.
    pub fn pop_due(&mut self) {
        self.due.pop_first();
    }

    /// Takes a candidate out; adds its places, each with a symbol.
    pub fn take(&mut self, pair: Pair, first: &FirstPlaces, symbol: u32, places: &mut Vec<(u32, u32)>) {
        match self.candidates.remove(&pair).map(|candidate| candidate.places) {
            Some(Places::First(start, length)) => {
                places.extend(first.get(start, length).iter().map(|&at| (at, symbol)));
            }
            Some(Places::Own(own)) => places.extend(own.iter().map(|&at| (at, symbol))),
            None => {}
        }
    }

    /// Takes in what a merge to `symbol` changes here.
    pub fn change(&mut self, symbol: u32, changes: Vec<Changes>, known: Known<'_>) {
        let mut parts = changes.into_iter();
        let Some(mut all) = parts.next() else { return };
        parts.for_each(|part| all.append(part));
        self.forget(all.gone, known.min_count);
        self.note(all.lefts, |before| Pair { left: before, right: symbol }, known);
        self.note(all.rights, |next| Pair { left: symbol, right: next }, known);
    }

    /// Lowers the counts of pairs that stand at fewer places now.
    fn forget(&mut self, mut gone: Vec<(u64, u64)>, min_count: u64) {
        gone.sort_unstable_by_key(|&(pair, _)| pair);
        for same in gone.chunk_by(|one, other| one.0 == other.0) {
            let count: u64 = same.iter().map(|(_, count)| count).sum();
            let pair = Pair::of(same[0].0);
            if let Some(candidate) = self.candidates.get_mut(&pair) {
                candidate.count = candidate.count.saturating_sub(count);
                if candidate.count < min_count {
                    self.candidates.remove(&pair);
                }
            }
        }
    }

    /// Notes pairs of a symbol with neighbours, given as words of the neighbour and where the pair begins.
    fn note(&mut self, mut words: Vec<u64>, pair_with: impl Fn(u32) -> Pair, known: Known<'_>) {
        let Known { symbols, slots, first, min_count } = known;
        words.sort_unstable();
        for same in words.chunk_by(|one, other| one >> 32 == other >> 32) {
            let pair = pair_with((same[0] >> 32) as u32);
            if !symbols.are_pieces(pair.left, pair.right) {
                continue;
            }
            let is_due = symbols.piece_of(pair.left, pair.right);
            let count: u64 = same.iter().map(|&word| slots.count(word as u32)).sum();
            if let Some(piece) = is_due {
                self.due.insert((piece, pair));
            } else if count < min_count || !symbols.may_join(pair.left, pair.right) {
                continue;
            }
            let new = || same.iter().map(|&word| word as u32);
            let candidate = self
                .candidates
                .entry(pair)
                .or_insert_with(|| Candidate { count: 0, places: Places::First(0, 0) });
            candidate.count += count;
            candidate.places = Places::Own(match &candidate.places {
                &Places::First(start, length) => {
                    first.get(start, length).iter().copied().chain(new()).collect()
                }
                Places::Own(own) => own.iter().copied().chain(new()).collect(),
            });
            if is_due.is_none() {
                self.heap.push((candidate.count, Reverse(pair)));
            }
        }
    }
}
