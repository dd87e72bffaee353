//! The configuration in a plan. With the inputs it determines the bytes of the shards.

use serde::{Deserialize, Serialize};

use super::{digest::hash_json, width::TokenWidth};
use crate::{
    Error, Result, Tokenizer,
    corpus::options::EncodeOptions,
    message::{BOS, Message, NO_EOS},
};

/// The first version of this package that writes the same bytes. A corpus goes on only with a version that does; so this is
/// raised with the first one that writes others, and not before.
const VERSION: &str = "0.1.0";

/// The identity of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// SHA-256 of model file and added tokens.
    pub fingerprint: String,
    /// Number of ids, added tokens included.
    pub vocab_size: u64,
}

/// Options, tokenizer and version: with the inputs, everything that the shards depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The first version of this package that writes the same bytes.
    pub version: String,
    /// What the text is encoded with.
    pub tokenizer: TokenizerEntry,
    /// The numpy name of a stored token.
    pub dtype: String,
    /// The options.
    pub options: EncodeOptions,
}

impl Config {
    /// The configuration of a run with this package.
    ///
    /// # Errors
    /// [`Error::Argument`] if an option needs a special token that the model lacks.
    pub fn new(tokenizer: &Tokenizer, fingerprint: String, options: EncodeOptions) -> Result<Self> {
        let ids = tokenizer.special_ids();
        if options.eos && ids.eos.is_none() {
            return Err(Error::Argument(
                Message::from("the model has no end-of-sequence piece; use ").option(NO_EOS),
            ));
        }
        if options.bos && ids.bos.is_none() {
            return Err(Error::Argument(
                Message::from("the model has no begin-of-sequence piece; leave out ").option(BOS),
            ));
        }
        let vocab_size = tokenizer.vocab_size();
        Ok(Self {
            version: VERSION.into(),
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

    /// The differences from `other`, one phrase each: `the option eos (true, it was false)`.
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
