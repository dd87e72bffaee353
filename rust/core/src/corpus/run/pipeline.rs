//! From tasks to shards. One thread reads blocks, several encode them, the caller's thread writes them in
//! order, and one thread flushes finished shards to the disk and commits tasks.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded, unbounded};

use super::{
    encode::{BlockEncoder, EncodedBlock},
    progress::{Clock, Progress},
    write::{History, TaskWriter},
};
use crate::{
    Error, Result, Tokenizer,
    corpus::{
        read::{
            block::{Block, Stop},
            blocks::Blocks,
        },
        store::{commit::WrittenTask, plan::Plan, records::Commit, shard::ShardWriter},
    },
};

/// How long the caller's thread waits before it checks again whether to stop.
const TICK: Duration = Duration::from_millis(50);
/// Minimum number of bytes that a block counts as in flight: small files make small blocks.
const BLOCK_COST: usize = 1 << 14;

/// The context of a run. None of it but the plan changes the bytes of the shards.
#[derive(Clone, Debug)]
pub struct Work<'a> {
    /// The tokenizer of the plan.
    pub tokenizer: &'a Tokenizer,
    /// The plan.
    pub plan: &'a Plan,
    /// The corpus folder.
    pub out: &'a Path,
    /// Part of the names of temporary files.
    pub tag: &'a str,
    /// Threads that encode.
    pub threads: usize,
    /// Put bad records aside instead of stopping at the first.
    pub skip_bad: bool,
}

