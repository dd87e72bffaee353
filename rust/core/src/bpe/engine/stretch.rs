//! Segments longer than a block: in stretches, so that memory does not grow with them.

use super::{block::Block, windows::Windows, write::write_symbol};
use crate::{
    bpe::{
        kernel::Kernel,
        sink::Sink,
        symbol::{NONE, Symbol},
        tables::{Tables, pairs::ONE_SCORE},
    },
    text::Text,
};

/// Codes of a segment longer than a block that are encoded at a time: more than a piece has, and few enough that they stay
/// in the second-level cache.
const STRETCH: usize = 1 << 17;
/// Codes at the end of a stretch that are encoded again with what follows.
const OVERLAP: usize = 1 << 12;

/// Encodes segments that are longer than a block.
#[derive(Debug, Default)]
pub struct Stretches {
    windows: Windows,
    /// The codes of the block with which the segment begins.
    head: Vec<u16>,
    codes: Vec<u16>,
    symbols: Vec<Symbol>,
}

impl Stretches {
    /// Encodes the segment that fills the whole block and may continue in `text` at `at`; returns where decoding stopped.
    ///
    /// It is encoded stretch by stretch, joined as the windows of [`super::windows`] are. If what follows a stretch changes
    /// what was written of it, all is taken back and the segment encoded as one.
    #[inline(always)]
    pub fn encode<K: Kernel>(
        &mut self,
        tables: &Tables,
        text: Text<'_>,
        at: usize,
        block: &mut Block,
        sink: &mut Sink<'_>,
    ) -> usize {
        let (ids, after_unknown) = (sink.ids.len(), sink.after_unknown);
        self.head.clear();
        self.head.extend_from_slice(&block.codes[..block.held]);
        let mut size = STRETCH;
        loop {
            if let Some(end) = self.encode_by::<K>(tables, size, text, at, block, sink) {
                return end;
            }
            sink.ids.truncate(ids);
            sink.after_unknown = after_unknown;
            size = usize::MAX;
        }
    }

    /// Encodes the segment that begins with `self.head` and continues at `at`, `size` codes at a time; `None` if a seam does
    /// not hold.
    #[inline(always)]
    fn encode_by<K: Kernel>(
        &mut self,
        tables: &Tables,
        size: usize,
        text: Text<'_>,
        mut at: usize,
        block: &mut Block,
        sink: &mut Sink<'_>,
    ) -> Option<usize> {
        let Self { windows, head, codes, symbols } = self;
        block.clear();
        codes.clear();
        codes.extend_from_slice(head);
        let mut ended = at == text.len();
        // The last token written, whose codes are kept, and the one that followed it in its stretch.
        let mut seam: Option<(Symbol, Symbol)> = None;
        loop {
            while !ended && codes.len() < size {
                at = block.fill::<K>(&tables.codes, text, at);
                let mut last = codes[codes.len() - 1];
                let is_linked = |&&code: &&u16| {
                    let linked = tables.pairs.link(last, code).is_some();
                    last = code;
                    linked
                };
                let take = block.codes[..block.held].iter().take_while(is_linked).count();
                codes.extend_from_slice(&block.codes[..take]);
                block.advance(take);
                ended = block.held > 0 || at == text.len();
            }
            symbols.clear();
            let done = seam.map_or(0, |(last, _)| tables.length(last));
            if has_one_score(tables, &codes[done..]) {
                encode_one_score(tables, &codes[done..], symbols);
            } else {
                K::enter(
                    #[inline(always)]
                    || windows.encode::<K>(tables, &codes[done..], symbols),
                );
            }
            if let Some((last, expected)) = seam
                && symbols[0] != expected
                && !windows.may_follow::<K>(tables, codes, done, symbols[0], &[last])
            {
                return None;
            }
            if ended {
                symbols.iter().for_each(|&symbol| write_symbol(tables, symbol, block, sink));
                return Some(at);
            }
            let sure = codes.len() - OVERLAP;
            let (mut end, mut last) = (done, None);
            for &symbol in symbols.iter() {
                if end + tables.length(symbol) > sure {
                    seam = last.map(|last| (last, symbol));
                    break;
                }
                end += tables.length(symbol);
                write_symbol(tables, symbol, block, sink);
                last = Some(symbol);
            }
            // No piece is as long as a stretch, so that something has been written.
            codes.drain(..end - tables.length(last?));
        }
    }
}

fn has_one_score(tables: &Tables, codes: &[u16]) -> bool {
    let one_score =
        |pair: &[u16]| tables.pairs.link(pair[0], pair[1]).is_none_or(|entry| entry & ONE_SCORE != 0);
    codes.windows(2).all(one_score)
}

/// Encodes codes in which every pair has the common score, as [`super::segments`] does within a block. The loop over the
/// stack is in both: as a function of its own, inlined, it cost the blocks 2 to 3 % more instructions on English.
fn encode_one_score(tables: &Tables, codes: &[u16], stack: &mut Vec<Symbol>) {
    let mut before = None;
    for &code in codes {
        let mut top = tables.pairs.symbol(code);
        if let (Some(before), Some(&below)) = (before, stack.last())
            && tables.length(below) == 1
        {
            let merged = tables.char_merge(before, code).result;
            if merged != NONE {
                stack.pop();
                top = merged;
            }
        }
        while let Some(&below) = stack.last() {
            let merged = tables.merges.result(below, top);
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
