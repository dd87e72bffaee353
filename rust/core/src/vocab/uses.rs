//! How often pieces are used on a text: as tokens, and inside the pieces that are made of them.

use super::pieces::{At, Pieces, Tracer};
use crate::spm::PieceKind;

/// How often each candidate of `pieces` is made when a text is encoded that becomes so many tokens of each of them
/// (`tokens` by number, `old_tokens` by the base's ids): as a token, and on the way to longer pieces.
pub(super) fn times_made(pieces: &Pieces<'_>, tokens: &[u64], old_tokens: &[u64]) -> Vec<u64> {
    let mut made: Vec<u64> = old_tokens.iter().chain(tokens).copied().collect();
    let mut by_length: Vec<(usize, At)> = (0..made.len() as At)
        .filter(|&at| pieces.kind(at) == PieceKind::Normal || pieces.kind(at) == PieceKind::Unused)
        .map(|at| (pieces.text(at).chars().count(), at))
        .collect();
    by_length.sort_unstable_by(|a, b| b.cmp(a));
    let mut tracer = Tracer::default();
    for (length, at) in by_length {
        if length > 2 && made[at as usize] > 0 && tracer.is_alive(pieces, pieces.text(at), true) {
            for part in tracer.made_of() {
                made[part as usize] += made[at as usize];
            }
        }
    }
    made.split_off(pieces.base_len())
}
