//! What a kernel does: the inner loops that are worth vector instructions, and what goes in and out of them.

use std::mem::MaybeUninit;

use crate::bpe::{
    symbol::{NO_RANK, Symbol},
    tables::pairs::LookUps,
};

/// Bytes that are decoded at a time.
pub const CHUNK: usize = 64;
/// Bytes after a chunk that may be read: by its last character, and by vector loads.
pub const CHUNK_TAIL: usize = 16;
/// Symbols for which [`Kernel::compact`] needs room.
pub const ROOM: usize = 72;
/// Where it writes.
pub type Room = [MaybeUninit<Symbol>; ROOM];
/// Room for the positions of the segments of three characters that start among 64.
pub const MAX_POSITIONS: usize = 32;
/// Symbols that are merged in registers, at most.
pub const WINDOW: usize = 64;

/// Facts about 64 neighbour pairs, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkMasks {
    /// Some piece holds the two characters side by side.
    pub linked: u64,
    /// The two characters are a piece.
    pub pieces: u64,
    /// Linked, but not only by pieces of the common score.
    pub mixed: u64,
}

/// A segment as the cache knows it: up to 16 codes below 256, a byte each, or up to 8 codes of any size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The codes, zero after the last.
    pub codes: [u64; 2],
    /// True for two bytes per code.
    pub wide: bool,
}

/// The loops that are worth vector instructions.
pub trait Kernel {
    /// Runs `work` with the kernel's instructions switched on; the other methods are fast only within it. `work` and what it
    /// calls must be `#[inline(always)]` down to them.
    fn enter<R>(work: impl FnOnce() -> R) -> R;

    /// Bits of the bytes that start a character, and whether one of them starts an astral one.
    fn starts(chunk: &[u8; CHUNK]) -> (u64, bool);

    /// Writes the codes of the characters that `starts` marks, none of which is astral.
    fn decode(chunk: &[u8; CHUNK + CHUNK_TAIL], starts: u64, out: &mut [u16; CHUNK]);

    /// What the look-ups of the first `n` of 64 neighbour pairs say, or of some more. Each of `tokens` becomes the piece
    /// that its pair makes, if any, else the character's own symbol.
    fn link(found: &LookUps, n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks;

    /// Copies the tokens whose bit is set in `keep` to the front of `out`, and returns the bits of those that are at
    /// least `vocab`. May overwrite what follows in `out`.
    fn compact(tokens: &[Symbol; 64], keep: u64, vocab: u32, out: &mut Room) -> u64;

    /// Writes `first` plus the position of each set bit of `mask`, [`MAX_POSITIONS`] at most, to the front of `out`. May
    /// overwrite what follows.
    fn positions(mask: u64, first: u32, out: &mut [u32; MAX_POSITIONS]);

    /// The key of the segment that is the first `len` (1 to 16) codes, if it has one.
    fn key(codes: &[u16; 16], len: usize) -> Option<Key>;

    /// Keys of up to 8 `V` pairs.
    type Keys<const V: usize>: PairKeys;
}

/// The keys of neighbouring pairs while up to [`WINDOW`] symbols are merged, in registers where the kernel has them: a
/// vector load right after a narrow store to the same memory has to wait for it.
///
/// A pair's key is its rank with its index in the lowest bits; so the least key is the leftmost of the best.
pub trait PairKeys {
    /// Loads the keys.
    fn load(keys: &[u32; WINDOW]) -> Self;

    /// The least key, [`NO_RANK`] if no pair merges.
    fn best(&self) -> u32;

    /// Replaces the key at an index. The last symbol starts no pair; its index may lie beyond the keys, and is ignored.
    fn set(&mut self, at: usize, key: u32);
}

/// The key of a pair.
#[inline(always)]
pub fn pair_key(rank: u32, at: usize) -> u32 {
    // Ranks of pieces are below 2^24.
    if rank == NO_RANK { NO_RANK } else { rank << WINDOW.trailing_zeros() | at as u32 }
}
