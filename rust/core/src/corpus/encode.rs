//! Files to shards: one thread reads blocks, the others encode them, the caller's thread writes in order.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    blocks::{Block, Blocks},
    input::Source,
    manifest::{MANIFEST_FILE, Manifest, ShardEntry, SourceEntry, TokenizerEntry},
    record::for_each_document,
    shard::{ShardWriter, TokenWidth},
};
use crate::{Error, Result, Tokenizer, tokenizer::Scratch};

/// What `encode_corpus` may be told.
#[derive(Clone, Debug)]
pub struct EncodeOptions {
    /// The jsonl field that holds the text.
    pub field: String,
    /// Put the end-of-sequence id behind each document.
    pub eos: bool,
    /// Threads that encode.
    pub threads: usize,
    /// Input bytes after which a shard ends (at the next block).
    pub shard_bytes: u64,
    /// The tokenizer's fingerprint, for the manifest.
    pub fingerprint: String,
}

/// How far the work is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Input bytes whose tokens are written.
    pub bytes: u64,
    /// Documents written.
    pub documents: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// Encodes `sources` into shards and a manifest in the empty folder `out`.
///
/// `progress` is called after each block; it stops the work by returning false. Memory: each thread holds a
/// block or two (4 MB, or one longer line, and its tokens), whatever the size of the corpus.
///
/// # Errors
/// The first bad record in document order ([`Error::Record`]), whatever the number of threads; what the
/// system refuses; [`Error::Argument`] if there is no document at all.
pub fn encode_corpus(
    tokenizer: &Tokenizer,
    sources: &[Source],
    out: &Path,
    options: &EncodeOptions,
    mut progress: impl FnMut(Progress) -> bool,
) -> Result<Manifest> {
    let eos = match (options.eos, tokenizer.special_ids().eos) {
        (true, None) => {
            return Err(Error::Argument("the model has no end-of-sequence piece; use --no-eos".into()));
        }
        (wanted, eos) => eos.filter(|_| wanted),
    };
    let threads = options.threads.max(1);
    let mut writer =
        CorpusWriter::new(out, TokenWidth::for_vocab(tokenizer.vocab_size()), options.shard_bytes);

    // A block in work holds a permit from its reading to its writing, which bounds what waits for a slow one.
    let in_flight = 2 * threads + 2;
    let (permit_back, permits) = bounded(in_flight);
    for _ in 0..in_flight {
        let _ = permit_back.send(());
    }
    let (to_encode, blocks) = bounded::<(u64, Result<Block>)>(in_flight);
    let (to_write, encoded) = bounded::<(u64, Result<EncodedBlock>)>(in_flight);

    thread::scope(|scope| {
        scope.spawn(move || read_all(sources, &permits, &to_encode));
        for _ in 0..threads {
            let (blocks, to_write) = (blocks.clone(), to_write.clone());
            scope.spawn(move || encode_all(tokenizer, eos, &options.field, &blocks, &to_write));
        }
        drop((blocks, to_write));

        // Owned here, so that leaving early drops them: that is what ends the other threads.
        let (encoded, permit_back) = (encoded, permit_back);
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for (number, block) in &encoded {
            waiting.insert(number, block);
            while let Some(block) = waiting.remove(&next) {
                writer.write(&block?)?;
                next += 1;
                let _ = permit_back.send(());
                if !progress(writer.progress) {
                    return Err(Error::Stopped);
                }
            }
        }
        Ok(())
    })?;

    writer.finish(tokenizer, sources, options)
}

fn read_all(sources: &[Source], permits: &Receiver<()>, to_encode: &Sender<(u64, Result<Block>)>) {
    let mut number = 0;
    let mut has_permit = false;
    for source in sources {
        let mut blocks = match Blocks::open(Arc::new(source.clone())) {
            Ok(blocks) => blocks,
            Err(e) => return drop(to_encode.send((number, Err(e)))),
        };
        loop {
            if !has_permit && permits.recv().is_err() {
                return;
            }
            has_permit = true;
            let Some(block) = blocks.next_block().transpose() else { break };
            has_permit = false;
            let failed = block.is_err();
            if to_encode.send((number, block)).is_err() || failed {
                return;
            }
            number += 1;
        }
    }
}

/// The documents of one block.
struct EncodedBlock {
    tokens: Vec<u32>,
    lengths: Vec<u32>,
    empty_documents: u64,
    characters: u64,
    text_bytes: u64,
    input_bytes: u64,
}

