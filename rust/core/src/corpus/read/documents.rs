//! From a block to its documents: finds records, extracts their texts, cleans them and decides which to keep.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{
    block::{BLOCK_BYTES, Block, BlockContent, Reject},
    clean::{clean, count_han, fold_fullwidth},
    cut::is_blank,
    json::fields::append_fields,
};
use crate::{
    corpus::{
        options::{EncodeOptions, Split},
        source::Format,
    },
    message::{MAX_RECORD_BYTES, Message},
};

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its text is encoded.
    Kept,
    /// It has no characters.
    Empty,
    /// Too few characters.
    Short,
    /// Too many characters.
    Long,
    /// Too small a share of Han.
    Foreign,
    /// Not in the sample.
    Unsampled,
    /// It cannot be read.
    Bad,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct ParsedRecord {
    /// What becomes of it.
    pub fate: Fate,
    /// Where it starts: bytes of the unpacked file, or the row.
    pub offset: u64,
    /// Where its text ends in [`Documents::text`]; it starts where the previous one ends.
    pub end: usize,
    /// Its number of code points.
    pub characters: u32,
}

/// The records of a block, in order.
#[derive(Debug, Default)]
pub struct Documents {
    /// The kept texts, concatenated.
    pub text: String,
    /// All records.
    pub records: Vec<ParsedRecord>,
    /// The bad ones.
    pub rejects: Vec<Reject>,
    /// With deduplication, a hash of each kept text.
    pub hashes: Vec<u128>,
}

/// Extracts the documents of blocks and decides which to keep.
pub struct DocumentReader<'o> {
    options: &'o EncodeOptions,
    first: String,
    second: String,
}

impl<'o> DocumentReader<'o> {
    /// A reader for these options.
    pub fn new(options: &'o EncodeOptions) -> Self {
        Self { options, first: String::new(), second: String::new() }
    }

    /// Reads the documents of `block` into `found`, replacing its contents.
    pub fn read(&mut self, block: &Block, found: &mut Documents) {
        found.clear();
        match &block.content {
            BlockContent::Text(bytes) => {
                found.text.reserve(bytes.len());
                self.read_text(block, bytes, found);
            }
            BlockContent::Elements(bytes, ranges) => {
                found.text.reserve(bytes.len());
                self.read_elements(block, bytes, ranges, found);
            }
            BlockContent::Rows(batch) => {
                let (mut start, mut row) = (0, batch.row);
                for (stop, wrong) in &batch.ends {
                    let (record, stop) = (&batch.bytes[start..*stop], *stop);
                    let text = wrong.as_ref().map_or(Ok(record), |wrong| Err(wrong.clone().into()));
                    self.judge(found, row, record, text);
                    (start, row) = (stop, row + 1);
                }
            }
            BlockContent::TooLong(bytes) => {
                let reason = too_long(*bytes, self.options.max_record_bytes);
                let (offset, line, head) = (block.offset, block.line, String::new());
                let element = Some(block.element + 1);
                found.push_bad(Reject { offset, line, element, bytes: *bytes, reason, head });
            }
            BlockContent::Broken(reason) => {
                let (offset, line, reason) = (block.offset, block.line, reason.clone().into());
                let element = Some(block.element + 1);
                found.push_bad(Reject { offset, line, element, bytes: 0, reason, head: String::new() });
            }
        }
    }

    fn read_text(&mut self, block: &Block, bytes: &[u8], found: &mut Documents) {
        let jsonl = block.origin.source.format == Format::Jsonl;
        for_each_record(&block.origin.split, bytes, |start, record| {
            let offset = block.offset + start as u64;
            if jsonl {
                self.judge_json(found, offset, record);
            } else {
                self.judge(found, offset, record, Ok(record));
            }
        });
        number_lines(&mut found.rejects, block, bytes);
    }

    fn read_elements(&mut self, block: &Block, bytes: &[u8], ranges: &[Range<usize>], found: &mut Documents) {
        for (number, range) in ranges.iter().enumerate() {
            let (start, record) = element_in(bytes, range.clone());
            let offset = block.offset + start as u64;
            let bad = found.rejects.len();
            match record {
                Ok(record) => self.judge_json(found, offset, record),
                Err(reason) => self.judge(found, offset, &[], Err(reason)),
            }
            if let Some(reject) = found.rejects.get_mut(bad) {
                reject.element = Some(block.element + number as u64 + 1);
            }
        }
        number_lines(&mut found.rejects, block, bytes);
    }

    fn judge_json(&mut self, found: &mut Documents, offset: u64, record: &[u8]) {
        if record.len() as u64 <= self.options.max_record_bytes
            && let Ok(line) = simdutf8::basic::from_utf8(record)
            && !line.trim_ascii().is_empty()
        {
            let start = found.text.len();
            let text = append_fields(line, &self.options.fields, &mut found.text);
            if text.is_ok() && !self.changes_text() && found.text.len() > start {
                // The text is already in its place.
                return self.judge_in_place(found, offset, start);
            }
            let text = text.map(|()| found.text[start..].to_owned());
            found.text.truncate(start);
            match text {
                Ok(text) => self.judge(found, offset, record, Ok(text.as_bytes())),
                Err(reason) => self.judge(found, offset, record, Err(reason)),
            }
        } else {
            self.judge(found, offset, record, Ok(record.trim_ascii()));
        }
    }

