//! The runs as one array with a slot for each character, merged in place.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::symbols::Symbols;

/// Between two runs, and in place of what no merge may touch.
pub(super) const END: u32 = u32::MAX;
/// Inside a symbol.
const INSIDE: u32 = u32::MAX - 1;

/// Runs of symbols. A symbol stands in the first and in the last slot of its characters, so that the neighbours on both
/// sides are found without links.
#[derive(Debug)]
pub(super) struct Slots {
    /// Atomic for the threads that merge at the same time, each in runs of its own.
    slots: Vec<AtomicU32>,
    /// From which slot on runs have which count; counts fall.
    counts: Vec<(u32, u64)>,
}

impl Slots {
    pub fn new() -> Self {
        Self { slots: vec![AtomicU32::new(END)], counts: Vec::new() }
    }

    /// Begins a run that was counted so often. Counts must not rise.
    pub fn begin(&mut self, count: u64) {
        if self.counts.last().is_none_or(|&(_, last)| last != count) {
            self.counts.push((self.slots.len() as u32, count));
        }
    }

    /// Adds a symbol of so many characters.
    pub fn push(&mut self, symbol: u32, length: u32) {
        self.slots.push(AtomicU32::new(symbol));
        if length > 1 {
            self.slots.extend((2..length).map(|_| AtomicU32::new(INSIDE)));
            self.slots.push(AtomicU32::new(symbol));
        }
    }

    /// Ends a run, or cuts it.
    pub fn end(&mut self) {
        if self.slots.last().is_none_or(|last| last.load(Relaxed) != END) {
            self.slots.push(AtomicU32::new(END));
        }
    }

    /// Leaves out what was added from slot `start` on.
    pub fn drop_from(&mut self, start: usize) {
        self.slots.truncate(start);
    }

    /// True if something from slot `start` on is cut.
    pub fn has_end(&self, start: usize) -> bool {
        self.slots[start..].iter().any(|slot| slot.load(Relaxed) == END)
    }

    /// Parts one after the other. Counts must not rise from one to the next.
    pub fn join(parts: Vec<Self>) -> Self {
        let mut all = Self::new();
        all.slots.reserve_exact(parts.iter().map(|part| part.slots.len() - 1).sum());
        for mut part in parts {
            // Each begins with an end of its own.
            let shift = all.slots.len() as u32 - 1;
            for (start, count) in part.counts {
                if all.counts.last().is_none_or(|&(_, last)| last != count) {
                    all.counts.push((start + shift, count));
                }
            }
            part.slots.remove(0);
            all.slots.append(&mut part.slots);
        }
        all
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How often the run of a slot was counted.
    pub fn count(&self, at: u32) -> u64 {
        match self.counts.last() {
            Some(&(start, count)) if at >= start => count,
            _ => self.counts[self.counts.partition_point(|&(start, _)| start <= at) - 1].1,
        }
    }

    /// The symbol that begins in a slot, for one where a symbol did begin at some time.
    pub fn get(&self, at: u32) -> u32 {
        self.slots[at as usize].load(Relaxed)
    }

    /// Where the run of a slot begins.
    pub fn start_of_run(&self, at: u32) -> u32 {
        let before = self.slots[..at as usize].iter().rposition(|slot| slot.load(Relaxed) == END);
        before.map_or(0, |end| end as u32 + 1)
    }

    /// The symbol before the one that begins at `at`, and where it begins.
    pub fn before(&self, at: u32, symbols: &Symbols) -> Option<(u32, u32)> {
        let symbol = self.get(at - 1);
        (symbol != END).then(|| (symbol, at - symbols.length(symbol)))
    }

    /// The symbol after one of so many characters, and where it begins.
    pub fn after(&self, at: u32, length: u32) -> Option<(u32, u32)> {
        let next = at + length;
        let symbol = self.get(next);
        (symbol != END).then_some((symbol, next))
    }

    /// Puts a symbol in place of the two that begin at `at` and at `middle`, and end before `end`.
    pub fn merge(&self, at: u32, middle: u32, end: u32, symbol: u32) {
        let set = |at: u32, symbol| self.slots[at as usize].store(symbol, Relaxed);
        set(middle - 1, INSIDE);
        set(middle, INSIDE);
        set(at, symbol);
        set(end - 1, symbol);
    }

    /// Calls `found` with each symbol, the one after it (or [`END`]) and where it begins.
    pub fn for_each_pair(&self, symbols: &Symbols, mut found: impl FnMut(u32, u32, u32)) {
        let mut at = 0;
        while let Some(symbol) = self.slots.get(at) {
            let symbol = symbol.load(Relaxed);
            if symbol == END {
                at += 1;
                continue;
            }
            let next = at + symbols.length(symbol) as usize;
            found(symbol, self.slots[next].load(Relaxed), at as u32);
            at = next;
        }
    }

    /// The symbols from slot `from` up to `to`, each with where it begins.
    pub fn symbols<'a>(
        &'a self,
        from: usize,
        to: usize,
        symbols: &'a Symbols,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        let mut at = from;
        std::iter::from_fn(move || {
            while at < to && self.slots[at].load(Relaxed) == END {
                at += 1;
            }
            let symbol = self.slots[..to].get(at)?.load(Relaxed);
            let start = at as u32;
            at += symbols.length(symbol) as usize;
            Some((symbol, start))
        })
    }
}
