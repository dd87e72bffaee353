//! Many texts on many threads, with one buffer of ids as the result.
//!
//! [`task`] cuts documents into tasks, long documents included; [`join`] has threads encode them and joins the ids.

mod join;
mod task;

use self::{join::encode_and_join, task::cut_batch};
use crate::{text::Document, tokenizer::Tokenizer};

/// The ids of many documents in one buffer: those of document `i` are `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EncodedBatch {
    /// The ids of all documents.
    pub ids: Vec<u32>,
    /// Where each document starts, and the end of the last.
    pub offsets: Vec<i64>,
}

impl Tokenizer {
    /// Ids of many texts, encoded by `threads` threads; the result does not depend on their number.
    pub fn encode_batch<D: Document>(&self, documents: &[D], threads: usize) -> EncodedBatch {
        let mut offsets = vec![0; documents.len() + 1];
        let tasks = cut_batch(self, documents, &mut offsets[1..]);
        let units: usize = documents.iter().map(|document| document.raw().len()).sum();
        // More than most texts need. What is not written is never backed by memory.
        let mut ids = Vec::new();
        if ids.try_reserve(units + units / 2).is_err() {
            ids.reserve(units / 4);
        }
        encode_and_join(self, tasks, threads, units, &mut ids);
        ids.shrink_to_fit();
        EncodedBatch { ids, offsets }
    }
}