    /// Decides on one record whose text has been extracted.
    fn judge(&mut self, found: &mut Documents, offset: u64, record: &[u8], text: Result<&[u8], Message>) {
        let (bytes, most) = (record.len() as u64, self.options.max_record_bytes);
        let text = if bytes > most { Err(too_long(bytes, most)) } else { text };
        let text = text.and_then(|text| {
            // The fast check does not say where it fails; the slow one does.
            simdutf8::basic::from_utf8(text)
                .or_else(|_| std::str::from_utf8(text))
                .map_err(|e| not_utf8(record, e).into())
        });
        match text {
            Ok("") => found.push(Fate::Empty, offset, 0),
            Ok(text) => {
                let start = found.text.len();
                let text = self.change(text);
                found.text.push_str(text);
                self.judge_in_place(found, offset, start);
            }
            Err(reason) => {
                found.push_bad(Reject::new(offset, 0, None, record, reason));
            }
        }
    }

    fn changes_text(&self) -> bool {
        self.options.fold_fullwidth || self.options.clean
    }

    fn change<'t>(&'t mut self, text: &'t str) -> &'t str {
        let mut text = text;
        if self.options.fold_fullwidth {
            self.first.clear();
            fold_fullwidth(text, &mut self.first);
            text = &self.first;
        }
        if self.options.clean {
            self.second.clear();
            clean(text, &mut self.second);
            text = &self.second;
        }
        text
    }

    /// Decides on the text after `start`, the last one found, of the record at `offset`.
    fn judge_in_place(&self, found: &mut Documents, offset: u64, start: usize) {
        let options = self.options;
        let text = &found.text[start..];
        let characters = text.chars().count() as u64;
        let fate = if characters == 0 {
            Fate::Empty
        } else if options.min_chars.is_some_and(|min| characters < min) {
            Fate::Short
        } else if options.max_chars.is_some_and(|max| characters > max) {
            Fate::Long
        } else if options.min_han.is_some_and(|share| !is_han_enough(text, share)) {
            Fate::Foreign
        } else {
            Fate::Kept
        };
        let fate = match fate {
            Fate::Kept if options.sample.is_some() || options.dedup => {
                let hash = hash_of(text.as_bytes());
                if options.sample.is_some_and(|share| !is_sampled(hash, share)) {
                    Fate::Unsampled
                } else {
                    if options.dedup {
                        found.hashes.push(hash);
                    }
                    Fate::Kept
                }
            }
            fate => fate,
        };
        if fate != Fate::Kept {
            found.text.truncate(start);
        }
        found.push(fate, offset, u32::try_from(characters).unwrap_or(u32::MAX));
    }
}

/// The message for a record of `bytes` bytes where `most` are allowed.
pub fn too_long(bytes: u64, most: u64) -> Message {
    Message::from(format!(
        "a record of {bytes} bytes, more than the {most} allowed; is the file split as you think? raise "
    ))
    .option(MAX_RECORD_BYTES)
    .text(" if it is")
}

/// An element of a JSON array without surrounding white space, and where it starts in `bytes`.
pub fn element_in(bytes: &[u8], range: Range<usize>) -> (usize, Result<&[u8], Message>) {
    let element = &bytes[range.clone()];
    let record = element.trim_ascii();
    if record.is_empty() {
        return (range.end, Err("nothing stands here: a comma too many".into()));
    }
    (range.start + element.len() - element.trim_ascii_start().len(), Ok(record))
}

/// Sets the lines in which the bad records of a block start.
pub fn number_lines(rejects: &mut [Reject], block: &Block, bytes: &[u8]) {
    let (mut line, mut counted) = (block.line, 0);
    for reject in rejects {
        let start = (reject.offset - block.offset) as usize;
        line += memchr::memchr_iter(b'\n', &bytes[counted..start]).count() as u64;
        (reject.line, counted) = (line, start);
    }
}

impl Documents {
    /// Clears it. Memory is kept, except for the excess of a very long document.
    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(4 * BLOCK_BYTES);
        self.records.clear();
        self.rejects.clear();
        self.hashes.clear();
    }

    fn push(&mut self, fate: Fate, offset: u64, characters: u32) {
        self.records.push(ParsedRecord { fate, offset, end: self.text.len(), characters });
    }

    fn push_bad(&mut self, reject: Reject) {
        self.push(Fate::Bad, reject.offset, 0);
        self.rejects.push(reject);
    }
}

