//! From tokens to ids: what is kept of a block is packed, and what is no piece is written one by one.

use super::block::Block;
use crate::bpe::{
    kernel::{Kernel, ROOM},
    sink::Sink,
    symbol::Symbol,
    tables::{Tables, codes::ASTRAL},
};

/// Of 64 tokens, so many that are no piece make it quicker to write token by token than to pack what is between them.
const MANY: u32 = 6;

/// Writes the tokens of the first `cut` characters; `block.ends` become numbers of ids.
#[inline(always)]
pub fn write_block<K: Kernel>(tables: &Tables, block: &mut Block, cut: usize, sink: &mut Sink<'_>) {
    let mut ended = 0;
    for start in (0..cut).step_by(64) {
        let (before, keep) = (sink.ids.len(), block.keep_at(start));
        let unknown = write_pieces::<K>(tables, block.tokens_at(start), keep, sink);
        if unknown != 0 {
            K::enter(
                #[inline(always)]
                || write_mixed::<K>(tables, start, unknown, block, &mut ended, sink),
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
fn write_pieces<K: Kernel>(tables: &Tables, tokens: &[Symbol; 64], keep: u64, sink: &mut Sink<'_>) -> u64 {
    sink.ids.reserve(ROOM);
    let Some(room) = sink.ids.spare_capacity_mut().first_chunk_mut() else { return keep };
    let unknown = K::compact(tokens, keep, tables.vocab, room);
    if unknown == 0 {
        let n = keep.count_ones() as usize;
        // SAFETY: `compact` has written the first n of the room, one for each bit of `keep`.
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
    tables: &Tables,
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
        write_part::<K>(tables, start, keep & part, unknown & part, block, sink);
        block.ends[*ended] = sink.ids.len();
        sink.after_unknown = false;
        done |= part;
        *ended += 1;
    }
    write_part::<K>(tables, start, keep & !done, unknown & !done, block, sink);
}

/// Writes those of the 64 tokens from `at` on that are in `keep`: the `unknown` ones, which are no pieces, one by
/// one, and what is between them at once.
#[inline(always)]
fn write_part<K: Kernel>(
    tables: &Tables,
    mut at: usize,
    mut keep: u64,
    mut unknown: u64,
    block: &mut Block,
    sink: &mut Sink<'_>,
) {
    if unknown.count_ones() > MANY {
        let tokens = *block.tokens_at(at);
        while keep != 0 {
            write_symbol(tables, tokens[keep.trailing_zeros() as usize], block, sink);
            keep &= keep - 1;
        }
        return;
    }
    while unknown != 0 {
        let known = unknown.trailing_zeros();
        write_pieces::<K>(tables, block.tokens_at(at), keep & ((1 << known) - 1), sink);
        at += known as usize;
        write_symbol(tables, block.tokens[at], block, sink);
        // In two steps: the last of 64 may be the one.
        (at, keep, unknown) = (at + 1, keep >> known >> 1, unknown >> known >> 1);
    }
    write_pieces::<K>(tables, block.tokens_at(at), keep, sink);
}

/// Writes one symbol: a piece, or what is written for a character that is none, or for an UNUSED piece.
#[inline]
pub fn write_symbol(tables: &Tables, symbol: Symbol, block: &mut Block, sink: &mut Sink<'_>) {
    let Some(code) = symbol.checked_sub(tables.vocab) else { return sink.piece(symbol) };
    let Ok(code) = u16::try_from(code) else {
        let split = tables.splits.get(code as usize - (1 << 16)).into_iter().flatten();
        return split.for_each(|&part| write_symbol(tables, part, block, sink));
    };
    sink.unknown(if code == ASTRAL { block.next_astral() } else { tables.codes.char(code) });
}
