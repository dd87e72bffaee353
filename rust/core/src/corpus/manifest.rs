//! `manifest.json`: what an encoded corpus holds, where it came from and what it was made with.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    commit::Commit,
    folder::MANIFEST_FILE,
    options::{EncodeOptions, TokenizerEntry, hash_json},
    plan::Plan,
};
use crate::{Error, Result};

/// An encoded corpus. The same inputs, options and tokenizer give the same bytes, whoever ran it how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// The version of zhuzi that wrote the shards.
    pub version: String,
    /// What the text was encoded with.
    pub tokenizer: TokenizerEntry,
    /// The numpy name of a stored token.
    pub dtype: String,
    /// True if the begin-of-sequence id stands before each document.
    pub bos: bool,
    /// True if the end-of-sequence id follows each document.
    pub eos: bool,
    /// All options.
    pub options: EncodeOptions,
    /// SHA-256 over options, tokenizer and version.
    pub configuration: String,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// The shards, in document order.
    pub shards: Vec<ShardEntry>,
    /// The files it came from, in document order.
    pub sources: Vec<SourceEntry>,
    /// SHA-256 over all of the above.
    pub checksum: String,
}

/// What was counted, in a task or in a whole corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Documents written.
    pub documents: u64,
    /// Tokens written, begin- and end-of-sequence ids included.
    pub tokens: u64,
    /// Characters (code points) of the documents written.
    pub characters: u64,
    /// UTF-8 bytes of the documents written.
    pub text_bytes: u64,
    /// Unpacked bytes of input.
    pub input_bytes: u64,
    /// Documents without characters, left out.
    pub empty_documents: u64,
    /// Documents below the minimum length, left out.
    pub short_documents: u64,
    /// Documents above the maximum length, left out.
    pub long_documents: u64,
    /// Documents with too small a share of Han, left out.
    pub foreign_documents: u64,
    /// Documents outside the sample, left out.
    pub unsampled_documents: u64,
    /// Documents equal to an earlier one, left out.
    pub duplicate_documents: u64,
    /// Records that could not be read, left out.
    pub bad_records: u64,
}

impl Counts {
    /// Adds those of another part.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.characters += other.characters;
        self.text_bytes += other.text_bytes;
        self.input_bytes += other.input_bytes;
        self.empty_documents += other.empty_documents;
        self.short_documents += other.short_documents;
        self.long_documents += other.long_documents;
        self.foreign_documents += other.foreign_documents;
        self.unsampled_documents += other.unsampled_documents;
        self.duplicate_documents += other.duplicate_documents;
        self.bad_records += other.bad_records;
    }
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its files' name without the ending.
    pub name: String,
    /// Documents (= sequences).
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of the `.bin` file.
    pub bytes: u64,
    /// SHA-256 of the `.bin` file.
    pub sha256: String,
    /// SHA-256 of the `.idx` file.
    pub index_sha256: String,
    /// Where its documents came from, in their order.
    pub inputs: Vec<InputRange>,
}

/// Documents that follow each other in one file and in one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRange {
    /// Number of the file in `sources`.
    pub source: usize,
    /// Where they start: bytes of the unpacked file, or rows of a parquet file.
    pub start: u64,
    /// Where they end.
    pub end: u64,
    /// How many they are.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their characters.
    pub characters: u64,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceEntry {
    /// As it was named.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

impl Manifest {
    /// Joins what the tasks of a plan have committed.
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
    /// [`Error::Damaged`] if it is none, or does not have its own checksum.
    pub fn load(out: &Path) -> Result<Option<Self>> {
        let path = out.join(MANIFEST_FILE);
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let manifest: Self = serde_json::from_slice(&json)
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

    /// True if it seals this plan (and not one that files were appended to since).
    pub fn seals(&self, plan: &Plan) -> bool {
        self.configuration == plan.config.hash() && self.sources == sources_of(plan)
    }
}

fn sources_of(plan: &Plan) -> Vec<SourceEntry> {
    let entry = |s: &super::input::Source| SourceEntry { path: s.path.display().to_string(), bytes: s.bytes };
    plan.sources.iter().map(entry).collect()
}
