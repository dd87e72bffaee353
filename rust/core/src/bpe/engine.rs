//! The fast encoder: blocks of characters in, ids out.

#[cfg(target_arch = "x86_64")]
use super::kernel::{Avx2, Avx512};
use super::{
    block::{BLOCK, Block, List, Lists, Segment},
    cache::{CACHE_BYTES, Cache, LongCache, MAX_SYMBOLS, Place},
    codes::SPACE,
    kernel::{Kernel, Key, Portable, RUN},
    long::Long,
    merges::{Merges, NO_MERGE, NONE, Symbol},
    rules::Rules,
    run::Run,
    write::Sink,
};
use crate::{memory::Ahead, text::Text};

/// Longest segment the cache takes.
const MAX_CACHED: usize = 16;

/// What one thread keeps between texts: a block in work, and what segments have become before. About 5 MB,
/// most of it the cache, and more only if a segment longer than a stretch had to be done as one.
#[derive(Debug)]
pub struct EngineScratch {
    /// What will be read next.
    pub ahead: Ahead,
    pub block: Block,
    cache: Cache,
    long_cache: LongCache,
    lists: Lists,
    searches: List<Search>,
    seconds: List<Second>,
    keyed: List<Keyed>,
    stack: Vec<Symbol>,
    run: Run,
    pub long: Long,
    pub long_codes: Vec<u16>,
    pub long_symbols: Vec<Symbol>,
}

impl EngineScratch {
    /// Working memory with a cache of so many bytes, see [`Cache::new`].
    pub fn with_cache(bytes: usize) -> Self {
        Self {
            ahead: Ahead::default(),
            block: Block::default(),
            cache: Cache::new(bytes),
            long_cache: LongCache::default(),
            lists: Lists::default(),
            searches: List::default(),
            seconds: List::default(),
            keyed: List::default(),
            stack: Vec::new(),
            run: Run::default(),
            long: Long::default(),
            long_codes: Vec::new(),
            long_symbols: Vec::new(),
        }
    }
}

impl Default for EngineScratch {
    fn default() -> Self {
        Self::with_cache(CACHE_BYTES)
    }
}

/// A segment on its way to the cache.
#[derive(Clone, Copy, Debug, Default)]
struct Keyed {
    key: Key,
    place: Place,
    segment: Segment,
}

/// A look-up in the merge table that has begun.
#[derive(Clone, Copy, Debug, Default)]
struct Search {
    start: u32,
    left: Symbol,
    right: Symbol,
    name: u64,
}

/// The second look-up for a segment of four characters.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    search: Search,
    /// Tokens of the segment that stand before the two: none, or its first character.
    before: usize,
    /// Tokens that stand behind them whatever comes: none, or `last`.
    behind: usize,
    /// The segment's last character.
    last: Symbol,
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

impl Rules {
    /// Appends the ids of `text`, which holds no USER_DEFINED piece and in which a space counts as `▁`.
    /// `prefix` puts a `▁` in front.
    pub fn encode(&self, text: Text<'_>, prefix: bool, scratch: &mut EngineScratch, sink: &mut Sink<'_>) {
        on_best_kernel!(K => self.encode_on::<K>(text, prefix, scratch, sink));
    }

    /// [`Self::encode`] with the instructions and the loops of one kernel, which this processor must have.
    pub fn encode_on<K: Kernel>(
        &self,
        text: Text<'_>,
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
    ) {
        K::enter(
            #[inline(always)]
            || self.encode_with::<K>(text, prefix, scratch, sink),
        );
    }

