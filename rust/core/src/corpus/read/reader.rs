//! Reads the same inputs for uses other than encoding: texts or records one after the other, in bounded
//! memory.

use std::{path::PathBuf, sync::Arc};

use super::{
    block::{Block, BlockContent, Reject, Stop},
    blocks::Blocks,
    documents::{
        DocumentReader, Documents, Fate, element_in, for_each_record, not_utf8, number_lines, too_long,
    },
    input::{ListingRules, list_sources},
    json::fields::check,
    parquet::row_groups,
};
use crate::{
    Result,
    corpus::{
        listing::Listing,
        options::EncodeOptions,
        source::{Format, Source, Span},
    },
    message::Message,
};

/// Totals of what was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadCounts {
    /// Bytes read from the files, before unpacking.
    pub bytes: u64,
    /// Texts or records returned.
    pub documents: u64,
    /// Code points of the texts.
    pub characters: u64,
    /// Documents without characters, left out.
    pub empty_documents: u64,
    /// Records that could not be read, left out.
    pub bad_records: u64,
}

/// Reads the files that inputs expand to, block by block.
pub struct InputReader {
    options: EncodeOptions,
    listing: Listing,
    skip_bad: bool,
    stop: Stop,
    next: usize,
    blocks: Option<Blocks>,
    counts: ReadCounts,
    found: Documents,
}

/// A record as JSON, and its number from 1: the line, the element of its array, or the row.
pub type Record = (String, u64);

/// The bytes of a record, or what is wrong with it.
type RecordBytes<'b> = std::result::Result<&'b [u8], Message>;

/// Some records of one file.
#[derive(Debug)]
pub struct Records {
    /// The file.
    pub path: PathBuf,
    /// What is numbered: `line`, `record` or `row`.
    pub unit: &'static str,
    /// The records.
    pub records: Vec<Record>,
}

impl InputReader {
    /// Lists the files. With `whole`, rows are read as whole records, not as texts. With `skip_bad`, what
    /// cannot be read is counted and skipped. Reading stops with [`crate::Error::Stopped`] once `stop` says
    /// so.
    ///
    /// # Errors
    /// As [`list_sources`].
    pub fn open(
        inputs: &[PathBuf],
        options: EncodeOptions,
        skip_bad: bool,
        whole: bool,
        stop: Stop,
    ) -> Result<Self> {
        let mut options = options;
        if whole {
            options.fields.clear();
        }
        let rules = ListingRules { stdin: options.stdin, skip: skip_bad, out: None, first_version: false };
        let listing = list_sources(inputs, rules)?;
        let counts = ReadCounts { bad_records: listing.unreadable.len() as u64, ..ReadCounts::default() };
        Ok(Self {
            options,
            listing,
            skip_bad,
            stop,
            next: 0,
            blocks: None,
            counts,
            found: Documents::default(),
        })
    }

    /// The files, in order.
    pub fn sources(&self) -> &[Source] {
        &self.listing.sources
    }

    /// The files, and what of the inputs is not read.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// The totals so far.
    pub fn counts(&self) -> ReadCounts {
        self.counts
    }

    /// Appends the texts of the next block to `texts`; false at the end. A block may have none.
    ///
    /// # Errors
    /// The first bad record, unless they are skipped; [`crate::Error::Io`]; [`crate::Error::Stopped`].
    pub fn next_texts(&mut self, texts: &mut Vec<String>) -> Result<bool> {
        let Some(block) = self.next_block()? else { return Ok(false) };
        let mut found = std::mem::take(&mut self.found);
        DocumentReader::new(&self.options).read(&block, &mut found);
        let (mut start, mut bad) = (0, found.rejects.iter());
        for record in &found.records {
            let text = &found.text[start..record.end];
            start = record.end;
            match record.fate {
                Fate::Bad => {
                    if let Some(reject) = bad.next() {
                        self.reject(&block, reject)?;
                    }
                }
                Fate::Empty => self.counts.empty_documents += 1,
                Fate::Kept => {
                    self.counts.documents += 1;
                    self.counts.characters += u64::from(record.characters);
                    texts.push(text.into());
                }
                Fate::Short | Fate::Long | Fate::Foreign | Fate::Unsampled => {}
            }
        }
        self.found = found;
        Ok(true)
    }

