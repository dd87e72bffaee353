//! The texts in the fields of a JSON record.

use super::scanner::{Fault, Scanner};
use crate::{
    corpus::read::offer::{OFFERED, offer_names},
    message::Message,
};

/// Maximum depth of nested lists that are searched for a text.
const MOST_LISTS: usize = 32;
/// Maximum depth of the fields that a message suggests.
const OFFERED_DEPTH: usize = 5;
/// Number of names to look for: one more than is shown tells that there are others, and one may be the field
/// itself.
const LOOKED_FOR: usize = OFFERED + 2;

/// Appends the texts in `fields` of the JSON record to `out`, joined by newlines.
///
/// A field is a name or a path (`content.text`). Of several matching names in an object the longest wins, and
/// of equal ones the last. A path goes through lists; the texts of a list are joined by newlines. A record
/// that is a string is its own text if `fields` is only `text`. On an error `out` may contain a part.
pub fn append_fields(record: &str, fields: &[String], out: &mut String) -> Result<(), Message> {
    for (number, field) in fields.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let mut scanner = Scanner::new(record);
        let taken =
            record_text(&mut scanner, field, fields.len() == 1, out).map_err(|fault| fault.say(record))?;
        match taken {
            Taken::Text => {}
            Taken::Missing => return Err(no_text(&format!("no field `{field}`"), record, field)),
            Taken::Wrong(kind) => {
                return Err(no_text(&format!("the field `{field}` holds {kind}, no text"), record, field));
            }
        }
    }
    Ok(())
}

/// Checks that the record is one JSON value, whatever it contains.
pub fn check(record: &str) -> Result<(), Message> {
    let mut scanner = Scanner::new(record);
    scanner.space();
    scanner.skip().and_then(|()| scanner.end()).map_err(|fault| fault.say(record))
}

/// What is wrong with a record that does not end, unless it is right as far as it goes: then its end is missing.
pub fn fault_before_end(record: &[u8]) -> Option<Message> {
    let record = match std::str::from_utf8(record) {
        Ok(record) => record,
        Err(error) => std::str::from_utf8(&record[..error.valid_up_to()]).unwrap_or_default(),
    };
    let mut scanner = Scanner::new(record);
    let fault = scanner.skip().and_then(|()| scanner.end()).err()?;
    // A word or a number may go on after the end.
    scanner.at = fault.at.min(record.len());
    let ends_there = scanner.at + scanner.word().len() == record.len();
    (!ends_there).then(|| fault.say(record))
}

/// The message for a record without text in `field`, with the fields that could be meant.
fn no_text(what: &str, record: &str, field: &str) -> Message {
    let mut names = Vec::new();
    // The record was read to its end before: it is valid.
    let _ = texts(&mut Scanner::new(record), "", 0, &mut names);
    names.retain(|name| name != field);
    Message::from(format!("{what}; ")).join(offer_names(&names))
}

/// What was found where a text is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Text,
    Missing,
    Wrong(&'static str),
}

/// The text of the record in `field`; the record is read to its end.
fn record_text(scanner: &mut Scanner<'_>, field: &str, only: bool, out: &mut String) -> Result<Taken, Fault> {
    scanner.space();
    let taken = match scanner.peek() {
        Some(b'{') => object(scanner, field, out, 0)?,
        Some(b'"') if only && field == "text" => {
            scanner.string(out)?;
            Taken::Text
        }
        Some(first) => {
            // What is not JSON at all is reported as such.
            let (at, kind) = (scanner.at, scanner.kind());
            scanner.skip()?;
            let what = if first == b'"' { "a text by itself" } else { kind };
            return Err(Fault { at, what: what.into() });
        }
        None => return scanner.fault("there is nothing"),
    };
    scanner.end().map(|()| taken)
}

/// The text in the field of the object here that `path` leads to.
fn object(scanner: &mut Scanner<'_>, path: &str, out: &mut String, lists: usize) -> Result<Taken, Fault> {
    let start = out.len();
    let (mut taken, mut longest) = (Taken::Missing, None);
    scanner.at += 1;
    scanner.space();
    if scanner.peek() == Some(b'}') {
        scanner.at += 1;
        return Ok(taken);
    }
    loop {
        let key = scanner.key()?;
        let rest = match path.strip_prefix(&*key) {
            Some("") => Some(""),
            Some(rest) => rest.strip_prefix('.').filter(|rest| !rest.is_empty()),
            None => None,
        };
        match rest {
            Some(rest) if longest.is_none_or(|longest| key.len() >= longest) => {
                longest = Some(key.len());
                out.truncate(start);
                taken = value(scanner, rest, out, lists)?;
            }
            _ => scanner.skip()?,
        }
        scanner.space();
        match scanner.peek() {
            Some(b',') => {
                scanner.at += 1;
                scanner.space();
            }
            Some(b'}') => {
                scanner.at += 1;
                return Ok(taken);
            }
            _ => return scanner.fault("want `,` or `}` here"),
        }
    }
}

/// The text of the value here, or of the value in it that `path` leads to.
fn value(scanner: &mut Scanner<'_>, path: &str, out: &mut String, lists: usize) -> Result<Taken, Fault> {
    match scanner.peek() {
        Some(b'"') if path.is_empty() => scanner.string(out).map(|()| Taken::Text),
        Some(b'{') if !path.is_empty() => object(scanner, path, out, lists),
        Some(b'[') if lists < MOST_LISTS => list(scanner, path, out, lists + 1),
        _ => {
            let kind = scanner.kind();
            scanner.skip()?;
            Ok(if path.is_empty() { Taken::Wrong(kind) } else { Taken::Missing })
        }
    }
}

