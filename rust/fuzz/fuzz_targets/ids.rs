//! Any small vocabulary and any text: every way to encode gives the ids of the oracle.

#![no_main]

#[path = "../../core/tests/common/mod.rs"]
mod common;

use std::collections::HashSet;

use arbitrary::Arbitrary;
use common::{Settings, model};
use libfuzzer_sys::fuzz_target;
use zhuzi_core::{
    Tokenizer,
    bpe::{Encoder, Route, Scratch, checks, oracle},
    spm::PieceKind,
};

/// Few letters, so that pieces overlap: one to four bytes each.
const LETTERS: [char; 12] = ['a', 'b', 'c', '▁', '中', '国', 'é', '😀', '\n', '\0', '𠀀', '\u{FFFD}'];
const SCORES: [f32; 6] = [0.0, -0.0, -1.0, -2.0, 5.0, -1e9];

#[derive(Arbitrary, Debug)]
struct Case {
    byte_fallback: bool,
    /// Letters of each piece, its score and its kind.
    pieces: Vec<(Vec<u8>, u8, u8)>,
    text: Vec<u8>,
    /// How often the text is repeated, so that blocks and windows are crossed.
    repeat: u8,
}

fn spell(letters: &[u8], most: usize) -> String {
    letters.iter().take(most).map(|&letter| LETTERS[usize::from(letter) % LETTERS.len()]).collect()
}

fuzz_target!(|case: Case| {
    let mut known = HashSet::new();
    let mut pieces = Vec::new();
    for (letters, score, kind) in case.pieces.iter().take(60) {
        let text = spell(letters, 20);
        if text.is_empty() || !known.insert(text.clone()) {
            continue;
        }
        let kind = match kind % 8 {
            0 => PieceKind::UserDefined,
            1 => PieceKind::Unused,
            2 => PieceKind::Control,
            _ => PieceKind::Normal,
        };
        pieces.push((text, SCORES[usize::from(*score) % SCORES.len()], kind));
    }
    let settings = Settings { byte_fallback: case.byte_fallback, ..Settings::default() };
    let model = model(&pieces, settings);
    let short = spell(&case.text, 60);
    let (Ok(encoder), Ok(plain)) = (Encoder::new(&model), checks::plain_encoder(&model)) else { return };
    let mut scratch = Scratch::default();
    let mut ids = |encoder: &Encoder, text: &str| {
        let mut ids = Vec::new();
        encoder.encode(text, true, &mut scratch, &mut ids);
        ids
    };
    assert_eq!(ids(&encoder, &short), oracle::encode(&model, &short), "{short:?}");
    let long = short.repeat(usize::from(case.repeat));
    let wanted = ids(&plain, &long);
    assert_eq!(ids(&encoder, &long), wanted);
    if encoder.route() == Route::Direct {
        for ids in checks::encode_by_each_kernel(&encoder, zhuzi_core::Text::Utf8(&long)) {
            assert_eq!(ids, wanted);
        }
    }
    if let Ok(tokenizer) = Tokenizer::new(&model, &[]) {
        assert_eq!(tokenizer.encode_with_offsets(&short).0, tokenizer.encode(&short));
    }
});
