//! BPE said as plainly as it can be, for tests: no cuts, no cache, no ranks, no shared code with the encoder.
//!
//! Source: SentencePiece's `bpe_model.cc` and `sentencepiece_processor.cc`. Quadratic in the text.

use std::collections::HashMap;

use crate::spm::{PieceKind, SpmModel};

/// Ids of `text`, which is taken as already normalised.
pub fn encode(model: &SpmModel, text: &str) -> Vec<u32> {
    let pieces = model.pieces();
    let ids_where = |wanted: fn(PieceKind) -> bool| -> HashMap<&str, u32> {
        (0..).zip(pieces).filter(|(_, p)| wanted(p.kind)).map(|(id, p)| (p.text.as_str(), id)).collect()
    };
    let makeable = ids_where(|k| matches!(k, PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused));
    let bytes = ids_where(|k| k == PieceKind::Byte);
    let user_defined: Vec<&str> =
        pieces.iter().filter(|p| p.kind == PieceKind::UserDefined).map(|p| p.text.as_str()).collect();
    let unknown = pieces.iter().position(|p| p.kind == PieceKind::Unknown).unwrap_or(0) as u32;

    // Symbols: (text, frozen).
    let mut symbols: Vec<(&str, bool)> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let piece = user_defined.iter().filter(|p| rest.starts_with(**p)).max_by_key(|p| p.len());
        let len = piece.map_or(c.len_utf8(), |p| p.len());
        symbols.push((&rest[..len], piece.is_some()));
        rest = &rest[len..];
    }

    let joined = |symbols: &[(&str, bool)], at: usize| -> Option<String> {
        let [(left, false), (right, false)] = symbols.get(at..at + 2)? else { return None };
        let text = format!("{left}{right}");
        makeable.contains_key(text.as_str()).then_some(text)
    };
    let mut splits: HashMap<String, (String, String)> = HashMap::new();
    let mut note = |symbols: &[(&str, bool)], at: usize| {
        if let Some(text) = joined(symbols, at) {
            splits.insert(text, (symbols[at].0.into(), symbols[at + 1].0.into()));
        }
    };
    for at in 0..symbols.len().saturating_sub(1) {
        note(&symbols, at);
    }
    loop {
        let mut best: Option<(usize, String, f32)> = None;
        for at in 0..symbols.len().saturating_sub(1) {
            let Some(text) = joined(&symbols, at) else { continue };
            let score = pieces[makeable[text.as_str()] as usize].score;
            if best.as_ref().is_none_or(|(_, _, top)| score.total_cmp(top).is_gt()) {
                best = Some((at, text, score));
            }
        }
        let Some((at, text, _)) = best else { break };
        let (&stored, _) = makeable.get_key_value(text.as_str()).unwrap_or((&"", &0));
        symbols.splice(at..at + 2, [(stored, false)]);
        if at > 0 {
            note(&symbols, at - 1);
        }
        note(&symbols, at);
    }

    let mut out: Vec<u32> = Vec::new();
    let mut after_unknown = false;
    let mut todo: Vec<String> = symbols.iter().rev().map(|(s, _)| (*s).to_string()).collect();
    while let Some(symbol) = todo.pop() {
        let id = makeable.get(symbol.as_str()).copied();
        let is_unused = id.is_some_and(|id| pieces[id as usize].kind == PieceKind::Unused);
        if is_unused && let Some((left, right)) = splits.get(&symbol) {
            todo.extend([right.clone(), left.clone()]);
            continue;
        }
        // An UNUSED character is unknown, as one that only a CONTROL piece spells.
        let id = id.filter(|_| !is_unused).unwrap_or(unknown);
        let is_unknown = id == unknown;
        if is_unknown && model.byte_fallback() {
            out.extend(symbol.bytes().map(|b| bytes[format!("<0x{b:02X}>").as_str()]));
        } else if !(is_unknown && after_unknown) {
            out.push(id);
        }
        after_unknown = is_unknown;
    }
    out
}
