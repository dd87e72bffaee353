//! The base's pieces and those that may join them, and what BPE makes of a piece's text while some of them are in.
//!
//! Two facts carry all that is built on it. A piece is made, in whatever text, only as its own text alone makes it: until
//! it is there, no merge has crossed its ends. So it is *alive* (some text becomes it) if its own text ends as one
//! symbol, and its own text tells which two pieces make it. And a piece that is not made on the way to another changes
//! nothing there if it goes: taking out a dead piece changes no encoding at all.

use aho_corasick::AhoCorasick;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{filter::Reason, policy::MergePolicy};
use crate::{
    Error, Result,
    bpe::{
        heap::HeapMerger,
        ranks::ScoreRanks,
        symbol::{Merge, NO_MERGE, Symbol},
    },
    spm::{PieceKind, SpmModel},
};

/// A piece of the base, by its id, or a candidate: the base's size plus its number.
pub(super) type At = u32;

/// A text that the base has as a token beside its model.
const BESIDE: At = At::MAX;
/// The ranks of the base's pieces start here; those of candidates, with [`MergePolicy::Ordered`], are below.
const BASE_RANKS: u32 = 1 << 31;
/// No piece.
const NOTHING: At = At::MAX;

/// A piece that may join the base.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub text: &'a str,
    pub kind: PieceKind,
    /// The donor that it is from; none if it is only there for other pieces to be made of.
    pub donor: Option<usize>,
    /// How useful it is, in any unit.
    pub uses: f64,
    /// Where it stands among the new pieces.
    pub place: u32,
    /// Whether it joins them.
    pub is_in: bool,
    /// Why it must not, or does not, and the piece that this is about.
    pub refused: Option<(Reason, String)>,
}

/// The base's pieces and the candidates.
pub(super) struct Pieces<'a> {
    pub base: &'a SpmModel,
    pub candidates: Vec<Candidate<'a>>,
    /// The distance of two places at first.
    pub step: u32,
    by_text: FxHashMap<&'a str, At>,
    policy: MergePolicy,
    /// Ranks of the base's pieces, and of the score 0.
    ranks: Vec<u32>,
    zero: u32,
    /// The first two characters of the candidates.
    starts: FxHashSet<[char; 2]>,
    /// Finds USER_DEFINED pieces in texts.
    user_defined: Option<(AhoCorasick, Vec<At>)>,
}

impl<'a> Pieces<'a> {
    /// The base alone; `beside` are the texts of its tokens beside the model.
    pub fn new(base: &'a SpmModel, beside: impl Iterator<Item = &'a str>, policy: MergePolicy) -> Self {
        let scores = || base.pieces().iter().map(|piece| piece.score);
        let order = ScoreRanks::new(scores().chain([0.0]));
        let mut by_text: FxHashMap<&str, At> = beside.map(|token| (token, BESIDE)).collect();
        by_text.reserve(2 * base.pieces().len());
        by_text.extend((0..).zip(base.pieces()).map(|(id, piece)| (piece.text.as_str(), id)));
        Self {
            base,
            candidates: Vec::new(),
            step: 1,
            by_text,
            policy,
            ranks: scores().map(|score| BASE_RANKS + order.of(score)).collect(),
            zero: BASE_RANKS + order.of(0.0),
            starts: FxHashSet::default(),
            user_defined: None,
        }
    }

    /// The number of the base's pieces.
    pub fn base_len(&self) -> usize {
        self.base.pieces().len()
    }

    /// The piece or candidate with this text; the kind of a token beside the model is CONTROL.
    pub fn find(&self, text: &str) -> Option<(At, PieceKind)> {
        let &at = self.by_text.get(text)?;
        Some((at, if at == BESIDE { PieceKind::Control } else { self.kind(at) }))
    }

    /// The kind of a piece.
    pub fn kind(&self, at: At) -> PieceKind {
        match self.candidate(at) {
            Some(number) => self.candidates[number].kind,
            None => self.base.pieces()[at as usize].kind,
        }
    }

