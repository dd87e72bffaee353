//! Which two symbols merge into which piece, in one hash table.

/// A symbol of the engine: the id of a piece, or (from the vocabulary's size on) a character that is no
/// piece, as size + code. Always below 2^24.
pub type Symbol = u32;

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
pub const NO_MERGE: Merge = Merge { rank: NO_RANK, result: 0 };

/// A hash table with linear probing, at most half full: most look-ups, found or not, touch one cache line.
#[derive(Debug)]
pub struct Merges {
    slots: Box<[Slot]>,
    shift: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
struct Slot {
    key: u64,
    merge: Merge,
}

const EMPTY: u64 = u64::MAX;

impl Merges {
    /// A table for up to `entries` merges.
    pub fn with_room_for(entries: usize) -> Self {
        let slots = (2 * entries).next_power_of_two().max(16);
        let empty = Slot { key: EMPTY, merge: NO_MERGE };
        Self { slots: vec![empty; slots].into(), shift: 64 - slots.trailing_zeros() }
    }

    #[inline(always)]
    fn place(&self, key: u64) -> usize {
        // Fibonacci hashing of both halves; the symbols are below 2^24, so no bits are lost in the fold.
        let mixed = (key ^ (key >> 15)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> self.shift) as usize
    }

    /// Adds a merge.
    pub fn insert(&mut self, left: Symbol, right: Symbol, merge: Merge) {
        let key = (u64::from(left) << 32) | u64::from(right);
        let mask = self.slots.len() - 1;
        let mut at = self.place(key);
        while self.slots[at].key != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { key, merge };
    }

    /// What two neighbours become; [`NO_MERGE`] if they stay apart.
    #[inline(always)]
    pub fn find(&self, left: Symbol, right: Symbol) -> Merge {
        let key = (u64::from(left) << 32) | u64::from(right);
        let mask = self.slots.len() - 1;
        let mut at = self.place(key);
        loop {
            // `place` is below the table's size, a power of two; masking again lets the compiler see it.
            let slot = &self.slots[at & mask];
            if slot.key == key || slot.key == EMPTY {
                return slot.merge;
            }
            at += 1;
        }
    }
}
