//! Which pieces of a donor are wanted, by their text alone.

use super::script::{is_cjk_punctuation, is_han};

/// Why a piece of a donor did not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The base has a piece or token of this text.
    InBase,
    /// So has a donor given before.
    InEarlierDonor,
    /// A control, unknown or byte piece: no text of its own.
    NoText,
    /// Not Han where only Han is wanted.
    Script,
    /// ASCII alone, and not wanted.
    Ascii,
    /// Joins a digit to another character, and that is not wanted.
    Digits,
    /// Longer than wanted.
    Length,
    /// After the last one there is room for.
    Room,
    /// No text would become it.
    Unreachable,
    /// No text would become another piece, if it were there.
    Breaks,
}

impl Reason {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InBase => "in_base",
            Self::InEarlierDonor => "in_earlier_donor",
            Self::NoText => "no_text",
            Self::Script => "script",
            Self::Ascii => "ascii",
            Self::Digits => "digits",
            Self::Length => "length",
            Self::Room => "room",
            Self::Unreachable => "unreachable",
            Self::Breaks => "breaks",
        }
    }
}

/// What pieces of a donor must be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// They hold Han and, besides, only `▁` at their start and Chinese punctuation: so a text without Han keeps its ids.
    pub han: bool,
    /// They are not ASCII alone (`▁` aside).
    pub no_ascii: bool,
    /// None joins a digit, ASCII or full-width, to another character.
    pub no_digits: bool,
    /// They have at most so many characters, `▁` included.
    pub max_length: Option<usize>,
}

impl Filters {
    /// Why a piece is not wanted; nothing if it is.
    pub fn refuse(&self, text: &str) -> Option<Reason> {
        let inner = || text.chars().filter(|&c| c != '\u{2581}');
        if self.han && !is_han_piece(text) {
            Some(Reason::Script)
        } else if self.no_ascii && inner().all(|c| c.is_ascii()) {
            Some(Reason::Ascii)
        } else if self.no_digits && text.chars().nth(1).is_some() && inner().any(is_digit) {
            Some(Reason::Digits)
        } else if self.max_length.is_some_and(|most| text.chars().nth(most).is_some()) {
            Some(Reason::Length)
        } else {
            None
        }
    }
}

/// True for pieces that hold Han and, besides, only `▁` at their start and Chinese punctuation.
fn is_han_piece(text: &str) -> bool {
    let text = text.strip_prefix('\u{2581}').unwrap_or(text);
    text.chars().any(is_han) && text.chars().all(|c| is_han(c) || is_cjk_punctuation(c))
}

fn is_digit(c: char) -> bool {
    matches!(c, '0'..='9' | '\u{FF10}'..='\u{FF19}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_refused_by_their_text() {
        let all = Filters { han: false, no_ascii: true, no_digits: true, max_length: Some(3) };
        for (text, reason) in [
            ("中国", None),
            ("▁the", Some(Reason::Ascii)),
            ("▁", Some(Reason::Ascii)),
            ("7", Some(Reason::Ascii)),
            ("７", None),
            ("３月", Some(Reason::Digits)),
            ("▁２", Some(Reason::Digits)),
            ("20年", Some(Reason::Digits)),
            ("中华人民", Some(Reason::Length)),
            ("é", None),
        ] {
            assert_eq!(all.refuse(text), reason, "{text}");
            assert_eq!(Filters::default().refuse(text), None);
        }
        let han = Filters { han: true, ..Filters::default() };
        for (text, wanted) in [
            ("中国", true),
            ("▁中", true),
            ("中▁", false),
            ("，", false),
            ("说，“", true),
            ("A股", false),
            ("3月", false),
            ("の", false),
        ] {
            assert_eq!(han.refuse(text).is_none(), wanted, "{text}");
        }
    }
}
