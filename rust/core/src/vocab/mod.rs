//! Vocabularies: merging a donor's pieces into a base.

mod merge;

pub use merge::{MergePolicy, Merged, merge};
