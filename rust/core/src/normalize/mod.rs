//! Text as BPE sees it: SentencePiece's normaliser (source: its `normalizer.cc`).
//!
//! Identity models only turn spaces into `▁` and invalid bytes into U+FFFD; `nmt_nfkc` and its kin carry a
//! compiled character map, a double-array trie over UTF-8 prefixes with their replacements.

mod charsmap;

use std::sync::OnceLock;

use rustc_hash::FxHashSet;

use self::charsmap::CharsMap;
use crate::{Result, spm::NormalizerOptions};

/// `▁`, what stands for a space inside pieces.
pub const SPACE: &[u8] = "\u{2581}".as_bytes();
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// SentencePiece's normaliser for one model.
#[derive(Debug)]
pub struct Normalizer {
    charsmap: Option<CharsMap>,
    user_defined: PrefixMatcher,
    options: NormalizerOptions,
    /// Characters that start no rule.
    unchanged: CharSet,
    /// Characters that start rules (`A` and a combining accent) but have none by themselves: they stay too, unless
    /// one of `joiners` is the next byte.
    alone: CharSet,
    joiners: [bool; 256],
    /// By byte: 0 if all characters that begin with it stay, whatever follows, and for bytes that only go on with a
    /// character; 0 as well for ASCII characters that stay unless one of `joiners` is behind them, and 1 for a space that
    /// does; 2 for the rest.
    classes: [u8; 256],
    /// By character up to U+FFFF: 0, or 1 if it counts as a space, or 2 + its place in `replacements`.
    simple: Box<[u16]>,
    replacements: Vec<Box<[u8]>>,
    /// See [`Self::find_inner`]; found when the first long text is cut.
    inner: OnceLock<Box<[bool; 256]>>,
}

/// Which part of a text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Nothing is before it.
    pub is_first: bool,
    /// Nothing is behind it.
    pub is_last: bool,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { is_first: true, is_last: true };
}

impl Normalizer {
    /// Prepares the normaliser. `user_defined` pieces pass through untouched, as SentencePiece does it;
    /// `origin` names the model in errors.
    pub fn new(mut options: NormalizerOptions, user_defined: PrefixMatcher, origin: &str) -> Result<Self> {
        let blob = std::mem::take(&mut options.charsmap);
        let charsmap = if blob.is_empty() { None } else { Some(CharsMap::new(&blob, origin)?) };
        let starts_rule = |c: char| {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            user_defined.starts_with(bytes[0])
                || charsmap.as_ref().is_some_and(|map| map.node(bytes).is_some())
        };
        let unchanged = CharSet::new(|c| !starts_rule(c));
        let mut made = Self {
            charsmap,
            user_defined,
            options,
            unchanged,
            alone: CharSet::default(),
            joiners: [false; 256],
            classes: [2; 256],
            simple: Box::default(),
            replacements: Vec::new(),
            inner: OnceLock::new(),
        };
        made.find_simple_rules();
        made.find_classes();
        Ok(made)
    }

    /// Notes which bytes need no closer look.
    fn find_classes(&mut self) {
        let mut plain = [true; 256];
        for c in '\0'..='\u{FFFF}' {
            let mut buffer = [0; 4];
            let first = usize::from(c.encode_utf8(&mut buffer).as_bytes()[0]);
            let stays = self.unchanged.contains(c) || (c.is_ascii() && self.alone.contains(c));
            plain[first] &= stays && !self.joiners[first];
        }
        // Astral characters.
        plain[0xF0..].fill(false);
        self.classes = plain.map(|plain| if plain { 0 } else { 2 });
        self.classes[usize::from(b' ')] |= 1;
    }

    /// Notes what the rules say of each character by itself.
    fn find_simple_rules(&mut self) {
        let Some(map) = &self.charsmap else { return };
        self.simple = vec![0; 1 << 16].into();
        let mut joiners = [false; 256];
        for c in ('\0'..='\u{FFFF}').filter(|&c| !self.unchanged.contains(c)) {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            let Some(node) = map.node(bytes).filter(|_| !self.user_defined.starts_with(bytes[0])) else {
                continue;
            };
            let rule = map.longest(bytes);
            if map.goes_on(node, &mut joiners) {
                if rule.is_none() {
                    self.alone.insert(c);
                }
                continue;
            }
            self.simple[c as usize] = match rule {
                Some((b" ", used)) if used == bytes.len() => 1,
                Some((text, used)) if used == bytes.len() && !text.is_empty() && !text.contains(&b' ') => {
                    let Ok(place) = u16::try_from(self.replacements.len() + 2) else { continue };
                    self.replacements.push(text.into());
                    place
                }
                _ => 0,
            };
        }
        self.joiners = joiners;
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
        self.normalize_part(text, Part::WHOLE, true, out);
    }

