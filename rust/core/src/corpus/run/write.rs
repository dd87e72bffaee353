//! Writes encoded blocks, in order, to the shards and the commit record of their task.

use std::{collections::HashSet, fs, path::Path};

use rustc_hash::FxBuildHasher;
use serde_json::json;

use super::encode::EncodedBlock;
use crate::{
    Error, Result,
    corpus::{
        read::{
            block::{Origin, Reject},
            documents::Fate,
        },
        store::{
            commit::{self, WrittenTask},
            disk::NewFile,
            folder::{hashes_path, shard_name},
            plan::Plan,
            records::{Commit, Counts, InputRange},
            shard::ShardWriter,
        },
    },
};

/// Maximum number of documents per shard, whatever their size: their lengths are kept in memory (32 MB).
const SHARD_DOCUMENTS: usize = 8 << 20;

/// What the documents kept so far mean for later ones.
#[derive(Debug, Default)]
pub struct History {
    /// With deduplication, the hashes of all documents kept so far. 16 bytes and a control byte in a table
    /// that is between half and seven eighths full: 20 to 40 bytes per document, and half as much again while
    /// it grows.
    seen: HashSet<u128, FxBuildHasher>,
    /// Documents kept so far.
    documents: u64,
}

impl History {
    /// Adds the documents of a committed task.
    pub fn add_commit(&mut self, out: &Path, commit: &Commit, dedup: bool) -> Result<()> {
        self.documents += commit.counts.documents;
        if dedup {
            let path = hashes_path(out, commit.task);
            let bytes = fs::read(&path).map_err(Error::io(path))?;
            self.seen.extend(bytes.as_chunks::<16>().0.iter().map(|hash| u128::from_le_bytes(*hash)));
        }
        Ok(())
    }

    /// True if the limit is reached.
    pub fn is_full(&self, limit: Option<u64>) -> bool {
        limit.is_some_and(|limit| self.documents >= limit)
    }
}

/// Writes the blocks of one task.
pub struct TaskWriter<'a> {
    plan: &'a Plan,
    out: &'a Path,
    tag: &'a str,
    skip_bad: bool,
    task: usize,
    shard: Option<ShardWriter>,
    shards: usize,
    shard_input: u64,
    counts: Counts,
    packed: u64,
    rejects: Option<NewFile>,
    hashes: Option<Vec<u8>>,
}

impl<'a> TaskWriter<'a> {
    /// Starts a task for the run or part `tag`.
    pub fn new(plan: &'a Plan, out: &'a Path, tag: &'a str, skip_bad: bool, task: usize) -> Self {
        Self {
            plan,
            out,
            tag,
            skip_bad,
            task,
            shard: None,
            shards: 0,
            shard_input: 0,
            counts: Counts::default(),
            packed: 0,
            rejects: None,
            hashes: plan.config.options.dedup.then(Vec::new),
        }
    }

