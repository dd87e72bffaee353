//! Text to ids and back: normaliser, encoder and decoder of one model, with the tokens added to it.

use std::sync::Mutex;

use rustc_hash::FxHashMap;

use crate::{
    Error, Result,
    bpe::{self, CACHE_BYTES, Encoder, Route, ShortTexts},
    normalize::{Normalizer, Part, PrefixMatcher},
    offsets::Aligned,
    spm::{NormalizerOptions, Piece, PieceKind, SpecialIds, SpmModel, byte_of_piece},
    text::{Document, RawText, Text},
};

/// Characters among which a point to cut is looked for.
const MAX_CUT_SEARCH: usize = 1 << 16;

/// An exact tokenizer: the ids of `sentencepiece`, every one.
#[derive(Debug)]
pub struct Tokenizer {
    pieces: Vec<Piece>,
    by_text: FxHashMap<String, u32>,
    special: SpecialIds,
    unk_surface: String,
    options: NormalizerOptions,
    normalizer: Normalizer,
    denormalizer: Option<Normalizer>,
    encoder: Encoder,
    cache_bytes: usize,
    /// Scratches not in use. Taken with `try_lock`: a child forked while the lock was held makes its own.
    spare: Mutex<Vec<Scratch>>,
}

/// What one thread keeps between texts.
#[derive(Debug, Default)]
pub struct Scratch {
    normalized: Vec<u8>,
    utf8: Vec<u8>,
    bpe: bpe::Scratch,
}

impl Scratch {
    /// Says what will be encoded next.
    pub(crate) fn expect(&mut self, next: RawText<'_>) {
        self.bpe.expect(next.ahead());
    }
}

impl Tokenizer {
    /// Builds the tokenizer. `added` are tokens that are not in the model (`[PAD]`), which text never makes; their ids follow the
    /// model's.
    ///
    /// # Errors
    /// [`Error::Argument`] for an added token that is empty, given twice or a piece already; [`Error::Model`] for a
    /// model that is not BPE or whose character map is broken.
    pub fn new(model: &SpmModel, added: &[String]) -> Result<Self> {
        let mut pieces = model.pieces().to_vec();
        let mut by_text = FxHashMap::default();
        for (id, piece) in (0u32..).zip(&pieces) {
            // Reserved pieces win over others of the same text, as in SentencePiece.
            if !piece.kind.matches_text() || !by_text.contains_key(&piece.text) {
                by_text.insert(piece.text.clone(), id);
            }
        }
        for text in added {
            let reason = match by_text.get(text) {
                _ if text.is_empty() => "is empty; give it a name".into(),
                Some(&id) if id as usize >= model.pieces().len() => "is given twice".into(),
                Some(_) => format!("is a piece of {} already; choose another name", model.origin()),
                None => String::new(),
            };
            if !reason.is_empty() {
                return Err(Error::Argument(format!("added token `{text}` {reason}").into()));
            }
            by_text.insert(text.clone(), pieces.len() as u32);
            pieces.push(Piece { text: text.clone(), score: 0.0, kind: PieceKind::Control });
        }
        let user_defined = || {
            let of_kind = model.pieces().iter().filter(|p| p.kind == PieceKind::UserDefined);
            PrefixMatcher::new(of_kind.map(|p| p.text.as_bytes()))
        };
        let mut special = model.special_ids();
        // Never one that text can become, such as a donor's user-defined `[PAD]`.
        let is_control = |id: &u32| pieces.get(*id as usize).is_some_and(|p| p.kind == PieceKind::Control);
        let named = |name| by_text.get(name).copied().filter(is_control);
        special.pad = special.pad.or_else(|| named("[PAD]")).or_else(|| named("<pad>"));
        let denormalizer = model
            .denormalizer()
            .map(|options| Normalizer::new(options, PrefixMatcher::default(), model.origin()))
            .transpose()?;
        Ok(Self {
            pieces,
            by_text,
            special,
            unk_surface: model.unk_surface().into(),
            options: NormalizerOptions { charsmap: Vec::new(), ..model.normalizer() },
            normalizer: Normalizer::new(model.normalizer(), user_defined(), model.origin())?,
            denormalizer,
            encoder: Encoder::new(model)?,
            cache_bytes: CACHE_BYTES,
            spare: Mutex::default(),
        })
    }

    /// Bounds the cache of each thread, see [`bpe::Scratch::with_cache`].
    #[must_use]
    pub fn with_cache(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Working memory for a thread.
    pub fn new_scratch(&self) -> Scratch {
        let bpe = bpe::Scratch::with_cache(self.cache_bytes);
        Scratch { normalized: Vec::new(), utf8: Vec::new(), bpe }
    }

    /// Number of ids, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The piece of an id.
    pub fn piece(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(id as usize)
    }

    /// The id of a piece.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.by_text.get(text).copied()
    }

    /// Ids of the unknown, begin, end and padding tokens.
    pub fn special_ids(&self) -> SpecialIds {
        self.special
    }

    /// Ids of one text.
    pub fn encode<D: Document + ?Sized>(&self, document: &D) -> Vec<u32> {
        let mut out = Vec::new();
        if document.is_valid() {
            self.with_scratch(|scratch| self.encode_part(document.raw(), Part::WHOLE, scratch, &mut out));
        }
        out
    }

    /// Appends the ids of a text to `out`.
    pub fn encode_into(&self, text: Text<'_>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        self.encode_part(text.into(), Part::WHOLE, scratch, out);
    }