    /// True if text may be cut between these characters, each part be normalised and the parts be joined: both stay as
    /// they are, and no rule, nor a USER_DEFINED piece, reaches across.
    pub fn may_cut(&self, left: char, right: char) -> bool {
        let inner = self.inner.get_or_init(|| self.find_inner());
        let is_plain = |c: char| {
            let mut buffer = [0; 4];
            let first = c.encode_utf8(&mut buffer).as_bytes()[0];
            self.unchanged.contains(c) && !inner[usize::from(first)] && c != ' ' && c != '\u{2581}'
        };
        is_plain(left) && is_plain(right)
    }

    /// The bytes that begin a character behind the first one of a rule or of a USER_DEFINED piece.
    fn find_inner(&self) -> Box<[bool; 256]> {
        let mut inner = Box::new([false; 256]);
        let user_defined = self.user_defined.entries.iter();
        user_defined.flat_map(|entry| entry.iter().skip(1)).for_each(|&byte| inner[usize::from(byte)] = true);
        if let Some(map) = &self.charsmap {
            map.note_inner(&mut inner);
        }
        // Those that only go on with a character begin none.
        inner[0x80..0xC0].fill(false);
        inner
    }

    /// [`Self::normalize`] for a part of a text that was cut where [`Self::may_cut`] allows it. Unless it `escapes`
    /// spaces, they are left to an encoder that takes them for `▁`.
    pub fn normalize_part(&self, text: &[u8], part: Part, escapes: bool, out: &mut Vec<u8>) {
        let trims = self.options.remove_extra_whitespaces;
        let mark: &[u8] = if self.options.escape_whitespaces { SPACE } else { b" " };
        let space = if escapes { mark } else { b" " };
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
        if part.is_first && self.options.add_dummy_prefix && !self.options.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
        if !trims && self.charsmap.is_none() {
            // USER_DEFINED pieces pass as they are, and so does everything else.
            identity(rest, space, out);
        } else {
            let mut after_space = trims;
            if let Ok(text) = simdutf8::basic::from_utf8(rest) {
                self.rewrite(text, space, &mut after_space, out);
                rest = &[];
            }
            for chunk in rest.utf8_chunks() {
                self.rewrite(chunk.valid(), space, &mut after_space, out);
                for _ in chunk.invalid() {
                    out.extend_from_slice(REPLACEMENT);
                    after_space = false;
                }
            }
        }
        if trims {
            while let Some(space) = [space, mark].into_iter().find(|space| out[start..].ends_with(space)) {
                out.truncate(out.len() - space.len());
            }
        }
        if part.is_last && self.options.add_dummy_prefix && self.options.whitespace_as_suffix {
            out.extend_from_slice(space);
        }
    }

