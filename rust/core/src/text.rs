//! Text in the forms in which strings come: UTF-8, and the fixed-width forms Python keeps its strings in.
//!
//! Reading a Python string in place saves turning it into UTF-8 and back into characters.

use crate::memory::Ahead;

/// Bytes that are prefetched for the next document, at least: two for each character of a block.
const MIN_AHEAD: usize = 4096;

/// A text as a caller hands it over.
#[derive(Clone, Copy, Debug)]
pub enum RawText<'a> {
    /// Any bytes: those that are no UTF-8 count as U+FFFD each.
    Bytes(&'a [u8]),
    /// A text.
    Text(Text<'a>),
}

impl<'a> RawText<'a> {
    /// Number of units, see [`Text::len`].
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }

    /// True without a unit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text, unless it is bytes that are no UTF-8. Reads all bytes.
    pub fn to_text(self) -> Option<Text<'a>> {
        match self {
            Self::Bytes(bytes) => simdutf8::basic::from_utf8(bytes).ok().map(Text::Utf8),
            Self::Text(text) => Some(text),
        }
    }

    /// What to prefetch before it is read. Short documents mostly follow each other in memory, so the next ones come
    /// along.
    pub(crate) fn ahead(&self) -> Ahead {
        let (start, bytes) = match self {
            Self::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            Self::Text(text) => text.memory_from(0),
        };
        Ahead::new(start, bytes.max(MIN_AHEAD))
    }
}

impl<'a> From<Text<'a>> for RawText<'a> {
    fn from(text: Text<'a>) -> Self {
        Self::Text(text)
    }
}

/// What can be encoded, alone or in a batch.
pub trait Document: Sync {
    /// Its text.
    fn raw(&self) -> RawText<'_>;

    /// Called once before the document is encoded; an invalid one counts as empty. (Here, on the thread that reads it next
    /// anyway, so that checking the text costs next to nothing.)
    fn is_valid(&self) -> bool {
        true
    }
}

impl<T: AsRef<[u8]> + Sync + ?Sized> Document for T {
    fn raw(&self) -> RawText<'_> {
        RawText::Bytes(self.as_ref())
    }
}