/// Calls `each` with the start and the bytes of every record, without separators.
///
/// One `\r` before the newline of a line is dropped. Under [`Split::BlankLine`] a record does not end in a
/// newline, and is never empty; otherwise records may be empty.
pub fn for_each_record(split: &Split, bytes: &[u8], mut each: impl FnMut(usize, &[u8])) {
    match split {
        Split::Line => {
            let mut start = 0;
            for newline in
                memchr::memchr_iter(b'\n', bytes).chain((!bytes.ends_with(b"\n")).then_some(bytes.len()))
            {
                let line = &bytes[start..newline];
                if newline < bytes.len() || !line.is_empty() {
                    each(start, line.strip_suffix(b"\r").unwrap_or(line));
                }
                start = newline + 1;
            }
        }
        Split::BlankLine => {
            let mut record: Option<(usize, usize)> = None;
            let mut at = 0;
            for line in bytes.split_inclusive(|&b| b == b'\n') {
                let start = at;
                at += line.len();
                if is_blank(line) {
                    if let Some((start, end)) = record.take() {
                        each(start, &bytes[start..end]);
                    }
                } else {
                    let text = line.strip_suffix(b"\n").unwrap_or(line);
                    let text = text.strip_suffix(b"\r").unwrap_or(text);
                    record = Some((record.map_or(start, |(first, _)| first), start + text.len()));
                }
            }
            if let Some((start, end)) = record {
                each(start, &bytes[start..end]);
            }
        }
        Split::Separator(text) => {
            let mut start = 0;
            for at in memchr::memmem::find_iter(bytes, text.as_bytes()) {
                each(start, &bytes[start..at]);
                start = at + text.len();
            }
            if start < bytes.len() {
                each(start, &bytes[start..]);
            }
        }
        Split::File => each(0, bytes),
    }
}

/// The message for a record that is not UTF-8.
pub fn not_utf8(record: &[u8], error: std::str::Utf8Error) -> String {
    if record.starts_with(&[0x1F, 0x8B]) || record.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        return "no text but gzip or zstd data; unpack it first (zcat or zstdcat before a pipe)".into();
    }
    if record.starts_with(&[0xFF, 0xFE, 0, 0]) || record.starts_with(&[0, 0, 0xFE, 0xFF]) {
        return "not UTF-8 but UTF-32, it seems; convert the file to UTF-8".into();
    }
    if record.starts_with(&[0xFF, 0xFE]) || record.starts_with(&[0xFE, 0xFF]) {
        return "not UTF-8 but UTF-16, it seems; convert the file to UTF-8".into();
    }
    let at = error.valid_up_to();
    // Half of a surrogate pair encoded by itself, as Java and MySQL's `utf8` write characters above U+FFFF.
    if let [0xED, 0xA0..=0xBF, ..] = record.get(at..).unwrap_or_default() {
        return format!(
            "not UTF-8 but CESU-8, in which surrogates stand by themselves (byte {at} of the record); export it as \
             UTF-8 (utf8mb4)"
        );
    }
    format!("not UTF-8 (byte {at} of the record); convert the file to UTF-8")
}

fn is_han_enough(text: &str, share: f64) -> bool {
    let (han, all) = count_han(text);
    han as f64 >= share * all as f64
}

/// 128 bits of SHA-256: a collision in a corpus is less likely than an undetected disk error.
fn hash_of(text: &[u8]) -> u128 {
    let digest = Sha256::digest(text);
    digest.iter().take(16).fold(0, |hash, &byte| (hash << 8) | u128::from(byte))
}

fn is_sampled(hash: u128, share: f64) -> bool {
    // 53 bits, which a float represents exactly.
    ((hash >> 75) as f64) < share * (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let separator = Split::Separator("==".into());
        let cases: [(&Split, &str, &[&str]); 9] = [
            (&Split::Line, "a\r\n\n b", &["a", "", " b"]),
            (&Split::Line, "a\n", &["a"]),
            (&Split::Line, "a\r\r\n", &["a\r"]),
            (&Split::BlankLine, "\n\na\nb\r\n \t\nc\n\n\n", &["a\nb", "c"]),
            (&Split::BlankLine, " \n", &[]),
            (&separator, "a==b\n====", &["a", "b\n", ""]),
            (&separator, "=====", &["", "", "="]),
            (&separator, "", &[]),
            (&Split::File, "a\n\nb\n", &["a\n\nb\n"]),
        ];
        for (split, text, wanted) in cases {
            let mut found = Vec::new();
            for_each_record(split, text.as_bytes(), |at, record| {
                assert_eq!(&text.as_bytes()[at..at + record.len()], record);
                found.push(String::from_utf8(record.to_vec()).unwrap());
            });
            assert_eq!(found, wanted, "{split:?} {text:?}");
        }
    }

    #[test]
    fn a_sample_takes_its_share() {
        let kept = (0..10_000).filter(|n: &i32| is_sampled(hash_of(&n.to_le_bytes()), 0.3)).count();
        assert!((2_800..3_200).contains(&kept), "{kept}");
        assert!((0..100).all(|n: i32| is_sampled(hash_of(&n.to_le_bytes()), 1.0)));
        assert!(!(0..100).any(|n: i32| is_sampled(hash_of(&n.to_le_bytes()), 0.0)));
    }
}
