//! Counts how often the texts of pieces occur in a corpus, whether or not they became tokens there.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use aho_corasick::AhoCorasick;
use crossbeam_channel::RecvTimeoutError;

use crate::{
    Error, Result, Tokenizer,
    corpus::store::{
        digest::{HashedReader, damaged},
        folder::MANIFEST_FILE,
        index::{read_header, read_lengths},
        manifest::Manifest,
        records::ShardEntry,
        width::TokenWidth,
    },
    spm::{PieceKind, byte_of_piece},
};

/// Bytes of text searched at a time.
const TEXT: usize = 1 << 20;

/// Separates documents, and replaces tokens without text. No piece contains it: it is not UTF-8.
const BREAK: u8 = 0xFF;

/// How often progress is reported.
const TICK: Duration = Duration::from_millis(50);

/// For each of `ids`, how often the text of its piece occurs in the corpus, including overlaps.
///
/// The text is what the engine merges: normalised, with `▁` for spaces. Shards are searched in parallel on
/// `threads` threads, in memory that does not grow with the corpus. `progress` gets the number of bytes of
/// `.bin` files read so far; returning false stops.
///
/// # Errors
/// [`Error::Argument`] if there is no manifest, or an id has no piece; [`Error::Damaged`] for a shard that
/// differs from the manifest; [`Error::Stopped`].
pub fn count_occurrences(
    corpus: &Path,
    tokenizer: &Tokenizer,
    ids: &[u32],
    threads: usize,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<Vec<u64>> {
    let Some(manifest) = Manifest::load(corpus)? else {
        let corpus = corpus.display();
        return Err(Error::Argument(
            format!("{corpus}: holds no {MANIFEST_FILE}; name an encoded corpus").into(),
        ));
    };
    let spelled: Vec<_> = (0..).map_while(|id| spell(tokenizer, id)).collect();
    let wanted = |&id: &u32| {
        let text = spelled.get(id as usize).filter(|text| **text != [BREAK]);
        text.ok_or_else(|| Error::Argument(format!("id {id} has no piece that stands for text").into()))
    };
    let wanted = ids.iter().map(wanted).collect::<Result<Vec<_>>>()?;
    let automaton = AhoCorasick::new(&wanted).map_err(|e| Error::Argument(e.to_string().into()))?;
    let search = ShardSearch {
        corpus,
        width: TokenWidth::for_vocab(manifest.tokenizer.vocab_size as usize),
        spelled: &spelled,
        automaton: &automaton,
        done: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
    };

    let next = AtomicUsize::new(0);
    let (sender, found) = crossbeam_channel::unbounded();
    let mut counts = vec![0; ids.len()];
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, manifest.shards.len().max(1)) {
            let (sender, search, next, shards) = (sender.clone(), &search, &next, &manifest.shards);
            scope.spawn(move || {
                while let Some(shard) = shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // After a failure nothing is received any more.
                    let _ = sender.send(search.count(shard));
                }
            });
        }
        drop(sender);
        loop {
            match found.recv_timeout(TICK) {
                Ok(Ok(part)) => counts.iter_mut().zip(part).for_each(|(sum, n)| *sum += n),
                Ok(Err(e)) => {
                    search.stopped.store(true, Ordering::Relaxed);
                    return Err(e);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(counts),
            }
            if !progress(search.done.load(Ordering::Relaxed)) {
                search.stopped.store(true, Ordering::Relaxed);
                return Err(Error::Stopped);
            }
        }
    })
}

/// The bytes of text of a token; `None` for an id outside the vocabulary.
fn spell(tokenizer: &Tokenizer, id: u32) -> Option<Vec<u8>> {
    let piece = tokenizer.piece(id)?;
    Some(match piece.kind {
        PieceKind::Control | PieceKind::Unknown => vec![BREAK],
        PieceKind::Byte => byte_of_piece(&piece.text).map_or_else(|| vec![BREAK], |byte| vec![byte]),
        _ if piece.text.is_empty() => vec![BREAK],
        _ => piece.text.clone().into_bytes(),
    })
}

struct ShardSearch<'a> {
    corpus: &'a Path,
    width: TokenWidth,
    spelled: &'a [Vec<u8>],
    automaton: &'a AhoCorasick,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl ShardSearch<'_> {
    fn count(&self, shard: &ShardEntry) -> Result<Vec<u64>> {
        let mut lengths = Vec::new();
        let mut index = HashedReader::open(&self.corpus.join(format!("{}.idx", shard.name)))?;
        let (_, documents) = read_header(&mut index)?;
        read_lengths(&mut index, documents, |length| {
            lengths.push(length);
            Ok(())
        })?;

        let path = self.corpus.join(format!("{}.bin", shard.name));
        let mut text = SearchedText::new(self.automaton);
        let mut lengths = lengths.into_iter();
        let mut left = lengths.next().unwrap_or_default();
        HashedReader::open(&path)?.read(shard.bytes, |chunk| {
            let ids: &mut dyn Iterator<Item = u32> = match self.width {
                TokenWidth::U16 => &mut chunk.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()),
                TokenWidth::I32 => &mut chunk.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)),
            };
            for id in ids {
                let Some(spelled) = self.spelled.get(id as usize) else {
                    return Err(damaged(&path, &format!("holds the id {id}, outside the vocabulary")));
                };
                text.push(spelled);
                left = left.saturating_sub(1); // 0 in a damaged index
                if left == 0 {
                    text.push(&[BREAK]);
                    left = lengths.next().unwrap_or_default();
                }
            }
            self.done.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if self.stopped.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
        })?;
        text.search();
        Ok(text.counts)
    }
}

/// Text that is searched as it grows.
struct SearchedText<'a> {
    automaton: &'a AhoCorasick,
    held: Vec<u8>,
    /// Bytes of `held` that were searched before: matches that end in them are counted.
    searched: usize,
    counts: Vec<u64>,
}

impl<'a> SearchedText<'a> {
    fn new(automaton: &'a AhoCorasick) -> Self {
        let counts = vec![0; automaton.patterns_len()];
        Self { automaton, held: Vec::with_capacity(TEXT + 1024), searched: 0, counts }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= TEXT {
            self.search();
        }
    }

    fn search(&mut self) {
        for found in self.automaton.find_overlapping_iter(&self.held) {
            self.counts[found.pattern()] += u64::from(found.end() > self.searched);
        }
        // What may be the start of a piece that ends in the next bytes.
        self.searched = self.held.len().min(self.automaton.max_pattern_len().saturating_sub(1));
        self.held.drain(..self.held.len() - self.searched);
    }
}
