//! Bytes of journal frames and records. Layout: `docs/format/journal.md`.
//!
//! Invariants: a frame is valid only for one store, one place and one sequence number; the frame's
//! checksum covers its header and every record header, and each record header covers its record's
//! content, so every payload byte is hashed once.
//! Does not: decide what an invalid frame means (`recovery` does).

use bytes::{Bytes, BytesMut};
use hedgerow_env::StoreId;
use xxhash_rust::xxh3::Xxh3;

use super::record::{Class, HeaderCopy, Position, StreamTag};
use crate::codec::{Reader, Writer, align_up, narrow, wide, word};

const MAGIC: u32 = u32::from_le_bytes(*b"HGJF");
const VERSION: u16 = 1;
/// Flag of a frame that only records how far the journal is durable.
const FLAG_MARK: u16 = 1;
/// Bytes before the first record.
pub(super) const FRAME_HEADER_BYTES: usize = 72;
const FRAME_CHECKSUM_AT: usize = 64;
/// Bytes before a record's own header.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
/// Records begin at multiples of this.
const RECORD_ALIGNMENT: usize = 8;
/// Payloads below this are copied together rather than handed to the device as parts.
const GATHER_BYTES: usize = 4096;

const CLASS_CONTROL: u8 = 0;
const CLASS_DATA: u8 = 1;
const CLASS_COPIES: u8 = 2;

/// The fields of a frame's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) store: StoreId,
    pub(super) session: u64,
    pub(super) sequence: u64,
    pub(super) position: u64,
    /// Everything below was durable when the frame was issued.
    pub(super) watermark: u64,
    /// The oldest segment still needed when the frame was issued.
    pub(super) head: u64,
    pub(super) mark: bool,
}

/// A record with its header, ready for a frame.
#[derive(Debug, Clone)]
pub(super) struct PlacedRecord {
    pub(super) encoded_header: [u8; RECORD_HEADER_BYTES],
    pub(super) header: Bytes,
    pub(super) payload: Bytes,
}

/// Bytes that a record takes in a frame.
pub(super) fn record_bytes(header: usize, payload: usize) -> usize {
    (RECORD_HEADER_BYTES + header + payload).next_multiple_of(RECORD_ALIGNMENT)
}

/// XXH3-64 of a record's header and payload.
pub(super) fn content_hash(header: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.digest()
}

fn class_byte(class: Option<Class>) -> u8 {
    match class {
        Some(Class::Control) => CLASS_CONTROL,
        Some(Class::Data) => CLASS_DATA,
        None => CLASS_COPIES,
    }
}

/// The 32 bytes before a record. `class` is none for the journal's own copies of headers.
pub(super) fn encode_record_header(
    store: StoreId,
    copy: &HeaderCopy,
    class: Option<Class>,
    header_length: usize,
    payload_length: usize,
) -> [u8; RECORD_HEADER_BYTES] {
    let header_length =
        u16::try_from(header_length).expect("append refuses headers above 65,535 bytes");
    let mut writer = Writer::with_capacity(RECORD_HEADER_BYTES);
    writer
        .u32(0)
        .u8(class_byte(class))
        .u8(copy.kind)
        .u16(header_length)
        .u32(word(payload_length))
        .u32(copy.stream.kind)
        .u64(copy.stream.id)
        .u64(copy.content);
    let mut bytes: [u8; RECORD_HEADER_BYTES] =
        writer.0.try_into().expect("the fields above are 32 bytes");
    let checksum = record_checksum(store, copy.position, &bytes);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn record_checksum(store: StoreId, position: Position, encoded: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&store.0.to_le_bytes());
    hasher.update(&position.0.to_le_bytes());
    hasher.update(&encoded[4..RECORD_HEADER_BYTES]);
    hasher.finalize()
}

/// A record as found on disk.
#[derive(Debug, Clone)]
pub(super) struct DecodedRecord {
    /// Position, stream, kind, class, content checksum, and the start of the owner's header.
    pub(super) summary: HeaderCopy,
    /// Whether it holds the journal's copies of headers.
    pub(super) is_copies: bool,
    pub(super) header: Bytes,
    pub(super) payload: Bytes,
    /// The payload's length on disk when it was left there.
    pub(super) stored_payload_bytes: usize,
    /// Whether the content fits its checksum.
    pub(super) intact: bool,
}

