//! Segments longer than a block: in stretches, so that memory does not grow with them.

use super::{
    engine::EngineScratch,
    kernel::Kernel,
    merges::{NONE, Symbol},
    pairs::ONE_SCORE,
    rules::Rules,
    write::Sink,
};
use crate::text::Text;

/// Codes of a segment longer than a block that are encoded at a time: more than a piece has, and less than falls out of
/// the second-level cache.
const STRETCH: usize = 1 << 17;
/// Codes at the end of such a stretch that are encoded again with what follows.
const UNSURE: usize = 1 << 12;

impl Rules {
    /// Encodes a segment that fills the whole block and may go on behind it; returns where decoding stopped.
    ///
    /// It is done in stretches, joined as the windows of [`long`](super::long) are, so that memory does not grow with it. Should the
    /// text behind a stretch have changed what was written of it, all is taken back and the segment done as one.
    #[inline(always)]
    pub fn encode_long<K: Kernel>(
        &self,
        text: Text<'_>,
        at: usize,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
    ) -> usize {
        let (ids, after_unknown) = (sink.ids.len(), sink.after_unknown);
        let head = scratch.block.codes[..scratch.block.held].to_vec();
        let mut size = STRETCH;
        loop {
            if let Some(end) = self.encode_stretches::<K>(&head, text, at, size, scratch, sink) {
                return end;
            }
            sink.ids.truncate(ids);
            sink.after_unknown = after_unknown;
            size = usize::MAX;
        }
    }

    /// Encodes the segment that begins with `head` and goes on at `at`, `size` codes at a time; `None` if a seam does not
    /// hold.
    #[inline(always)]
    fn encode_stretches<K: Kernel>(
        &self,
        head: &[u16],
        text: Text<'_>,
        mut at: usize,
        size: usize,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let EngineScratch { block, long, long_codes: codes, long_symbols: symbols, .. } = scratch;
        block.clear();
        codes.clear();
        codes.extend_from_slice(head);
        let mut ended = at == text.len();
        // The last token written, whose codes are kept, and the one that followed it in its stretch.
        let mut seam: Option<(Symbol, Symbol)> = None;
        loop {
            while !ended && codes.len() < size {
                at = block.fill::<K>(&self.codes, text, at);
                let mut last = codes[codes.len() - 1];
                let goes_on = |&&code: &&u16| {
                    let linked = self.pairs.link(last, code).is_some();
                    last = code;
                    linked
                };
                let take = block.codes[..block.held].iter().take_while(goes_on).count();
                codes.extend_from_slice(&block.codes[..take]);
                block.advance(take);
                ended = block.held > 0 || at == text.len();
            }
            symbols.clear();
            let done = seam.map_or(0, |(last, _)| self.length(last));
            if self.has_one_score(&codes[done..]) {
                self.encode_one_score(&codes[done..], symbols);
            } else {
                K::enter(
                    #[inline(always)]
                    || long.encode::<K>(self, &codes[done..], symbols),
                );
            }
            if let Some((last, expected)) = seam
                && symbols[0] != expected
                && !long.goes_behind::<K>(self, codes, done, symbols[0], &[last])
            {
                return None;
            }
            if ended {
                symbols.iter().for_each(|&symbol| self.write_one(symbol, block, sink));
                return Some(at);
            }
            let sure = codes.len() - UNSURE;
            let (mut end, mut last) = (done, None);
            for &symbol in symbols.iter() {
                if end + self.length(symbol) > sure {
                    seam = last.map(|last| (last, symbol));
                    break;
                }
                end += self.length(symbol);
                self.write_one(symbol, block, sink);
                last = Some(symbol);
            }
            // No piece is as long as a stretch, so that something has been written.
            codes.drain(..end - self.length(last?));
        }
    }

    fn has_one_score(&self, codes: &[u16]) -> bool {
        let one_score =
            |pair: &[u16]| self.pairs.link(pair[0], pair[1]).is_none_or(|entry| entry & ONE_SCORE != 0);
        codes.windows(2).all(one_score)
    }

    /// [`Self::answer_one_score`] outside a block. The loop over the stack stands in both: as a function of its own, inlined,
    /// it cost the blocks 2 to 3 % more instructions on English.
    fn encode_one_score(&self, codes: &[u16], stack: &mut Vec<Symbol>) {
        let mut before = None;
        for &code in codes {
            let mut top = self.pairs.symbol(code);
            if let (Some(before), Some(&below)) = (before, stack.last())
                && self.length(below) == 1
            {
                let merged = self.char_merge(before, code).result;
                if merged != NONE {
                    stack.pop();
                    top = merged;
                }
            }
            while let Some(&below) = stack.last() {
                let merged = self.merges.result(below, top);
                if merged == NONE {
                    break;
                }
                stack.pop();
                top = merged;
            }
            stack.push(top);
            before = Some(code);
        }
    }
}
