//! `plan.json`: the inputs, and which part of them each task reads. Made once, before any work.
//!
//! Tasks depend only on the inputs and the options, never on the number of threads or machines. So the shards
//! do not depend on these either.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    config::Config,
    digest::hash_json,
    disk,
    folder::{PLAN_FILE, temporary},
    records::Task,
};
use crate::{
    Error, Result,
    corpus::{
        listing::{LeftOut, Listing, Unreadable},
        source::Source,
    },
    message::{Message, OVERWRITE},
};

/// Version of the layout of a plan. In version 1, hidden files were inputs, `.json`, `.ndjson`, `.zstd` and
/// `.arrow` files were not, and a file given twice was read twice.
const FORMAT: u32 = 2;

/// The inputs and tasks of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this layout.
    pub format: u32,
    /// Options, tokenizer and package.
    pub config: Config,
    /// The input files, in document order.
    pub sources: Vec<Source>,
    /// What was skipped.
    pub unreadable: Vec<Unreadable>,
    /// What folders and patterns contain that is not read.
    #[serde(default, skip_serializing_if = "LeftOut::is_empty")]
    pub left_out: LeftOut,
    /// How often files were added to a finished corpus.
    pub appended: u32,
    /// The tasks, in document order; each makes its own shards.
    pub tasks: Vec<Task>,
}

impl Plan {
    /// A plan of these inputs, in `tasks`.
    pub fn new(config: Config, listing: Listing, tasks: Vec<Task>) -> Self {
        let Listing { sources, unreadable, left_out } = listing;
        Self { format: FORMAT, config, sources, unreadable, left_out, appended: 0, tasks }
    }

    /// Adds the files of `listing` that are not in the plan yet, after all others. Returns the number of the
    /// first added source: the caller adds tasks from there on. `None` if there is nothing to add.
    pub fn append(&mut self, listing: Listing) -> Option<usize> {
        let known: HashSet<_> = self.sources.iter().map(|s| s.path.clone()).collect();
        let places: HashSet<_> = known.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let is_known = |s: &Source| {
            known.contains(&s.path) || fs::canonicalize(&s.path).is_ok_and(|place| places.contains(&place))
        };
        let first = self.sources.len();
        self.sources.extend(listing.sources.into_iter().filter(|s| !is_known(s)));
        self.unreadable.extend(listing.unreadable);
        self.left_out = listing.left_out;
        if self.sources.len() == first {
            return None;
        }
        self.appended += 1;
        Some(first)
    }

    /// True if the inputs were listed as the first version did.
    pub fn is_of_first_version(&self) -> bool {
        self.format < FORMAT
    }

    /// Reads the plan of a folder, if it has one.
    pub fn load(out: &Path) -> Result<Option<Self>> {
        let path = out.join(PLAN_FILE);
        let Some(plan) = disk::read_json(&path)? else { return Ok(None) };
        plan.map(Some).map_err(|e| {
            let reason =
                format!("{}: not a plan that this version reads ({e}); start anew with ", path.display());
            Error::Occupied(Message::from(reason).option(OVERWRITE))
        })
    }

    /// Writes the plan, durably.
    pub fn save(&self, out: &Path, tag: &str) -> Result<()> {
        let path = out.join(PLAN_FILE);
        let mut json = serde_json::to_vec(self).map_err(|e| Error::io(&path)(e.into()))?;
        json.push(b'\n');
        disk::write_whole(&path, &temporary(out, tag, PLAN_FILE), &json)
    }

    /// Hash of everything that determines a task's shards: the configuration, its spans, and the state of
    /// their files.
    pub fn task_hash(&self, task: usize) -> String {
        let spans: Vec<_> = self.tasks[task].spans.iter().map(|s| (s, &self.sources[s.source])).collect();
        hash_json(&(self.config.hash(), task, spans))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.sources.iter().map(|source| source.bytes).sum()
    }

    /// The differences between this plan and a run with `config` on `listing`, one phrase each.
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
        // Appended files come last, wherever their names would sort.
        if found.is_empty() && self.appended == 0 && !same_order() {
            found.push("the order of the inputs".into());
        }
        found
    }

    /// The same for a run that appends: new and missing inputs do not count as differences.
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
