//! Finds where records end: in a buffer, and after a position in a file, without reading what precedes it.

use std::{
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::Path,
};

use crate::{Error, Result, corpus::options::Split};

/// Length of the longest prefix of `bytes` that consists of whole records with their terminators.
///
/// A record without a terminator is not counted: the last record of a file is up to the caller.
pub fn whole_records(split: &Split, bytes: &[u8]) -> usize {
    match split {
        Split::Line => memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1),
        Split::BlankLine => {
            let mut end = bytes.len();
            while let Some(newline) = memchr::memrchr(b'\n', &bytes[..end]) {
                let start = memchr::memrchr(b'\n', &bytes[..newline]).map_or(0, |at| at + 1);
                if is_blank(&bytes[start..newline]) {
                    return newline + 1;
                }
                end = newline;
            }
            0
        }
        Split::Separator(text) => {
            memchr::memmem::find_iter(bytes, text.as_bytes()).last().map_or(0, |at| at + text.len())
        }
        Split::File => 0,
    }
}

/// True for a line that separates documents under [`Split::BlankLine`].
pub fn is_blank(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

/// The first position at or after `from` where a record starts; `end` if there is none.
pub fn next_start(split: &Split, path: &Path, from: u64, end: u64) -> Result<u64> {
    if from == 0 || from >= end {
        return Ok(from.min(end));
    }
    match split {
        // From one byte earlier: a newline there makes `from` itself a start.
        Split::Line => skip_lines(path, from - 1, end, |_| true),
        Split::BlankLine => {
            // The line that contains `from` is known only in part: it never counts as blank.
            let line = skip_lines(path, from - 1, end, |_| true)?;
            skip_lines(path, line, end, is_blank)
        }
        Split::Separator(text) => after_separator(path, text.as_bytes(), from, end),
        Split::File => Ok(end),
    }
}

/// The position after the first line from `from` on that is `wanted`. Lines are passed without their newline,
/// and long ones in parts that fit into the buffer: a line is blank if all its parts are.
fn skip_lines(path: &Path, from: u64, end: u64, wanted: impl Fn(&[u8]) -> bool) -> Result<u64> {
    let mut file = open_at(path, from)?;
    let mut at = from;
    let mut all_wanted = true;
    while at < end {
        let buffer = file.fill_buf().map_err(Error::io(path))?;
        if buffer.is_empty() {
            break;
        }
        let newline = memchr::memchr(b'\n', buffer);
        all_wanted &= wanted(&buffer[..newline.unwrap_or(buffer.len())]);
        let used = newline.map_or(buffer.len(), |n| n + 1);
        file.consume(used);
        at += used as u64;
        if newline.is_some() {
            if all_wanted {
                return Ok(at.min(end));
            }
            all_wanted = true;
        }
    }
    Ok(end)
}

/// The position after the first separator that starts at or after `from` and does not overlap an earlier one.
/// It ends a record wherever reading started. (An overlapping one need not: of four newlines only the first
/// three are a separator of three.)
fn after_separator(path: &Path, separator: &[u8], from: u64, end: u64) -> Result<u64> {
    let before = (separator.len() as u64 - 1).min(from);
    let mut file = open_at(path, from - before)?;
    let mut window: Vec<u8> = Vec::new();
    let mut start = from - before;
    // Where the last occurrence started, so far.
    let mut last: Option<u64> = None;
    loop {
        let buffer = file.fill_buf().map_err(Error::io(path))?;
        if buffer.is_empty() {
            return Ok(end);
        }
        window.extend_from_slice(buffer);
        let used = buffer.len();
        file.consume(used);
        let mut search = 0;
        while let Some(found) = memchr::memmem::find(&window[search..], separator) {
            let at = start + (search + found) as u64;
            let after = at + separator.len() as u64;
            let clean = last.is_none_or(|last| at >= last + separator.len() as u64);
            if at >= from && clean {
                return Ok(after.min(end));
            }
            last = Some(at);
            search += found + 1;
        }
        // The rest is shorter than a separator, so it contains none.
        let keep = window.len().min(separator.len() - 1);
        start += (window.len() - keep) as u64;
        window.drain(..window.len() - keep);
        if start >= end {
            return Ok(end);
        }
    }
}

/// True if the first character that is not white space, after a byte-order mark if any, starts a JSON array.
pub fn starts_array(path: &Path) -> Result<bool> {
    let mut file = open_at(path, 0)?;
    let mut first = true;
    loop {
        let buffer = file.fill_buf().map_err(Error::io(path))?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let mark = usize::from(first && buffer.starts_with("\u{FEFF}".as_bytes())) * 3;
        first = false;
        if let Some(byte) = first_byte(&buffer[mark..]) {
            return Ok(byte == b'[');
        }
        let used = buffer.len();
        file.consume(used);
    }
}

/// The first byte that is not JSON white space.
pub fn first_byte(bytes: &[u8]) -> Option<u8> {
    bytes.iter().copied().find(|&byte| !is_space(byte))
}

/// True for JSON white space.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn open_at(path: &Path, at: u64) -> Result<BufReader<File>> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    file.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn separator(text: &str) -> Split {
        Split::Separator(text.into())
    }

    #[test]
    fn what_is_whole() {
        for (split, text, whole) in [
            (Split::Line, "a\nb", 2),
            (Split::Line, "ab", 0),
            (Split::BlankLine, "a\nb\n \t\nc\n", 7),
            (Split::BlankLine, "a\nb\n", 0),
            (Split::BlankLine, "\na", 1),
            (separator("\n\n\n"), "a\n\n\n\nb", 4),
            (separator("=="), "a===b", 3),
            (Split::File, "a\n\n", 0),
        ] {
            assert_eq!(whole_records(&split, text.as_bytes()), whole, "{split:?} {text:?}");
        }
    }

    /// From any position, the start that is found is one that reading from the start of the file gives too.
    #[test]
    fn starts_do_not_depend_on_where_one_looks_from() {
        let folder = std::env::temp_dir().join(format!("zhuzi-cut-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("text");
        let texts = ["a\nb\n\n\n\nc\n \n\nd", "====a==b=====c", "\n\n\n\n\n", "x", "a\n\n\nb\n\n\n\n\nc\n"];
        let splits = [Split::Line, Split::BlankLine, separator("\n\n\n"), separator("=="), separator("b")];
        for text in texts {
            std::fs::write(&path, text).unwrap();
            let end = text.len() as u64;
            for split in &splits {
                let ends: Vec<usize> =
                    (0..=text.len()).map(|n| whole_records(split, &text.as_bytes()[..n])).collect();
                for from in 0..=end {
                    let start = next_start(split, &path, from, end).unwrap();
                    assert!(start >= from);
                    let known = start == 0 || start == end || ends.contains(&(start as usize));
                    assert!(known, "{split:?} {text:?} from {from}: {start}");
                }
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
