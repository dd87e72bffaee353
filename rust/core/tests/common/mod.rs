//! Models made by hand, and random ones made to be hard.

#![allow(dead_code, clippy::unwrap_used, reason = "tests, each of which uses a part")]

use zhuzi_core::{
    SpmModel,
    spm::{NormalizerOptions, Piece, PieceKind},
};

/// Settings of a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub byte_fallback: bool,
    pub dummy_prefix: bool,
    pub trims: bool,
}

/// A BPE model of these pieces. `<unk>` is before them, and the 256 byte pieces if the settings ask for them.
pub fn model(pieces: &[(String, f32, PieceKind)], settings: Settings) -> SpmModel {
    let mut all = vec![("<unk>".to_string(), 0.0, PieceKind::Unknown)];
    if settings.byte_fallback {
        all.extend((0..=255).map(|b| (format!("<0x{b:02X}>"), 0.0, PieceKind::Byte)));
    }
    all.extend_from_slice(pieces);
    let piece = |(text, score, kind): &(String, f32, PieceKind)| Piece {
        text: text.clone(),
        score: *score,
        kind: *kind,
    };
    let pieces: Vec<Piece> = all.iter().map(piece).collect();
    let normalizer = NormalizerOptions {
        add_dummy_prefix: settings.dummy_prefix,
        remove_extra_whitespaces: settings.trims,
        escape_whitespaces: true,
        ..Default::default()
    };
    let made = SpmModel::from_pieces(&pieces, settings.byte_fallback, &normalizer, "test").unwrap();
    SpmModel::from_bytes(&made.to_bytes(), "test").unwrap()
}

/// A small generator, so that a failure is named by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn string(&mut self, alphabet: &[char], shortest: usize, longest: usize) -> String {
        let len = shortest + self.below(longest - shortest + 1);
        (0..len).map(|_| *self.pick(alphabet)).collect()
    }
}

/// Alphabets whose pieces overlap a lot: few letters, `▁`, Han, two to four bytes, NUL, U+FFFD, U+FFFF.
pub const ALPHABETS: [&[char]; 6] = [
    &['a', 'b'],
    &['a', 'b', '▁', 'c'],
    &['中', '国', '人', '▁'],
    &['a', '▁', '中', 'é', '😀'],
    &['😀', '😁', '𠀀', 'a', '▁', '\0', '\u{FFFD}', '\u{FFFF}', 'ß'],
    &['a', 'b', 'c', 'd', '▁', '0', '1', '中', '国', '\n'],
];

/// A model with random pieces over `alphabet`: ties, -0.0, merges that cannot be reached.
pub fn random_model(
    random: &mut Random,
    alphabet: &[char],
    settings: Settings,
    kinds: &[PieceKind],
) -> SpmModel {
    let scores: &[f32] = match random.below(5) {
        0 => &[0.0],
        1 => &[0.0, -0.0],
        2 => &[0.0, 0.0, 0.0, -1.0, -2.0],
        3 => &[0.0, -0.0, -1.0, -1e9, f32::NEG_INFINITY, 5.0, f32::MIN_POSITIVE],
        _ => &[],
    };
    let mut pieces: Vec<(String, f32, PieceKind)> = Vec::new();
    let longest = 2 + random.below(8);
    for i in 0..2 + random.below(40) {
        let text = match random.below(4) {
            // Pieces that are made of others.
            0 if pieces.len() > 1 => format!("{}{}", random.pick(&pieces).0, random.pick(&pieces).0),
            1 => random.string(alphabet, 1, 1),
            _ => random.string(alphabet, 1, longest),
        };
        if text.chars().count() > 40 || pieces.iter().any(|(known, ..)| *known == text) {
            continue;
        }
        let score = if scores.is_empty() { -(i as f32) } else { *random.pick(scores) };
        pieces.push((text, score, *random.pick(kinds)));
    }
    model(&pieces, settings)
}
