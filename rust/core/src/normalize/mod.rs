//! Text as BPE sees it: SentencePiece's normaliser (source: its `normalizer.cc`).
//!
//! Identity models only turn spaces into `▁` and invalid bytes into U+FFFD; `nmt_nfkc` and its kin carry a
//! compiled character map, a double-array trie over UTF-8 prefixes with their replacements.

mod chars;
mod charsmap;
mod prefix;
mod rules;

use std::sync::OnceLock;

pub use self::prefix::PrefixMatcher;
use self::{
    chars::{bmp_char, char_len},
    charsmap::CharsMap,
    rules::{CharRules, Simple},
};
use crate::{Result, spm::NormalizerOptions};

/// `▁`, which stands for a space inside pieces.
pub const SPACE_MARK: &[u8] = "\u{2581}".as_bytes();
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();

/// SentencePiece's normaliser for one model.
#[derive(Debug)]
pub struct Normalizer {
    charsmap: Option<CharsMap>,
    user_defined: PrefixMatcher,
    options: NormalizerOptions,
    rules: CharRules,
    /// See [`Self::find_inner`]; found when the first long text is cut.
    inner: OnceLock<Box<[bool; 256]>>,
}

/// Which part of a text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Nothing is before it.
    pub is_first: bool,
    /// Nothing is after it.
    pub is_last: bool,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { is_first: true, is_last: true };
}

impl Normalizer {
    /// Prepares the normaliser. `user_defined` pieces pass through untouched, as SentencePiece does it;
    /// `origin` names the model in errors.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) for a broken character map.
    pub fn new(mut options: NormalizerOptions, user_defined: PrefixMatcher, origin: &str) -> Result<Self> {
        let blob = std::mem::take(&mut options.charsmap);
        let charsmap = if blob.is_empty() { None } else { Some(CharsMap::new(&blob, origin)?) };
        let rules = CharRules::new(charsmap.as_ref(), &user_defined);
        Ok(Self { charsmap, user_defined, options, rules, inner: OnceLock::new() })
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
            self.rules.is_unchanged(c) && !inner[usize::from(first)] && c != ' ' && c != '\u{2581}'
        };
        is_plain(left) && is_plain(right)
    }

    /// The bytes that begin a character after the first one of a rule or of a USER_DEFINED piece.
    fn find_inner(&self) -> Box<[bool; 256]> {
        let mut inner = Box::new([false; 256]);
        let user_defined = self.user_defined.entries();
        user_defined.flat_map(|entry| entry.iter().skip(1)).for_each(|&byte| inner[usize::from(byte)] = true);
        if let Some(map) = &self.charsmap {
            map.note_inner(&mut inner);
        }
        // Bytes within a character begin none.
        inner[0x80..0xC0].fill(false);
        inner
    }

    /// [`Self::normalize`] for a part of a text that was cut where [`Self::may_cut`] allows it. Unless it `escapes`
    /// spaces, they are left to an encoder that takes them for `▁`.
    pub fn normalize_part(&self, text: &[u8], part: Part, escapes: bool, out: &mut Vec<u8>) {
        let trims = self.options.remove_extra_whitespaces;
        let mark: &[u8] = if self.options.escape_whitespaces { SPACE_MARK } else { b" " };
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
            let is_space = c == u32::from(b' ') && self.rules.stays(c, rest.get(1));
            match self.rules.simple(c) {
                Simple::Unknown if !is_space => {
                    rest = &rest[self.rewrite_slowly(rest, space, after_space, out)..];
                }
                Simple::Unknown | Simple::Space => {
                    if !*after_space {
                        out.extend_from_slice(space);
                        *after_space = trims;
                    }
                    rest = &rest[len..];
                }
                Simple::Text(replacement) => {
                    out.extend_from_slice(replacement);
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
        let plain = &text[..self.rules.plain_len(text, space == b" ", trims, *after_space)];
        out.extend_from_slice(plain);
        if let Some(&last) = plain.last() {
            *after_space = trims && last == b' ';
        }
        plain.len()
    }

    /// Rewrites one prefix; returns its length.
    fn rewrite_slowly(&self, rest: &[u8], space: &[u8], after_space: &mut bool, out: &mut Vec<u8>) -> usize {
        let (mut rewritten, used) = self.prefix(rest);
        while *after_space && rewritten.first() == Some(&b' ') {
            rewritten = &rewritten[1..];
        }
        if let Some(&last) = rewritten.last() {
            push_escaped(rewritten, space, out);
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
        // The slower way gives the same.
        let n = identity_normalizer(&["never"]);
        assert_eq!(normalized(&n, b"a\xE4\xBDb\xFF c"), "▁a\u{FFFD}\u{FFFD}b\u{FFFD}▁c");
    }
}