    /// Appends the ids of several texts, and writes to `ends` where each ends. They share one block: with their
    /// [`SHORT_COST`](super::block::SHORT_COST) they have at most [`SHORT`](super::block::SHORT) units together.
    /// `prefix` puts a `▁` in front of each that is not empty.
    pub fn encode_short(
        &self,
        texts: &[Text<'_>],
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
        ends: &mut [i64],
    ) {
        on_best_kernel!(K => self.encode_short_on::<K>(texts, prefix, scratch, sink, ends));
    }

    /// [`Self::encode_short`] on one kernel.
    pub fn encode_short_on<K: Kernel>(
        &self,
        texts: &[Text<'_>],
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
        ends: &mut [i64],
    ) {
        K::enter(
            #[inline(always)]
            || {
                scratch.block.clear();
                for &text in texts {
                    if prefix && !text.is_empty() {
                        scratch.block.push(SPACE);
                    }
                    scratch.block.fill::<K>(&self.codes, text, 0);
                    scratch.block.end_text();
                }
                scratch.block.link::<K>(&self.pairs, &mut scratch.ahead);
                self.answer::<K>(scratch.block.held, scratch, sink);
                ends.iter_mut().zip(&scratch.block.ends).for_each(|(to, &end)| *to = end as i64);
            },
        );
    }

    #[inline(always)]
    fn encode_with<K: Kernel>(
        &self,
        text: Text<'_>,
        prefix: bool,
        scratch: &mut EngineScratch,
        sink: &mut Sink<'_>,
    ) {
        scratch.block.clear();
        if prefix {
            scratch.block.push(SPACE);
        }
        let mut at = 0;
        loop {
            at = scratch.block.fill::<K>(&self.codes, text, at);
            let EngineScratch { block, ahead, .. } = scratch;
            if block.held == 0 {
                return;
            }
            if ahead.is_done() {
                let (start, bytes) = text.memory_from(at);
                *ahead = Ahead::new(start, bytes.min(2 * BLOCK));
            }
            block.link::<K>(&self.pairs, ahead);
            let cut = if at == text.len() { block.held } else { block.last_cut() };
            if cut == 0 {
                at = K::enter(
                    #[inline(always)]
                    || self.encode_long::<K>(text, at, scratch, sink),
                );
                continue;
            }
            self.answer::<K>(cut, scratch, sink);
            scratch.block.advance(cut);
        }
    }

    /// Writes the ids of the first `cut` characters of a block that has been linked.
    #[inline(always)]
    fn answer<K: Kernel>(&self, cut: usize, scratch: &mut EngineScratch, sink: &mut Sink<'_>) {
        scratch.block.cut_segments::<K>(cut, &mut scratch.lists);
        self.answer_three(scratch);
        self.answer_four(scratch);
        self.answer_one_score(scratch);
        self.answer_mixed::<K>(scratch);
        self.write::<K>(&mut scratch.block, cut, sink);
    }

    /// Answers the segments of three characters in which every pair has the common score: [`Self::answer_one_score`]
    /// without a branch.
    ///
    /// Where a pair is a piece, `tokens` holds it at its first character already. So the first token is right as
    /// it stands; the second one is at the third character if the first pair is a piece, else at the second; and
    /// what is left to ask is whether the two merge. The searches are begun for the whole block before the first
    /// is read.
    #[inline(always)]
    fn answer_three(&self, scratch: &mut EngineScratch) {
        let EngineScratch { block, lists, searches, .. } = scratch;
        searches.clear();
        for &start in lists.three.iter() {
            let at = start as usize;
            let [left, second, third] = [0, 1, 2].map(|i| block.tokens[at + i]);
            let right = if block.is_piece(at) { third } else { second };
            let name = Merges::name(left, right);
            self.merges.prefetch(name);
            searches.push(Search { start, left, right, name });
        }
        for &Search { start, left, right, name } in searches.iter() {
            let at = start as usize;
            let merged = self.merges.result_at(name);
            let apart = if block.is_piece(at) | block.is_piece(at + 1) { 2 } else { 3 };
            let n = if merged == NONE { apart } else { 1 };
            block.tokens[at] = if merged == NONE { left } else { merged };
            block.tokens[at + 1] = right;
            block.shorten(Segment { start, len: 3 }, n);
        }
    }

    /// The same for four characters a b c d. What the stack holds before the last one is one of
    ///
    /// - `abc`, if the first search succeeded;
    /// - `ab` `c` or `ab` `cd`, whose second half nothing but `ab` can join;
    /// - `a` and behind it `b` `c`, `b` `cd` or `bc` `d`, of which the last two may be joined, and then, seldom, by `a`.
    ///
    /// Pairs of single characters are searched for in vain: their results are in the pair table.
    #[inline(always)]
    fn answer_four(&self, scratch: &mut EngineScratch) {
        let EngineScratch { block, lists, searches, seconds, .. } = scratch;
        searches.clear();
        for &start in lists.four.iter() {
            let at = start as usize;
            let (left, second) = (block.tokens[at], block.tokens[at + 1]);
            let third = self.pairs.symbol(block.codes[at + 2]);
            let right = if block.is_piece(at) { third } else { second };
            let name = Merges::name(left, right);
            self.merges.prefetch(name);
            searches.push(Search { start, left, right, name });
        }
        seconds.clear();
        for &Search { start, left, name, .. } in searches.iter() {
            let at = start as usize;
            let merged = self.merges.result_at(name);
            let pieces = block.pieces_from(at);
            let (is_three, is_first_pair) = (merged != NONE, pieces & 1 != 0);
            let is_second_pair = pieces & 0b11 == 0b10;
            let [second, third, last] = [1, 2, 3].map(|i| block.tokens[at + i]);
            let left = if is_first_pair { left } else { second };
            let left = if is_three { merged } else { left };
            let right = if is_three | is_second_pair { last } else { third };
            let name = Merges::name(left, right);
            self.merges.prefetch(name);
            let search = Search { start, left, right, name };
            let before = usize::from(!(is_three | is_first_pair));
            let behind = usize::from(!(is_three | is_second_pair | (pieces & 0b100 != 0)));
            seconds.push(Second { search, before, behind, last });
        }
        for &Second { search: Search { start, left, right, name }, before, behind, last } in seconds.iter() {
            let at = start as usize + before;
            let merged = self.merges.result_at(name);
            let is_merged = merged != NONE;
            block.tokens[at] = if is_merged { merged } else { left };
            block.tokens[at + 1] = right;
            block.tokens[at + 2] = last;
            let mut n = before + 1 + usize::from(!is_merged) + behind;
            if is_merged && before > 0 {
                let all = self.merges.result(block.tokens[at - 1], merged);
                if all != NONE {
                    (block.tokens[at - 1], n) = (all, 1);
                }
            }
            block.shorten(Segment { start, len: 4 }, n);
        }
    }

    /// Answers the segments of more characters in which every pair has the common score.
    ///
    /// Theorem P2: where all merges have one score, the leftmost always comes first, and that is what a stack
    /// does: push a character; while the two on top merge, merge them.
    #[inline(always)]
    fn answer_one_score(&self, scratch: &mut EngineScratch) {
        let EngineScratch { block, lists, stack, .. } = scratch;
        for &segment in lists.one_score.iter() {
            let (start, len) = (segment.start as usize, segment.len as usize);
            stack.clear();
            // True if the top is the last character by itself.
            let mut single = false;
            for at in start..start + len {
                let mut top = self.pairs.symbol(block.codes[at]);
                if single {
                    // Two characters need no search: the pair is known.
                    if !block.is_piece(at - 1) {
                        stack.push(top);
                        continue;
                    }
                    stack.pop();
                    top = block.tokens[at - 1];
                }
                single = !single;
                while let Some(&below) = stack.last() {
                    let merged = self.merges.result(below, top);
                    if merged == NONE {
                        break;
                    }
                    stack.pop();
                    top = merged;
                    single = false;
                }
                stack.push(top);
            }
            block.tokens[start..start + stack.len()].copy_from_slice(stack);
            block.shorten(segment, stack.len());
        }
    }

    /// Answers the other segments: short ones from the cache or by merging, long ones in windows.
    #[inline(always)]
    fn answer_mixed<K: Kernel>(&self, scratch: &mut EngineScratch) {
        let EngineScratch { block, cache, long_cache, lists, keyed, run, long, long_symbols, .. } = scratch;
        keyed.clear();
        for &segment in lists.mixed.iter() {
            let (start, len) = (segment.start as usize, segment.len as usize);
            if len <= MAX_CACHED
                && let Some(codes) = block.codes[start..].first_chunk()
                && let Some(key) = K::key(codes, len)
            {
                let place = cache.place(&key, len);
                cache.prefetch(place);
                keyed.push(Keyed { key, place, segment });
            } else if len <= RUN {
                let n = self.merge_longer::<K>(block, segment, run, long_cache);
                block.shorten(segment, n);
            } else {
                long_symbols.clear();
                K::enter(
                    #[inline(always)]
                    || long.encode::<K>(self, &block.codes[start..start + len], long_symbols),
                );
                block.tokens[start..start + long_symbols.len()].copy_from_slice(long_symbols);
                block.shorten(segment, long_symbols.len());
            }
        }
        for &Keyed { key, place, segment } in keyed.iter() {
            let start = segment.start as usize;
            let n = match cache.get(&key, place) {
                Some((symbols, n)) => {
                    let symbol = |i: usize| (symbols >> (24 * i)) as u32 & 0xFF_FFFF;
                    let to = &mut block.tokens[start..];
                    // The segment has three characters at least, so three can be written unasked.
                    to[..3].copy_from_slice(&[symbol(0), symbol(1), symbol(2)]);
                    if n > 3 {
                        to[3] = symbol(3);
                        if n > 4 {
                            to[4] = symbol(4);
                        }
                    }
                    n
                }
                None => {
                    let n = self.merge_in_block::<K>(block, segment, run);
                    if n <= MAX_SYMBOLS {
                        cache.put(&key, place, run.symbols(n));
                    }
                    for (to, symbol) in block.tokens[start..].iter_mut().zip(run.symbols(n)) {
                        *to = symbol;
                    }
                    n
                }
            };
            block.shorten(segment, n);
        }
    }

    /// Answers a segment of 17 to 64 characters, or a shorter one without a key; returns its number of tokens.
    #[inline(always)]
    fn merge_longer<K: Kernel>(
        &self,
        block: &mut Block,
        segment: Segment,
        run: &mut Run,
        cache: &mut LongCache,
    ) -> usize {
        let (start, len) = (segment.start as usize, segment.len as usize);
        let key = block.codes[start..].first_chunk().and_then(|codes| LongCache::key(codes, len));
        if let Some(symbols) = key.and_then(|key| cache.get(&key, len)) {
            block.tokens[start..start + symbols.len()].copy_from_slice(symbols);
            return symbols.len();
        }
        let n = self.merge_in_block::<K>(block, segment, run);
        if let Some(key) = key {
            cache.put(&key, len, n, run.symbols(n));
        }
        for (to, symbol) in block.tokens[start..].iter_mut().zip(run.symbols(n)) {
            *to = symbol;
        }
        n
    }

    /// Merges a segment of up to 64 characters, whose pairs are known from linking.
    #[inline(always)]
    fn merge_in_block<K: Kernel>(&self, block: &Block, segment: Segment, run: &mut Run) -> usize {
        let (start, end) = (segment.start as usize, (segment.start + segment.len) as usize);
        let symbols = block.codes[start..end].iter().map(|&code| self.pairs.symbol(code));
        let pairs = (start..end - 1)
            .map(|at| if block.is_piece(at) { self.merges.making(block.tokens[at]) } else { NO_MERGE });
        run.merge::<K>(&self.merges, symbols, pairs)
    }
}
