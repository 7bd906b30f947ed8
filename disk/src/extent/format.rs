//! Bytes of extent segments. Layout: `docs/format/extent.md`.
//!
//! Invariants: every structure names its store, its segment and its own place, so that misdirected
//! or stale bytes are invalid; an entry carries all that is needed to rebuild the index.
//! Does not: read or write files.

use bytes::Bytes;
use hedgerow_env::{BlobName, StoreId};
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{NAME_BYTES, Reader, Writer, narrow, wide, word};
use crate::journal::Position;

const VERSION: u16 = 1;
const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"HGXS");
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"HGXE");
const DEAD_MAGIC: u32 = u32::from_le_bytes(*b"HGXD");
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"HGXF");

/// Where the two copies of the dead map lie, and how long each is.
pub(crate) const DEAD_SLOT_AT: [u64; 2] = [4096, 12_288];
pub(crate) const DEAD_SLOT_BYTES: usize = 8192;
const DEAD_FIXED_BYTES: usize = 40;
/// Where entries begin.
pub(crate) const DATA_AT: u64 = 20_480;
/// Entries of one segment: as many as the dead map has bits, rounded down.
pub(crate) const ENTRIES_MAX: usize = 65_000;
/// Flushed batches begin at multiples of this, so that no sync rewrites a durable sector.
pub(crate) const BATCH_ALIGNMENT: u64 = 4096;
/// Entries within a batch begin at multiples of this.
pub(crate) const ENTRY_ALIGNMENT: u64 = 64;
/// Payloads are checksummed in chunks of this size: a partial read verifies what it returns.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of an entry before its chunk sums.
pub(crate) const ENTRY_FIXED_BYTES: usize = 60 + NAME_BYTES;
const ENTRY_CHECKSUM_AT: usize = 8;
/// Bytes of the trailer at a finished segment's end.
pub(crate) const TRAILER_BYTES: usize = 48;

/// The first block of a segment file.
pub(crate) fn encode_segment_header(store: StoreId, segment: u64) -> Bytes {
    let mut writer = Writer::with_capacity(4096);
    writer
        .u32(SEGMENT_MAGIC)
        .u16(VERSION)
        .u16(0)
        .u64(store.0)
        .u64(segment);
    let checksum = xxh3_64(&writer.0);
    writer.u64(checksum).pad(4096);
    writer.0.into()
}

/// XXH3-64 of each chunk of a payload.
pub(crate) fn chunk_sums(payload: &[u8]) -> Vec<u64> {
    payload.chunks(CHUNK_BYTES).map(xxh3_64).collect()
}

/// Everything about a blob except its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) name: BlobName,
    /// Where the journal record lay that first held these bytes here: orders copies of one name.
    pub(crate) origin: Position,
    /// The owner's header.
    pub(crate) header: Bytes,
    pub(crate) sums: Vec<u64>,
    pub(crate) payload_bytes: u32,
}

impl Meta {
    /// Bytes of the encoded form.
    pub(crate) fn encoded_bytes(&self) -> usize {
        ENTRY_FIXED_BYTES + self.sums.len() * 8 + self.header.len()
    }

    /// Bytes of the entry with its payload, before alignment.
    pub(crate) fn entry_bytes(&self) -> u64 {
        wide(self.encoded_bytes()) + u64::from(self.payload_bytes)
    }
}

/// An entry found at open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) place: Place,
    pub(crate) meta: Meta,
    /// Its payload failed verification when the segment was scanned.
    pub(crate) bad: bool,
}

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) ordinal: u32,
    /// The entry's first byte in the segment file.
    pub(crate) offset: u64,
}

/// Flag of a footer's entry whose payload was bad when the footer was written.
const FLAG_BAD: u16 = 1;

/// The bytes of an entry before its payload.
pub(crate) fn encode_meta(store: StoreId, place: Place, meta: &Meta) -> Vec<u8> {
    encode_flagged(store, place, meta, false)
}

/// As [`encode_meta`], for a footer: `bad` is remembered, lest the payload be believed later.
pub(crate) fn encode_flagged(store: StoreId, place: Place, meta: &Meta, bad: bool) -> Vec<u8> {
    let mut writer = Writer::with_capacity(meta.encoded_bytes());
    writer
        .u32(ENTRY_MAGIC)
        .u16(VERSION)
        .u16(if bad { FLAG_BAD } else { 0 })
        .u32(0)
        .u32(place.ordinal)
        .u64(store.0)
        .u64(place.segment)
        .u64(place.offset)
        .u64(meta.origin.0)
        .name(&meta.name)
        .u32(word(meta.header.len()))
        .u32(meta.payload_bytes)
        .u32(word(meta.sums.len()));
    for sum in &meta.sums {
        writer.u64(*sum);
    }
    writer.bytes(&meta.header);
    let checksum = crc32fast::hash(&writer.0);
    writer.0[ENTRY_CHECKSUM_AT..ENTRY_CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    writer.0
}

/// Decodes what [`encode_flagged`] wrote.
pub(crate) fn decode_meta(store: StoreId, segment: u64, bytes: &[u8]) -> Option<Found> {
    let mut reader = Reader(bytes);
    if reader.u32()? != ENTRY_MAGIC || reader.u16()? != VERSION {
        return None;
    }
    let flags = reader.u16()?;
    let checksum = reader.u32()?;
    let ordinal = reader.u32()?;
    if reader.u64()? != store.0 || reader.u64()? != segment {
        return None;
    }
    let offset = reader.u64()?;
    let origin = Position(reader.u64()?);
    let name = reader.name()?;
    let (header_bytes, payload_bytes, sum_count) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let chunk = word(CHUNK_BYTES);
    if sum_count != payload_bytes.div_ceil(chunk) {
        return None;
    }
    let mut sums_reader = Reader(reader.take(narrow(u64::from(sum_count)).checked_mul(8)?)?);
    let header = reader.take(narrow(u64::from(header_bytes)))?;
    let length = bytes.len() - reader.0.len();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..ENTRY_CHECKSUM_AT]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[ENTRY_CHECKSUM_AT + 4..length]);
    if hasher.finalize() != checksum {
        return None;
    }
    let place = Place {
        segment,
        ordinal,
        offset,
    };
    let mut sums = Vec::with_capacity(sums_reader.0.len() / 8);
    while let Some(sum) = sums_reader.u64() {
        sums.push(sum);
    }
    let meta = Meta {
        name,
        origin,
        header: Bytes::copy_from_slice(header),
        sums,
        payload_bytes,
    };
    let bad = flags & FLAG_BAD != 0;
    Some(Found { place, meta, bad })
}

