//! The names in a corpus folder, and which of them a folder contains.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::disk;
use crate::{Error, Result};

/// What the corpus contains; written last.
pub const MANIFEST_FILE: &str = "manifest.json";
/// What is to be done; written first.
pub const PLAN_FILE: &str = "plan.json";
/// Facts that differ from run to run.
pub const RUN_FILE: &str = "run.json";
/// Bad records, if they are skipped.
pub const REJECTS_FILE: &str = "rejects.jsonl";
/// Held while a run works.
pub const LOCK_FILE: &str = ".lock";
/// Held while the plan is made.
pub const PLAN_LOCK_FILE: &str = ".lock-plan";
/// Contains a commit record for each finished task.
pub const COMMITS_FOLDER: &str = ".commits";
/// Prefix of the names of files that are being written.
pub const TEMPORARY: &str = ".tmp-";

/// The temporary name of `name` for the run or part `tag`.
pub fn temporary(out: &Path, tag: &str, name: &str) -> PathBuf {
    out.join(format!("{TEMPORARY}{tag}-{name}"))
}

/// Name of a shard without its extension. Names sort in document order: the first shard of a task has the
/// plain name, further ones have `_0001` and so on appended.
pub fn shard_name(task: usize, number: usize) -> String {
    if number == 0 { format!("shard-{task:05}") } else { format!("shard-{task:05}_{number:04}") }
}

/// The task that made the shard of this name.
pub fn task_of(shard: &str) -> Option<usize> {
    shard.strip_prefix("shard-")?.split('_').next()?.parse().ok()
}

/// The commit record of a task.
pub fn commit_path(out: &Path, task: usize) -> PathBuf {
    out.join(COMMITS_FOLDER).join(format!("task-{task:05}.json"))
}

/// The rejects of a task.
pub fn rejects_path(out: &Path, task: usize) -> PathBuf {
    out.join(COMMITS_FOLDER).join(format!("task-{task:05}.rejects"))
}

/// The hashes of the documents a task kept.
pub fn hashes_path(out: &Path, task: usize) -> PathBuf {
    out.join(COMMITS_FOLDER).join(format!("task-{task:05}.hashes"))
}

/// The names in a folder, sorted; none if the folder does not exist.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// True for a name that exists only while a run works.
pub fn is_passing(name: &str) -> bool {
    name.starts_with(TEMPORARY) || name.starts_with(LOCK_FILE)
}

/// Removes everything in the folder but the locks. The manifest is removed first and the plan last, so that a
/// run killed meanwhile leaves a folder that does not look complete, but is still recognised as Zhuzi's.
pub fn wipe(out: &Path) -> Result<()> {
    disk::remove(&out.join(MANIFEST_FILE))?;
    disk::sync_folder(out)?;
    for name in names(out)? {
        if !name.starts_with(LOCK_FILE) && name != PLAN_FILE {
            disk::remove(&out.join(name))?;
        }
    }
    disk::remove(&out.join(PLAN_FILE))
}
