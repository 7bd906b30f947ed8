//! One segment of the extent store as kept in memory: its entries, which of them are dead, its
//! file.
//!
//! Invariants: ordinals count entries from 0 without gaps; dead bytes never exceed data bytes.
//! Does not: read or write; `extent::Extents` does.

use std::sync::Arc;

use hedgerow_env::{BlobName, File};

use super::format::ENTRIES_MAX;
use crate::codec::{narrow, word};

/// A segment.
pub(super) struct Segment {
    pub(super) file: Arc<dyn File>,
    /// Held by open reads: a pinned segment's file is not removed.
    pub(super) pin: Arc<()>,
    /// Name, entry bytes with alignment, and offset of each entry.
    pub(super) entries: Vec<(BlobName, u32, u64)>,
    dead: Vec<u8>,
    pub(super) dead_entries: usize,
    pub(super) dead_bytes: u64,
    pub(super) data_bytes: u64,
    /// Bytes that the file takes.
    pub(super) file_bytes: u64,
    /// The footer is written; nothing more is appended.
    pub(super) finished: bool,
    /// The sequence number of the newest dead map on disk.
    pub(super) dead_sequence: u64,
    /// The dead map changed since it was written.
    pub(super) dead_dirty: bool,
}

impl Segment {
    pub(super) fn new(file: Arc<dyn File>, file_bytes: u64) -> Self {
        Self {
            file,
            pin: Arc::new(()),
            entries: Vec::new(),
            dead: Vec::new(),
            dead_entries: 0,
            dead_bytes: 0,
            data_bytes: 0,
            file_bytes,
            finished: false,
            dead_sequence: 0,
            dead_dirty: false,
        }
    }

    /// Adds the next entry and returns its ordinal.
    pub(super) fn push(&mut self, name: BlobName, bytes: u32, offset: u64) -> u32 {
        assert!(
            self.entries.len() < ENTRIES_MAX,
            "the caller rolls to a new segment before"
        );
        self.entries.push((name, bytes, offset));
        self.data_bytes += u64::from(bytes);
        word(self.entries.len() - 1)
    }

    /// Adds dead entries for ordinals whose headers were lost, so that the next has its own number.
    pub(super) fn push_lost_until(&mut self, ordinal: u32) {
        while word(self.entries.len()) < ordinal {
            let lost = self.push(BlobName::default(), 0, 0);
            self.kill(lost);
        }
    }

    pub(super) fn is_dead(&self, ordinal: u32) -> bool {
        let (byte, bit) = locate(ordinal);
        self.dead.get(byte).is_some_and(|bits| bits & bit != 0)
    }

    /// Marks an entry dead; harmless when it is already.
    pub(super) fn kill(&mut self, ordinal: u32) {
        let Some((_, bytes, _)) = self.entries.get(narrow(u64::from(ordinal))) else {
            return;
        };
        if self.is_dead(ordinal) {
            return;
        }
        let (byte, bit) = locate(ordinal);
        if self.dead.len() <= byte {
            self.dead.resize(byte + 1, 0);
        }
        self.dead[byte] |= bit;
        self.dead_entries += 1;
        self.dead_bytes += u64::from(*bytes);
        self.dead_dirty = true;
        assert!(self.dead_bytes <= self.data_bytes, "an entry dies once");
    }

    /// Applies the map found on disk.
    pub(super) fn apply_dead(&mut self, sequence: u64, bits: &[u8]) {
        for ordinal in 0..word(self.entries.len()) {
            let (byte, bit) = locate(ordinal);
            if bits.get(byte).is_some_and(|bits| bits & bit != 0) {
                self.kill(ordinal);
            }
        }
        self.dead_sequence = sequence;
        self.dead_dirty = false;
    }

    pub(super) fn dead_bits(&self) -> &[u8] {
        &self.dead
    }

    pub(super) fn is_all_dead(&self) -> bool {
        self.dead_entries == self.entries.len()
    }

    pub(super) fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }

    /// Ordinals and names of the entries still alive.
    pub(super) fn live_entries(&self) -> Vec<(u32, BlobName)> {
        (0..word(self.entries.len()))
            .filter(|ordinal| !self.is_dead(*ordinal))
            .map(|ordinal| (ordinal, self.entries[narrow(u64::from(ordinal))].0))
            .collect()
    }
}

fn locate(ordinal: u32) -> (usize, u8) {
    (narrow(u64::from(ordinal / 8)), 1 << (ordinal % 8))
}
