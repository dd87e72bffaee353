//! The encoder of one model: cuts USER_DEFINED pieces out of the text and has the rest encoded, the fast way
//! where the model allows it.

use aho_corasick::{AhoCorasick, MatchKind};

#[cfg(target_arch = "x86_64")]
use super::kernel::{Avx2, Avx512};
use super::{
    block::{SHORT, SHORT_COST},
    engine::EngineScratch,
    kernel::{Kernel, Portable},
    plain::{PlainRules, PlainScratch},
    rules::Rules,
    write::Sink,
};
use crate::{
    Error, Result,
    memory::Ahead,
    spm::{ModelKind, Piece, PieceKind, SpmModel},
    text::Text,
};

/// The exact BPE encoder of one model. Threads share it; each brings a [`Scratch`] of its own.
#[derive(Debug)]
pub struct Encoder {
    way: Way,
    /// Finds the USER_DEFINED pieces (of those that start at a place, the longest), with their ids.
    user_defined: Option<(AhoCorasick, Vec<u32>)>,
    /// See [`Self::takes_spaces`].
    takes_spaces: bool,
}

#[derive(Debug)]
enum Way {
    Fast(Box<Rules>),
    Plain(Box<PlainRules>),
}

/// What one thread keeps between texts: working memory and the answers of segments seen before. About 5 MB;
/// more only after a text with a very long segment that had to be done as one, or with a model that needs the plain way.
#[derive(Debug, Default)]
pub struct Scratch {
    engine: EngineScratch,
    plain: PlainScratch,
}

impl Scratch {
    /// Working memory with a cache of at most so many bytes, instead of [`CACHE_BYTES`](super::CACHE_BYTES): it never
    /// grows. One gibibyte is the most.
    pub fn with_cache(bytes: usize) -> Self {
        Self { engine: EngineScratch::with_cache(bytes), plain: PlainScratch::default() }
    }

    /// Says what will be read next.
    pub fn expect(&mut self, ahead: Ahead) {
        self.engine.ahead = ahead;
    }
}

impl Encoder {
    /// Builds the encoder.
    ///
    /// # Errors
    /// [`Error::Model`] for a model that is not BPE.
    pub fn new(model: &SpmModel) -> Result<Self> {
        if model.kind() != ModelKind::Bpe {
            return Err(Error::model(
                model.origin(),
                format!(
                    "a {} model, and only BPE can encode here; as the donor of a merge it would do",
                    model.kind().name()
                ),
            ));
        }
        match Rules::new(model) {
            Some(rules) => Self::with_way(model, Way::Fast(Box::new(rules))),
            None => Self::new_plain(model),
        }
    }

    /// The encoder that takes the plain way with any model, for tests.
    #[doc(hidden)]
    pub fn new_plain(model: &SpmModel) -> Result<Self> {
        Self::with_way(model, Way::Plain(Box::new(PlainRules::new(model))))
    }

    fn with_way(model: &SpmModel, way: Way) -> Result<Self> {
        let pieces: Vec<(u32, &Piece)> =
            (0..).zip(model.pieces()).filter(|(_, p)| p.kind == PieceKind::UserDefined).collect();
        let has_space = |(_, piece): &(u32, &Piece)| piece.text.contains([' ', '\u{2581}']);
        let takes_spaces = matches!(way, Way::Fast(_)) && !pieces.iter().any(has_space);
        let user_defined = if pieces.is_empty() {
            None
        } else {
            let matcher = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(pieces.iter().map(|(_, piece)| &piece.text))
                .map_err(|e| Error::model(model.origin(), format!("too many user-defined pieces ({e})")))?;
            Some((matcher, pieces.iter().map(|(id, _)| *id).collect()))
        };
        Ok(Self { way, user_defined, takes_spaces })
    }

    /// True if [`Self::encode`] takes a space for a `▁`.
    pub fn takes_spaces(&self) -> bool {
        self.takes_spaces
    }

    /// True if [`Self::encode_spaced`] does, so that text need not be rewritten.
    pub fn reads_spaces(&self) -> bool {
        matches!(self.way, Way::Fast(_)) && self.user_defined.is_none()
    }

