//! The engine, the plain encoder and the oracle give the same ids, on models made to be hard.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{ALPHABETS, Random, Settings, model, random_model};
use proptest::prelude::*;
use zhuzi_core::{
    SpmModel, Text, Tokenizer,
    bpe::{Encoder, Route, Scratch, checks, oracle},
    spm::PieceKind::{self, Control, Normal, Unused, UserDefined},
};

/// All ways to encode a normalised text; `seen` keeps the caches between calls.
fn encode_every_way(model: &SpmModel, text: &str, seen: &mut Scratch, use_oracle: bool) {
    let plain = ids(&checks::plain_encoder(model).unwrap(), text, &mut Scratch::default());
    if use_oracle {
        assert_eq!(plain, oracle::encode(model, text), "plain against oracle: {text:?}");
    }
    let encoder = Encoder::new(model).unwrap();
    assert!(checks::uses_engine(&encoder));
    assert_eq!(ids(&encoder, text, &mut Scratch::default()), plain, "cold: {text:?}");
    assert_eq!(ids(&encoder, text, seen), plain, "warm: {text:?}");
    if encoder.route() != Route::Direct {
        return;
    }
    let with = |text: Text<'_>| {
        let (mut scratch, mut ids) = (Scratch::default(), Vec::new());
        encoder.encode_direct(false, text, &mut scratch, &mut ids);
        assert_eq!(ids, plain, "{text:?}");
        for (kernel, ids) in checks::encode_by_each_kernel(&encoder, text).into_iter().enumerate() {
            assert_eq!(ids, plain, "kernel {kernel}: {text:?}");
        }
    };
    with(Text::Utf8(text));
    with(Text::Utf8(&text.replace('▁', " ")));
    let wide: Vec<u32> = text.chars().map(u32::from).collect();
    with(Text::Ucs4(&wide));
    if let Ok(ucs2) = wide.iter().map(|&c| u16::try_from(c)).collect::<Result<Vec<_>, _>>() {
        with(Text::Ucs2(&ucs2));
    }
    if let Ok(latin1) = wide.iter().map(|&c| u8::try_from(c)).collect::<Result<Vec<_>, _>>() {
        with(Text::Latin1(&latin1));
    }
}

fn ids(encoder: &Encoder, text: &str, scratch: &mut Scratch) -> Vec<u32> {
    let mut out = Vec::new();
    encoder.encode(text, true, scratch, &mut out);
    out
}

fn text_over(random: &mut Random, alphabet: &[char], longest: usize) -> String {
    let mut letters = alphabet.to_vec();
    // Characters that no piece holds.
    letters.extend(['z', 'ÿ', '龘', '🎉', '\u{10FFFF}'].iter().take(random.below(6)));
    match random.below(4) {
        0 => {
            let unit = random.string(&letters, 1, 12);
            unit.repeat(random.below(longest / unit.chars().count() + 1))
        }
        1 => random.string(alphabet, 0, longest),
        _ => random.string(&letters, 0, longest),
    }
}

fn seeds(round: u64, models: u64, kinds: &[PieceKind], longest: usize, use_oracle: bool) {
    for seed in 1..=models {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ round);
        let alphabet = *random.pick(&ALPHABETS);
        let settings = Settings { byte_fallback: random.below(2) == 0, ..Settings::default() };
        let model = random_model(&mut random, alphabet, settings, kinds);
        let mut seen = Scratch::default();
        for _ in 0..6 {
            let text = text_over(&mut random, alphabet, longest);
            encode_every_way(&model, &text, &mut seen, use_oracle);
        }
    }
}

#[test]
fn short_texts_of_normal_pieces() {
    seeds(1, 400, &[Normal], 40, true);
}

#[test]
fn short_texts_of_all_kinds() {
    seeds(2, 200, &[Normal, Normal, Normal, UserDefined], 40, true);
    seeds(3, 200, &[Normal, Normal, Normal, Control], 40, true);
    seeds(4, 200, &[Normal, Normal, Normal, Unused, UserDefined], 40, true);
}

#[test]
fn texts_over_several_words() {
    seeds(5, 100, &[Normal], 200, true);
}

/// Blocks, windows and periods are joined right; the oracle would take too long here.
#[test]
fn texts_over_several_blocks() {
    seeds(6, 150, &[Normal], 7000, false);
    seeds(7, 40, &[Normal, Normal, Normal, Normal, UserDefined], 7000, false);
    seeds(8, 80, &[Normal, Normal, Normal, Unused, UserDefined], 7000, false);
}

