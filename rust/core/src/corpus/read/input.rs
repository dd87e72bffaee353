//! Lists the input files: arguments in the order given, the contents of a folder or pattern sorted by path
//! bytes.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use walkdir::WalkDir;

use super::kinds::{self, Kind};
use crate::{
    Error, Result,
    corpus::{
        listing::{FOLDER, LeftOut, Listing, SPECIAL, Unreadable},
        source::{Format, Packing, STDIN, Source},
    },
    message::{Message, OUT},
};

/// How inputs are listed.
#[derive(Clone, Copy, Debug)]
pub struct ListingRules<'a> {
    /// The format of standard input.
    pub stdin: Format,
    /// Skip and list what a folder or pattern contains and cannot be accessed (a broken link, a folder
    /// without permission, a name that is not UTF-8). Otherwise it is an error.
    pub skip: bool,
    /// The output folder, which contains no inputs.
    pub out: Option<&'a Path>,
    /// The rules of version 1: fewer kinds, hidden files are read, files given twice are read twice.
    pub first_version: bool,
}

/// Lists the files that `inputs` (files, folders, patterns, `-`) expand to, in document order.
///
/// # Errors
/// [`Error::Argument`] for a kind of file that is not read, or an input that expands to no file;
/// [`Error::Io`] for one that cannot be accessed.
pub fn list_sources(inputs: &[PathBuf], rules: ListingRules<'_>) -> Result<Listing> {
    let out = rules.out.and_then(|out| fs::canonicalize(out).ok());
    let mut lister =
        Lister { rules, out, listing: Listing::default(), seen: HashMap::new(), names: HashSet::new() };
    for input in inputs {
        if input.as_os_str() == STDIN {
            let (path, packing) = (input.clone(), Packing::Plain);
            let source = Source { path, format: rules.stdin, packing, bytes: 0, mtime_ns: 0 };
            lister.listing.sources.push(source);
        } else if input.is_dir() {
            if lister.is_output(input) {
                return Err(lister.in_output(input));
            }
            let before = lister.mark();
            let found = lister.walk(input);
            lister.push_found(input, found, &before)?;
        } else if input.exists() {
            match lister.kind_of(input) {
                Kind::Read(format, packing) => lister.push(input.clone(), format, packing, true)?,
                Kind::Other(_) => return Err(Error::Argument(kinds::refusal(input).into())),
            }
        } else if is_pattern(input) {
            let before = lister.mark();
            let (found, in_output) = lister.matches(input)?;
            if found.is_empty() && in_output {
                return Err(lister.in_output(input));
            }
            lister.push_found(input, found, &before)?;
        } else {
            fs::metadata(input).map_err(Error::io(input))?;
        }
    }
    let listing = lister.listing;
    let pipes = listing.sources.iter().filter(|source| source.is_stdin()).count();
    if pipes > 1 {
        return Err(Error::Argument("standard input (`-`) can be read once only; name it once".into()));
    }
    if listing.sources.is_empty() {
        return Err(Error::Argument(
            format!("no input files; name {}, or folders of them", kinds::READ).into(),
        ));
    }
    Ok(listing)
}

type Entry = std::result::Result<PathBuf, (PathBuf, std::io::Error)>;

struct Lister<'a> {
    rules: ListingRules<'a>,
    out: Option<PathBuf>,
    listing: Listing,
    /// By device and inode, the first path under which a file was listed.
    seen: HashMap<(u64, u64), PathBuf>,
    /// Files that identify a folder as made by a tool; they are not documents.
    names: HashSet<PathBuf>,
}

