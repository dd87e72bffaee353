//! Short texts that share a block, so that a text costs little more than its characters.

use super::lists::BLOCK;
use crate::{bpe::kernel::CHUNK, text::Text};

/// Units of the texts of a block. (UTF-8 is decoded in chunks, for a whole one of which there must be room.)
const MAX_UNITS: usize = BLOCK - CHUNK;
/// What a text takes of the block in addition to its own units: the prefix, and the code that ends it.
const COST: usize = 2;

/// Texts that fit in one block.
#[derive(Debug, Default)]
pub struct ShortTexts<'a> {
    texts: Vec<Text<'a>>,
    units: usize,
}

impl<'a> ShortTexts<'a> {
    /// True if a text of so many units is one for [`Self::push`].
    pub fn takes(units: usize) -> bool {
        units + COST <= MAX_UNITS
    }

    /// Adds a text; false if there is no room left for it.
    pub fn push(&mut self, text: Text<'a>) -> bool {
        let units = self.units + text.len() + COST;
        let fits = units <= MAX_UNITS;
        if fits {
            self.texts.push(text);
            self.units = units;
        }
        fits
    }

    /// The texts.
    pub fn as_slice(&self) -> &[Text<'a>] {
        &self.texts
    }

    /// Removes all texts.
    pub fn clear(&mut self) {
        self.texts.clear();
        self.units = 0;
    }
}
