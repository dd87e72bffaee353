//! Vocabularies: merging a donor's pieces into a base, and finding pieces that no text becomes.

mod dead;
mod merge;
pub mod script;

pub use dead::{Dead, dead_pieces};
pub use merge::{MergePolicy, Merged, merge};
