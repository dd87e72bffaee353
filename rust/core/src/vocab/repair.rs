//! Making every new piece reachable, and leaving every old one so.
//!
//! In this order:
//! 1. New pieces that stand in the way of one of the base's go.
//! 2. Dead new pieces are taken out. This changes no encoding (see [`super::pieces`]), and their room is free.
//! 3. They and the candidates there was no room for are taken in again, the most useful first, each together with the
//!    pieces it lacks to be made of (`意大` for `意大利`), as long as there is room. What needs n more pieces counts as n + 1
//!    pieces of an (n + 1)th of the use. One that would make a living piece unreachable stays out.
//!
//! After each step all new pieces that are in are alive, and all of the base's that were alive in the base.

use rustc_hash::FxHashMap;

use super::{
    filter::{Filters, Reason},
    pieces::{At, Pieces, Tracer, pairs},
};
use crate::spm::PieceKind;

/// Why a living candidate stays out when there is no room left.
pub(super) const NO_ROOM: (Reason, String) = (Reason::Room, String::new());

/// The most pieces that are added for one to be made of.
const MOST_INNER: usize = 32;

/// Repairs the choice of candidates in `pieces`; at most `room` are in afterwards. `filters` hold for added pieces, too.
pub(super) fn repair(pieces: &mut Pieces<'_>, room: usize, filters: &Filters) {
    let mut tracer = Tracer::default();
    free_old_pieces(pieces, &mut tracer);
    let dead = take_out_dead(pieces, &mut tracer);
    fill(pieces, &mut tracer, room, filters, &dead);
}

/// The pieces of the base, and whether BPE makes them by merging.
fn old_words(pieces: &Pieces<'_>) -> impl Iterator<Item = At> {
    let words = (0..).zip(pieces.base.pieces()).filter(|(_, piece)| piece.kind == PieceKind::Normal);
    words.map(|(at, _)| at).collect::<Vec<At>>().into_iter()
}

/// Takes out new pieces until each piece of the base is alive that is so in the base alone.
fn free_old_pieces(pieces: &mut Pieces<'_>, tracer: &mut Tracer) {
    let mut made = Vec::new();
    // Only pieces with new ones inside: where none is made on the way, none that goes can change anything.
    let mut touched: Vec<At> = Vec::new();
    for old in old_words(pieces).filter(|&old| pieces.may_hold_new(pieces.text(old))) {
        tracer.is_alive(pieces, pieces.text(old), true);
        tracer.made(&mut made);
        if made.iter().any(|&at| pieces.candidate(at).is_some()) {
            touched.push(old);
        }
    }
    loop {
        let mut changed = false;
        touched.retain(|&old| {
            let text = pieces.text(old);
            while !tracer.is_alive(pieces, text, true) {
                tracer.made(&mut made);
                if !tracer.is_alive(pieces, text, false) {
                    return false;
                }
                let in_the_way = most_harmful(pieces, tracer, text, &made);
                let candidate = &mut pieces.candidates[in_the_way];
                candidate.is_in = false;
                candidate.refused = Some((Reason::Breaks, text.to_string()));
                changed = true;
            }
            true
        });
        if !changed {
            return;
        }
    }
}

/// Of the new pieces that were made inside a dead old one: the least useful one without which it is alive, or else the least
/// useful.
fn most_harmful(pieces: &mut Pieces<'_>, tracer: &mut Tracer, text: &str, made: &[At]) -> usize {
    let mut new: Vec<usize> = made.iter().filter_map(|&at| pieces.candidate(at)).collect();
    let use_of = |pieces: &Pieces<'_>, number: usize| (pieces.candidates[number].uses, number);
    new.sort_by(|&a, &b| {
        let ((uses_a, a), (uses_b, b)) = (use_of(pieces, a), use_of(pieces, b));
        uses_a.total_cmp(&uses_b).then(b.cmp(&a))
    });
    let frees = new.iter().copied().find(|&number| {
        pieces.candidates[number].is_in = false;
        let is_alive = tracer.is_alive(pieces, text, true);
        pieces.candidates[number].is_in = true;
        is_alive
    });
    frees.unwrap_or(new[0])
}

