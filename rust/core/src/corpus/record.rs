//! Finds the documents in a block: the text of each line, or why it has none.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{blocks::Block, input::Format};
use crate::{Error, Result};

/// Calls `each` with the text of every line of the block, in order.
///
/// Lines end at `\n`; one `\r` before it is dropped. In jsonl a blank line is an empty document.
///
/// # Errors
/// [`Error::Record`] for the first line that is not UTF-8, no JSON object, or lacks the field.
pub fn for_each_document(block: &Block, field: &str, mut each: impl FnMut(&str)) -> Result<()> {
    let mut offset = block.offset;
    for (line, raw) in (block.line..).zip(block.bytes.split_inclusive(|&b| b == b'\n')) {
        let fail = |reason: String| {
            let path = block.source.path.clone();
            Error::Record { path, line, offset, reason }
        };
        let bytes = raw.strip_suffix(b"\n").unwrap_or(raw);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let column = e.valid_up_to();
            fail(format!("not UTF-8 (byte {column} of the line); convert the file to UTF-8"))
        })?;
        match block.source.format {
            Format::Txt => each(text),
            Format::Jsonl if text.trim_ascii().is_empty() => each(""),
            Format::Jsonl => each(&json_field(text, field).map_err(fail)?),
        }
        offset += raw.len() as u64;
    }
    Ok(())
}

/// The string in `field` of the JSON object `line`.
fn json_field<'a>(line: &'a str, field: &str) -> std::result::Result<Cow<'a, str>, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let found = Field(field).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    found
        .map_err(|e| format!("no JSON object with a text in `{field}`: {e}"))?
        .ok_or_else(|| format!("the object has no field `{field}`; name the right one with --field"))
}

/// Reads a JSON object and keeps one of its fields (of equals the last, as JSON readers do).
struct Field<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key_seed(Text)? {
            if key == self.0 {
                found = Some(map.next_value_seed(Text)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A JSON string, borrowed from the line where it holds no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> std::result::Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
        Ok(Cow::Owned(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::json_field;

    #[test]
    fn one_field_of_a_json_object() {
        assert_eq!(json_field(r#"{"id": 1, "text": "你\n好", "x": {"text": 2}}"#, "text").unwrap(), "你\n好");
        assert_eq!(json_field(r#"{"text": "a", "text": "b"}"#, "text").unwrap(), "b");
        for bad in ["[1]", "{\"text\": 3}", "{\"text\": \"a\"", "{} x", "\"text\"", "{\"te\": \"a\"}"] {
            assert!(json_field(bad, "text").is_err(), "{bad}");
        }
    }
}
