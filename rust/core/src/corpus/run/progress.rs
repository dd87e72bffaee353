//! The progress of a run, and where its time goes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::corpus::store::records::Commit;

/// How much is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Bytes of the input files whose tokens are written.
    pub bytes: u64,
    /// Documents written.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
}

impl Progress {
    /// What these tasks have read and written.
    pub fn of<'c>(commits: impl IntoIterator<Item = &'c Commit>) -> Self {
        let mut sum = Self::default();
        for commit in commits {
            sum.bytes += commit.packed_bytes;
            sum.documents += commit.counts.documents;
            sum.tokens += commit.counts.tokens;
        }
        sum
    }
}

/// Where the time went, in nanoseconds. The phases overlap.
#[derive(Debug, Default)]
pub struct Clock {
    /// Reading and unpacking.
    pub read: AtomicU64,
    /// Finding documents, JSON, cleaning; all threads together.
    pub parse: AtomicU64,
    /// Encoding; all threads together.
    pub encode: AtomicU64,
    /// Checksums and writing.
    pub write: AtomicU64,
    /// Flushing to the disk, and commit records.
    pub commit: AtomicU64,
}

impl Clock {
    /// Adds the time since `since` to one of the counters.
    pub fn add(counter: &AtomicU64, since: Instant) {
        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        counter.fetch_add(nanos, Ordering::Relaxed);
    }
}
