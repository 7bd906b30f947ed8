//! Finding records of a Raft log in the journal files of a node that is down, and damaging them.
//! Layouts: docs/format/journal.md, docs/format/raft-log.md.

use hedgerow_disk::testing::FaultDisk;

use super::super::log_record::{Header, Kind};

/// Bytes of a journal record before its header.
const RECORD_BYTES: usize = 32;

/// A record in a journal file.
#[derive(Debug, Clone)]
pub(crate) struct Lying {
    path: String,
    offset: usize,
    length: usize,
    pub(crate) header: Header,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The records of `kind` in stream `stream`, by sequence; copied ones more than once.
pub(crate) fn records(disk: &FaultDisk, stream: u64, kind: Kind) -> Vec<Lying> {
    let mut found = Vec::new();
    for path in disk.paths("pool/journal/") {
        let bytes = disk.content(&path);
        let mut at = 0;
        while at + RECORD_BYTES + Header::BYTES <= bytes.len() {
            let record = &bytes[at..];
            let lengths = word(record, 4).to_le_bytes();
            let header_bytes = u16::from_le_bytes([lengths[2], lengths[3]]);
            let payload = u32::from_le_bytes([lengths[4], lengths[5], lengths[6], lengths[7]]);
            let is_raft = u32::from_le_bytes(record[12..16].try_into().unwrap()) == 3;
            let fits =
                lengths[..2] == [0, kind.number()] && usize::from(header_bytes) == Header::BYTES;
            let header = Header::decode(&record[RECORD_BYTES..RECORD_BYTES + Header::BYTES]);
            if let Some(header) = header
                && fits
                && is_raft
                && word(record, 16) == stream
            {
                found.push(Lying {
                    path: path.clone(),
                    offset: at,
                    length: RECORD_BYTES + Header::BYTES + usize::try_from(payload).unwrap(),
                    header,
                });
            }
            at += 8;
        }
    }
    found.sort_by_key(|lying| lying.header.sequence);
    found
}

/// Damages the payload, or what is left of the record beyond its journal header.
pub(crate) fn damage(disk: &FaultDisk, lying: &Lying) {
    let from = lying.offset + RECORD_BYTES;
    let length = lying.length - RECORD_BYTES;
    disk.rot(&lying.path, u64::try_from(from).unwrap(), length);
}

/// Damages the whole sector in which the record begins, and so its frame.
pub(crate) fn damage_sectors(disk: &FaultDisk, lying: &Lying, sectors: usize) {
    let first = lying.offset / 512 * 512;
    disk.rot(&lying.path, u64::try_from(first).unwrap(), 512 * sectors);
}
