//! What is done with a corpus folder afterwards, or while others work in it.

pub mod locate;
pub mod merge;
pub mod occurrences;
pub mod progress;
pub mod verify;
