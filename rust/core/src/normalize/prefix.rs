//! The longest of a set of byte strings at the start of a text.

use rustc_hash::FxHashSet;

/// Finds the longest of a set of byte strings that a text starts with.
#[derive(Debug, Default)]
pub struct PrefixMatcher {
    entries: FxHashSet<Box<[u8]>>,
    /// Lengths that occur, longest first.
    lengths: Vec<usize>,
    starts: Vec<bool>,
}

impl PrefixMatcher {
    /// Prepares the set.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let entries: FxHashSet<Box<[u8]>> = entries.into_iter().map(Box::from).collect();
        let mut starts = vec![false; 256];
        let mut lengths: Vec<usize> = entries.iter().map(|e| e.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        for first in entries.iter().filter_map(|e| e.first()) {
            starts[usize::from(*first)] = true;
        }
        Self { entries, lengths, starts }
    }

    /// The set, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(|entry| &entry[..])
    }

    /// True if nothing can match.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if an entry starts with this byte.
    pub fn starts_with(&self, first: u8) -> bool {
        !self.is_empty() && self.starts[usize::from(first)]
    }

    /// Length of the longest entry that `text` starts with.
    pub fn longest(&self, text: &[u8]) -> Option<usize> {
        let first = *text.first()?;
        if self.is_empty() || !self.starts[usize::from(first)] {
            return None;
        }
        self.lengths.iter().copied().find(|&len| text.get(..len).is_some_and(|t| self.entries.contains(t)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_wins() {
        let m = PrefixMatcher::new([b"ab".as_slice(), b"abcd", b"x"]);
        assert_eq!(m.longest(b"abcde"), Some(4));
        assert_eq!(m.longest(b"abc"), Some(2));
        assert_eq!(m.longest(b"b"), None);
    }
}
