//! Where ids go, and what is written for a character that is no piece.

use crate::spm::{PieceKind, SpmModel, byte_of_piece};

/// What a model writes for a character that is no piece: its bytes, or the unknown token.
#[derive(Debug)]
pub struct Fallback {
    /// Ids of the 256 byte pieces, where the model has byte fallback.
    bytes: Option<Box<[u32; 256]>>,
    /// Id of the unknown token.
    unk: u32,
}

impl Fallback {
    /// The fallback of a model.
    pub fn new(model: &SpmModel) -> Self {
        let bytes = model.byte_fallback().then(|| {
            let mut ids = Box::new([0; 256]);
            let pieces = (0u32..).zip(model.pieces()).filter(|(_, piece)| piece.kind == PieceKind::Byte);
            for (id, piece) in pieces {
                if let Some(byte) = byte_of_piece(&piece.text) {
                    ids[usize::from(byte)] = id;
                }
            }
            ids
        });
        Self { bytes, unk: model.special_ids().unk }
    }

    /// The id of a byte's piece, where the model has byte fallback.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes.as_ref().map(|ids| ids[usize::from(byte)])
    }
}

/// Where an encoder writes its ids.
#[derive(Debug)]
pub struct Sink<'a> {
    /// The ids so far.
    pub ids: &'a mut Vec<u32>,
    /// True if the last one is the unknown token, into which the next unknown character fuses.
    pub after_unknown: bool,
    fallback: &'a Fallback,
    /// False if each unknown character gets a token of its own.
    fuses: bool,
}

impl<'a> Sink<'a> {
    /// A sink that appends to `ids`. Unless it `fuses`, each unknown character gets a token of its own; SentencePiece's
    /// ids have one for a whole run of them.
    pub fn new(fallback: &'a Fallback, fuses: bool, ids: &'a mut Vec<u32>) -> Self {
        Self { ids, after_unknown: false, fallback, fuses }
    }

    /// Writes a piece.
    #[inline(always)]
    pub fn piece(&mut self, id: u32) {
        self.after_unknown = false;
        self.ids.push(id);
    }

    /// Writes a character that is no piece.
    #[inline]
    pub fn unknown(&mut self, c: char) {
        match &self.fallback.bytes {
            Some(bytes) => {
                let code = u32::from(c);
                if (0x800..0x1_0000).contains(&code) {
                    // Most of them are Han characters, three bytes each.
                    let spelled = [0xE0 | (code >> 12), 0x80 | ((code >> 6) & 0x3F), 0x80 | (code & 0x3F)];
                    return self.ids.extend_from_slice(&spelled.map(|byte| bytes[byte as usize & 0xFF]));
                }
                let mut buffer = [0; 4];
                self.ids.extend(c.encode_utf8(&mut buffer).bytes().map(|byte| bytes[usize::from(byte)]));
            }
            None => {
                if !self.after_unknown {
                    self.ids.push(self.fallback.unk);
                }
                self.after_unknown = self.fuses;
            }
        }
    }
}
