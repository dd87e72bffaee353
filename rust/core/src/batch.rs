//! Many texts on many threads, with one buffer of ids as the result.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{
    text::Text,
    tokenizer::{Scratch, Tokenizer},
};

/// Units of text that one thread takes at a time.
const TASK_UNITS: usize = 1 << 18;

/// The ids of many documents in one buffer: those of document `i` are `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EncodedBatch {
    /// The ids of all documents.
    pub ids: Vec<u32>,
    /// Where each document starts, and the end of the last.
    pub offsets: Vec<i64>,
}

/// What a batch is made of.
pub trait Document: Sync {
    /// Bytes (any bytes, see [`Tokenizer::encode_into`]) or a text.
    fn content(&self) -> Content<'_>;
}

/// The content of a document.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Bytes, of which invalid ones count as U+FFFD.
    Bytes(&'a [u8]),
    /// A text.
    Text(Text<'a>),
}

impl<T: AsRef<[u8]> + Sync + ?Sized> Document for T {
    fn content(&self) -> Content<'_> {
        Content::Bytes(self.as_ref())
    }
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }
}

/// A run of documents, or of what one thread has made of some.
#[derive(Debug, Default)]
struct Part {
    ids: Vec<u32>,
    /// End of each document in `ids`.
    ends: Vec<usize>,
}

impl Part {
    fn encode<D: Document>(&mut self, tokenizer: &Tokenizer, documents: &[D], scratch: &mut Scratch) {
        for document in documents {
            tokenizer.encode_document(document, scratch, &mut self.ids);
            self.ends.push(self.ids.len());
        }
    }
}

impl Tokenizer {
    /// Ids of many texts, encoded by `threads` threads; the result does not depend on their number.
    ///
    /// The first thread takes tasks from the front and writes where the result will stand; the others take them
    /// from the back, and only what they made is copied.
    pub fn encode_batch<D: Document>(&self, documents: &[D], threads: usize) -> EncodedBatch {
        let tasks = cut_batch(documents);
        let left = Mutex::new(0..tasks.len());
        let claim = |front: bool| {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            if front { left.next() } else { left.next_back() }
        };
        let mut first = Part::default();
        first.ids.reserve(documents.iter().map(|d| d.content().len()).sum::<usize>() / 2);
        first.ends.reserve(documents.len());
        let others = thread::scope(|scope| {
            let work = || {
                self.with_scratch(|scratch| {
                    let mut done = Vec::new();
                    while let Some(task) = claim(false) {
                        let mut part = Part::default();
                        part.encode(self, &documents[tasks[task].clone()], scratch);
                        done.push((task, part));
                    }
                    done
                })
            };
            let others: Vec<_> = (1..threads.min(tasks.len())).map(|_| scope.spawn(work)).collect();
            self.with_scratch(|scratch| {
                while let Some(task) = claim(true) {
                    first.encode(self, &documents[tasks[task].clone()], scratch);
                }
            });
            let join = |other: thread::ScopedJoinHandle<'_, _>| {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            let mut others: Vec<(usize, Part)> = others.into_iter().flat_map(join).collect();
            others.sort_unstable_by_key(|(task, _)| *task);
            others
        });
        let Part { mut ids, ends } = first;
        let mut offsets = Vec::with_capacity(documents.len() + 1);
        offsets.push(0);
        offsets.extend(ends.iter().map(|&end| end as i64));
        let mut base = ids.len();
        for (_, part) in &others {
            offsets.extend(part.ends.iter().map(|&end| (base + end) as i64));
            base += part.ids.len();
        }
        append(&mut ids, &others, threads);
        EncodedBatch { ids, offsets }
    }
}

/// Appends the ids of all parts, copied by all threads.
fn append(ids: &mut Vec<u32>, parts: &[(usize, Part)], threads: usize) {
    let total: usize = parts.iter().map(|(_, part)| part.ids.len()).sum();
    ids.reserve(total);
    let mut room = &mut ids.spare_capacity_mut()[..total];
    let mut copies = Vec::with_capacity(parts.len());
    for (_, part) in parts {
        let (to, rest) = room.split_at_mut(part.ids.len());
        copies.push((to, &part.ids));
        room = rest;
    }
    let share = parts.len().div_ceil(threads.max(1)).max(1);
    thread::scope(|scope| {
        for copies in copies.chunks_mut(share) {
            scope.spawn(move || {
                for (to, from) in copies {
                    to.iter_mut().zip(*from).for_each(|(to, &id)| _ = to.write(id));
                }
            });
        }
    });
    // SAFETY: the parts are `total` ids together, and each has been copied to its own place.
    unsafe { ids.set_len(ids.len() + total) };
}

/// Ranges of documents of about [`TASK_UNITS`] each.
fn cut_batch<D: Document>(documents: &[D]) -> Vec<Range<usize>> {
    let mut tasks = Vec::new();
    let (mut start, mut units) = (0, 0);
    for (i, document) in documents.iter().enumerate() {
        units += document.content().len();
        if units >= TASK_UNITS {
            tasks.push(start..i + 1);
            (start, units) = (i + 1, 0);
        }
    }
    tasks.push(start..documents.len());
    tasks
}
