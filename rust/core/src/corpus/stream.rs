//! A piece of a file as a stream of unpacked bytes; standard input, too.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crossbeam_channel::{Receiver, bounded};

use super::{
    input::{Packing, Source},
    plan::Piece,
};
use crate::{Error, Result};

/// Bytes of a compressed file read at a time.
const PACKED_BYTES: usize = 1 << 18;

/// An open piece.
pub struct Stream {
    /// The unpacked bytes.
    pub reader: Box<dyn Read + Send>,
    /// Bytes of the file read so far.
    packed: Arc<AtomicU64>,
}

impl Stream {
    /// Starts to read `piece` of the open file.
    pub fn new(source: &Source, file: File, piece: Piece) -> Result<Self> {
        let packed = Arc::new(AtomicU64::new(0));
        let mut file = Counted { file, read: packed.clone() };
        let fail = |e| Error::io(&source.path)(e);
        let reader: Box<dyn Read + Send> = match source.packing {
            Packing::Plain => {
                file.file.seek(SeekFrom::Start(piece.start)).map_err(fail)?;
                Box::new(file.take(piece.end - piece.start))
            }
            Packing::Gz => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(file))),
            Packing::Zst => Box::new(zstd::Decoder::with_buffer(buffered(file)).map_err(fail)?),
            Packing::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(buffered(file))),
            Packing::Bz2 => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(file))),
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
        Self { reader: Box::new(reader), packed }
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

fn buffered(file: Counted) -> BufReader<Counted> {
    BufReader::with_capacity(PACKED_BYTES, file)
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
