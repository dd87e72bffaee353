//! The loops for AVX-512, where it does more than AVX2 in twice the width: comparisons that give bit masks, and
//! packing by one.

use std::arch::x86_64::*;

use super::{
    avx2::{Avx2, Avx2Keys},
    loops::{CHUNK, CHUNK_TAIL, Kernel, Key, LinkMasks, MAX_POSITIONS, Room},
};
use crate::bpe::{
    symbol::{SYMBOL_BITS, Symbol},
    tables::{
        codes::{SPACE, SPACE_MARK},
        pairs::{COLUMN_MASK, LookUps, ONE_SCORE, PIECE, SYMBOL_SHIFT},
    },
};

/// The loops for AVX-512 (F, BW, VL and VBMI2) in addition to what [`Avx2`] needs. Whoever calls them has checked
/// [`Avx512::is_available`] and is in a function with these features switched on.
#[derive(Debug)]
pub struct Avx512;

impl Avx512 {
    /// True if this processor has the instructions.
    pub fn is_available() -> bool {
        Avx2::is_available()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi2")
    }
}

/// 0 to 63.
static NUMBERS: [u8; 64] = {
    let mut numbers = [0; 64];
    let mut i = 0;
    while i < 64 {
        numbers[i] = i as u8;
        i += 1;
    }
    numbers
};

/// The codes of 32 characters of up to three bytes.
///
/// # Safety
/// As for all of [`Avx512`].
#[inline(always)]
unsafe fn codes(first: __m256i, second: __m256i, third: __m256i) -> __m512i {
    // SAFETY: no memory is touched.
    unsafe {
        let first = _mm512_cvtepu8_epi16(first);
        let second = _mm512_cvtepu8_epi16(second);
        let third = _mm512_cvtepu8_epi16(third);
        let six = _mm512_set1_epi16(0x3F);
        let two = _mm512_or_si512(_mm512_slli_epi16::<6>(first), _mm512_and_si512(second, six));
        let three = _mm512_or_si512(_mm512_slli_epi16::<6>(two), _mm512_and_si512(third, six));
        let two = _mm512_and_si512(two, _mm512_set1_epi16(0x7FF));
        let is_three = _mm512_cmpgt_epi16_mask(first, _mm512_set1_epi16(0xDF));
        let is_one = _mm512_cmplt_epi16_mask(first, _mm512_set1_epi16(0x80));
        let code = _mm512_mask_blend_epi16(is_three, two, three);
        let code = _mm512_mask_blend_epi16(is_one, code, first);
        let space = _mm512_cmpeq_epi16_mask(code, _mm512_set1_epi16(SPACE_MARK as i16));
        _mm512_mask_blend_epi16(space, code, _mm512_set1_epi16(SPACE as i16))
    }
}

// SAFETY, for all blocks below: the instructions are there (see `Avx512`); every pointer comes from an array
// whose type says how many bytes may be read or written, and what is accessed is stated at each block.
impl Kernel for Avx512 {
    fn enter<R>(work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512vbmi2")]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: the features are there.
        unsafe { with_features(work) }
    }

    #[inline(always)]
    fn starts(chunk: &[u8; CHUNK]) -> (u64, bool) {
        Avx2::starts(chunk)
    }

    #[inline(always)]
    fn decode(chunk: &[u8; CHUNK + CHUNK_TAIL], starts: u64, out: &mut [u16; CHUNK]) {
        // SAFETY: loads of 64 bytes at 0, 1 and 2 of 80; stores of 32 codes at 0 and 32 of 64.
        unsafe {
            // Of each character the byte that starts it and the two after it, packed.
            let first = _mm512_maskz_compress_epi8(starts, _mm512_loadu_epi8(chunk.as_ptr().cast()));
            let second = _mm512_maskz_compress_epi8(starts, _mm512_loadu_epi8(chunk.as_ptr().add(1).cast()));
            let third = _mm512_maskz_compress_epi8(starts, _mm512_loadu_epi8(chunk.as_ptr().add(2).cast()));
            let low = codes(
                _mm512_castsi512_si256(first),
                _mm512_castsi512_si256(second),
                _mm512_castsi512_si256(third),
            );
            _mm512_storeu_epi16(out.as_mut_ptr().cast(), low);
            if starts.count_ones() > 32 {
                let high = codes(
                    _mm512_extracti64x4_epi64::<1>(first),
                    _mm512_extracti64x4_epi64::<1>(second),
                    _mm512_extracti64x4_epi64::<1>(third),
                );
                _mm512_storeu_epi16(out.as_mut_ptr().add(32).cast(), high);
            }
        }
    }

