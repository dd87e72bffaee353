//! A lane does one task after the other: one thread reads, one writes the encoded blocks in order, and one flushes
//! finished shards to the disk and commits tasks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use super::{
    encode::EncodedBlock,
    progress::{Clock, Progress},
    work::Work,
    write::{History, TaskWriter},
};
use crate::{
    Error, Result,
    corpus::store::{commit::WrittenTask, records::Commit, shard::ShardWriter},
};

/// How long a thread waits before it checks again whether to stop.
pub const TICK: Duration = Duration::from_millis(50);

/// The tasks of a run, handed out in document order. Positions count from the first of them.
pub struct Queue<'a> {
    tasks: &'a [usize],
    next: AtomicUsize,
    /// The position of the first task that failed.
    failed: AtomicUsize,
}

impl<'a> Queue<'a> {
    pub fn new(tasks: &'a [usize]) -> Self {
        Self { tasks, next: AtomicUsize::new(0), failed: AtomicUsize::new(usize::MAX) }
    }

    /// Position and number of a task that nobody has; none any more once one has failed.
    pub fn next(&self) -> Option<(usize, usize)> {
        let position = self.next.fetch_add(1, Ordering::Relaxed);
        self.tasks.get(position).filter(|_| !self.is_past_failure(position)).map(|&task| (position, task))
    }

    /// Notes and tells that a task failed. Those before it go on: an error of theirs comes first.
    fn fail(&self, position: usize, error: Error, to_tell: &Sender<Told>) {
        self.failed.fetch_min(position, Ordering::Relaxed);
        let _ = to_tell.send(Told::Failed(position, error));
    }

    fn is_past_failure(&self, position: usize) -> bool {
        position > self.failed.load(Ordering::Relaxed)
    }
}

/// What the threads of a lane share.
pub struct Lane {
    /// Set once the lane has ended, or is to end.
    pub stop: Arc<AtomicBool>,
    /// Bytes of text in flight.
    used: Mutex<usize>,
    freed: Condvar,
    most: usize,
}

impl Lane {
    /// A lane for so many encoding threads.
    pub fn new(threads: usize) -> Self {
        let most = threads * (2 << 20) + (4 << 20);
        Self { stop: Arc::default(), used: Mutex::new(0), freed: Condvar::new(), most }
    }

    /// Makes its threads end.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn has_ended(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until so many more bytes may be in flight; false once the lane ends. A single block always may, whatever
    /// its size.
    pub fn take(&self, bytes: usize) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.most {
            if self.has_ended() {
                return false;
            }
            used = self.freed.wait_timeout(used, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        !self.has_ended()
    }

    fn give_back(&self, bytes: usize) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.freed.notify_one();
    }
}

/// What a writer gets, numbered in document order.
pub enum Item {
    /// A task begins: its position and its number.
    Task(usize, usize),
    /// Encoded documents, and what they count as in flight.
    Block(EncodedBlock, usize),
    /// The end of a span; this many bytes of its file came after the last block.
    SpanEnd(u64),
    /// The task is read.
    TaskEnd,
    /// Reading failed.
    Failed(Error),
}

/// What goes to the caller's thread.
pub enum Told {
    /// So much more is written.
    Wrote(Progress),
    /// A task is committed.
    Committed(Commit),
    /// The task at a position failed.
    Failed(usize, Error),
}

/// What goes to the thread that flushes shards and commits tasks, with the position of the task.
pub enum Finished {
    Shard(usize, ShardWriter),
    Task(usize, WrittenTask),
}

/// Flushes shards and commits tasks as they come.
pub fn commit_all(
    work: &Work<'_>,
    queue: &Queue<'_>,
    clock: &Clock,
    finished: &Receiver<Finished>,
    to_tell: &Sender<Told>,
) {
    let mut shards = Vec::new();
    for item in finished {
        let since = Instant::now();
        let (position, told) = match item {
            Finished::Shard(position, shard) => (
                position,
                shard.finish().map(|shard| {
                    shards.push(shard);
                    None
                }),
            ),
            Finished::Task(position, task) => {
                (position, task.commit(work.out, work.tag, std::mem::take(&mut shards)).map(Some))
            }
        };
        Clock::add(&clock.commit, since);
        match told {
            Ok(None) => {}
            Ok(Some(commit)) => drop(to_tell.send(Told::Committed(commit))),
            Err(error) => return queue.fail(position, error, to_tell),
        }
    }
}

