//! `plan.json`: the inputs, and which part of them each task reads. Made once, before any work.
//!
//! Tasks depend on the inputs and the options alone, never on how many threads or machines do them: that is
//! why the shards do not, either.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    cut, disk,
    folder::{PLAN_FILE, temporary},
    input::{Format, Listing, Packing, Source, Unreadable},
    kinds::LeftOut,
    options::{Config, EncodeOptions, hash_json},
    parquet::row_groups,
    rows::check_arrow,
};
use crate::{Error, Result};

/// What a compressed byte is taken to unpack to where tasks are cut; only their evenness hangs on it.
const UNPACKED: u64 = 4;

/// Version of the layout of a plan. In the first, hidden files were inputs, `.json`, `.ndjson`, `.zstd` and
/// `.arrow` were none, and a file given twice was read twice.
const FORMAT: u32 = 2;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this layout.
    pub format: u32,
    /// Options, tokenizer and package.
    pub config: Config,
    /// The input files, in document order.
    pub sources: Vec<Source>,
    /// What was passed over.
    pub unreadable: Vec<Unreadable>,
    /// What folders and patterns hold and is no document.
    #[serde(default, skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
    /// How often files were added to a finished corpus.
    pub appended: u32,
    /// The tasks, in document order; each makes its own shards.
    pub tasks: Vec<Task>,
}

/// What one task reads, in document order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Parts of files.
    pub pieces: Vec<Piece>,
}

/// A part of one file that holds whole records: bytes of a plain file, all bytes of a compressed one, row
/// groups of a parquet file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Number of the source.
    pub source: usize,
    /// Where it starts.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
}

impl Plan {
    /// Plans the whole.
    pub fn new(config: Config, listing: Listing) -> Result<Self> {
        let tasks = cut_tasks(&listing.sources, 0, &config.options)?;
        let Listing { sources, unreadable, left_out } = listing;
        Ok(Self { format: FORMAT, config, sources, unreadable, left_out, appended: 0, tasks })
    }

    /// Adds the files of `listing` that the plan does not know yet, behind all others.
    pub fn append(&mut self, listing: Listing) -> Result<()> {
        let known: HashSet<_> = self.sources.iter().map(|s| s.path.clone()).collect();
        let places: HashSet<_> = known.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let is_known = |s: &Source| {
            known.contains(&s.path) || fs::canonicalize(&s.path).is_ok_and(|place| places.contains(&place))
        };
        let first = self.sources.len();
        self.sources.extend(listing.sources.into_iter().filter(|s| !is_known(s)));
        self.unreadable.extend(listing.unreadable);
        self.left_out = listing.left_out;
        if self.sources.len() > first {
            self.appended += 1;
            self.tasks.extend(cut_tasks(&self.sources, first, &self.config.options)?);
        }
        Ok(())
    }

    /// True if the inputs were listed as the first version did.
    pub fn is_of_first_version(&self) -> bool {
        self.format < FORMAT
    }

    /// Reads the plan of a folder, if it has one.
    pub fn load(out: &Path) -> Result<Option<Self>> {
        let path = out.join(PLAN_FILE);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let plan: Self = serde_json::from_slice(&json).map_err(|e| {
            Error::Occupied(format!(
                "{}: not a plan that this version reads ({e}); start anew with --overwrite",
                path.display()
            ))
        })?;
        Ok(Some(plan))
    }

    /// Writes the plan, durably.
    pub fn save(&self, out: &Path, tag: &str) -> Result<()> {
        let path = out.join(PLAN_FILE);
        let mut json = serde_json::to_vec(self).map_err(|e| Error::io(&path)(e.into()))?;
        json.push(b'\n');
        disk::write_whole(&path, &temporary(out, tag, PLAN_FILE), &json)
    }

    /// What makes a task's shards what they are: configuration, pieces, and the files as they were.
    pub fn task_hash(&self, task: usize) -> String {
        let pieces: Vec<_> = self.tasks[task].pieces.iter().map(|p| (p, &self.sources[p.source])).collect();
        hash_json(&(self.config.hash(), task, pieces))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes).sum()
    }

    /// What differs between this plan and a run with `config` on `listing`, one phrase each.
    pub fn differences(&self, config: &Config, listing: &Listing) -> Vec<String> {
        let mut found = config.differences(&self.config);
        let was: HashMap<_, _> = self.sources.iter().map(|s| (&s.path, s)).collect();
        for source in &listing.sources {
            let path = source.path.display();
            match was.get(&source.path) {
                None => found.push(format!("the input {path}, which is new")),
                Some(old) if *old != source => found.push(change_of(old, source)),
                Some(_) => {}
            }
        }
        let is: HashSet<_> = listing.sources.iter().map(|s| &s.path).collect();
        for source in self.sources.iter().filter(|s| !is.contains(&s.path)) {
            found.push(format!("the input {}, which is missing now", source.path.display()));
        }
        let same_order = || listing.sources.iter().map(|s| &s.path).eq(self.sources.iter().map(|s| &s.path));
        // Files that were appended stand last, wherever their names would sort.
        if found.is_empty() && self.appended == 0 && !same_order() {
            found.push("the order of the inputs".into());
        }
        found
    }

    /// The same for a run that appends: new and missing inputs are no difference.
    pub fn append_differences(&self, config: &Config, listing: &Listing) -> Vec<String> {
        let mut found = config.differences(&self.config);
        let was: HashMap<_, _> = self.sources.iter().map(|s| (&s.path, s)).collect();
        for source in &listing.sources {
            if let Some(old) = was.get(&source.path).filter(|old| **old != source) {
                found.push(change_of(old, source));
            }
        }
        found
    }
}

