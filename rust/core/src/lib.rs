//! The core of Zhuzi: SentencePiece model files, vocabulary merging and exact corpus encoding.
//!
//! No Python in here; `rust/py` binds it. [`normalize`] gives the text that BPE sees, [`bpe`] its ids; [`tokenizer`] is
//! both, [`batch`] does it for many texts, [`offsets`] says where each token is, [`corpus`] does it for files.

pub mod batch;
pub mod bpe;
pub mod corpus;
pub mod error;
mod memory;
pub mod message;
pub mod normalize;
pub mod offsets;
pub mod spm;
pub mod text;
pub mod tokenizer;
pub mod vocab;

pub use error::{Error, Result};
pub use memory::prefetch;
pub use spm::SpmModel;
pub use text::Text;
pub use tokenizer::Tokenizer;
