//! Continued BPE: a base learns further pieces from a corpus.
//!
//! Text is cut into runs ([`cut`]), which are counted ([`count`]) and written as symbols of the base ([`build`]). Then the pair
//! that is counted most becomes a piece, and so on ([`learn`]). The scores of the new pieces fall in the order of learning,
//! so that an encoder makes the same merges in the same order, and each new piece is reached (arXiv 2512.03989 shows that this
//! is not so for pieces of a vocabulary trained apart).

mod build;
mod candidates;
mod count;
mod cut;
mod learn;
mod options;
#[cfg(test)]
mod oracle;
mod pairs;
mod pool;
mod slots;
mod symbols;

use rustc_hash::FxHashSet;

pub use self::{build::Placement, count::RunCounter, cut::Scripts, options::ExtendOptions};
use self::{build::Start, learn::Learner, pool::on_pool};
use super::dead_pieces;
use crate::{
    Error, Result,
    spm::{ModelKind, PieceKind, SpmModel},
};

/// An extended model and how it came about.
#[derive(Clone, Debug)]
pub struct Extended {
    /// The base with the new pieces after its own.
    pub model: SpmModel,
    /// Where their scores lie.
    pub placement: Placement,
    /// New pieces; fewer than asked for where the text gives no more.
    pub new_pieces: usize,
    /// Of them, characters of the list that came first.
    pub characters: usize,
    /// Of these, characters that the text does not have.
    pub unseen: usize,
}

/// Threads that learn, at most: half of all merges are at fewer places than would keep so many busy.
const MOST_THREADS: usize = 8;

/// Learns pieces from counted runs, and appends them to `base`. `watch` is told how many there are, and may stop the work by
/// an error.
///
/// No new piece is dead and no old one dies: checked before anything is returned.
///
/// # Errors
/// [`Error::Model`] for a base that is not BPE; [`Error::Argument`] where characters and protected pieces need more room, or
/// cannot be pieces; those of `watch`.
pub fn extend(
    base: &SpmModel,
    runs: RunCounter,
    options: &ExtendOptions,
    watch: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Extended> {
    check_base(base)?;
    let placement = Placement::of(base, options.scripts);
    let start = Start::new(base, placement, runs.into_runs(), options)?;
    if start.characters.len() > options.new_pieces {
        return Err(Error::Argument(
            format!(
                "{} characters come first, more than the {} new pieces; ask for more pieces or give fewer characters",
                start.characters.len(),
                options.new_pieces
            )
            .into(),
        ));
    }
    let threads = options.threads.min(MOST_THREADS);
    on_pool(threads, watch, |watch| learn(base, placement, start, options, threads, watch))
}

/// Learns as many pieces as are asked for, all of them reachable.
fn learn(
    base: &SpmModel,
    placement: Placement,
    start: Start,
    options: &ExtendOptions,
    threads: usize,
    watch: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Extended> {
    let Start { symbols, slots, protected, characters, unseen } = start;
    let falls_back = base.byte_fallback();
    let saved = |text: &str| if falls_back { text.len() as u64 - 1 } else { 1 }.max(1);
    let mut learner = Learner::new(symbols, slots, protected, options.min_count, saved, threads);
    let old_dead: FxHashSet<u32> = dead_pieces(base)?.iter().map(|dead| dead.id).collect();
    let mut pieces = characters.clone();
    loop {
        let room = options.new_pieces - pieces.len();
        let so_far = pieces.len();
        let learned = learner.learn(room, &mut |made| watch(so_far + made))?;
        pieces.extend(learned);
        let model = append(base, placement, pieces.iter().map(|&piece| learner.symbols.text(piece)));
        let dead = dead_pieces(&model)?;
        let first = base.pieces().len() as u32;
        if let Some(killed) = dead.iter().find(|dead| dead.id < first && !old_dead.contains(&dead.id)) {
            let text = &base.pieces()[killed.id as usize].text;
            let reason = format!("its piece `{text}` would become unreachable; please report this");
            return Err(Error::model(base.origin(), reason));
        }
        // A normaliser may rewrite a character of the list; by merges alone no new piece dies.
        let dead: FxHashSet<usize> =
            dead.iter().filter_map(|dead| dead.id.checked_sub(first)).map(|index| index as usize).collect();
        if dead.is_empty() {
            let characters = characters.iter().filter(|character| pieces.contains(character)).count();
            return Ok(Extended { model, placement, new_pieces: pieces.len(), characters, unseen });
        }
        let mut index = 0;
        pieces.retain(|_| {
            index += 1;
            !dead.contains(&(index - 1))
        });
    }
}

/// Refuses a base that is not BPE.
///
/// # Errors
/// [`Error::Model`].
pub fn check_base(base: &SpmModel) -> Result<()> {
    if base.kind() == ModelKind::Bpe {
        return Ok(());
    }
    let reason = format!(
        "a {} model cannot be extended, only BPE can (LLaMA's is); it can be the donor of a merge",
        base.kind().name()
    );
    Err(Error::model(base.origin(), reason))
}

/// Appends pieces with scores that fall strictly.
fn append<'a>(
    base: &SpmModel,
    placement: Placement,
    pieces: impl ExactSizeIterator<Item = &'a str>,
) -> SpmModel {
    let mut model = base.clone();
    let scores = || {
        let merged = |piece: &&crate::spm::Piece| {
            piece.kind == PieceKind::Normal && piece.text.chars().any(|c| c != cut::SPACE)
        };
        base.pieces().iter().filter(merged).map(|piece| piece.score)
    };
    let mut score = match placement {
        Placement::Above => scores().fold(0.0_f32, f32::max).ceil() + pieces.len() as f32 + 1.0,
        Placement::Below => scores().fold(0.0_f32, f32::min).floor(),
    };
    for piece in pieces {
        // Beyond 2^24 floats are more than one apart.
        score = (score - 1.0).min(score.next_down());
        model.append(piece, score, PieceKind::Normal);
    }
    model
}
