//! Text in the forms in which strings come: UTF-8, and the fixed-width forms Python keeps its strings in.
//!
//! Reading a Python string in place saves turning it into UTF-8 and back into characters.

/// A text of characters of one width.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// UTF-8.
    Utf8(&'a str),
    /// One byte a character: U+0000 to U+00FF.
    Latin1(&'a [u8]),
    /// Two bytes a character: U+0000 to U+FFFF. Surrogates are no characters: see [`Self::is_valid`].
    Ucs2(&'a [u16]),
    /// Four bytes a character.
    Ucs4(&'a [u32]),
}

impl Text<'_> {
    /// Number of units: bytes in UTF-8, else characters.
    pub fn len(&self) -> usize {
        match self {
            Self::Utf8(text) => text.len(),
            Self::Latin1(text) => text.len(),
            Self::Ucs2(text) => text.len(),
            Self::Ucs4(text) => text.len(),
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
            Self::Ucs4(text) => text.iter().all(|&c| char::from_u32(c).is_some()),
        }
    }

    /// Appends the text to `out` as UTF-8; an invalid unit becomes U+FFFD.
    pub fn push_utf8(&self, out: &mut String) {
        let char = |c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
        match self {
            Self::Utf8(text) => out.push_str(text),
            Self::Latin1(text) => out.extend(text.iter().map(|&c| char::from(c))),
            Self::Ucs2(text) => out.extend(text.iter().map(|&c| char(c.into()))),
            Self::Ucs4(text) => out.extend(text.iter().map(|&c| char(c))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_spells_the_same() {
        let utf8 = |text: Text<'_>| {
            let mut out = String::new();
            text.push_utf8(&mut out);
            out
        };
        assert_eq!(utf8(Text::Latin1(b"a\xE9")), "aé");
        assert_eq!(utf8(Text::Ucs2(&[0x61, 0x4E2D, 0xD800])), "a中\u{FFFD}");
        assert_eq!(utf8(Text::Ucs4(&[0x4E2D, 0x1F600])), "中😀");
        assert!(Text::Ucs2(&[0xD7FF, 0xE000]).is_valid());
        assert!(!Text::Ucs2(&[0x61, 0xDC00]).is_valid());
        assert!(!Text::Ucs4(&[0xD800]).is_valid() && !Text::Ucs4(&[0x11_0000]).is_valid());
    }
}
