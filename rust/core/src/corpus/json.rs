//! The text fields of one JSON object.

use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

/// Appends the strings in `fields` of the JSON object `line` to `out`, joined by newlines.
///
/// On an error `out` may hold a part. Of equal fields the last counts, as JSON readers have it.
pub fn append_fields(line: &str, fields: &[String], out: &mut String) -> Result<(), String> {
    let start = out.len();
    let mut json = serde_json::Deserializer::from_str(line);
    let mut found = vec![None; fields.len()];
    let object = Object { fields, found: &mut found, out };
    object.deserialize(&mut json).and_then(|()| json.end()).map_err(|e| {
        let wanted: Vec<_> = fields.iter().map(|f| format!("`{f}`")).collect();
        format!("no JSON object with a text in {}: {}", wanted.join(" and "), without_line(&e))
    })?;
    let missing =
        |field: &String| format!("the object has no field `{field}`; name the right one with --field");
    let found: Vec<_> =
        fields.iter().zip(found).map(|(f, text)| text.ok_or_else(|| missing(f))).collect::<Result<_, _>>()?;
    // The one text of one field stands where it belongs; others are put in order.
    if !matches!(found.as_slice(), [only] if *only == (start..out.len())) {
        let joined = found.iter().map(|text| &out[text.clone()]).collect::<Vec<_>>().join("\n");
        out.truncate(start);
        out.push_str(&joined);
    }
    Ok(())
}

/// The error with its place in the record; serde_json's own place would be taken for one in the file.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.split_once(&format!(" at line {} column", error.line())) {
        Some((what, _)) => format!("{what} (byte {} of the record)", error.column()),
        None => text,
    }
}

/// Reads a JSON object, appends some of its fields to `out` and notes where they stand there.
struct Object<'f, 'o> {
    fields: &'f [String],
    found: &'o mut [Option<Range<usize>>],
    out: &'o mut String,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(wanted) = map.next_key_seed(Key(self.fields))? {
            let Some(first) = wanted else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let start = self.out.len();
            map.next_value_seed(Text(self.out))?;
            // A field may be asked for twice.
            let name = self.fields.get(first).ok_or_else(|| A::Error::custom("no such field"))?;
            for (slot, _) in self.found.iter_mut().zip(self.fields).filter(|(_, field)| *field == name) {
                *slot = Some(start..self.out.len());
            }
        }
        Ok(())
    }
}

/// A key: the number of the first field of that name, if it is one.
struct Key<'f>(&'f [String]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|field| field == key))
    }
}

/// A JSON string, appended to the text given.
struct Text<'o>(&'o mut String);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::append_fields;

    fn text(line: &str, fields: &[&str]) -> Result<String, String> {
        let fields: Vec<String> = fields.iter().map(|&f| f.into()).collect();
        let mut out = String::new();
        append_fields(line, &fields, &mut out).map(|()| out)
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
        assert_eq!(text(r#"{"b": "1", "a": "2", "b": "3"}"#, &["a", "b", "a"]).unwrap(), "2\n3\n2");
        assert!(text(r#"{"text": "a"}"#, &["text", "title"]).unwrap_err().contains("`title`"));
        let error = text(r#"{"text": 3}"#, &["text"]).unwrap_err();
        assert!(error.ends_with("(byte 10 of the record)"), "{error}");
    }
}
