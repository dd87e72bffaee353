//! Every change to the disk goes through here: create, write, fsync, rename, remove.
//!
//! One place, so that the order on which crash safety depends can be read, and so that tests can make any
//! single operation fail.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A file being written.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
}

impl NewFile {
    /// Creates the file, replacing one left by a killed run.
    pub fn create(path: PathBuf) -> Result<Self> {
        faults::check(&path)?;
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self { file, path })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = faults::check(&self.path) {
            // A disk that fills up stores the first part.
            let _ = self.file.write_all(&bytes[..bytes.len() / 2]);
            return Err(e);
        }
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// Flushes the file to the disk.
    pub fn sync(&self) -> Result<()> {
        faults::check(&self.path)?;
        self.file.sync_all().map_err(Error::io(&self.path))
    }

    /// Flushes the file to the disk and renames it to `name`. The caller syncs the folder.
    pub fn publish(self, name: &Path) -> Result<()> {
        self.sync()?;
        rename(&self.path, name)
    }
}

/// Renames a file.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    faults::check(to)?;
    fs::rename(from, to).map_err(Error::io(to))
}

/// Flushes the names in a folder to the disk.
pub fn sync_folder(folder: &Path) -> Result<()> {
    faults::check(folder)?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
}

/// Creates a folder and its parents.
pub fn create_folder(folder: &Path) -> Result<()> {
    faults::check(folder)?;
    fs::create_dir_all(folder).map_err(Error::io(folder))
}

/// Writes a small file whole: under a temporary name, fsynced, renamed, the folder fsynced.
pub fn write_whole(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(temporary.into())?;
    file.write(bytes)?;
    file.publish(path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Removes a file, or a folder with its contents. A missing one is not an error.
pub fn remove(path: &Path) -> Result<()> {
    faults::check(path)?;
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Reads a JSON file if it exists. The inner result says whether it could be parsed.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<serde_json::Result<T>>> {
    match fs::read(path) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

#[cfg(not(test))]
mod faults {
    use std::path::Path;

    #[inline]
    pub fn check(_: &Path) -> crate::Result<()> {
        Ok(())
    }
}

/// Makes chosen operations below a folder fail.
#[cfg(test)]
pub mod faults {
    use std::{
        io,
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError},
    };

    use crate::{Error, Result};

    #[derive(Clone, Debug)]
    struct Fault {
        below: PathBuf,
        seen: usize,
        at: usize,
        /// As if the process were killed there: no later operation happens either.
        dead: bool,
    }

    static FAULTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());

    /// From now on, operation number `at` (from 0) below `folder` fails; with `dead`, all later ones do too.
    pub fn arm(folder: &Path, at: usize, dead: bool) {
        disarm(folder);
        let fault = Fault { below: folder.into(), seen: 0, at, dead };
        FAULTS.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    /// Stops injecting failures; returns the number of operations so far.
    pub fn disarm(folder: &Path) -> usize {
        let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = faults.iter().find(|f| f.below == folder).map_or(0, |f| f.seen);
        faults.retain(|f| f.below != folder);
        seen
    }

    pub fn check(path: &Path) -> Result<()> {
        let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(fault) = faults.iter_mut().find(|f| path.starts_with(&f.below)) else { return Ok(()) };
        let number = fault.seen;
        fault.seen += 1;
        if number == fault.at || (fault.dead && number > fault.at) {
            return Err(Error::io(path)(io::Error::from(io::ErrorKind::StorageFull)));
        }
        Ok(())
    }
}
