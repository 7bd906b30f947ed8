//! The index of a pool's blobs: name to location, with the owner's header.
//!
//! Invariants: a location changes only if it is still the one that the mover read; every blob that
//! is in the journal alone is listed, in journal order, for the flush.
//! Does not: touch the journal or the extents: each call says what became garbage.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, ContainerId, Sequence, WriterId};

use crate::extent::{Meta, Place};
use crate::journal::Position;

/// Where a blob's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    /// In the journal, at the blob's origin.
    Journal,
    /// In the extent store.
    Extent(Place),
    /// The only copy here was found damaged; the owner puts it again. The damaged extent entry
    /// stays until then, so that a restart finds the damage again, and so does a second look.
    Lost(Option<Place>),
}

/// A blob.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) meta: Arc<Meta>,
    pub(crate) location: Location,
}

/// Bytes that nothing refers to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Garbage {
    /// Release the journal record.
    Journal(Position),
    /// Kill the extent entry.
    Extent(Place),
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blobs: BTreeMap<BlobName, Entry>,
    unflushed: BTreeMap<Position, BlobName>,
    unflushed_bytes: u64,
    live_bytes: u64,
}

fn garbage_of(entry: &Entry) -> Option<Garbage> {
    match entry.location {
        Location::Journal => Some(Garbage::Journal(entry.meta.origin)),
        Location::Extent(place) => Some(Garbage::Extent(place)),
        Location::Lost(place) => place.map(Garbage::Extent),
    }
}

/// Finding an extent entry damaged does not move it, nor does finding it sound again.
fn is_same_place(from: Location, to: Location) -> bool {
    matches!(
        (from, to),
        (Location::Extent(old), Location::Lost(Some(kept)))
        | (Location::Lost(Some(old)), Location::Extent(kept)) if old == kept
    )
}

impl Index {
    /// Enters a blob, in place of an older copy of the name.
    pub(crate) fn insert(&mut self, meta: Arc<Meta>, location: Location) -> Option<Garbage> {
        let garbage = self.remove(meta.name);
        self.live_bytes += u64::from(meta.payload_bytes);
        if location == Location::Journal {
            self.unflushed.insert(meta.origin, meta.name);
            self.unflushed_bytes += u64::from(meta.payload_bytes);
        }
        self.blobs.insert(meta.name, Entry { meta, location });
        garbage
    }

    /// Removes a blob.
    pub(crate) fn remove(&mut self, name: BlobName) -> Option<Garbage> {
        let entry = self.blobs.remove(&name)?;
        self.live_bytes -= u64::from(entry.meta.payload_bytes);
        self.no_longer_unflushed(&entry.meta);
        garbage_of(&entry)
    }

    fn no_longer_unflushed(&mut self, meta: &Meta) {
        if self.unflushed.remove(&meta.origin).is_some() {
            self.unflushed_bytes -= u64::from(meta.payload_bytes);
        }
    }

    /// Moves the blob to `to` if it still has this origin and lies at `from`.
    ///
    /// Says what became garbage: the old location, or the new one when the blob changed meanwhile.
    pub(crate) fn relocate(
        &mut self,
        name: BlobName,
        origin: Position,
        from: Location,
        to: Location,
    ) -> Option<Garbage> {
        let current = self.blobs.get_mut(&name);
        let current = current.filter(|e| {
            let same = e.location == from && e.meta.origin == origin;
            same || active(Mutant::RelocateUnconditional)
        });
        let Some(entry) = current else {
            return match to {
                Location::Extent(place) => Some(Garbage::Extent(place)),
                Location::Journal | Location::Lost(_) => None,
            };
        };
        let garbage = garbage_of(entry).filter(|_| !is_same_place(from, to));
        entry.location = to;
        let meta = Arc::clone(&entry.meta);
        if from == Location::Journal {
            self.no_longer_unflushed(&meta);
        }
        garbage
    }

    pub(crate) fn get(&self, name: BlobName) -> Option<Entry> {
        self.blobs.get(&name).cloned()
    }

    pub(crate) fn contains(&self, name: BlobName) -> bool {
        self.blobs.contains_key(&name)
    }

    /// The oldest unflushed blobs, up to `bytes` of payload but at least one, before `limit`.
    pub(crate) fn oldest_unflushed(&self, bytes: u64, limit: Position) -> Vec<Arc<Meta>> {
        let mut total = 0;
        let mut batch = Vec::new();
        for name in self.unflushed.range(..limit).map(|(_, name)| name) {
            let meta = Arc::clone(&self.blobs[name].meta);
            total += u64::from(meta.payload_bytes);
            if total > bytes && !batch.is_empty() {
                break;
            }
            batch.push(meta);
        }
        batch
    }

    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.blobs.len()
    }

    /// The next `limit` names after `after`, ascending.
    pub(crate) fn page(&self, after: Option<BlobName>, limit: usize) -> Vec<BlobName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.blobs
            .range((from, Bound::Unbounded))
            .take(limit)
            .map(|(name, _)| *name)
            .collect()
    }

    /// Every name of `container`, ascending.
    pub(crate) fn of_container(&self, container: ContainerId) -> Vec<BlobName> {
        let first = BlobName {
            container,
            writer: WriterId(0),
            sequence: Sequence(0),
        };
        let own = self
            .blobs
            .range(first..)
            .take_while(|(name, _)| name.container == container);
        own.map(|(name, _)| *name).collect()
    }

    /// Every container that has a blob here, ascending.
    pub(crate) fn containers(&self) -> Vec<ContainerId> {
        let mut found: Vec<ContainerId> = Vec::new();
        let mut next = self.blobs.first_key_value().map(|(name, _)| *name);
        while let Some(name) = next {
            found.push(name.container);
            let last = BlobName {
                container: name.container,
                writer: WriterId(u64::MAX),
                sequence: Sequence(u64::MAX),
            };
            let after = (Bound::Excluded(last), Bound::Unbounded);
            next = self.blobs.range(after).next().map(|(name, _)| *name);
        }
        found
    }

    /// Every blob, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&BlobName, &Entry)> {
        self.blobs.iter()
    }

    /// Names of blobs whose only copy was found damaged.
    pub(crate) fn lost(&self) -> Vec<BlobName> {
        let lost = self.blobs.iter();
        let lost = lost.filter(|(_, entry)| matches!(entry.location, Location::Lost(_)));
        lost.map(|(name, _)| *name).collect()
    }
}
