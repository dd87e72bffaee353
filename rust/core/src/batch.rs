//! Many texts on many threads, with one buffer of ids as the result.

use std::{
    mem::MaybeUninit,
    ops::Range,
    sync::{Mutex, PoisonError},
    thread,
};

use crate::{
    bpe::{SHORT, SHORT_COST},
    memory::{Ahead, FreshMemory},
    normalize::Part,
    text::Text,
    tokenizer::{Scratch, Tokenizer},
};

/// Units of text that one thread takes at a time: so few that its ids and all it reads stay in the second-level cache.
const TASK_UNITS: usize = 1 << 15;

/// Bytes that are asked for before a document's turn, at least: two for each character of a block.
const MIN_AHEAD: usize = 4096;

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
    /// What to ask for before it is read. Short documents mostly stand one behind the other, and the next ones are
    /// wanted, too.
    pub(crate) fn ahead(&self) -> Ahead {
        let (start, bytes) = match self {
            Self::Bytes(bytes) => (bytes.as_ptr(), bytes.len()),
            Self::Text(text) => text.memory_from(0),
        };
        Ahead::new(start, bytes.max(MIN_AHEAD))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
        }
    }
}

/// What a thread takes at a time.
#[derive(Clone, Debug)]
enum Task<'a> {
    /// Whole documents.
    Documents(Range<usize>),
    /// A part of a long document.
    Part { text: Text<'a>, part: Part },
}

impl Task<'_> {
    /// Documents that end in the task.
    fn ends(&self) -> usize {
        match self {
            Self::Documents(range) => range.len(),
            Self::Part { part, .. } => usize::from(part.is_last),
        }
    }

    /// Appends the ids to `ids`, and writes to `ends` where in it each document ends.
    fn work<D: Document>(
        &self,
        tokenizer: &Tokenizer,
        documents: &[D],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
        ends: &mut [i64],
    ) {
        match self {
            Self::Documents(range) => {
                tokenizer.encode_documents(&documents[range.clone()], scratch, ids, ends);
            }
            Self::Part { text, part } => {
                tokenizer.encode_part(*text, *part, scratch, ids);
                ends.iter_mut().for_each(|end| *end = ids.len() as i64);
            }
        }
    }
}

/// The result while threads fill it. Tasks end in any order, but where the ids of one belong is known only when
/// all before it have ended: until then they wait with the thread that made them.
struct Output<'a> {
    /// Ids of each task that has ended.
    lengths: Vec<Option<usize>>,
    /// Tasks before this one have a place.
    known: usize,
    /// Ids before that task.
    ids: usize,
    /// The place of each task, until it is taken.
    places: Vec<Option<Place<'a>>>,
    room: &'a mut [MaybeUninit<u32>],
}

/// Where the ids of a task belong, and how many are before them.
type Place<'a> = (&'a mut [MaybeUninit<u32>], usize);

/// Ids that wait for their place, and where in them each document ends.
struct Waiting<'a, 'p> {
    task: usize,
    ids: Vec<u32>,
    ends: &'a mut [i64],
    place: Option<Place<'p>>,
}

impl<'a> Output<'a> {
    fn new(tasks: usize, room: &'a mut [MaybeUninit<u32>]) -> Self {
        let places = (0..tasks).map(|_| None).collect();
        Self { lengths: vec![None; tasks], known: 0, ids: 0, places, room }
    }

    /// Notes that a task has ended, and gives a place to all tasks that can have one now.
    fn end(&mut self, task: usize, length: usize) {
        self.lengths[task] = Some(length);
        // Where one does not fit, nothing behind it is placed either.
        while let Some(&Some(length)) = self.lengths.get(self.known)
            && length <= self.room.len()
        {
            let (place, rest) = std::mem::take(&mut self.room).split_at_mut(length);
            self.places[self.known] = Some((place, self.ids));
            self.room = rest;
            self.ids += length;
            self.known += 1;
        }
    }
}

impl Waiting<'_, '_> {
    /// Copies the ids to their place, if they have one by now.
    fn put(&mut self, fresh: &FreshMemory) -> bool {
        let Some((place, before)) = self.place.take() else { return false };
        fresh.populate_together(place);
        place.iter_mut().zip(&self.ids).for_each(|(to, &id)| _ = to.write(id));
        self.shift(before);
        true
    }

    fn shift(&mut self, before: usize) {
        self.ends.iter_mut().for_each(|end| *end += before as i64);
    }
}

