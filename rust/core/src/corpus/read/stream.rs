//! Reads a span of a file, or standard input, as a stream of unpacked bytes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crossbeam_channel::{Receiver, bounded};
use zstd::zstd_safe;

use crate::{
    Error, Result,
    corpus::source::{Packing, Source, Span},
    message::{Message, OVERWRITE},
};

/// Bytes of a compressed file read at a time.
const PACKED_BYTES: usize = 1 << 18;

/// The largest window of zstd that is unpacked: 2 GiB.
const MAX_WINDOW_LOG: u32 = 31;

/// An open span.
pub struct Stream {
    unpacker: Unpacker,
    /// Bytes of the file read since the last [`Stream::take_packed`].
    packed: Arc<AtomicU64>,
}

/// The decompressor. The fast ones write directly into the caller's buffer.
enum Unpacker {
    Plain(io::Take<File>),
    Zst(Box<Frames>),
    Other(Box<dyn Read + Send>),
}

impl Stream {
    /// Starts to read `span` of the open file.
    pub fn new(source: &Source, file: File, span: Span) -> Result<Self> {
        let packed = Arc::new(AtomicU64::new(0));
        let counted = |file| BufReader::with_capacity(PACKED_BYTES, Counted { file, read: packed.clone() });
        let unpacker = match source.packing {
            Packing::Plain => {
                let mut file = file;
                file.seek(SeekFrom::Start(span.start)).map_err(Error::io(&source.path))?;
                Unpacker::Plain(file.take(span.end - span.start))
            }
            Packing::Zst => Unpacker::Zst(Box::new(Frames::new(counted(file)))),
            Packing::Gz => Unpacker::Other(Box::new(Members::new(counted(file)))),
            Packing::Xz => {
                Unpacker::Other(Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(counted(file))))
            }
            Packing::Bz2 => Unpacker::Other(Box::new(bzip2::bufread::MultiBzDecoder::new(counted(file)))),
        };
        Ok(Self { unpacker, packed })
    }

    /// Standard input, read by a thread of its own: an idle pipe must not delay a stop.
    pub fn stdin() -> Self {
        let packed = Arc::new(AtomicU64::new(0));
        let (send, chunks) = bounded::<io::Result<Vec<u8>>>(4);
        thread::spawn(move || {
            let mut stdin = io::stdin().lock();
            loop {
                let mut chunk = vec![0; PACKED_BYTES];
                let read = stdin.read(&mut chunk);
                let last = !matches!(read, Ok(n) if n > 0);
                let chunk = read.map(|n| {
                    chunk.truncate(n);
                    chunk
                });
                if send.send(chunk).is_err() || last {
                    return;
                }
            }
        });
        let reader = Chunks { chunks, chunk: Vec::new(), at: 0, read: packed.clone() };
        Self { unpacker: Unpacker::Other(Box::new(reader)), packed }
    }

    /// Appends the next `most` bytes to `out`, fewer only at the end, and returns their number. Bytes before
    /// an error are kept. An error of kind `Unsupported` does not mean that the file is damaged.
    pub fn read(&mut self, most: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.unpacker {
            Unpacker::Plain(file) => {
                let read = file.take(most as u64).read_to_end(out)?;
                self.packed.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            Unpacker::Zst(frames) => frames.read(most, out),
            Unpacker::Other(reader) => reader.take(most as u64).read_to_end(out),
        }
    }

    /// Bytes of the file read since the last call.
    pub fn take_packed(&self) -> u64 {
        self.packed.swap(0, Ordering::Relaxed)
    }
}

/// Opens a file and checks that it has not changed since it was planned.
pub fn open_unchanged(source: &Source) -> Result<File> {
    let file = File::open(&source.path).map_err(Error::io(&source.path))?;
    check_unchanged(source, &file)?;
    Ok(file)
}

