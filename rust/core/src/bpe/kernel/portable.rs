//! The loops in plain Rust.

use super::loops::{CHUNK, CHUNK_TAIL, Kernel, Key, LinkMasks, MAX_POSITIONS, PairKeys, Room, WINDOW};
use crate::bpe::{
    symbol::{NO_RANK, Symbol},
    tables::{
        codes::from_bmp,
        pairs::{LookUps, ONE_SCORE, PIECE, Pairs, symbol_of},
    },
};

/// The plain loops.
#[derive(Debug)]
pub struct Portable;

impl Kernel for Portable {
    fn enter<R>(work: impl FnOnce() -> R) -> R {
        work()
    }

    fn starts(chunk: &[u8; CHUNK]) -> (u64, bool) {
        let mut starts = 0;
        for (i, &byte) in chunk.iter().enumerate() {
            starts |= u64::from(byte as i8 >= -64) << i;
        }
        (starts, chunk.iter().any(|&byte| byte >= 0xF0))
    }

    fn decode(chunk: &[u8; CHUNK + CHUNK_TAIL], mut starts: u64, out: &mut [u16; CHUNK]) {
        let mut n = 0;
        while starts != 0 {
            let at = starts.trailing_zeros() as usize;
            let [first, second, third] = [0, 1, 2].map(|i| u16::from(chunk[at + i]));
            let two = (first << 6) | (second & 0x3F);
            let code = match first {
                0..0x80 => first,
                0x80..0xE0 => two & 0x7FF,
                _ => (two << 6) | (third & 0x3F),
            };
            out[n] = from_bmp(code);
            n += 1;
            starts &= starts - 1;
        }
    }

    #[inline(always)]
    fn link(found: &LookUps, n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks {
        let mut masks = LinkMasks::default();
        for (i, token) in tokens.iter_mut().enumerate().take(n) {
            let [left, right] = [found.chars[i], found.chars[i + 1]];
            let entry = found.entries[i];
            let linked = Pairs::matches(entry, right);
            let piece = linked && entry & PIECE != 0;
            let word = if piece { entry } else { left };
            *token = symbol_of(word);
            masks.linked |= u64::from(linked) << i;
            masks.pieces |= u64::from(piece) << i;
            masks.mixed |= u64::from(linked && entry & ONE_SCORE == 0) << i;
        }
        masks
    }

    #[inline(always)]
    fn compact(tokens: &[Symbol; 64], mut keep: u64, vocab: u32, out: &mut Room) -> u64 {
        let (mut n, mut beyond) = (0, 0);
        while keep != 0 {
            let at = keep.trailing_zeros();
            let token = tokens[at as usize];
            out[n].write(token);
            n += 1;
            beyond |= u64::from(token >= vocab) << at;
            keep &= keep - 1;
        }
        beyond
    }

    #[inline(always)]
    fn positions(mut mask: u64, first: u32, out: &mut [u32; MAX_POSITIONS]) {
        for position in out {
            if mask == 0 {
                return;
            }
            *position = first + mask.trailing_zeros();
            mask &= mask - 1;
        }
    }

    #[inline(always)]
    fn key(codes: &[u16; 16], len: usize) -> Option<Key> {
        let wide = codes[..len].iter().any(|&code| code > 0xFF);
        let width = if wide { 16 } else { 8 };
        if len * width > 128 {
            return None;
        }
        let mut packed = 0u128;
        for (i, &code) in codes[..len].iter().enumerate() {
            packed |= u128::from(code) << (i * width);
        }
        Some(Key { codes: [packed as u64, (packed >> 64) as u64], wide })
    }

    type Keys<const V: usize> = PortableKeys<V>;
}

/// [`PairKeys`] in an array.
#[derive(Debug)]
pub struct PortableKeys<const V: usize>([[u32; 8]; V]);

impl<const V: usize> PairKeys for PortableKeys<V> {
    #[inline(always)]
    fn load(keys: &[u32; WINDOW]) -> Self {
        let rows = keys.as_chunks::<8>().0;
        Self(std::array::from_fn(|i| rows[i]))
    }

    #[inline(always)]
    fn best(&self) -> u32 {
        self.0.as_flattened().iter().copied().fold(NO_RANK, u32::min)
    }

    #[inline(always)]
    fn set(&mut self, at: usize, key: u32) {
        if let Some(old) = self.0.as_flattened_mut().get_mut(at) {
            *old = key;
        }
    }
}