    /// The records of the next block; `None` at the end. A block may have none.
    ///
    /// # Errors
    /// As [`Self::next_texts`].
    pub fn next_records(&mut self) -> Result<Option<Records>> {
        let Some(block) = self.next_block()? else { return Ok(None) };
        let origin = &block.origin;
        let source = origin.source.clone();
        let mut records = Vec::new();
        let mut bad = Vec::new();
        let max = self.options.max_record_bytes;
        let mut take = |offset: u64, element: Option<u64>, number: u64, record: RecordBytes<'_>| {
            let bytes = record.as_ref().copied().unwrap_or_default();
            let length = bytes.len() as u64;
            let text = record.and_then(|bytes| {
                if length > max {
                    return Err(too_long(length, max));
                }
                let text = std::str::from_utf8(bytes).map_err(|e| not_utf8(bytes, e))?;
                check(text).map(|()| text.to_owned())
            });
            match text {
                Ok(text) => records.push((text, number)),
                Err(reason) => bad.push(Reject::new(offset, 0, element, bytes, reason)),
            }
        };
        let unit = match &block.content {
            BlockContent::Text(bytes) => {
                let mut line = block.line;
                let mut counted = 0;
                for_each_record(&origin.split, bytes, |start, record| {
                    line += memchr::memchr_iter(b'\n', &bytes[counted..start]).count() as u64;
                    counted = start;
                    if !record.trim_ascii().is_empty() {
                        take(block.offset + start as u64, None, origin.line(line), Ok(record));
                    }
                });
                number_lines(&mut bad, &block, bytes);
                "line"
            }
            BlockContent::Elements(bytes, ranges) => {
                for (number, range) in (block.element + 1..).zip(ranges) {
                    let (start, record) = element_in(bytes, range.clone());
                    let offset = block.offset + start as u64;
                    take(offset, Some(number), number, record);
                }
                number_lines(&mut bad, &block, bytes);
                "record"
            }
            BlockContent::Rows(batch) => {
                let mut start = 0;
                for (row, (end, wrong)) in (batch.row..).zip(&batch.ends) {
                    let record = &batch.bytes[start..*end];
                    take(
                        row,
                        None,
                        row + 1,
                        wrong.as_ref().map_or(Ok(record), |wrong| Err(wrong.as_str().into())),
                    );
                    start = *end;
                }
                "row"
            }
            BlockContent::TooLong(_) | BlockContent::Broken(_) => {
                let mut found = Documents::default();
                DocumentReader::new(&self.options).read(&block, &mut found);
                bad = found.rejects;
                "record"
            }
        };
        for reject in &bad {
            self.reject(&block, reject)?;
        }
        self.counts.documents += records.len() as u64;
        Ok(Some(Records { path: source.path.clone(), unit, records }))
    }

    fn reject(&mut self, block: &Block, reject: &Reject) -> Result<()> {
        if !self.skip_bad {
            return Err(block.origin.bad_record(reject));
        }
        self.counts.bad_records += 1;
        Ok(())
    }

    fn next_block(&mut self) -> Result<Option<Block>> {
        loop {
            if let Some(blocks) = &mut self.blocks {
                match blocks.next_block()? {
                    Some(block) => {
                        self.counts.bytes += block.packed;
                        return Ok(Some(block));
                    }
                    None => {
                        self.counts.bytes += blocks.take_packed();
                        self.blocks = None;
                    }
                }
            }
            let Some(source) = self.listing.sources.get(self.next) else { return Ok(None) };
            let end = match source.format {
                Format::Parquet => row_groups(source, &self.options.fields)?.len() as u64,
                _ => source.bytes,
            };
            let span = Span { source: self.next, start: 0, end };
            self.next += 1;
            if end > 0 || source.is_stdin() {
                let (source, stop) = (Arc::new(source.clone()), self.stop.clone());
                self.blocks = Some(Blocks::open(source, span, &self.options, stop)?);
            }
        }
    }
}
