//! The encoder alone: `cargo bench -p zhuzi-core --bench encode`. Every row checks its ids against the plain encoder
//! first.

use divan::{Bencher, counter::BytesCount};
use zhuzi_core::{
    Text, Tokenizer,
    bpe::{Scratch as PlainScratch, checks},
    tokenizer::Scratch,
};

mod sample;

fn main() {
    divan::main();
}

/// Bytes of the texts of a bench.
const BYTES: usize = 1 << 20;

fn bench(bencher: Bencher<'_, '_>, tokenizer: &Tokenizer, text: Text<'_>, utf8: &str) {
    let mut plain = Vec::new();
    if let Ok(encoder) = checks::plain_encoder(&sample::model()) {
        let normalized = format!("▁{}", utf8.replace(' ', "▁"));
        encoder.encode(&normalized, true, &mut PlainScratch::default(), &mut plain);
    }
    assert!(tokenizer.encode(utf8) == plain, "other ids than the plain encoder's");
    let (mut scratch, mut ids) = (Scratch::default(), Vec::new());
    bencher.counter(BytesCount::new(utf8.len())).bench_local(|| {
        ids.clear();
        tokenizer.encode_into(text, &mut scratch, &mut ids);
        ids.len()
    });
}

#[divan::bench]
fn build(bencher: Bencher<'_, '_>) {
    let model = sample::model();
    bencher.bench_local(|| Tokenizer::new(&model, &[]));
}

#[divan::bench]
fn chinese_utf8(bencher: Bencher<'_, '_>) {
    let text = sample::repeated(&sample::chinese(), BYTES);
    bench(bencher, &sample::tokenizer(), Text::Utf8(&text), &text);
}

#[divan::bench]
fn chinese_ucs2(bencher: Bencher<'_, '_>) {
    let text = sample::repeated(&sample::chinese(), BYTES);
    let wide: Vec<u16> = text.encode_utf16().collect();
    bench(bencher, &sample::tokenizer(), Text::Ucs2(&wide), &text);
}

#[divan::bench]
fn english_utf8(bencher: Bencher<'_, '_>) {
    let text = sample::repeated(&sample::english(), BYTES);
    bench(bencher, &sample::tokenizer(), Text::Utf8(&text), &text);
}

#[divan::bench(args = sample::HOSTILE)]
fn hostile(bencher: Bencher<'_, '_>, kind: &str) {
    let text = sample::hostile(kind, BYTES);
    bench(bencher, &sample::tokenizer(), Text::Utf8(&text), &text);
}

/// Short documents: what a document costs in addition to its characters.
#[divan::bench(args = [10, 100, 1000])]
fn documents_of(bencher: Bencher<'_, '_>, characters: usize) {
    let text = sample::repeated(&sample::chinese(), BYTES);
    let characters: Vec<Vec<char>> =
        text.chars().collect::<Vec<_>>().chunks(characters).map(<[char]>::to_vec).collect();
    let documents: Vec<String> = characters.iter().map(|c| c.iter().collect()).collect();
    let tokenizer = sample::tokenizer();
    bencher
        .counter(BytesCount::new(text.len()))
        .bench_local(|| tokenizer.encode_batch(&documents, 1).ids.len());
}