/// Runs `tasks` and returns their commit records; `before` is the history of what precedes the first.
///
/// `progress` is called several times per second; it stops the work by returning false. Memory: blocks in
/// flight take 2 MB of text per thread and 4 MB more (or one longer record), with their tokens; the index of
/// a shard takes 4 bytes per document.
///
/// # Errors
/// The first bad record in document order, whatever the number of threads; [`Error::Io`]; [`Error::Stopped`].
/// Tasks that were committed before the error stay committed.
pub fn run_tasks(
    work: &Work<'_>,
    tasks: &[usize],
    before: &mut History,
    clock: &Clock,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Vec<Commit>> {
    let threads = work.threads.max(1);
    let stop = Arc::new(AtomicBool::new(false));
    let budget = Budget::new(threads * (2 << 20) + (4 << 20));
    // The budget bounds what is in flight, so the channels need no bounds.
    let (to_encode, jobs) = unbounded::<(u64, Job)>();
    let (to_write, encoded) = unbounded::<(u64, Item)>();
    let (to_commit, finished) = bounded::<Finished>(2);
    let (to_tell, committed) = unbounded::<Result<Commit>>();

    thread::scope(|scope| {
        let (stop, budget) = (&stop, &budget);
        scope.spawn({
            let to_write = to_write.clone();
            move || read_all(work, tasks, budget, stop, clock, &to_encode, &to_write)
        });
        for _ in 0..threads {
            let (jobs, to_write) = (jobs.clone(), to_write.clone());
            scope.spawn(move || encode_all(work, stop, clock, &jobs, &to_write));
        }
        scope.spawn(move || commit_all(work, clock, &finished, &to_tell));
        drop((jobs, to_write));
        let mut writer =
            Writer { work, before, clock, to_commit, committed, done: Vec::new(), past: Progress::default() };
        let result = writer.write_all(tasks, budget, &encoded, &mut progress);
        // With a limit there may be more to read than is needed.
        stop.store(true, Ordering::Relaxed);
        drop(encoded);
        result.and_then(|()| writer.wait_for_commits(&mut progress))
    })
}

/// Bounds the bytes of text in flight. A single block is always allowed, whatever its size.
struct Budget {
    used: Mutex<usize>,
    freed: Condvar,
    most: usize,
}

impl Budget {
    fn new(most: usize) -> Self {
        Self { used: Mutex::new(0), freed: Condvar::new(), most }
    }

    /// Waits for room; false once `stop` is set.
    fn take(&self, bytes: usize, stop: &AtomicBool) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > self.most {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            used = self.freed.wait_timeout(used, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        *used += bytes;
        true
    }

    fn give_back(&self, bytes: usize) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.freed.notify_one();
    }
}

struct Job {
    block: Block,
    cost: usize,
}

/// What the writer gets, numbered in document order.
enum Item {
    Block(EncodedBlock, usize),
    /// The end of a span; this many bytes of its file came after the last block.
    SpanEnd(u64),
    TaskEnd,
    Failed(Error),
}

fn read_all(
    work: &Work<'_>,
    tasks: &[usize],
    budget: &Budget,
    stop: &Arc<AtomicBool>,
    clock: &Clock,
    to_encode: &Sender<(u64, Job)>,
    to_write: &Sender<(u64, Item)>,
) {
    let mut number = 0;
    let mut send = |item| {
        let sent = match item {
            Ok(job) => to_encode.send((number, job)).is_ok(),
            Err(item) => to_write.send((number, item)).is_ok(),
        };
        number += 1;
        sent
    };
    let mut read = || -> Result<()> {
        for &task in tasks {
            for &span in &work.plan.tasks[task].spans {
                let source = Arc::new(work.plan.sources[span.source].clone());
                let options = &work.plan.config.options;
                let mut blocks = Blocks::open(source, span, options, Stop::Flag(stop.clone()))?;
                loop {
                    let since = Instant::now();
                    let block = blocks.next_block()?;
                    Clock::add(&clock.read, since);
                    let Some(block) = block else { break };
                    let cost = block.bytes().max(BLOCK_COST);
                    if !budget.take(cost, stop) || !send(Ok(Job { block, cost })) {
                        return Ok(());
                    }
                }
                if !send(Err(Item::SpanEnd(blocks.take_packed()))) {
                    return Ok(());
                }
            }
            if !send(Err(Item::TaskEnd)) {
                return Ok(());
            }
        }
        Ok(())
    };
    if let Err(e) = read() {
        send(Err(Item::Failed(e)));
    }
}

fn encode_all(
    work: &Work<'_>,
    stop: &AtomicBool,
    clock: &Clock,
    jobs: &Receiver<(u64, Job)>,
    to_write: &Sender<(u64, Item)>,
) {
    let options = &work.plan.config.options;
    let mut encoder = BlockEncoder::new(work.tokenizer, options);
    for (number, Job { block, cost }) in jobs {
        let Some(block) = encoder.encode(&block, work.plan, stop, clock) else { return };
        if to_write.send((number, Item::Block(block, cost))).is_err() {
            return;
        }
    }
}

/// What goes to the thread that flushes shards and commits tasks.
enum Finished {
    Shard(ShardWriter),
    Task(WrittenTask),
}

fn commit_all(
    work: &Work<'_>,
    clock: &Clock,
    finished: &Receiver<Finished>,
    to_tell: &Sender<Result<Commit>>,
) {
    let mut shards = Vec::new();
    for item in finished {
        let since = Instant::now();
        let told = match item {
            Finished::Shard(shard) => shard.finish().map(|shard| {
                shards.push(shard);
                None
            }),
            Finished::Task(task) => task.commit(work.out, work.tag, std::mem::take(&mut shards)).map(Some),
        };
        Clock::add(&clock.commit, since);
        let failed = told.is_err();
        if let Some(told) = told.transpose() {
            let _ = to_tell.send(told);
        }
        if failed {
            return;
        }
    }
}

struct Writer<'w, 'a> {
    work: &'w Work<'a>,
    before: &'w mut History,
    clock: &'w Clock,
    to_commit: Sender<Finished>,
    committed: Receiver<Result<Commit>>,
    done: Vec<Commit>,
    /// The sum over the finished tasks of this run.
    past: Progress,
}

impl Writer<'_, '_> {
    fn write_all(
        &mut self,
        tasks: &[usize],
        budget: &Budget,
        encoded: &Receiver<(u64, Item)>,
        progress: &mut impl FnMut(Progress) -> bool,
    ) -> Result<()> {
        let Work { plan, out, tag, skip_bad, .. } = *self.work;
        let limit = plan.config.options.limit;
        let mut tasks: VecDeque<usize> = tasks.iter().copied().collect();
        let Some(first) = tasks.pop_front() else { return Ok(()) };
        if self.before.is_full(limit) {
            return Ok(());
        }
        let mut task = TaskWriter::new(plan, out, tag, skip_bad, first);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        loop {
            match encoded.recv_timeout(TICK) {
                Ok((number, item)) => drop(waiting.insert(number, item)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Stopped),
            }
            while let Some(item) = waiting.remove(&next) {
                next += 1;
                let mut ended = false;
                match item {
                    Item::Block(block, cost) => {
                        let since = Instant::now();
                        let full = task.write(&block, self.before)?;
                        Clock::add(&self.clock.write, since);
                        budget.give_back(cost);
                        if let Some(shard) = full {
                            self.hand_over(Finished::Shard(shard), &task, progress)?;
                        }
                        ended = self.before.is_full(limit);
                    }
                    Item::SpanEnd(packed) => task.add_packed(packed),
                    Item::TaskEnd => ended = true,
                    Item::Failed(e) => return Err(e),
                }
                if ended {
                    let following = tasks.pop_front().filter(|_| !self.before.is_full(limit));
                    let new = TaskWriter::new(plan, out, tag, skip_bad, following.unwrap_or_default());
                    let old = std::mem::replace(&mut task, new);
                    let (counts, packed) = old.so_far();
                    self.past.bytes += packed;
                    self.past.documents += counts.documents;
                    self.past.tokens += counts.tokens;
                    let (shard, written) = old.finish();
                    if let Some(shard) = shard {
                        self.hand_over(Finished::Shard(shard), &task, progress)?;
                    }
                    self.hand_over(Finished::Task(written), &task, progress)?;
                    if following.is_none() {
                        return Ok(());
                    }
                }
            }
            self.look_around(&task, progress)?;
        }
    }

    /// Passes an item to the committing thread, which may be waiting for the disk.
    fn hand_over(
        &mut self,
        item: Finished,
        task: &TaskWriter<'_>,
        progress: &mut impl FnMut(Progress) -> bool,
    ) -> Result<()> {
        let mut item = item;
        loop {
            match self.to_commit.send_timeout(item, TICK) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back)) => item = back,
                Err(SendTimeoutError::Disconnected(_)) => {
                    self.look_around(task, progress)?;
                    return Err(Error::Stopped);
                }
            }
            self.look_around(task, progress)?;
        }
    }

    /// Reports progress, and collects what was committed or failed meanwhile.
    fn look_around(
        &mut self,
        task: &TaskWriter<'_>,
        progress: &mut impl FnMut(Progress) -> bool,
    ) -> Result<()> {
        while let Ok(told) = self.committed.try_recv() {
            self.done.push(told?);
        }
        let (counts, packed) = task.so_far();
        let now = Progress {
            bytes: self.past.bytes + packed,
            documents: self.past.documents + counts.documents,
            tokens: self.past.tokens + counts.tokens,
        };
        if progress(now) { Ok(()) } else { Err(Error::Stopped) }
    }

    fn wait_for_commits(mut self, progress: &mut impl FnMut(Progress) -> bool) -> Result<Vec<Commit>> {
        drop(std::mem::replace(&mut self.to_commit, bounded(0).0));
        loop {
            match self.committed.recv_timeout(TICK) {
                Ok(told) => self.done.push(told?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(self.done),
            }
            if !progress(self.past) {
                return Err(Error::Stopped);
            }
        }
    }
}
