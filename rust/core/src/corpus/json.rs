//! The text of one JSON record.
//!
//! A scanner of our own, because values of other fields must not matter: `NaN`, numbers of 5,000 digits and any
//! depth of nesting are passed over. What is text is unescaped exactly as JSON says.

use std::borrow::Cow;

use memchr::memchr2;

/// Lists in lists that are followed for a text.
const MOST_LISTS: usize = 32;
/// Fields that a message offers, and how deep they may lie.
const OFFERED: usize = 8;
const OFFERED_DEPTH: usize = 5;
/// Names that are looked for: one more says that there are others, and one may be what was asked for.
const LOOKED_FOR: usize = OFFERED + 2;

/// Appends the texts in `fields` of the JSON record to `out`, joined by newlines.
///
/// A field is a name or a path (`content.text`); of the names of an object that fit, the longest counts, and of
/// equal ones the last. A path goes through lists; the texts of a list are joined by newlines. A record that is a
/// string stands for itself, if `fields` is `text` alone. On an error `out` may hold a part.
pub fn append_fields(record: &str, fields: &[String], out: &mut String) -> Result<(), String> {
    for (number, field) in fields.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let mut scanner = Scanner::new(record);
        let taken = scanner.record(field, fields.len() == 1, out).map_err(|fault| fault.say(record))?;
        match taken {
            Taken::Text => {}
            Taken::Missing => return Err(missing(record, field)),
            Taken::Wrong(kind) => return Err(wrong(record, field, kind)),
        }
    }
    Ok(())
}

/// Looks whether the record is one JSON value; the names and values of what it holds do not matter.
pub fn check(record: &str) -> Result<(), String> {
    let mut scanner = Scanner::new(record);
    scanner.space();
    scanner.skip().and_then(|()| scanner.end()).map_err(|fault| fault.say(record))
}

fn missing(record: &str, field: &str) -> String {
    format!("no field `{field}`; {}", offer(record, field))
}

fn wrong(record: &str, field: &str, kind: &str) -> String {
    format!("the field `{field}` holds {kind}, no text; {}", offer(record, field))
}

/// Names the fields other than `field` that could be meant.
fn offer(record: &str, field: &str) -> String {
    let mut names = Vec::new();
    // The record was read to its end before: it has no faults.
    let _ = Scanner::new(record).texts("", 0, &mut names);
    names.retain(|name| name != field);
    offer_names(&names)
}

/// The end of a message about a field: names of others that hold text.
pub fn offer_names(names: &[String]) -> String {
    if names.is_empty() {
        return "no other field holds text".into();
    }
    let shown: Vec<_> = names.iter().take(OFFERED).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > OFFERED { " and others" } else { "" };
    format!("name one that holds text with --field: {}{more}", shown.join(", "))
}

/// What was found where a text is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Text,
    Missing,
    Wrong(&'static str),
}

/// What makes a record no JSON, and where.
struct Fault {
    at: usize,
    what: Cow<'static, str>,
}

impl Fault {
    fn say(self, record: &str) -> String {
        let Self { at, what } = self;
        if record.starts_with('\u{FEFF}') {
            return "the record begins with a byte-order mark (U+FEFF), as files joined to one leave it; remove it"
                .into();
        }
        let prefix = if what.contains("surrogate") { "" } else { "no JSON object: " };
        format!("{prefix}{what} (byte {at} of the record)")
    }
}

struct Scanner<'j> {
    text: &'j str,
    bytes: &'j [u8],
    at: usize,
}

impl<'j> Scanner<'j> {
    fn new(text: &'j str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0 }
    }

    /// The text of the record in `field`; the record is read to its end.
    fn record(&mut self, field: &str, only: bool, out: &mut String) -> Result<Taken, Fault> {
        self.space();
        let taken = match self.peek() {
            Some(b'{') => self.object(field, out, 0)?,
            Some(b'"') if only && field == "text" => {
                self.string(out)?;
                Taken::Text
            }
            Some(first) => {
                // What is no JSON at all is said to be that.
                let (at, kind) = (self.at, self.kind());
                self.skip()?;
                let what = if first == b'"' { "a text by itself" } else { kind };
                return Err(Fault { at, what: what.into() });
            }
            None => return self.fault("there is nothing"),
        };
        self.end().map(|()| taken)
    }

