//! The options that determine the output bytes. All of them are in the configuration hash of a plan.

use serde::{Deserialize, Serialize};

use super::source::Format;
use crate::{
    Error, Result,
    message::{Message, option},
};

/// What one document of a text file is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// A line.
    #[default]
    Line,
    /// Lines up to one that contains only white space.
    BlankLine,
    /// The text between two of these strings.
    Separator(String),
    /// The whole file.
    File,
}

/// How documents are read, selected and stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeOptions {
    /// The jsonl fields or parquet columns that hold the text; several are joined by a newline.
    pub fields: Vec<String>,
    /// How `.txt` files are split into documents.
    pub split: Split,
    /// The format of standard input.
    pub stdin: Format,
    /// Put the begin-of-sequence id before each document.
    pub bos: bool,
    /// Put the end-of-sequence id after each document.
    pub eos: bool,
    /// Replace full-width letters and digits by ASCII ones.
    pub fold_fullwidth: bool,
    /// Remove control characters and superfluous white space.
    pub clean: bool,
    /// Minimum number of code points per document, after folding and cleaning.
    pub min_chars: Option<u64>,
    /// Maximum number of code points per document, after folding and cleaning.
    pub max_chars: Option<u64>,
    /// Minimum share of Han among the characters other than white space.
    pub min_han: Option<f64>,
    /// Share of the documents to keep; a hash of the document decides.
    pub sample: Option<f64>,
    /// Keep only the first of equal documents.
    pub dedup: bool,
    /// Keep at most this many documents.
    pub limit: Option<u64>,
    /// A longer record counts as bad.
    pub max_record_bytes: u64,
    /// Input bytes (unpacked) after which a shard ends.
    pub shard_bytes: u64,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            fields: vec!["text".into()],
            split: Split::Line,
            stdin: Format::Jsonl,
            bos: false,
            eos: true,
            fold_fullwidth: false,
            clean: false,
            min_chars: None,
            max_chars: None,
            min_han: None,
            sample: None,
            dedup: false,
            limit: None,
            max_record_bytes: 64 << 20,
            shard_bytes: 512 << 20,
        }
    }
}

impl EncodeOptions {
    /// Checks that the values are valid.
    ///
    /// # Errors
    /// [`Error::Argument`] names the option.
    pub fn check(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Argument(reason.into()));
        if self.fields.is_empty() || self.fields.iter().any(String::is_empty) {
            return refuse("name at least one field that holds the text");
        }
        if self.split == Split::Separator(String::new()) {
            return refuse("an empty separator parts nothing; give the text that stands between documents");
        }
        if self.stdin == Format::Parquet {
            return refuse("parquet cannot be read from a pipe; give the file");
        }
        for (name, share) in [("min_han", self.min_han), ("sample", self.sample)] {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                let reason = format!(" must be between 0 and 1, not {share}");
                return Err(Error::Argument(Message::from(option(name)).text(reason)));
            }
        }
        for (name, bytes) in [("max_record_bytes", self.max_record_bytes), ("shard_bytes", self.shard_bytes)]
        {
            if bytes == 0 {
                return Err(Error::Argument(Message::from(option(name)).text(" must be at least 1")));
            }
        }
        if let (Some(min), Some(max)) = (self.min_chars, self.max_chars)
            && min > max
        {
            return refuse("the minimum length is above the maximum: no document would be left");
        }
        Ok(())
    }

    /// True if whether a document is kept depends on the documents before it.
    pub fn needs_order(&self) -> bool {
        self.dedup || self.limit.is_some()
    }
}
