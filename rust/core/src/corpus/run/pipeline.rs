//! From tasks to shards. Blocks are read, encoded on all threads, and written in order; finished shards are flushed to the
//! disk and their tasks committed.
//!
//! Reading, writing and committing is the work of lanes ([`super::lane`]), each on one task at a time; the encoding
//! threads serve all of them. What a task becomes depends on no other task, so that the number of lanes changes no byte.

use std::{iter, sync::Arc, thread, time::Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::{
    encode::BlockEncoder,
    lane::{Item, Lane, Queue, TICK, Told, Writer, commit_all},
    progress::{Clock, Progress},
    work::Work,
    write::History,
};
use crate::{
    Error, Result,
    corpus::{
        read::{
            block::{Block, Stop},
            blocks::Blocks,
        },
        store::records::Commit,
    },
};

/// Minimum number of bytes that a block counts as in flight: small files make small blocks.
const BLOCK_COST: usize = 1 << 14;

/// Runs `tasks` and returns their commit records; `before` is the history of what precedes the first.
///
/// `progress` is called several times per second; it stops the work by returning false. Memory: blocks in
/// flight take 2 MB of text per thread and 4 MB more per lane (or one longer record), with their tokens; the index of
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
    progress: impl FnMut(Progress) -> bool,
) -> Result<Vec<Commit>> {
    if before.is_full(work.plan.config.options.limit) {
        return Ok(Vec::new());
    }
    let threads = work.threads.max(1);
    let count = work.lanes(tasks.len());
    let queue = Queue::new(tasks);
    let lanes: Vec<_> = (0..count).map(|_| Arc::new(Lane::new(threads.div_ceil(count)))).collect();
    let mut others: Vec<History> = (1..count).map(|_| History::default()).collect();
    // The budgets bound what is in flight, so the channels need no bounds.
    let (to_encode, jobs) = unbounded::<Job>();
    let (to_tell, told) = unbounded::<Told>();
    thread::scope(|scope| {
        let queue = &queue;
        for (lane, before) in lanes.iter().zip(iter::once(before).chain(&mut others)) {
            let (to_write, encoded) = unbounded();
            let (to_commit, finished) = bounded(2);
            let (to_encode, tells) = (to_encode.clone(), to_tell.clone());
            scope.spawn(move || read_all(work, queue, lane, clock, &to_encode, &to_write));
            scope.spawn(move || commit_all(work, queue, clock, &finished, &tells));
            let writer = Writer::new(work, queue, lane, clock, before, to_commit, to_tell.clone());
            scope.spawn(move || writer.write_all(&encoded));
        }
        for _ in 0..threads {
            let jobs = jobs.clone();
            scope.spawn(move || encode_all(work, clock, &jobs));
        }
        drop((to_encode, jobs, to_tell));
        Collected::default().collect(&told, &lanes, progress)
    })
}

/// What the lanes have told.
#[derive(Default)]
struct Collected {
    written: Progress,
    commits: Vec<Commit>,
    /// The first error in document order, with the position of its task.
    failed: Option<(usize, Error)>,
}

impl Collected {
    /// Reports progress and collects commit records until all lanes have ended.
    fn collect(
        mut self,
        told: &Receiver<Told>,
        lanes: &[Arc<Lane>],
        mut progress: impl FnMut(Progress) -> bool,
    ) -> Result<Vec<Commit>> {
        let mut stopped = false;
        loop {
            match told.recv_timeout(TICK) {
                Ok(item) => self.take(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            told.try_iter().for_each(|item| self.take(item));
            if !stopped && !progress(self.written) {
                stopped = true;
                lanes.iter().for_each(|lane| lane.end());
            }
        }
        match self.failed {
            Some((_, error)) => Err(error),
            None if stopped => Err(Error::Stopped),
            None => Ok(self.commits),
        }
    }

    fn take(&mut self, item: Told) {
        match item {
            Told::Wrote(more) => {
                self.written.bytes += more.bytes;
                self.written.documents += more.documents;
                self.written.tokens += more.tokens;
            }
            Told::Committed(commit) => self.commits.push(commit),
            Told::Failed(position, error) => {
                if self.failed.as_ref().is_none_or(|(first, _)| position < *first) {
                    self.failed = Some((position, error));
                }
            }
        }
    }
}

/// A block to encode, and where it goes then.
struct Job {
    lane: Arc<Lane>,
    number: u64,
    block: Block,
    cost: usize,
    to_write: Sender<(u64, Item)>,
}

/// Reads one task after the other, as long as there are any.
fn read_all(
    work: &Work<'_>,
    queue: &Queue<'_>,
    lane: &Arc<Lane>,
    clock: &Clock,
    to_encode: &Sender<Job>,
    to_write: &Sender<(u64, Item)>,
) {
    let mut number = 0;
    let mut next = || {
        number += 1;
        number - 1
    };
    let mut read = || -> Result<()> {
        while let Some((position, task)) = queue.next() {
            if to_write.send((next(), Item::Task(position, task))).is_err() {
                return Ok(());
            }
            for &span in &work.plan.tasks[task].spans {
                let source = Arc::new(work.plan.sources[span.source].clone());
                let options = &work.plan.config.options;
                let mut blocks = Blocks::open(source, span, options, Stop::Flag(lane.stop.clone()))?;
                loop {
                    let since = Instant::now();
                    let block = blocks.next_block()?;
                    Clock::add(&clock.read, since);
                    let Some(block) = block else { break };
                    let cost = block.bytes().max(BLOCK_COST);
                    if !lane.take(cost) {
                        return Ok(());
                    }
                    let (lane, to_write) = (lane.clone(), to_write.clone());
                    if to_encode.send(Job { lane, number: next(), block, cost, to_write }).is_err() {
                        return Ok(());
                    }
                }
                if to_write.send((next(), Item::SpanEnd(blocks.take_packed()))).is_err() {
                    return Ok(());
                }
            }
            if to_write.send((next(), Item::TaskEnd)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    if let Err(e) = read() {
        let _ = to_write.send((next(), Item::Failed(e)));
    }
}

fn encode_all(work: &Work<'_>, clock: &Clock, jobs: &Receiver<Job>) {
    let mut encoder = BlockEncoder::new(work.tokenizer, &work.plan.config.options);
    for Job { lane, number, block, cost, to_write } in jobs {
        // A lane that has ended wants nothing more.
        if let Some(block) = encoder.encode(&block, work.plan, &lane.stop, clock) {
            let _ = to_write.send((number, Item::Block(block, cost)));
        }
    }
}