/// Where the window's end decides about what is far before it, windows must grow.
#[test]
fn chains_of_merges_that_run_leftward() {
    // `ab` before `ba`, but `bc` before both: an end decides which way a whole run of a and b pairs up.
    let letters = ['a', 'b', 'c'];
    for seed in 1..60 {
        let mut random = Random(seed * 7919);
        let mut pieces = Vec::new();
        for (i, pair) in ["ab", "ba", "bc", "aa", "bb", "abab", "baba", "ca"].iter().enumerate() {
            if random.below(4) > 0 {
                pieces.push(((*pair).to_string(), random.below(5) as f32 - i as f32 / 9.0, Normal));
            }
        }
        if pieces.is_empty() {
            continue;
        }
        let model = model(&pieces, Settings { byte_fallback: true, ..Settings::default() });
        let unit = random.string(&letters, 1, 6);
        let text = format!("{}{}{}", unit.repeat(300), random.string(&letters, 1, 9), unit.repeat(900));
        encode_every_way(&model, &text, &mut Scratch::default(), false);
    }
}

/// The same over thousands of characters: each pair of neighbours merges before the one to its left, so that from the end
/// every second one merges, back to where the alphabet begins again.
#[test]
fn chains_of_merges_longer_than_what_is_encoded_again() {
    for n in [5245, 5400, 5601] {
        let letters: Vec<char> = ('\u{4E00}'..).take(n).collect();
        let pair = |i: usize| (String::from_iter([letters[i], letters[(i + 1) % n]]), (i + 1) as f32, Normal);
        let mut pieces: Vec<_> = (0..n).map(pair).collect();
        pieces[n - 1].1 = 0.0;
        let model = model(&pieces, Settings::default());
        for more in [0, 1, 3001] {
            let text = String::from_iter(letters.iter().cycle().take(30 * n + more));
            encode_every_way(&model, &text, &mut Scratch::default(), false);
        }
    }
}

#[test]
fn a_model_has_the_shortest_route_that_is_valid() {
    let route = |kind, text: &str, trims| {
        let pieces = [("a".to_string(), -1.0, Normal), (text.to_string(), 0.0, kind)];
        let model = model(&pieces, Settings { trims, ..Settings::default() });
        Encoder::new(&model).unwrap().route()
    };
    assert_eq!(route(Normal, "a▁a", false), Route::Direct);
    assert_eq!(route(Normal, "a▁a", true), Route::KeepSpaces);
    assert_eq!(route(UserDefined, "ab", false), Route::KeepSpaces);
    assert_eq!(route(UserDefined, "a▁b", false), Route::Normalize);
    assert_eq!(route(UserDefined, "a b", true), Route::Normalize);
    assert_eq!(checks::plain_encoder(&model(&[], Settings::default())).unwrap().route(), Route::Normalize);
}

#[test]
fn bytes_are_text_whatever_they_are() {
    let pieces = [("▁", -1.0), ("a", -2.0), ("▁a", 0.0), ("\u{FFFD}", -3.0), ("a\u{FFFD}", -0.5)]
        .map(|(text, score)| (text.to_string(), score, Normal));
    let settings = Settings { byte_fallback: true, dummy_prefix: true, trims: false };
    let model = model(&pieces, settings);
    let tokenizer = Tokenizer::new(&model, &[]).unwrap();
    let mut random = Random(5);
    for _ in 0..400 {
        let text: Vec<u8> = (0..random.below(200))
            .map(|_| *random.pick(&[b'a', b' ', 0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0xC3, 0]))
            .collect();
        let mut normalized = String::new();
        if !text.is_empty() {
            normalized.push('▁');
        }
        for chunk in text.utf8_chunks() {
            normalized.push_str(&chunk.valid().replace(' ', "▁"));
            chunk.invalid().iter().for_each(|_| normalized.push('\u{FFFD}'));
        }
        assert_eq!(tokenizer.encode(&text), oracle::encode(&model, &normalized), "{text:?}");
    }
}

/// Where unknown characters fuse, a long document must not be cut between them.
#[test]
fn long_documents_of_unknown_characters_are_cut_right() {
    let pieces =
        [("a", -1.0), ("▁", -2.0), ("aa", -1.5)].map(|(text, score)| (text.to_string(), score, Normal));
    let settings = Settings { dummy_prefix: true, ..Settings::default() };
    let tokenizer = Tokenizer::new(&model(&pieces, settings), &[]).unwrap();
    let mut random = Random(3);
    let text: String = (0..1_500_000).map(|_| *random.pick(&['a', '中', '国', ' ', '😀'])).collect();
    assert!(tokenizer.encode_batch(&[&text], 4).ids == tokenizer.encode(&text));
    let unknown = "中".repeat(1_000_000);
    assert_eq!(tokenizer.encode_batch(&[&unknown], 4).ids, tokenizer.encode(&unknown));
}

