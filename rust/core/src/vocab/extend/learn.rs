//! Learning pieces: again and again the pair that is counted most becomes one.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use rustc_hash::FxHashMap;

use super::{
    pairs::{Candidate, Pair, first_candidates},
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
#[derive(Debug)]
pub(super) struct Learner {
    pub symbols: Symbols,
    slots: Slots,
    /// Where the protected pieces begin, each a run of its own.
    protected: usize,
    min_count: u64,
    candidates: FxHashMap<Pair, Candidate>,
    /// Counts and pairs; outdated where the candidate has another count.
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    /// Pairs whose text is a piece, by its number.
    due: BTreeSet<(u32, Pair)>,
    /// How many pieces the protected ones need at most.
    needed: usize,
}

/// Places that are looked at together.
const CHUNK: usize = 64;

/// The pairs that a symbol makes with its neighbours. Each is a word of the neighbour and of where the pair begins, so that
/// sorting brings equal pairs together.
struct Born {
    symbol: u32,
    /// Pairs with the neighbour on the left.
    lefts: Vec<u64>,
    /// Pairs with the neighbour on the right, among them all of the symbol with itself.
    rights: Vec<u64>,
}

impl Born {
    fn new(symbol: u32) -> Self {
        Self { symbol, lefts: Vec::new(), rights: Vec::new() }
    }

    /// The symbol stands after `neighbour`, which begins at `at`.
    fn after(&mut self, neighbour: u32, at: u32) {
        let pairs = if neighbour == self.symbol { &mut self.rights } else { &mut self.lefts };
        pairs.push(word(neighbour, at));
    }

    /// The symbol begins at `at`, before `neighbour`.
    fn before(&mut self, neighbour: u32, at: u32) {
        self.rights.push(word(neighbour, at));
    }

    /// What was the neighbour of the symbol that began last, at `at`, is part of the symbol now.
    fn follow(&mut self, at: u32) {
        self.rights.pop();
        self.rights.push(word(self.symbol, at));
    }
}

fn word(neighbour: u32, at: u32) -> u64 {
    u64::from(neighbour) << 32 | u64::from(at)
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
        let found = first_candidates(&symbols, &slots, min_count, saved, threads);
        let heap = found.iter().map(|(pair, candidate)| (candidate.count, Reverse(*pair))).collect();
        let candidates = found.into_iter().collect();
        let due = BTreeSet::new();
        let mut learner = Self { symbols, slots, protected, min_count, candidates, heap, due, needed: 0 };
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
        while let Some((count, Reverse(pair))) = self.heap.pop() {
            match self.candidates.get(&pair) {
                Some(candidate) if candidate.count == count => return Some(pair),
                Some(candidate) if candidate.count < count => {
                    self.heap.push((candidate.count, Reverse(pair)))
                }
                _ => {}
            }
        }
        None
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
        while let Some((piece, _)) = self.due.pop_first() {
            self.merge(piece, Vec::new());
        }
    }

    /// Makes `piece` of every pair with its text: those of the candidates, and those at `places`, each with its left symbol.
    fn merge(&mut self, piece: u32, mut places: Vec<(u32, u32)>) {
        let splits = self.symbols.splits(piece);
        for &(left, right) in &splits {
            if let Some(candidate) = self.candidates.remove(&Pair { left, right }) {
                places.extend(candidate.places.iter().map(|&at| (at, left)));
            }
        }
        if !places.is_sorted() {
            places.sort_unstable();
        }
        let (mut born, mut gone) = (Born::new(piece), Vec::new());
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
                    Some((_, start)) if last == Some(start) => born.follow(start),
                    Some((before, start)) => {
                        gone.push((Pair { left: before, right: left }, count));
                        born.after(before, start);
                    }
                    None => {}
                }
                if let Some((next, _)) = self.slots.after(middle, end - middle) {
                    gone.push((Pair { left: right, right: next }, count));
                    born.before(next, at);
                }
                self.slots.merge(at, middle, end, piece);
                last = Some(at);
            }
        }
        self.forget(gone);
        self.note(born);
    }

    /// Lowers the counts of pairs that stand at fewer places now.
    fn forget(&mut self, mut gone: Vec<(Pair, u64)>) {
        gone.sort_unstable_by_key(|&(pair, _)| pair.word());
        for same in gone.chunk_by(|one, other| one.0 == other.0) {
            let count: u64 = same.iter().map(|(_, count)| count).sum();
            if let Some(candidate) = self.candidates.get_mut(&same[0].0) {
                candidate.count = candidate.count.saturating_sub(count);
                if candidate.count < self.min_count {
                    self.candidates.remove(&same[0].0);
                }
            }
        }
    }

    /// Notes the pairs that a symbol makes with its neighbours.
    fn note(&mut self, mut born: Born) {
        let symbol = born.symbol;
        self.bear(&mut born.lefts, |before| Pair { left: before, right: symbol });
        self.bear(&mut born.rights, |next| Pair { left: symbol, right: next });
    }

    /// Notes pairs of a symbol with neighbours, given as words of the neighbour and where the pair begins.
    fn bear(&mut self, words: &mut [u64], pair_with: impl Fn(u32) -> Pair) {
        words.sort_unstable();
        for same in words.chunk_by(|one, other| one >> 32 == other >> 32) {
            let pair = pair_with((same[0] >> 32) as u32);
            let is_due = if self.symbols.are_pieces(pair.left, pair.right) {
                self.symbols.piece_of(pair.left, pair.right)
            } else {
                continue;
            };
            let count: u64 = same.iter().map(|&word| self.slots.count(word as u32)).sum();
            if let Some(piece) = is_due {
                self.due.insert((piece, pair));
            } else if count < self.min_count || !self.symbols.may_join(pair.left, pair.right) {
                continue;
            }
            let places = same.iter().map(|&word| word as u32);
            let candidate = self.candidates.entry(pair).or_default();
            candidate.count += count;
            candidate.places = candidate.places.iter().copied().chain(places).collect();
            if is_due.is_none() {
                self.heap.push((candidate.count, Reverse(pair)));
            }
        }
    }

    /// Makes a piece of a character.
    fn activate(&mut self, character: u32) {
        let candidate = self.candidates.remove(&Pair { left: character, right: END });
        self.symbols.activate(character);
        let (mut born, mut last) = (Born::new(character), None);
        for at in candidate.unwrap_or_default().places {
            match self.slots.before(at, &self.symbols) {
                Some((_, start)) if last == Some(start) => {}
                Some((before, start)) => born.after(before, start),
                None => {}
            }
            if let Some((next, _)) = self.slots.after(at, 1) {
                born.before(next, at);
            }
            last = Some(at);
        }
        self.note(born);
        self.settle();
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
