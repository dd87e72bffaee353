//! Byte-pair encoding with a SentencePiece model: normalised text in, ids out, exactly SentencePiece's.
//!
//! In reading order: [`symbol`] says what is merged; [`tables`] is what is derived from a model; [`engine`] encodes
//! text block by block with them, and [`kernel`] holds its loops that have a vector twin; [`sink`] is where ids go.
//! [`encoder`] cuts USER_DEFINED pieces out and says by which [`Route`] a model's texts are encoded. [`plain`] encodes for
//! models that the tables do not take, and [`oracle`] says the whole thing once more in the slowest and plainest way,
//! for tests.

#[doc(hidden)]
pub mod checks;
mod encoder;
mod engine;
pub(crate) mod heap;
mod kernel;
#[doc(hidden)]
pub mod oracle;
mod plain;
pub(crate) mod ranks;
mod sink;
pub(crate) mod symbol;
mod tables;

pub use self::{
    encoder::{Encoder, Route, Scratch},
    engine::{CACHE_BYTES, MAX_CACHE_BYTES, ShortTexts},
};
