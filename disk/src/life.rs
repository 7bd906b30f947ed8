//! What one life of a pool leaves to whoever judges it: the blobs that it began with, and those that it held, or
//! had deleted, for good when it ended.
//!
//! A pool promises that what was durable is found by the next open. Others have copies, so a pool that breaks its
//! word seldom harms anybody; who compares two lives of one pool knows at once ([`Life::broken_by`]).
//!
//! Does not: exist in production, where nobody judges.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hedgerow_env::{BlobName, StoreId};

use crate::index::{Index, Location};
use crate::journal::Position;

/// Deletions whose records must stay until the dead maps are durable, oldest first.
pub(crate) type Tombstones = Vec<(Position, BlobName)>;

/// One life of a pool, also when it is over. Whoever looks at it while it goes on sees the present.
#[derive(Debug)]
pub struct Life {
    store: StoreId,
    found: BTreeMap<BlobName, Position>,
    index: Arc<Mutex<Index>>,
    tombstones: Arc<Mutex<Tombstones>>,
    /// The journal position below which everything is durable.
    durable: Arc<AtomicU64>,
    /// How often a blob was found damaged.
    damage: Arc<AtomicU64>,
}

impl Life {
    /// A life that begins with what `index` holds now.
    pub(crate) fn begin(
        store: StoreId,
        index: &Arc<Mutex<Index>>,
        tombstones: &Arc<Mutex<Tombstones>>,
        durable: &Arc<AtomicU64>,
        damage: &Arc<AtomicU64>,
    ) -> Self {
        Self {
            store,
            found: whole(&index.lock().expect("no panic under this lock")),
            index: Arc::clone(index),
            tombstones: Arc::clone(tombstones),
            durable: Arc::clone(durable),
            damage: Arc::clone(damage),
        }
    }

    /// Whose life it is.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// How often a blob was found damaged in this life, at reading or moving it. On a disk that holds what was
    /// written to it, and reads it back, it never is.
    #[must_use]
    pub fn damage(&self) -> u64 {
        self.damage.load(Ordering::Relaxed)
    }

    /// How the next life of the same pool began without what this one held for good, or with what this one
    /// had deleted for good. Nothing may have happened to the disk but losses of power.
    ///
    /// # Panics
    /// If another thread panicked while it held the pool's index.
    #[must_use]
    pub fn broken_by(&self, next: &Self) -> Option<String> {
        let durable = Position(self.durable.load(Ordering::Relaxed));
        let index = self.index.lock().expect("no panic under this lock");
        let held = whole(&index);
        let lost = held.iter().filter(|(_, origin)| **origin < durable);
        for (name, origin) in lost {
            match next.found.get(name) {
                Some(found) if found == origin => {}
                Some(found) => return Some(format!("{name} of {origin} was durable, has {found}")),
                None => return Some(format!("{name} of {origin} was durable and is lost")),
            }
        }
        let tombstones = self.tombstones.lock().expect("no panic under this lock");
        for (name, found) in &next.found {
            // A replacement that was not durable may be lost, and what it replaced come back.
            if index.contains(*name) {
                continue;
            }
            let mut deletions = tombstones.iter().filter(|(_, deleted)| deleted == name);
            if !deletions.any(|(position, _)| *position >= durable && position > found) {
                return Some(format!(
                    "{name} of {found} was deleted for good and is back"
                ));
            }
        }
        None
    }
}

/// The blobs that can be read, as far as is known, each with the position of its record.
fn whole(index: &Index) -> BTreeMap<BlobName, Position> {
    let all = index.all();
    let whole = all.filter(|(_, entry)| !matches!(entry.location, Location::Lost(_)));
    whole
        .map(|(name, entry)| (*name, entry.meta.origin))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::Meta;
    use hedgerow_env::{ContainerId, Sequence, WriterId};

    fn name(sequence: u64) -> BlobName {
        BlobName {
            container: ContainerId::default(),
            writer: WriterId(1),
            sequence: Sequence(sequence),
        }
    }

    /// A life that began with blobs of these positions, and ended when everything below `durable` was.
    fn life(found: &[(u64, u64)], durable: u64) -> Life {
        let mut index = Index::default();
        for (sequence, origin) in found {
            put(&mut index, *sequence, *origin);
        }
        let tombstones = Arc::default();
        let durable = Arc::new(AtomicU64::new(durable));
        Life::begin(
            StoreId(1),
            &Arc::new(Mutex::new(index)),
            &tombstones,
            &durable,
            &Arc::default(),
        )
    }

    fn put(index: &mut Index, sequence: u64, origin: u64) {
        let meta = Meta {
            name: name(sequence),
            origin: Position(origin),
            header: bytes::Bytes::new(),
            sums: Vec::new(),
            payload_bytes: 0,
        };
        index.insert(Arc::new(meta), Location::Journal);
    }

    #[test]
    fn what_was_durable_is_found_and_what_was_not_may_be() {
        let before = life(&[(1, 10), (2, 20), (3, 90)], 90);
        for next in [&[(1, 10), (2, 20)][..], &[(1, 10), (2, 20), (3, 90)]] {
            assert_eq!(before.broken_by(&life(next, 0)), None, "{next:?}");
        }
        for next in [&[(1, 10)][..], &[(1, 10), (2, 15)]] {
            assert!(before.broken_by(&life(next, 0)).is_some(), "{next:?}");
        }
    }

    #[test]
    fn what_was_deleted_for_good_does_not_come_back() {
        for (deleted_at, may_return) in [(80, false), (95, true)] {
            let before = life(&[(1, 10)], 90);
            before.index.lock().unwrap().remove(name(1));
            before
                .tombstones
                .lock()
                .unwrap()
                .push((Position(deleted_at), name(1)));
            assert_eq!(before.broken_by(&life(&[], 0)), None);
            let broken = before.broken_by(&life(&[(1, 10)], 0));
            assert_eq!(broken.is_none(), may_return, "{broken:?}");
        }
    }

    #[test]
    fn a_replacement_that_was_not_durable_may_be_undone() {
        for (replaced_at, may_return) in [(80, false), (95, true)] {
            let before = life(&[(1, 10)], 90);
            put(&mut before.index.lock().unwrap(), 1, replaced_at);
            let broken = before.broken_by(&life(&[(1, 10)], 0));
            assert_eq!(broken.is_none(), may_return, "{broken:?}");
        }
    }
}
