//! The pieces of donors appended to a base's.

use rustc_hash::FxHashSet;

use super::{
    dead::dead_pieces,
    filter::{Filters, Reason},
    pieces::{Pieces, Tracer},
    policy::MergePolicy,
    repair::{NO_ROOM, repair},
    uses::times_made,
};
use crate::{
    Error, Result,
    spm::{ModelKind, PieceKind, SpmModel},
};

/// What is merged, and how.
#[derive(Clone, Copy, Debug)]
pub struct MergeOptions {
    /// The scores of the new pieces.
    pub policy: MergePolicy,
    /// Which pieces of the donors are wanted.
    pub filters: Filters,
    /// At most so many new pieces, the first in order.
    pub top: Option<usize>,
    /// Every new piece is to be one that some text becomes, and every old one is to stay so.
    pub repair: bool,
}

/// Tokens that a base has beside its model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokens<'a> {
    /// Those that keep their ids, right after the base's pieces: they become CONTROL pieces, which no text becomes.
    pub kept: &'a [String],
    /// The others.
    pub other: &'a [String],
}

/// A new piece of a merged model.
#[derive(Clone, Debug)]
pub struct NewPiece {
    /// Its text.
    pub text: String,
    /// Its kind: NORMAL, USER_DEFINED or UNUSED.
    pub kind: PieceKind,
    /// The donor, by its number; none for a piece that is only there for others to be made of.
    pub donor: Option<usize>,
    /// How often it was made of the text whose tokens were counted.
    pub uses: Option<u64>,
}

/// A piece of a donor that did not come in.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// Its text.
    pub text: String,
    /// Its kind.
    pub kind: PieceKind,
    /// The donor, by its number.
    pub donor: usize,
    /// Why.
    pub reason: Reason,
    /// What its text becomes ([`Reason::Unreachable`]), the piece that it would break ([`Reason::Breaks`]), or nothing.
    pub about: String,
}

/// A merged model and how it came about.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The base, then the tokens that keep their ids, then the new pieces.
    pub model: SpmModel,
    /// The new pieces, in the order of their ids.
    pub new: Vec<NewPiece>,
    /// The pieces of the donors that did not come in, in their order.
    pub left_out: Vec<LeftOut>,
    /// User-defined pieces of a donor that are of another kind in the base, or tokens beside it, and stay so.
    pub overruled: Vec<String>,
    /// Ids of the new pieces that no text becomes.
    pub dead: Vec<u32>,
    /// Ids of the base's pieces that some text became before, and none does now.
    pub killed: Vec<u32>,
}

/// Appends the pieces of `donors` that `base` lacks.
///
/// The order of the new pieces is that of the donors, as given, and of the pieces in each; with `counts` (for each id of
/// [`counting_model`] how many tokens a text became) the most used come first. User-defined and unused pieces keep their
/// kind: the first are found in text before anything is merged, the others never stay in an encoding.
///
/// # Errors
/// [`Error::Model`] if the base is not BPE (its scores would mean something else), if the donors add nothing, or if
/// nothing can be above the base's scores; [`Error::Argument`] for counts of another model.
pub fn merge(
    base: &SpmModel,
    donors: &[SpmModel],
    tokens: Tokens<'_>,
    options: &MergeOptions,
    counts: Option<&[u64]>,
) -> Result<Merged> {
    let mut gathered = Gathered::new(base, donors, tokens, options.policy, &options.filters)?;
    let wanted = gathered.pieces.candidates.len();
    let mut times = None;
    if let Some(counts) = counts {
        let mut counted = Gathered::new(base, donors, tokens, MergePolicy::Ordered, &options.filters)?;
        counted.choose(usize::MAX, options);
        times = Some(gathered.order_by_use(&counted, counts)?);
    }
    gathered.choose(options.top.unwrap_or(wanted), options);
    if options.repair {
        gathered.verify(tokens, options.policy)?;
    }
    gathered.finish(donors, tokens, options, times.as_deref())
}

/// The model with which the use of the donors' pieces is counted: all that pass the filters are in, in the donors'
/// order, repaired if `options` say so, each with a score of its own.
///
/// # Errors
/// As [`merge`].
pub fn counting_model(
    base: &SpmModel,
    donors: &[SpmModel],
    tokens: Tokens<'_>,
    options: &MergeOptions,
) -> Result<SpmModel> {
    let mut gathered = Gathered::new(base, donors, tokens, MergePolicy::Ordered, &options.filters)?;
    gathered.choose(usize::MAX, options);
    model_of(&gathered.pieces, &gathered.chosen(), Tokens::default(), MergePolicy::Ordered)
}

/// The candidates of the donors, and what else is in these.
struct Gathered<'a> {
    pieces: Pieces<'a>,
    left_out: Vec<LeftOut>,
    overruled: Vec<String>,
}

