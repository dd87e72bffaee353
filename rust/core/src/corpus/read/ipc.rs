//! Reads Arrow IPC message by message. The sizes in a message are checked before the library uses them: it
//! allocates as much memory as they say, and a failed allocation ends the process.

use std::{
    fs::File,
    hint::black_box,
    io::{self, BufReader, Read, Seek, SeekFrom},
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::{
    Block, CompressionType, MessageHeader, MetadataVersion, convert::try_fb_to_schema, reader::FileDecoder,
    root_as_message,
};
use arrow_schema::{ArrowError, Schema, SchemaRef};

/// An IPC file (not a stream) starts with this and two more bytes, and ends with this after the length of its
/// footer.
const FILE_MAGIC: &[u8] = b"ARROW1";
const FILE_START: u64 = 8;
const FILE_END: u64 = 10;
/// Precedes the length of a message, except in the oldest streams.
const CONTINUATION: u32 = u32::MAX;
/// Size of the end of a stream: a message of length 0.
const END_OF_STREAM: u64 = 8;
/// Alignment of the body of a message, so that its arrays need no copying.
const ALIGNMENT: usize = 64;

/// Maximum number of bytes that one byte of LZ4 unpacks to.
const LZ4_RATIO: u64 = 255;
/// The same for zstd: a block of 128 KiB takes at least four bytes.
const ZSTD_RATIO: u64 = (128 << 10) / 4;
/// One message may always unpack to this many bytes, and beyond that to [`MAX_RATIO`] times its size.
const MAX_UNPACKED: u64 = 1 << 30;
const MAX_RATIO: u64 = 1000;

/// Why there is no next batch.
pub enum Failed {
    /// The operating system refused something.
    Io(io::Error),
    /// The file cannot be parsed.
    Broken(String),
    /// What is wrong, and what to do about it.
    Damaged(&'static str),
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<ArrowError> for Failed {
    fn from(e: ArrowError) -> Self {
        Self::Broken(e.to_string())
    }
}

type Result<T> = std::result::Result<T, Failed>;

/// Reads the batches of a stream or a file: after its first bytes a file is a stream too. Memory: one batch.
pub struct Ipc {
    file: BufReader<File>,
    /// Bytes of messages that are still to be read.
    left: u64,
    /// Bytes of the file, and how many of them were reported as read.
    bytes: u64,
    told: u64,
    schema: SchemaRef,
    decoder: FileDecoder,
}

impl Ipc {
    /// Reads the schema.
    pub fn open(file: File) -> Result<Self> {
        let bytes = file.metadata()?.len();
        let mut file = BufReader::with_capacity(1 << 16, file);
        let left = find_stream(&mut file, bytes)?;
        // Replaced as soon as the schema is known.
        let schema = Arc::new(Schema::empty());
        let decoder = FileDecoder::new(schema.clone(), MetadataVersion::V1);
        let mut ipc = Self { file, left, bytes, told: 0, schema, decoder };
        let Some((_, message)) = ipc.message()? else { return Err(Failed::Broken("no schema".into())) };
        let message = parse(&message)?;
        let schema = message.header_as_schema().ok_or_else(|| Failed::Broken("no schema".into()))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(Failed::Broken("another byte order than this machine's".into()));
        }
        ipc.schema = Arc::new(try_fb_to_schema(schema)?);
        // With V1 the decoder uses the version in each message.
        ipc.decoder = FileDecoder::new(ipc.schema.clone(), MetadataVersion::V1);
        Ok(ipc)
    }

    /// All columns, including those that are not read.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads only these columns from now on.
    pub fn project(self, columns: Vec<usize>) -> Self {
        Self { decoder: self.decoder.with_projection(columns), ..self }
    }

    /// The next batch; `None` after the last.
    pub fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some((block, buffer)) = self.message()? {
            let body = &buffer[block.metaDataLength() as usize..];
            let message = parse(&buffer)?;
            match message.header_type() {
                MessageHeader::RecordBatch => {
                    if let Some(batch) = message.header_as_record_batch() {
                        check_batch(&batch, body)?;
                    }
                    if let Some(batch) = self.decoder.read_record_batch(&block, &buffer)? {
                        return Ok(Some(batch));
                    }
                }
                MessageHeader::DictionaryBatch => {
                    if let Some(batch) = message.header_as_dictionary_batch().and_then(|d| d.data()) {
                        check_batch(&batch, body)?;
                    }
                    self.decoder.read_dictionary(&block, &buffer)?;
                }
                MessageHeader::NONE => {}
                MessageHeader::Schema => return Err(Failed::Damaged(FOLLOWED)),
                kind => return Err(Failed::Broken(format!("a message of kind {kind:?}"))),
            }
        }
        Ok(None)
    }

    /// Bytes of the file that were read since the last call. Footer and end mark count as read.
    pub fn take_packed(&mut self) -> u64 {
        let left = if self.left <= END_OF_STREAM { 0 } else { self.left };
        let read = self.bytes - left;
        read - std::mem::replace(&mut self.told, read)
    }

    /// The next message, with its body aligned, and the position of the body; `None` at the end of the
    /// stream.
    fn message(&mut self) -> Result<Option<(Block, Buffer)>> {
        // A stream may end without a mark.
        if self.left == 0 {
            return Ok(None);
        }
        let mut length = self.word()?;
        if length == CONTINUATION {
            length = self.word()?;
        }
        if length == 0 {
            return self.check_end().map(|()| None);
        }
        let mut head = vec![0; self.within(length.into())?];
        self.file.read_exact(&mut head)?;
        let message =
            root_as_message(&head).map_err(|_| Failed::Broken("a message that makes no sense".into()))?;
        let body = self.within(u64::try_from(message.bodyLength()).unwrap_or(u64::MAX))?;
        let start = (2 * size_of::<u32>() + head.len()).next_multiple_of(ALIGNMENT);
        let mut buffer = MutableBuffer::try_from_len_zeroed(start.saturating_add(body))
            .map_err(|_| Failed::Io(io::ErrorKind::OutOfMemory.into()))?;
        buffer[..4].copy_from_slice(&CONTINUATION.to_le_bytes());
        buffer[4..8].copy_from_slice(&length.to_le_bytes());
        buffer[8..8 + head.len()].copy_from_slice(&head);
        self.file.read_exact(&mut buffer[start..])?;
        let too_long = |_| Failed::Broken("a message that is too long".into());
        let block = Block::new(0, i32::try_from(start).map_err(too_long)?, body as i64);
        Ok(Some((block, buffer.into())))
    }

    fn word(&mut self) -> Result<u32> {
        let mut word = [0; 4];
        self.within(4)?;
        self.file.read_exact(&mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    /// Takes this many of the bytes left.
    fn within(&mut self, bytes: u64) -> Result<usize> {
        let Some(left) = self.left.checked_sub(bytes) else {
            let left = self.left;
            return Err(Failed::Broken(format!("a message has {bytes} bytes or more, {left} are left")));
        };
        self.left = left;
        usize::try_from(bytes).map_err(|_| Failed::Io(io::ErrorKind::OutOfMemory.into()))
    }

    /// After the end there may only be the zeros that some writers pad with.
    fn check_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        (&mut self.file).take(self.left.min(ALIGNMENT as u64)).read_to_end(&mut rest)?;
        if self.left >= ALIGNMENT as u64 || rest.iter().any(|&byte| byte != 0) {
            return Err(Failed::Damaged(FOLLOWED));
        }
        self.left = 0;
        Ok(())
    }
}

const FOLLOWED: &str = "damaged: something follows the end of the stream; give each stream a file of its own";
const CUT: &str = "truncated: it begins as an Arrow file and does not end as one; copy it again";

/// Seeks to the first message; returns the number of bytes of all messages.
fn find_stream(file: &mut BufReader<File>, bytes: u64) -> Result<u64> {
    let mut start = Vec::new();
    file.take(FILE_START).read_to_end(&mut start)?;
    if !start.starts_with(FILE_MAGIC) {
        file.seek(SeekFrom::Start(0))?;
        return Ok(bytes);
    }
    if bytes < FILE_START + FILE_END {
        return Err(Failed::Damaged(CUT));
    }
    file.seek(SeekFrom::Start(bytes - FILE_END))?;
    let mut end = [0; FILE_END as usize];
    file.read_exact(&mut end)?;
    let [a, b, c, d, magic @ ..] = end;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if magic != FILE_MAGIC || footer == 0 {
        return Err(Failed::Damaged(CUT));
    }
    file.seek(SeekFrom::Start(FILE_START))?;
    (bytes - FILE_START - FILE_END).checked_sub(footer).ok_or(Failed::Damaged(CUT))
}

/// The message at the start of what [`Ipc::message`] returns.
fn parse(buffer: &[u8]) -> Result<arrow_ipc::Message<'_>> {
    root_as_message(&buffer[8..]).map_err(|e| Failed::Broken(e.to_string()))
}

/// Checks that all buffers are within the body, and that they can unpack to the sizes they claim.
fn check_batch(batch: &arrow_ipc::RecordBatch<'_>, body: &[u8]) -> Result<()> {
    if batch.length() < 0 {
        return Err(Failed::Broken("a batch with less than no rows".into()));
    }
    let ratio = batch.compression().map(|compression| match compression.codec() {
        CompressionType::LZ4_FRAME => LZ4_RATIO,
        _ => ZSTD_RATIO,
    });
    let mut all = 0_u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let packed = usize::try_from(buffer.offset())
            .ok()
            .zip(usize::try_from(buffer.length()).ok())
            .and_then(|(start, length)| body.get(start..start.checked_add(length)?))
            .ok_or_else(|| Failed::Broken("a buffer outside of its message".into()))?;
        let (Some(ratio), Some((unpacked, packed))) = (ratio, packed.split_first_chunk()) else { continue };
        // Negative: not compressed.
        let Ok(unpacked) = u64::try_from(i64::from_le_bytes(*unpacked)) else { continue };
        if unpacked > packed.len() as u64 * ratio + 64 {
            let packed = packed.len();
            return Err(Failed::Broken(format!("{packed} bytes claim to unpack to {unpacked}")));
        }
        all = all.saturating_add(unpacked);
    }
    if all > MAX_UNPACKED.max(body.len() as u64 * MAX_RATIO) {
        return Err(Failed::Broken(format!("a batch of {} bytes claims to unpack to {all}", body.len())));
    }
    // The library does not check whether there is this much memory.
    let mut room = Vec::<u8>::new();
    let is_there = usize::try_from(all).is_ok_and(|all| black_box(&mut room).try_reserve_exact(all).is_ok());
    black_box(&room);
    if is_there { Ok(()) } else { Err(Failed::Io(io::ErrorKind::OutOfMemory.into())) }
}
