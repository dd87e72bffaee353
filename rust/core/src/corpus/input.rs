//! Which files, in which order: arguments as given; what a folder or pattern holds, by path bytes.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::{Error, Result};

/// The argument that stands for standard input.
pub const STDIN: &str = "-";

/// How a file holds its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line, the text in a field.
    Jsonl,
    /// Plain text.
    Txt,
    /// A row a document, the text in a column.
    Parquet,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, several members allowed.
    Gz,
    /// Zstandard, several frames allowed.
    Zst,
    /// xz, several streams allowed.
    Xz,
    /// bzip2, several streams allowed.
    Bz2,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// How to read it.
    pub format: Format,
    /// How to unpack it.
    pub packing: Packing,
    /// Its size in bytes when it was listed; 0 for standard input.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

impl Source {
    /// True for standard input.
    pub fn is_stdin(&self) -> bool {
        self.path.as_os_str() == STDIN
    }

    /// True if a part of the file can be read without what stands before it.
    pub fn is_cuttable(&self) -> bool {
        !self.is_stdin() && self.packing == Packing::Plain
    }

    /// Size and time of change as they are now, to be compared with those planned.
    pub fn stamp(found: &fs::Metadata) -> (u64, i64) {
        (found.len(), found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()))
    }
}

/// A file or folder that cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Where it is.
    pub path: PathBuf,
    /// What the system says.
    pub reason: String,
}

/// What the inputs stand for.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files, in document order.
    pub sources: Vec<Source>,
    /// What was passed over, if that is wanted.
    pub unreadable: Vec<Unreadable>,
}

/// Lists the files that `inputs` (files, folders, patterns, `-`) stand for, in document order.
///
/// With `skip`, what a folder or pattern holds and cannot be looked at (a broken link, a folder without
/// permission) is passed over and listed; else it is an error. `stdin` is the format of `-`.
///
/// # Errors
/// [`Error::Argument`] for a kind of file we do not read, or an input that stands for no file;
/// [`Error::Io`] for one that cannot be looked at.
pub fn list_sources(inputs: &[PathBuf], stdin: Format, skip: bool) -> Result<Listing> {
    let mut listing = Listing::default();
    for input in inputs {
        if input.as_os_str() == STDIN {
            let (path, packing) = (input.clone(), Packing::Plain);
            listing.sources.push(Source { path, format: stdin, packing, bytes: 0, mtime_ns: 0 });
        } else if input.is_dir() {
            let found: Vec<_> = found_in(walk(input), input, skip, &mut listing.unreadable)?;
            let found: Vec<_> = found.into_iter().filter(|path| kind_of(path).is_some()).collect();
            if found.is_empty() && listing.unreadable.is_empty() {
                let folder = input.display();
                return Err(Error::Argument(format!(
                    "{folder}: no .jsonl or .txt or .parquet file in this folder"
                )));
            }
            push_all(found, skip, &mut listing)?;
        } else if input.exists() {
            push_all(vec![input.clone()], false, &mut listing)?;
        } else if is_pattern(input) {
            let found = found_in(matches(input)?, input, skip, &mut listing.unreadable)?;
            push_all(found, skip, &mut listing)?;
        } else {
            fs::metadata(input).map_err(Error::io(input))?;
        }
    }
    let pipes = listing.sources.iter().filter(|source| source.is_stdin()).count();
    if pipes > 1 {
        return Err(Error::Argument("standard input (`-`) can be read once only; name it once".into()));
    }
    if listing.sources.is_empty() {
        return Err(Error::Argument(
            "no input files; name .jsonl, .txt or .parquet files, or folders of them".into(),
        ));
    }
    Ok(listing)
}

fn push_all(paths: Vec<PathBuf>, skip: bool, listing: &mut Listing) -> Result<()> {
    for path in paths {
        let (format, packing) = kind_of(&path).ok_or_else(|| {
            Error::Argument(format!(
                "{}: not a kind of file we read; .jsonl (a JSON object a line), .txt and .parquet are, the \
                 first two also with .gz, .zst, .xz or .bz2 behind",
                path.display()
            ))
        })?;
        if path.to_str().is_none() {
            let shown = path.display();
            return Err(Error::Argument(format!("{shown}: the name is not UTF-8; rename the file")));
        }
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(e) if skip => {
                listing.unreadable.push(Unreadable { path, reason: e.to_string() });
                continue;
            }
            Err(e) => return Err(Error::io(path)(e)),
        };
        if !found.is_file() {
            let shown = path.display();
            return Err(Error::Argument(format!(
                "{shown}: no regular file; a pipe is read through standard input, named `-`"
            )));
        }
        let (bytes, mtime_ns) = Source::stamp(&found);
        listing.sources.push(Source { path, format, packing, bytes, mtime_ns });
    }
    Ok(())
}

/// Format and packing, by the endings of the name.
fn kind_of(path: &Path) -> Option<(Format, Packing)> {
    let ending = |path: &Path| path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let packing = match ending(path)?.as_str() {
        "gz" => Packing::Gz,
        "zst" => Packing::Zst,
        "xz" => Packing::Xz,
        "bz2" => Packing::Bz2,
        _ => Packing::Plain,
    };
    let stem = if packing == Packing::Plain { path.into() } else { path.with_extension("") };
    match ending(&stem)?.as_str() {
        "jsonl" => Some((Format::Jsonl, packing)),
        "txt" => Some((Format::Txt, packing)),
        "parquet" if packing == Packing::Plain => Some((Format::Parquet, packing)),
        _ => None,
    }
}

type Found = std::result::Result<PathBuf, (PathBuf, std::io::Error)>;

/// The paths found, by their bytes; what could not be looked at is an error, or goes to `unreadable`.
fn found_in(
    found: Vec<Found>,
    input: &Path,
    skip: bool,
    unreadable: &mut Vec<Unreadable>,
) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in found {
        match entry {
            Ok(path) => paths.push(path),
            Err((path, e)) if skip => unreadable.push(Unreadable { path, reason: e.to_string() }),
            Err((path, source)) => return Err(Error::Io { path, source }),
        }
    }
    if paths.is_empty() && is_pattern(input) && !input.exists() && !skip {
        return Err(Error::Argument(format!("pattern `{}` matches no file", input.display())));
    }
    paths.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    unreadable.sort_unstable_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
    Ok(paths)
}

fn walk(folder: &Path) -> Vec<Found> {
    let entries = WalkDir::new(folder).follow_links(true).into_iter();
    let found = entries.filter_map(|entry| match entry {
        Ok(entry) => entry.file_type().is_file().then(|| Ok(entry.into_path())),
        Err(e) => {
            let path = e.path().unwrap_or(folder).to_path_buf();
            // A loop of links is the one failure that is not the system's.
            let text = e.to_string();
            Some(Err((path, e.into_io_error().unwrap_or_else(|| std::io::Error::other(text)))))
        }
    });
    found.collect()
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|b| b"*?[".contains(b))
}

fn matches(pattern: &Path) -> Result<Vec<Found>> {
    let text = pattern.to_string_lossy();
    let paths = glob::glob(&text).map_err(|e| Error::Argument(format!("pattern `{text}`: {e}")))?;
    let found = paths.filter_map(|path| match path {
        Ok(path) => path.is_file().then_some(Ok(path)),
        Err(e) => Some(Err((e.path().into(), e.into()))),
    });
    Ok(found.collect())
}
