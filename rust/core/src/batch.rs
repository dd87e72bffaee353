//! Many texts on many threads, with one buffer of ids as the result.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{
    memory::{populate, prefetch},
    text::Text,
    tokenizer::{Scratch, Tokenizer},
};

/// Units of text that one thread takes at a time.
const TASK_UNITS: usize = 1 << 18;

/// Bytes of a document that are asked for before its turn.
const PREFETCH: usize = 512;

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

    /// Called once before the document is encoded; an invalid one counts as empty. (Here, on the thread that reads
    /// it next anyway, so that looking through the text costs next to nothing.)
    fn is_valid(&self) -> bool {
        true
    }
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
    /// Asks the processor to bring the start of the text nearer.
    #[inline]
    fn prefetch(&self) {
        let (start, bytes): (*const u8, usize) = match *self {
            Self::Bytes(text) => (text.as_ptr(), text.len()),
            Self::Text(Text::Utf8(text)) => (text.as_ptr(), text.len()),
            Self::Text(Text::Latin1(text)) => (text.as_ptr(), text.len()),
            Self::Text(Text::Ucs2(text)) => (text.as_ptr().cast(), size_of_val(text)),
            Self::Text(Text::Ucs4(text)) => (text.as_ptr().cast(), size_of_val(text)),
        };
        for line in (0..bytes.min(PREFETCH)).step_by(64) {
            prefetch(start.wrapping_add(line));
        }
    }

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

/// What a thread takes at a time.
#[derive(Clone, Debug)]
enum Task<'a> {
    /// Whole documents.
    Documents(Range<usize>),
    /// A part of a long document.
    Part { text: Text<'a>, first: bool, last: bool },
}

impl Part {
    fn work<D: Document>(
        &mut self,
        tokenizer: &Tokenizer,
        documents: &[D],
        task: &Task<'_>,
        scratch: &mut Scratch,
    ) {
        let units = match task {
            Task::Documents(range) => documents[range.clone()].iter().map(|d| d.content().len()).sum(),
            Task::Part { text, .. } => text.len(),
        };
        // A token covers two characters or so. Where it covers more, the next task finds the rest.
        let ids = units / 2;
        self.ids.reserve(ids);
        populate(&mut self.ids.spare_capacity_mut()[..ids]);
        match task {
            Task::Documents(range) => {
                let documents = &documents[range.clone()];
                for (i, document) in documents.iter().enumerate() {
                    // Documents lie scattered in memory, and the processor does not foresee where.
                    if let Some(soon) = documents.get(i + 2) {
                        soon.content().prefetch();
                    }
                    tokenizer.encode_document(document, scratch, &mut self.ids);
                    self.ends.push(self.ids.len());
                }
            }
            Task::Part { text, first, last } => {
                tokenizer.encode_part(*text, *first, scratch, &mut self.ids);
                if *last {
                    self.ends.push(self.ids.len());
                }
            }
        }
    }
}

impl Tokenizer {
    /// Ids of many texts, encoded by `threads` threads; the result does not depend on their number.
    ///
    /// The first thread takes tasks from the front and writes where the result will stand; the others take them
    /// from the back, and only what they made is copied.
    pub fn encode_batch<D: Document>(&self, documents: &[D], threads: usize) -> EncodedBatch {
        let tasks = cut_batch(self, documents, threads);
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
                        part.work(self, documents, &tasks[task], scratch);
                        done.push((task, part));
                    }
                    done
                })
            };
            let others: Vec<_> = (1..threads.min(tasks.len())).map(|_| scope.spawn(work)).collect();
            self.with_scratch(|scratch| {
                while let Some(task) = claim(true) {
                    first.work(self, documents, &tasks[task], scratch);
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

/// Tasks of about [`TASK_UNITS`] each. A document of several times that is cut, where its model allows it.
fn cut_batch<'a, D: Document>(tokenizer: &Tokenizer, documents: &'a [D], threads: usize) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    let (mut start, mut units) = (0, 0);
    for (i, document) in documents.iter().enumerate() {
        let content = document.content();
        if threads > 1
            && content.len() > 2 * TASK_UNITS
            && document.is_valid()
            && let Some(parts) = cut_document(tokenizer, content)
        {
            if start < i {
                tasks.push(Task::Documents(start..i));
            }
            tasks.extend(parts);
            (start, units) = (i + 1, 0);
            continue;
        }
        units += content.len();
        if units >= TASK_UNITS {
            tasks.push(Task::Documents(start..i + 1));
            (start, units) = (i + 1, 0);
        }
    }
    tasks.push(Task::Documents(start..documents.len()));
    tasks
}

fn cut_document<'a>(tokenizer: &Tokenizer, content: Content<'a>) -> Option<Vec<Task<'a>>> {
    let text = match content {
        _ if !tokenizer.encodes_directly() => return None,
        Content::Text(text) => text,
        Content::Bytes(bytes) => Text::Utf8(simdutf8::basic::from_utf8(bytes).ok()?),
    };
    let mut parts = Vec::new();
    let mut start = 0;
    while let Some(end) = tokenizer.next_cut(text, start + TASK_UNITS) {
        parts.push(Task::Part { text: text.slice(start, end), first: start == 0, last: false });
        start = end;
    }
    parts.push(Task::Part { text: text.slice(start, text.len()), first: start == 0, last: true });
    Some(parts)
}
