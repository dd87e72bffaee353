//! Where each token is in the text, as SentencePiece's `proto` output says it.
//!
//! Nothing here is fast: the text is normalised once more, by the plainest code, with a position for each byte.
//! (Source: `Normalizer::Normalize` and `PopulateSentencePieceText` of SentencePiece.)

use crate::{
    normalize::{Normalizer, SPACE_MARK},
    spm::{NormalizerOptions, Piece, PieceKind},
};

/// A normalised text, each byte of which knows the character it came from.
#[derive(Debug, Default)]
pub struct Aligned {
    bytes: Vec<u8>,
    /// For each byte, and for the end: a character of the text, counted from 0.
    from: Vec<usize>,
}

impl Aligned {
    /// Normalises `text`.
    pub fn new(normalizer: &Normalizer, options: &NormalizerOptions, text: &str) -> Self {
        let space: &[u8] = if options.escape_whitespaces { SPACE_MARK } else { b" " };
        let trims = options.remove_extra_whitespaces;
        let mut out = Self::default();
        let (mut rest, mut character) = (text.as_bytes(), 0);
        let step = |rest: &mut &[u8], character: &mut usize, used: usize| {
            let (done, left) = rest.split_at(used);
            *rest = left;
            *character += done.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        };
        if trims {
            while let (b" ", used) = normalizer.prefix(rest) {
                step(&mut rest, &mut character, used);
            }
        }
        if rest.is_empty() {
            out.from.push(character);
            return out;
        }
        if options.add_dummy_prefix && !options.whitespace_as_suffix {
            out.push(space, character);
        }
        let mut after_space = trims;
        while !rest.is_empty() {
            let (mut rewritten, used) = normalizer.prefix(rest);
            while after_space && rewritten.first() == Some(&b' ') {
                rewritten = &rewritten[1..];
            }
            for byte in rewritten.chunks(1) {
                out.push(if byte == b" " { space } else { byte }, character);
            }
            if let Some(&last) = rewritten.last() {
                after_space = trims && last == b' ';
            }
            step(&mut rest, &mut character, used);
        }
        if trims {
            while out.bytes.ends_with(space) {
                let end = out.bytes.len() - space.len();
                character = out.from[end];
                out.bytes.truncate(end);
                out.from.truncate(end);
            }
        }
        if options.add_dummy_prefix && options.whitespace_as_suffix {
            out.push(space, character);
        }
        out.from.push(character);
        out
    }

    fn push(&mut self, bytes: &[u8], from: usize) {
        self.bytes.extend_from_slice(bytes);
        self.from.resize(self.bytes.len(), from);
    }

    /// The normalised text.
    pub fn text(&self) -> &str {
        // The normaliser only writes valid UTF-8.
        std::str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// Finds each token in the text; `ids` are those of the text, with a token for each unknown character, which are
    /// fused here. Of the byte pieces that spell a character the last one covers it, the others are empty.
    pub fn locate<'p>(
        &self,
        ids: &[u32],
        piece: impl Fn(u32) -> &'p Piece,
    ) -> (Vec<u32>, Vec<(usize, usize)>) {
        let mut fused: Vec<u32> = Vec::with_capacity(ids.len());
        let mut offsets: Vec<(usize, usize)> = Vec::with_capacity(ids.len());
        let (mut at, mut spelled) = (0, 0);
        let position = |at: usize| self.from[at.min(self.from.len() - 1)];
        let mut after_unknown = false;
        let normalized = self.text();
        for &id in ids {
            let Piece { text, kind, .. } = piece(id);
            let character =
                || normalized.get(at..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
            let unknown = *kind == PieceKind::Unknown;
            let mut len = match kind {
                PieceKind::Byte | PieceKind::Unknown => character(),
                _ => text.len(),
            };
            if *kind == PieceKind::Byte {
                spelled += 1;
                if spelled < len {
                    len = 0;
                } else {
                    spelled = 0;
                }
            }
            let begin = position(at);
            at += len;
            let end = if len == 0 { begin } else { position(at) };
            match offsets.last_mut() {
                Some(last) if unknown && after_unknown => last.1 = end,
                _ => {
                    fused.push(id);
                    offsets.push((begin, end));
                }
            }
            after_unknown = unknown;
        }
        (fused, offsets)
    }
}