    /// Writes one block and updates `before`; returns a shard that has become full.
    ///
    /// # Errors
    /// [`Error::Record`] for a bad record, unless they are skipped; [`Error::Io`].
    pub fn write(&mut self, block: &EncodedBlock, before: &mut History) -> Result<Option<ShardWriter>> {
        let options = &self.plan.config.options;
        let width = self.plan.config.width().bytes();
        let mut added = InputRange {
            source: block.origin.number,
            start: block.offset,
            end: block.end,
            documents: 0,
            tokens: 0,
            characters: 0,
        };
        let mut lengths = Vec::with_capacity(block.records.len());
        // Ranges of tokens to write; a single one unless a document in between is dropped here.
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        let (mut at, mut kept) = (0, 0);
        let mut rejects = block.rejects.iter();
        for record in &block.records {
            if before.is_full(options.limit) {
                break;
            }
            match record.fate {
                Fate::Empty => self.counts.empty_documents += 1,
                Fate::Short => self.counts.short_documents += 1,
                Fate::Long => self.counts.long_documents += 1,
                Fate::Foreign => self.counts.foreign_documents += 1,
                Fate::Unsampled => self.counts.unsampled_documents += 1,
                Fate::Bad => {
                    if let Some(reject) = rejects.next() {
                        self.reject(&block.origin, reject)?;
                    }
                }
                Fate::Kept => {
                    let end = at + record.tokens as usize * width;
                    let hash = block.hashes.get(kept);
                    kept += 1;
                    if hash.is_some_and(|hash| !before.seen.insert(*hash)) {
                        self.counts.duplicate_documents += 1;
                    } else {
                        if let (Some(all), Some(hash)) = (&mut self.hashes, hash) {
                            all.extend_from_slice(&hash.to_le_bytes());
                        }
                        match ranges.last_mut() {
                            Some(last) if last.end == at => last.end = end,
                            _ => ranges.push(at..end),
                        }
                        lengths.push(record.tokens);
                        added.documents += 1;
                        added.tokens += u64::from(record.tokens);
                        added.characters += u64::from(record.characters);
                        self.counts.text_bytes += u64::from(record.bytes);
                        before.documents += 1;
                    }
                    at = end;
                }
            }
        }
        self.counts.documents += added.documents;
        self.counts.tokens += added.tokens;
        self.counts.characters += added.characters;
        self.counts.input_bytes += block.bytes;
        self.shard_input += block.bytes;
        self.add_packed(block.packed);
        if added.documents > 0 {
            let shard = match &mut self.shard {
                Some(shard) => shard,
                none => {
                    let name = shard_name(self.task, self.shards);
                    self.shards += 1;
                    none.insert(ShardWriter::create(self.out, self.tag, name, self.plan.config.width())?)
                }
            };
            let mut lengths = lengths.into_iter();
            match ranges.as_slice() {
                [range] => shard.push(&block.tokens[range.clone()], lengths, added)?,
                ranges => {
                    let tokens: Vec<u8> =
                        ranges.iter().flat_map(|r| &block.tokens[r.clone()]).copied().collect();
                    shard.push(&tokens, &mut lengths, added)?;
                }
            }
        }
        let documents = self.shard.as_ref().map_or(0, ShardWriter::documents);
        if self.shard_input >= options.shard_bytes || documents >= SHARD_DOCUMENTS {
            self.shard_input = 0;
            return Ok(self.shard.take());
        }
        Ok(None)
    }

    /// Counts bytes of a file that were read after the last block.
    pub fn add_packed(&mut self, bytes: u64) {
        self.packed += bytes;
    }

    /// The totals so far, and the bytes of files that were read.
    pub fn so_far(&self) -> (Counts, u64) {
        (self.counts, self.packed)
    }

    /// Ends the task: returns the shard that is still open, and the task without its shards.
    pub fn finish(self) -> (Option<ShardWriter>, WrittenTask) {
        let commit = Commit {
            task: self.task,
            hash: self.plan.task_hash(self.task),
            packed_bytes: self.packed,
            counts: self.counts,
            shards: Vec::new(),
        };
        (self.shard, WrittenTask { commit, rejects: self.rejects, hashes: self.hashes })
    }

    fn reject(&mut self, origin: &Origin, reject: &Reject) -> Result<()> {
        if !self.skip_bad {
            return Err(origin.bad_record(reject));
        }
        self.counts.bad_records += 1;
        let file = match &mut self.rejects {
            Some(file) => file,
            none => {
                none.insert(NewFile::create(commit::temporary(self.out, self.tag, self.task, "rejects"))?)
            }
        };
        let rows = origin.source.format.has_rows();
        let mut line = json!({
            "path": origin.source.path.display().to_string(),
            "offset": reject.offset,
            "line": (!rows).then(|| origin.line(reject.line)),
            "bytes": reject.bytes,
            "reason": reject.reason.to_string(),
            "head": reject.head,
        });
        if origin.is_array {
            line["element"] = json!(reject.element);
        }
        let mut line = line.to_string();
        line.push('\n');
        file.write(line.as_bytes())
    }
}