/// Checks that an open file has not changed since it was planned.
///
/// # Errors
/// [`Error::Damaged`] if its size or modification time differs.
pub fn check_unchanged(source: &Source, file: &File) -> Result<()> {
    let now = Source::stamp(&file.metadata().map_err(Error::io(&source.path))?);
    if now == (source.bytes, source.mtime_ns) {
        return Ok(());
    }
    Err(Error::Damaged {
        path: source.path.clone(),
        reason: Message::from(format!(
            "changed since the run was planned ({} bytes then, {} now); let it rest, and start anew with ",
            source.bytes, now.0
        ))
        .option(OVERWRITE),
    })
}

/// Consecutive zstd frames.
struct Frames {
    file: BufReader<Counted>,
    context: zstd_safe::DCtx<'static>,
    /// A frame has started and is not unpacked to its end.
    in_frame: bool,
}

impl Frames {
    fn new(file: BufReader<Counted>) -> Self {
        let mut context = zstd_safe::DCtx::create();
        // As `zstd --long=31` compresses. Memory is allocated as it is filled. A library that does not
        // support such a window keeps its own limit, and reports frames beyond it.
        let _ = context.set_parameter(zstd_safe::DParameter::WindowLogMax(MAX_WINDOW_LOG));
        Self { file, context, in_frame: false }
    }

    fn read(&mut self, most: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        out.reserve(most);
        while out.len() - start < most {
            let packed = match self.file.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                packed => packed?,
            };
            let at_end = packed.is_empty();
            if at_end && !self.in_frame {
                break;
            }
            let too_large = if self.in_frame { None } else { window_beyond(packed) };
            if let Some(window) = too_large {
                let reason = format!(
                    "a window of {window} bytes, more than the {} we unpack with; pack it anew, with --long=31 \
                     at most",
                    1_u64 << MAX_WINDOW_LOG
                );
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
            let mut input = zstd_safe::InBuffer::around(packed);
            let before = out.len();
            let mut room = BoundedVec { end: start + most, bytes: out };
            let mut output = zstd_safe::OutBuffer::around_pos(&mut room, before);
            let left = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
            self.in_frame = left != 0;
            let used = input.pos();
            self.file.consume(used);
            if at_end && out.len() == before {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends within a frame"));
            }
        }
        Ok(out.len() - start)
    }
}

/// The window size that the frame starting here asks for, if it is over the maximum.
///
/// Source: RFC 8878, 3.1.1.1. A single-segment frame has no window size: its content is the window.
fn window_beyond(frame: &[u8]) -> Option<u64> {
    let most = 1_u64 << MAX_WINDOW_LOG;
    let &[0x28, 0xB5, 0x2F, 0xFD, descriptor, ref rest @ ..] = frame else { return None };
    let window = if descriptor & 0x20 == 0 {
        let (exponent, mantissa) = (rest.first()? >> 3, u64::from(rest.first()? & 7));
        let base = 1_u64 << (10 + u32::from(exponent));
        base + base / 8 * mantissa
    } else {
        let skip = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size: &[u8] = match descriptor >> 6 {
            0..=1 => return None,
            2 => rest.get(skip..skip + 4)?,
            _ => rest.get(skip..skip + 8)?,
        };
        size.iter().rev().fold(0, |size, &byte| size << 8 | u64::from(byte))
    };
    (window > most).then_some(window)
}

/// Consecutive gzip members. Zeros after a member are padding, as written by tapes and block devices.
struct Members<R> {
    /// `None` once all are read.
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    fn new(file: R) -> Self {
        Self { member: Some(flate2::bufread::GzDecoder::new(file)) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            // The file is not moved before it is known what follows: after an error the caller may retry.
            let file = member.get_mut();
            let is_end = loop {
                let packed = match file.fill_buf() {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    packed => packed?,
                };
                let zeros = packed.iter().position(|&byte| byte != 0);
                match zeros.map(|at| packed[at]) {
                    None if packed.is_empty() => break true,
                    None | Some(0x1F) => {
                        let used = zeros.unwrap_or(packed.len());
                        file.consume(used);
                        if zeros.is_some() {
                            break false;
                        }
                    }
                    Some(_) => return Err(io::Error::other("something else follows a gzip member")),
                }
            };
            let file = self.member.take().map(flate2::bufread::GzDecoder::into_inner);
            self.member = file.filter(|_| !is_end).map(flate2::bufread::GzDecoder::new);
        }
        Ok(0)
    }
}