    /// Appends the ids of a text, or of a part of one that was cut where [`Self::next_cut`] says.
    pub(crate) fn encode_part(
        &self,
        raw: RawText<'_>,
        part: Part,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        let route = self.encoder.route();
        if route == Route::Direct
            && let Some(text) = raw.to_text()
        {
            let prefix = part.is_first && self.options.add_dummy_prefix && !text.is_empty();
            return self.encoder.encode_direct(prefix, text, &mut scratch.bpe, out);
        }
        let Scratch { normalized, utf8, bpe } = scratch;
        let bytes = match raw {
            RawText::Bytes(bytes) => bytes,
            RawText::Text(Text::Utf8(text)) => text.as_bytes(),
            RawText::Text(text) => {
                utf8.clear();
                text.push_utf8(utf8);
                utf8
            }
        };
        normalized.clear();
        self.normalizer.normalize_part(bytes, part, route != Route::KeepSpaces, normalized);
        // The normaliser only writes valid UTF-8; the check costs little compared with what follows.
        if let Ok(text) = simdutf8::basic::from_utf8(normalized) {
            self.encoder.encode(text, true, bpe, out);
        }
    }

    /// The text, if it can be encoded together with other short ones by [`Self::encode_short`].
    pub(crate) fn short_text<'a>(&self, raw: RawText<'a>) -> Option<Text<'a>> {
        if self.encoder.route() == Route::Direct && ShortTexts::takes(raw.len()) {
            raw.to_text()
        } else {
            None
        }
    }

    /// Appends the ids of short texts, and notes in `ends` where in `out` each ends; no texts are left.
    pub(crate) fn encode_short(
        &self,
        texts: &mut ShortTexts<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        ends: &mut [i64],
    ) {
        if !texts.as_slice().is_empty() {
            self.encoder.encode_short(self.options.add_dummy_prefix, texts, &mut scratch.bpe, out, ends);
            texts.clear();
        }
    }

    /// The first unit after `at` where the text may be cut, if there is one nearby.
    pub(crate) fn next_cut(&self, text: Text<'_>, at: usize) -> Option<usize> {
        let is_direct = self.encoder.route() == Route::Direct;
        let mut last = None;
        for (at, c) in text.chars_from(at).take(MAX_CUT_SEARCH) {
            if last.is_some_and(|last| {
                self.encoder.may_cut(last, c) && (is_direct || self.normalizer.may_cut(last, c))
            }) {
                return Some(at);
            }
            last = Some(c);
        }
        None
    }

    /// Ids of a text, and where in it each token is: from its first character to the one after its last, in code
    /// points from 0. Slower than [`Self::encode`]: the text is normalised byte by byte.
    pub fn encode_with_offsets(&self, text: &str) -> (Vec<u32>, Vec<(usize, usize)>) {
        let aligned = Aligned::new(&self.normalizer, &self.options, text);
        let mut ids = Vec::new();
        self.with_scratch(|scratch| self.encoder.encode(aligned.text(), false, &mut scratch.bpe, &mut ids));
        aligned.locate(&ids, |id| &self.pieces[id as usize])
    }

    /// Ids of a piece's own text, taken as already normalised: no dummy `▁` before it.
    pub fn encode_piece(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        self.with_scratch(|scratch| self.encoder.encode(text, true, &mut scratch.bpe, &mut out));
        out
    }

    /// The text of ids, as SentencePiece decodes it: control and added tokens are invisible, bytes that
    /// form no character become U+FFFD one by one.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let strips = self.options.add_dummy_prefix || self.options.remove_extra_whitespaces;
        let mut text = String::new();
        let mut bytes = Vec::new();
        let (mut at_start, mut space_taken) = (true, false);
        for &id in ids {
            let piece = self.piece(id).ok_or_else(|| {
                let size = self.vocab_size();
                Error::Argument(format!("id {id} is outside the vocabulary of {size} ids").into())
            })?;
            if let (PieceKind::Byte, Some(byte)) = (piece.kind, byte_of_piece(&piece.text)) {
                bytes.push(byte);
                continue;
            }
            flush_bytes(&mut bytes, &mut text);
            if space_taken || !text.is_empty() {
                at_start = false;
            }
            space_taken = false;
            match piece.kind {
                PieceKind::Control => {}
                PieceKind::Unknown => text.push_str(&self.unk_surface),
                _ => {
                    let mut rest = piece.text.as_str();
                    if at_start
                        && strips
                        && let Some(stripped) = rest.strip_prefix('\u{2581}')
                    {
                        rest = stripped;
                        // Where extra spaces are removed, every leading one goes.
                        space_taken = !self.options.remove_extra_whitespaces;
                    }
                    text.extend(rest.chars().map(|c| if c == '\u{2581}' { ' ' } else { c }));
                }
            }
        }
        flush_bytes(&mut bytes, &mut text);
        Ok(match &self.denormalizer {
            Some(denormalizer) => {
                let mut out = Vec::new();
                denormalizer.normalize(text.as_bytes(), &mut out);
                String::from_utf8_lossy(&out).into_owned()
            }
            None => text,
        })
    }

    pub(crate) fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let spare = self.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        let mut scratch = spare.unwrap_or_else(|| self.new_scratch());
        let result = work(&mut scratch);
        if let Ok(mut spare) = self.spare.try_lock() {
            spare.push(scratch);
        }
        result
    }
}

fn flush_bytes(bytes: &mut Vec<u8>, text: &mut String) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    bytes.clear();
}