impl<'a> Gathered<'a> {
    fn new(
        base: &'a SpmModel,
        donors: &'a [SpmModel],
        tokens: Tokens<'a>,
        policy: MergePolicy,
        filters: &Filters,
    ) -> Result<Self> {
        if base.kind() != ModelKind::Bpe {
            return Err(Error::model(
                base.origin(),
                format!(
                    "a {} model cannot be the base of a merge, only BPE can (LLaMA's is); give it as the donor",
                    base.kind().name()
                ),
            ));
        }
        let beside = tokens.kept.iter().chain(tokens.other).map(String::as_str);
        let mut pieces = Pieces::new(base, beside, policy);
        let (mut left_out, mut overruled) = (Vec::new(), Vec::new());
        for (donor, model) in donors.iter().enumerate() {
            for piece in model.pieces() {
                let reason = match (pieces.find(&piece.text), piece.kind) {
                    (Some((at, kind)), _) => {
                        let is_new = pieces.candidate(at).is_some_and(|at| at < pieces.candidates.len());
                        if piece.kind == PieceKind::UserDefined && kind != PieceKind::UserDefined {
                            overruled.push(piece.text.clone());
                        }
                        Some(if is_new { Reason::InEarlierDonor } else { Reason::InBase })
                    }
                    (None, PieceKind::Control | PieceKind::Unknown | PieceKind::Byte) => Some(Reason::NoText),
                    (None, _) => filters.refuse(&piece.text),
                };
                match reason {
                    None => _ = pieces.add(&piece.text, piece.kind, Some(donor)),
                    Some(reason) => left_out.push(LeftOut {
                        text: piece.text.clone(),
                        kind: piece.kind,
                        donor,
                        reason,
                        about: String::new(),
                    }),
                }
            }
        }
        pieces.find_user_defined()?;
        let order: Vec<usize> = (0..pieces.candidates.len()).collect();
        pieces.place(&order);
        for (at, candidate) in pieces.candidates.iter_mut().enumerate() {
            // By Zipf's law, where nothing was counted.
            candidate.uses = 1.0 / (at + 1) as f64;
        }
        Ok(Self { pieces, left_out, overruled })
    }

    /// Orders the candidates by their use: `counts` are those of the ids of `counted`'s model. Returns them by number.
    fn order_by_use(&mut self, counted: &Gathered<'a>, counts: &[u64]) -> Result<Vec<u64>> {
        let chosen = counted.chosen();
        let wanted = self.pieces.base_len() + chosen.len();
        if counts.len() != wanted {
            return Err(Error::Argument(
                format!("{} counts for a counting model of {wanted} ids; count again", counts.len()).into(),
            ));
        }
        let (old, new) = counts.split_at(self.pieces.base_len());
        let mut tokens = vec![0; counted.pieces.candidates.len()];
        for (&number, &count) in chosen.iter().zip(new) {
            tokens[number] = count;
        }
        let times = times_made(&counted.pieces, &tokens, old);
        // Pieces that were added in counting are candidates as well, and those that cannot be stay out.
        for candidate in &counted.pieces.candidates[self.pieces.candidates.len()..] {
            self.pieces.add(candidate.text, candidate.kind, None);
        }
        let mut order: Vec<usize> = (0..times.len()).collect();
        order.sort_by_key(|&number| {
            (std::cmp::Reverse(times[number]), counted.pieces.candidates[number].place)
        });
        self.pieces.place(&order);
        for (number, candidate) in self.pieces.candidates.iter_mut().enumerate() {
            let before = &counted.pieces.candidates[number];
            candidate.uses = times[number] as f64;
            candidate.refused = before.refused.clone().filter(|_| !before.is_in);
        }
        Ok(times)
    }

    /// Chooses the first `top` candidates and repairs the choice, if `options` say so.
    fn choose(&mut self, top: usize, options: &MergeOptions) {
        let pieces = &mut self.pieces;
        let mut order: Vec<usize> = (0..pieces.candidates.len()).collect();
        order.retain(|&number| pieces.candidates[number].refused.is_none());
        order.sort_by_key(|&number| pieces.candidates[number].place);
        for (at, &number) in order.iter().enumerate() {
            pieces.candidates[number].is_in = at < top;
            pieces.candidates[number].refused = (at >= top).then_some(NO_ROOM);
        }
        if options.repair {
            repair(pieces, top, &options.filters);
        }
    }

    /// The numbers of the candidates that are in, in the order of their ids.
    fn chosen(&self) -> Vec<usize> {
        let candidates = &self.pieces.candidates;
        let mut chosen: Vec<usize> =
            (0..candidates.len()).filter(|&number| candidates[number].is_in).collect();
        chosen.sort_by_key(|&number| candidates[number].place);
        chosen
    }

