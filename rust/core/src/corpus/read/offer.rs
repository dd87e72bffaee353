//! The end of a message about a field or column without text: the ones that do contain text.

use crate::message::{FIELD, Message};

/// Maximum number of names in a message.
pub const OFFERED: usize = 8;

/// Suggests other fields or columns, all of which contain text.
pub fn offer_names(names: &[String]) -> Message {
    if names.is_empty() {
        return "no other field holds text".into();
    }
    let shown: Vec<_> = names.iter().take(OFFERED).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > OFFERED { " and others" } else { "" };
    Message::from("name one that holds text with ")
        .option(FIELD)
        .text(format!(": {}{more}", shown.join(", ")))
}
