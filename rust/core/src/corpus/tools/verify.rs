//! Checks every byte of every shard of a corpus against its manifest.

use std::path::Path;

use crate::{
    Error, Result,
    corpus::store::{
        digest::{HashedReader, damaged},
        folder::{self, MANIFEST_FILE},
        index::check_index,
        manifest::Manifest,
        records::{Counts, ShardEntry},
        width::TokenWidth,
    },
};

/// Everything that is wrong with the corpus in `out`, one phrase each; empty if it is intact.
///
/// Finds flipped bits, truncated or missing files, shards that the manifest does not name, ids outside the
/// vocabulary, and wrong totals. `progress` gets the number of bytes of `.bin` files read so far; returning
/// false stops.
///
/// # Errors
/// [`Error::Argument`] if there is no manifest; [`Error::Io`] if an existing file cannot be read;
/// [`Error::Stopped`].
pub fn verify(out: &Path, mut progress: impl FnMut(u64) -> bool) -> Result<Vec<String>> {
    let manifest = match Manifest::load(out) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            let out = out.display();
            let reason = format!(
                "{out}: holds no {MANIFEST_FILE}; it is no corpus, or its encoding did not finish: run the same \
                 command again"
            );
            return Err(Error::Argument(reason.into()));
        }
        Err(e @ Error::Damaged { .. }) => return Ok(vec![e.to_string()]),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    let mut done = 0;
    for shard in &manifest.shards {
        for check in [check_shard_index, check_shard_tokens] {
            match check(out, &manifest, shard, &mut done, &mut progress) {
                Ok(()) => {}
                Err(Error::Io { path, source }) if source.kind() == std::io::ErrorKind::NotFound => {
                    found.push(format!("{}: is missing; encode the corpus again", path.display()));
                }
                Err(e @ Error::Damaged { .. }) => found.push(e.to_string()),
                Err(e) => return Err(e),
            }
        }
    }
    let named = |stem: &str| manifest.shards.iter().any(|shard| shard.name == stem);
    for name in folder::names(out)? {
        let stem = name.strip_suffix(".bin").or_else(|| name.strip_suffix(".idx"));
        if stem.is_some_and(|stem| !named(stem)) && !folder::is_passing(&name) {
            let path = out.join(&name);
            found.push(format!("{}: a foreign shard, which the manifest does not name", path.display()));
        }
    }
    let mut counts = Counts::default();
    for shard in &manifest.shards {
        counts.documents += shard.documents;
        counts.tokens += shard.tokens;
    }
    if (counts.documents, counts.tokens) != (manifest.counts.documents, manifest.counts.tokens) {
        let path = out.join(MANIFEST_FILE);
        found.push(format!("{}: its totals are not those of its shards", path.display()));
    }
    Ok(found)
}

fn check_shard_index(
    out: &Path,
    manifest: &Manifest,
    shard: &ShardEntry,
    _: &mut u64,
    _: &mut impl FnMut(u64) -> bool,
) -> Result<()> {
    let path = out.join(format!("{}.idx", shard.name));
    let (width, documents, tokens, sha256) = check_index(&path)?;
    if (width.name(), documents, tokens) != (manifest.dtype.as_str(), shard.documents, shard.tokens) {
        let has = format!("holds {documents} documents and {tokens} tokens of {}", width.name());
        let (documents, tokens) = (shard.documents, shard.tokens);
        let wants = format!("the manifest says {documents}, {tokens} and {}", manifest.dtype);
        return Err(damaged(&path, &format!("{has}, {wants}")));
    }
    if sha256 != shard.index_sha256 {
        return Err(damaged(&path, "does not have the checksum in the manifest"));
    }
    Ok(())
}

fn check_shard_tokens(
    out: &Path,
    manifest: &Manifest,
    shard: &ShardEntry,
    done: &mut u64,
    progress: &mut impl FnMut(u64) -> bool,
) -> Result<()> {
    let path = out.join(format!("{}.bin", shard.name));
    let mut file = HashedReader::open(&path)?;
    let size = manifest.tokenizer.vocab_size;
    let width = TokenWidth::for_vocab(size as usize);
    let mut largest = 0_u64;
    file.read(shard.bytes, |chunk| {
        let most = match width {
            TokenWidth::U16 => chunk.as_chunks().0.iter().map(|b| u64::from(u16::from_le_bytes(*b))).max(),
            TokenWidth::I32 => chunk.as_chunks().0.iter().map(|b| u64::from(u32::from_le_bytes(*b))).max(),
        };
        largest = largest.max(most.unwrap_or(0));
        *done += chunk.len() as u64;
        if progress(*done) { Ok(()) } else { Err(Error::Stopped) }
    })?;
    if file.finish()? != shard.sha256 {
        return Err(damaged(&path, "does not have the checksum in the manifest: a bit has flipped"));
    }
    if largest >= size {
        return Err(damaged(&path, &format!("holds the id {largest}, outside the vocabulary of {size}")));
    }
    Ok(())
}
