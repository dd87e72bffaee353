use buffa::Message;
use rustc_hash::{FxHashMap, FxHashSet};

use super::proto::{
    ModelProto, NormalizerSpec, TrainerSpec, model_proto::SentencePiece, model_proto::sentence_piece::Type,
    trainer_spec::ModelType,
};
use crate::{Error, Result};

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PieceKind {
    /// Made by merging.
    Normal,
    /// What no piece covers; exactly one per model.
    Unknown,
    /// `<s>`, `</s>` and the like: never made from text.
    Control,
    /// Matched in the text before any merge.
    UserDefined,
    /// Takes part in merges, but is split again at the end.
    Unused,
    /// One byte, `<0x0A>`: what unknown characters fall back to.
    Byte,
}

/// One entry of the vocabulary; its id is its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The text, with `▁` (U+2581) for a space.
    pub text: String,
    /// Merge priority: higher merges first.
    pub score: f32,
    /// What it is for.
    pub kind: PieceKind,
}

/// The algorithm a model was trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// Unigram language model.
    Unigram,
    /// Byte-pair encoding.
    Bpe,
    /// One piece per word.
    Word,
    /// One piece per character.
    Char,
}

impl ModelKind {
    /// The name SentencePiece uses on its command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unigram => "unigram",
            Self::Bpe => "bpe",
            Self::Word => "word",
            Self::Char => "char",
        }
    }
}

/// How text is prepared before BPE sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NormalizerOptions {
    /// Compiled character map; empty = identity.
    pub charsmap: Vec<u8>,
    /// One `▁` before each text.
    pub add_dummy_prefix: bool,
    /// Spaces trimmed and collapsed.
    pub remove_extra_whitespaces: bool,
    /// Spaces become `▁`.
    pub escape_whitespaces: bool,
    /// The dummy `▁` comes after the text instead of before it.
    pub whitespace_as_suffix: bool,
}

/// A SentencePiece model: the parsed file and its pieces, checked as SentencePiece checks them.
#[derive(Clone, Debug)]
pub struct SpmModel {
    proto: ModelProto,
    pieces: Vec<Piece>,
    kind: ModelKind,
    origin: String,
}

impl SpmModel {
    /// Parses and checks a model; `origin` names it in errors.
    pub fn from_bytes(bytes: &[u8], origin: &str) -> Result<Self> {
        if bytes.is_empty() {
            return Err(Error::model(origin, "the file is empty; copy the tokenizer.model again"));
        }
        let proto = ModelProto::decode_from_slice(bytes).map_err(|e| {
            Error::model(
                origin,
                format!("no SentencePiece model, or a damaged one ({e}); copy the tokenizer.model again"),
            )
        })?;
        if proto.pieces.is_empty() {
            return Err(Error::model(origin, "no SentencePiece model: it holds no pieces"));
        }
        if proto.trainer_spec.as_option().is_none() || proto.normalizer_spec.as_option().is_none() {
            return Err(Error::model(
                origin,
                "the trainer or normalizer settings are missing: the file is cut off; copy it again",
            ));
        }
        let kind = match proto.trainer_spec.as_option().and_then(|t| t.model_type) {
            Some(ModelType::BPE) => ModelKind::Bpe,
            Some(ModelType::WORD) => ModelKind::Word,
            Some(ModelType::CHAR) => ModelKind::Char,
            Some(ModelType::UNIGRAM) | None => ModelKind::Unigram,
        };
        let pieces = proto.pieces.iter().map(piece_from_proto).collect();
        let model = Self { proto, pieces, kind, origin: origin.into() };
        model.check()?;
        Ok(model)
    }

