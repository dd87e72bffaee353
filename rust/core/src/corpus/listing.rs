//! What the inputs expand to: the files to read, and what was left out.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::source::Source;

/// Kinds counted one by one; further kinds are counted together as `others`.
const MOST_KINDS: usize = 20;

/// A file or folder that cannot be accessed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its path.
    pub path: PathBuf,
    /// What the operating system says.
    pub reason: String,
}

/// What the inputs expand to.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The files, in document order.
    pub sources: Vec<Source>,
    /// What was skipped, where skipping was asked for.
    pub unreadable: Vec<Unreadable>,
    /// What folders and patterns contain that is not read.
    pub left_out: LeftOut,
}

/// What folders and patterns contain that is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Files of kinds that are not read, by the extensions of their names. Also folders that a pattern
    /// matches, and pipes and devices.
    pub other_kinds: BTreeMap<String, u64>,
    /// Hidden files and folders: names that start with a dot, and `__MACOSX`.
    pub hidden: u64,
    /// Files given more than once, under any path; each is read once.
    pub repeated: u64,
    /// Files that describe a folder of `datasets` or of Zhuzi.
    pub records_of_tools: u64,
}

impl LeftOut {
    /// True if nothing was left out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Counts a file, or something else, of a kind that is not read.
    pub fn add_kind(&mut self, label: &str) {
        let room = self.other_kinds.len() < MOST_KINDS || self.other_kinds.contains_key(label);
        *self.other_kinds.entry(if room { label } else { "others" }.into()).or_default() += 1;
    }

    /// What was added since it was `before`.
    pub fn since(&self, before: &Self) -> Self {
        let mut other_kinds = self.other_kinds.clone();
        for (label, count) in &before.other_kinds {
            *other_kinds.entry(label.clone()).or_default() -= count;
        }
        other_kinds.retain(|_, count| *count > 0);
        Self {
            other_kinds,
            hidden: self.hidden - before.hidden,
            repeated: self.repeated - before.repeated,
            records_of_tools: self.records_of_tools - before.records_of_tools,
        }
    }

    /// What was left out, one phrase each: `3 .csv`, `1 hidden`.
    pub fn describe(&self) -> Vec<String> {
        let mut kinds: Vec<_> = self.other_kinds.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut found: Vec<_> =
            kinds.iter().map(|(label, count)| format!("{count} {}", plural(label, **count))).collect();
        if self.hidden > 0 {
            found.push(format!("{} hidden", self.hidden));
        }
        if self.records_of_tools > 0 {
            found.push(format!("{} that describe datasets or corpora", self.records_of_tools));
        }
        found
    }
}

/// The label of a folder where a file is expected.
pub const FOLDER: &str = "folder";
/// The label of what is neither file nor folder.
pub const SPECIAL: &str = "pipe or device";

fn plural(label: &str, count: u64) -> &str {
    match label {
        FOLDER if count != 1 => "folders",
        SPECIAL if count != 1 => "pipes or devices",
        _ => label,
    }
}
