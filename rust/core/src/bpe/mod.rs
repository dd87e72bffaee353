//! Byte-pair encoding with a SentencePiece model: normalised text in, ids out, exactly SentencePiece's.
//!
//! The road of a text, in reading order: [`encoder`] cuts USER_DEFINED pieces out; [`engine`] encodes what is
//! between them block by block; [`block`] decodes a block into 16-bit [`codes`], looks neighbours up in the
//! [`pairs`] table and cuts where none can merge; the segments are answered from the [`cache`], by merging a
//! short [`run`], or window by window ([`long`]; those longer than a block in a [`stretch`]), and [`write`](mod@write)
//! makes ids of them. [`rules`] derives all tables from a model, [`kernel`] holds the loops that have a vector twin.
//! [`plain`] encodes for models that the tables do not take, and [`oracle`] says the whole thing once more in the slowest
//! and plainest way, for tests.

mod block;
mod cache;
mod codes;
mod encoder;
mod engine;
mod kernel;
mod long;
mod merges;
#[doc(hidden)]
pub mod oracle;
mod pairs;
mod plain;
mod rules;
mod run;
mod stretch;
mod write;

pub use block::{SHORT, SHORT_COST};
pub use cache::{CACHE_BYTES, MAX_CACHE_BYTES};
pub use encoder::{Encoder, Scratch};