fn change_of(old: &Source, new: &Source) -> String {
    let path = new.path.display();
    if old.bytes == new.bytes {
        format!("the input {path}, which was changed since (its time of change differs)")
    } else {
        format!("the input {path} ({} bytes, it had {})", new.bytes, old.bytes)
    }
}

/// Cuts the sources from number `first` on into tasks of about `shard_bytes` unpacked bytes.
fn cut_tasks(sources: &[Source], first: usize, options: &EncodeOptions) -> Result<Vec<Task>> {
    let want = options.shard_bytes;
    let mut tasks = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut filled = 0;
    let mut close = |pieces: &mut Vec<Piece>, filled: &mut u64| {
        *filled = 0;
        if !pieces.is_empty() {
            tasks.push(Task { pieces: std::mem::take(pieces) });
        }
    };
    for (source, file) in sources.iter().enumerate().skip(first) {
        let piece = |start, end| Piece { source, start, end };
        if file.is_stdin() {
            close(&mut pieces, &mut filled);
            pieces.push(piece(0, 0));
            close(&mut pieces, &mut filled);
        } else if file.format == Format::Parquet {
            for (number, bytes) in row_groups(file, &options.fields)?.into_iter().enumerate() {
                let number = number as u64;
                match pieces.last_mut() {
                    Some(last) if last.source == source && last.end == number => last.end += 1,
                    _ => pieces.push(piece(number, number + 1)),
                }
                filled += bytes;
                if filled >= want {
                    close(&mut pieces, &mut filled);
                }
            }
        } else if !file.is_cuttable() {
            if file.format == Format::Arrow {
                check_arrow(file, &options.fields)?;
            }
            let packed = file.packing != Packing::Plain;
            let bytes = file.bytes.saturating_mul(if packed { UNPACKED } else { 1 });
            if bytes >= want {
                close(&mut pieces, &mut filled);
            }
            if file.bytes > 0 {
                pieces.push(piece(0, file.bytes));
                filled += bytes;
            }
            if filled >= want {
                close(&mut pieces, &mut filled);
            }
        } else {
            let mut start = 0;
            while start < file.bytes {
                let aim = start.saturating_add(want - filled).min(file.bytes);
                // A JSON array is read from its beginning, so it is one piece.
                let is_array = start == 0
                    && aim < file.bytes
                    && file.format == Format::Jsonl
                    && cut::starts_array(&file.path)?;
                let end = if is_array { file.bytes } else { cut_at(file, options, aim)? };
                pieces.push(piece(start, end));
                filled += end - start;
                start = end;
                if filled >= want {
                    close(&mut pieces, &mut filled);
                }
            }
        }
    }
    close(&mut pieces, &mut filled);
    Ok(tasks)
}

fn cut_at(file: &Source, options: &EncodeOptions, aim: u64) -> Result<u64> {
    let line = super::options::Split::Line;
    let split = if file.format == Format::Txt { &options.split } else { &line };
    cut::next_start(split, &file.path, aim, file.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(bytes: u64) -> Source {
        Source { path: "x.txt.gz".into(), format: Format::Txt, packing: Packing::Gz, bytes, mtime_ns: 0 }
    }

    #[test]
    fn small_compressed_files_share_a_task_and_large_ones_do_not() {
        let options = EncodeOptions { shard_bytes: 4000, ..Default::default() };
        let sources: Vec<_> = [100, 100, 5000, 0, 900, 200, 1].map(compressed).into();
        let tasks = cut_tasks(&sources, 0, &options).unwrap();
        let numbers: Vec<Vec<usize>> =
            tasks.iter().map(|t| t.pieces.iter().map(|p| p.source).collect()).collect();
        assert_eq!(numbers, [vec![0, 1], vec![2], vec![4, 5], vec![6]]);
    }
}
