//! The headers of the blob stream's journal records. Layout: `docs/format/journal.md`.
//!
//! Invariant: the name comes first, so that the copy of a header's first bytes says which blob a
//! damaged record held.
//! Does not: hold payloads.

use bytes::Bytes;
use hedgerow_env::BlobName;

use crate::codec::{NAME_BYTES, Reader, Writer, narrow, word};
use crate::extent::{CHUNK_BYTES, Meta};
use crate::journal::Position;

/// A blob: name, payload length, chunk sums, the owner's header.
pub(crate) const PUT: u8 = 1;
/// The end of a blob: its name.
pub(crate) const DELETE: u8 = 2;

pub(crate) fn encode_put(meta: &Meta) -> Bytes {
    let mut writer = Writer::with_capacity(NAME_BYTES + 8 + meta.sums.len() * 8);
    writer
        .name(&meta.name)
        .u32(meta.payload_bytes)
        .u32(word(meta.sums.len()));
    for sum in &meta.sums {
        writer.u64(*sum);
    }
    writer.bytes(&meta.header);
    writer.0.into()
}

pub(crate) fn decode_put(position: Position, header: &Bytes) -> Option<Meta> {
    let mut reader = Reader(header);
    let name = reader.name()?;
    let payload_bytes = reader.u32()?;
    let count = reader.u32()?;
    if count != payload_bytes.div_ceil(word(CHUNK_BYTES)) {
        return None;
    }
    let mut sums = Vec::with_capacity(narrow(u64::from(count)));
    for _ in 0..count {
        sums.push(reader.u64()?);
    }
    let header = header.slice(header.len() - reader.0.len()..);
    Some(Meta {
        name,
        origin: position,
        header,
        sums,
        payload_bytes,
    })
}

pub(crate) fn encode_delete(name: BlobName) -> Bytes {
    let mut writer = Writer::with_capacity(NAME_BYTES);
    writer.name(&name);
    writer.0.into()
}

/// The name at the front of either kind of header, also of a copy's first bytes.
pub(crate) fn name_of(header: &[u8]) -> Option<BlobName> {
    Reader(header).name()
}
