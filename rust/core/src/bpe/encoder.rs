//! The encoder of one model: cuts USER_DEFINED pieces out of the text and has the rest encoded, by the engine where the
//! model allows it.

use aho_corasick::{AhoCorasick, MatchKind};

use super::{
    engine::{Engine, EngineScratch, ShortTexts},
    plain::{PlainEncoder, PlainScratch},
    sink::Sink,
};
use crate::{
    Error, Result,
    memory::Ahead,
    spm::{ModelKind, PieceKind, SpmModel},
    text::Text,
};

/// How the texts of a model are encoded: how much of normalising the encoder makes unnecessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The encoder reads a text as it is, in any form ([`Encoder::encode_direct`]). Valid where normalising would only write
    /// spaces as `▁` and put one before the text, where the engine encodes, and where there are no USER_DEFINED pieces.
    Direct,
    /// A text is normalised but keeps its spaces, which the encoder takes for `▁`. Valid where the engine encodes and no
    /// USER_DEFINED piece holds either of the two.
    KeepSpaces,
    /// A text is normalised as SentencePiece does it. Valid for every model.
    Normalize,
}

impl Route {
    /// The shortest route that is valid for a model.
    fn new(model: &SpmModel, way: &Way) -> Self {
        let options = model.normalizer();
        let only_escapes = options.charsmap.is_empty()
            && options.escape_whitespaces
            && !options.remove_extra_whitespaces
            && !options.whitespace_as_suffix;
        let user_defined = || model.pieces().iter().filter(|piece| piece.kind == PieceKind::UserDefined);
        if matches!(way, Way::Plain(_)) || user_defined().any(|piece| piece.text.contains([' ', '\u{2581}']))
        {
            Self::Normalize
        } else if only_escapes && user_defined().next().is_none() {
            Self::Direct
        } else {
            Self::KeepSpaces
        }
    }
}

/// The exact BPE encoder of one model. Threads share it; each brings a [`Scratch`] of its own.
#[derive(Debug)]
pub struct Encoder {
    way: Way,
    /// Finds the USER_DEFINED pieces (of those that start at a point, the longest), with their ids.
    user_defined: Option<(AhoCorasick, Vec<u32>)>,
    route: Route,
}

#[derive(Debug)]
enum Way {
    Engine(Box<Engine>),
    Plain(Box<PlainEncoder>),
}

/// What one thread keeps between texts: working memory and what segments have become before. About 5 MB; more only after a
/// text with a very long segment that had to be encoded as one, or with a model that needs the plain encoder.
#[derive(Debug, Default)]
pub struct Scratch {
    engine: EngineScratch,
    plain: PlainScratch,
}

impl Scratch {
    /// Working memory with a cache of at most so many bytes, instead of [`CACHE_BYTES`](super::CACHE_BYTES): it never
    /// grows. [`MAX_CACHE_BYTES`](super::MAX_CACHE_BYTES) is the most.
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
        match Engine::new(model) {
            Some(engine) => Self::with_way(model, Way::Engine(Box::new(engine))),
            None => Self::new_plain(model),
        }
    }

    /// An encoder that uses the plain way with any model.
    pub(super) fn new_plain(model: &SpmModel) -> Result<Self> {
        Self::with_way(model, Way::Plain(Box::new(PlainEncoder::new(model))))
    }

    fn with_way(model: &SpmModel, way: Way) -> Result<Self> {
        let is_user_defined = |id: &u32| model.pieces()[*id as usize].kind == PieceKind::UserDefined;
        let ids: Vec<u32> = (0..model.pieces().len() as u32).filter(is_user_defined).collect();
        let user_defined = if ids.is_empty() {
            None
        } else {
            let matcher = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(ids.iter().map(|&id| &model.pieces()[id as usize].text))
                .map_err(|e| Error::model(model.origin(), format!("too many user-defined pieces ({e})")))?;
            Some((matcher, ids))
        };
        let route = Route::new(model, &way);
        Ok(Self { way, user_defined, route })
    }

    /// How texts are to be encoded.
    pub fn route(&self) -> Route {
        self.route
    }

    /// The engine, unless the model needs the plain encoder.
    pub(super) fn engine(&self) -> Option<&Engine> {
        match &self.way {
            Way::Engine(engine) => Some(engine),
            Way::Plain(_) => None,
        }
    }

    /// True if normalised text may be cut between these characters (theorem P1), unless a USER_DEFINED piece is there.
    pub fn may_cut(&self, left: char, right: char) -> bool {
        self.engine().is_some_and(|engine| engine.may_cut(left, right))
    }

    /// Appends the ids of `text` as it is before normalising, with a `▁` before it if `prefix` is set. For
    /// [`Route::Direct`] alone; elsewhere nothing is appended.
    pub fn encode_direct(&self, prefix: bool, text: Text<'_>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        debug_assert_eq!(self.route, Route::Direct);
        if let Way::Engine(engine) = &self.way {
            engine.encode(text, prefix, &mut scratch.engine, &mut engine.sink(true, out));
        }
    }

    /// [`Self::encode_direct`] of several short texts; notes in `ends` where in `out` each ends. `prefix` puts a `▁` before
    /// those that are not empty.
    pub fn encode_short(
        &self,
        prefix: bool,
        texts: &ShortTexts<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        ends: &mut [i64],
    ) {
        debug_assert_eq!(self.route, Route::Direct);
        if let Way::Engine(engine) = &self.way {
            engine.encode_short(texts, prefix, &mut scratch.engine, &mut engine.sink(true, out), ends);
        }
    }

    /// Appends the ids of normalised text. Unless it `fuses`, each unknown character gets a token of its own;
    /// SentencePiece's ids have one for a whole run of them.
    pub fn encode(&self, text: &str, fuses: bool, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let engine = match &self.way {
            Way::Engine(engine) => engine,
            Way::Plain(plain) => {
                let mut sink = Sink::new(&plain.fallback, fuses, out);
                return plain.encode(text, self.user_defined.as_ref(), &mut scratch.plain, &mut sink);
            }
        };
        let mut sink = engine.sink(fuses, out);
        let mut rest = 0;
        if let Some((matcher, ids)) = &self.user_defined {
            for found in matcher.find_iter(text) {
                let before = Text::Utf8(&text[rest..found.start()]);
                engine.encode(before, false, &mut scratch.engine, &mut sink);
                sink.piece(ids[found.pattern()]);
                rest = found.end();
            }
        }
        engine.encode(Text::Utf8(&text[rest..]), false, &mut scratch.engine, &mut sink);
    }
}
