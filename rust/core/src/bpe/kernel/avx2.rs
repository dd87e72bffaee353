//! The loops for AVX2.

use std::arch::x86_64::*;

use super::{
    loops::{CHUNK, CHUNK_TAIL, Kernel, Key, LinkMasks, MAX_POSITIONS, PairKeys, Room, WINDOW},
    portable::Portable,
};
use crate::bpe::{
    symbol::{SYMBOL_BITS, Symbol},
    tables::{
        codes::{SPACE, SPACE_MARK},
        pairs::{COLUMN_MASK, LookUps, ONE_SCORE, PIECE},
    },
};

/// The loops for AVX2, BMI and POPCNT. Whoever calls them has checked [`Avx2::is_available`] and is in a
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
            // All bytes start characters: ASCII, unless the last one reaches beyond the chunk.
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
    fn link(found: &LookUps, n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks {
        let LookUps { chars, entries } = found;
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
            let column = _mm256_set1_epi32(COLUMN_MASK as i32);
            let zero = _mm256_setzero_si256();
            for i in (0..n.min(64)).step_by(8) {
                let (entry_low, entry_high) = halves(entries.as_ptr().add(i));
                let (right_low, _) = halves(chars.as_ptr().add(i + 1));
                let (left_low, left_high) = halves(chars.as_ptr().add(i));
                let other = _mm256_and_si256(_mm256_xor_si256(entry_low, right_low), column);
                let linked = _mm256_cmpeq_epi32(other, zero);
                let flag = |bit: u64| _mm256_set1_epi32((bit >> 32) as i32);
                let piece = _mm256_cmpeq_epi32(_mm256_and_si256(entry_high, flag(PIECE)), flag(PIECE));
                let piece = _mm256_and_si256(piece, linked);
                let one_score =
                    _mm256_cmpeq_epi32(_mm256_and_si256(entry_high, flag(ONE_SCORE)), flag(ONE_SCORE));
                let mixed = _mm256_andnot_si256(one_score, linked);
                // The symbol lies across the halves: 16 bits at the top of the lower, 8 at the bottom of the upper.
                let low = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(left_low, entry_low, piece));
                let high = _mm256_slli_epi32::<16>(_mm256_blendv_epi8(left_high, entry_high, piece));
                let token = _mm256_or_si256(low, _mm256_and_si256(high, symbol));
                _mm256_storeu_si256(tokens.as_mut_ptr().add(i).cast(), in_order(token));
                masks.linked |= bits(in_order(linked)) << i;
                masks.pieces |= bits(in_order(piece)) << i;
                masks.mixed |= bits(in_order(mixed)) << i;
            }
        }
        masks
    }

    #[inline(always)]
    fn compact(tokens: &[Symbol; 64], keep: u64, vocab: u32, out: &mut Room) -> u64 {
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
                return 0;
            }
        }
        let beyond = |(i, &token): (usize, &Symbol)| u64::from(token >= vocab) << i;
        keep & tokens.iter().enumerate().map(beyond).fold(0, |all, one| all | one)
    }

    #[inline(always)]
    fn positions(mask: u64, first: u32, out: &mut [u32; MAX_POSITIONS]) {
        Portable::positions(mask, first, out);
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

    type Keys<const V: usize> = Avx2Keys<V>;
}

/// [`PairKeys`] in registers.
#[derive(Debug)]
pub struct Avx2Keys<const V: usize>([__m256i; V]);

impl<const V: usize> PairKeys for Avx2Keys<V> {
    #[inline(always)]
    fn load(keys: &[u32; WINDOW]) -> Self {
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
