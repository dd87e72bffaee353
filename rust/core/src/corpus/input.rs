//! Which files, in which order: arguments as given; what a folder or pattern holds, by path bytes.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use crate::{Error, Result};

/// How a file holds its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line, the text in one field.
    Jsonl,
    /// A document a line.
    Txt,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// How to read it.
    pub format: Format,
    /// Its size in bytes when it was listed.
    pub bytes: u64,
}

/// Lists the files that `inputs` (files, folders, patterns) stand for, in document order.
///
/// # Errors
/// [`Error::Argument`] for a kind of file we do not read, or an input that stands for no file;
/// [`Error::Io`] for one that cannot be looked at.
pub fn list_sources(inputs: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for input in inputs {
        if input.is_dir() {
            let found = by_path_bytes(walk(input)?.into_iter().filter(|p| format_of(p).is_some()).collect());
            if found.is_empty() {
                return Err(Error::Argument(format!(
                    "{}: no .jsonl or .txt file in this folder",
                    input.display()
                )));
            }
            push_all(found, &mut sources)?;
        } else if input.exists() {
            push_all(vec![input.clone()], &mut sources)?;
        } else if is_pattern(input) {
            push_all(by_path_bytes(matches(input)?), &mut sources)?;
        } else {
            fs::metadata(input).map_err(Error::io(input))?;
        }
    }
    if sources.is_empty() {
        return Err(Error::Argument("no input files; name .jsonl or .txt files, or folders of them".into()));
    }
    Ok(sources)
}

fn push_all(paths: Vec<PathBuf>, sources: &mut Vec<Source>) -> Result<()> {
    for path in paths {
        let format = format_of(&path).ok_or_else(|| {
            Error::Argument(format!(
                "{}: not a kind of file we read; .jsonl (a JSON object a line) and .txt (a document a line) are",
                path.display()
            ))
        })?;
        let bytes = fs::metadata(&path).map_err(Error::io(&path))?.len();
        sources.push(Source { path, format, bytes });
    }
    Ok(())
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension().and_then(OsStr::to_str) {
        Some("jsonl") => Some(Format::Jsonl),
        Some("txt") => Some(Format::Txt),
        _ => None,
    }
}

fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true) {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(folder).to_path_buf();
            Error::Io { path, source: e.into() }
        })?;
        if entry.file_type().is_file() {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|b| b"*?[".contains(b))
}

fn matches(pattern: &Path) -> Result<Vec<PathBuf>> {
    let text = pattern.to_string_lossy();
    let paths = glob::glob(&text).map_err(|e| Error::Argument(format!("pattern `{text}`: {e}")))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| Error::Io { path: e.path().into(), source: e.into() })?;
        if path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::Argument(format!("pattern `{text}` matches no file")));
    }
    Ok(files)
}

fn by_path_bytes(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    paths
}
