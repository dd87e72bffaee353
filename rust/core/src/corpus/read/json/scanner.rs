//! Reads JSON token by token, and reports where it stops being JSON.

use std::borrow::Cow;

use memchr::memchr2;

use crate::message::Message;

/// Why a record is not JSON, and where.
pub struct Fault {
    /// Bytes of the record before it.
    pub at: usize,
    /// What is wrong there.
    pub what: Cow<'static, str>,
}

impl Fault {
    pub fn say(self, record: &str) -> Message {
        let Self { at, what } = self;
        if record.starts_with('\u{FEFF}') {
            return "the record begins with a byte-order mark (U+FEFF), as files joined to one leave it; remove it"
                .into();
        }
        let prefix = if what.contains("surrogate") { "" } else { "no JSON object: " };
        format!("{prefix}{what} (byte {at} of the record)").into()
    }
}

/// Reads the text of one record.
pub struct Scanner<'j> {
    text: &'j str,
    bytes: &'j [u8],
    /// Bytes read so far.
    pub at: usize,
}

impl<'j> Scanner<'j> {
    pub fn new(text: &'j str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    /// Reads the name of a field and the colon after it; the value comes next.
    pub fn key(&mut self) -> Result<Cow<'j, str>, Fault> {
        if self.peek() != Some(b'"') {
            return self.fault("want the name of a field here, in double quotes");
        }
        let start = self.at + 1;
        let plain = self.skip_string()?;
        let text = &self.text[start..self.at - 1];
        let key = if plain {
            Cow::Borrowed(text)
        } else {
            let mut key = String::new();
            let mut again = Scanner { at: start - 1, ..*self };
            // A name that is not valid text cannot be asked for.
            again.string(&mut key).map_or(Cow::Borrowed("\0"), |()| Cow::Owned(key))
        };
        self.space();
        if self.peek() != Some(b':') {
            return self.fault("want `:` here");
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    /// Appends the string here to `out`.
    pub fn string(&mut self, out: &mut String) -> Result<(), Fault> {
        self.at += 1;
        loop {
            let Some(length) = memchr2(b'"', b'\\', &self.bytes[self.at..]) else {
                self.at = self.bytes.len();
                return self.fault("it ends within a string; is a record spread over lines?");
            };
            let chunk = &self.text[self.at..self.at + length];
            // A fast check of all bytes; the position is only needed for an error.
            if chunk.bytes().fold(false, |found, byte| found | (byte < 0x20)) {
                self.at += chunk.bytes().position(|byte| byte < 0x20).unwrap_or(0);
                let byte = self.bytes[self.at];
                return self.fault(format!("a bare control character (U+{byte:04X}) in a string; escape it"));
            }
            out.push_str(chunk);
            self.at += length + 1;
            if self.bytes[self.at - 1] == b'"' {
                return Ok(());
            }
            self.escape(out)?;
        }
    }

    /// Appends the character escaped here, after a backslash.
    fn escape(&mut self, out: &mut String) -> Result<(), Fault> {
        let start = self.at - 1;
        let letter = self.peek();
        self.at += 1;
        out.push(match letter {
            Some(b'n') => '\n',
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{C}',
            Some(b'u') => {
                let unit = self.unit(start)?;
                let (high, low) = (0xD800..=0xDBFF, 0xDC00..=0xDFFF);
                let pair = (high.contains(&unit) || low.contains(&unit)).then(|| {
                    let begins = self.bytes[self.at..].starts_with(b"\\u");
                    let second = begins.then(|| self.digits(self.at + 2)).flatten()?;
                    Some(second)
                });
                match (unit, pair.flatten()) {
                    (0xD800..=0xDBFF, Some(second)) if low.contains(&second) => {
                        self.at += 6;
                        char::from_u32(0x1_0000 + ((unit - 0xD800) << 10) + (second - 0xDC00))
                    }
                    (0xDC00..=0xDFFF, Some(second)) if high.contains(&second) => {
                        self.at = start;
                        return self.fault(format!(
                            "a surrogate pair in the wrong order (\\u{unit:04x}\\u{second:04x}); mend what wrote it"
                        ));
                    }
                    _ => char::from_u32(unit),
                }
                .ok_or_else(|| Fault {
                    at: start,
                    what: format!(
                        "a lone surrogate (\\u{unit:04x}), which is half a character; the text was cut within an \
                         emoji or the like"
                    )
                    .into(),
                })?
            }
            None => {
                self.at = self.bytes.len();
                return self.fault("it ends within a string; is a record spread over lines?");
            }
            _ => {
                self.at = start;
                return self.fault("an escape that JSON does not know; a backslash is written \\\\");
            }
        });
        Ok(())
    }

    /// Reads the four hexadecimal digits here.
    fn unit(&mut self, start: usize) -> Result<u32, Fault> {
        let Some(unit) = self.digits(self.at) else {
            self.at = start;
            return self.fault("\\u wants four hexadecimal digits");
        };
        self.at += 4;
        Ok(unit)
    }

    fn digits(&self, at: usize) -> Option<u32> {
        let digits = self.bytes.get(at..at + 4)?;
        digits.iter().try_fold(0, |unit, &byte| Some(unit << 4 | char::from(byte).to_digit(16)?))
    }

    /// Skips the value here, whatever it is. Memory: one byte per level of nesting.
    pub fn skip(&mut self) -> Result<(), Fault> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(b'"') => drop(self.skip_string()?),
                Some(bracket @ (b'{' | b'[')) => {
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(close) {
                        self.at += 1;
                    } else {
                        open.push(close);
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            loop {
                let Some(&close) = open.last() else { return Ok(()) };
                self.space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if close == b'}' {
                            self.space();
                            self.key()?;
                        }
                        break;
                    }
                    Some(byte) if byte == close => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return self.fault(format!("want `,` or `{}` here", char::from(close))),
                }
            }
        }
    }

