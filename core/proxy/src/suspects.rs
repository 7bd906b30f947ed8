//! Copies that a member silently lacks: which answers of *missing* mean damage.
//!
//! Invariant: *missing* is no damage until a look-up made after it still names the blob, and the
//! shard still counts that member among those that hold it (DESIGN section 5.3).
//! Does not: repair; the member asks the shard itself before it fetches anything.

use std::collections::BTreeMap;

use hedgerow_env::{BlobName, ContainerId, StoreId};
use hedgerow_protocol::{MapTarget, Placement};

use crate::metacache::KnownExtent;

/// A member that answered that it does not have a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lacking {
    pub(crate) store: StoreId,
    pub(crate) name: BlobName,
}

/// Those of `lacking` that should hold the blob, by what a later look-up answered.
pub(crate) fn suspects(
    lacking: &[Lacking],
    fresh: &[KnownExtent],
    placements: &BTreeMap<ContainerId, Placement>,
) -> Vec<Lacking> {
    let is_suspect = |lacking: &&Lacking| {
        let names = |extent: &&KnownExtent| matches!(extent.target, MapTarget::Data { blob, .. } if blob == lacking.name);
        let Some(named) = fresh.iter().find(names) else {
            return false;
        };
        let mut known = named.missing.iter().flat_map(|missing| missing.iter());
        let placement = placements.get(&lacking.name.container);
        placement.is_some_and(|placement| placement.has(lacking.store))
            && !known.any(|store| *store == lacking.store)
    };
    lacking.iter().filter(is_suspect).copied().collect()
}
