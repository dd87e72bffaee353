//! Vocabularies: merging the pieces of donors into a base, and finding pieces that no text becomes.

mod dead;
pub mod extend;
mod filter;
mod merge;
mod pieces;
mod policy;
mod repair;
pub mod script;
mod uses;

pub use dead::{Dead, dead_pieces};
pub use filter::{Filters, Reason};
pub use merge::{LeftOut, MergeOptions, Merged, NewPiece, Tokens, counting_model, merge};
pub use policy::MergePolicy;
