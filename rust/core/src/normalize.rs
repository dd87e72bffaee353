//! Text as BPE sees it: SentencePiece's normaliser (source: its `normalizer.cc`).
//!
//! Identity models only turn spaces into `▁` and invalid bytes into U+FFFD; `nmt_nfkc` and its kin carry a
//! compiled character map, a double-array trie over UTF-8 prefixes with their replacements.

use rustc_hash::FxHashSet;

use crate::{Error, Result, spm::NormalizerOptions};

/// `▁`, what stands for a space inside pieces.
pub const SPACE: &[u8] = "\u{2581}".as_bytes();
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// SentencePiece's normaliser for one model.
#[derive(Debug)]
pub struct Normalizer {
    charsmap: Option<CharsMap>,
    user_defined: PrefixMatcher,
    options: NormalizerOptions,
}

impl Normalizer {
    /// Prepares the normaliser. `user_defined` pieces pass through untouched, as SentencePiece does it;
    /// `origin` names the model in errors.
    pub fn new(mut options: NormalizerOptions, user_defined: PrefixMatcher, origin: &str) -> Result<Self> {
        let blob = std::mem::take(&mut options.charsmap);
        let charsmap = if blob.is_empty() { None } else { Some(CharsMap::new(&blob, origin)?) };
        Ok(Self { charsmap, user_defined, options })
    }

    /// True if all this does to valid UTF-8 is turn spaces into `▁` and put one in front.
    pub fn only_escapes_spaces(&self) -> bool {
        let options = &self.options;
        self.charsmap.is_none()
            && options.escape_whitespaces
            && !options.remove_extra_whitespaces
            && !options.whitespace_as_suffix
    }

    /// Appends the normalised form of `text` (any bytes) to `out`; what is appended is valid UTF-8.
    pub fn normalize(&self, text: &[u8], out: &mut Vec<u8>) {
        let trims = self.options.remove_extra_whitespaces;
        let space: &[u8] = if self.options.escape_whitespaces { SPACE } else { b" " };
        let start = out.len();
        let mut rest = text;
        if trims {
            while let (b" ", used) = self.prefix(rest) {
                rest = &rest[used..];
            }
        }
        if rest.is_empty() {
            return;
        }
        if self.options.add_dummy_prefix && !self.options.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
        if !trims && self.charsmap.is_none() && self.user_defined.is_empty() {
            identity(rest, space, out);
        } else {
            let mut after_space = trims;
            while !rest.is_empty() {
                let (mut piece, used) = self.prefix(rest);
                while after_space && piece.first() == Some(&b' ') {
                    piece = &piece[1..];
                }
                if let Some(&last) = piece.last() {
                    push_escaped(piece, space, out);
                    after_space = trims && last == b' ';
                }
                rest = &rest[used..];
            }
        }
        if trims {
            while out[start..].ends_with(space) {
                out.truncate(out.len() - space.len());
            }
        }
        if self.options.add_dummy_prefix && self.options.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
    }

    /// The replacement of the longest prefix that has one, and how many bytes it replaces; (empty, 0) at
    /// the end of the text.
    fn prefix<'a>(&'a self, text: &'a [u8]) -> (&'a [u8], usize) {
        if text.is_empty() {
            return (&[], 0);
        }
        if let Some(used) = self.user_defined.longest(text) {
            return (&text[..used], used);
        }
        if let Some(found) = self.charsmap.as_ref().and_then(|map| map.longest(text)) {
            return found;
        }
        match char_len(text) {
            Some(len) => (&text[..len], len),
            None => (REPLACEMENT, 1),
        }
    }
}

/// Copies `text` with spaces escaped and each invalid byte made U+FFFD.
fn identity(text: &[u8], space: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        push_escaped(chunk.valid().as_bytes(), space, out);
        // `utf8_chunks` groups the bytes of a cut-off character; SentencePiece replaces each byte.
        for _ in chunk.invalid() {
            out.extend_from_slice(REPLACEMENT);
        }
    }
}

fn push_escaped(text: &[u8], space: &[u8], out: &mut Vec<u8>) {
    let mut from = 0;
    for at in memchr::memchr_iter(b' ', text) {
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(space);
        from = at + 1;
    }
    out.extend_from_slice(&text[from..]);
}

