//! What a character map says of each character by itself: most text is what no rule is about, and most of the rest has a
//! replacement in a table, so that the trie is seldom walked.

use super::{
    chars::{CharSet, bmp_char},
    charsmap::CharsMap,
    prefix::PrefixMatcher,
};

/// What is known of each character.
#[derive(Debug)]
pub struct CharRules {
    /// Characters that start no rule.
    unchanged: CharSet,
    /// Characters that start rules (`A` and a combining accent) but have none by themselves: they stay too, unless
    /// one of `joiners` is the next byte.
    alone: CharSet,
    joiners: [bool; 256],
    /// By byte: 0 if all characters that begin with it stay, whatever follows, and for bytes within a character; 0 as well
    /// for ASCII characters that stay unless one of `joiners` follows them, and 1 for a space that does; 2 for the rest.
    classes: [u8; 256],
    /// By character up to U+FFFF: 0, or 1 if it counts as a space, or 2 + its index in `replacements`.
    simple: Box<[u16]>,
    replacements: Vec<Box<[u8]>>,
}

/// What becomes of a character, whatever follows it.
#[derive(Clone, Copy, Debug)]
pub enum Simple<'a> {
    /// The character alone does not say.
    Unknown,
    /// It counts as a space.
    Space,
    /// It is replaced by this text, in which there is no space.
    Text(&'a [u8]),
}

impl CharRules {
    /// Goes through all characters up to U+FFFF.
    pub fn new(charsmap: Option<&CharsMap>, user_defined: &PrefixMatcher) -> Self {
        let starts_rule = |c: char| {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            user_defined.starts_with(bytes[0]) || charsmap.is_some_and(|map| map.node(bytes).is_some())
        };
        let mut made = Self {
            unchanged: CharSet::new(|c| !starts_rule(c)),
            alone: CharSet::default(),
            joiners: [false; 256],
            classes: [2; 256],
            simple: Box::default(),
            replacements: Vec::new(),
        };
        if let Some(map) = charsmap {
            made.find_simple(map, user_defined);
        }
        made.find_classes();
        made
    }

    /// Notes what the map says of each character by itself.
    fn find_simple(&mut self, map: &CharsMap, user_defined: &PrefixMatcher) {
        self.simple = vec![0; 1 << 16].into();
        for c in ('\0'..='\u{FFFF}').filter(|&c| !self.unchanged.contains(c)) {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            let Some(node) = map.node(bytes).filter(|_| !user_defined.starts_with(bytes[0])) else {
                continue;
            };
            let rule = map.longest(bytes);
            if map.continues(node, &mut self.joiners) {
                if rule.is_none() {
                    self.alone.insert(c);
                }
                continue;
            }
            self.simple[c as usize] = match rule {
                Some((b" ", used)) if used == bytes.len() => 1,
                Some((text, used)) if used == bytes.len() && !text.is_empty() && !text.contains(&b' ') => {
                    let Ok(index) = u16::try_from(self.replacements.len() + 2) else { continue };
                    self.replacements.push(text.into());
                    index
                }
                _ => 0,
            };
        }
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

    /// True for a character that starts no rule.
    pub fn is_unchanged(&self, c: char) -> bool {
        self.unchanged.contains(c)
    }

    /// What becomes of a character up to U+FFFF.
    #[inline(always)]
    pub fn simple(&self, c: u32) -> Simple<'_> {
        match self.simple.get(c as usize).copied().unwrap_or(0) {
            0 => Simple::Unknown,
            1 => Simple::Space,
            index => Simple::Text(&self.replacements[usize::from(index) - 2]),
        }
    }

    /// True if no rule is about a character that `next` follows.
    #[inline(always)]
    pub fn stays(&self, c: u32, next: Option<&u8>) -> bool {
        let joins = || next.is_some_and(|&byte| self.joiners[usize::from(byte)]);
        self.unchanged.contains(c) || (self.alone.contains(c) && !joins())
    }

    /// How many bytes from the start of valid UTF-8 stay as they are: up to the first space unless it `keeps_spaces`, and
    /// else, if it `trims`, up to the second of two spaces. `after_space` says whether a space is before the text.
    #[inline(always)]
    pub fn plain_len(&self, text: &[u8], keeps_spaces: bool, trims: bool, after_space: bool) -> usize {
        // The highest class that passes.
        let highest = u8::from(keeps_spaces);
        let mut passes = if after_space { 0 } else { highest };
        let mut at = 0;
        loop {
            let stops = |&byte: &u8| {
                let class = self.classes[usize::from(byte)];
                let stops = class > passes;
                passes = highest - (class & u8::from(trims) & highest);
                stops
            };
            let Some(plain) = text[at..].iter().position(stops) else { return text.len() };
            at += plain;
            if self.joiners[usize::from(text[at])]
                && let Some(&last) = text[..at].last()
                && last.is_ascii()
                && self.alone.contains(last)
            {
                return at - 1;
            }
            match bmp_char(&text[at..]) {
                Some((c, len)) if c != u32::from(b' ') && self.stays(c, text.get(at + len)) => at += len,
                _ => return at,
            }
            passes = highest;
        }
    }
}
