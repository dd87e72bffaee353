//! Locks on a corpus folder: for one run, or for several parts of one plan.

use std::{
    fs::{File, TryLockError},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::folder::{LOCK_FILE, PLAN_LOCK_FILE};
use crate::{
    Error, Result,
    message::{Message, OUT},
};

/// A held lock (flock, which the system releases when the process ends in any way).
#[derive(Debug)]
pub struct Lock {
    _files: Vec<File>,
}

impl Lock {
    /// Locks the whole folder, for a run that does all tasks.
    ///
    /// # Errors
    /// [`Error::Occupied`] if another run or part works there.
    pub fn whole(out: &Path) -> Result<Self> {
        Ok(Self { _files: vec![take(out, LOCK_FILE, File::try_lock)?] })
    }

    /// Locks one of several parts that run side by side; `tag` is its name.
    ///
    /// # Errors
    /// [`Error::Occupied`] if a run that does all tasks, or the same part, works there.
    pub fn part(out: &Path, tag: &str) -> Result<Self> {
        let shared = take(out, LOCK_FILE, File::try_lock_shared)?;
        Ok(Self { _files: vec![shared, take(out, &format!("{LOCK_FILE}-{tag}"), File::try_lock)?] })
    }

    /// Keeps a run that does all tasks out while other processes do some of them.
    ///
    /// # Errors
    /// [`Error::Occupied`] if such a run works there.
    pub fn tasks(out: &Path) -> Result<Self> {
        Ok(Self { _files: vec![take(out, LOCK_FILE, File::try_lock_shared)?] })
    }

    /// Waits until no other process reads or writes the plan.
    pub fn plan(out: &Path) -> Result<Self> {
        let path = out.join(PLAN_LOCK_FILE);
        let file = open(&path)?;
        file.lock().map_err(Error::io(&path))?;
        Ok(Self { _files: vec![file] })
    }
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(Error::io(path))
}

fn take(out: &Path, name: &str, lock: fn(&File) -> std::result::Result<(), TryLockError>) -> Result<File> {
    let path = out.join(name);
    loop {
        let file = open(&path)?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let folder = out.display();
                let reason =
                    format!("{folder}: another run works in this folder; wait for it, or choose another ");
                return Err(Error::Occupied(Message::from(reason).option(OUT)));
            }
            Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
        }
        // A run that cleaned up may have removed the file between opening and locking.
        let held = file.metadata().map_err(Error::io(&path))?;
        if path.metadata().is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}