    /// Skips the string here; true if nothing in it is escaped.
    fn skip_string(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        let mut plain = true;
        loop {
            match memchr2(b'"', b'\\', &self.bytes[self.at..]) {
                Some(length) => self.at += length + 1,
                None => {
                    self.at = self.bytes.len();
                    return self.fault("it ends within a string; is a record spread over lines?");
                }
            }
            if self.bytes[self.at - 1] == b'"' {
                return Ok(plain);
            }
            plain = false;
            // The escaped character may be a quote. One that is not ASCII is skipped by the next search.
            self.at += usize::from(self.at < self.bytes.len() && self.bytes[self.at].is_ascii());
        }
    }

    /// Skips a number or a word, including those that only Python writes.
    fn scalar(&mut self) -> Result<(), Fault> {
        let word = self.word();
        let number = word.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit())
            && word.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        if !number && !["true", "false", "null", "NaN", "Infinity", "-Infinity"].contains(&word) {
            return self.fault("want a value here");
        }
        self.at += word.len();
        Ok(())
    }

    pub fn word(&self) -> &'j str {
        let rest = &self.bytes[self.at..];
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        &self.text[self.at..self.at + length]
    }

    /// The kind of the value here, for a message.
    pub fn kind(&self) -> &'static str {
        match self.peek() {
            Some(b'"') => "a text",
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            _ => match self.word() {
                "null" => "null",
                "true" | "false" => "true or false",
                "NaN" => "NaN",
                "Infinity" | "-Infinity" => "Infinity",
                _ => "a number",
            },
        }
    }

    /// Checks that only white space is left.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.space();
        match self.peek() {
            None => Ok(()),
            Some(b'{') => self.fault("more than one object on a line; give each a line of its own"),
            Some(b',') => {
                self.fault("a comma after the object; remove it, or make the whole file one JSON array")
            }
            Some(_) => self.fault("something stands after the object"),
        }
    }

    pub fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub fn fault<T>(&self, what: impl Into<Cow<'static, str>>) -> Result<T, Fault> {
        let at_end = self.at >= self.bytes.len();
        let what = what.into();
        let what = if at_end && !what.starts_with("it ends") && !what.starts_with("there is") {
            "it ends too early; is a record spread over lines?".into()
        } else {
            what
        };
        Err(Fault { at: self.at, what })
    }
}