/// Bytes of the first character, or `None` if the text does not start with a valid one.
fn char_len(text: &[u8]) -> Option<usize> {
    let head = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(valid) => valid,
        Err(e) => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
    };
    valid.chars().next().map(char::len_utf8)
}

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

    /// True if nothing can match.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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

/// A compiled character map: `<trie bytes, u32><double-array trie><replacements, each ended by NUL>`.
#[derive(Debug)]
struct CharsMap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl CharsMap {
    fn new(blob: &[u8], origin: &str) -> Result<Self> {
        let broken = || Error::model(origin, "the compiled character map is broken; copy the model again");
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(broken)?;
        let size = u32::from_le_bytes(*size) as usize;
        if size >= blob.len() || size > rest.len() || !size.is_multiple_of(4) || size == 0 {
            return Err(broken());
        }
        let (trie, replacements) = rest.split_at(size);
        let units = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        // Replacements are copied into text that is promised to be UTF-8.
        std::str::from_utf8(replacements).map_err(|_| broken())?;
        Ok(Self { units, replacements: replacements.to_vec() })
    }

    /// The replacement of the longest key that `text` starts with, and the length of that key.
    ///
    /// Walks the darts-clone layout: a unit holds a label (bits 0 to 7), whether a value follows (bit 8) and
    /// an offset (bits 10 and up, shifted by 8 more when bit 9 is set). Every step is bounds-checked: the
    /// trie comes from a file.
    fn longest(&self, text: &[u8]) -> Option<(&[u8], usize)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            at ^= u32::from(byte);
            let Some(&unit) = self.units.get(at as usize) else { break };
            if unit & ((1 << 31) | 0xFF) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit & (1 << 8) != 0 {
                let Some(&leaf) = self.units.get(at as usize) else { break };
                found = Some(((leaf & 0x7FFF_FFFF) as usize, i + 1));
            }
        }
        let (value, used) = found?;
        // A value in the middle of a character would break UTF-8 (a damaged map); it counts as no rule.
        let tail = self.replacements.get(value..)?;
        let text = tail.split(|&b| b == 0).next()?;
        std::str::from_utf8(text).ok().map(|t| (t.as_bytes(), used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_normalizer(user_defined: &[&str]) -> Normalizer {
        let options =
            NormalizerOptions { add_dummy_prefix: true, escape_whitespaces: true, ..Default::default() };
        let matcher = PrefixMatcher::new(user_defined.iter().map(|s| s.as_bytes()));
        Normalizer::new(options, matcher, "test").unwrap()
    }

    fn normalized(normalizer: &Normalizer, text: &[u8]) -> String {
        let mut out = Vec::new();
        normalizer.normalize(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn identity_escapes_spaces_and_replaces_each_invalid_byte() {
        let n = identity_normalizer(&[]);
        assert_eq!(normalized(&n, b""), "");
        assert_eq!(normalized(&n, "你 好".as_bytes()), "▁你▁好");
        assert_eq!(normalized(&n, b"a\xE4\xBDb\xFF"), "▁a\u{FFFD}\u{FFFD}b\u{FFFD}");
        // The slower road gives the same.
        let n = identity_normalizer(&["never"]);
        assert_eq!(normalized(&n, b"a\xE4\xBDb\xFF c"), "▁a\u{FFFD}\u{FFFD}b\u{FFFD}▁c");
    }

    #[test]
    fn longest_prefix_wins() {
        let m = PrefixMatcher::new([b"ab".as_slice(), b"abcd", b"x"]);
        assert_eq!(m.longest(b"abcde"), Some(4));
        assert_eq!(m.longest(b"abc"), Some(2));
        assert_eq!(m.longest(b"b"), None);
    }

    #[test]
    fn a_broken_character_map_is_refused() {
        for blob in [&[1u8][..], &[255, 255, 255, 255, 0], &[4, 0, 0, 0, 0, 0, 0, 0, 0xFF]] {
            assert!(CharsMap::new(blob, "m").is_err(), "{blob:?}");
        }
    }
}
