//! What a store has promised: the epochs and generations under which it has answered, beside those that its
//! records held when it was opened.
//!
//! Whoever was answered relies on it that everything older is refused from then on. A later life of the store
//! that remembers less has broken its word, whether or not anybody comes to harm: a judge who keeps the
//! promises of one life and sees the beginning of the next one knows at once ([`StorePromises::broken_by`]).
//!
//! Does not: decide anything, or outlive the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use hedgerow_env::{ContainerId, Generation, PlacementEpoch};

/// The highest epoch and generation.
pub(crate) type Fence = (PlacementEpoch, Generation);

/// The promises of one life of a store. Whoever holds them may ask when that life is over.
#[derive(Debug, Default)]
pub struct StorePromises {
    found: BTreeMap<ContainerId, Fence>,
    given: Mutex<BTreeMap<ContainerId, Fence>>,
}

impl StorePromises {
    pub(crate) fn of(found: BTreeMap<ContainerId, Fence>) -> Self {
        Self {
            found,
            given: Mutex::default(),
        }
    }

    fn given(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Fence>> {
        self.given.lock().expect("no panic under this lock")
    }

    /// Something is about to be answered under this.
    pub(crate) fn note(&self, container: ContainerId, (epoch, generation): Fence) {
        let mut given = self.given();
        let known = given.entry(container).or_default();
        *known = (known.0.max(epoch), known.1.max(generation));
    }

    /// How a `later` life of the same store began without what this one had promised.
    ///
    /// # Panics
    /// If another thread panicked here.
    #[must_use]
    pub fn broken_by(&self, later: &Self) -> Option<String> {
        self.given().iter().find_map(|(container, given)| {
            let found = later.found.get(container).copied().unwrap_or_default();
            let is_kept = found.0 >= given.0 && found.1 >= given.1;
            let ((epoch, generation), (has_epoch, has_generation)) = (given, found);
            (!is_kept).then(|| {
                format!(
                    "{container}: answered under {epoch} and {generation}, has {has_epoch} and \
                     {has_generation}"
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedgerow_env::VirtualDiskId;

    fn container(disk: u64) -> ContainerId {
        ContainerId {
            disk: VirtualDiskId(disk),
            ..ContainerId::default()
        }
    }

    fn fence(epoch: u64, generation: u64) -> Fence {
        (PlacementEpoch(epoch), Generation(generation))
    }

    #[test]
    fn what_was_answered_under_is_kept_or_risen() {
        let before = StorePromises::default();
        before.note(container(1), fence(3, 7));
        before.note(container(1), fence(2, 8));
        let life = |found| StorePromises::of(BTreeMap::from([(container(1), found)]));
        for kept in [fence(3, 8), fence(4, 8), fence(3, 9)] {
            assert_eq!(before.broken_by(&life(kept)), None, "{kept:?}");
        }
        for broken in [fence(2, 8), fence(3, 7)] {
            assert!(before.broken_by(&life(broken)).is_some(), "{broken:?}");
        }
        assert!(before.broken_by(&StorePromises::default()).is_some());
    }
}