    /// Appends the rewritten form of valid text; `after_space` says whether a space may not follow.
    fn rewrite(&self, text: &str, space: &[u8], after_space: &mut bool, out: &mut Vec<u8>) {
        let trims = self.options.remove_extra_whitespaces;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // Most text is what no rule is about.
            rest = &rest[self.copy_plain(rest, space, after_space, out)..];
            let Some((c, len)) = bmp_char(rest) else {
                if rest.is_empty() {
                    return;
                }
                rest = &rest[self.rewrite_slowly(rest, space, after_space, out)..];
                continue;
            };
            let is_space = c == u32::from(b' ') && self.stays(c, rest.get(1));
            match self.simple.get(c as usize).copied().unwrap_or(0) {
                0 if !is_space => rest = &rest[self.rewrite_slowly(rest, space, after_space, out)..],
                0 | 1 => {
                    if !*after_space {
                        out.extend_from_slice(space);
                        *after_space = trims;
                    }
                    rest = &rest[len..];
                }
                place => {
                    out.extend_from_slice(&self.replacements[usize::from(place) - 2]);
                    *after_space = false;
                    rest = &rest[len..];
                }
            }
        }
    }

    /// Copies what stays as it is from the start of valid UTF-8; returns its length.
    #[inline(always)]
    fn copy_plain(&self, text: &[u8], space: &[u8], after_space: &mut bool, out: &mut Vec<u8>) -> usize {
        let trims = self.options.remove_extra_whitespaces;
        // The highest class that passes: no space, where it is written otherwise or may not follow another.
        let highest = u8::from(space == b" ");
        let mut passes = if *after_space { 0 } else { highest };
        let mut at = 0;
        loop {
            let is_special = |&byte: &u8| {
                let class = self.classes[usize::from(byte)];
                let stops = class > passes;
                passes = highest - (class & u8::from(trims) & highest);
                stops
            };
            let Some(run) = text[at..].iter().position(is_special) else {
                at = text.len();
                break;
            };
            at += run;
            if self.joiners[usize::from(text[at])]
                && let Some(&last) = text[..at].last()
                && last.is_ascii()
                && self.alone.contains(last)
            {
                at -= 1;
                break;
            }
            match bmp_char(&text[at..]) {
                Some((c, len)) if c != u32::from(b' ') && self.stays(c, text.get(at + len)) => at += len,
                _ => break,
            }
            passes = highest;
        }
        out.extend_from_slice(&text[..at]);
        if let Some(&last) = text[..at].last() {
            *after_space = trims && last == b' ';
        }
        at
    }

    /// True if no rule is about a character that `next` follows.
    #[inline(always)]
    fn stays(&self, c: u32, next: Option<&u8>) -> bool {
        let joins = || next.is_some_and(|&byte| self.joiners[usize::from(byte)]);
        self.unchanged.contains(c) || (self.alone.contains(c) && !joins())
    }

    /// Rewrites one prefix; returns its length.
    fn rewrite_slowly(&self, rest: &[u8], space: &[u8], after_space: &mut bool, out: &mut Vec<u8>) -> usize {
        let (mut piece, used) = self.prefix(rest);
        while *after_space && piece.first() == Some(&b' ') {
            piece = &piece[1..];
        }
        if let Some(&last) = piece.last() {
            push_escaped(piece, space, out);
            *after_space = self.options.remove_extra_whitespaces && last == b' ';
        }
        used
    }

    /// The replacement of the longest prefix that has one, and how many bytes it replaces; (empty, 0) at
    /// the end of the text.
    pub(crate) fn prefix<'a>(&'a self, text: &'a [u8]) -> (&'a [u8], usize) {
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

/// Characters up to U+FFFF of which something is known, one bit each.
#[derive(Debug, Default)]
struct CharSet(Vec<u64>);

impl CharSet {
    fn new(holds: impl Fn(char) -> bool) -> Self {
        let mut bits = vec![0; (1 << 16) / 64];
        for c in '\0'..='\u{FFFF}' {
            bits[c as usize / 64] |= u64::from(holds(c)) << (c as usize % 64);
        }
        Self(bits)
    }

    #[inline(always)]
    fn contains(&self, c: impl Into<u32>) -> bool {
        let c = c.into() as usize;
        self.0.get(c / 64).is_some_and(|word| word >> (c % 64) & 1 != 0)
    }

    fn insert(&mut self, c: char) {
        self.0.resize((1 << 16) / 64, 0);
        if let Some(word) = self.0.get_mut(c as usize / 64) {
            *word |= 1 << (c as usize % 64);
        }
    }
}

/// The first character of valid UTF-8 and its bytes, if there is one up to U+FFFF.
#[inline(always)]
fn bmp_char(text: &[u8]) -> Option<(u32, usize)> {
    match *text {
        [a @ 0..0x80, ..] => Some((u32::from(a), 1)),
        [a @ 0xC0..0xE0, b, ..] => Some((u32::from(a & 0x1F) << 6 | u32::from(b & 0x3F), 2)),
        [a @ 0xE0..0xF0, b, c, ..] => {
            Some((u32::from(a & 0xF) << 12 | u32::from(b & 0x3F) << 6 | u32::from(c & 0x3F), 3))
        }
        _ => None,
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
}
