//! Merges the shards of a corpus into one pair of files.

use std::path::Path;

use crate::{
    Error, Result,
    corpus::store::{
        digest::{HashedFile, HashedReader, damaged},
        disk,
        index::{read_header, read_lengths, write_index_header},
        manifest::Manifest,
        width::TokenWidth,
    },
};

/// Writes `<prefix>.bin` and `<prefix>.idx` with the documents of all shards in order, and verifies
/// checksums.
///
/// Both files appear complete or not at all, the index last. `progress` gets the number of bytes written to
/// the first; returning false stops. Memory does not grow with the corpus.
///
/// # Errors
/// [`Error::Occupied`] if one of the files exists (nothing is replaced here); [`Error::Damaged`] for a shard
/// that differs from the manifest; [`Error::Argument`] if there is no manifest; [`Error::Stopped`].
pub fn merge_shards(corpus: &Path, prefix: &Path, progress: impl FnMut(u64) -> bool) -> Result<Manifest> {
    let Some(manifest) = Manifest::load(corpus)? else {
        let corpus = corpus.display();
        let reason =
            format!("{corpus}: holds no manifest.json; name the folder that `zhuzi corpus encode` wrote");
        return Err(Error::Argument(reason.into()));
    };
    let beside = |ending: &str| {
        let mut name = prefix.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        prefix.with_file_name(name)
    };
    let (bin, idx) = (beside(".bin"), beside(".idx"));
    if let Some(taken) = [&bin, &idx].into_iter().find(|path| path.exists()) {
        let taken = taken.display();
        return Err(Error::Occupied(format!("{taken}: already there; choose another name").into()));
    }
    let temporary = [beside(".bin.partial"), beside(".idx.partial")];
    let written = write(corpus, &manifest, &temporary, progress);
    let published = written.and_then(|()| {
        // The index last: whoever finds it also finds its tokens.
        disk::rename(&temporary[0], &bin)?;
        disk::rename(&temporary[1], &idx)?;
        let folder = bin.parent().filter(|folder| !folder.as_os_str().is_empty());
        disk::sync_folder(folder.unwrap_or(Path::new(".")))
    });
    if published.is_err() {
        for path in &temporary {
            let _ = disk::remove(path);
        }
    }
    published.map(|()| manifest)
}

fn write(
    corpus: &Path,
    manifest: &Manifest,
    [bin, idx]: &[std::path::PathBuf; 2],
    mut progress: impl FnMut(u64) -> bool,
) -> Result<()> {
    let mut out = HashedFile::create(bin.clone())?;
    let mut done = 0;
    for shard in &manifest.shards {
        let path = corpus.join(format!("{}.bin", shard.name));
        let mut file = HashedReader::open(&path)?;
        file.read(shard.bytes, |chunk| {
            out.write(chunk)?;
            done += chunk.len() as u64;
            if progress(done) { Ok(()) } else { Err(Error::Stopped) }
        })?;
        if file.finish()? != shard.sha256 {
            return Err(damaged(&path, "does not have the checksum in the manifest"));
        }
    }
    out.finish()?;

    let width = TokenWidth::for_vocab(manifest.tokenizer.vocab_size as usize);
    let mut out = HashedFile::create(idx.clone())?;
    write_index_header(&mut out, width, manifest.counts.documents)?;
    each_length(corpus, manifest, |length| out.write(&length.to_le_bytes()))?;
    let mut at = 0_i64;
    each_length(corpus, manifest, |length| {
        out.write(&at.to_le_bytes())?;
        at += i64::from(length) * width.bytes() as i64;
        Ok(())
    })?;
    for document in 0..=manifest.counts.documents {
        out.write(&document.to_le_bytes())?;
    }
    out.finish().map(drop)
}

fn each_length(corpus: &Path, manifest: &Manifest, mut each: impl FnMut(i32) -> Result<()>) -> Result<()> {
    for shard in &manifest.shards {
        let path = corpus.join(format!("{}.idx", shard.name));
        let mut file = HashedReader::open(&path)?;
        let (_, documents) = read_header(&mut file)?;
        if documents != shard.documents {
            return Err(damaged(&path, "does not hold as many documents as the manifest says"));
        }
        read_lengths(&mut file, documents, &mut each)?;
    }
    Ok(())
}