    /// The text of a piece.
    pub fn text(&self, at: At) -> &'a str {
        match self.candidate(at) {
            Some(number) => self.candidates[number].text,
            None => &self.base.pieces()[at as usize].text,
        }
    }

    /// The number of the candidate that a piece is.
    pub fn candidate(&self, at: At) -> Option<usize> {
        (at as usize).checked_sub(self.base_len())
    }

    /// The piece that a candidate is.
    pub fn at(&self, number: usize) -> At {
        (self.base_len() + number) as At
    }

    /// Adds a candidate, which has no place yet; its text is new.
    pub fn add(&mut self, text: &'a str, kind: PieceKind, donor: Option<usize>) -> usize {
        let number = self.candidates.len();
        self.by_text.insert(text, self.at(number));
        self.starts.extend(pairs(text).next());
        self.candidates.push(Candidate {
            text,
            kind,
            donor,
            uses: 0.0,
            place: 0,
            is_in: false,
            refused: None,
        });
        number
    }

    /// Gives the candidates their places, in the order of their numbers in `order`, with some room between them.
    pub fn place(&mut self, order: &[usize]) {
        self.step = ((BASE_RANKS - 1) / (order.len() as u32 + 2)).min(256);
        for (at, &number) in (1..).zip(order) {
            self.candidates[number].place = at * self.step;
        }
    }

    /// Prepares to find the USER_DEFINED pieces; called when all candidates of that kind are there.
    ///
    /// # Errors
    /// [`Error::Model`] if there are too many of them.
    pub fn find_user_defined(&mut self) -> Result<()> {
        let all = 0..(self.base_len() + self.candidates.len()) as At;
        let found: Vec<At> = all.filter(|&at| self.kind(at) == PieceKind::UserDefined).collect();
        if !found.is_empty() {
            let finder = AhoCorasick::new(found.iter().map(|&at| self.text(at))).map_err(|e| {
                Error::model(
                    self.base.origin(),
                    format!("too many user-defined pieces with the donor's ({e})"),
                )
            })?;
            self.user_defined = Some((finder, found));
        }
        Ok(())
    }

    /// False only for a text in which no candidate can be found.
    pub fn may_hold_new(&self, text: &str) -> bool {
        self.user_defined.is_some() || pairs(text).any(|pair| self.starts.contains(&pair))
    }

    /// True for texts that are alive as pieces whatever the others are.
    pub fn is_short(&self, text: &str) -> bool {
        self.user_defined.is_none() && text.chars().nth(2).is_none()
    }

    /// True for a piece of the base, and for a candidate that is in.
    fn is_in(&self, at: At, with_new: bool) -> bool {
        self.candidate(at).is_none_or(|number| with_new && self.candidates[number].is_in)
    }

    /// The rank and the piece that two neighbours become.
    fn merge(&self, text: &str, with_new: bool) -> Option<(u32, At)> {
        let &at = self.by_text.get(text)?;
        if at == BESIDE || !self.kind(at).matches_text() || !self.is_in(at, with_new) {
            return None;
        }
        let rank = match (self.candidate(at), self.policy) {
            (None, _) => self.ranks[at as usize],
            (Some(number), MergePolicy::Ordered) => self.candidates[number].place,
            (Some(_), MergePolicy::Paper) => self.zero,
        };
        Some((rank, at))
    }

    /// USER_DEFINED pieces inside a text, which is not one itself: each is cut out of it.
    fn cut_out<'s>(&'s self, text: &'s str, with_new: bool) -> impl Iterator<Item = At> + 's {
        let found = self.user_defined.iter().flat_map(move |(finder, pieces)| {
            finder.find_overlapping_iter(text).map(|found| pieces[found.pattern()])
        });
        found.filter(move |&at| self.is_in(at, with_new) && self.text(at) != text)
    }
}

/// Neighbouring characters.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = [char; 2]> + '_ {
    text.chars().zip(text.chars().skip(1)).map(|(left, right)| [left, right])
}

/// What became of a text, and how.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    merger: HeapMerger,
    symbols: Vec<Symbol>,
    offers: Vec<Merge>,
    spans: Vec<Span>,
    /// USER_DEFINED pieces that were found in it.
    cut_out: Vec<At>,
}

