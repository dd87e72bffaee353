//! The longer segments of a block, by the way they are encoded.

use crate::bpe::kernel::{Kernel, MAX_POSITIONS};

/// Characters of a block.
pub const BLOCK: usize = 2048;

/// A segment of three or more characters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Its first character.
    pub start: u32,
    /// Its characters.
    pub len: u32,
}

/// The longer segments of a block, by the way they are encoded.
#[derive(Debug, Default)]
pub struct Lists {
    /// Starts of those of three characters with the common score.
    pub three: List<u32>,
    /// The same of four.
    pub four: List<u32>,
    /// Those of more characters with the common score.
    pub one_score: List<Segment>,
    /// Those that hold a pair with another score.
    pub mixed: List<Segment>,
}

impl Lists {
    /// Forgets all segments.
    pub fn clear(&mut self) {
        self.three.clear();
        self.four.clear();
        self.one_score.clear();
        self.mixed.clear();
    }
}

/// Room for one entry per segment of three characters, and one more.
const MAX_LISTED: usize = (BLOCK / 3 + 1).next_power_of_two();

/// A list with an entry for some segments of a block. It has room for all of them, so that adding one takes no branch.
#[derive(Debug)]
pub struct List<T> {
    items: Box<[T; MAX_LISTED + MAX_POSITIONS]>,
    len: usize,
}

impl<T: Copy + Default> Default for List<T> {
    fn default() -> Self {
        Self { items: Box::new([T::default(); MAX_LISTED + MAX_POSITIONS]), len: 0 }
    }
}

impl<T: Copy> List<T> {
    /// Forgets all entries.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds an entry.
    #[inline(always)]
    pub fn push(&mut self, item: T) {
        self.push_if(true, item);
    }

    /// Adds an entry if `wanted`, without a branch that the processor would have to predict.
    #[inline(always)]
    pub fn push_if(&mut self, wanted: bool, item: T) {
        debug_assert!(self.len < MAX_LISTED);
        self.items[self.len & (MAX_LISTED - 1)] = item;
        self.len += usize::from(wanted);
    }

    /// The entries.
    #[inline(always)]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().take(self.len)
    }
}

impl List<u32> {
    /// Adds `first` plus the position of each set bit of `mask`; there are 22 at most.
    #[inline(always)]
    pub fn push_positions<K: Kernel>(&mut self, mask: u64, first: u32) {
        if let Some(room) = self.items[self.len & (MAX_LISTED - 1)..].first_chunk_mut() {
            K::positions(mask, first, room);
            self.len += mask.count_ones() as usize;
        }
    }
}
