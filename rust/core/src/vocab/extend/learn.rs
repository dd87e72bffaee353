//! Learning pieces: again and again the pair that is counted most becomes one.

use std::ops::Range;

use super::{
    candidates::{Changes, FirstPlaces, Known, Table, first_tables, on_each, table_of},
    pairs::{Pair, first_pairs},
    slots::{END, Slots},
    symbols::Symbols,
};
use crate::{Error, Result};

/// BPE on counted runs.
///
/// In each step the pair with the highest count becomes a piece; of equal ones that of the lowest numbers (older symbols
/// first). Every pair with the same text is merged with it, from left to right, as an encoder does it. A character that is
/// no piece yet counts once for each token that it takes without being one, less the one that it would take. After a step,
/// pairs whose text is a piece already are merged, as an encoder would have done at once.
///
/// A merge at many places is done by several threads: each merges in runs of its own, then each takes in what that changes
/// in a table of its own. What is learned does not depend on how many there are.
#[derive(Debug)]
pub(super) struct Learner {
    pub symbols: Symbols,
    slots: Slots,
    /// Where the protected pieces begin, each a run of its own.
    protected: usize,
    min_count: u64,
    /// One for each thread.
    tables: Vec<Table>,
    first: FirstPlaces,
    /// How many pieces the protected ones need at most.
    needed: usize,
}

/// Places that are looked at together.
const CHUNK: usize = 64;
/// Places, or changes of pairs, that are worth a thread of the pool.
const SHARE: usize = if cfg!(test) { 2 } else { 128 };

/// The changes that merges make, for each table those of its pairs.
struct Found {
    symbol: u32,
    tables: Vec<Changes>,
}

impl Found {
    fn new(symbol: u32, tables: usize) -> Self {
        Self { symbol, tables: (0..tables).map(|_| Changes::default()).collect() }
    }

    fn of(&mut self, pair: Pair) -> &mut Changes {
        let table = table_of(pair, self.tables.len());
        &mut self.tables[table]
    }

    /// A pair stands at a place less, which was counted so often.
    fn gone(&mut self, pair: Pair, count: u64) {
        self.of(pair).gone.push((pair.word(), count));
    }

    /// The symbol stands after `neighbour`, which begins at `at`.
    fn after(&mut self, neighbour: u32, at: u32) {
        if neighbour == self.symbol {
            return self.before(neighbour, at);
        }
        let pair = Pair { left: neighbour, right: self.symbol };
        self.of(pair).lefts.push(word(neighbour, at));
    }

    /// The symbol begins at `at`, before `neighbour`.
    fn before(&mut self, neighbour: u32, at: u32) {
        let pair = Pair { left: self.symbol, right: neighbour };
        self.of(pair).rights.push(word(neighbour, at));
    }

    /// What was the neighbour of the symbol that began last, at `at`, is part of the symbol now.
    fn follow(&mut self, neighbour: u32, at: u32) {
        let pair = Pair { left: self.symbol, right: neighbour };
        self.of(pair).rights.pop();
        self.before(self.symbol, at);
    }
}

fn word(neighbour: u32, at: u32) -> u64 {
    u64::from(neighbour) << 32 | u64::from(at)
}

/// A million lists of places take long to free.
impl Drop for Learner {
    fn drop(&mut self) {
        on_each(std::mem::take(&mut self.tables), drop);
    }
}

impl Learner {
    /// Counts the pairs. `characters` has the tokens saved by each character that is no piece, where that is more than one.
    pub fn new(
        symbols: Symbols,
        slots: Slots,
        protected: usize,
        min_count: u64,
        saved: impl Fn(&str) -> u64 + Sync,
        threads: usize,
    ) -> Self {
        let found = first_pairs(&symbols, &slots, min_count, saved, threads);
        let (tables, first) = first_tables(found, threads.max(1));
        let mut learner = Self { symbols, slots, protected, min_count, tables, first, needed: 0 };
        learner.needed = learner.missing();
        learner
    }

