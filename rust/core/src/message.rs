//! Messages that name options without knowing how the caller writes them.
//!
//! An option is a keyword in Python and a flag at the command line. So a message keeps the options it names
//! apart from its text, and each interface words them.

use std::fmt;

/// An option, by its name and, where it matters, the value that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name.
    pub name: &'static str,
    /// The value.
    pub value: Option<Value>,
}

/// A value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// On or off.
    Switch(bool),
    /// One of several words.
    Word(&'static str),
}

/// Replace what the output holds.
pub const OVERWRITE: Setting = Setting { name: "overwrite", value: Some(Value::Switch(true)) };
/// The output folder.
pub const OUT: Setting = Setting { name: "out", value: None };
/// The fields or columns that hold the text.
pub const FIELD: Setting = Setting { name: "field", value: None };
/// Standard input is plain text.
pub const STDIN_TXT: Setting = Setting { name: "stdin_format", value: Some(Value::Word("txt")) };
/// Bytes that a record may have.
pub const MAX_RECORD_BYTES: Setting = Setting { name: "max_record_bytes", value: None };
/// No end-of-sequence id after a document.
pub const NO_EOS: Setting = Setting { name: "eos", value: Some(Value::Switch(false)) };
/// The begin-of-sequence id before a document.
pub const BOS: Setting = Setting { name: "bos", value: Some(Value::Switch(true)) };
/// One of several parts that run side by side.
pub const PART: Setting = Setting { name: "part", value: None };
/// Bad records are put aside.
pub const ON_ERROR_SKIP: Setting = Setting { name: "on_error", value: Some(Value::Word("skip")) };
/// New pieces of every script.
pub const ALL_SCRIPTS: Setting = Setting { name: "scripts", value: Some(Value::Word("all")) };

/// An option by its name alone.
pub const fn option(name: &'static str) -> Setting {
    Setting { name, value: None }
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessagePart {
    /// Text.
    Text(String),
    /// An option that it names.
    Option(Setting),
}

/// What is wrong and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    parts: Vec<MessagePart>,
}

impl Message {
    /// The same with more text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.parts.push(MessagePart::Text(text.into()));
        self
    }

    /// The same with the name of an option.
    #[must_use]
    pub fn option(mut self, setting: Setting) -> Self {
        self.parts.push(MessagePart::Option(setting));
        self
    }

    /// This message and then another.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// Its parts, in order.
    pub fn parts(&self) -> &[MessagePart] {
        &self.parts
    }
}

impl<T: Into<String>> From<T> for Message {
    fn from(text: T) -> Self {
        Self { parts: vec![MessagePart::Text(text.into())] }
    }
}

impl From<Setting> for Message {
    fn from(setting: Setting) -> Self {
        Self { parts: vec![MessagePart::Option(setting)] }
    }
}

/// Names options as this crate does: `overwrite`, `on_error=skip`, `eos=false`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            MessagePart::Text(text) => f.write_str(text),
            MessagePart::Option(Setting { name, value }) => match value {
                None | Some(Value::Switch(true)) => write!(f, "`{name}`"),
                Some(Value::Switch(false)) => write!(f, "`{name}=false`"),
                Some(Value::Word(word)) => write!(f, "`{name}={word}`"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_named_apart_from_the_text() {
        let message = Message::from("out: taken; use ").option(OVERWRITE).text(", or ").option(ON_ERROR_SKIP);
        assert_eq!(message.to_string(), "out: taken; use `overwrite`, or `on_error=skip`");
        assert_eq!(Message::from("a").option(NO_EOS).to_string(), "a`eos=false`");
        let joined = Message::from("a: ").join(Message::from("b ").option(FIELD));
        assert_eq!(joined.parts().len(), 3);
    }
}
