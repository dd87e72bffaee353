//! The merge alone, without files: `cargo bench -p zhuzi-core --bench merge`. A base of 32,000 pieces and a donor of 20,000
//! are made up here, or read: `ZHUZI_BASE=llama.model ZHUZI_DONOR=chinese_sp.model`.

#![allow(clippy::unwrap_used, reason = "a bench")]

use std::{env, fs, sync::LazyLock};

use divan::Bencher;
use zhuzi_core::{
    SpmModel,
    spm::{NormalizerOptions, Piece, PieceKind},
    vocab::{Filters, MergeOptions, MergePolicy, Tokens, dead_pieces, merge},
};

fn main() {
    divan::main();
}

/// A small generator, so that every run has the same pieces.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

/// A model of so many pieces: characters from `first` on, then pieces that mostly are two earlier ones together.
fn made_up(seed: u64, first: u32, characters: u32, size: usize) -> SpmModel {
    let mut random = Random(seed);
    let mut texts: Vec<String> =
        (first..first + characters).filter_map(char::from_u32).map(String::from).collect();
    let mut known: std::collections::HashSet<String> = texts.iter().cloned().collect();
    while texts.len() < size {
        let text =
            format!("{}{}", texts[random.below(texts.len())], texts[random.below(texts.len().min(4_000))]);
        if text.chars().count() <= 8 && known.insert(text.clone()) {
            texts.push(text);
        }
    }
    let unknown = Piece { text: "<unk>".into(), score: 0.0, kind: PieceKind::Unknown };
    let pieces = texts.into_iter().enumerate().map(|(at, text)| Piece {
        text,
        score: -(at as f32),
        kind: PieceKind::Normal,
    });
    let pieces: Vec<Piece> = [unknown].into_iter().chain(pieces).collect();
    SpmModel::from_pieces(
        &pieces,
        false,
        &NormalizerOptions { escape_whitespaces: true, ..Default::default() },
        "made up",
    )
    .unwrap()
}

fn read(variable: &str, otherwise: impl FnOnce() -> SpmModel) -> Vec<u8> {
    match env::var(variable) {
        Ok(path) => fs::read(path).unwrap(),
        Err(_) => otherwise().to_bytes(),
    }
}

static BASE: LazyLock<Vec<u8>> = LazyLock::new(|| read("ZHUZI_BASE", || made_up(1, 0x61, 700, 32_000)));
static DONOR: LazyLock<Vec<u8>> = LazyLock::new(|| read("ZHUZI_DONOR", || made_up(2, 0x4E00, 6_000, 20_000)));

fn models() -> (SpmModel, Vec<SpmModel>) {
    (SpmModel::from_bytes(&BASE, "base").unwrap(), vec![SpmModel::from_bytes(&DONOR, "donor").unwrap()])
}

#[divan::bench]
fn read_both(bencher: Bencher<'_, '_>) {
    models();
    bencher.bench_local(models);
}

#[divan::bench(args = ["paper", "ordered", "ordered, repaired"])]
fn merge_models(bencher: Bencher<'_, '_>, name: &str) {
    let (base, donors) = models();
    let policy = if name == "paper" { MergePolicy::Paper } else { MergePolicy::Ordered };
    let options =
        MergeOptions { policy, filters: Filters::default(), top: None, repair: name.ends_with("repaired") };
    let made = merge(&base, &donors, Tokens::default(), &options, None).unwrap();
    let dead = dead_pieces(&made.model).unwrap();
    if options.repair {
        assert_eq!(dead.len(), dead_pieces(&base).unwrap().len());
    }
    bencher.bench_local(|| merge(&base, &donors, Tokens::default(), &options, None).unwrap().new.len());
}

#[divan::bench]
fn write(bencher: Bencher<'_, '_>) {
    let (base, _) = models();
    bencher.bench_local(|| base.to_bytes().len());
}
