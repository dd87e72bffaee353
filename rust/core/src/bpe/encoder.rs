//! Encodes normalised text: cuts it where no merge can cross, answers each segment from a cache or by merging.

use rustc_hash::FxHashMap;

use super::{
    merge::{MergeScratch, Splits, merge_long, merge_run},
    table::{Symbol, Table},
};
use crate::{
    Error, Result,
    normalize::PrefixMatcher,
    spm::{ModelKind, PieceKind, SpmModel, byte_of_piece},
};

/// Segments a [`Scratch`] remembers before it starts anew. A segment costs at most 250 bytes or so, which
/// keeps a thread's cache below 16 MB.
const CACHED_SEGMENTS: usize = 1 << 16;
/// Longest segment that is worth remembering, in bytes.
const CACHED_BYTES: usize = 48;

/// The exact BPE encoder of one model. Threads share it; each brings a [`Scratch`] of its own.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    user_defined: PrefixMatcher,
    user_defined_ids: FxHashMap<Box<[u8]>, u32>,
    /// Ids of the 256 byte pieces, where the model has byte fallback.
    bytes: Option<Box<[u32; 256]>>,
    unk: u32,
}

/// What one thread keeps between texts: working memory and the answers of segments seen before.
#[derive(Debug, Default)]
pub struct Scratch {
    symbols: Vec<Symbol>,
    merge: MergeScratch,
    cache: FxHashMap<Box<[u8]>, Box<[u32]>>,
}

impl Encoder {
    /// Builds the encoder.
    ///
    /// # Errors
    /// [`Error::Model`] for a model that is not BPE.
    pub fn new(model: &SpmModel) -> Result<Self> {
        if model.kind() != ModelKind::Bpe {
            return Err(Error::model(
                model.origin(),
                format!(
                    "a {} model, and only BPE can encode here; as the donor of a merge it would do",
                    model.kind().name()
                ),
            ));
        }
        let of_kind = |kind| (0u32..).zip(model.pieces()).filter(move |(_, p)| p.kind == kind);
        let mut bytes = model.byte_fallback().then(|| Box::new([0; 256]));
        if let Some(bytes) = &mut bytes {
            for (id, piece) in of_kind(PieceKind::Byte) {
                if let Some(byte) = byte_of_piece(&piece.text) {
                    bytes[usize::from(byte)] = id;
                }
            }
        }
        let user_defined = || of_kind(PieceKind::UserDefined).map(|(id, p)| (p.text.as_bytes(), id));
        Ok(Self {
            table: Table::new(model),
            user_defined: PrefixMatcher::new(user_defined().map(|(text, _)| text)),
            user_defined_ids: user_defined().map(|(text, id)| (text.into(), id)).collect(),
            bytes,
            unk: model.special_ids().unk,
        })
    }

    /// Appends the ids of `text`, which is taken as already normalised, to `out`.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let mut sink = Sink::new(self, out);
        if self.table.has_unused() {
            return self.encode_whole(text, scratch, &mut sink);
        }
        let mut rest = text;
        while let Some((at, len)) = self.next_user_defined(rest) {
            self.encode_region(&rest[..at], scratch, &mut sink);
            sink.push(self.user_defined_ids[&rest.as_bytes()[at..at + len]]);
            rest = &rest[at + len..];
        }
        self.encode_region(rest, scratch, &mut sink);
    }

    /// Place and length of the first USER_DEFINED piece (of those that start there, the longest).
    fn next_user_defined(&self, text: &str) -> Option<(usize, usize)> {
        if self.user_defined.is_empty() {
            return None;
        }
        let longest = |at| self.user_defined.longest(&text.as_bytes()[at..]);
        text.char_indices().find_map(|(at, _)| longest(at).map(|len| (at, len)))
    }

    /// Encodes text without USER_DEFINED pieces, segment by segment (theorem P1).
    fn encode_region(&self, text: &str, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        let mut chars = text.char_indices();
        let Some((_, mut last)) = chars.next() else { return };
        let mut start = 0;
        for (at, c) in chars {
            if !self.table.linked(last, c) {
                self.encode_segment(&text[start..at], scratch, sink);
                start = at;
            }
            last = c;
        }
        self.encode_segment(&text[start..], scratch, sink);
    }

    fn encode_segment(&self, segment: &str, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        let mut chars = segment.chars();
        if let (Some(only), None) = (chars.next(), chars.next()) {
            return sink.push_symbol(self.table.symbol(only));
        }
        if let Some(ids) = scratch.cache.get(segment.as_bytes()) {
            return ids.iter().for_each(|&id| sink.push(id));
        }
        scratch.symbols.clear();
        scratch.symbols.extend(segment.chars().map(|c| self.table.symbol(c)));
        merge_run(&self.table, &mut scratch.symbols, &mut scratch.merge);
        if segment.len() > CACHED_BYTES {
            return scratch.symbols.iter().for_each(|&symbol| sink.push_symbol(symbol));
        }
        let mut ids = Vec::new();
        let mut answer = Sink::new(self, &mut ids);
        scratch.symbols.iter().for_each(|&symbol| answer.push_symbol(symbol));
        ids.iter().for_each(|&id| sink.push(id));
        if scratch.cache.len() >= CACHED_SEGMENTS {
            scratch.cache.clear();
        }
        scratch.cache.insert(segment.as_bytes().into(), ids.into());
    }

    /// Encodes a text as one run: an UNUSED piece is split the way it was last offered anywhere in the text,
    /// so nothing may be cut.
    fn encode_whole(&self, text: &str, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        let Scratch { symbols, merge, .. } = scratch;
        symbols.clear();
        let mut frozen = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (symbol, len) = match self.user_defined.longest(rest.as_bytes()) {
                Some(len) => {
                    frozen.push(symbols.len() as u32);
                    (self.user_defined_ids[&rest.as_bytes()[..len]], len)
                }
                None => (self.table.symbol(c), c.len_utf8()),
            };
            symbols.push(symbol);
            rest = &rest[len..];
        }
        let mut splits = Splits::default();
        merge_long(&self.table, symbols, &frozen, merge, Some(&mut splits));
        let mut left_to_right: Vec<Symbol> = symbols.iter().rev().copied().collect();
        while let Some(symbol) = left_to_right.pop() {
            match splits.get(&symbol) {
                Some(&(left, right)) => left_to_right.extend([right, left]),
                None => sink.push_symbol(symbol),
            }
        }
    }
}

/// Where ids go. Characters that are no piece are spelled in bytes, or fuse into one unknown token a run.
struct Sink<'a> {
    encoder: &'a Encoder,
    out: &'a mut Vec<u32>,
    after_unknown: bool,
}

impl<'a> Sink<'a> {
    fn new(encoder: &'a Encoder, out: &'a mut Vec<u32>) -> Self {
        Self { encoder, out, after_unknown: false }
    }

    fn push(&mut self, id: u32) {
        let unknown = id == self.encoder.unk;
        if !(unknown && self.after_unknown) {
            self.out.push(id);
        }
        self.after_unknown = unknown;
    }

    fn push_symbol(&mut self, symbol: Symbol) {
        match (self.encoder.table.finish(symbol), &self.encoder.bytes) {
            (Ok(id), _) => self.push(id),
            (Err(_), None) => self.push(self.encoder.unk),
            (Err(c), Some(bytes)) => {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    self.push(bytes[usize::from(byte)]);
                }
            }
        }
    }
}
