//! The inner loops, written plainly, for AVX2, and some for AVX-512. Which ones run is chosen at run time; tests
//! hold them together.
//!
//! The encoder is generic over [`Kernel`] and compiled once for each: its methods inline into a caller that
//! has the instructions switched on.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Portable;

use std::mem::MaybeUninit;

use super::{
    merges::{NO_RANK, Symbol},
    pairs::LookUps,
};

/// Bytes that are decoded at a time.
pub const CHUNK: usize = 64;
/// Bytes behind a chunk that may be read: what a character reaches beyond it, and what a vector load does.
pub const CHUNK_TAIL: usize = 16;
/// Symbols for which [`Kernel::compact`] needs room.
pub const ROOM: usize = 72;
/// Where it writes.
pub type Room = [MaybeUninit<Symbol>; ROOM];
/// Room for the places of the segments of three characters that start among 64.
pub const MAX_PLACES: usize = 32;
/// Symbols of the longest run that is merged in registers.
pub const RUN: usize = 64;

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
    /// The codes, zero behind the last.
    pub codes: [u64; 2],
    /// True for two bytes a code.
    pub wide: bool,
}

/// The loops that are worth vector instructions.
pub trait Kernel {
    /// Runs `work` with the kernel's instructions switched on, which is what the other methods need to be worth
    /// anything. `work` and what it calls must be `#[inline(always)]` down to them.
    fn enter<R>(work: impl FnOnce() -> R) -> R;

    /// Bits of the bytes that start a character, and whether one of them starts an astral one.
    fn starts(chunk: &[u8; CHUNK]) -> (u64, bool);

    /// Writes the codes of the characters that `starts` marks, none of which is astral.
    fn decode(chunk: &[u8; CHUNK + CHUNK_TAIL], starts: u64, out: &mut [u16; CHUNK]);

    /// What the look-ups of the first `n` of 64 neighbour pairs say, or of some more. Each place of `tokens` gets what
    /// its pair becomes if that is a piece, else the character's own symbol.
    fn link(found: &LookUps, n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks;

    /// Copies the tokens whose bit is set in `keep` to the front of `out`, and returns the bits of those that are at
    /// least `vocab`. May scribble on what follows in `out`.
    fn compact(tokens: &[Symbol; 64], keep: u64, vocab: u32, out: &mut Room) -> u64;

    /// Writes `first` plus the place of each bit of `mask`, [`MAX_PLACES`] at most, to the front of `out`. May scribble on
    /// what follows.
    fn places(mask: u64, first: u32, out: &mut [u32; MAX_PLACES]);

    /// The key of the segment that is the first `len` (1 to 16) codes, if it has one.
    fn key(codes: &[u16; 16], len: usize) -> Option<Key>;

    /// Ranks of up to 8 `V` pairs.
    type Ranks<const V: usize>: Ranks;
}

/// The ranks of neighbouring pairs while a run is merged, in registers where there are such: written one by one
/// and read all at once, they would wait for each other in memory.
///
/// A pair's key is its rank and, in the lowest bits, its place; so the least key is the leftmost of the best.
pub trait Ranks {
    /// Takes the keys of a run.
    fn load(keys: &[u32; RUN]) -> Self;

    /// The least key, [`NO_RANK`] if no pair merges.
    fn best(&self) -> u32;

    /// Replaces the key at a place. The run's last symbol starts no pair; its place may lie beyond the keys, and
    /// is ignored.
    fn set(&mut self, at: usize, key: u32);
}

/// The key of a pair.
#[inline(always)]
pub fn rank_key(rank: u32, at: usize) -> u32 {
    // Ranks of pieces are below 2^24.
    if rank == NO_RANK { NO_RANK } else { rank << RUN.trailing_zeros() | at as u32 }
}

#[cfg(all(test, target_arch = "x86_64"))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rustc_hash::FxHashMap;

    use super::{portable::PortableRanks, *};
    use crate::bpe::pairs::{Link, Pairs};

    /// A small generator: values below `n`.
    fn random(state: &mut u64, n: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % n
    }

    #[test]
    fn vector_and_plain_loops_agree() {
        if Avx2::is_available() {
            decoding_agrees::<Avx2>();
            links_agree::<Avx2>();
            small_loops_agree::<Avx2>();
        }
        if Avx512::is_available() {
            decoding_agrees::<Avx512>();
            links_agree::<Avx512>();
            small_loops_agree::<Avx512>();
        }
    }