    /// Of the object here, the text in the field that `path` leads to.
    fn object(&mut self, path: &str, out: &mut String, lists: usize) -> Result<Taken, Fault> {
        let start = out.len();
        let (mut taken, mut longest) = (Taken::Missing, None);
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(taken);
        }
        loop {
            let key = self.key()?;
            let rest = match path.strip_prefix(&*key) {
                Some("") => Some(""),
                Some(rest) => rest.strip_prefix('.').filter(|rest| !rest.is_empty()),
                None => None,
            };
            match rest {
                Some(rest) if longest.is_none_or(|longest| key.len() >= longest) => {
                    longest = Some(key.len());
                    out.truncate(start);
                    taken = self.value(rest, out, lists)?;
                }
                _ => self.skip()?,
            }
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b'}') => {
                    self.at += 1;
                    return Ok(taken);
                }
                _ => return self.fault("want `,` or `}` here"),
            }
        }
    }

    /// The text of the value here, or of what `path` leads to in it.
    fn value(&mut self, path: &str, out: &mut String, lists: usize) -> Result<Taken, Fault> {
        match self.peek() {
            Some(b'"') if path.is_empty() => self.string(out).map(|()| Taken::Text),
            Some(b'{') if !path.is_empty() => self.object(path, out, lists),
            Some(b'[') if lists < MOST_LISTS => self.list(path, out, lists + 1),
            _ => {
                let kind = self.kind();
                self.skip()?;
                Ok(if path.is_empty() { Taken::Wrong(kind) } else { Taken::Missing })
            }
        }
    }

    fn list(&mut self, path: &str, out: &mut String, lists: usize) -> Result<Taken, Fault> {
        let (mut taken, mut first) = (Taken::Text, true);
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(taken);
        }
        loop {
            if !std::mem::take(&mut first) {
                out.push('\n');
            }
            let of_this = self.value(path, out, lists)?;
            if taken == Taken::Text {
                taken = of_this;
            }
            self.space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.space();
                }
                Some(b']') => {
                    self.at += 1;
                    return Ok(taken);
                }
                _ => return self.fault("want `,` or `]` here"),
            }
        }
    }

    /// The name of a field, with the colon behind it; the value comes next.
    fn key(&mut self) -> Result<Cow<'j, str>, Fault> {
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
            // A name that is no text is none that could be asked for.
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
    fn string(&mut self, out: &mut String) -> Result<(), Fault> {
        self.at += 1;
        loop {
            let Some(length) = memchr2(b'"', b'\\', &self.bytes[self.at..]) else {
                self.at = self.bytes.len();
                return self.fault("it ends within a string; is a record spread over lines?");
            };
            let chunk = &self.text[self.at..self.at + length];
            // Quick for all, and again only to say where.
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

    /// Appends what is escaped here, behind a backslash.
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

    /// The four hexadecimal digits here.
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

    /// Passes over the value here, whatever it is. Memory: a byte a level of nesting.
    fn skip(&mut self) -> Result<(), Fault> {
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

    /// Passes over the string here; true if nothing in it is escaped.
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
            // What is escaped may be a quote. Any other character lies whole before or behind.
            self.at += usize::from(self.at < self.bytes.len() && self.bytes[self.at].is_ascii());
        }
    }

    /// Passes over a number or a word, also those that only Python writes.
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

    fn word(&self) -> &'j str {
        let rest = &self.bytes[self.at..];
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        &self.text[self.at..self.at + length]
    }

    /// The kind of the value here, for a message.
    fn kind(&self) -> &'static str {
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

    /// Nothing but white space may be left.
    fn end(&mut self) -> Result<(), Fault> {
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

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fault<T>(&self, what: impl Into<Cow<'static, str>>) -> Result<T, Fault> {
        let at_end = self.at >= self.bytes.len();
        let what = what.into();
        let what = if at_end && !what.starts_with("it ends") && !what.starts_with("there is") {
            "it ends too early; is a record spread over lines?".into()
        } else {
            what
        };
        Err(Fault { at: self.at, what })
    }

    /// The first names of fields of the value here that hold text, below `prefix`; with enough of them, the
    /// rest is not looked at, and `at` means nothing.
    fn texts(&mut self, prefix: &str, depth: usize, names: &mut Vec<String>) -> Result<(), Fault> {
        self.space();
        match self.peek() {
            Some(b'"') if depth > 0 => {
                if !names.iter().any(|name| name == prefix) {
                    names.push(prefix.into());
                }
                self.skip()
            }
            Some(b'{') if depth < OFFERED_DEPTH => {
                self.at += 1;
                self.space();
                while self.peek() == Some(b'"') {
                    let key = self.key()?;
                    let name = if prefix.is_empty() { key.into_owned() } else { format!("{prefix}.{key}") };
                    self.texts(&name, depth + 1, names)?;
                    if names.len() >= LOOKED_FOR {
                        return Ok(());
                    }
                    self.space();
                    self.at += usize::from(self.peek() == Some(b','));
                    self.space();
                }
                self.at += 1;
                Ok(())
            }
            // The first of a list stands for all.
            Some(b'[') if depth > 0 => {
                let start = self.at;
                self.at += 1;
                self.space();
                if self.peek() != Some(b']') && depth < OFFERED_DEPTH {
                    self.texts(prefix, depth + 1, names)?;
                }
                if names.len() >= LOOKED_FOR {
                    return Ok(());
                }
                self.at = start;
                self.skip()
            }
            _ => self.skip(),
        }
    }
}