    /// A BPE model of these pieces, their ids in order.
    ///
    /// # Errors
    /// [`Error::Model`] if SentencePiece's loader would refuse them.
    pub fn from_pieces(
        pieces: &[Piece],
        byte_fallback: bool,
        normalizer: &NormalizerOptions,
        origin: &str,
    ) -> Result<Self> {
        let trainer = TrainerSpec {
            model_type: Some(ModelType::BPE),
            byte_fallback: Some(byte_fallback),
            treat_whitespace_as_suffix: Some(normalizer.whitespace_as_suffix),
            ..Default::default()
        };
        let charsmap = &normalizer.charsmap;
        let normalizer = NormalizerSpec {
            precompiled_charsmap: (!charsmap.is_empty()).then(|| charsmap.clone()),
            add_dummy_prefix: Some(normalizer.add_dummy_prefix),
            remove_extra_whitespaces: Some(normalizer.remove_extra_whitespaces),
            escape_whitespaces: Some(normalizer.escape_whitespaces),
            ..Default::default()
        };
        let proto = ModelProto {
            pieces: pieces.iter().map(piece_to_proto).collect(),
            trainer_spec: trainer.into(),
            normalizer_spec: normalizer.into(),
            ..Default::default()
        };
        let model = Self { proto, pieces: pieces.to_vec(), kind: ModelKind::Bpe, origin: origin.into() };
        model.check()?;
        Ok(model)
    }

    /// The rules of SentencePiece's own loader (`ModelInterface::InitializePieces`).
    fn check(&self) -> Result<()> {
        let fail = |reason: String| Err(Error::model(&self.origin, reason));
        let mut seen = FxHashSet::default();
        let mut bytes_seen = [false; 256];
        let mut unknown = 0;
        for (id, piece) in self.pieces.iter().enumerate() {
            if piece.text.is_empty() {
                return fail(format!("piece {id} is empty"));
            }
            if !seen.insert(piece.text.as_str()) {
                return fail(format!("piece {id} `{}` stands twice", piece.text));
            }
            match piece.kind {
                PieceKind::Unknown => unknown += 1,
                PieceKind::Byte if !self.byte_fallback() => {
                    return fail(format!("byte piece {id} `{}` without byte fallback", piece.text));
                }
                PieceKind::Byte => match byte_of_piece(&piece.text) {
                    Some(byte) => bytes_seen[usize::from(byte)] = true,
                    None => return fail(format!("byte piece {id} `{}` names no byte", piece.text)),
                },
                _ => {}
            }
        }
        if unknown != 1 {
            return fail(format!("{unknown} unknown pieces where exactly one must be"));
        }
        if self.byte_fallback() && bytes_seen.contains(&false) {
            return fail("byte fallback is on, but not all 256 byte pieces are there".into());
        }
        Ok(())
    }

    /// Serialises the model. An unchanged model gives the bytes it was read from, if these were written
    /// in field order (as SentencePiece and protobuf do); fields we do not know are kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    /// Appends a piece of a kind that text may become.
    pub(crate) fn append(&mut self, text: &str, score: f32, kind: PieceKind) {
        let piece = Piece { text: text.into(), score, kind };
        self.proto.pieces.push(piece_to_proto(&piece));
        self.pieces.push(piece);
    }

    /// The pieces in the order of their ids.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The algorithm the model is for.
    pub fn kind(&self) -> ModelKind {
        self.kind
    }

    /// The file it was read from, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// True if unknown characters become their UTF-8 bytes.
    pub fn byte_fallback(&self) -> bool {
        self.proto.trainer_spec.as_option().and_then(|t| t.byte_fallback).unwrap_or(false)
    }

    /// How text is normalised before encoding.
    pub fn normalizer(&self) -> NormalizerOptions {
        let suffix = self.proto.trainer_spec.as_option().and_then(|t| t.treat_whitespace_as_suffix);
        let spec = self.proto.normalizer_spec.as_option();
        NormalizerOptions {
            whitespace_as_suffix: suffix.unwrap_or(false),
            ..spec.map(normalizer_options).unwrap_or_default()
        }
    }

    /// How decoded text is normalised, where the model says so (hardly any does).
    pub fn denormalizer(&self) -> Option<NormalizerOptions> {
        let options = self.proto.denormalizer_spec.as_option().map(normalizer_options)?;
        (!options.charsmap.is_empty()).then_some(options)
    }

