//! The learner in its simplest form: all pairs are counted anew for each piece.

use std::collections::BTreeMap;

use super::{
    slots::{END, Slots},
    symbols::Symbols,
};

pub(super) struct Oracle {
    pub symbols: Symbols,
    runs: Vec<(Vec<u32>, u64)>,
    min_count: u64,
}

impl Oracle {
    pub fn new(symbols: Symbols, slots: &Slots, min_count: u64) -> Self {
        let mut runs: Vec<(Vec<u32>, u64)> = Vec::new();
        for (symbol, at) in slots.symbols(0, slots.len(), &symbols) {
            if slots.before(at, &symbols).is_none() {
                runs.push((Vec::new(), slots.count(at)));
            }
            runs.last_mut().unwrap().0.push(symbol);
        }
        Self { symbols, runs, min_count }
    }

    pub fn learn(&mut self, room: usize, saved: impl Fn(&str) -> u64) -> Vec<u32> {
        let mut made = Vec::new();
        while made.len() < room {
            let mut counts: BTreeMap<(u32, u32), u64> = BTreeMap::new();
            for (run, count) in &self.runs {
                for &symbol in run {
                    let text = self.symbols.text(symbol);
                    if !self.symbols.get(symbol).is_piece && self.symbols.may_be_piece(symbol) {
                        *counts.entry((symbol, END)).or_default() += count * saved(text);
                    }
                }
                for pair in run.windows(2) {
                    if self.symbols.may_join(pair[0], pair[1]) {
                        *counts.entry((pair[0], pair[1])).or_default() += count;
                    }
                }
            }
            let best = counts.iter().filter(|(_, count)| **count >= self.min_count);
            let Some((&(left, right), _)) =
                best.max_by_key(|&(pair, count)| (*count, std::cmp::Reverse(*pair)))
            else {
                break;
            };
            if right == END {
                self.symbols.activate(left);
                made.push(left);
            } else {
                let piece = self.symbols.join(left, right);
                made.push(piece);
                self.merge(piece);
            }
            while let Some(piece) = self.due() {
                self.merge(piece);
            }
        }
        made
    }

    fn due(&self) -> Option<u32> {
        let pairs = self.runs.iter().flat_map(|(run, _)| run.windows(2));
        let pieces = pairs.filter(|pair| self.symbols.are_pieces(pair[0], pair[1]));
        pieces.filter_map(|pair| self.symbols.piece_of(pair[0], pair[1])).min()
    }

    fn merge(&mut self, piece: u32) {
        for (run, _) in &mut self.runs {
            let mut at = 0;
            while at + 1 < run.len() {
                if self.symbols.are(run[at], run[at + 1], piece) {
                    run[at] = piece;
                    run.remove(at + 1);
                }
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::extend::{cut::Scripts, learn::Learner, pool::on_pool};

    /// Runs of the letters a to d, of which `d` is no piece yet.
    fn start(runs: &[(String, u64)], max_length: usize) -> (Symbols, Slots) {
        let mut symbols = Symbols::new(Scripts::All, max_length, std::iter::empty());
        for letter in ["a", "b", "c", "d"] {
            symbols.add(letter, letter != "d");
        }
        let mut slots = Slots::new();
        for (run, count) in runs {
            slots.begin(*count);
            run.bytes().for_each(|letter| slots.push(u32::from(letter - b'a'), 1));
            slots.end();
        }
        (symbols, slots)
    }

    fn texts(symbols: &Symbols, pieces: &[u32]) -> Vec<String> {
        pieces.iter().map(|&piece| symbols.text(piece).to_owned()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_learner_learns_what_the_oracle_does(
            runs in prop::collection::vec(("[abcd]{1,24}", 1_u64..5), 1..8),
            max_length in 2_usize..8,
            threads in 1_usize..4,
        ) {
            let mut runs = runs;
            runs.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let saved = |_: &str| 2;
            let (symbols, slots) = start(&runs, max_length);
            let mut oracle = Oracle::new(symbols, &slots, 1);
            let expected = oracle.learn(30, saved);
            let (symbols, slots) = start(&runs, max_length);
            let protected = slots.len();
            let learned = on_pool(threads, &mut |_| Ok(()), |watch| {
                let mut learner = Learner::new(symbols, slots, protected, 1, saved, threads);
                let learned = learner.learn(30, watch)?;
                Ok(texts(&learner.symbols, &learned))
            });
            prop_assert_eq!(learned.unwrap(), texts(&oracle.symbols, &expected));
        }
    }
}
