//! What decides which bytes come out: all of it is in the configuration hash of a plan.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{input::Format, shard::TokenWidth};
use crate::{Error, Result, Tokenizer};

/// What one document of a text file is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// A line.
    #[default]
    Line,
    /// Lines up to one that holds nothing but white space.
    BlankLine,
    /// What lies between two of these strings.
    Separator(String),
    /// The whole file.
    File,
}

/// What may be told about the documents and how they are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeOptions {
    /// The jsonl fields or parquet columns that hold the text; several are joined by a newline.
    pub fields: Vec<String>,
    /// How `.txt` files part into documents.
    pub split: Split,
    /// What comes through standard input.
    pub stdin: Format,
    /// Put the begin-of-sequence id before each document.
    pub bos: bool,
    /// Put the end-of-sequence id behind each document.
    pub eos: bool,
    /// Make full-width letters and digits plain ones.
    pub fold_fullwidth: bool,
    /// Remove control characters and spare white space.
    pub clean: bool,
    /// Code points that a document has at least, after folding and cleaning.
    pub min_chars: Option<u64>,
    /// Code points that a document has at most, after folding and cleaning.
    pub max_chars: Option<u64>,
    /// Share of Han among the characters that are no white space, at least.
    pub min_han: Option<f64>,
    /// Share of the documents to keep; a hash of the document decides.
    pub sample: Option<f64>,
    /// Keep only the first of equal documents.
    pub dedup: bool,
    /// Keep this many documents at most.
    pub limit: Option<u64>,
    /// A longer record is a bad one.
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
    /// Refuses values that no run can have.
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
                return refuse(&format!("{name} must be between 0 and 1, not {share}"));
            }
        }
        for (name, bytes) in [("max_record_bytes", self.max_record_bytes), ("shard_bytes", self.shard_bytes)]
        {
            if bytes == 0 {
                return refuse(&format!("{name} must be at least 1"));
            }
        }
        if let (Some(min), Some(max)) = (self.min_chars, self.max_chars)
            && min > max
        {
            return refuse("the minimum length is above the maximum: no document would be left");
        }
        Ok(())
    }

    /// True if what becomes of a document depends on those before it.
    pub fn needs_order(&self) -> bool {
        self.dedup || self.limit.is_some()
    }
}

/// A tokenizer, by what makes it that one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// SHA-256 over model file and added tokens.
    pub fingerprint: String,
    /// Number of ids, added tokens included.
    pub vocab_size: u64,
}

/// Options, tokenizer and package: with the inputs, all that the shards depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Version of this package.
    pub version: String,
    /// What the text is encoded with.
    pub tokenizer: TokenizerEntry,
    /// The numpy name of a stored token.
    pub dtype: String,
    /// The options.
    pub options: EncodeOptions,
}

impl Config {
    /// Joins them.
    ///
    /// # Errors
    /// [`Error::Argument`] where an option asks for a piece that the model lacks.
    pub fn new(tokenizer: &Tokenizer, fingerprint: String, options: EncodeOptions) -> Result<Self> {
        let ids = tokenizer.special_ids();
        if options.eos && ids.eos.is_none() {
            return Err(Error::Argument("the model has no end-of-sequence piece; use --no-eos".into()));
        }
        if options.bos && ids.bos.is_none() {
            return Err(Error::Argument("the model has no begin-of-sequence piece; leave out --bos".into()));
        }
        let vocab_size = tokenizer.vocab_size();
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            tokenizer: TokenizerEntry { fingerprint, vocab_size: vocab_size as u64 },
            dtype: TokenWidth::for_vocab(vocab_size).name().into(),
            options,
        })
    }

    /// How a token is stored.
    pub fn width(&self) -> TokenWidth {
        TokenWidth::for_vocab(self.tokenizer.vocab_size as usize)
    }

    /// SHA-256 (hex) of the whole.
    pub fn hash(&self) -> String {
        hash_json(self)
    }

    /// What differs from `other`, one phrase each: `the tokenizer`, `--eos (true, it was false)`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.tokenizer != other.tokenizer {
            let (new, old) = (self.tokenizer.vocab_size, other.tokenizer.vocab_size);
            found.push(format!("the tokenizer ({new} ids, it was one of {old})"));
        }
        if self.version != other.version {
            found.push(format!("the version of zhuzi ({}, it was {})", self.version, other.version));
        }
        let fields = |config: &Self| match serde_json::to_value(&config.options) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        let old = fields(other);
        for (key, value) in fields(self) {
            let was = old.get(&key).unwrap_or(&serde_json::Value::Null);
            if *was != value {
                found.push(format!("the option {} ({value}, it was {was})", key.replace('_', "-")));
            }
        }
        found
    }
}

/// SHA-256 (hex) of a value's JSON.
pub fn hash_json(value: &impl Serialize) -> String {
    // Serialising our own plain structs into memory cannot fail; an empty text would only never match.
    hex(&Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