/// Takes out the dead new pieces, and returns each with what is left of its text.
fn take_out_dead<'a>(pieces: &mut Pieces<'a>, tracer: &mut Tracer) -> Vec<(usize, Vec<&'a str>)> {
    let mut dead = Vec::new();
    for (number, candidate) in pieces.candidates.iter().enumerate() {
        let text = candidate.text;
        if candidate.is_in && candidate.kind == PieceKind::Normal && !tracer.is_alive(pieces, text, true) {
            dead.push((number, tracer.parts(text)));
        }
    }
    for (number, parts) in &dead {
        let candidate = &mut pieces.candidates[*number];
        candidate.is_in = false;
        candidate.refused = Some((Reason::Unreachable, parts.join(" ")));
    }
    dead
}

/// Takes in dead pieces, with what they lack, and other candidates, as long as there is room.
fn fill(
    pieces: &mut Pieces<'_>,
    tracer: &mut Tracer,
    room: usize,
    filters: &Filters,
    dead: &[(usize, Vec<&str>)],
) {
    let taken = pieces.candidates.iter().filter(|candidate| candidate.is_in).count();
    let mut left = room.saturating_sub(taken);
    let mut queue: Vec<(f64, usize)> = Vec::new();
    for (number, parts) in dead {
        queue.push((pieces.candidates[*number].uses / parts.len().saturating_sub(1).max(1) as f64, *number));
    }
    for (number, candidate) in pieces.candidates.iter().enumerate() {
        if candidate.refused.as_ref().is_some_and(|(reason, _)| *reason == Reason::Room) {
            queue.push((candidate.uses, number));
        }
    }
    queue.sort_by(|(uses, number), (others, other)| others.total_cmp(uses).then(number.cmp(other)));
    let mut way = Way::new(pieces, dead, &queue);
    for (_, number) in queue {
        if left == 0 {
            break;
        }
        if pieces.candidates[number].is_in {
            continue; // another was made of it
        }
        left -= way.take_in(pieces, tracer, number, left, filters);
    }
}

/// How candidates can come in.
struct Way {
    /// How much use there is of each pair of parts that are left of dead pieces.
    support: FxHashMap<String, f64>,
    /// The pieces in which two characters are neighbours.
    holding: FxHashMap<[char; 2], Vec<At>>,
    /// How many pieces were added for a candidate.
    before: FxHashMap<usize, u32>,
}

impl Way {
    fn new(pieces: &Pieces<'_>, dead: &[(usize, Vec<&str>)], queue: &[(f64, usize)]) -> Self {
        let mut support: FxHashMap<String, f64> = FxHashMap::default();
        for (number, parts) in dead {
            for pair in parts.windows(2) {
                *support.entry(pair.concat()).or_default() += pieces.candidates[*number].uses;
            }
        }
        // What may come in begins with two characters that a text of the queue holds.
        let mut holding: FxHashMap<[char; 2], Vec<At>> = FxHashMap::default();
        for (_, number) in queue {
            for pair in pairs(pieces.candidates[*number].text) {
                holding.entry(pair).or_default();
            }
        }
        let candidates = (0..pieces.candidates.len()).map(|number| pieces.at(number));
        for at in old_words(pieces).chain(candidates.filter(|&at| pieces.kind(at) == PieceKind::Normal)) {
            for pair in pairs(pieces.text(at)) {
                if let Some(held) = holding.get_mut(&pair)
                    && held.last() != Some(&at)
                {
                    held.push(at);
                }
            }
        }
        Self { support, holding, before: FxHashMap::default() }
    }