    /// What the unknown token is written as when decoded.
    pub fn unk_surface(&self) -> &str {
        let spec = self.proto.trainer_spec.as_option();
        spec.and_then(|t| t.unk_surface.as_deref()).unwrap_or(" \u{2047} ")
    }

    /// Ids of the unknown, begin, end and padding tokens, by the names the model gives them.
    pub fn special_ids(&self) -> SpecialIds {
        let spec = self.proto.trainer_spec.as_option();
        let by_text: FxHashMap<&str, usize> = self
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, p)| p.kind == PieceKind::Control)
            .map(|(id, p)| (p.text.as_str(), id))
            .collect();
        let named = |name: Option<&str>, default| {
            let name = name.filter(|n| !n.is_empty()).unwrap_or(default);
            by_text.get(name).map(|&id| id as u32)
        };
        SpecialIds {
            unk: self.pieces.iter().position(|p| p.kind == PieceKind::Unknown).unwrap_or(0) as u32,
            bos: named(spec.and_then(|t| t.bos_piece.as_deref()), "<s>"),
            eos: named(spec.and_then(|t| t.eos_piece.as_deref()), "</s>"),
            pad: named(spec.and_then(|t| t.pad_piece.as_deref()), "<pad>"),
        }
    }
}

/// Ids of the tokens that frame a text; `None` where the model has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Unknown; every model has it.
    pub unk: u32,
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

impl PieceKind {
    /// The name SentencePiece gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Unknown => "UNKNOWN",
            Self::Control => "CONTROL",
            Self::UserDefined => "USER_DEFINED",
            Self::Unused => "UNUSED",
            Self::Byte => "BYTE",
        }
    }

    /// True for pieces that BPE may make from text.
    pub fn matches_text(self) -> bool {
        matches!(self, Self::Normal | Self::UserDefined | Self::Unused)
    }
}

/// The byte of a piece like `<0x0A>`.
pub fn byte_of_piece(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    upper.then(|| u8::from_str_radix(hex, 16).ok())?
}

fn piece_from_proto(proto: &SentencePiece) -> Piece {
    Piece {
        text: proto.piece.clone().unwrap_or_default(),
        score: proto.score.unwrap_or(0.0),
        kind: match proto.r#type.unwrap_or(Type::NORMAL) {
            Type::NORMAL => PieceKind::Normal,
            Type::UNKNOWN => PieceKind::Unknown,
            Type::CONTROL => PieceKind::Control,
            Type::USER_DEFINED => PieceKind::UserDefined,
            Type::UNUSED => PieceKind::Unused,
            Type::BYTE => PieceKind::Byte,
        },
    }
}

/// A NORMAL piece is written as the published merge script writes it: text and score, no type.
fn piece_to_proto(piece: &Piece) -> SentencePiece {
    let r#type = match piece.kind {
        PieceKind::Normal => None,
        PieceKind::Unknown => Some(Type::UNKNOWN),
        PieceKind::Control => Some(Type::CONTROL),
        PieceKind::UserDefined => Some(Type::USER_DEFINED),
        PieceKind::Unused => Some(Type::UNUSED),
        PieceKind::Byte => Some(Type::BYTE),
    };
    let (text, score) = (Some(piece.text.clone()), Some(piece.score));
    SentencePiece { piece: text, score, r#type, ..Default::default() }
}

fn normalizer_options(spec: &NormalizerSpec) -> NormalizerOptions {
    NormalizerOptions {
        charsmap: spec.precompiled_charsmap.clone().unwrap_or_default().to_vec(),
        add_dummy_prefix: spec.add_dummy_prefix.unwrap_or(true),
        remove_extra_whitespaces: spec.remove_extra_whitespaces.unwrap_or(true),
        escape_whitespaces: spec.escape_whitespaces.unwrap_or(true),
        whitespace_as_suffix: false,
    }
}