impl DecodedRecord {
    /// The payload's length on disk.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload.len().max(self.stored_payload_bytes)
    }
}

/// Decodes the record at the start of `bytes`, which should lie at `position`.
pub(super) fn decode_record(
    store: StoreId,
    position: Position,
    bytes: &Bytes,
) -> Option<(DecodedRecord, usize)> {
    let mut reader = Reader(bytes);
    let checksum = reader.u32()?;
    let class = reader.u8()?;
    let kind = reader.u8()?;
    let header_length = usize::from(reader.u16()?);
    let payload_length = usize::try_from(reader.u32()?).ok()?;
    let stream = StreamTag::new(reader.u32()?, reader.u64()?);
    let content = reader.u64()?;
    if class > CLASS_COPIES || checksum != record_checksum(store, position, bytes) {
        return None;
    }
    let payload_at = RECORD_HEADER_BYTES + header_length;
    let end = payload_at
        .checked_add(payload_length)
        .filter(|end| *end <= bytes.len())?;
    let header = bytes.slice(RECORD_HEADER_BYTES..payload_at);
    let payload = bytes.slice(payload_at..end);
    let intact = content == content_hash(&header, &payload);
    let summary = HeaderCopy {
        position,
        stream,
        kind,
        class: if class == CLASS_DATA {
            Class::Data
        } else {
            Class::Control
        },
        header: header.slice(..header.len().min(super::HEADER_COPY_BYTES)),
        content,
    };
    let record = DecodedRecord {
        summary,
        is_copies: class == CLASS_COPIES,
        header,
        payload,
        stored_payload_bytes: 0,
        intact,
    };
    Some((record, record_bytes(header_length, payload_length)))
}

/// The parts of a frame, together a multiple of `alignment` bytes.
pub(super) fn encode_frame(
    frame: &FrameHeader,
    records: &[PlacedRecord],
    body_bytes: usize,
    alignment: usize,
) -> Vec<Bytes> {
    let mut start = Writer::with_capacity(FRAME_HEADER_BYTES);
    start
        .u32(MAGIC)
        .u16(VERSION)
        .u16(if frame.mark { FLAG_MARK } else { 0 })
        .u64(frame.store.0)
        .u64(frame.session)
        .u64(frame.sequence)
        .u64(frame.position)
        .u64(frame.watermark)
        .u64(frame.head)
        .u32(word(body_bytes))
        .u32(word(records.len()));
    let mut hasher = Xxh3::new();
    hasher.update(&start.0);
    for record in records {
        hasher.update(&record.encoded_header);
    }
    start.u64(hasher.digest());

    let mut gathered = BytesMut::from(&start.0[..]);
    let mut parts = Vec::new();
    for record in records {
        gathered.extend_from_slice(&record.encoded_header);
        gathered.extend_from_slice(&record.header);
        if record.payload.len() < GATHER_BYTES {
            gathered.extend_from_slice(&record.payload);
        } else {
            parts.push(gathered.split().freeze());
            parts.push(record.payload.clone());
        }
        let used = RECORD_HEADER_BYTES + record.header.len() + record.payload.len();
        let padding = used.next_multiple_of(RECORD_ALIGNMENT) - used;
        gathered.extend_from_slice(&[0; RECORD_ALIGNMENT][..padding]);
    }
    let used = FRAME_HEADER_BYTES + body_bytes;
    let padding = used.next_multiple_of(alignment) - used;
    gathered.resize(gathered.len() + padding, 0);
    parts.push(gathered.freeze());
    debug_assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), used + padding);
    parts
}

/// A frame as found on disk: its own header and record headers are good.
#[derive(Debug, Clone)]
pub(super) struct DecodedFrame {
    pub(super) header: FrameHeader,
    /// The position after its padding.
    pub(super) end: u64,
    pub(super) records: Vec<DecodedRecord>,
}

impl DecodedFrame {
    /// Whether every record's content is good too.
    pub(super) fn intact(&self) -> bool {
        self.records.iter().all(|record| record.intact)
    }
}

