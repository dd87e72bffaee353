//! Counting the runs of a text, on several threads; the result does not depend on how many.

use std::{
    hash::{BuildHasher, Hasher},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustc_hash::FxBuildHasher;

use super::cut::{Scripts, for_each_run};
use crate::{
    Result,
    normalize::{Normalizer, Part, PrefixMatcher},
    spm::SpmModel,
};

/// Tables, each with the runs of its hashes: threads fill different ones.
const SHARDS: usize = 64;
/// Bytes of text between two reports of progress: their runs wait in memory until they are entered.
const WINDOW: usize = 8 << 20;
/// Bytes of text that a thread takes at a time.
const CHUNK: usize = 128 << 10;

/// Runs of text and how often each was seen.
#[derive(Debug)]
pub struct RunCounter {
    scripts: Scripts,
    normalizer: Normalizer,
    shards: Vec<Mutex<Shard>>,
}

impl RunCounter {
    /// An empty counter of runs of text as `base` normalises it.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) for a broken character map.
    pub fn new(base: &SpmModel, scripts: Scripts) -> Result<Self> {
        let normalizer = Normalizer::new(base.normalizer(), PrefixMatcher::default(), base.origin())?;
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Ok(Self { scripts, normalizer, shards })
    }

    /// Counts the runs of texts that stand one after the other in `text`, each `sizes` bytes long. `watch` is told
    /// the bytes done, and may stop the work by an error.
    ///
    /// # Errors
    /// Those of `watch`.
    pub fn add(
        &self,
        text: &[u8],
        sizes: &[u32],
        threads: usize,
        watch: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut chunks = chunks(sizes);
        let mut done = 0;
        while !chunks.is_empty() {
            let window =
                chunks.iter().position(|chunk| chunk.end - done > WINDOW).unwrap_or(chunks.len()).max(1);
            self.add_window(text, &chunks[..window], threads.max(1));
            done = chunks[window - 1].end;
            chunks.drain(..window);
            watch(done as u64)?;
        }
        Ok(())
    }

    /// Counts the runs of one text so many times.
    pub fn add_word(&self, word: &str, count: u64) {
        let (mut normalized, mut found) = (Vec::new(), Found::default());
        self.read(word.as_bytes(), &[word.len() as u32], &mut normalized, &mut found);
        for (shard, table) in self.shards.iter().enumerate() {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            found.of(shard).for_each(|(hash, run)| table.add(hash, run, count));
        }
    }

    fn add_window(&self, text: &[u8], chunks: &[Chunk<'_>], threads: usize) {
        let found: Vec<Mutex<Found>> = chunks.iter().map(|_| Mutex::default()).collect();
        let next = AtomicUsize::new(0);
        on_threads(threads, || {
            let mut normalized = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(chunk) = chunks.get(index) else { break };
                let mut here = Found::default();
                self.read(&text[chunk.start..chunk.end], chunk.sizes, &mut normalized, &mut here);
                *found[index].lock().unwrap_or_else(PoisonError::into_inner) = here;
            }
        });
        let found: Vec<Found> = found
            .into_iter()
            .map(|found| found.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let next = AtomicUsize::new(0);
        on_threads(threads, || {
            loop {
                let shard = next.fetch_add(1, Ordering::Relaxed);
                let Some(table) = self.shards.get(shard) else { break };
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                // In the order of the text, so that the table does not depend on the threads.
                for (hash, run) in found.iter().flat_map(|found| found.of(shard)) {
                    table.add(hash, run, 1);
                }
            }
        });
    }

    /// Collects the runs of some texts.
    fn read(&self, text: &[u8], sizes: &[u32], normalized: &mut Vec<u8>, found: &mut Found) {
        let mut start = 0;
        for &size in sizes {
            let end = start + size as usize;
            normalized.clear();
            // Neither first nor last: a dummy `▁` belongs to the start of a document, and this may be any part of one.
            let part = Part { is_first: false, is_last: false };
            self.normalizer.normalize_part(&text[start..end], part, true, normalized);
            if let Ok(text) = simdutf8::basic::from_utf8(normalized) {
                for_each_run(text, self.scripts, |run| found.push(run));
            }
            start = end;
        }
    }

    /// The runs with their counts, the most frequent first; of equal ones in an order that depends on the text alone.
    pub(super) fn into_runs(self) -> Runs {
        let shards: Vec<Shard> =
            self.shards.into_iter().map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        let shards: Vec<_> = shards.into_iter().map(|shard| (shard.bytes, shard.entries)).collect();
        let mut repeated = Vec::new();
        for (number, (_, entries)) in (0u32..).zip(&shards) {
            let several = (0u32..).zip(entries).filter(|(_, entry)| entry.count > 1);
            repeated.extend(several.map(|(index, entry)| (entry.count, number, index)));
        }
        repeated.sort_unstable_by_key(|&(count, shard, index)| (std::cmp::Reverse(count), shard, index));
        Runs { repeated, shards }
    }
}

/// Counted runs.
pub(super) struct Runs {
    /// Count, shard and index there, for those seen more than once; most were seen once.
    repeated: Vec<(u64, u32, u32)>,
    shards: Vec<(Vec<u8>, Vec<Entry>)>,
}

impl Runs {
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let repeated = self.repeated.iter().map(|&(_, shard, index)| {
            let (bytes, entries) = &self.shards[shard as usize];
            entries[index as usize].run(bytes)
        });
        let with = |count| {
            self.shards.iter().flat_map(move |(bytes, entries)| {
                entries.iter().filter(move |entry| entry.count == count).map(|entry| entry.run(bytes))
            })
        };
        repeated.chain(with(1)).chain(with(0))
    }
}

#[derive(Debug)]
struct Entry {
    count: u64,
    start: u32,
    hash: u16,
    bytes: u16,
}

impl Entry {
    /// Its run and how often that was seen.
    fn run<'a>(&self, bytes: &'a [u8]) -> (&'a str, u64) {
        let run = &bytes[self.start as usize..][..usize::from(self.bytes)];
        (simdutf8::basic::from_utf8(run).unwrap_or_default(), self.count)
    }
}

