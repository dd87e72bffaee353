//! From tokens to ids: what is kept of a block is packed, and characters that are no piece are spelled.

use super::{
    block::Block,
    codes::{ASTRAL, FIRST_ASTRAL},
    kernel::{Kernel, ROOM},
    merges::Symbol,
    rules::Rules,
};

/// Characters of 64 that are no piece from which on a token at a time is quicker than a run at a time.
const MANY: u32 = 6;

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
    /// Writes the tokens of the first `cut` characters; `block.ends` become numbers of ids.
    #[inline(always)]
    pub fn write<K: Kernel>(&self, block: &mut Block, cut: usize, sink: &mut Sink<'_>) {
        let mut ended = 0;
        for start in (0..cut).step_by(64) {
            let (before, keep) = (sink.ids.len(), block.keep_at(start));
            let unknown = self.write_pieces::<K>(block.tokens_at(start), keep, sink);
            if unknown != 0 {
                K::enter(
                    #[inline(always)]
                    || self.write_mixed::<K>(start, unknown, block, &mut ended, sink),
                );
                continue;
            }
            while let Some(end) = block.ends.get_mut(ended)
                && *end < start + 64
            {
                *end = before + (keep & ((1 << (*end - start)) - 1)).count_ones() as usize;
                sink.after_unknown = false;
                ended += 1;
            }
        }
    }

    /// Writes the kept ones of 64 tokens if all of them are pieces. Else writes nothing, and returns which are none.
    #[inline(always)]
    fn write_pieces<K: Kernel>(&self, tokens: &[Symbol; 64], keep: u64, sink: &mut Sink<'_>) -> u64 {
        sink.ids.reserve(ROOM);
        let Some(room) = sink.ids.spare_capacity_mut().first_chunk_mut() else { return keep };
        let unknown = K::compact(tokens, keep, self.vocab, room);
        if unknown == 0 {
            let n = keep.count_ones() as usize;
            // SAFETY: `compact` has written the first n places of the room, one for each bit of `keep`.
            unsafe { sink.ids.set_len(sink.ids.len() + n) };
            // No piece that text makes is the unknown token.
            sink.after_unknown &= n == 0;
        }
        unknown
    }

    /// Writes the 64 tokens from `start` on, of which `unknown` are no pieces. Texts that end among them are counted in
    /// `ended`.
    #[inline(always)]
    fn write_mixed<K: Kernel>(
        &self,
        start: usize,
        unknown: u64,
        block: &mut Block,
        ended: &mut usize,
        sink: &mut Sink<'_>,
    ) {
        let keep = block.keep_at(start);
        let mut done = 0;
        while let Some(&end) = block.ends.get(*ended)
            && end < start + 64
        {
            let part = ((1 << (end - start)) - 1) & !done;
            self.write_runs::<K>(start, keep & part, unknown & part, block, sink);
            block.ends[*ended] = sink.ids.len();
            sink.after_unknown = false;
            done |= part;
            *ended += 1;
        }
        self.write_runs::<K>(start, keep & !done, unknown & !done, block, sink);
    }

    /// Writes those of the 64 tokens from `at` on that are in `keep`: the `unknown` ones, which are no pieces, one by
    /// one, and the runs between them at once.
    #[inline(always)]
    fn write_runs<K: Kernel>(
        &self,
        mut at: usize,
        mut keep: u64,
        mut unknown: u64,
        block: &mut Block,
        sink: &mut Sink<'_>,
    ) {
        if unknown.count_ones() > MANY {
            let tokens = *block.tokens_at(at);
            while keep != 0 {
                self.write_one(tokens[keep.trailing_zeros() as usize], block, sink);
                keep &= keep - 1;
            }
            return;
        }
        while unknown != 0 {
            let run = unknown.trailing_zeros();
            self.write_pieces::<K>(block.tokens_at(at), keep & ((1 << run) - 1), sink);
            at += run as usize;
            self.write_one(block.tokens[at], block, sink);
            // In two steps: the last of 64 may be the one.
            (at, keep, unknown) = (at + 1, keep >> run >> 1, unknown >> run >> 1);
        }
        self.write_pieces::<K>(block.tokens_at(at), keep, sink);
    }

    /// Writes one symbol: a piece, or what stands for a character that is none.
    #[inline]
    pub fn write_one(&self, symbol: Symbol, block: &mut Block, sink: &mut Sink<'_>) {
        let Some(code) = symbol.checked_sub(self.vocab) else {
            sink.after_unknown = false;
            return sink.ids.push(symbol);
        };
        if let Some(bytes) = &self.bytes
            && (0x800..u32::from(FIRST_ASTRAL)).contains(&code)
        {
            // Most of them are Han characters, three bytes each.
            let spelled = [0xE0 | (code >> 12), 0x80 | ((code >> 6) & 0x3F), 0x80 | (code & 0x3F)];
            return sink.ids.extend_from_slice(&spelled.map(|byte| bytes[byte as usize & 0xFF]));
        }
        let Ok(code) = u16::try_from(code) else {
            let split = self.splits.get(code as usize - (1 << 16)).into_iter().flatten();
            return split.for_each(|&part| self.write_one(part, block, sink));
        };
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
