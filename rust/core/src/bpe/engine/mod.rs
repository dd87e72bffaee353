//! The engine: text in any form, block by block, to ids.

mod block;
mod cache;
mod lists;
mod registers;
mod segments;
mod short;
mod stretch;
mod windows;
mod write;

use self::{block::Block, lists::BLOCK, segments::Segments, stretch::Stretches, write::write_block};
pub use self::{
    cache::{CACHE_BYTES, MAX_CACHE_BYTES},
    short::ShortTexts,
};
#[cfg(target_arch = "x86_64")]
use super::kernel::{Avx2, Avx512};
use super::{
    kernel::{Kernel, Portable},
    sink::Sink,
    tables::{Tables, codes::SPACE},
};
use crate::{memory::Ahead, spm::SpmModel, text::Text};

/// Encodes normalised text, in any form and with spaces or `▁`, that holds no USER_DEFINED piece.
#[derive(Debug)]
pub struct Engine {
    tables: Tables,
}

/// What a thread keeps between texts: a block in work, and what segments have become before. About 5 MB, most of it the
/// cache, and more only after a segment longer than a stretch that had to be encoded as one.
#[derive(Debug)]
pub struct EngineScratch {
    /// What will be read next.
    pub ahead: Ahead,
    block: Block,
    segments: Segments,
    stretches: Stretches,
}

impl EngineScratch {
    /// Working memory with a cache of at most so many bytes.
    pub fn with_cache(bytes: usize) -> Self {
        Self {
            ahead: Ahead::default(),
            block: Block::default(),
            segments: Segments::with_cache(bytes),
            stretches: Stretches::default(),
        }
    }
}

impl Default for EngineScratch {
    fn default() -> Self {
        Self::with_cache(CACHE_BYTES)
    }
}

/// Evaluates the expression with `$kernel` as the best kernel that this processor has.
macro_rules! on_best_kernel {
    ($kernel:ident => $work:expr) => {{
        #[cfg(target_arch = "x86_64")]
        {
            if Avx512::is_available() {
                type $kernel = Avx512;
                return $work;
            }
            if Avx2::is_available() {
                type $kernel = Avx2;
                return $work;
            }
        }
        type $kernel = Portable;
        $work
    }};
}

impl Engine {
    /// The engine of a model, if its tables take it.
    pub fn new(model: &SpmModel) -> Option<Self> {
        Tables::new(model).map(|tables| Self { tables })
    }

    /// True if text may be cut between these characters (theorem P1).
    pub fn may_cut(&self, left: char, right: char) -> bool {
        self.tables.may_cut(left, right)
    }

    /// What [`Self::encode`] writes to; see [`Sink::new`].
    pub fn sink<'a>(&'a self, fuses: bool, ids: &'a mut Vec<u32>) -> Sink<'a> {
        Sink::new(&self.tables.fallback, fuses, ids)
    }

    /// Writes the ids of `text`, with a `▁` before it if `prefix` is set.
    pub fn encode(&self, text: Text<'_>, prefix: bool, scratch: &mut EngineScratch, sink: &mut Sink<'_>) {
        on_best_kernel!(K => self.encode_on::<K>(text, prefix, scratch, sink));
    }

    /// [`Self::encode`] on one kernel, which this processor must have.
    pub fn encode_on<K: Kernel>(
        &self,
        text: Text<'_>,
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
    ) {
        K::enter(
            #[inline(always)]
            || {
                let EngineScratch { ahead, block, segments, stretches } = scratch;
                block.clear();
                if prefix {
                    block.push(SPACE);
                }
                let mut at = 0;
                loop {
                    at = block.fill::<K>(&self.tables.codes, text, at);
                    if block.held == 0 {
                        return;
                    }
                    if ahead.is_done() {
                        let (start, bytes) = text.memory_from(at);
                        *ahead = Ahead::new(start, bytes.min(2 * BLOCK));
                    }
                    block.link::<K>(&self.tables.pairs, ahead);
                    let cut = if at == text.len() { block.held } else { block.last_cut() };
                    if cut == 0 {
                        at = K::enter(
                            #[inline(always)]
                            || stretches.encode::<K>(&self.tables, text, at, block, sink),
                        );
                        continue;
                    }
                    segments.encode::<K>(&self.tables, block, cut);
                    write_block::<K>(&self.tables, block, cut, sink);
                    block.advance(cut);
                }
            },
        );
    }

    /// Writes the ids of several short texts, which share one block, and notes in `ends` the number of ids up to the end of
    /// each. `prefix` puts a `▁` before each that is not empty.
    pub fn encode_short(
        &self,
        texts: &ShortTexts<'_>,
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
        ends: &mut [i64],
    ) {
        on_best_kernel!(K => self.encode_short_on::<K>(texts, prefix, scratch, sink, ends));
    }

    /// [`Self::encode_short`] on one kernel, which this processor must have.
    pub fn encode_short_on<K: Kernel>(
        &self,
        texts: &ShortTexts<'_>,
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
        ends: &mut [i64],
    ) {
        K::enter(
            #[inline(always)]
            || {
                let EngineScratch { ahead, block, segments, .. } = scratch;
                block.clear();
                for &text in texts.as_slice() {
                    if prefix && !text.is_empty() {
                        block.push(SPACE);
                    }
                    block.fill::<K>(&self.tables.codes, text, 0);
                    block.end_text();
                }
                block.link::<K>(&self.tables.pairs, ahead);
                let cut = block.held;
                segments.encode::<K>(&self.tables, block, cut);
                write_block::<K>(&self.tables, block, cut, sink);
                ends.iter_mut().zip(&block.ends).for_each(|(to, &end)| *to = end as i64);
            },
        );
    }
}
