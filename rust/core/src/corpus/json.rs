//! The text fields of one JSON object.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Appends the strings in `fields` of the JSON object `line` to `out`, joined by newlines.
///
/// On an error `out` may hold a part. Of equal fields the last counts, as JSON readers have it.
pub fn append_fields(line: &str, fields: &[String], out: &mut Vec<u8>) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let wanted = || fields.iter().map(|f| format!("`{f}`")).collect::<Vec<_>>().join(" and ");
    let found = Fields(fields).deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|e| format!("no JSON object with a text in {}: {e}", wanted()))?;
    for (number, (field, text)) in fields.iter().zip(found).enumerate() {
        let text = text
            .ok_or_else(|| format!("the object has no field `{field}`; name the right one with --field"))?;
        if number > 0 {
            out.push(b'\n');
        }
        out.extend_from_slice(text.as_bytes());
    }
    Ok(())
}

/// Reads a JSON object and keeps some of its fields.
struct Fields<'f>(&'f [String]);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Vec<Option<Cow<'de, str>>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Option<Cow<'de, str>>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = vec![None; self.0.len()];
        while let Some(key) = map.next_key_seed(Text)? {
            if !self.0.iter().any(|field| *field == key) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let text = map.next_value_seed(Text)?;
            for (slot, field) in found.iter_mut().zip(self.0) {
                if *field == key {
                    *slot = Some(text.clone());
                }
            }
        }
        Ok(found)
    }
}

/// A JSON string, borrowed from the line where it holds no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::append_fields;

    fn text(line: &str, fields: &[&str]) -> Result<String, String> {
        let fields: Vec<String> = fields.iter().map(|&f| f.into()).collect();
        let mut out = Vec::new();
        append_fields(line, &fields, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn some_fields_of_a_json_object() {
        let line = r#"{"id": 1, "text": "你\n好", "x": {"text": 2}, "title": "\u9898\ud83d\ude00"}"#;
        assert_eq!(text(line, &["text"]).unwrap(), "你\n好");
        assert_eq!(text(line, &["title", "text"]).unwrap(), "题😀\n你\n好");
        assert_eq!(text(r#"{"text": "a", "text": "b"}"#, &["text"]).unwrap(), "b");
        let lone_surrogate = r#"{"text": "\ud83d"}"#;
        for bad in [
            "[1]",
            "{\"text\": 3}",
            "{\"text\": \"a\"",
            "{} x",
            "\"text\"",
            "{\"te\": \"a\"}",
            lone_surrogate,
        ] {
            assert!(text(bad, &["text"]).is_err(), "{bad}");
        }
        assert!(text(r#"{"text": "a"}"#, &["text", "title"]).unwrap_err().contains("`title`"));
    }
}
