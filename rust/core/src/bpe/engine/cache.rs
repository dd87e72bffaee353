//! What segments became before: direct-mapped tables, so that they never grow and a look-up is one load.

use crate::{
    bpe::{kernel::Key, symbol::Symbol},
    memory::{Zeroed, prefetch},
};

/// Bytes of a thread's cache by default: 131,072 entries. More gain little and cost cold misses.
pub const CACHE_BYTES: usize = 4 << 20;
/// The most bytes that it can have.
pub const MAX_CACHE_BYTES: usize = 1 << 30;
/// Symbols that an entry holds.
pub const MAX_SYMBOLS: usize = 5;

/// One segment: its key, up to five symbols of 24 bits, and a byte with the key's kind (bit 7), the segment's
/// length less one (bits 3 to 6) and the number of symbols (bits 0 to 2; 0 in an empty entry).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
struct Entry {
    codes: [u64; 2],
    symbols: u128,
}

/// The segments of up to 16 characters that a thread has met.
#[derive(Debug)]
pub struct Cache {
    /// A power of two of them.
    entries: Zeroed<Entry>,
}

/// Where a segment is or would be, and the upper bits of its entry's last byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    index: u32,
    kind: u8,
}

impl Cache {
    /// A cache of so many bytes, or as many fewer as make it a power of two of entries; of one entry at least.
    pub fn new(bytes: usize) -> Self {
        let entries = 1 << (bytes.min(MAX_CACHE_BYTES) / size_of::<Entry>()).max(1).ilog2();
        // SAFETY: an entry of zeros is an empty one.
        Self { entries: unsafe { Zeroed::new(entries) } }
    }

    /// Where the segment of this key and length (1 to 16) is kept.
    #[inline(always)]
    pub fn slot(&self, key: &Key, len: usize) -> Slot {
        let kind = (u8::from(key.wide) << 7) | ((len as u8 - 1) << 3);
        let (a, b) = (key.codes[0] ^ 0x9E37_79B9_7F4A_7C15, key.codes[1] ^ 0xD6E8_FEB8_6659_FD93);
        let product = u128::from(a) * u128::from(b ^ u64::from(kind));
        let hash = (product >> 64) as u64 ^ product as u64;
        Slot { index: (hash >> 32) as u32 & (self.entries.len() - 1) as u32, kind }
    }

    /// Prefetches the entry.
    #[inline(always)]
    pub fn prefetch(&self, slot: Slot) {
        prefetch(self.entries.as_ptr().wrapping_add(slot.index as usize));
    }

    /// The symbols of a segment, 24 bits each from the lowest up, and their number.
    #[inline(always)]
    pub fn get(&self, key: &Key, slot: Slot) -> Option<(u128, usize)> {
        let entry = &self.entries[slot.index as usize];
        let last = (entry.symbols >> 120) as u8;
        let found = entry.codes == key.codes && last ^ slot.kind < 8 && last & 7 != 0;
        found.then_some((entry.symbols, usize::from(last & 7)))
    }

    /// Remembers a segment of up to [`MAX_SYMBOLS`] symbols.
    pub fn put(&mut self, key: &Key, slot: Slot, symbols: impl Iterator<Item = Symbol>) {
        let (mut packed, mut n) = (0, 0);
        for symbol in symbols.take(MAX_SYMBOLS) {
            packed |= u128::from(symbol) << (24 * n);
            n += 1;
        }
        packed |= (u128::from(slot.kind) | n as u128) << 120;
        self.entries[slot.index as usize] = Entry { codes: key.codes, symbols: packed };
    }
}

/// Longest segment that [`LongCache`] takes.
pub const MAX_LONG: usize = 48;
const LONG_ENTRIES: usize = 1 << 12;
const MAX_LONG_SYMBOLS: usize = 19;

/// Segments of 17 to 48 codes below 256: an indentation and the word after it, mostly. Half a megabyte.
#[derive(Debug)]
pub struct LongCache {
    entries: Zeroed<LongEntry>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
struct LongEntry {
    codes: LongKey,
    /// 0 in an empty entry.
    len: u16,
    n: u16,
    symbols: [Symbol; MAX_LONG_SYMBOLS],
}

/// The codes, zero after the last.
pub type LongKey = [u64; MAX_LONG / 8];

impl Default for LongCache {
    fn default() -> Self {
        // SAFETY: an entry of zeros is an empty one.
        Self { entries: unsafe { Zeroed::new(LONG_ENTRIES) } }
    }
}

impl LongCache {
    /// The key of a segment, if it has one.
    #[inline(always)]
    pub fn key(codes: &[u16; MAX_LONG], len: usize) -> Option<LongKey> {
        let mut bytes = [0; MAX_LONG];
        let mut high = 0;
        for (i, (byte, &code)) in bytes.iter_mut().zip(codes).enumerate() {
            let code = if i < len { code } else { 0 };
            *byte = code as u8;
            high |= code;
        }
        let words = bytes.as_chunks::<8>().0;
        (len <= MAX_LONG && high <= 0xFF).then(|| std::array::from_fn(|i| u64::from_le_bytes(words[i])))
    }

    #[inline(always)]
    fn index(key: &LongKey) -> usize {
        let mixed = key
            .iter()
            .fold(0u64, |hash, &word| (hash.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        (mixed >> 40) as usize & (LONG_ENTRIES - 1)
    }

    /// The symbols of a segment.
    #[inline(always)]
    pub fn get(&self, key: &LongKey, len: usize) -> Option<&[Symbol]> {
        let entry = &self.entries[Self::index(key)];
        let found = usize::from(entry.len) == len && entry.codes == *key;
        if found { entry.symbols.get(..entry.n.into()) } else { None }
    }

    /// Remembers a segment, if it has become few enough symbols.
    #[inline(always)]
    pub fn put(&mut self, key: &LongKey, len: usize, n: usize, symbols: impl Iterator<Item = Symbol>) {
        if n > MAX_LONG_SYMBOLS {
            return;
        }
        let entry = &mut self.entries[Self::index(key)];
        (entry.codes, entry.len, entry.n) = (*key, len as u16, n as u16);
        entry.symbols.iter_mut().zip(symbols).for_each(|(to, symbol)| *to = symbol);
    }
}