impl Tokenizer {
    /// Ids of many texts, encoded by `threads` threads; the result does not depend on their number.
    pub fn encode_batch<D: Document>(&self, documents: &[D], threads: usize) -> EncodedBatch {
        let tasks = cut_batch(self, documents);
        let threads = threads.min(tasks.len());
        let mut offsets = vec![0; documents.len() + 1];
        let mut ends = &mut offsets[1..];
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let (own, rest) = std::mem::take(&mut ends).split_at_mut(task.ends());
                ends = rest;
                (task, own)
            })
            .collect();
        // More than most texts need. What is not written is never backed by memory.
        let units: usize = documents.iter().map(|d| d.content().len()).sum();
        let mut ids = Vec::new();
        if ids.try_reserve(units + units / 2).is_err() {
            ids.reserve(units / 4);
        }
        let fresh = FreshMemory::new(ids.spare_capacity_mut());
        if threads > 1 {
            self.encode_together(documents, tasks, threads, &fresh, &mut ids);
        } else {
            // What a task fills, mostly.
            let populated = TASK_UNITS.min(units);
            self.with_scratch(|scratch| {
                for (task, ends) in tasks {
                    ids.reserve(populated);
                    fresh.populate(&mut ids.spare_capacity_mut()[..populated]);
                    task.work(self, documents, scratch, &mut ids, ends);
                }
            });
        }
        ids.shrink_to_fit();
        EncodedBatch { ids, offsets }
    }

    /// Appends the ids of documents, and writes to `ends` where in `ids` each ends. Short ones that follow each other
    /// are encoded together.
    fn encode_documents<D: Document>(
        &self,
        documents: &[D],
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
        ends: &mut [i64],
    ) {
        let mut short: Vec<Text<'_>> = Vec::new();
        let mut units = 0;
        for (i, document) in documents.iter().enumerate() {
            // The processor does not foresee where in memory the next one is.
            if let Some(next) = documents.get(i + 1) {
                scratch.expect(next.content());
            }
            let content = if document.is_valid() { document.content() } else { Content::Bytes(&[]) };
            let text = self.short_text(content);
            let more = text.map_or(SHORT, |text| text.len() + SHORT_COST);
            if units + more > SHORT {
                self.encode_short(&short, scratch, ids, &mut ends[i - short.len()..i]);
                short.clear();
                units = 0;
            }
            if let Some(text) = text {
                short.push(text);
                units += more;
            } else {
                self.encode_content(content, scratch, ids);
                ends[i] = ids.len() as i64;
            }
        }
        let first = documents.len() - short.len();
        self.encode_short(&short, scratch, ids, &mut ends[first..]);
    }

    /// Encodes the tasks on several threads. Each encodes into memory that stays in its cache, and copies from there
    /// to where the ids will stand: fresh memory is expensive, and touched only once.
    fn encode_together<D: Document>(
        &self,
        documents: &[D],
        tasks: Vec<(Task<'_>, &mut [i64])>,
        threads: usize,
        fresh: &FreshMemory,
        ids: &mut Vec<u32>,
    ) {
        let output = Mutex::new(Output::new(tasks.len(), ids.spare_capacity_mut()));
        let lock = || output.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = Mutex::new(tasks.into_iter().enumerate());
        let claim = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            self.with_scratch(|scratch| {
                let mut spare: Vec<Vec<u32>> = Vec::new();
                let mut waiting: Vec<Waiting<'_, '_>> = Vec::new();
                while let Some((task, (work, ends))) = claim() {
                    let mut ids = spare.pop().unwrap_or_else(|| Vec::with_capacity(TASK_UNITS));
                    ids.clear();
                    work.work(self, documents, scratch, &mut ids, ends);
                    let mut output = lock();
                    output.end(task, ids.len());
                    waiting.push(Waiting { task, ids, ends, place: None });
                    waiting.iter_mut().for_each(|waiting| waiting.place = output.places[waiting.task].take());
                    drop(output);
                    spare.extend(waiting.extract_if(.., |w| w.put(fresh)).map(|waiting| waiting.ids));
                }
                waiting
            })
        };
        let mut left = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut left = work();
            for other in others {
                left.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            left
        });
        left.sort_unstable_by_key(|waiting| waiting.task);
        let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
        let placed = output.ids;
        let mut beyond = Vec::new();
        for mut waiting in left {
            waiting.place = output.places[waiting.task].take();
            if !waiting.put(fresh) {
                waiting.shift(placed + beyond.len());
                beyond.append(&mut waiting.ids);
            }
        }
        // SAFETY: every task with a place has been copied to it, and the places lie one behind the other.
        unsafe { ids.set_len(placed) };
        ids.append(&mut beyond);
    }
}

/// Tasks of about [`TASK_UNITS`] each. A document of several times that is cut, where its model allows it.
fn cut_batch<'a, D: Document>(tokenizer: &Tokenizer, documents: &'a [D]) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    let (mut start, mut units) = (0, 0);
    for (i, document) in documents.iter().enumerate() {
        let content = document.content();
        if content.len() > 2 * TASK_UNITS
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
        Content::Text(text) => text,
        Content::Bytes(bytes) => Text::Utf8(simdutf8::basic::from_utf8(bytes).ok()?),
    };
    let mut parts = Vec::new();
    let mut start = 0;
    while let Some(end) = tokenizer.next_cut(text, start + TASK_UNITS) {
        let part = Part { is_first: start == 0, is_last: false };
        parts.push(Task::Part { text: text.slice(start, end), part });
        start = end;
    }
    let part = Part { is_first: start == 0, is_last: true };
    parts.push(Task::Part { text: text.slice(start, text.len()), part });
    Some(parts)
}
