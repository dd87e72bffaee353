//! The names inside a corpus folder, and which of them a folder holds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::disk;
use crate::{Error, Result};

/// What the corpus holds; written last.
pub const MANIFEST_FILE: &str = "manifest.json";
/// What is to be done; written first.
pub const PLAN_FILE: &str = "plan.json";
/// What differs from run to run.
pub const RUN_FILE: &str = "run.json";
/// Bad records, with `--on-error skip`.
pub const REJECTS_FILE: &str = "rejects.jsonl";
/// Held while a run works.
pub const LOCK_FILE: &str = ".lock";
/// Held while the plan is made.
pub const PLAN_LOCK_FILE: &str = ".lock-plan";
/// Holds a record for each task done.
pub const COMMITS_FOLDER: &str = ".commits";
/// What the names of files that are being written start with.
pub const TEMPORARY: &str = ".tmp-";

/// The temporary name of `name` for the run or part `tag`.
pub fn temporary(out: &Path, tag: &str, name: &str) -> PathBuf {
    out.join(format!("{TEMPORARY}{tag}-{name}"))
}

/// Name of a shard without its ending. Sorts in document order: a task's first shard has the plain name,
/// further ones `_0001` and so on behind it.
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

/// The names in a folder, sorted; none if there is no such folder.
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

/// True for a name that is there only while work goes on.
pub fn is_passing(name: &str) -> bool {
    name.starts_with(TEMPORARY) || name.starts_with(LOCK_FILE)
}

/// Removes all that the folder holds but the locks. The manifest goes first and the plan last, so that a run
/// killed meanwhile leaves nothing that looks whole, and is known as ours.
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