    fn decoding_agrees<K: Kernel>() {
        let mut state = 1;
        for round in 0..5000 {
            let mut text = String::new();
            while text.len() < CHUNK + CHUNK_TAIL + 4 {
                let pool = ["a", " ", "é", "中", "▁", "\0", "\u{7FF}", "\u{800}", "\u{FFFF}", "😀"];
                // Some rounds of ASCII only, some of Han only, some without astral characters.
                let which = match round % 4 {
                    0 => random(&mut state, 2),
                    1 => 3,
                    2 => random(&mut state, 9),
                    _ => random(&mut state, 10),
                };
                text.push_str(pool[which as usize]);
            }
            let from = random(&mut state, 4) as usize;
            let chunk: &[u8; CHUNK + CHUNK_TAIL] = text.as_bytes()[from..].first_chunk().unwrap();
            let head = chunk.first_chunk().unwrap();
            let (starts, astral) = Portable::starts(head);
            assert_eq!(K::starts(head), (starts, astral), "{text}");
            if !astral {
                let n = starts.count_ones() as usize;
                let (mut plain, mut vector) = ([0; CHUNK], [1; CHUNK]);
                Portable::decode(chunk, starts, &mut plain);
                K::decode(chunk, starts, &mut vector);
                assert_eq!(plain[..n], vector[..n], "{text}");
            }
        }
    }

    fn links_agree<K: Kernel>() {
        let mut state = 2;
        let mut links = FxHashMap::default();
        for i in 0..2000 {
            let pair = (random(&mut state, 90) as u16, (random(&mut state, 90) * 700) as u16);
            let piece = (random(&mut state, 2) == 0).then_some(i * 8000);
            links.insert(pair, Link { piece, one_score: random(&mut state, 3) == 0 });
        }
        let symbols: Box<[Symbol]> = (0..1 << 16).map(|code| code * 255).collect();
        let pairs = Pairs::new(symbols[..].try_into().unwrap(), &links).unwrap();
        for _ in 0..1000 {
            let codes: [u16; 65] = std::array::from_fn(|_| {
                let code = random(&mut state, 90) as u16;
                if random(&mut state, 2) == 0 { code } else { code * 700 }
            });
            let (mut plain, mut vector) = ([0; 64], [1; 64]);
            let mut room = LookUps::default();
            pairs.look_up(&codes, 64, &mut room);
            let masks = Portable::link(&room, 64, &mut plain);
            assert_eq!(K::link(&room, 64, &mut vector), masks);
            assert_eq!(plain, vector);
            for i in 0..64 {
                let link = links.get(&(codes[i], codes[i + 1]));
                assert_eq!(masks.linked >> i & 1 == 1, link.is_some());
                assert_eq!(masks.mixed >> i & 1 == 1, link.is_some_and(|link| !link.one_score));
                let piece = link.and_then(|link| link.piece);
                assert_eq!(masks.pieces >> i & 1 == 1, piece.is_some());
                assert_eq!(plain[i], piece.unwrap_or(symbols[usize::from(codes[i])]));
            }
        }
    }

    fn small_loops_agree<K: Kernel>() {
        let mut state = 3;
        for _ in 0..5000 {
            let tokens: [Symbol; 64] = std::array::from_fn(|_| random(&mut state, 1000) as u32);
            let keep = random(&mut state, 1 << 31) << 33 ^ random(&mut state, 1 << 31);
            let room = || [const { MaybeUninit::new(0) }; ROOM];
            let (mut plain, mut vector) = (room(), room());
            let beyond = Portable::compact(&tokens, keep, 998, &mut plain);
            assert_eq!(K::compact(&tokens, keep, 998, &mut vector), beyond);
            for (plain, vector) in plain.iter().zip(&vector).take(keep.count_ones() as usize) {
                // SAFETY: all of the room was initialised.
                unsafe { assert_eq!(plain.assume_init(), vector.assume_init()) };
            }

            // No two bits within three places, as with segments of three characters.
            let mask = keep & !(keep << 1) & !(keep << 2);
            let (mut plain, mut vector) = ([0; MAX_PLACES], [1; MAX_PLACES]);
            Portable::places(mask, 640, &mut plain);
            K::places(mask, 640, &mut vector);
            let n = mask.count_ones() as usize;
            assert_eq!(plain[..n], vector[..n]);

            let top = if random(&mut state, 2) == 0 { 256 } else { 1 << 16 };
            let codes: [u16; 16] = std::array::from_fn(|_| random(&mut state, top) as u16);
            for len in 1..=16 {
                assert_eq!(K::key(&codes, len), Portable::key(&codes, len), "{codes:?} {len}");
            }

            ranks_agree::<K, 1>(&mut state);
            ranks_agree::<K, 2>(&mut state);
            ranks_agree::<K, 8>(&mut state);
        }
    }

    fn ranks_agree<K: Kernel, const V: usize>(state: &mut u64) {
        let keys: [u32; RUN] = std::array::from_fn(|at| rank_key(random(state, 9) as u32, at));
        let mut plain = PortableRanks::<V>::load(&keys);
        let mut vector = K::Ranks::<V>::load(&keys);
        for _ in 0..10 {
            assert_eq!(plain.best(), vector.best());
            let at = random(state, 8 * V as u64 + 1) as usize;
            let key = rank_key((random(state, 9) as u32).wrapping_sub(1), at);
            plain.set(at, key);
            vector.set(at, key);
        }
    }
}