    /// Takes a candidate in, and the pieces that it lacks, if all find room and no living piece dies. Returns how many came.
    fn take_in(
        &mut self,
        pieces: &mut Pieces<'_>,
        tracer: &mut Tracer,
        number: usize,
        room: usize,
        filters: &Filters,
    ) -> usize {
        let text = pieces.candidates[number].text;
        let mut came = Vec::new();
        let refusal = loop {
            if pieces.candidates[number].kind != PieceKind::Normal || tracer.is_alive(pieces, text, true) {
                came.push(number);
                pieces.candidates[number].is_in = true;
                if came.len() > room {
                    break Some(pieces.candidates[number].refused.take().unwrap_or(NO_ROOM));
                }
                let killed = self.killed(pieces, tracer, &came);
                break killed.map(|killed| (Reason::Breaks, pieces.text(killed).to_string()));
            }
            let parts = tracer.parts(text);
            let lacking = (!tracer.was_cut() && came.len() < MOST_INNER)
                .then(|| self.best_pair(pieces, number, &parts, filters))
                .flatten();
            let Some(lacking) = lacking else { break Some((Reason::Unreachable, parts.join(" "))) };
            pieces.candidates[lacking].is_in = true;
            came.push(lacking);
        };
        if refusal.is_none() {
            for &number in &came {
                pieces.candidates[number].refused = None;
            }
            return came.len();
        }
        for &number in &came {
            pieces.candidates[number].is_in = false;
        }
        pieces.candidates[number].refused = refusal;
        0
    }

    /// The candidate that two neighbouring parts of a dead piece are joined to: one that a donor has, else the one that helps
    /// most, the leftmost of equals.
    fn best_pair(
        &mut self,
        pieces: &mut Pieces<'_>,
        number: usize,
        parts: &[&str],
        filters: &Filters,
    ) -> Option<usize> {
        let text = pieces.candidates[number].text;
        let mut best: Option<((bool, f64), &str)> = None;
        let mut start = 0;
        for pair in parts.windows(2) {
            let joined = &text[start..start + pair[0].len() + pair[1].len()];
            start += pair[0].len();
            let known = match pieces.find(joined) {
                None if filters.refuse(joined).is_some() => continue,
                None => None,
                Some((at, _)) => match pieces.candidate(at).and_then(|at| pieces.candidates.get(at)) {
                    None => continue, // not made of text
                    Some(candidate) if candidate.kind != PieceKind::Normal => continue,
                    Some(candidate) if matches!(candidate.refused, Some((Reason::Breaks, _))) => continue,
                    Some(candidate) => candidate.donor.map(|_| candidate.uses),
                },
            };
            let support = self.support.get(joined).copied().unwrap_or(0.0);
            let value = (known.is_some(), known.unwrap_or(support));
            if best.is_none_or(|(top, _)| value > top) {
                best = Some((value, joined));
            }
        }
        let (_, joined) = best?;
        if let Some((at, _)) = pieces.find(joined) {
            return pieces.candidate(at);
        }
        // Right before the piece that it is for, and before those that were added for it already.
        let before = self.before.entry(number).or_default();
        *before += 1;
        if *before >= pieces.step {
            return None;
        }
        let (uses, place) = (pieces.candidates[number].uses, pieces.candidates[number].place - *before);
        let inner = pieces.add(joined, PieceKind::Normal, None);
        pieces.candidates[inner].place = place;
        pieces.candidates[inner].uses = uses;
        for pair in pairs(joined) {
            self.holding.entry(pair).or_default().push(pieces.at(inner));
        }
        Some(inner)
    }

    /// A living piece that dies when these candidates are in.
    fn killed(&mut self, pieces: &Pieces<'_>, tracer: &mut Tracer, came: &[usize]) -> Option<At> {
        let mut all: Vec<At>;
        for &number in came {
            let text = pieces.candidates[number].text;
            let at = pieces.at(number);
            let holding = match pairs(text).next() {
                Some(first) => self.holding.get(&first).map_or(&[][..], Vec::as_slice),
                // A single character changes nothing, unless it is cut out.
                None if pieces.kind(at) != PieceKind::UserDefined => continue,
                None => {
                    let candidates = (0..pieces.candidates.len()).map(|number| pieces.at(number));
                    let is_normal = |&at: &At| pieces.kind(at) == PieceKind::Normal;
                    all = (0..pieces.base_len() as At).chain(candidates).filter(is_normal).collect();
                    &all
                }
            };
            for &other in holding {
                let other_text = pieces.text(other);
                let new = pieces.candidate(other).map(|other| pieces.candidates[other].is_in);
                if other != at
                    && new.unwrap_or(true)
                    && other_text.contains(text)
                    && !tracer.is_alive(pieces, other_text, true)
                    // One of the base's may be dead there, too.
                    && (new.is_some() || tracer.is_alive(pieces, other_text, false))
                {
                    return Some(other);
                }
            }
        }
        None
    }
}
