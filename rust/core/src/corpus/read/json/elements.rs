//! Finds the elements of a JSON array in bytes that arrive in parts.

use memchr::memchr2;

/// Finds the elements of a JSON array in bytes that arrive in parts.
#[derive(Debug, Default)]
pub struct Elements {
    /// Number of bytes of the buffer that were scanned.
    pub at: usize,
    /// Where the current element starts.
    start: usize,
    state: State,
    depth: u64,
    in_string: bool,
    escaped: bool,
    /// The current element is the first: the array may be empty.
    is_first: bool,
    /// The current element contains something other than white space.
    has_text: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the opening bracket of the array.
    #[default]
    Before,
    Inside,
    /// After the closing bracket.
    After,
}

impl Elements {
    /// The range of the next element that ends in `bytes`; what follows it starts at [`Self::at`].
    pub fn next(&mut self, bytes: &[u8]) -> Option<std::ops::Range<usize>> {
        if self.state == State::Before {
            self.at += bytes[self.at..].iter().position(|&byte| byte == b'[')? + 1;
            (self.state, self.start, self.is_first) = (State::Inside, self.at, true);
        }
        while self.state == State::Inside && self.at < bytes.len() {
            if self.in_string {
                if std::mem::take(&mut self.escaped) {
                    self.at += 1;
                    continue;
                }
                match memchr2(b'"', b'\\', &bytes[self.at..]) {
                    Some(length) => {
                        self.at += length + 1;
                        self.escaped = bytes[self.at - 1] == b'\\';
                        self.in_string = self.escaped;
                    }
                    None => self.at = bytes.len(),
                }
                continue;
            }
            let byte = bytes[self.at];
            self.at += 1;
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b',' | b']' if self.depth == 0 => {
                    let element = self.start..self.at - 1;
                    if byte == b']' {
                        self.state = State::After;
                    }
                    let none = byte == b']' && self.is_first && !self.has_text;
                    (self.start, self.is_first, self.has_text) = (self.at, false, false);
                    if none {
                        return None;
                    }
                    return Some(element);
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b' ' | b'\t' | b'\n' | b'\r' => continue,
                _ => {}
            }
            self.has_text = true;
        }
        None
    }

    /// Where the element starts that has not ended yet.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Accounts for the removal of the first `passed` bytes of the buffer.
    pub fn shift(&mut self, passed: usize) {
        self.at -= passed;
        self.start = self.start.saturating_sub(passed);
    }

    /// A finder that has reached the end of its array.
    pub fn ended() -> Self {
        Self { state: State::After, ..Self::default() }
    }

    /// True if the closing bracket of the array was seen.
    pub fn has_ended(&self) -> bool {
        self.state == State::After
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The elements are the same however the bytes are divided.
    #[test]
    fn elements_of_an_array() {
        for (array, wanted) in [
            ("[]", &[][..]),
            (" [ ] ", &[]),
            ("[1]", &["1"]),
            (r#"[{"a": "],\"["}, "x,\\", [1, [2]] ]"#, &[r#"{"a": "],\"["}"#, r#" "x,\\""#, " [1, [2]] "]),
            ("[1,]", &["1", ""]),
            ("[,1]", &["", "1"]),
            ("[1 2]x", &["1 2"]),
        ] {
            for step in 1..=array.len() {
                let (mut elements, mut found, mut held) = (Elements::default(), Vec::new(), Vec::new());
                for bytes in array.as_bytes().chunks(step) {
                    held.extend_from_slice(bytes);
                    while let Some(range) = elements.next(&held) {
                        found.push(String::from_utf8(held[range].to_vec()).unwrap());
                        held.drain(..elements.at);
                        elements.shift(elements.at);
                    }
                }
                assert!(elements.has_ended());
                assert_eq!(found, wanted, "{array}");
            }
        }
    }
}