fn encode_all(
    tokenizer: &Tokenizer,
    eos: Option<u32>,
    field: &str,
    blocks: &Receiver<(u64, Result<Block>)>,
    to_write: &Sender<(u64, Result<EncodedBlock>)>,
) {
    let mut scratch = Scratch::default();
    for (number, block) in blocks {
        let encoded = block.and_then(|block| encode_block(tokenizer, eos, field, &block, &mut scratch));
        if to_write.send((number, encoded)).is_err() {
            return;
        }
    }
}

fn encode_block(
    tokenizer: &Tokenizer,
    eos: Option<u32>,
    field: &str,
    block: &Block,
    scratch: &mut Scratch,
) -> Result<EncodedBlock> {
    let mut done = EncodedBlock {
        tokens: Vec::with_capacity(block.bytes.len() / 3),
        lengths: Vec::new(),
        empty_documents: 0,
        characters: 0,
        text_bytes: 0,
        input_bytes: block.bytes.len() as u64,
    };
    for_each_document(block, field, |text| {
        if text.is_empty() {
            done.empty_documents += 1;
            return;
        }
        let start = done.tokens.len();
        tokenizer.encode_into(text.as_bytes(), scratch, &mut done.tokens);
        done.tokens.extend(eos);
        done.lengths.push((done.tokens.len() - start) as u32);
        done.characters += text.chars().count() as u64;
        done.text_bytes += text.len() as u64;
    })?;
    Ok(done)
}

/// Writes blocks in order and starts a new shard when one is full.
struct CorpusWriter<'a> {
    out: &'a Path,
    width: TokenWidth,
    shard_bytes: u64,
    shard: Option<ShardWriter>,
    shard_input: u64,
    shards: Vec<ShardEntry>,
    progress: Progress,
    empty_documents: u64,
    characters: u64,
    text_bytes: u64,
}

impl<'a> CorpusWriter<'a> {
    fn new(out: &'a Path, width: TokenWidth, shard_bytes: u64) -> Self {
        Self {
            out,
            width,
            shard_bytes: shard_bytes.max(1),
            shard: None,
            shard_input: 0,
            shards: Vec::new(),
            progress: Progress::default(),
            empty_documents: 0,
            characters: 0,
            text_bytes: 0,
        }
    }

    fn write(&mut self, block: &EncodedBlock) -> Result<()> {
        self.progress.bytes += block.input_bytes;
        self.progress.documents += block.lengths.len() as u64;
        self.progress.tokens += block.tokens.len() as u64;
        self.empty_documents += block.empty_documents;
        self.characters += block.characters;
        self.text_bytes += block.text_bytes;
        if block.lengths.is_empty() {
            return Ok(());
        }
        let shard = match &mut self.shard {
            Some(shard) => shard,
            empty => {
                let name = format!("shard-{:05}", self.shards.len());
                empty.insert(ShardWriter::create(self.out, name, self.width)?)
            }
        };
        shard.push(&block.tokens, &block.lengths)?;
        self.shard_input += block.input_bytes;
        if self.shard_input >= self.shard_bytes {
            self.finish_shard()?;
        }
        Ok(())
    }

    fn finish_shard(&mut self) -> Result<()> {
        if let Some(shard) = self.shard.take() {
            self.shards.push(shard.finish()?);
            self.shard_input = 0;
        }
        Ok(())
    }

    fn finish(
        mut self,
        tokenizer: &Tokenizer,
        sources: &[Source],
        options: &EncodeOptions,
    ) -> Result<Manifest> {
        self.finish_shard()?;
        if self.shards.is_empty() {
            let empty = self.empty_documents;
            return Err(Error::Argument(format!(
                "the input holds no document with characters ({empty} empty ones); nothing was written"
            )));
        }
        let source = |s: &Source| SourceEntry { path: s.path.display().to_string(), bytes: s.bytes };
        let manifest = Manifest {
            format: 1,
            tokenizer: TokenizerEntry {
                fingerprint: options.fingerprint.clone(),
                vocab_size: tokenizer.vocab_size() as u64,
            },
            dtype: self.width.name().into(),
            eos: options.eos,
            documents: self.progress.documents,
            empty_documents: self.empty_documents,
            tokens: self.progress.tokens,
            characters: self.characters,
            text_bytes: self.text_bytes,
            shards: self.shards,
            sources: sources.iter().map(source).collect(),
        };
        let path = self.out.join(MANIFEST_FILE);
        let mut json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::io(&path)(e.into()))?;
        json.push(b'\n');
        fs::write(&path, json).map_err(Error::io(&path))?;
        Ok(manifest)
    }
}