/// A text of characters of one width.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// UTF-8.
    Utf8(&'a str),
    /// One byte per character: U+0000 to U+00FF.
    Latin1(&'a [u8]),
    /// Two bytes per character: U+0000 to U+FFFF. Surrogates are no characters: see [`Self::is_valid`].
    Ucs2(&'a [u16]),
    /// Four bytes per character.
    Ucs4(&'a [u32]),
}

impl<'a> Text<'a> {
    /// The units from `start` to `end`; empty if these are not within the text, or not between characters.
    #[must_use]
    pub fn slice(self, start: usize, end: usize) -> Self {
        match self {
            Self::Utf8(text) => Self::Utf8(text.get(start..end).unwrap_or_default()),
            Self::Latin1(text) => Self::Latin1(text.get(start..end).unwrap_or_default()),
            Self::Ucs2(text) => Self::Ucs2(text.get(start..end).unwrap_or_default()),
            Self::Ucs4(text) => Self::Ucs4(text.get(start..end).unwrap_or_default()),
        }
    }

    /// The characters from unit `start` on (or, in UTF-8, from the first character after it), each with the
    /// unit it starts at.
    pub fn chars_from(self, start: usize) -> Box<dyn Iterator<Item = (usize, char)> + 'a> {
        let char = |c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
        let rest = self.len().saturating_sub(start);
        let tail = self.len() - rest;
        match self {
            Self::Utf8(text) => {
                let first = (tail..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
                Box::new(text[first..].char_indices().map(move |(at, c)| (first + at, c)))
            }
            Self::Latin1(text) => Box::new((tail..).zip(text[tail..].iter().map(|&c| c.into()))),
            Self::Ucs2(text) => Box::new((tail..).zip(text[tail..].iter().map(move |&c| char(c.into())))),
            Self::Ucs4(text) => Box::new((tail..).zip(text[tail..].iter().map(move |&c| char(c)))),
        }
    }

    /// Number of units: bytes in UTF-8, else characters.
    pub fn len(&self) -> usize {
        match self {
            Self::Utf8(text) => text.len(),
            Self::Latin1(text) => text.len(),
            Self::Ucs2(text) => text.len(),
            Self::Ucs4(text) => text.len(),
        }
    }

    /// The address of unit `at`, and the bytes from there to the end.
    pub(crate) fn memory_from(&self, at: usize) -> (*const u8, usize) {
        fn of<T>(units: &[T]) -> (*const u8, usize) {
            (units.as_ptr().cast(), size_of_val(units))
        }
        match self {
            Self::Utf8(text) => of(&text.as_bytes()[at..]),
            Self::Latin1(text) => of(&text[at..]),
            Self::Ucs2(text) => of(&text[at..]),
            Self::Ucs4(text) => of(&text[at..]),
        }
    }

    /// True without a character.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if every unit is a character. An invalid one would be encoded as some other character.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Utf8(_) | Self::Latin1(_) => true,
            // Without an early exit, so that it is done many units at a time.
            Self::Ucs2(text) => text.iter().fold(0, |bad, &c| bad | u16::from(c & 0xF800 == 0xD800)) == 0,
            Self::Ucs4(text) => {
                let is_bad = |c: u32| (c & !0x7FF == 0xD800) | (c >> 16 > 0x10);
                text.iter().fold(0, |bad, &c| bad | u32::from(is_bad(c))) == 0
            }
        }
    }

    /// Appends the text to `out` as UTF-8; an invalid unit becomes U+FFFD.
    pub fn push_utf8(&self, out: &mut Vec<u8>) {
        match self {
            Self::Utf8(text) => out.extend_from_slice(text.as_bytes()),
            Self::Latin1(text) => push_chars(out, text.iter().map(|&c| c.into())),
            Self::Ucs2(text) => push_chars(out, text.iter().map(|&c| c.into())),
            Self::Ucs4(text) => push_chars(out, text.iter().copied()),
        }
    }
}

/// Writes into room for the worst case and truncates it after the last byte: far quicker than reserving room for each
/// character.
fn push_chars(out: &mut Vec<u8>, chars: impl ExactSizeIterator<Item = u32>) {
    let mut at = out.len();
    out.resize(at + 4 * chars.len(), 0);
    for c in chars {
        match c {
            0..0x80 => out[at] = c as u8,
            0x80..0x800 => out[at..at + 2].copy_from_slice(&[0xC0 | (c >> 6) as u8, 0x80 | (c & 0x3F) as u8]),
            _ => {
                let c = char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
                at += c.encode_utf8(&mut out[at..]).len();
                continue;
            }
        }
        at += 1 + usize::from(c >= 0x80);
    }
    out.truncate(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_spells_the_same() {
        let utf8 = |text: Text<'_>| {
            let mut out = Vec::new();
            text.push_utf8(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(utf8(Text::Latin1(b"a\xE9")), "aé");
        assert_eq!(utf8(Text::Ucs2(&[0x61, 0x4E2D, 0xD800])), "a中\u{FFFD}");
        assert_eq!(utf8(Text::Ucs4(&[0x4E2D, 0x1F600])), "中😀");
        let all: Vec<u32> = ('\0'..=char::MAX).map(u32::from).collect();
        assert!(utf8(Text::Ucs4(&all)).chars().eq('\0'..=char::MAX));
        let chars = |text: Text<'_>, at| text.chars_from(at).collect::<Vec<_>>();
        assert_eq!(chars(Text::Utf8("a中b"), 2), [(4, 'b')]);
        assert_eq!(chars(Text::Ucs2(&[0x61, 0x4E2D]), 1), [(1, '中')]);
        assert_eq!(chars(Text::Latin1(b"a"), 7), []);
        assert!(Text::Ucs2(&[0xD7FF, 0xE000]).is_valid());
        assert!(!Text::Ucs2(&[0x61, 0xDC00]).is_valid());
        assert!(Text::Ucs4(&all).is_valid());
        for c in [0xD800, 0xDFFF, 0x11_0000, u32::MAX] {
            assert!(!Text::Ucs4(&[0x4E2D, c, 0x61]).is_valid());
        }
    }
}