/// Decodes the frame at `offset` of a segment's bytes, which lies at `position` of the journal.
pub(super) fn decode_frame(
    store: StoreId,
    segment: &Bytes,
    offset: usize,
    position: u64,
    alignment: u32,
) -> Option<DecodedFrame> {
    let bytes = segment.get(offset..)?;
    let mut reader = Reader(bytes);
    if reader.u32()? != MAGIC || reader.u16()? != VERSION {
        return None;
    }
    let flags = reader.u16()?;
    let header = FrameHeader {
        store: StoreId(reader.u64()?),
        session: reader.u64()?,
        sequence: reader.u64()?,
        position: reader.u64()?,
        watermark: reader.u64()?,
        head: reader.u64()?,
        mark: flags & FLAG_MARK != 0,
    };
    if header.store != store || header.position != position {
        return None;
    }
    let body_bytes = usize::try_from(reader.u32()?).ok()?;
    let count = reader.u32()?;
    let checksum = reader.u64()?;
    let body_end = FRAME_HEADER_BYTES.checked_add(body_bytes)?;
    if body_end > bytes.len() {
        return None;
    }
    let mut hasher = Xxh3::new();
    hasher.update(&bytes[..FRAME_CHECKSUM_AT]);
    let mut records = Vec::new();
    let mut at = FRAME_HEADER_BYTES;
    for _ in 0..count {
        let rest = segment.slice(offset + at..offset + body_end);
        let place = Position(position + wide(at));
        let (record, length) = decode_record(store, place, &rest)?;
        hasher.update(&rest[..RECORD_HEADER_BYTES]);
        records.push(record);
        at += length;
        // The last record's padding is part of the body, so `at` may reach but not pass its end.
        if at > body_end {
            return None;
        }
    }
    if at != body_end || hasher.digest() != checksum {
        return None;
    }
    Some(DecodedFrame {
        header,
        end: position + align_up(wide(body_end), u64::from(alignment)),
        records,
    })
}

/// Bytes that `copy` takes in a record of header copies.
pub(super) fn copy_bytes(copy: &HeaderCopy) -> usize {
    8 + 4 + 8 + 1 + 1 + 1 + 8 + copy.header.len()
}

/// The payload of a record of header copies.
pub(super) fn encode_copies(copies: &[HeaderCopy]) -> Bytes {
    let mut writer = Writer::default();
    for copy in copies {
        let length = u8::try_from(copy.header.len()).expect("copies hold at most 128 bytes");
        writer
            .u64(copy.position.0)
            .u32(copy.stream.kind)
            .u64(copy.stream.id)
            .u8(class_byte(Some(copy.class)))
            .u8(copy.kind)
            .u8(length)
            .u64(copy.content)
            .bytes(&copy.header);
    }
    writer.0.into()
}

/// The copies in such a payload; stops at the first that makes no sense.
pub(super) fn decode_copies(payload: &[u8]) -> Vec<HeaderCopy> {
    let mut reader = Reader(payload);
    let mut copies = Vec::new();
    while let Some(copy) = decode_copy(&mut reader) {
        copies.push(copy);
    }
    copies
}

fn decode_copy(reader: &mut Reader<'_>) -> Option<HeaderCopy> {
    let position = Position(reader.u64()?);
    let stream = StreamTag::new(reader.u32()?, reader.u64()?);
    let class = if reader.u8()? == CLASS_DATA {
        Class::Data
    } else {
        Class::Control
    };
    let kind = reader.u8()?;
    let length = usize::from(reader.u8()?);
    let content = reader.u64()?;
    Some(HeaderCopy {
        position,
        stream,
        kind,
        class,
        header: Bytes::copy_from_slice(reader.take(length)?),
        content,
    })
}

/// The segment that `position` lies in, and the offset there.
pub(super) fn locate(position: u64, segment_bytes: u64) -> (u64, u64) {
    (position / segment_bytes, position % segment_bytes)
}

/// The name of a segment's file.
pub(super) fn segment_path(directory: &str, segment: u64) -> String {
    format!("{directory}/{segment:016x}.journal")
}

/// The number of the segment in a file's name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".journal")?, 16).ok()
}

/// Offset as a length in memory; segments are bounded to 1 GiB.
pub(super) fn in_memory(offset: u64) -> usize {
    narrow(offset)
}
