//! How many bytes a stored token takes.

/// The stored form of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenWidth {
    /// Two bytes, unsigned.
    U16,
    /// Four bytes, signed.
    I32,
}

impl TokenWidth {
    /// Megatron's rule: two bytes if the vocabulary has fewer than 65,500 ids.
    pub fn for_vocab(size: usize) -> Self {
        if size < 65_500 { Self::U16 } else { Self::I32 }
    }

    /// Bytes per token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::I32 => 4,
        }
    }

    /// The numpy name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::U16 => "uint16",
            Self::I32 => "int32",
        }
    }

    /// The number of the type in an index.
    pub fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::I32 => 4,
        }
    }

    /// The stored form of ids, little-endian.
    pub fn store(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::U16 => ids.iter().map(|&id| (id as u16).to_le_bytes()).collect::<Vec<_>>().into_flattened(),
            Self::I32 => ids.iter().map(|id| id.to_le_bytes()).collect::<Vec<_>>().into_flattened(),
        }
    }
}
