//! `manifest.json`: what an encoded corpus contains, where it came from and what it was encoded with.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    config::TokenizerEntry,
    digest::hash_json,
    disk,
    folder::MANIFEST_FILE,
    plan::Plan,
    records::{Commit, Counts, ShardEntry, SourceEntry},
};
use crate::{
    Error, Result,
    corpus::{options::EncodeOptions, source::Source},
};

/// An encoded corpus. The same inputs, options and tokenizer always give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// The first version of zhuzi that writes the same shards as the one that wrote them.
    pub version: String,
    /// What the text was encoded with.
    pub tokenizer: TokenizerEntry,
    /// The numpy name of a stored token.
    pub dtype: String,
    /// True if the begin-of-sequence id precedes each document.
    pub bos: bool,
    /// True if the end-of-sequence id follows each document.
    pub eos: bool,
    /// All options.
    pub options: EncodeOptions,
    /// SHA-256 of options, tokenizer and version.
    pub configuration: String,
    /// Totals.
    #[serde(flatten)]
    pub counts: Counts,
    /// The shards, in document order.
    pub shards: Vec<ShardEntry>,
    /// The files it came from, in document order.
    pub sources: Vec<SourceEntry>,
    /// SHA-256 of all of the above.
    pub checksum: String,
}

impl Manifest {
    /// The manifest of a plan's committed tasks.
    pub fn new(plan: &Plan, commits: impl Iterator<Item = Commit>) -> Self {
        let options = plan.config.options.clone();
        let (mut counts, mut shards) = (Counts::default(), Vec::new());
        for commit in commits {
            counts.add(&commit.counts);
            shards.extend(commit.shards);
        }
        counts.bad_records += plan.unreadable.len() as u64;
        let mut manifest = Self {
            format: 1,
            version: plan.config.version.clone(),
            tokenizer: plan.config.tokenizer.clone(),
            dtype: plan.config.dtype.clone(),
            bos: options.bos,
            eos: options.eos,
            options,
            configuration: plan.config.hash(),
            counts,
            shards,
            sources: sources_of(plan),
            checksum: String::new(),
        };
        manifest.checksum = hash_json(&manifest);
        manifest
    }

    /// Reads the manifest of a folder, if it has one.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it cannot be parsed or its checksum is wrong.
    pub fn load(out: &Path) -> Result<Option<Self>> {
        let path = out.join(MANIFEST_FILE);
        let Some(manifest) = disk::read_json::<Self>(&path)? else { return Ok(None) };
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason: reason.into() };
        let manifest = manifest
            .map_err(|e| damaged(format!("no manifest of an encoded corpus ({e}); encode it again")))?;
        let unsigned = Self { checksum: String::new(), ..manifest.clone() };
        if hash_json(&unsigned) != manifest.checksum {
            return Err(damaged(
                "it does not have its own checksum: changed or damaged; encode it again".into(),
            ));
        }
        Ok(Some(manifest))
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|e| Error::io(MANIFEST_FILE)(e.into()))?;
        json.push(b'\n');
        Ok(json)
    }

    /// True if it belongs to this plan, and not to the plan before files were appended.
    pub fn seals(&self, plan: &Plan) -> bool {
        self.configuration == plan.config.hash() && self.sources == sources_of(plan)
    }
}

fn sources_of(plan: &Plan) -> Vec<SourceEntry> {
    let entry = |s: &Source| SourceEntry { path: s.path.display().to_string(), bytes: s.bytes };
    plan.sources.iter().map(entry).collect()
}
