//! Encodes a block: from its records to stored tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::progress::Clock;
use crate::{
    Text, Tokenizer,
    corpus::{
        options::EncodeOptions,
        read::{
            block::{BLOCK_BYTES, Block, Origin, Reject},
            documents::{DocumentReader, Documents, Fate},
        },
        store::plan::Plan,
    },
    tokenizer::Scratch,
};

/// The records of one block, encoded.
pub struct EncodedBlock {
    /// Where they come from.
    pub origin: Arc<Origin>,
    /// Where the block starts in the file.
    pub offset: u64,
    /// Where it ends.
    pub end: u64,
    /// Bytes of the file that were read for it.
    pub packed: u64,
    /// Unpacked bytes.
    pub bytes: u64,
    /// All records.
    pub records: Vec<EncodedRecord>,
    /// The stored form of the tokens of all kept ones.
    pub tokens: Vec<u8>,
    /// The bad ones.
    pub rejects: Vec<Reject>,
    /// With deduplication, a hash of each kept one.
    pub hashes: Vec<u128>,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRecord {
    /// What becomes of it.
    pub fate: Fate,
    /// Its number of tokens.
    pub tokens: u32,
    /// Its number of code points.
    pub characters: u32,
    /// Its number of bytes of text.
    pub bytes: u32,
}

/// Encodes blocks; one per thread.
pub struct BlockEncoder<'a> {
    tokenizer: &'a Tokenizer,
    reader: DocumentReader<'a>,
    bos: Option<u32>,
    eos: Option<u32>,
    scratch: Scratch,
    found: Documents,
    ids: Vec<u32>,
}

impl<'a> BlockEncoder<'a> {
    /// An encoder for these options.
    pub fn new(tokenizer: &'a Tokenizer, options: &'a EncodeOptions) -> Self {
        let special = tokenizer.special_ids();
        Self {
            tokenizer,
            reader: DocumentReader::new(options),
            bos: special.bos.filter(|_| options.bos),
            eos: special.eos.filter(|_| options.eos),
            scratch: tokenizer.new_scratch(),
            found: Documents::default(),
            ids: Vec::new(),
        }
    }

    /// Encodes the documents of a block; `None` once `stop` is set.
    pub fn encode(
        &mut self,
        block: &Block,
        plan: &Plan,
        stop: &AtomicBool,
        clock: &Clock,
    ) -> Option<EncodedBlock> {
        let since = Instant::now();
        self.reader.read(block, &mut self.found);
        let found = &mut self.found;
        Clock::add(&clock.parse, since);
        let since = Instant::now();
        self.ids.clear();
        self.ids.shrink_to(4 * BLOCK_BYTES);
        let mut records = Vec::with_capacity(found.records.len());
        let mut start = 0;
        for document in &found.records {
            let before = self.ids.len();
            let text = &found.text[start..document.end];
            start = document.end;
            if document.fate == Fate::Kept {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                self.ids.extend(self.bos);
                self.tokenizer.encode_into(Text::Utf8(text), &mut self.scratch, &mut self.ids);
                self.ids.extend(self.eos);
            }
            records.push(EncodedRecord {
                fate: document.fate,
                tokens: (self.ids.len() - before) as u32,
                characters: document.characters,
                bytes: text.len() as u32,
            });
        }
        let tokens = plan.config.width().store(&self.ids);
        Clock::add(&clock.encode, since);
        Some(EncodedBlock {
            origin: block.origin.clone(),
            offset: block.offset,
            end: block.end,
            packed: block.packed,
            bytes: block.input_bytes(),
            records,
            tokens,
            rejects: std::mem::take(&mut found.rejects),
            hashes: std::mem::take(&mut found.hashes),
        })
    }
}
