//! The end of a run: writes the files other than shards, the manifest last.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::{progress::Clock, request::Report};
use crate::{
    Error, Result,
    corpus::store::{
        disk,
        folder::{self, MANIFEST_FILE, REJECTS_FILE, RUN_FILE, temporary},
        manifest::Manifest,
        plan::Plan,
        records::{Commit, Counts},
    },
};

/// A run of which every task is committed.
pub struct Seal<'a> {
    /// The corpus folder.
    pub out: &'a Path,
    /// Part of the names of temporary files.
    pub tag: &'a str,
    /// Threads that encoded.
    pub threads: usize,
    /// When the run started.
    pub started: Instant,
}

impl Seal<'_> {
    /// Writes the rejects, `run.json` and last the manifest.
    ///
    /// # Errors
    /// [`Error::Argument`] if no document was kept; [`Error::Io`].
    pub fn write(
        &self,
        plan: &Plan,
        commits: BTreeMap<usize, Commit>,
        report: &Report,
        clock: &Clock,
    ) -> Result<()> {
        let out = self.out;
        let manifest = Manifest::new(plan, commits.into_values());
        if manifest.shards.is_empty() {
            let Counts { empty_documents, bad_records, .. } = manifest.counts;
            let reason = format!(
                "the input holds no document that is kept ({empty_documents} empty ones, {bad_records} bad \
                 records); nothing was written"
            );
            return Err(Error::Argument(reason.into()));
        }
        self.write_rejects(plan, manifest.counts.bad_records)?;
        let mut json = serde_json::to_vec_pretty(&self.run_record(report, clock))
            .map_err(|e| Error::io(out.join(RUN_FILE))(e.into()))?;
        json.push(b'\n');
        disk::write_whole(&out.join(RUN_FILE), &temporary(out, self.tag, RUN_FILE), &json)?;
        disk::write_whole(
            &out.join(MANIFEST_FILE),
            &temporary(out, self.tag, MANIFEST_FILE),
            &manifest.to_json()?,
        )
    }

    /// Concatenates what could not be accessed and the rejects of all tasks, in document order.
    fn write_rejects(&self, plan: &Plan, bad_records: u64) -> Result<()> {
        let out = self.out;
        if bad_records == 0 {
            return Ok(());
        }
        let mut file = disk::NewFile::create(temporary(out, self.tag, REJECTS_FILE))?;
        for passed in &plan.unreadable {
            let line = json!({"path": passed.path.display().to_string(), "reason": passed.reason});
            file.write(format!("{line}\n").as_bytes())?;
        }
        let mut buffer = vec![0; 1 << 16];
        for task in 0..plan.tasks.len() {
            let path = folder::rejects_path(out, task);
            let mut part = match fs::File::open(&path) {
                Ok(part) => part,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(path)(e)),
            };
            loop {
                let read = part.read(&mut buffer).map_err(Error::io(&path))?;
                if read == 0 {
                    break;
                }
                file.write(&buffer[..read])?;
            }
        }
        file.publish(&out.join(REJECTS_FILE))
    }

    fn run_record(&self, report: &Report, clock: &Clock) -> serde_json::Value {
        let seconds = self.started.elapsed().as_secs_f64();
        let of = |nanos: &AtomicU64| {
            (Duration::from_nanos(nanos.load(Ordering::Relaxed)).as_secs_f64() * 1e3).round() / 1e3
        };
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({
            "finished_unix": now,
            "host": host.trim(),
            "threads": self.threads,
            "seconds": (seconds * 1e3).round() / 1e3,
            "tasks": report.tasks,
            "tasks_resumed": report.resumed,
            "input_bytes_this_run": report.read_bytes,
            "megabytes_a_second": (report.read_bytes as f64 / 1e6 / seconds.max(1e-9) * 10.0).round() / 10.0,
            "thread_seconds": {
                "read": of(&clock.read),
                "parse": of(&clock.parse),
                "encode": of(&clock.encode),
                "write": of(&clock.write),
                "commit": of(&clock.commit),
            },
        })
    }
}