/// One copy of the map of dead entries.
pub(crate) fn encode_dead(store: StoreId, segment: u64, sequence: u64, bits: &[u8]) -> Bytes {
    assert!(
        bits.len() <= ENTRIES_MAX.div_ceil(8),
        "segments hold at most 65,000 entries"
    );
    let mut writer = Writer::with_capacity(DEAD_SLOT_BYTES);
    writer
        .u32(DEAD_MAGIC)
        .u16(VERSION)
        .u16(0)
        .u64(sequence)
        .u64(store.0)
        .u64(segment)
        .u32(word(bits.len()))
        .u32(0)
        .bytes(bits);
    writer.0.resize(DEAD_SLOT_BYTES - 8, 0);
    let checksum = xxh3_64(&writer.0);
    writer.u64(checksum);
    writer.0.into()
}

/// Sequence number and bits of one copy.
pub(crate) fn decode_dead(store: StoreId, segment: u64, bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let body = bytes.get(..DEAD_SLOT_BYTES - 8)?;
    let mut reader = Reader(bytes);
    if reader.u32()? != DEAD_MAGIC || reader.u16()? != VERSION {
        return None;
    }
    reader.u16()?;
    let sequence = reader.u64()?;
    if reader.u64()? != store.0 || reader.u64()? != segment {
        return None;
    }
    let length = narrow(u64::from(reader.u32()?));
    let mut end = Reader(bytes.get(DEAD_SLOT_BYTES - 8..)?);
    if end.u64()? != xxh3_64(body) {
        return None;
    }
    let bits = body.get(DEAD_FIXED_BYTES..DEAD_FIXED_BYTES.checked_add(length)?)?;
    Some((sequence, bits.to_vec()))
}

/// The index at a finished segment's end: the entries' encoded forms, then a trailer in the file's
/// last bytes.
pub(crate) fn encode_footer(store: StoreId, segment: u64, at: u64, entries: &[u8]) -> Bytes {
    let mut writer = Writer::with_capacity(entries.len() + 8192);
    writer.bytes(entries);
    let used = (entries.len() + TRAILER_BYTES).next_multiple_of(narrow(BATCH_ALIGNMENT));
    writer.0.resize(used - TRAILER_BYTES, 0);
    let start = writer.0.len();
    writer
        .u32(FOOTER_MAGIC)
        .u16(VERSION)
        .u16(0)
        .u64(store.0)
        .u64(segment)
        .u64(at)
        .u64(wide(entries.len()));
    let mut covered = entries.to_vec();
    covered.extend_from_slice(&writer.0[start..]);
    writer.u64(xxh3_64(&covered));
    writer.0.into()
}

/// Where a footer lies, from a segment file's last [`TRAILER_BYTES`] bytes: offset and length.
pub(crate) fn decode_trailer(store: StoreId, segment: u64, bytes: &[u8]) -> Option<(u64, u64)> {
    let mut reader = Reader(bytes);
    if reader.u32()? != FOOTER_MAGIC || reader.u16()? != VERSION {
        return None;
    }
    reader.u16()?;
    if reader.u64()? != store.0 || reader.u64()? != segment {
        return None;
    }
    Some((reader.u64()?, reader.u64()?))
}

/// The entries of a footer, if it fits its trailer's checksum.
pub(crate) fn decode_footer(
    store: StoreId,
    segment: u64,
    entries: &[u8],
    trailer: &[u8],
) -> Option<Vec<Found>> {
    let (covered_trailer, checksum) = trailer.split_at_checked(TRAILER_BYTES - 8)?;
    let mut covered = entries.to_vec();
    covered.extend_from_slice(covered_trailer);
    if Reader(checksum).u64()? != xxh3_64(&covered) {
        return None;
    }
    let mut rest = entries;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let entry = decode_meta(store, segment, rest)?;
        rest = &rest[entry.meta.encoded_bytes()..];
        found.push(entry);
    }
    Some(found)
}

/// The name of a segment's file.
pub(crate) fn segment_path(directory: &str, segment: u64) -> String {
    format!("{directory}/{segment:016x}.extent")
}

/// The number of the segment in a file's name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".extent")?, 16).ok()
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