    /// Checks with the encoder itself that a repair did what it is for. New pieces that the normaliser leaves in no text are taken
    /// out now, which changes no encoding.
    ///
    /// # Errors
    /// [`Error::Model`] if a piece of the base is dead that was not so in the base.
    fn verify(&mut self, tokens: Tokens<'_>, policy: MergePolicy) -> Result<()> {
        let chosen = self.chosen();
        let base = self.pieces.base;
        let model = model_of(&self.pieces, &chosen, tokens, policy)?;
        let first_new = base.pieces().len() + tokens.kept.len();
        let mut in_base: Option<FxHashSet<u32>> = None;
        for dead in dead_pieces(&model)? {
            if let Some(new) = (dead.id as usize).checked_sub(first_new) {
                let candidate = &mut self.pieces.candidates[chosen[new]];
                let becomes = dead.becomes.iter().map(|&id| model.pieces()[id as usize].text.as_str());
                candidate.is_in = false;
                candidate.refused = Some((Reason::Unreachable, becomes.collect::<Vec<_>>().join(" ")));
                continue;
            }
            if in_base.is_none() {
                in_base = Some(dead_pieces(base)?.into_iter().map(|dead| dead.id).collect());
            }
            if !in_base.as_ref().is_some_and(|known| known.contains(&dead.id)) {
                let text = &base.pieces()[dead.id as usize].text;
                let reason = format!(
                    "piece {} `{text}` would be unreachable after the repair, a fault of Zhuzi's: please report it",
                    dead.id
                );
                return Err(Error::model(base.origin(), reason));
            }
        }
        Ok(())
    }

    /// Writes the chosen candidates behind the base's pieces.
    fn finish(
        self,
        donors: &[SpmModel],
        tokens: Tokens<'_>,
        options: &MergeOptions,
        times: Option<&[u64]>,
    ) -> Result<Merged> {
        let chosen = self.chosen();
        let Self { pieces, mut left_out, overruled } = self;
        let refused = pieces.candidates.iter().filter_map(|candidate| {
            let (reason, about) = candidate.refused.clone()?;
            let (text, kind) = (candidate.text.to_string(), candidate.kind);
            Some(LeftOut { text, kind, donor: candidate.donor?, reason, about })
        });
        left_out.extend(refused);
        if chosen.is_empty() {
            return Err(nothing_new(pieces.base, donors, &left_out));
        }
        let model = model_of(&pieces, &chosen, tokens, options.policy)?;
        let first_new = (pieces.base_len() + tokens.kept.len()) as u32;
        let new = chosen.iter().map(|&number| {
            let candidate = &pieces.candidates[number];
            NewPiece {
                text: candidate.text.to_string(),
                kind: candidate.kind,
                donor: candidate.donor,
                uses: times.and_then(|times| times.get(number)).copied(),
            }
        });
        let new = new.collect();
        let (dead, killed) = match options.repair {
            true => (Vec::new(), Vec::new()),
            false => unreachable(&pieces, &chosen, first_new),
        };
        Ok(Merged { model, new, left_out, overruled, dead, killed })
    }
}

/// The base, the tokens that keep their ids, and the chosen candidates.
fn model_of(
    pieces: &Pieces<'_>,
    chosen: &[usize],
    tokens: Tokens<'_>,
    policy: MergePolicy,
) -> Result<SpmModel> {
    let mut model = pieces.base.clone();
    for token in tokens.kept {
        model.append(token, 0.0, PieceKind::Control);
    }
    let scores = policy.scores(pieces.base, chosen.len())?;
    for (&number, score) in chosen.iter().zip(scores) {
        let candidate = &pieces.candidates[number];
        model.append(candidate.text, score, candidate.kind);
    }
    Ok(model)
}

/// Ids of the new pieces that no text becomes, and of the base's that some text became in the base alone.
fn unreachable(pieces: &Pieces<'_>, chosen: &[usize], first_new: u32) -> (Vec<u32>, Vec<u32>) {
    let mut tracer = Tracer::default();
    let dead = (first_new..).zip(chosen).filter(|&(_, &number)| {
        let candidate = &pieces.candidates[number];
        candidate.kind == PieceKind::Normal
            && !pieces.is_short(candidate.text)
            && !tracer.is_alive(pieces, candidate.text, true)
    });
    let dead = dead.map(|(id, _)| id).collect();
    let killed = (0..).zip(pieces.base.pieces()).filter(|(_, piece)| {
        piece.kind == PieceKind::Normal
            && pieces.may_hold_new(&piece.text)
            && !tracer.is_alive(pieces, &piece.text, true)
            && tracer.is_alive(pieces, &piece.text, false)
    });
    (dead, killed.map(|(id, _)| id).collect())
}

/// The error for donors of which no piece comes in.
fn nothing_new(base: &SpmModel, donors: &[SpmModel], left_out: &[LeftOut]) -> Error {
    let [donor, ..] = donors else {
        return Error::Argument("no donor; give a model whose pieces are to be added".into());
    };
    let wanted = left_out
        .iter()
        .filter(|piece| !matches!(piece.reason, Reason::InBase | Reason::InEarlierDonor | Reason::NoText));
    let reason = match wanted.count() {
        0 if donors.len() == 1 => {
            format!("the base {} already has every piece of this donor; give another donor", base.origin())
        }
        0 => format!("the base {} already has every piece of the donors; give another donor", base.origin()),
        n => format!("all {n} pieces that the base lacks are left out by the options; ask for less"),
    };
    Error::model(donor.origin(), reason)
}
