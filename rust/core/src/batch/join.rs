//! Threads encode tasks, and their ids are joined in the order of the tasks.

use std::{
    mem::MaybeUninit,
    sync::{Mutex, PoisonError},
    thread,
};

use super::task::{TASK_UNITS, Task};
use crate::{memory::FreshMemory, text::Document, tokenizer::Tokenizer};

/// Encodes tasks of `units` in all on up to `threads` threads, and appends their ids to `ids` in order: here the parts of a
/// long document become one again. The tasks' ends become positions in `ids`, which must be empty.
///
/// Which part of `ids` a task fills is known only when all tasks before it have ended. So each thread encodes into memory
/// that stays in its cache, and copies from there once the position is known: fresh memory is expensive, and touched only
/// once.
pub fn encode_and_join<D: Document>(
    tokenizer: &Tokenizer,
    tasks: Vec<Task<'_, D>>,
    threads: usize,
    units: usize,
    ids: &mut Vec<u32>,
) {
    let fresh = FreshMemory::new(ids.spare_capacity_mut());
    let threads = threads.min(tasks.len());
    if threads <= 1 {
        // What a task fills, mostly.
        let populated = TASK_UNITS.min(units);
        return tokenizer.with_scratch(|scratch| {
            for mut task in tasks {
                ids.reserve(populated);
                fresh.populate(&mut ids.spare_capacity_mut()[..populated]);
                task.encode(tokenizer, scratch, ids);
            }
        });
    }
    let output = Mutex::new(Output::new(tasks.len(), ids.spare_capacity_mut()));
    let lock = || output.lock().unwrap_or_else(PoisonError::into_inner);
    let tasks = Mutex::new(tasks.into_iter().enumerate());
    let claim = || tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        tokenizer.with_scratch(|scratch| {
            let mut spare: Vec<Vec<u32>> = Vec::new();
            let mut waiting: Vec<Encoded<'_, '_>> = Vec::new();
            while let Some((number, mut task)) = claim() {
                let mut ids = spare.pop().unwrap_or_else(|| Vec::with_capacity(TASK_UNITS));
                ids.clear();
                task.encode(tokenizer, scratch, &mut ids);
                let mut output = lock();
                output.end(number, ids.len());
                waiting.push(Encoded { number, ids, ends: task.ends, reserved: None });
                waiting
                    .iter_mut()
                    .for_each(|encoded| encoded.reserved = output.reserved[encoded.number].take());
                drop(output);
                spare.extend(waiting.extract_if(.., |e| e.copy(&fresh)).map(|encoded| encoded.ids));
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
    left.sort_unstable_by_key(|encoded| encoded.number);
    let mut output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
    let written = output.ids;
    let mut beyond = Vec::new();
    for mut encoded in left {
        encoded.reserved = output.reserved[encoded.number].take();
        if !encoded.copy(&fresh) {
            encoded.shift(written + beyond.len());
            beyond.append(&mut encoded.ids);
        }
    }
    // SAFETY: every task with reserved memory has been copied to it, and these parts follow each other without a gap.
    unsafe { ids.set_len(written) };
    ids.append(&mut beyond);
}

/// The result while threads fill it.
struct Output<'a> {
    /// Ids of each task that has ended.
    lengths: Vec<Option<usize>>,
    /// Tasks before this one have reserved memory.
    known: usize,
    /// Ids before that task.
    ids: usize,
    /// The memory reserved for each task, until it is taken.
    reserved: Vec<Option<Reserved<'a>>>,
    rest: &'a mut [MaybeUninit<u32>],
}

/// Where the ids of a task belong, and how many are before them.
type Reserved<'a> = (&'a mut [MaybeUninit<u32>], usize);

/// The ids of a task until they can be copied.
struct Encoded<'a, 'r> {
    number: usize,
    ids: Vec<u32>,
    /// Where in them each document ends.
    ends: &'a mut [i64],
    reserved: Option<Reserved<'r>>,
}

impl<'a> Output<'a> {
    fn new(tasks: usize, rest: &'a mut [MaybeUninit<u32>]) -> Self {
        let reserved = (0..tasks).map(|_| None).collect();
        Self { lengths: vec![None; tasks], known: 0, ids: 0, reserved, rest }
    }

    /// Notes that a task has ended, and reserves memory for all tasks whose position is known now.
    fn end(&mut self, task: usize, length: usize) {
        self.lengths[task] = Some(length);
        // Where one does not fit, none after it gets memory either.
        while let Some(&Some(length)) = self.lengths.get(self.known)
            && length <= self.rest.len()
        {
            let (reserved, rest) = std::mem::take(&mut self.rest).split_at_mut(length);
            self.reserved[self.known] = Some((reserved, self.ids));
            self.rest = rest;
            self.ids += length;
            self.known += 1;
        }
    }
}

impl Encoded<'_, '_> {
    /// Copies the ids to the memory reserved for them, if it is by now.
    fn copy(&mut self, fresh: &FreshMemory) -> bool {
        let Some((reserved, before)) = self.reserved.take() else { return false };
        fresh.populate_together(reserved);
        reserved.iter_mut().zip(&self.ids).for_each(|(to, &id)| _ = to.write(id));
        self.shift(before);
        true
    }

    fn shift(&mut self, before: usize) {
        self.ends.iter_mut().for_each(|end| *end += before as i64);
    }
}