    /// Learns up to `room` pieces, the protected ones among them; fewer where no more pairs are counted often enough.
    /// Returns their numbers. `watch` is told how many there are, and may stop the work by an error.
    ///
    /// # Errors
    /// [`Error::Argument`] if the protected pieces need more room or are forbidden; those of `watch`.
    pub fn learn(&mut self, room: usize, watch: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<u32>> {
        let mut made = Vec::new();
        while made.len() < room {
            watch(made.len())?;
            if self.needed >= room - made.len() {
                self.needed = self.missing();
                if self.needed >= room - made.len() && self.needed > 0 {
                    self.make_protected(room, &mut made)?;
                    continue;
                }
            }
            let Some(pair) = self.best() else { break };
            if pair.right == END {
                self.activate(pair.left);
                made.push(pair.left);
            } else if let Some(piece) = self.join(pair) {
                made.push(piece);
            }
        }
        if self.missing() > 0 {
            self.make_protected(room, &mut made)?;
        }
        Ok(made)
    }

    /// Takes the candidate with the highest count.
    fn best(&mut self) -> Option<Pair> {
        let tops = self.tables.iter_mut().enumerate();
        let (best, table) = tops.filter_map(|(number, table)| Some((table.best()?, number))).max()?;
        self.tables[table].pop_best();
        Some(best.1.0)
    }

    /// Merges a pair, wherever it stands; returns its piece if it is a new one.
    fn join(&mut self, pair: Pair) -> Option<u32> {
        let known = self.symbols.piece_of(pair.left, pair.right);
        let piece = known.unwrap_or_else(|| self.symbols.join(pair.left, pair.right));
        self.merge(piece, Vec::new());
        self.settle();
        known.is_none().then_some(piece)
    }

    /// Merges the pairs whose text is a piece already.
    fn settle(&mut self) {
        loop {
            let due = self.tables.iter_mut().filter_map(|table| Some((table.first_due()?, table)));
            let Some(((piece, _), table)) = due.min_by_key(|&(due, _)| due) else { break };
            table.pop_due();
            self.merge(piece, Vec::new());
        }
    }

    /// Makes `piece` of every pair with its text: those of the candidates, and those at `places`, each with its left symbol.
    fn merge(&mut self, piece: u32, mut places: Vec<(u32, u32)>) {
        let splits = self.symbols.splits(piece);
        for &(left, right) in &splits {
            let pair = Pair { left, right };
            let table = table_of(pair, self.tables.len());
            self.tables[table].take(pair, &self.first, left, &mut places);
        }
        if !places.is_sorted() {
            places.sort_unstable();
        }
        let parts = self.cut(&places);
        let found = on_each(parts, |part| self.merge_at(piece, &splits, &places[part]));
        self.change(piece, found);
    }

    /// Ranges of the places, each of whole runs: as many as there are threads, or fewer.
    fn cut(&self, places: &[(u32, u32)]) -> Vec<Range<usize>> {
        let parts = (places.len() / SHARE).clamp(1, self.tables.len());
        let mut starts: Vec<usize> = vec![0];
        for part in 1..parts {
            let run = self.slots.start_of_run(places[places.len() / parts * part].0);
            let start = places.partition_point(|&(at, _)| at < run);
            starts.extend(Some(start).filter(|start| starts.last() < Some(start)));
        }
        let ends = starts[1..].iter().copied().chain([places.len()]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// Makes `piece` of the pairs at places.
    fn merge_at(&self, piece: u32, splits: &[(u32, u32)], places: &[(u32, u32)]) -> Found {
        let mut found = Found::new(piece, self.tables.len());
        let (mut standing, mut last) = (Vec::with_capacity(CHUNK), None);
        for places in places.chunks(CHUNK) {
            // Most time is waiting for the memory of places far apart: here it is asked for all at once.
            standing.clear();
            standing.extend(places.iter().filter(|&&(at, left)| self.slots.get(at) == left));
            for &(at, left) in &standing {
                // Where this very symbol began once, it can only stand if it still begins there: symbols grow.
                if self.slots.get(at) != left {
                    continue;
                }
                let Some((right, middle)) = self.slots.after(at, self.symbols.length(left)) else { continue };
                if !splits.contains(&(left, right)) {
                    continue;
                }
                let end = middle + self.symbols.length(right);
                let count = self.slots.count(at);
                // Between two merges side by side one pair goes, and it was counted with the first.
                match self.slots.before(at, &self.symbols) {
                    Some((_, start)) if last == Some(start) => found.follow(left, start),
                    Some((before, start)) => {
                        found.gone(Pair { left: before, right: left }, count);
                        found.after(before, start);
                    }
                    None => {}
                }
                if let Some((next, _)) = self.slots.after(middle, end - middle) {
                    found.gone(Pair { left: right, right: next }, count);
                    found.before(next, at);
                }
                self.slots.merge(at, middle, end, piece);
                last = Some(at);
            }
        }
        found
    }

    /// Brings what merges have changed into the tables.
    fn change(&mut self, symbol: u32, found: Vec<Found>) {
        let Self { symbols, slots, first, min_count, tables, .. } = self;
        let known = Known { symbols, slots, first, min_count: *min_count };
        let mut of_table: Vec<_> = tables.iter_mut().map(|table| (table, Vec::new())).collect();
        let mut changes = 0;
        for part in found {
            for ((_, held), more) in of_table.iter_mut().zip(part.tables) {
                changes += more.len();
                held.push(more);
            }
        }
        let work = |(table, held): (&mut Table, Vec<Changes>)| table.change(symbol, held, known);
        if changes < 2 * SHARE {
            of_table.into_iter().for_each(work);
        } else {
            on_each(of_table, work);
        }
    }

    /// Makes a piece of a character.
    fn activate(&mut self, character: u32) {
        let pair = Pair { left: character, right: END };
        let (table, mut places) = (table_of(pair, self.tables.len()), Vec::new());
        self.tables[table].take(pair, &self.first, character, &mut places);
        self.symbols.activate(character);
        let found = on_each(self.cut(&places), |part| self.activate_at(character, &places[part]));
        self.change(character, found);
        self.settle();
    }

    /// Finds the pairs that a character makes at places.
    fn activate_at(&self, character: u32, places: &[(u32, u32)]) -> Found {
        let (mut found, mut last) = (Found::new(character, self.tables.len()), None);
        for &(at, _) in places {
            match self.slots.before(at, &self.symbols) {
                Some((_, start)) if last == Some(start) => {}
                Some((before, start)) => found.after(before, start),
                None => {}
            }
            if let Some((next, _)) = self.slots.after(at, 1) {
                found.before(next, at);
            }
            last = Some(at);
        }
        found
    }

    /// How many pieces the protected ones need at most.
    fn missing(&self) -> usize {
        let (mut needed, mut characters) = (0, Vec::new());
        for (symbol, at) in self.slots.symbols(self.protected, self.slots.len(), &self.symbols) {
            needed += usize::from(self.slots.before(at, &self.symbols).is_some());
            if !self.symbols.get(symbol).is_piece {
                characters.push(symbol);
            }
        }
        characters.sort_unstable();
        characters.dedup();
        needed + characters.len()
    }

    /// Makes the protected pieces from what they consist of by now.
    fn make_protected(&mut self, room: usize, made: &mut Vec<u32>) -> Result<()> {
        loop {
            let mut symbols = self.slots.symbols(self.protected, self.slots.len(), &self.symbols);
            let unknown = symbols.find(|&(symbol, _)| !self.symbols.get(symbol).is_piece);
            drop(symbols);
            if let Some((symbol, _)) = unknown {
                self.activate(symbol);
                made.push(symbol);
            } else if let Some(pair) = self.next_protected()? {
                let known = self.symbols.piece_of(pair.left, pair.right);
                let piece = known.unwrap_or_else(|| self.symbols.join(pair.left, pair.right));
                let symbols = self.slots.symbols(self.protected, self.slots.len(), &self.symbols);
                let places = symbols.map(|(symbol, at)| (at, symbol)).collect();
                self.merge(piece, places);
                self.settle();
                made.extend(known.is_none().then_some(piece));
            } else {
                self.needed = 0;
                return Ok(());
            }
            if made.len() > room {
                return Err(Error::Argument(
                    format!("the protected pieces need more than {room} new pieces; ask for more, or protect fewer")
                        .into(),
                ));
            }
        }
    }

    /// The first pair of the first protected run that is no piece yet.
    fn next_protected(&self) -> Result<Option<Pair>> {
        let mut refused = String::new();
        for (right, at) in self.slots.symbols(self.protected, self.slots.len(), &self.symbols) {
            let Some((left, _)) = self.slots.before(at, &self.symbols) else {
                if !refused.is_empty() {
                    break;
                }
                continue;
            };
            let text = [self.symbols.text(left), self.symbols.text(right)].concat();
            if self.symbols.is_free(&text) {
                return Ok(Some(Pair { left, right }));
            }
            refused = text;
        }
        if refused.is_empty() {
            return Ok(None);
        }
        let reason = format!(
            "a protected piece needs `{refused}`, which is forbidden or no ordinary piece of the base"
        );
        Err(Error::Argument(reason.into()))
    }
}
