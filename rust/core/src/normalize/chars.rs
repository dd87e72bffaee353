//! Characters: sets of them, and the first one of a text.

/// Characters up to U+FFFF of which something is known, one bit each.
#[derive(Debug, Default)]
pub struct CharSet(Vec<u64>);

impl CharSet {
    /// Those that `holds` is true for.
    pub fn new(holds: impl Fn(char) -> bool) -> Self {
        let mut bits = vec![0; (1 << 16) / 64];
        for c in '\0'..='\u{FFFF}' {
            bits[c as usize / 64] |= u64::from(holds(c)) << (c as usize % 64);
        }
        Self(bits)
    }

    /// True if the character is in the set.
    #[inline(always)]
    pub fn contains(&self, c: impl Into<u32>) -> bool {
        let c = c.into() as usize;
        self.0.get(c / 64).is_some_and(|word| word >> (c % 64) & 1 != 0)
    }

    /// Adds a character.
    pub fn insert(&mut self, c: char) {
        self.0.resize((1 << 16) / 64, 0);
        if let Some(word) = self.0.get_mut(c as usize / 64) {
            *word |= 1 << (c as usize % 64);
        }
    }
}

/// The first character of valid UTF-8 and its bytes, if there is one up to U+FFFF.
#[inline(always)]
pub fn bmp_char(text: &[u8]) -> Option<(u32, usize)> {
    match *text {
        [a @ 0..0x80, ..] => Some((u32::from(a), 1)),
        [a @ 0xC0..0xE0, b, ..] => Some((u32::from(a & 0x1F) << 6 | u32::from(b & 0x3F), 2)),
        [a @ 0xE0..0xF0, b, c, ..] => {
            Some((u32::from(a & 0xF) << 12 | u32::from(b & 0x3F) << 6 | u32::from(c & 0x3F), 3))
        }
        _ => None,
    }
}

/// Bytes of the first character, or `None` if the text does not start with a valid one.
pub fn char_len(text: &[u8]) -> Option<usize> {
    let head = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(valid) => valid,
        Err(e) => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
    };
    valid.chars().next().map(char::len_utf8)
}