    /// The ids of `text` by every kernel that this processor can run, each with empty caches, for tests.
    #[doc(hidden)]
    pub fn encode_by_each_kernel(&self, text: Text<'_>) -> Vec<Vec<u32>> {
        let Way::Fast(rules) = &self.way else { return Vec::new() };
        let mut found = by_kernel::<Portable>(rules, text);
        #[cfg(target_arch = "x86_64")]
        {
            if Avx2::is_available() {
                found.extend(by_kernel::<Avx2>(rules, text));
            }
            if Avx512::is_available() {
                found.extend(by_kernel::<Avx512>(rules, text));
            }
        }
        found
    }

    /// True unless the model needs the plain way.
    #[doc(hidden)]
    pub fn is_fast(&self) -> bool {
        matches!(self.way, Way::Fast(_))
    }

    /// True if text may be cut between these characters (theorem P1), no USER_DEFINED piece reaching across.
    pub fn may_cut(&self, left: char, right: char) -> bool {
        let Way::Fast(rules) = &self.way else { return false };
        rules.may_cut(rules.codes.code(left), rules.codes.code(right))
    }

    /// Appends the ids of `text`, of any form and with a `▁` before it if `prefix` is set; false (and nothing
    /// appended) unless [`Self::reads_spaces`].
    pub fn encode_spaced(
        &self,
        prefix: bool,
        text: Text<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> bool {
        match &self.way {
            Way::Fast(rules) if self.user_defined.is_none() => {
                let mut sink = Sink::new(out);
                rules.encode(text, prefix, &mut scratch.engine, &mut sink);
                true
            }
            _ => false,
        }
    }

    /// Appends the ids of texts that have at most [`SHORT`](super::SHORT) units together, with
    /// [`SHORT_COST`](super::SHORT_COST) more for each, and writes to `ends` where in `out` each ends. `prefix` puts a
    /// `▁` before those that are not empty. Nothing is appended unless [`Self::reads_spaces`].
    pub fn encode_short(
        &self,
        prefix: bool,
        texts: &[Text<'_>],
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        ends: &mut [i64],
    ) {
        if let Way::Fast(rules) = &self.way
            && self.user_defined.is_none()
        {
            rules.encode_short(texts, prefix, &mut scratch.engine, &mut Sink::new(out), ends);
        }
    }

    /// Appends the ids of `text`, which is taken as already normalised, to `out`.
    pub fn encode(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        self.encode_into(text, scratch, &mut Sink::new(out));
    }

    /// [`Self::encode`] with a token for each unknown character.
    pub fn encode_unfused(&self, text: &str, scratch: &mut Scratch, out: &mut Vec<u32>) {
        self.encode_into(text, scratch, &mut Sink { fuses: false, ..Sink::new(out) });
    }

    fn encode_into(&self, text: &str, scratch: &mut Scratch, sink: &mut Sink<'_>) {
        let rules = match &self.way {
            Way::Fast(rules) => rules,
            Way::Plain(rules) => {
                return rules.encode(text, self.user_defined.as_ref(), &mut scratch.plain, sink);
            }
        };
        let mut rest = 0;
        if let Some((matcher, ids)) = &self.user_defined {
            for found in matcher.find_iter(text) {
                rules.encode(Text::Utf8(&text[rest..found.start()]), false, &mut scratch.engine, sink);
                sink.ids.push(ids[found.pattern()]);
                sink.after_unknown = false;
                rest = found.end();
            }
        }
        rules.encode(Text::Utf8(&text[rest..]), false, &mut scratch.engine, sink);
    }
}

/// The ids of a text alone, and, if it is short, between others.
fn by_kernel<K: Kernel>(rules: &Rules, text: Text<'_>) -> Vec<Vec<u32>> {
    let mut scratch = EngineScratch::default();
    let mut ids = Vec::new();
    rules.encode_on::<K>(text, false, &mut scratch, &mut Sink::new(&mut ids));
    let mut found = vec![ids];
    let texts = [text, Text::Utf8(""), text, text];
    if texts.iter().map(|text| text.len() + SHORT_COST).sum::<usize>() <= SHORT {
        let (mut ids, mut ends) = (Vec::new(), [0; 4]);
        rules.encode_short_on::<K>(&texts, false, &mut scratch, &mut Sink::new(&mut ids), &mut ends);
        let mut start = 0;
        for (text, end) in texts.iter().zip(ends.map(|end| end as usize)) {
            let own = ids.get(start..end).unwrap_or_default().to_vec();
            if text.is_empty() {
                assert!(own.is_empty())
            } else {
                found.push(own)
            }
            start = end;
        }
    }
    found
}
