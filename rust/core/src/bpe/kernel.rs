//! The inner loops, written twice: plainly, and for AVX2. Which one runs is chosen at run time; tests hold
//! the two together.
//!
//! The encoder is generic over [`Kernel`] and compiled once for each: its methods inline into a caller that
//! has the instructions switched on.

use std::mem::MaybeUninit;

use super::{
    codes::{SPACE, from_bmp},
    merges::{NO_RANK, SYMBOL_BITS, Symbol},
    pairs::{ONE_SCORE, PIECE, Pairs},
};

/// Bytes that are decoded at a time.
pub const CHUNK: usize = 64;
/// Bytes behind a chunk that may be read: what a character reaches beyond it, and what a vector load does.
pub const CHUNK_TAIL: usize = 16;
/// Where [`Kernel::compact`] writes.
pub type Room = [MaybeUninit<Symbol>; 72];
/// Symbols that [`Kernel::best`] looks through.
pub const RUN: usize = 64;

const SPACE_MARK: u16 = 0x2581;

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

    /// Looks the first `n` of 64 neighbour pairs up (the last one with `codes[64]`), or some more. Each place of
    /// `tokens` gets what its pair becomes if that is a piece, else the character's own symbol.
    fn link(pairs: &Pairs, codes: &[u16; 65], n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks;

    /// Copies the tokens whose bit is set in `keep` to the front of `out`, and says whether one of the copied
    /// ones is at least `vocab`. May scribble on what follows in `out`.
    fn compact(tokens: &[Symbol; 64], keep: u64, vocab: u32, out: &mut Room) -> bool;

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
    fn link(pairs: &Pairs, codes: &[u16; 65], n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks {
        let mut masks = LinkMasks::default();
        let mut left = pairs.char(codes[0]);
        for i in 0..n.min(64) {
            let right = pairs.char(codes[i + 1]);
            let entry = pairs.entry(left, right);
            let linked = Pairs::matches(entry, right);
            let piece = linked && entry & PIECE != 0;
            let word = if piece { entry } else { left };
            tokens[i] = word as u32 & ((1 << SYMBOL_BITS) - 1);
            masks.linked |= u64::from(linked) << i;
            masks.pieces |= u64::from(piece) << i;
            masks.mixed |= u64::from(linked && entry & ONE_SCORE == 0) << i;
            left = right;
        }
        masks
    }

    #[inline(always)]
    fn compact(tokens: &[Symbol; 64], mut keep: u64, vocab: u32, out: &mut Room) -> bool {
        let (mut n, mut beyond) = (0, false);
        while keep != 0 {
            let token = tokens[keep.trailing_zeros() as usize];
            out[n].write(token);
            n += 1;
            beyond |= token >= vocab;
            keep &= keep - 1;
        }
        beyond
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

    type Ranks<const V: usize> = PortableRanks<V>;
}

/// [`Ranks`] in an array.
#[derive(Debug)]
pub struct PortableRanks<const V: usize>([[u32; 8]; V]);

impl<const V: usize> Ranks for PortableRanks<V> {
    #[inline(always)]
    fn load(keys: &[u32; RUN]) -> Self {
        let rows = keys.as_chunks::<8>().0;
        Self(std::array::from_fn(|i| rows[i]))
    }

    #[inline(always)]
    fn best(&self) -> u32 {
        self.0.as_flattened().iter().copied().fold(NO_RANK, u32::min)
    }

    #[inline(always)]
    fn set(&mut self, at: usize, key: u32) {
        if let Some(place) = self.0.as_flattened_mut().get_mut(at) {
            *place = key;
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![allow(clippy::cast_ptr_alignment, reason = "only unaligned loads and stores are used")]

    use std::arch::x86_64::*;

    use super::*;

    /// The loops for AVX2, BMI and POPCNT. Whoever calls them has checked [`Avx2::is_available`] and sits in a
    /// function with these features switched on.
    #[derive(Debug)]
    pub struct Avx2;

    impl Avx2 {
        /// True if this processor has the instructions.
        pub fn is_available() -> bool {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        }
    }

    /// For each byte of start bits: the places of its set bits as 16-bit shuffle indices (0x80 in the upper byte
    /// makes the shuffle write zero there).
    static PLACES: [[u16; 8]; 256] = {
        let mut table = [[0x8000; 8]; 256];
        let mut mask = 0;
        while mask < 256 {
            let (mut n, mut bit) = (0, 0);
            while bit < 8 {
                if mask & (1 << bit) != 0 {
                    table[mask][n] = 0x8000 | bit;
                    n += 1;
                }
                bit += 1;
            }
            mask += 1;
        }
        table
    };

    /// For each byte of keep bits: the places of its set bits.
    static KEPT: [[u8; 8]; 256] = {
        let mut table = [[0; 8]; 256];
        let mut mask = 0;
        while mask < 256 {
            let mut n = 0;
            while n < 8 {
                table[mask][n] = (PLACES[mask][n] & 7) as u8;
                n += 1;
            }
            mask += 1;
        }
        table
    };

    /// Sixteen of all ones, then sixteen of zero: a load from 16 - n keeps the first n codes.
    static FIRST: [u16; 32] = {
        let mut table = [0; 32];
        let mut i = 0;
        while i < 16 {
            table[i] = u16::MAX;
            i += 1;
        }
        table
    };

    // SAFETY, for all blocks below: the instructions are there (see `Avx2`); every pointer comes from an array
    // whose type says how many bytes may be read or written, and what is accessed is stated at each block.
    impl Kernel for Avx2 {
        fn enter<R>(work: impl FnOnce() -> R) -> R {
            #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
            fn with_features<R>(work: impl FnOnce() -> R) -> R {
                work()
            }
            // SAFETY: the features are there.
            unsafe { with_features(work) }
        }

        #[inline(always)]
        fn starts(chunk: &[u8; CHUNK]) -> (u64, bool) {
            // SAFETY: two loads of 32 bytes from an array of 64.
            unsafe {
                let a = _mm256_loadu_si256(chunk.as_ptr().cast());
                let b = _mm256_loadu_si256(chunk.as_ptr().add(32).cast());
                let limit = _mm256_set1_epi8(-64);
                let inner_a = _mm256_movemask_epi8(_mm256_cmpgt_epi8(limit, a)) as u32;
                let inner_b = _mm256_movemask_epi8(_mm256_cmpgt_epi8(limit, b)) as u32;
                let astral = _mm256_set1_epi8(0xF0u8 as i8);
                let high = _mm256_max_epu8(a, b);
                let any = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(high, astral), high));
                (!(u64::from(inner_a) | (u64::from(inner_b) << 32)), any != 0)
            }
        }

        #[inline(always)]
        fn decode(chunk: &[u8; CHUNK + CHUNK_TAIL], starts: u64, out: &mut [u16; CHUNK]) {
            let source = chunk.as_ptr();
            let target = out.as_mut_ptr();
            // SAFETY: loads of 16 bytes at 0, 8, ..., 56 of 80; the store for the k-th eight bytes is 8 codes
            // wide and starts at most at 8 k (a byte starts at most one character), so it ends within 64.
            unsafe {
                // All bytes start characters: ASCII, unless the last one goes on behind the chunk.
                if starts == u64::MAX && chunk[CHUNK - 1] < 0x80 {
                    for i in [0, 16, 32, 48] {
                        let bytes = _mm_loadu_si128(source.add(i).cast());
                        _mm256_storeu_si256(target.add(i).cast(), _mm256_cvtepu8_epi16(bytes));
                    }
                    return;
                }
                let mut n = 0;
                for k in [0, 16, 32, 48] {
                    let low = (starts >> k) as usize & 0xFF;
                    let high = (starts >> (k + 8)) as usize & 0xFF;
                    let bytes = _mm256_loadu2_m128i(source.add(k + 8).cast(), source.add(k).cast());
                    let at = _mm256_loadu2_m128i(PLACES[high].as_ptr().cast(), PLACES[low].as_ptr().cast());
                    let one = _mm256_set1_epi16(1);
                    let first = _mm256_shuffle_epi8(bytes, at);
                    let at = _mm256_add_epi16(at, one);
                    let second = _mm256_shuffle_epi8(bytes, at);
                    let third = _mm256_shuffle_epi8(bytes, _mm256_add_epi16(at, one));
                    let six = _mm256_set1_epi16(0x3F);
                    let two = _mm256_or_si256(_mm256_slli_epi16(first, 6), _mm256_and_si256(second, six));
                    let three = _mm256_or_si256(_mm256_slli_epi16(two, 6), _mm256_and_si256(third, six));
                    let two = _mm256_and_si256(two, _mm256_set1_epi16(0x7FF));
                    let is_three = _mm256_cmpgt_epi16(first, _mm256_set1_epi16(0xDF));
                    let is_one = _mm256_cmpgt_epi16(_mm256_set1_epi16(0x80), first);
                    let code = _mm256_blendv_epi8(two, three, is_three);
                    let code = _mm256_blendv_epi8(code, first, is_one);
                    let space = _mm256_cmpeq_epi16(code, _mm256_set1_epi16(SPACE_MARK as i16));
                    let code = _mm256_blendv_epi8(code, _mm256_set1_epi16(SPACE as i16), space);
                    _mm_storeu_si128(target.add(n).cast(), _mm256_castsi256_si128(code));
                    n += low.count_ones() as usize;
                    _mm_storeu_si128(target.add(n).cast(), _mm256_extracti128_si256::<1>(code));
                    n += high.count_ones() as usize;
                }
            }
        }

        #[inline(always)]
        fn link(pairs: &Pairs, codes: &[u16; 65], n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks {
            let mut chars = [0u64; 65];
            let mut entries = [0u64; 64];
            let mut left = pairs.char(codes[0]);
            chars[0] = left;
            let n = n.min(64).next_multiple_of(8);
            for from in (0..n).step_by(8) {
                for i in from..from + 8 {
                    let right = pairs.char(codes[i + 1]);
                    chars[i + 1] = right;
                    entries[i] = pairs.entry(left, right);
                    left = right;
                }
            }
            let mut masks = LinkMasks::default();
            // SAFETY: for i up to 56: loads of 4 words at i and i + 4 of `entries` (64) and `chars` (65), the latter
            // also one further on; a store of 8 tokens at i of 64.
            unsafe {
                // Lower halves of eight words, and upper halves, each in the order 0 1 4 5 2 3 6 7.
                let halves = |from: *const u64| {
                    let a = _mm256_castsi256_ps(_mm256_loadu_si256(from.cast()));
                    let b = _mm256_castsi256_ps(_mm256_loadu_si256(from.add(4).cast()));
                    let low = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
                    let high = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
                    (low, high)
                };
                let in_order = |v| _mm256_permute4x64_epi64::<0b11_01_10_00>(v);
                let bits = |v| u64::from(_mm256_movemask_ps(_mm256_castsi256_ps(v)) as u32);
                let symbol = _mm256_set1_epi32((1 << SYMBOL_BITS) - 1);
                let zero = _mm256_setzero_si256();
                for i in (0..n).step_by(8) {
                    let (entry_low, entry_high) = halves(entries.as_ptr().add(i));
                    let (right_low, right_high) = halves(chars.as_ptr().add(i + 1));
                    let (left_low, _) = halves(chars.as_ptr().add(i));
                    // The column lies across the halves: 8 bits at the top of the lower, 8 at the bottom of the upper.
                    let low = _mm256_andnot_si256(symbol, _mm256_xor_si256(entry_low, right_low));
                    let high = _mm256_xor_si256(entry_high, right_high);
                    let high = _mm256_and_si256(high, _mm256_set1_epi32(0xFF));
                    let linked = _mm256_cmpeq_epi32(_mm256_or_si256(low, high), zero);
                    let flag = |bit: u64| _mm256_set1_epi32((bit >> 32) as i32);
                    let piece = _mm256_cmpeq_epi32(_mm256_and_si256(entry_high, flag(PIECE)), flag(PIECE));
                    let piece = _mm256_and_si256(piece, linked);
                    let one_score =
                        _mm256_cmpeq_epi32(_mm256_and_si256(entry_high, flag(ONE_SCORE)), flag(ONE_SCORE));
                    let mixed = _mm256_andnot_si256(one_score, linked);
                    let token = _mm256_and_si256(_mm256_blendv_epi8(left_low, entry_low, piece), symbol);
                    _mm256_storeu_si256(tokens.as_mut_ptr().add(i).cast(), in_order(token));
                    masks.linked |= bits(in_order(linked)) << i;
                    masks.pieces |= bits(in_order(piece)) << i;
                    masks.mixed |= bits(in_order(mixed)) << i;
                }
            }
            masks
        }

        #[inline(always)]
        fn compact(tokens: &[Symbol; 64], keep: u64, vocab: u32, out: &mut Room) -> bool {
            // SAFETY: for k up to 7: a load of 8 tokens at 8 k of 64, and a store of 8 at most at 8 k of 72.
            unsafe {
                let mut n = 0;
                // Symbols are below 2^24, so a signed comparison does.
                let limit = _mm256_set1_epi32(vocab as i32 - 1);
                let mut beyond = _mm256_setzero_si256();
                for k in 0..(64 - keep.leading_zeros() as usize).div_ceil(8) {
                    let mask = (keep >> (8 * k)) as usize & 0xFF;
                    let tokens = _mm256_loadu_si256(tokens.as_ptr().add(8 * k).cast());
                    let kept = _mm256_cvtepu8_epi32(_mm_loadl_epi64(KEPT[mask].as_ptr().cast()));
                    beyond = _mm256_or_si256(beyond, _mm256_cmpgt_epi32(tokens, limit));
                    let packed = _mm256_permutevar8x32_epi32(tokens, kept);
                    _mm256_storeu_si256(out.as_mut_ptr().add(n).cast(), packed);
                    n += mask.count_ones() as usize;
                }
                if _mm256_testz_si256(beyond, beyond) != 0 {
                    return false;
                }
            }
            let kept = |&(i, _): &(usize, _)| keep >> i & 1 != 0;
            tokens.iter().enumerate().filter(kept).any(|(_, &token)| token >= vocab)
        }

        #[inline(always)]
        fn key(codes: &[u16; 16], len: usize) -> Option<Key> {
            let len = len.min(16);
            // SAFETY: loads of 16 codes; from `FIRST` at 0 to 16 of 32.
            unsafe {
                let first = _mm256_loadu_si256(FIRST.as_ptr().add(16 - len).cast());
                let codes = _mm256_and_si256(_mm256_loadu_si256(codes.as_ptr().cast()), first);
                let low = _mm256_castsi256_si128(codes);
                let wide = _mm256_testz_si256(codes, _mm256_set1_epi16(0xFF00u16 as i16)) == 0;
                if wide && len > 8 {
                    return None;
                }
                let narrow = _mm_packus_epi16(low, _mm256_extracti128_si256::<1>(codes));
                let packed = if wide { low } else { narrow };
                let codes = [_mm_extract_epi64::<0>(packed) as u64, _mm_extract_epi64::<1>(packed) as u64];
                Some(Key { codes, wide })
            }
        }

        type Ranks<const V: usize> = Avx2Ranks<V>;
    }

    /// [`Ranks`] in registers.
    #[derive(Debug)]
    pub struct Avx2Ranks<const V: usize>([__m256i; V]);

    impl<const V: usize> Ranks for Avx2Ranks<V> {
        #[inline(always)]
        fn load(keys: &[u32; RUN]) -> Self {
            let rows = keys.as_chunks::<8>().0;
            // SAFETY: loads of 8 keys.
            Self(std::array::from_fn(|i| unsafe { _mm256_loadu_si256(rows[i].as_ptr().cast()) }))
        }

        #[inline(always)]
        fn best(&self) -> u32 {
            // SAFETY: no memory is touched.
            unsafe {
                let mut low = self.0[0];
                for &keys in &self.0[1..] {
                    low = _mm256_min_epu32(low, keys);
                }
                let low = _mm_min_epu32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
                let low = _mm_min_epu32(low, _mm_shuffle_epi32::<0b01_00_11_10>(low));
                let low = _mm_min_epu32(low, _mm_shuffle_epi32::<0b10_11_00_01>(low));
                _mm_cvtsi128_si32(low) as u32
            }
        }

        #[inline(always)]
        fn set(&mut self, at: usize, key: u32) {
            // SAFETY: no memory is touched.
            unsafe {
                let key = _mm256_set1_epi32(key as i32);
                let mut place =
                    _mm256_sub_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(at as i32));
                for keys in &mut self.0 {
                    let here = _mm256_cmpeq_epi32(place, _mm256_setzero_si256());
                    *keys = _mm256_blendv_epi8(*keys, key, here);
                    place = _mm256_add_epi32(place, _mm256_set1_epi32(8));
                }
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use rustc_hash::FxHashMap;

    use super::*;
    use crate::bpe::pairs::Link;

    /// A small generator: values below `n`.
    fn random(state: &mut u64, n: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % n
    }

    #[test]
    fn vector_and_plain_decoding_agree() {
        if !Avx2::is_available() {
            return;
        }
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
            assert_eq!(Avx2::starts(head), (starts, astral), "{text}");
            if !astral {
                let n = starts.count_ones() as usize;
                let (mut plain, mut vector) = ([0; CHUNK], [1; CHUNK]);
                Portable::decode(chunk, starts, &mut plain);
                Avx2::decode(chunk, starts, &mut vector);
                assert_eq!(plain[..n], vector[..n], "{text}");
            }
        }
    }

    #[test]
    fn vector_and_plain_links_agree() {
        if !Avx2::is_available() {
            return;
        }
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
            let masks = Portable::link(&pairs, &codes, 64, &mut plain);
            assert_eq!(Avx2::link(&pairs, &codes, 64, &mut vector), masks);
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

    #[test]
    fn vector_and_plain_small_loops_agree() {
        if !Avx2::is_available() {
            return;
        }
        let mut state = 3;
        for _ in 0..5000 {
            let tokens: [Symbol; 64] = std::array::from_fn(|_| random(&mut state, 1000) as u32);
            let keep = random(&mut state, 1 << 31) << 33 ^ random(&mut state, 1 << 31);
            let room = || [const { MaybeUninit::new(0) }; 72];
            let (mut plain, mut vector) = (room(), room());
            let beyond = Portable::compact(&tokens, keep, 998, &mut plain);
            assert_eq!(Avx2::compact(&tokens, keep, 998, &mut vector), beyond);
            for (plain, vector) in plain.iter().zip(&vector).take(keep.count_ones() as usize) {
                // SAFETY: all of the room was initialised.
                unsafe { assert_eq!(plain.assume_init(), vector.assume_init()) };
            }

            let top = if random(&mut state, 2) == 0 { 256 } else { 1 << 16 };
            let codes: [u16; 16] = std::array::from_fn(|_| random(&mut state, top) as u16);
            for len in 1..=16 {
                assert_eq!(Avx2::key(&codes, len), Portable::key(&codes, len), "{codes:?} {len}");
            }

            ranks_agree::<1>(&mut state);
            ranks_agree::<2>(&mut state);
            ranks_agree::<8>(&mut state);
        }
    }

    fn ranks_agree<const V: usize>(state: &mut u64) {
        let keys: [u32; RUN] = std::array::from_fn(|at| rank_key(random(state, 9) as u32, at));
        let mut plain = PortableRanks::<V>::load(&keys);
        let mut vector = avx2::Avx2Ranks::<V>::load(&keys);
        for _ in 0..10 {
            assert_eq!(plain.best(), vector.best());
            let at = random(state, 8 * V as u64 + 1) as usize;
            let key = rank_key((random(state, 9) as u32).wrapping_sub(1), at);
            plain.set(at, key);
            vector.set(at, key);
        }
    }
}
