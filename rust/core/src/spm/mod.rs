//! The SentencePiece model file: read, checked, extended, written.

mod model;
mod proto;

pub use model::{ModelKind, NormalizerOptions, Piece, PieceKind, SpecialIds, SpmModel, byte_of_piece};
