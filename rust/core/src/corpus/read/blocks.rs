//! Reads a span of a file in blocks of whole records. Where blocks end depends only on the file.

use std::{fs::File, sync::Arc};

use super::{
    block::{Block, BlockContent, Origin, Stop},
    rows::Rows,
    stream::{check_unchanged, open_unchanged},
    text_blocks::TextBlocks,
};
use crate::{
    Error, Result,
    corpus::{
        options::EncodeOptions,
        source::{Source, Span},
    },
};

/// The blocks of one span.
pub enum Blocks {
    /// Of a text file.
    Text(Box<TextBlocks>),
    /// Of a parquet or Arrow file.
    Rows(Arc<Origin>, Box<Rows>, File),
}

impl Blocks {
    /// Opens a span of `source`. Reading stops with [`Error::Stopped`] once `stop` is set.
    pub fn open(source: Arc<Source>, span: Span, options: &EncodeOptions, stop: Stop) -> Result<Self> {
        if !source.format.has_rows() {
            return Ok(Self::Text(Box::new(TextBlocks::open(source, span, options, stop)?)));
        }
        let file = open_unchanged(&source)?;
        let again = file.try_clone().map_err(Error::io(&source.path))?;
        let origin = Origin::new(source.clone(), options, span, false);
        let rows = Rows::open(source, file, &options.fields, span.start, span.end)?;
        Ok(Self::Rows(origin, Box::new(rows), again))
    }

    /// Bytes of the file that were read since the last block.
    pub fn take_packed(&self) -> u64 {
        match self {
            Self::Text(text) => text.take_packed(),
            Self::Rows(..) => 0,
        }
    }

    /// The next block, or `None` at the end of the span.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the file has changed meanwhile.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        match self {
            Self::Text(text) => text.next_block(),
            Self::Rows(origin, rows, file) => {
                let Some(batch) = rows.next_batch()? else {
                    check_unchanged(&origin.source, file)?;
                    return Ok(None);
                };
                let (offset, end) = (batch.row, batch.row + batch.ends.len() as u64);
                let packed = rows.take_packed(&origin.source, offset, end);
                let origin = origin.clone();
                let content = BlockContent::Rows(batch);
                Ok(Some(Block { origin, line: 0, element: 0, offset, end, packed, content }))
            }
        }
    }
}
