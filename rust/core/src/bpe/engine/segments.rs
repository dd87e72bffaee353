//! The segments of three and more characters: each list of a block by the quickest way that is right for it.

use super::{
    block::Block,
    cache::{Cache, LongCache, MAX_SYMBOLS, Slot},
    lists::{List, Lists, Segment},
    registers::RegisterMerger,
    windows::Windows,
};
use crate::bpe::{
    kernel::{Kernel, Key, WINDOW},
    symbol::{NO_MERGE, NONE, Symbol},
    tables::{Tables, merges::Merges},
};

/// Longest segment that the first cache takes.
const MAX_CACHED: usize = 16;

/// Encodes the segments of a block, and remembers what they have become.
#[derive(Debug)]
pub struct Segments {
    lists: Lists,
    probes: List<Probe>,
    seconds: List<SecondProbe>,
    keyed: List<Keyed>,
    stack: Vec<Symbol>,
    cache: Cache,
    long_cache: LongCache,
    registers: RegisterMerger,
    windows: Windows,
    long_symbols: Vec<Symbol>,
}

/// A segment on its way to the cache.
#[derive(Clone, Copy, Debug, Default)]
struct Keyed {
    key: Key,
    slot: Slot,
    segment: Segment,
}

/// A look-up in the merge table whose slot has been prefetched.
#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    start: u32,
    left: Symbol,
    right: Symbol,
    hash: u64,
}

/// The second look-up for a segment of four characters.
#[derive(Clone, Copy, Debug, Default)]
struct SecondProbe {
    probe: Probe,
    /// Tokens of the segment before the two: none, or its first character.
    before: usize,
    /// Tokens after the two, whatever these become: none, or `last`.
    after: usize,
    /// The segment's last character.
    last: Symbol,
}

impl Segments {
    /// Working memory with a cache of so many bytes, see [`Cache::new`].
    pub fn with_cache(bytes: usize) -> Self {
        Self {
            lists: Lists::default(),
            probes: List::default(),
            seconds: List::default(),
            keyed: List::default(),
            stack: Vec::new(),
            cache: Cache::new(bytes),
            long_cache: LongCache::default(),
            registers: RegisterMerger::default(),
            windows: Windows::default(),
            long_symbols: Vec::new(),
        }
    }

    /// Encodes the first `cut` characters of a block that has been linked.
    #[inline(always)]
    pub fn encode<K: Kernel>(&mut self, tables: &Tables, block: &mut Block, cut: usize) {
        block.cut_segments::<K>(cut, &mut self.lists);
        self.encode_three(tables, block);
        self.encode_four(tables, block);
        self.encode_one_score(tables, block);
        self.encode_mixed::<K>(tables, block);
    }

    /// Encodes the segments of three characters in which every pair has the common score: [`Self::encode_one_score`]
    /// without a branch.
    ///
    /// Where a pair is a piece, `tokens` holds it at its first character already. So the first token is right as
    /// it is; the second one is at the third character if the first pair is a piece, else at the second; and
    /// what is left to look up is whether the two merge. The look-ups of the whole block are prefetched before the first
    /// is read.
    #[inline(always)]
    fn encode_three(&mut self, tables: &Tables, block: &mut Block) {
        let Self { lists, probes, .. } = self;
        probes.clear();
        for &start in lists.three.iter() {
            let at = start as usize;
            let [left, second, third] = [0, 1, 2].map(|i| block.tokens[at + i]);
            let right = if block.is_piece(at) { third } else { second };
            let hash = Merges::hash(left, right);
            tables.merges.prefetch(hash);
            probes.push(Probe { start, left, right, hash });
        }
        for &Probe { start, left, right, hash } in probes.iter() {
            let at = start as usize;
            let merged = tables.merges.result_at(hash);
            let apart = if block.is_piece(at) | block.is_piece(at + 1) { 2 } else { 3 };
            let n = if merged == NONE { apart } else { 1 };
            block.tokens[at] = if merged == NONE { left } else { merged };
            block.tokens[at + 1] = right;
            block.shorten(Segment { start, len: 3 }, n);
        }
    }

    /// The same for four characters a b c d. What the stack holds before the last one is one of
    ///
    /// - `abc`, if the first look-up finds a merge;
    /// - `ab` `c` or `ab` `cd`, whose second half can only merge with `ab`;
    /// - `a` and after it `b` `c`, `b` `cd` or `bc` `d`, of which the last two may merge, and then, seldom, with `a`.
    ///
    /// Pairs of single characters are never found: their results are in the pair table.
    #[inline(always)]
    fn encode_four(&mut self, tables: &Tables, block: &mut Block) {
        let Self { lists, probes, seconds, .. } = self;
        probes.clear();
        for &start in lists.four.iter() {
            let at = start as usize;
            let (left, second) = (block.tokens[at], block.tokens[at + 1]);
            let third = tables.pairs.symbol(block.codes[at + 2]);
            let right = if block.is_piece(at) { third } else { second };
            let hash = Merges::hash(left, right);
            tables.merges.prefetch(hash);
            probes.push(Probe { start, left, right, hash });
        }
        seconds.clear();
        for &Probe { start, left, hash, .. } in probes.iter() {
            let at = start as usize;
            let merged = tables.merges.result_at(hash);
            let pieces = block.pieces_from(at);
            let (is_three, is_first_pair) = (merged != NONE, pieces & 1 != 0);
            let is_second_pair = pieces & 0b11 == 0b10;
            let [second, third, last] = [1, 2, 3].map(|i| block.tokens[at + i]);
            let left = if is_first_pair { left } else { second };
            let left = if is_three { merged } else { left };
            let right = if is_three | is_second_pair { last } else { third };
            let hash = Merges::hash(left, right);
            tables.merges.prefetch(hash);
            let probe = Probe { start, left, right, hash };
            let before = usize::from(!(is_three | is_first_pair));
            let after = usize::from(!(is_three | is_second_pair | (pieces & 0b100 != 0)));
            seconds.push(SecondProbe { probe, before, after, last });
        }
        for &SecondProbe { probe: Probe { start, left, right, hash }, before, after, last } in seconds.iter()
        {
            let at = start as usize + before;
            let merged = tables.merges.result_at(hash);
            let is_merged = merged != NONE;
            block.tokens[at] = if is_merged { merged } else { left };
            block.tokens[at + 1] = right;
            block.tokens[at + 2] = last;
            let mut n = before + 1 + usize::from(!is_merged) + after;
            if is_merged && before > 0 {
                let all = tables.merges.result(block.tokens[at - 1], merged);
                if all != NONE {
                    (block.tokens[at - 1], n) = (all, 1);
                }
            }
            block.shorten(Segment { start, len: 4 }, n);
        }
    }