/// Writes the tasks of a lane.
pub struct Writer<'w, 'a> {
    work: &'w Work<'a>,
    queue: &'w Queue<'w>,
    lane: &'w Lane,
    clock: &'w Clock,
    before: &'w mut History,
    to_commit: Sender<Finished>,
    to_tell: Sender<Told>,
    /// The task being written, or the last one.
    position: usize,
    task: Option<TaskWriter<'a>>,
    /// What was told of the task.
    told: Progress,
}

impl<'w, 'a> Writer<'w, 'a> {
    /// A writer; `before` is the history of what precedes its first task.
    pub fn new(
        work: &'w Work<'a>,
        queue: &'w Queue<'w>,
        lane: &'w Lane,
        clock: &'w Clock,
        before: &'w mut History,
        to_commit: Sender<Finished>,
        to_tell: Sender<Told>,
    ) -> Self {
        let (position, task, told) = (0, None, Progress::default());
        Self { work, queue, lane, clock, before, to_commit, to_tell, position, task, told }
    }

    /// Writes until there are no more tasks, or the lane ends.
    pub fn write_all(mut self, encoded: &Receiver<(u64, Item)>) {
        if let Err(error) = self.write_tasks(encoded) {
            self.queue.fail(self.position, error, &self.to_tell);
        }
        // With a limit there may be more to read than is needed.
        self.lane.end();
    }

    fn write_tasks(&mut self, encoded: &Receiver<(u64, Item)>) -> Result<()> {
        let (mut waiting, mut next) = (BTreeMap::new(), 0);
        loop {
            match encoded.recv_timeout(TICK) {
                Ok((number, item)) => drop(waiting.insert(number, item)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.task.is_none() && waiting.is_empty() => {
                    return Ok(());
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Stopped),
            }
            while let Some(item) = waiting.remove(&next) {
                next += 1;
                if !self.take(item)? {
                    return Ok(());
                }
            }
            if self.lane.has_ended() || self.queue.is_past_failure(self.position) {
                return Ok(());
            }
        }
    }

    /// Writes an item; false once the limit is reached.
    fn take(&mut self, item: Item) -> Result<bool> {
        let Work { plan, out, tag, skip_bad, .. } = *self.work;
        let limit = plan.config.options.limit;
        match (item, &mut self.task) {
            (Item::Task(position, number), _) => {
                self.position = position;
                self.task = Some(TaskWriter::new(plan, out, tag, skip_bad, number));
                self.told = Progress::default();
            }
            (Item::Block(block, cost), Some(task)) => {
                let since = Instant::now();
                let full = task.write(&block, self.before)?;
                Clock::add(&self.clock.write, since);
                self.lane.give_back(cost);
                if let Some(shard) = full {
                    self.hand_over(Finished::Shard(self.position, shard))?;
                }
                self.tell();
                if self.before.is_full(limit) {
                    self.end_task()?;
                }
            }
            (Item::SpanEnd(packed), Some(task)) => {
                task.add_packed(packed);
                self.tell();
            }
            (Item::TaskEnd, Some(_)) => self.end_task()?,
            (Item::Failed(error), _) => return Err(error),
            // The reader announces each task.
            (_, None) => {}
        }
        Ok(!self.before.is_full(limit))
    }

    fn end_task(&mut self) -> Result<()> {
        let Some(task) = self.task.take() else { return Ok(()) };
        let (shard, written) = task.finish();
        if let Some(shard) = shard {
            self.hand_over(Finished::Shard(self.position, shard))?;
        }
        self.hand_over(Finished::Task(self.position, written))
    }

    /// Passes an item to the committing thread, which may be waiting for the disk.
    fn hand_over(&self, item: Finished) -> Result<()> {
        let mut item = item;
        loop {
            match self.to_commit.send_timeout(item, TICK) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back)) if !self.lane.has_ended() => item = back,
                // It has told what went wrong.
                Err(_) => return Err(Error::Stopped),
            }
        }
    }

    /// Tells how much more is written.
    fn tell(&mut self) {
        let Some((counts, packed)) = self.task.as_ref().map(TaskWriter::so_far) else { return };
        let now = Progress { bytes: packed, documents: counts.documents, tokens: counts.tokens };
        let more = Progress {
            bytes: now.bytes - self.told.bytes,
            documents: now.documents - self.told.documents,
            tokens: now.tokens - self.told.tokens,
        };
        self.told = now;
        let _ = self.to_tell.send(Told::Wrote(more));
    }
}
