//! Byte-pair encoding with a SentencePiece model: normalised text in, ids out, exactly SentencePiece's.
//!
//! [`table`] holds what a model says about symbols, [`merge`] merges one run of symbols, [`encoder`] cuts a
//! text into runs that cannot touch each other and remembers their answers. [`oracle`] says the same in the
//! slowest and plainest way, for tests.

mod encoder;
mod merge;
#[doc(hidden)]
pub mod oracle;
mod table;

pub use encoder::{Encoder, Scratch};