/// A symbol: a part of the text, the piece it is, and the two symbols that made it.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
    at: At,
    made_of: [Symbol; 2],
}

/// So many symbols are merged without a heap, as nearly all pieces have fewer.
const SHORT: usize = 16;

/// What `HeapMerger` does, for few symbols: the best offer is looked for each time.
fn merge_short(
    symbols: &mut Vec<Symbol>,
    offers: &mut Vec<Merge>,
    find: &mut impl FnMut(Symbol, Symbol) -> Merge,
) {
    offers.clear();
    offers.extend(symbols.windows(2).map(|pair| find(pair[0], pair[1])));
    // The first of the best, which is the leftmost.
    while let Some((at, &best)) = offers.iter().enumerate().min_by_key(|(_, offer)| offer.rank)
        && best != NO_MERGE
    {
        symbols[at] = best.result;
        symbols.remove(at + 1);
        offers.remove(at);
        if at > 0 {
            offers[at - 1] = find(symbols[at - 1], symbols[at]);
        }
        if at < offers.len() {
            offers[at] = find(symbols[at], symbols[at + 1]);
        }
    }
}

impl Tracer {
    /// Encodes the text of a piece; true if the piece is alive, whether it is in or not.
    pub fn is_alive(&mut self, pieces: &Pieces<'_>, text: &str, with_new: bool) -> bool {
        let Self { merger, symbols, offers, spans, cut_out } = self;
        spans.clear();
        symbols.clear();
        cut_out.clear();
        cut_out.extend(pieces.cut_out(text, with_new));
        spans.extend(text.char_indices().map(|(start, c)| {
            let (start, end) = (start as u32, (start + c.len_utf8()) as u32);
            Span { start, end, at: NOTHING, made_of: [0; 2] }
        }));
        symbols.clear();
        symbols.extend(0..spans.len() as Symbol);
        let mut find = |left: Symbol, right: Symbol| {
            let (start, end) = (spans[left as usize].start, spans[right as usize].end);
            let Some((rank, at)) = pieces.merge(&text[start as usize..end as usize], with_new) else {
                return NO_MERGE;
            };
            spans.push(Span { start, end, at, made_of: [left, right] });
            Merge { rank, result: (spans.len() - 1) as Symbol }
        };
        if symbols.len() > SHORT {
            merger.merge(symbols, find);
        } else {
            merge_short(symbols, offers, &mut find);
        }
        symbols.len() <= 2 && cut_out.is_empty()
    }

    /// The parts that are left of the text.
    pub fn parts<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let part = |&symbol: &Symbol| {
            let span = self.spans[symbol as usize];
            &text[span.start as usize..span.end as usize]
        };
        self.symbols.iter().map(part).collect()
    }

    /// True if the text was cut at a USER_DEFINED piece.
    pub fn was_cut(&self) -> bool {
        !self.cut_out.is_empty()
    }

    /// The pieces that were made on the way, the text's own aside, and those that were cut out.
    pub fn made(&self, out: &mut Vec<At>) {
        out.clear();
        out.extend_from_slice(&self.cut_out);
        let mut todo = if let [whole] = self.symbols[..] {
            self.spans[whole as usize].made_of.to_vec()
        } else {
            self.symbols.clone()
        };
        while let Some(symbol) = todo.pop() {
            let span = self.spans[symbol as usize];
            if span.at != NOTHING {
                out.push(span.at);
                todo.extend(span.made_of);
            }
        }
    }

    /// The two pieces that make the text, where they are pieces of two or more characters.
    pub fn made_of(&self) -> impl Iterator<Item = At> + '_ {
        let whole = match self.symbols[..] {
            [whole] if self.spans[whole as usize].at != NOTHING => Some(self.spans[whole as usize].made_of),
            [left, right] => Some([left, right]),
            _ => None,
        };
        whole.into_iter().flatten().map(|symbol| self.spans[symbol as usize].at).filter(|&at| at != NOTHING)
    }
}