    /// Encodes the segments of more characters in which every pair has the common score.
    ///
    /// Theorem P2: where all merges have one score, the leftmost always comes first, and that is what a stack
    /// does: push a character; while the two topmost symbols merge, merge them.
    #[inline(always)]
    fn encode_one_score(&mut self, tables: &Tables, block: &mut Block) {
        let Self { lists, stack, .. } = self;
        for &segment in lists.one_score.iter() {
            let (start, len) = (segment.start as usize, segment.len as usize);
            stack.clear();
            // True if the top is the last character by itself.
            let mut single = false;
            for at in start..start + len {
                let mut top = tables.pairs.symbol(block.codes[at]);
                if single {
                    // Two characters need no look-up: the pair is known.
                    if !block.is_piece(at - 1) {
                        stack.push(top);
                        continue;
                    }
                    stack.pop();
                    top = block.tokens[at - 1];
                }
                single = !single;
                while let Some(&below) = stack.last() {
                    let merged = tables.merges.result(below, top);
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

    /// Encodes the other segments: short ones from the cache or by merging, long ones in windows.
    #[inline(always)]
    fn encode_mixed<K: Kernel>(&mut self, tables: &Tables, block: &mut Block) {
        let Self { lists, keyed, cache, long_cache, registers, windows, long_symbols, .. } = self;
        keyed.clear();
        for &segment in lists.mixed.iter() {
            let (start, len) = (segment.start as usize, segment.len as usize);
            if len <= MAX_CACHED
                && let Some(codes) = block.codes[start..].first_chunk()
                && let Some(key) = K::key(codes, len)
            {
                let slot = cache.slot(&key, len);
                cache.prefetch(slot);
                keyed.push(Keyed { key, slot, segment });
            } else if len <= WINDOW {
                let n = merge_longer::<K>(tables, block, segment, registers, long_cache);
                block.shorten(segment, n);
            } else {
                long_symbols.clear();
                K::enter(
                    #[inline(always)]
                    || windows.encode::<K>(tables, &block.codes[start..start + len], long_symbols),
                );
                block.tokens[start..start + long_symbols.len()].copy_from_slice(long_symbols);
                block.shorten(segment, long_symbols.len());
            }
        }
        for &Keyed { key, slot, segment } in keyed.iter() {
            let start = segment.start as usize;
            let n = match cache.get(&key, slot) {
                Some((symbols, n)) => {
                    let symbol = |i: usize| (symbols >> (24 * i)) as u32 & 0xFF_FFFF;
                    let to = &mut block.tokens[start..];
                    // The segment has three characters at least, so there is room for three.
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
                    let n = merge_in_block::<K>(tables, block, segment, registers);
                    if n <= MAX_SYMBOLS {
                        cache.put(&key, slot, registers.symbols(n));
                    }
                    for (to, symbol) in block.tokens[start..].iter_mut().zip(registers.symbols(n)) {
                        *to = symbol;
                    }
                    n
                }
            };
            block.shorten(segment, n);
        }
    }
}

/// Encodes a segment of 17 to 64 characters, or a shorter one without a key; returns its number of tokens.
#[inline(always)]
fn merge_longer<K: Kernel>(
    tables: &Tables,
    block: &mut Block,
    segment: Segment,
    registers: &mut RegisterMerger,
    cache: &mut LongCache,
) -> usize {
    let (start, len) = (segment.start as usize, segment.len as usize);
    let key = block.codes[start..].first_chunk().and_then(|codes| LongCache::key(codes, len));
    if let Some(symbols) = key.and_then(|key| cache.get(&key, len)) {
        block.tokens[start..start + symbols.len()].copy_from_slice(symbols);
        return symbols.len();
    }
    let n = merge_in_block::<K>(tables, block, segment, registers);
    if let Some(key) = key {
        cache.put(&key, len, n, registers.symbols(n));
    }
    for (to, symbol) in block.tokens[start..].iter_mut().zip(registers.symbols(n)) {
        *to = symbol;
    }
    n
}

/// Merges a segment of up to 64 characters, whose pairs are known from linking.
#[inline(always)]
fn merge_in_block<K: Kernel>(
    tables: &Tables,
    block: &Block,
    segment: Segment,
    registers: &mut RegisterMerger,
) -> usize {
    let (start, end) = (segment.start as usize, (segment.start + segment.len) as usize);
    let symbols = block.codes[start..end].iter().map(|&code| tables.pairs.symbol(code));
    let pairs = (start..end - 1)
        .map(|at| if block.is_piece(at) { tables.merges.making(block.tokens[at]) } else { NO_MERGE });
    registers.merge::<K>(&tables.merges, symbols, pairs)
}
