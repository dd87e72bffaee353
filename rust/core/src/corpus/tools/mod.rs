//! Operations on an existing corpus folder.

pub mod locate;
pub mod merge;
pub mod occurrences;
pub mod progress;
pub mod verify;