/// Pieces that are looked for first must not be cut, nor what is rewritten be cut before it is.
#[test]
fn long_documents_of_models_that_rewrite_are_cut_right() {
    for seed in 1..=24 {
        let mut random = Random(seed * 77);
        let alphabet = ALPHABETS[seed as usize % ALPHABETS.len()];
        let settings =
            Settings { byte_fallback: seed % 2 == 0, dummy_prefix: seed % 3 > 0, trims: seed % 4 > 1 };
        let kinds: &[PieceKind] = match seed % 5 {
            0 => &[Normal],
            1 | 2 => &[Normal, Normal, Unused],
            _ => &[Normal, Normal, UserDefined],
        };
        let model = random_model(&mut random, alphabet, settings, kinds);
        let tokenizer = Tokenizer::new(&model, &[]).unwrap();
        let mut text = String::new();
        while text.len() < 400_000 {
            text.push_str(&text_over(&mut random, alphabet, 300));
        }
        assert!(tokenizer.encode_batch(&[&text], 3).ids == tokenizer.encode(&text), "seed {seed}");
    }
}

#[test]
fn batches_do_not_depend_on_the_number_of_threads() {
    for (seed, byte_fallback, dummy_prefix) in [(11, true, true), (12, false, true), (13, false, false)] {
        let settings = Settings { byte_fallback, dummy_prefix, trims: false };
        batches_agree(&mut Random(seed), settings);
    }
}

fn batches_agree(random: &mut Random, settings: Settings) {
    let model = random_model(random, ALPHABETS[5], settings, &[Normal]);
    let tokenizer = Tokenizer::new(&model, &[]).unwrap();
    let mut texts: Vec<String> = (0..3000).map(|_| text_over(random, ALPHABETS[5], 400)).collect();
    texts.push("中国ab\n▁c".repeat(200_000));
    texts.push("ab".repeat(900_000));
    let one = tokenizer.encode_batch(&texts, 1);
    for (i, text) in texts.iter().enumerate() {
        let (start, end) = (one.offsets[i] as usize, one.offsets[i + 1] as usize);
        assert_eq!(one.ids[start..end], tokenizer.encode(text), "document {i}");
    }
    for threads in [2, 3, 8] {
        assert!(tokenizer.encode_batch(&texts, threads) == one, "{threads} threads");
    }
    assert_eq!(tokenizer.encode_batch::<String>(&[], 4).offsets, [0]);
    let all = texts.concat();
    assert!(tokenizer.encode_batch(&[&all], 3).ids == tokenizer.encode(&all));
}

/// More ids than there is room for at first: two for each text of one byte.
#[test]
fn a_batch_may_be_longer_than_expected() {
    let pieces = [("a", -1.0), ("▁", -2.0)].map(|(text, score)| (text.to_string(), score, Normal));
    let settings = Settings { dummy_prefix: true, ..Settings::default() };
    let tokenizer = Tokenizer::new(&model(&pieces, settings), &[]).unwrap();
    let texts = vec!["a"; 1_000_000];
    let batch = tokenizer.encode_batch(&texts, 3);
    assert_eq!(batch, tokenizer.encode_batch(&texts, 1));
    assert!(batch.ids == tokenizer.encode("a").repeat(texts.len()));
    assert!(batch.offsets.iter().enumerate().all(|(i, &offset)| offset == 2 * i as i64));
    // A last task without ids follows those for which there was no room.
    let texts = [vec!["a"; 1 << 18], vec![""; 10]].concat();
    assert_eq!(tokenizer.encode_batch(&texts, 3), tokenizer.encode_batch(&texts, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The same as the seeded loops, but shrunk to a small case when it fails.
    #[test]
    fn any_vocabulary(
        pieces in prop::collection::vec(("[ab▁中😀]{1,5}", -3i8..3), 1..25),
        texts in prop::collection::vec("[ab▁中😀z]{0,60}", 1..4),
        byte_fallback: bool,
    ) {
        let mut known = std::collections::HashSet::new();
        let pieces: Vec<(String, f32, PieceKind)> = pieces
            .into_iter()
            .filter(|(text, _)| known.insert(text.clone()))
            .map(|(text, score)| (text, score.into(), Normal))
            .collect();
        let model = model(&pieces, Settings { byte_fallback, ..Settings::default() });
        let mut seen = Scratch::default();
        for text in texts {
            encode_every_way(&model, &text, &mut seen, true);
        }
    }
}
