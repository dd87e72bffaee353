//! The end of a message about a field or column without text: which ones do hold text.

use crate::message::{FIELD, Message};

/// Names that a message offers at most.
pub const OFFERED: usize = 8;

/// Offers the `names` of other fields, all of which hold text.
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
