//! Any bytes as a model file: an error or a tokenizer that works, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use zhuzi_core::{SpmModel, Tokenizer};

const TEXT: &str = "人工智能 means AI.\n\n１２３ ab ab 😀𠮷\0\u{FFFD}▁";

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = SpmModel::from_bytes(bytes, "fuzz") else { return };
    let Ok(tokenizer) = Tokenizer::new(&model, &[]) else { return };
    let ids = tokenizer.encode(TEXT);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    assert!(tokenizer.decode(&ids).is_ok());
    assert_eq!(tokenizer.encode_with_offsets(TEXT).0, ids);
});
