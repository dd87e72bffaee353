//! The vector loops give what the plain ones give.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::mem::MaybeUninit;

use rustc_hash::FxHashMap;

use super::{loops::*, portable::PortableKeys, *};
use crate::bpe::{
    symbol::Symbol,
    tables::pairs::{Link, LookUps, Pairs},
};

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
        let (mut plain, mut vector) = ([0; MAX_POSITIONS], [1; MAX_POSITIONS]);
        Portable::positions(mask, 640, &mut plain);
        K::positions(mask, 640, &mut vector);
        let n = mask.count_ones() as usize;
        assert_eq!(plain[..n], vector[..n]);

        let top = if random(&mut state, 2) == 0 { 256 } else { 1 << 16 };
        let codes: [u16; 16] = std::array::from_fn(|_| random(&mut state, top) as u16);
        for len in 1..=16 {
            assert_eq!(K::key(&codes, len), Portable::key(&codes, len), "{codes:?} {len}");
        }

        keys_agree::<K, 1>(&mut state);
        keys_agree::<K, 2>(&mut state);
        keys_agree::<K, 8>(&mut state);
    }
}

fn keys_agree<K: Kernel, const V: usize>(state: &mut u64) {
    let keys: [u32; WINDOW] = std::array::from_fn(|at| pair_key(random(state, 9) as u32, at));
    let mut plain = PortableKeys::<V>::load(&keys);
    let mut vector = K::Keys::<V>::load(&keys);
    for _ in 0..10 {
        assert_eq!(plain.best(), vector.best());
        let at = random(state, 8 * V as u64 + 1) as usize;
        let key = pair_key((random(state, 9) as u32).wrapping_sub(1), at);
        plain.set(at, key);
        vector.set(at, key);
    }
}
