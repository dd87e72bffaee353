//! Where in its file a document of a corpus begins.
//!
//! The manifest has the range of the file and how many documents came from it. The range is read again, with
//! the same options, up to the document. So nothing has to be stored per document for a question that is
//! rarely asked.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use crate::{
    Error, Result,
    corpus::{
        read::{
            block::{Block, BlockContent, Stop},
            blocks::Blocks,
            cut::starts_array,
            documents::{DocumentReader, Documents, Fate},
        },
        source::Format,
        store::{
            folder::{hashes_path, task_of},
            manifest::Manifest,
            plan::Plan,
            records::InputRange,
        },
    },
};

/// Where a document begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub path: PathBuf,
    /// Bytes of the unpacked file before its record, or rows of a parquet or Arrow file.
    pub offset: u64,
    /// The line, from 1, in which its record starts; `None` for a row.
    pub line: Option<u64>,
}

/// A document among those of a range of a file.
struct Wanted<'m> {
    range: &'m InputRange,
    task: usize,
    /// Documents of the range, and of the whole task, before it.
    in_range: u64,
    in_task: u64,
}

/// Where document `number` (from 0) of the corpus in `out` came from. `progress` gets the number of unpacked
/// bytes read so far; returning false stops.
///
/// # Errors
/// [`Error::Argument`] if the corpus has no such document; [`Error::Damaged`] if the plan is missing, or the
/// input has changed or was a pipe; [`Error::Io`] if the input is missing; [`Error::Stopped`].
pub fn locate(out: &Path, number: u64, mut progress: impl FnMut(u64) -> bool) -> Result<Location> {
    let refuse = |reason: &str| Error::Damaged { path: out.into(), reason: reason.into() };
    let manifest = Manifest::load(out)?.ok_or_else(|| refuse("holds no finished corpus"))?;
    let wanted = find(&manifest, number).ok_or_else(|| {
        let all = manifest.counts.documents;
        Error::Argument(format!("{}: there is no document {number} of {all}", out.display()).into())
    })?;
    let plan = Plan::load(out)?
        .filter(|plan| wanted.task < plan.tasks.len() && wanted.range.source < plan.sources.len())
        .ok_or_else(|| refuse("its plan, which says how the input was read, is not there"))?;
    let source = Arc::new(plan.sources[wanted.range.source].clone());
    if source.is_stdin() {
        return Err(refuse("it came from standard input, which cannot be read again"));
    }
    let options = &plan.config.options;
    let hash = if options.dedup { Some(kept_hash(out, &wanted)?) } else { None };
    let mut reader = DocumentReader::new(options);
    let mut found = Documents::default();
    let mut left = wanted.in_range;
    let spans = plan.tasks[wanted.task].spans.iter().filter(|span| span.source == wanted.range.source);
    for &(mut span) in spans {
        let is_array = span.start == 0
            && span.end == source.bytes
            && source.format == Format::Jsonl
            && starts_array(&source.path)?;
        if source.is_cuttable() && source.format != Format::Parquet && !is_array {
            span.start = span.start.max(wanted.range.start);
        }
        let stop = Stop::Flag(Arc::new(AtomicBool::new(false)));
        let mut blocks = Blocks::open(source.clone(), span, options, stop)?;
        let first = span.start;
        while let Some(block) = blocks.next_block()? {
            if block.end > wanted.range.start {
                reader.read(&block, &mut found);
                let mut hashes = found.hashes.iter();
                for record in found.records.iter().filter(|record| record.fate == Fate::Kept) {
                    // Of equal documents the first was kept. Only the hash tells a kept document from others.
                    if hash.is_some_and(|hash| hashes.next() != Some(&hash)) {
                        continue;
                    }
                    if hash.is_some() || left == 0 {
                        return Ok(location(&block, record.offset));
                    }
                    left -= 1;
                }
            }
            if !progress(block.end.saturating_sub(first)) {
                return Err(Error::Stopped);
            }
        }
    }
    Err(Error::Damaged {
        path: source.path.clone(),
        reason: format!("does not hold the document that {} has of it; encode it again", out.display())
            .into(),
    })
}

fn find(manifest: &Manifest, number: u64) -> Option<Wanted<'_>> {
    let (mut before, mut task, mut task_start) = (0, None, 0);
    for shard in &manifest.shards {
        let this = task_of(&shard.name)?;
        if task != Some(this) {
            (task, task_start) = (Some(this), before);
        }
        for range in &shard.inputs {
            if number < before + range.documents {
                let (in_range, in_task) = (number - before, number - task_start);
                return Some(Wanted { range, task: this, in_range, in_task });
            }
            before += range.documents;
        }
    }
    None
}

/// With deduplication, the hash of the document, as its task recorded it.
fn kept_hash(out: &Path, wanted: &Wanted<'_>) -> Result<u128> {
    let path = hashes_path(out, wanted.task);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let hash = usize::try_from(wanted.in_task).ok().and_then(|at| bytes.as_chunks::<16>().0.get(at));
    hash.map(|hash| u128::from_le_bytes(*hash)).ok_or_else(|| Error::Damaged {
        path,
        reason: "ends too early: it was cut off; encode the corpus again".into(),
    })
}

fn location(block: &Block, offset: u64) -> Location {
    let line = match &block.content {
        _ if block.origin.source.format.has_rows() => None,
        BlockContent::Text(bytes) | BlockContent::Elements(bytes, _) => {
            let before = &bytes[..(offset - block.offset) as usize];
            Some(block.origin.line(block.line + memchr::memchr_iter(b'\n', before).count() as u64))
        }
        _ => Some(block.origin.line(block.line)),
    };
    Location { path: block.origin.source.path.clone(), offset, line }
}