/// The kind of a file by its first bytes, if it is not text.
pub fn magic(start: &[u8]) -> Option<(&'static str, Option<Packing>)> {
    match start {
        [0x1F, 0x8B, ..] => Some(("gzip", Some(Packing::Gz))),
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => {
            Some(("zstd", Some(Packing::Zst)))
        }
        [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Some(("xz", Some(Packing::Xz))),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(("bzip2", Some(Packing::Bz2))),
        [b'P', b'K', 3, 4, ..] => Some(("zip", None)),
        [b'P', b'A', b'R', b'1', ..] => Some(("parquet", None)),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some(("arrow", None)),
        _ => None,
    }
}

/// What is wrong if the first bytes of a file contradict its name; `None` if they do not.
pub fn contradiction(packing: Packing, start: &[u8]) -> Option<String> {
    let found = magic(start);
    let named = match packing {
        Packing::Plain => {
            let (what, _) = found?;
            return Some(format!(
                "{what} data under a name without {what}'s ending; rename the file to say what it is"
            ));
        }
        Packing::Gz => "gzip",
        Packing::Zst => "zstd",
        Packing::Xz => "xz",
        Packing::Bz2 => "bzip2",
    };
    if start.is_empty() || found.is_some_and(|(_, found)| found == Some(packing)) {
        return None;
    }
    let is = match found {
        Some((what, _)) => format!("{what} data"),
        None if std::str::from_utf8(start).map_or_else(|e| e.error_len().is_none(), |_| true) => {
            "plain text".into()
        }
        None => "damaged or something else".into(),
    };
    Some(format!("not {named} data, as its name says, but {is}; rename the file or copy it again"))
}

/// A vector that may be filled up to `end`, which is within its capacity.
struct BoundedVec<'v> {
    bytes: &'v mut Vec<u8>,
    end: usize,
}

// SAFETY: pointer and length are the vector's own, and `end` is within its capacity.
unsafe impl zstd_safe::WriteBuf for BoundedVec<'_> {
    fn as_slice(&self) -> &[u8] {
        self.bytes
    }

    fn capacity(&self) -> usize {
        self.end
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    unsafe fn filled_until(&mut self, n: usize) {
        // SAFETY: the caller has written this many, at most `end`.
        unsafe { self.bytes.set_len(n) }
    }
}

struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

struct Chunks {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
    read: Arc<AtomicU64>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            // A short wait, then `WouldBlock`: the caller checks whether to stop, and retries.
            match self.chunks.recv_timeout(std::time::Duration::from_millis(100)) {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(e) if e.is_timeout() => return Err(io::ErrorKind::WouldBlock.into()),
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A reader in which every read is interrupted once.
    struct Interrupting<'b> {
        bytes: &'b [u8],
        asked: bool,
    }

    impl Read for Interrupting<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.asked = !self.asked;
            if self.asked { Err(io::ErrorKind::Interrupted.into()) } else { self.bytes.read(buffer) }
        }
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let file = BufReader::with_capacity(16, Interrupting { bytes: packed, asked: false });
        let mut out = Vec::new();
        Members::new(file).read_to_end(&mut out).map(|_| out)
    }

    fn member(text: &str) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn an_interrupted_read_ends_no_file() {
        let packed = [member("one "), vec![0; 40], member("two "), member("three"), vec![0; 7]].concat();
        assert_eq!(unpack(&packed).unwrap(), b"one two three");
        let error = unpack(&[member("one "), b"\0x".to_vec()].concat()).unwrap_err();
        assert_eq!(error.to_string(), "something else follows a gzip member");
    }
}
