//! Commit records. A task is done if and only if it has one.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use super::{
    disk,
    folder::{self, COMMITS_FOLDER, TEMPORARY, commit_path, hashes_path, rejects_path},
    plan::Plan,
    records::{Commit, ShardEntry},
    shard::WrittenShard,
};
use crate::{Error, Result};

/// A task whose shards are written, but still have temporary names.
pub struct WrittenTask {
    /// The commit record, except for its shards.
    pub commit: Commit,
    /// Lines of the rejects file.
    pub rejects: Option<disk::NewFile>,
    /// With deduplication, the hashes of the documents kept.
    pub hashes: Option<Vec<u8>>,
}

impl WrittenTask {
    /// Renames the shards and then writes the record, so that the record is true at any moment.
    pub fn commit(mut self, out: &Path, tag: &str, shards: Vec<WrittenShard>) -> Result<Commit> {
        for shard in &shards {
            for (path, ending) in &shard.files {
                disk::rename(path, &out.join(format!("{}.{ending}", shard.entry.name)))?;
            }
        }
        if !shards.is_empty() {
            disk::sync_folder(out)?;
        }
        let task = self.commit.task;
        if let Some(rejects) = self.rejects {
            rejects.publish(&rejects_path(out, task))?;
        }
        if let Some(hashes) = self.hashes {
            let mut file = disk::NewFile::create(temporary(out, tag, task, "hashes"))?;
            file.write(&hashes)?;
            file.publish(&hashes_path(out, task))?;
        }
        self.commit.shards = shards.into_iter().map(|shard| shard.entry).collect();
        let path = commit_path(out, task);
        let json = serde_json::to_vec(&self.commit).map_err(|e| Error::io(&path)(e.into()))?;
        disk::write_whole(&path, &temporary(out, tag, task, "json"), &json)?;
        Ok(self.commit)
    }
}

/// The temporary name of a file next to the commit record.
pub fn temporary(out: &Path, tag: &str, task: usize, kind: &str) -> PathBuf {
    out.join(COMMITS_FOLDER).join(format!("{TEMPORARY}{tag}-task-{task:05}.{kind}"))
}

/// The commit records in a folder that are valid for `plan`, by task. A record whose shards are missing or
/// have another size is not valid: its task is done again.
pub fn load_all(out: &Path, plan: &Plan) -> Result<BTreeMap<usize, Commit>> {
    let mut commits = BTreeMap::new();
    for task in 0..plan.tasks.len() {
        let Some(Ok(commit)) = disk::read_json::<Commit>(&commit_path(out, task))? else { continue };
        let is_there = |shard: &ShardEntry| {
            let has = |ending, bytes| {
                fs::metadata(out.join(format!("{}.{ending}", shard.name))).is_ok_and(|m| m.len() == bytes)
            };
            has("bin", shard.bytes) && has("idx", 42 + 20 * shard.documents)
        };
        if commit.task == task && commit.hash == plan.task_hash(task) && commit.shards.iter().all(is_there) {
            commits.insert(task, commit);
        }
    }
    Ok(commits)
}

/// Removes what a killed run left: temporary files, and files of tasks that have no record.
pub fn remove_uncommitted(out: &Path, commits: &BTreeMap<usize, Commit>) -> Result<()> {
    let shards: HashSet<_> =
        commits.values().flat_map(|c| &c.shards).map(|shard| shard.name.as_str()).collect();
    for name in folder::names(out)? {
        let stem = name.strip_suffix(".bin").or_else(|| name.strip_suffix(".idx"));
        let uncommitted = stem.is_some_and(|s| s.starts_with("shard-") && !shards.contains(s));
        if uncommitted || name.starts_with(TEMPORARY) {
            disk::remove(&out.join(name))?;
        }
    }
    let records = out.join(COMMITS_FOLDER);
    for name in folder::names(&records)? {
        let task = name.strip_prefix("task-").and_then(|n| n.split('.').next()).and_then(|n| n.parse().ok());
        if !task.is_some_and(|task: usize| commits.contains_key(&task)) {
            disk::remove(&records.join(name))?;
        }
    }
    Ok(())
}

/// Removes the temporary files of one run or part.
pub fn remove_temporary(out: &Path, tag: &str) -> Result<()> {
    let prefix = format!("{TEMPORARY}{tag}-");
    for folder in [out.to_path_buf(), out.join(COMMITS_FOLDER)] {
        for name in folder::names(&folder)?.into_iter().filter(|name| name.starts_with(&prefix)) {
            disk::remove(&folder.join(name))?;
        }
    }
    Ok(())
}
