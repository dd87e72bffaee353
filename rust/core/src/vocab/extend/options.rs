use super::cut::Scripts;

/// What to learn.
#[derive(Clone, Debug)]
pub struct ExtendOptions {
    /// What the new pieces may be made of.
    pub scripts: Scripts,
    /// How many new pieces.
    pub new_pieces: usize,
    /// Characters that come first, whether the text has them or not.
    pub characters: Vec<char>,
    /// Characters of the longest new piece.
    pub max_length: usize,
    /// Tokens that a piece must save to be learned.
    pub min_count: u64,
    /// Pieces that must come in.
    pub protected: Vec<String>,
    /// Texts that must not become pieces.
    pub forbidden: Vec<String>,
    /// Tokens beside the base's model.
    pub beside: Vec<String>,
    /// Threads.
    pub threads: usize,
}
