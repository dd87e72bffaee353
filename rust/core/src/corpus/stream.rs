//! A piece of a file as a stream of unpacked bytes; standard input, too.

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

use super::{
    input::{Packing, Source},
    plan::Piece,
};
use crate::{Error, Result};

/// Bytes of a compressed file read at a time.
const PACKED_BYTES: usize = 1 << 18;

/// An open piece.
pub struct Stream {
    reader: Reader,
    /// Bytes of the file read since they were last asked for.
    packed: Arc<AtomicU64>,
}

/// What unpacks. The quick kinds write where the bytes are wanted, with nothing between.
enum Reader {
    Plain(io::Take<File>),
    Zst(Box<Frames>),
    Other(Box<dyn Read + Send>),
}

impl Stream {
    /// Starts to read `piece` of the open file.
    pub fn new(source: &Source, file: File, piece: Piece) -> Result<Self> {
        let packed = Arc::new(AtomicU64::new(0));
        let counted = |file| BufReader::with_capacity(PACKED_BYTES, Counted { file, read: packed.clone() });
        let reader = match source.packing {
            Packing::Plain => {
                let mut file = file;
                file.seek(SeekFrom::Start(piece.start)).map_err(Error::io(&source.path))?;
                Reader::Plain(file.take(piece.end - piece.start))
            }
            Packing::Zst => Reader::Zst(Box::new(Frames::new(counted(file)))),
            Packing::Gz => Reader::Other(Box::new(flate2::bufread::MultiGzDecoder::new(counted(file)))),
            Packing::Xz => {
                Reader::Other(Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(counted(file))))
            }
            Packing::Bz2 => Reader::Other(Box::new(bzip2::bufread::MultiBzDecoder::new(counted(file)))),
        };
        Ok(Self { reader, packed })
    }

    /// Standard input, pumped by a thread of its own: a pipe that brings nothing must not hold up a stop.
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
        Self { reader: Reader::Other(Box::new(reader)), packed }
    }

    /// Appends the next `most` bytes to `out`, fewer only at the end; how many. What came before an error stays.
    pub fn read(&mut self, most: usize, out: &mut Vec<u8>) -> io::Result<usize> {
        match &mut self.reader {
            Reader::Plain(file) => {
                let read = file.take(most as u64).read_to_end(out)?;
                self.packed.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            Reader::Zst(frames) => frames.read(most, out),
            Reader::Other(reader) => reader.take(most as u64).read_to_end(out),
        }
    }

    /// Bytes of the file read since the last call.
    pub fn take_packed(&self) -> u64 {
        self.packed.swap(0, Ordering::Relaxed)
    }
}

/// Opens a file, which must be as it was planned.
pub fn open_unchanged(source: &Source) -> Result<File> {
    let file = File::open(&source.path).map_err(Error::io(&source.path))?;
    check_unchanged(source, &file)?;
    Ok(file)
}

/// Compares an open file with what was planned.
///
/// # Errors
/// [`Error::Damaged`] if its size or time of change differ.
pub fn check_unchanged(source: &Source, file: &File) -> Result<()> {
    let now = Source::stamp(&file.metadata().map_err(Error::io(&source.path))?);
    if now == (source.bytes, source.mtime_ns) {
        return Ok(());
    }
    Err(Error::Damaged {
        path: source.path.clone(),
        reason: format!(
            "changed since the run was planned ({} bytes then, {} now); let it rest, and start anew with \
             --overwrite",
            source.bytes, now.0
        ),
    })
}

/// Frames of zstd, one behind the other.
struct Frames {
    file: BufReader<Counted>,
    context: zstd_safe::DCtx<'static>,
    /// Not all of a frame that has begun is unpacked.
    in_frame: bool,
}

impl Frames {
    fn new(file: BufReader<Counted>) -> Self {
        Self { file, context: zstd_safe::DCtx::create(), in_frame: false }
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
            let mut input = zstd_safe::InBuffer::around(packed);
            let before = out.len();
            let mut room = Room { end: start + most, bytes: out };
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

/// A vector that may be filled up to `end`, which is within its capacity.
struct Room<'v> {
    bytes: &'v mut Vec<u8>,
    end: usize,
}

// SAFETY: pointer and length are the vector's own, and `end` is within its capacity.
unsafe impl zstd_safe::WriteBuf for Room<'_> {
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
        // SAFETY: the caller has written so many, at most `end`.
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
            // A short wait, then "interrupted": whoever reads looks whether to stop, and asks again.
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
