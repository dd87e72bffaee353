//! A vocabulary and texts for the benches, made of the demo's sample alone: nothing else is needed.
//!
//! The vocabulary has what makes the real ones hard: Han pieces that all tie, ranked pieces of letters, byte fallback.

#![allow(dead_code, clippy::unwrap_used, reason = "a bench, and each uses a part")]

use std::collections::HashMap;

use serde_json::Value;
use zhuzi_core::{SpmModel, Tokenizer, spm::PieceKind::Normal};

#[path = "../../tests/common/mod.rs"]
mod common;

const ZH: &str = include_str!("../../../../python/zhuzi/demo/data/zh.jsonl");
const EN: &str = include_str!("../../../../python/zhuzi/demo/data/en.jsonl");

/// Pieces of letters and of Han characters that the vocabulary has at most.
const MOST: usize = 12_000;

fn texts(jsonl: &str) -> String {
    let text = |line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_string();
    jsonl.lines().map(text).collect::<Vec<_>>().join("\n")
}

/// Chinese text, about 125 KB.
pub fn chinese() -> String {
    texts(ZH)
}

/// English text, about 80 KB.
pub fn english() -> String {
    texts(EN)
}

/// Frequent strings of 2 to `longest` characters, none of which is `apart`, the most frequent first.
fn frequent(text: &str, longest: usize, apart: fn(char) -> bool) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for run in text.split(apart) {
        let run: Vec<char> = run.chars().collect();
        for length in 2..=longest {
            run.windows(length).for_each(|window| *counts.entry(window.iter().collect()).or_default() += 1);
        }
    }
    let mut found: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 1).collect();
    found.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found.into_iter().take(MOST).map(|(text, _)| text).collect()
}

/// The vocabulary as a model.
pub fn model() -> SpmModel {
    let (chinese, english) = (chinese(), english());
    let mut pieces = Vec::new();
    let words = format!(" {}", english.replace('\n', " ")).replace(' ', " ▁");
    let letters = frequent(&words, 10, |c| !c.is_ascii_alphabetic() && c != '▁');
    pieces.extend(letters.into_iter().zip(1..).map(|(text, rank)| (text, -(rank as f32), Normal)));
    let mut characters: Vec<char> = chinese.chars().chain(english.chars()).chain(['▁']).collect();
    characters.sort_unstable();
    characters.dedup();
    characters.retain(|c| !c.is_whitespace());
    let last = -(pieces.len() as f32);
    pieces.extend(characters.into_iter().zip(1..).map(|(c, i)| (c.to_string(), last - i as f32, Normal)));
    let han = frequent(&chinese, 4, |c| !('\u{4E00}'..='\u{9FFF}').contains(&c));
    pieces.extend(han.into_iter().map(|text| (text, 0.0, Normal)));
    common::model(&pieces, common::Settings { byte_fallback: true, dummy_prefix: true, trims: false })
}

/// The vocabulary as a tokenizer.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::new(&model(), &[]).unwrap()
}

/// `text` again and again, up to `bytes`.
pub fn repeated(text: &str, bytes: usize) -> String {
    let mut out = text.repeat(bytes.div_ceil(text.len()));
    out.truncate((0..=bytes).rev().find(|&at| out.is_char_boundary(at)).unwrap());
    out
}

/// Texts made to be slow.
pub const HOSTILE: [&str; 11] = [
    "a letter",
    "spaces",
    "newlines",
    "中国",
    "an unknown character",
    "emoji",
    "abab",
    "random letters",
    "random digits",
    "base64",
    "Han without a stop",
];

/// One of [`HOSTILE`].
pub fn hostile(name: &str, bytes: usize) -> String {
    let drawn = |alphabet: &str| {
        let alphabet: Vec<char> = alphabet.chars().collect();
        let mut random = common::Random(5);
        (0..bytes).map(|_| *random.pick(&alphabet)).collect()
    };
    match name {
        "a letter" => repeated("a", bytes),
        "spaces" => repeated(" ", bytes),
        "newlines" => repeated("\n", bytes),
        "中国" => repeated("中国", bytes),
        "an unknown character" => repeated("龘", bytes),
        "emoji" => repeated("😀", bytes),
        "abab" => repeated("ab", bytes),
        "random letters" => drawn("abcdefghijklmnopqrstuvwxyz"),
        "random digits" => drawn("0123456789"),
        "base64" => drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
        _ => {
            let han = chinese().chars().filter(|c| ('\u{4E00}'..='\u{9FFF}').contains(c)).collect::<String>();
            repeated(&han, bytes)
        }
    }
}