fn list(scanner: &mut Scanner<'_>, path: &str, out: &mut String, lists: usize) -> Result<Taken, Fault> {
    let (mut taken, mut first) = (Taken::Text, true);
    scanner.at += 1;
    scanner.space();
    if scanner.peek() == Some(b']') {
        scanner.at += 1;
        return Ok(taken);
    }
    loop {
        if !std::mem::take(&mut first) {
            out.push('\n');
        }
        let of_this = value(scanner, path, out, lists)?;
        if taken == Taken::Text {
            taken = of_this;
        }
        scanner.space();
        match scanner.peek() {
            Some(b',') => {
                scanner.at += 1;
                scanner.space();
            }
            Some(b']') => {
                scanner.at += 1;
                return Ok(taken);
            }
            _ => return scanner.fault("want `,` or `]` here"),
        }
    }
}

/// Collects the names of fields with text in the value here, below `prefix`. Once there are enough, it stops,
/// and the position of the scanner is undefined.
fn texts(
    scanner: &mut Scanner<'_>,
    prefix: &str,
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), Fault> {
    scanner.space();
    match scanner.peek() {
        Some(b'"') if depth > 0 => {
            if !names.iter().any(|name| name == prefix) {
                names.push(prefix.into());
            }
            scanner.skip()
        }
        Some(b'{') if depth < OFFERED_DEPTH => {
            scanner.at += 1;
            scanner.space();
            while scanner.peek() == Some(b'"') {
                let key = scanner.key()?;
                let name = if prefix.is_empty() { key.into_owned() } else { format!("{prefix}.{key}") };
                texts(scanner, &name, depth + 1, names)?;
                if names.len() >= LOOKED_FOR {
                    return Ok(());
                }
                scanner.space();
                scanner.at += usize::from(scanner.peek() == Some(b','));
                scanner.space();
            }
            scanner.at += 1;
            Ok(())
        }
        // The first element of a list represents all.
        Some(b'[') if depth > 0 => {
            let start = scanner.at;
            scanner.at += 1;
            scanner.space();
            if scanner.peek() != Some(b']') && depth < OFFERED_DEPTH {
                texts(scanner, prefix, depth + 1, names)?;
            }
            if names.len() >= LOOKED_FOR {
                return Ok(());
            }
            scanner.at = start;
            scanner.skip()
        }
        _ => scanner.skip(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(line: &str, fields: &[&str]) -> Result<String, String> {
        let fields: Vec<String> = fields.iter().map(|&f| f.into()).collect();
        let mut out = String::from("kept");
        let taken = append_fields(line, &fields, &mut out);
        taken.map(|()| out["kept".len()..].into()).map_err(|message| message.to_string())
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
                "holds null, no text; name one that holds text with `field`: `a`",
            ),
            ("{\"text\": NaN}", "text", "holds NaN"),
            (
                "{\"text\": {\"a\": [{\"b\": \"x\"}]}}",
                "text",
                "holds an object, no text; name one that holds text with `field`: `text.a.b`",
            ),
            ("{\"text\": [\"a\", null]}", "text", "holds null"),
            ("{\"p\": [{\"a\": \"1\"}, {}]}", "p.a", "no field `p.a`"),
            ("{\"text\": \"a\", \"text\": 1}", "text", "holds a number, no text; no other field holds text"),
            (
                "{\"text\": [\"a\", 1], \"b\": \"\"}",
                "text",
                "holds a number, no text; name one that holds text with `field`: `b`",
            ),
            ("{\"te\": \"a\"}", "text", "no field `text`; name one that holds text with `field`: `te`"),
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
            // Even of very many names only the first are looked for.
            let said = text(&format!("{{\"text\": 1, {}}}", names(count)), &["text"]).unwrap_err();
            assert!(said.contains("`n0`, `n1`") && said.ends_with(" and others") == more, "{said}");
            let said =
                text(&format!("{{\"text\": \"\", {}, \"text\": 1}}", names(count)), &["text"]).unwrap_err();
            assert!(!said.contains("`field`: `text`") && said.ends_with(" and others") == more, "{said}");
        }
        let deep = "[".repeat(100_000);
        assert!(text(&format!("{{\"text\": {deep}"), &["text"]).is_err());
        let deep = format!("{{\"a\": {deep}{}, \"text\": \"x\"}}", "]".repeat(100_000));
        assert_eq!(text(&deep, &["text"]).as_deref(), Ok("x"));
        assert!(text(&deep, &["a"]).unwrap_err().contains("holds a list"));
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
        /// What serde_json writes is accepted, and its strings are read back.
        #[test]
        fn agrees_with_serde_json(text_in: String, before in any_json(), after in any_json(), pretty: bool) {
            let mut object = serde_json::Map::new();
            object.insert("before".into(), before);
            object.insert("text".into(), text_in.clone().into());
            object.insert("after".into(), after);
            let json = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
            let json = json.unwrap();
            prop_assert_eq!(check(&json), Ok(()));
            prop_assert_eq!(text(&json, &["text"]), Ok(text_in));
        }

        /// For broken JSON, an accepted text is the one that serde_json reads, and nothing panics.
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
