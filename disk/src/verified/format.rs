//! Bytes of a verified file's table and log. Layout: `docs/format/verified.md`.
//!
//! Invariants: a table or a log frame is taken whole or not at all; a log frame is bound to the
//! generation of the table that it continues.
//! Does not: read or write files.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::PAGE_BYTES;
use crate::codec::{Reader, Writer, narrow, wide, word};

const VERSION: u16 = 1;
const TABLE_MAGIC: u64 = u64::from_le_bytes(*b"HGPTABLE");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"HGPL");
const FLAG_COMMIT: u16 = 1;
/// Frames begin at multiples of this.
pub(super) const FRAME_ALIGNMENT: usize = 512;
/// Bytes of a table before its entries, and of one entry.
const TABLE_HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 16;
/// Bytes of a frame before its entries, and of one entry.
const FRAME_HEADER_BYTES: usize = 64;
const FRAME_ENTRY_BYTES: usize = 24;
/// Pages of one frame: bounds what a scan must hold.
pub(super) const FRAME_PAGES_MAX: usize = 1024;

/// What is known of a page. A counter of 0 says that it was never written and reads as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PageEntry {
    pub(super) checksum: u64,
    pub(super) counter: u64,
}

/// The checksum of a page's bytes at its place.
pub(super) fn page_checksum(page: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, page)
}

/// A table as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Table {
    pub(super) generation: u64,
    /// The pages file's length in bytes.
    pub(super) length: u64,
    pub(super) entries: Vec<PageEntry>,
}

/// Bytes of the table of a file of `length` bytes.
pub(super) fn table_bytes(length: u64) -> u64 {
    wide(TABLE_HEADER_BYTES + 8) + length.div_ceil(wide(PAGE_BYTES)) * wide(ENTRY_BYTES)
}

pub(super) fn encode_table(table: &Table) -> Vec<u8> {
    let mut writer =
        Writer::with_capacity(TABLE_HEADER_BYTES + table.entries.len() * ENTRY_BYTES + 8);
    writer
        .u64(TABLE_MAGIC)
        .u16(VERSION)
        .u16(0)
        .u32(word(PAGE_BYTES))
        .u64(table.generation)
        .u64(table.length)
        .u64(wide(table.entries.len()))
        .u64(0);
    for entry in &table.entries {
        writer.u64(entry.checksum).u64(entry.counter);
    }
    let checksum = xxh3_64(&writer.0);
    writer.u64(checksum);
    writer.0
}

pub(super) fn decode_table(bytes: &[u8]) -> Option<Table> {
    let mut reader = Reader(bytes);
    if reader.u64()? != TABLE_MAGIC || reader.u16()? != VERSION {
        return None;
    }
    reader.u16()?;
    if narrow(u64::from(reader.u32()?)) != PAGE_BYTES {
        return None;
    }
    let generation = reader.u64()?;
    let length = reader.u64()?;
    let count = usize::try_from(reader.u64()?).ok()?;
    reader.u64()?;
    let body = reader.take(count.checked_mul(ENTRY_BYTES)?)?;
    if reader.u64()? != xxh3_64(&bytes[..TABLE_HEADER_BYTES + body.len()]) {
        return None;
    }
    let mut body = Reader(body);
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(PageEntry {
            checksum: body.u64()?,
            counter: body.u64()?,
        });
    }
    Some(Table {
        generation,
        length,
        entries,
    })
}

/// A log frame without its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) generation: u64,
    pub(super) sequence: u64,
    /// Every frame up to this sequence number was synced when this one was made.
    pub(super) synced: u64,
    /// The file's length after this frame.
    pub(super) length: u64,
    /// Pages at or after this byte were cut off before this frame's pages were written.
    pub(super) cut: u64,
    /// Everything up to and with this frame takes effect together.
    pub(super) commit: bool,
    /// Page numbers with their entries; the pages follow in this order.
    pub(super) pages: Vec<(u64, PageEntry)>,
}

/// Bytes of a frame's header and entries, padded.
pub(super) fn frame_header_bytes(pages: usize) -> usize {
    (FRAME_HEADER_BYTES + pages * FRAME_ENTRY_BYTES).next_multiple_of(FRAME_ALIGNMENT)
}

/// Bytes of a whole frame.
pub(super) fn frame_bytes(pages: usize) -> usize {
    frame_header_bytes(pages) + pages * PAGE_BYTES
}

pub(super) fn encode_frame(frame: &Frame) -> Vec<u8> {
    let mut writer = Writer::with_capacity(frame_bytes(frame.pages.len()));
    writer
        .u32(FRAME_MAGIC)
        .u16(VERSION)
        .u16(if frame.commit { FLAG_COMMIT } else { 0 })
        .u64(frame.generation)
        .u64(frame.sequence)
        .u64(frame.synced)
        .u64(frame.length)
        .u64(frame.cut)
        .u32(word(frame.pages.len()))
        .u32(0);
    let mut entries = Writer::with_capacity(frame.pages.len() * FRAME_ENTRY_BYTES);
    for (page, entry) in &frame.pages {
        entries.u64(*page).u64(entry.checksum).u64(entry.counter);
    }
    let checksum = frame_checksum(&writer.0, &entries.0);
    writer.u64(checksum).bytes(&entries.0).pad(FRAME_ALIGNMENT);
    writer.0
}

fn frame_checksum(header: &[u8], entries: &[u8]) -> u64 {
    xxh3_64_with_seed(entries, xxh3_64(header))
}

/// Decodes a frame's header and entries at the start of `bytes`.
pub(super) fn decode_frame(bytes: &[u8]) -> Option<Frame> {
    let mut reader = Reader(bytes);
    if reader.u32()? != FRAME_MAGIC || reader.u16()? != VERSION {
        return None;
    }
    let commit = reader.u16()? & FLAG_COMMIT != 0;
    let generation = reader.u64()?;
    let sequence = reader.u64()?;
    let synced = reader.u64()?;
    let length = reader.u64()?;
    let cut = reader.u64()?;
    let count = narrow(u64::from(reader.u32()?));
    reader.u32()?;
    let checksum = reader.u64()?;
    if count > FRAME_PAGES_MAX {
        return None;
    }
    let entries = reader.take(count * FRAME_ENTRY_BYTES)?;
    if checksum != frame_checksum(&bytes[..FRAME_HEADER_BYTES - 8], entries) {
        return None;
    }
    let mut entries = Reader(entries);
    let mut pages = Vec::with_capacity(count);
    for _ in 0..count {
        let page = entries.u64()?;
        let entry = PageEntry {
            checksum: entries.u64()?,
            counter: entries.u64()?,
        };
        pages.push((page, entry));
    }
    Some(Frame {
        generation,
        sequence,
        synced,
        length,
        cut,
        commit,
        pages,
    })
}
