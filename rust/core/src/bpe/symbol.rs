//! What BPE merges: symbols, and what a pair of them becomes.

/// A symbol: the id of a piece or, from the vocabulary's size on, what is no piece that may be written: a character, or
/// an UNUSED piece. Each encoder says how it numbers those.
pub type Symbol = u32;

/// Bits of a symbol in the tables.
pub const SYMBOL_BITS: u32 = 24;
/// No symbol; those in the tables are below.
pub const NONE: Symbol = (1 << (SYMBOL_BITS - 1)) - 1;

/// What a pair of neighbouring symbols becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Place in the order of scores, 0 merging first; equal scores share a rank.
    pub rank: u32,
    /// The symbol that replaces the pair.
    pub result: Symbol,
}

/// The rank of a pair that does not merge.
pub const NO_RANK: u32 = u32::MAX;
/// What a pair that does not merge becomes.
pub const NO_MERGE: Merge = Merge { rank: NO_RANK, result: NONE };