    #[inline(always)]
    fn link(found: &LookUps, n: usize, tokens: &mut [Symbol; 64]) -> LinkMasks {
        let LookUps { chars, entries } = found;
        let mut masks = LinkMasks::default();
        // SAFETY: for i up to 56: loads of 8 words at i of `entries` (64) and at i and i + 1 of `chars` (65); a store
        // of 8 tokens at i of 64.
        unsafe {
            let column = _mm512_set1_epi64(COLUMN_MASK as i64);
            let symbol = _mm512_set1_epi64((1 << SYMBOL_BITS) - 1);
            let (is_piece, is_one_score) =
                (_mm512_set1_epi64(PIECE as i64), _mm512_set1_epi64(ONE_SCORE as i64));
            for i in (0..n.min(64)).step_by(8) {
                let entry = _mm512_loadu_epi64(entries.as_ptr().add(i).cast());
                let left = _mm512_loadu_epi64(chars.as_ptr().add(i).cast());
                let right = _mm512_loadu_epi64(chars.as_ptr().add(i + 1).cast());
                let linked = _mm512_testn_epi64_mask(_mm512_xor_si512(entry, right), column);
                let piece = _mm512_mask_test_epi64_mask(linked, entry, is_piece);
                let mixed = _mm512_mask_testn_epi64_mask(linked, entry, is_one_score);
                let token = _mm512_mask_blend_epi64(piece, left, entry);
                let token = _mm512_and_si512(_mm512_srli_epi64::<SYMBOL_SHIFT>(token), symbol);
                _mm256_storeu_epi32(tokens.as_mut_ptr().add(i).cast(), _mm512_cvtepi64_epi32(token));
                masks.linked |= u64::from(linked) << i;
                masks.pieces |= u64::from(piece) << i;
                masks.mixed |= u64::from(mixed) << i;
            }
        }
        masks
    }

    #[inline(always)]
    fn compact(tokens: &[Symbol; 64], keep: u64, vocab: u32, out: &mut Room) -> u64 {
        let (mut n, mut beyond) = (0, 0);
        // SAFETY: for k up to 3: a load of 16 tokens at 16 k of 64, and a store of 16 at most at 16 k of 72.
        unsafe {
            let limit = _mm512_set1_epi32(vocab as i32);
            for k in 0..(64 - keep.leading_zeros() as usize).div_ceil(16) {
                let mask = (keep >> (16 * k)) as u16;
                let tokens = _mm512_loadu_epi32(tokens.as_ptr().add(16 * k).cast());
                beyond |= u64::from(_mm512_mask_cmpge_epu32_mask(mask, tokens, limit)) << (16 * k);
                _mm512_storeu_epi32(
                    out.as_mut_ptr().add(n).cast(),
                    _mm512_maskz_compress_epi32(mask, tokens),
                );
                n += mask.count_ones() as usize;
            }
        }
        beyond
    }

    #[inline(always)]
    fn positions(mask: u64, first: u32, out: &mut [u32; MAX_POSITIONS]) {
        // SAFETY: a load of 64 bytes from an array of 64; stores of 16 places at 0 and 16 of 32.
        unsafe {
            let places = _mm512_maskz_compress_epi8(mask, _mm512_loadu_epi8(NUMBERS.as_ptr().cast()));
            let first = _mm512_set1_epi32(first as i32);
            let low = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(places));
            let high = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32::<1>(places));
            _mm512_storeu_epi32(out.as_mut_ptr().cast(), _mm512_add_epi32(low, first));
            _mm512_storeu_epi32(out.as_mut_ptr().add(16).cast(), _mm512_add_epi32(high, first));
        }
    }

    #[inline(always)]
    fn key(codes: &[u16; 16], len: usize) -> Option<Key> {
        Avx2::key(codes, len)
    }

    type Keys<const V: usize> = Avx2Keys<V>;
}