impl Lister<'_> {
    fn kind_of(&self, path: &Path) -> Kind {
        let kind = kinds::kind_of(path);
        if self.rules.first_version && !kinds::is_of_first_version(path) {
            return Kind::Other(String::new());
        }
        kind
    }

    /// What was skipped and left out so far.
    fn mark(&self) -> (usize, LeftOut) {
        (self.listing.unreadable.len(), self.listing.left_out.clone())
    }

    fn in_output(&self, input: &Path) -> Error {
        in_output(input, self.rules.out.unwrap_or(input))
    }

    /// Adds what a folder or pattern contains, sorted by path bytes, and counts what is left out. `before` is
    /// the state before it was searched.
    fn push_found(&mut self, input: &Path, found: Vec<Entry>, before: &(usize, LeftOut)) -> Result<()> {
        let mut paths = Vec::new();
        for entry in found {
            match entry {
                Ok(path) => paths.push(path),
                Err((path, e)) if self.rules.skip => self.pass_over(path, e.to_string()),
                Err((path, source)) => return Err(Error::Io { path, source }),
            }
        }
        let by_bytes = |a: &Path, b: &Path| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes());
        paths.sort_unstable_by(|a, b| by_bytes(a, b));
        self.listing.unreadable[before.0..].sort_unstable_by(|a, b| by_bytes(&a.path, &b.path));
        let mut any = self.listing.unreadable.len() > before.0;
        self.names = paths.iter().filter(|path| kinds::is_telling(path)).cloned().collect();
        let arrow_folders: HashSet<&Path> = paths
            .iter()
            .filter(|path| matches!(kinds::kind_of(path), Kind::Read(Format::Arrow, _)))
            .filter_map(|path| path.parent())
            .collect();
        for path in &paths {
            match self.kind_of(path) {
                Kind::Other(label) => self.listing.left_out.add_kind(&label),
                Kind::Read(..)
                    if !self.rules.first_version
                        && kinds::is_made_by_tools(path, &self.names, &arrow_folders) =>
                {
                    self.listing.left_out.records_of_tools += 1;
                }
                Kind::Read(format, packing) => {
                    any = true;
                    self.push(path.clone(), format, packing, false)?;
                }
            }
        }
        if any {
            return Ok(());
        }
        let shown = input.display();
        let held = self.listing.left_out.since(&before.1).describe();
        let held = if held.is_empty() { String::new() } else { format!(" (it holds {})", held.join(", ")) };
        let reason = if input.is_dir() {
            format!("{shown}: no file of a kind we read in this folder{held}; {} are read", kinds::READ)
        } else if held.is_empty() {
            format!("pattern `{shown}` matches no file")
        } else {
            format!("pattern `{shown}` matches no file of a kind we read{held}; {} are read", kinds::READ)
        };
        Err(Error::Argument(reason.into()))
    }

    fn pass_over(&mut self, path: PathBuf, reason: String) {
        // A name that is not UTF-8 cannot be written as JSON.
        let path = if path.to_str().is_none() { path.to_string_lossy().into_owned().into() } else { path };
        self.listing.unreadable.push(Unreadable { path, reason });
    }

    fn push(&mut self, path: PathBuf, format: Format, packing: Packing, named: bool) -> Result<()> {
        let skip = self.rules.skip && !named;
        if path.to_str().is_none() {
            let reason = "the name is not UTF-8; rename the file";
            if self.rules.skip {
                self.pass_over(path, reason.into());
                return Ok(());
            }
            return Err(Error::Argument(format!("{}: {reason}", path.display()).into()));
        }
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(e) if skip => {
                self.pass_over(path, e.to_string());
                return Ok(());
            }
            Err(e) => return Err(Error::io(path)(e)),
        };
        if !found.is_file() {
            let shown = path.display();
            let reason =
                format!("{shown}: no regular file; a pipe is read through standard input, named `-`");
            return Err(Error::Argument(reason.into()));
        }
        if !self.rules.first_version && self.is_known(&path, &found) {
            self.listing.left_out.repeated += 1;
            return Ok(());
        }
        let (bytes, mtime_ns) = Source::stamp(&found);
        self.listing.sources.push(Source { path, format, packing, bytes, mtime_ns });
        Ok(())
    }

    /// True if the file was listed before, under this or another path. Hard links count as separate files.
    fn is_known(&mut self, path: &Path, found: &fs::Metadata) -> bool {
        match self.seen.get(&(found.dev(), found.ino())) {
            Some(first) => same_file(first, path),
            None => {
                self.seen.insert((found.dev(), found.ino()), path.into());
                false
            }
        }
    }

    fn walk(&mut self, folder: &Path) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut entries = WalkDir::new(folder).follow_links(true).into_iter();
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if entry.depth() > 0 && self.is_hidden(entry.file_name()) => {
                    // The locks and records of the output folder do not count as left out.
                    self.listing.left_out.hidden += u64::from(!self.is_output(entry.path()));
                    if entry.file_type().is_dir() {
                        entries.skip_current_dir();
                    }
                }
                Ok(entry) if entry.file_type().is_dir() => {
                    if self.is_output(entry.path()) {
                        entries.skip_current_dir();
                    }
                }
                Ok(entry) if entry.file_type().is_file() => found.push(Ok(entry.into_path())),
                Ok(_) => self.listing.left_out.add_kind(SPECIAL),
                Err(e) => {
                    let path = e.path().unwrap_or(folder).to_path_buf();
                    if self.is_hidden(path.file_name().unwrap_or_default()) {
                        self.listing.left_out.hidden += 1;
                        continue;
                    }
                    // A loop of links is the only failure that does not come from the system.
                    let text = e.to_string();
                    found.push(Err((path, e.into_io_error().unwrap_or_else(|| std::io::Error::other(text)))));
                }
            }
        }
        found
    }

    fn is_hidden(&self, name: &OsStr) -> bool {
        !self.rules.first_version && kinds::is_hidden(name)
    }

    /// True for the output folder and what it contains.
    fn is_output(&self, path: &Path) -> bool {
        let Some(out) = &self.out else { return false };
        fs::canonicalize(path).is_ok_and(|path| path.starts_with(out))
    }

    /// What the pattern matches outside the output folder, and whether it matches anything inside.
    fn matches(&mut self, pattern: &Path) -> Result<(Vec<Entry>, bool)> {
        let text = pattern.to_string_lossy();
        let paths =
            glob::glob(&text).map_err(|e| Error::Argument(format!("pattern `{text}`: {e}").into()))?;
        // A pattern may name hidden files explicitly.
        let dotted: Vec<glob::Pattern> = pattern
            .components()
            .filter(|part| matches!(part, Component::Normal(name) if kinds::is_hidden(name)))
            .filter_map(|part| glob::Pattern::new(&part.as_os_str().to_string_lossy()).ok())
            .collect();
        let (mut found, mut folders, mut in_output) = (Vec::new(), Vec::new(), false);
        for path in paths {
            let path = match path {
                Ok(path) => path,
                Err(e) => {
                    found.push(Err((e.path().into(), e.into())));
                    continue;
                }
            };
            let hidden = path.components().any(|part| {
                matches!(part, Component::Normal(name) if self.is_hidden(name)
                    && !dotted.iter().any(|pattern| pattern.matches(&name.to_string_lossy())))
            });
            if hidden {
                self.listing.left_out.hidden += 1;
                continue;
            }
            match fs::metadata(&path) {
                Ok(_) if self.is_output(&path) => in_output = true,
                Ok(what) if what.is_file() => found.push(Ok(path)),
                Ok(what) if what.is_dir() => folders.push(path),
                // As in folders, pipes are counted, and a broken link is an error.
                Ok(_) => self.listing.left_out.add_kind(SPECIAL),
                Err(_) if self.rules.first_version => {}
                Err(e) => found.push(Err((path, e))),
            }
        }
        // A folder is searched only if the pattern itself leads there (`**`).
        let parents: HashSet<&Path> = found
            .iter()
            .filter_map(|found| found.as_ref().ok())
            .flat_map(|path| path.ancestors().skip(1))
            .collect();
        for _ in folders.iter().filter(|folder| !parents.contains(folder.as_path())) {
            self.listing.left_out.add_kind(FOLDER);
        }
        Ok((found, in_output))
    }
}

/// The error for an input in the output folder `out`.
pub fn in_output(input: &Path, out: &Path) -> Error {
    let (input, out) = (input.display(), out.display());
    let reason = format!("{input}: the input lies in the output folder {out}; choose another ");
    Error::Argument(Message::from(reason).option(OUT))
}

/// True if two paths lead to one file.
pub fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|b| b"*?[".contains(b))
}
