//! Characters as 16-bit codes: what the encoder works on instead of UTF-8.
//!
//! A character up to U+FFFF is its own code, except that `▁` shares code 0x20 with the space it stands for:
//! so text need not be rewritten before it is encoded, and words of ASCII letters stay ASCII with their `▁`.
//! Surrogates never occur in text, so their codes are free: the astral characters that pieces hold get one
//! each, and [`ASTRAL`] stands for all others (a queue beside the codes remembers which).

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

/// The code of `▁` and of a space.
pub const SPACE: u16 = 0x20;
/// The code of every character above U+FFFF that no piece holds.
pub const ASTRAL: u16 = 0xDFFF;

/// The codes from here to [`ASTRAL`] belong to astral characters.
pub const FIRST_ASTRAL: u16 = 0xD800;
/// `▁`.
pub const SPACE_MARK: u16 = 0x2581;
const SPACE_CHAR: char = '\u{2581}';

/// The code of a character up to U+FFFF.
#[inline(always)]
pub fn from_bmp(c: u16) -> u16 {
    if c == SPACE_MARK { SPACE } else { c }
}

/// Codes of the characters of one model's pieces.
#[derive(Debug, Default)]
pub struct Codes {
    astral: FxHashMap<char, u16>,
    astral_chars: Vec<char>,
}

impl Codes {
    /// Gives the astral characters of `pieces` their codes; `None` if there are more than codes.
    pub fn new<'a>(pieces: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut codes = Self::default();
        for c in pieces.flat_map(str::chars).filter(|&c| c > '\u{FFFF}') {
            let next = FIRST_ASTRAL + codes.astral_chars.len() as u16;
            if let Entry::Vacant(free) = codes.astral.entry(c) {
                if next == ASTRAL {
                    return None;
                }
                free.insert(next);
                codes.astral_chars.push(c);
            }
        }
        Some(codes)
    }

    /// The code of a character; [`ASTRAL`] for those that share it.
    #[inline]
    pub fn code(&self, c: char) -> u16 {
        match u16::try_from(u32::from(c)) {
            Ok(code) => from_bmp(code),
            Err(_) => self.astral.get(&c).copied().unwrap_or(ASTRAL),
        }
    }

    /// The character of a code other than [`ASTRAL`].
    pub fn char(&self, code: u16) -> char {
        match code {
            SPACE => SPACE_CHAR,
            FIRST_ASTRAL..ASTRAL => {
                let at = usize::from(code - FIRST_ASTRAL);
                self.astral_chars.get(at).copied().unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            _ => char::from_u32(code.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_back() {
        let codes = Codes::new(["a😀", "😁😀"].into_iter()).unwrap();
        for c in ['a', '中', '\0', '\u{FFFD}', '\u{FFFF}', '▁', '😀', '😁'] {
            assert_eq!(codes.char(codes.code(c)), c);
        }
        assert_eq!(codes.code(' '), codes.code('▁'));
        assert_eq!(codes.code('😂'), ASTRAL);
        let many: String = ('\u{10000}'..'\u{10800}').collect();
        assert!(Codes::new([many.as_str()].into_iter()).is_none());
    }
}
