//! From tokens to ids: what is kept of a block is packed, and characters that are no piece are spelled.

use super::{
    block::{BLOCK, Block},
    codes::{ASTRAL, FIRST_ASTRAL},
    kernel::Kernel,
    merges::Symbol,
    rules::Rules,
};

/// Where ids go.
#[derive(Debug)]
pub struct Sink<'a> {
    /// The ids so far.
    pub ids: &'a mut Vec<u32>,
    /// True if the last one is the unknown token, into which the next unknown character fuses.
    pub after_unknown: bool,
    /// False if each unknown character is to have a token of its own.
    pub fuses: bool,
}

impl<'a> Sink<'a> {
    /// What appends to `ids` as SentencePiece gives them.
    pub fn new(ids: &'a mut Vec<u32>) -> Self {
        Self { ids, after_unknown: false, fuses: true }
    }
}

impl Rules {
    /// Writes the tokens of the first `cut` characters.
    #[inline(always)]
    pub fn write<K: Kernel>(&self, block: &mut Block, cut: usize, sink: &mut Sink<'_>) {
        sink.ids.reserve(BLOCK + 72);
        for word in 0..Block::words(cut) {
            let (tokens, keep) = block.word(word);
            if let Some(room) = sink.ids.spare_capacity_mut().first_chunk_mut()
                && !K::compact(tokens, keep, self.vocab, room)
            {
                let n = keep.count_ones() as usize;
                // SAFETY: `compact` has written the first n places of the room, one for each bit of `keep`.
                unsafe { sink.ids.set_len(sink.ids.len() + n) };
                // No piece that text makes is the unknown token.
                sink.after_unknown &= n == 0;
                continue;
            }
            self.write_slowly(word, block, sink);
        }
    }

    /// Writes a word that holds characters that are no piece.
    #[inline(never)]
    fn write_slowly(&self, word: usize, block: &mut Block, sink: &mut Sink<'_>) {
        let (&tokens, mut keep) = block.word(word);
        while keep != 0 {
            let token = tokens[keep.trailing_zeros() as usize];
            keep &= keep - 1;
            let code = token.wrapping_sub(self.vocab);
            match &self.bytes {
                Some(_) if token < self.vocab => sink.ids.push(token),
                // Most of them are Han characters, three bytes each.
                Some(bytes) if (0x800..u32::from(FIRST_ASTRAL)).contains(&code) => {
                    let bytes = [0xE0 | (code >> 12), 0x80 | ((code >> 6) & 0x3F), 0x80 | (code & 0x3F)]
                        .map(|byte| bytes[byte as usize & 0xFF]);
                    sink.ids.extend_from_slice(&bytes);
                }
                _ => self.write_one(token, block, sink),
            }
        }
        sink.ids.reserve(BLOCK + 72);
    }

    /// Writes one symbol: a piece, or what stands for a character that is none.
    #[inline]
    pub fn write_one(&self, symbol: Symbol, block: &mut Block, sink: &mut Sink<'_>) {
        let Some(code) = symbol.checked_sub(self.vocab) else {
            sink.after_unknown = false;
            return sink.ids.push(symbol);
        };
        let code = code as u16;
        let c = if code == ASTRAL { block.next_astral() } else { self.codes.char(code) };
        match &self.bytes {
            Some(bytes) => {
                let mut buffer = [0; 4];
                sink.ids.extend(c.encode_utf8(&mut buffer).bytes().map(|b| bytes[usize::from(b)]));
            }
            None => {
                if !sink.after_unknown {
                    sink.ids.push(self.unk);
                }
                sink.after_unknown = sink.fuses;
            }
        }
    }
}