/// Finds the elements of a JSON array in bytes that come bit by bit.
#[derive(Debug, Default)]
pub struct Elements {
    /// What of the bytes at hand is looked through.
    pub at: usize,
    /// Where the element that is being looked through starts.
    start: usize,
    state: State,
    depth: u64,
    in_string: bool,
    escaped: bool,
    /// The element is the first: there may be none.
    is_first: bool,
    /// Something other than white space was in it.
    has_text: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the bracket that opens the array.
    #[default]
    Before,
    Inside,
    /// Behind the bracket that closes it.
    After,
}

impl Elements {
    /// The next element that ends in `bytes`, where it stands there; what comes behind it is at [`Self::at`].
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

    /// Tells that the first `passed` of the bytes at hand are gone.
    pub fn shift(&mut self, passed: usize) {
        self.at -= passed;
        self.start = self.start.saturating_sub(passed);
    }

    /// One that finds nothing more.
    pub fn ended() -> Self {
        Self { state: State::After, ..Self::default() }
    }

    /// True if the bracket that closes the array was seen.
    pub fn has_ended(&self) -> bool {
        self.state == State::After
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(line: &str, fields: &[&str]) -> Result<String, String> {
        let fields: Vec<String> = fields.iter().map(|&f| f.into()).collect();
        let mut out = String::from("kept");
        append_fields(line, &fields, &mut out).map(|()| out["kept".len()..].into())
    }

    #[test]
    fn some_fields_of_a_json_object() {
        let line = r#"{"id": 1, "text": "你\n好", "x": {"text": 2}, "title": "\u9898\ud83d\ude00"}"#;
        for (record, fields, wanted) in [
            (line, &["text"][..], "你\n好"),
            (line, &["title", "text"], "题😀\n你\n好"),
            (r#"{"text": "a", "text": "b"}"#, &["text"], "b"),
            (r#"{"text": "a", "text": 1, "text": "b"}"#, &["text"], "b"),
            (r#"{"b": "1", "a": "2", "b": "3"}"#, &["a", "b", "a"], "2\n3\n2"),
            ("{\"\\u0074ext\" : \"\\/\\b\\f\\r\\t\\\"\\\\\"}\r", &["text"], "/\u{8}\u{c}\r\t\"\\"),
            (r#" {"x": {"a": ["}\"", {}]}, "text":"a"} "#, &["text"], "a"),
            (
                r#"{"a": NaN, "b": -Infinity, "c": 1e999, "d": [Infinity, null, true], "text": ""}"#,
                &["text"],
                "",
            ),
            (r#"{"x": "\ud83d \q", "text": "a"}"#, &["text"], "a"),
            (r#""a text""#, &["text"], "a text"),
            (r#"{"a": {"b": "1"}}"#, &["a.b"], "1"),
            (r#"{"a": {"b": "1"}, "a.b": "2"}"#, &["a.b"], "2"),
            (r#"{"a.b": "2", "a": {"b": "1"}}"#, &["a.b"], "2"),
            (r#"{"a.b": {"c": "3"}, "a": 1}"#, &["a.b.c"], "3"),
            (r#"{"段落": [{"内容": "一", "n": 1}, {"内容": "二"}]}"#, &["段落.内容"], "一\n二"),
            (r#"{"p": ["一", "", "二"]}"#, &["p"], "一\n\n二"),
            (r#"{"p": [["一"], ["二", "三"]]}"#, &["p"], "一\n二\n三"),
            (r#"{"p": []}"#, &["p"], ""),
        ] {
            assert_eq!(text(record, fields).as_deref(), Ok(wanted), "{record}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (record, field, said) in [
            ("[1]", "text", "no JSON object: a list (byte 0 of the record)"),
            ("5", "text", "no JSON object: a number"),
            ("\"text\"", "other", "no JSON object: a text by itself"),
            ("x", "text", "want a value here"),
            ("{'text': 1}", "text", "want the name of a field here, in double quotes (byte 1"),
            ("{\"text\": 3}", "text", "the field `text` holds a number, no text; no other field"),
            (
                "{\"text\": null, \"a\": \"x\"}",
                "text",
                "holds null, no text; name one that holds text with --field: `a`",
            ),
            ("{\"text\": NaN}", "text", "holds NaN"),
            (
                "{\"text\": {\"a\": [{\"b\": \"x\"}]}}",
                "text",
                "holds an object, no text; name one that holds text with --field: `text.a.b`",
            ),
            ("{\"text\": [\"a\", null]}", "text", "holds null"),
            ("{\"p\": [{\"a\": \"1\"}, {}]}", "p.a", "no field `p.a`"),
            ("{\"text\": \"a\", \"text\": 1}", "text", "holds a number, no text; no other field holds text"),
            (
                "{\"text\": [\"a\", 1], \"b\": \"\"}",
                "text",
                "holds a number, no text; name one that holds text with --field: `b`",
            ),
            ("{\"te\": \"a\"}", "text", "no field `text`; name one that holds text with --field: `te`"),
            ("{\"text\": \"a\"", "text", "ends too early"),
            ("{\"text\": \"a", "text", "ends within a string"),
            ("{\"text\": \"a\\", "text", "ends within a string"),
            ("{\"text\": \"a\"}{\"text\": \"b\"}", "text", "more than one object on a line"),
            ("{\"text\": \"a\"},", "text", "a comma after the object"),
            ("{} x", "text", "something stands after"),
            ("{\"text\": \"a\", }", "text", "want the name of a field"),
            ("{\"text\": \"a\" \"b\": 1}", "text", "want `,` or `}` here"),
            ("{\"x\": [1}, \"text\": \"a\"}", "text", "want `,` or `]` here"),
            ("\u{feff}{\"text\": \"a\"}", "text", "begins with a byte-order mark"),
            ("{\"text\": \"a\tb\"}", "text", "a bare control character (U+0009)"),
            ("{\"text\": \"\\ud83d\"}", "text", "a lone surrogate (\\ud83d)"),
            ("{\"text\": \"\\ude00\\ud83d\"}", "text", "in the wrong order (\\ude00\\ud83d)"),
            ("{\"text\": \"\\ud83d\\u0041\"}", "text", "a lone surrogate (\\ud83d)"),
            ("{\"text\": \"\\x\"}", "text", "an escape that JSON does not know"),
            ("{\"text\": \"\\u12\"}", "text", "four hexadecimal digits"),
        ] {
            let found = text(record, &[field]).unwrap_err();
            assert!(found.contains(said), "{record}: {found}");
        }
        let names = |n: usize| (0..n).map(|n| format!("\"n{n}\": \"\"")).collect::<Vec<_>>().join(", ");
        for (count, more) in [(8, false), (9, true), (200_000, true)] {
            // Also of very many only the first are looked at.
            let said = text(&format!("{{\"text\": 1, {}}}", names(count)), &["text"]).unwrap_err();
            assert!(said.contains("`n0`, `n1`") && said.ends_with(" and others") == more, "{said}");
            let said =
                text(&format!("{{\"text\": \"\", {}, \"text\": 1}}", names(count)), &["text"]).unwrap_err();
            assert!(!said.contains("--field: `text`") && said.ends_with(" and others") == more, "{said}");
        }
        let deep = "[".repeat(100_000);
        assert!(text(&format!("{{\"text\": {deep}"), &["text"]).is_err());
        let deep = format!("{{\"a\": {deep}{}, \"text\": \"x\"}}", "]".repeat(100_000));
        assert_eq!(text(&deep, &["text"]).as_deref(), Ok("x"));
        assert!(text(&deep, &["a"]).unwrap_err().contains("holds a list"));
    }

    /// The elements are the same however the bytes come.
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

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::vec(("[a-c.]{0,3}", inner), 0..5)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// What serde_json writes is taken, and its strings come back.
        #[test]
        fn agrees_with_serde_json(text_in: String, before in any_json(), behind in any_json(), pretty: bool) {
            let mut object = serde_json::Map::new();
            object.insert("before".into(), before);
            object.insert("text".into(), text_in.clone().into());
            object.insert("behind".into(), behind);
            let json = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let json = json.unwrap();
            prop_assert_eq!(check(&json), Ok(()));
            prop_assert_eq!(text(&json, &["text"]), Ok(text_in));
        }

        /// Broken JSON: what is taken is what serde_json takes, and nothing panics.
        #[test]
        fn never_takes_another_text(json in any_json(), cut in 0_usize..200, insert in "[\\[\\]{}\",:\\\\a-z0-9 ]{0,3}") {
            let mut json = serde_json::json!({"a": json, "text": "x"}).to_string();
            let at = (0..=cut.min(json.len())).rev().find(|&at| json.is_char_boundary(at)).unwrap_or(0);
            json.insert_str(at, &insert);
            let ours = text(&json, &["text"]);
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&json)
                && let Some(wanted) = value.get("text").and_then(|text| text.as_str())
            {
                prop_assert_eq!(ours.as_deref(), Ok(wanted));
            }
            let _ = check(&json);
        }
    }
}
