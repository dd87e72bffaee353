//! Text to ids and back: normaliser, encoder and decoder of one model, with the tokens added beside it.

use std::sync::Mutex;

use rustc_hash::FxHashMap;

pub use crate::batch::EncodedBatch;
use crate::{
    Error, Result,
    batch::{Content, Document},
    bpe::{self, CACHE_BYTES, Encoder, SHORT, SHORT_COST},
    normalize::{Normalizer, Part, PrefixMatcher},
    offsets::Aligned,
    spm::{NormalizerOptions, Piece, PieceKind, SpecialIds, SpmModel, byte_of_piece},
    text::Text,
};

/// Characters that are looked at to find a place to cut.
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
    pub(crate) fn expect(&mut self, next: Content<'_>) {
        self.bpe.expect(next.ahead());
    }
}

impl Tokenizer {
    /// Builds the tokenizer. `added` are tokens beside the model (`[PAD]`), which text never makes; their ids
    /// must go on where the model's end.
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

    /// Appends the ids of `text` to `out`. Any bytes are a text: an invalid one counts as U+FFFD.
    pub fn encode_into(&self, text: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.encodes_directly()
            && let Ok(text) = simdutf8::basic::from_utf8(text)
        {
            return self.encode_text_into(Text::Utf8(text), scratch, out);
        }
        self.encode_normalized(text, Part::WHOLE, scratch, out);
    }

    /// Appends the ids of a text in any form to `out`.
    pub fn encode_text_into(&self, text: Text<'_>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        self.encode_part(text, Part::WHOLE, scratch, out);
    }

    /// Appends the ids of a part of a text, cut where [`Self::next_cut`] says.
    pub(crate) fn encode_part(&self, text: Text<'_>, part: Part, scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.encodes_directly() {
            let prefix = part.is_first && self.options.add_dummy_prefix && !text.is_empty();
            self.encoder.encode_spaced(prefix, text, &mut scratch.bpe, out);
        } else if let Text::Utf8(text) = text {
            self.encode_normalized(text.as_bytes(), part, scratch, out);
        } else {
            let mut utf8 = std::mem::take(&mut scratch.utf8);
            utf8.clear();
            text.push_utf8(&mut utf8);
            self.encode_normalized(&utf8, part, scratch, out);
            scratch.utf8 = utf8;
        }
    }

    fn encode_normalized(&self, text: &[u8], part: Part, scratch: &mut Scratch, out: &mut Vec<u32>) {
        scratch.normalized.clear();
        let escapes = !self.encoder.takes_spaces();
        self.normalizer.normalize_part(text, part, escapes, &mut scratch.normalized);
        // The normaliser only writes valid UTF-8; the check costs little beside what follows.
        if let Ok(text) = simdutf8::basic::from_utf8(&scratch.normalized) {
            self.encoder.encode(text, &mut scratch.bpe, out);
        }
    }

    /// A unit at or a little behind `at` where the text may be cut, if there is one.
    pub(crate) fn next_cut(&self, text: Text<'_>, at: usize) -> Option<usize> {
        let direct = self.encodes_directly();
        let mut last = None;
        for (at, c) in text.chars_from(at).take(MAX_CUT_SEARCH) {
            if last.is_some_and(|last| {
                self.encoder.may_cut(last, c) && (direct || self.normalizer.may_cut(last, c))
            }) {
                return Some(at);
            }
            last = Some(c);
        }
        None
    }

    /// True if text need not be rewritten before it is encoded.
    pub(crate) fn encodes_directly(&self) -> bool {
        self.encoder.reads_spaces() && self.normalizer.only_escapes_spaces()
    }

    /// Ids of one text.
    pub fn encode<D: Document + ?Sized>(&self, text: &D) -> Vec<u32> {
        let mut out = Vec::new();
        self.with_scratch(|scratch| self.encode_document(text, scratch, &mut out));
        out
    }

    /// Ids of one text, a long one encoded by `threads` threads.
    pub fn encode_on<D: Document>(&self, text: &D, threads: usize) -> Vec<u32> {
        if threads > 1 {
            self.encode_batch(std::slice::from_ref(text), threads).ids
        } else {
            self.encode(text)
        }
    }

    /// Appends the ids of a document to `out`.
    pub fn encode_document<D: Document + ?Sized>(
        &self,
        document: &D,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        if document.is_valid() {
            self.encode_content(document.content(), scratch, out);
        }
    }

    /// Appends the ids of a valid document.
    pub(crate) fn encode_content(&self, content: Content<'_>, scratch: &mut Scratch, out: &mut Vec<u32>) {
        match content {
            Content::Bytes(bytes) => self.encode_into(bytes, scratch, out),
            Content::Text(text) => self.encode_text_into(text, scratch, out),
        }
    }

    /// The text of a valid document, if it is short enough for [`Self::encode_short`].
    pub(crate) fn short_text<'a>(&self, content: Content<'a>) -> Option<Text<'a>> {
        if !self.encodes_directly() || content.len() + SHORT_COST > SHORT {
            return None;
        }
        match content {
            Content::Text(text) => Some(text),
            Content::Bytes(bytes) => simdutf8::basic::from_utf8(bytes).ok().map(Text::Utf8),
        }
    }

    /// Appends the ids of short texts that fit in one block, and writes to `ends` where in `out` each ends.
    pub(crate) fn encode_short(
        &self,
        texts: &[Text<'_>],
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        ends: &mut [i64],
    ) {
        if !texts.is_empty() {
            self.encoder.encode_short(self.options.add_dummy_prefix, texts, &mut scratch.bpe, out, ends);
        }
    }

    /// Ids of a text, and where in it each token stands: its first character and the one behind its last, in code
    /// points from 0. Slower than [`Self::encode`]: the text is normalised byte by byte.
    pub fn encode_with_offsets(&self, text: &str) -> (Vec<u32>, Vec<(usize, usize)>) {
        let aligned = Aligned::new(&self.normalizer, &self.options, text);
        let mut ids = Vec::new();
        self.with_scratch(|scratch| {
            self.encoder.encode_unfused(aligned.text(), &mut scratch.bpe, &mut ids);
        });
        aligned.place(&ids, |id| &self.pieces[id as usize])
    }

    /// Ids of a piece's own text, taken as already normalised: no dummy `▁` in front.
    pub fn encode_piece(&self, text: &str) -> Vec<u32> {
        let mut out = Vec::new();
        self.with_scratch(|scratch| self.encoder.encode(text, &mut scratch.bpe, &mut out));
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