/// A table of runs with open addressing.
#[derive(Debug, Default)]
struct Shard {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Indices of entries, plus one; a power of two of them.
    places: Vec<u32>,
}

impl Shard {
    fn add(&mut self, hash: u64, run: &[u8], count: u64) {
        if self.entries.len() * 4 >= self.places.len() * 3 {
            self.grow();
        }
        let mask = self.places.len() - 1;
        let (mut place, tag) = (hash as usize & mask, (hash >> 48) as u16);
        while let Some(index) = (self.places[place] as usize).checked_sub(1) {
            let entry = &mut self.entries[index];
            let length = usize::from(entry.bytes);
            if entry.hash == tag
                && length == run.len()
                && self.bytes[entry.start as usize..][..length] == *run
            {
                entry.count = entry.count.saturating_add(count);
                return;
            }
            place = (place + 1) & mask;
        }
        let (start, bytes) = (self.bytes.len() as u32, run.len() as u16);
        self.bytes.extend_from_slice(run);
        self.entries.push(Entry { count, start, hash: tag, bytes });
        self.places[place] = self.entries.len() as u32;
    }

    fn grow(&mut self) {
        let size = (self.places.len() * 2).max(16);
        self.places.clear();
        self.places.resize(size, 0);
        for (index, entry) in (1u32..).zip(&self.entries) {
            let mut place = hash_of(&self.bytes[entry.start as usize..][..usize::from(entry.bytes)]) as usize;
            while self.places[place & (size - 1)] != 0 {
                place += 1;
            }
            self.places[place & (size - 1)] = index;
        }
    }
}

/// The runs of a chunk.
#[derive(Default)]
struct Found {
    bytes: Vec<u8>,
    /// Hash, start and length, by shard.
    runs: Vec<Vec<(u64, u32, u32)>>,
}

impl Found {
    fn push(&mut self, run: &str) {
        let hash = hash_of(run.as_bytes());
        self.runs.resize_with(SHARDS, Vec::new);
        self.runs[(hash >> 32) as usize % SHARDS].push((hash, self.bytes.len() as u32, run.len() as u32));
        self.bytes.extend_from_slice(run.as_bytes());
    }

    fn of(&self, shard: usize) -> impl Iterator<Item = (u64, &[u8])> {
        let runs = self.runs.get(shard).map(Vec::as_slice).unwrap_or_default();
        runs.iter().map(|&(hash, start, length)| (hash, &self.bytes[start as usize..][..length as usize]))
    }
}

fn hash_of(run: &[u8]) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(run);
    hasher.finish()
}

/// Some whole texts.
struct Chunk<'a> {
    start: usize,
    end: usize,
    sizes: &'a [u32],
}

fn chunks(sizes: &[u32]) -> Vec<Chunk<'_>> {
    let (mut found, mut first, mut start, mut end) = (Vec::new(), 0, 0, 0);
    for (index, &size) in sizes.iter().enumerate() {
        end += size as usize;
        if end - start >= CHUNK || index + 1 == sizes.len() {
            found.push(Chunk { start, end, sizes: &sizes[first..=index] });
            (first, start) = (index + 1, end);
        }
    }
    found
}

/// Does the same on so many threads, this one among them.
pub(super) fn on_threads(threads: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(&work);
        }
        work();
    });
}
