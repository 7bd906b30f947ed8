//! Typed reads of a shard's tables, over any view; and the fence that stands for a container.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, ContainerId, StoreId, VirtualDiskId, WriterId};

use super::keys;
use super::marks::Marks;
use super::rows::{BlobRow, ContainerRow, Fence, FloorRow, PlacementRow, RetiringRow, StoreRow};
use super::split::ShardRow;
use crate::fields::after_prefix;
use crate::{Pair, StateError, View};

/// Rows read at once by jobs that walk a table: bounds their memory, not their work.
pub(super) const PAGE_ROWS: usize = 1024;

pub(super) fn container(
    view: &dyn View,
    container: ContainerId,
) -> Result<Option<ContainerRow>, StateError> {
    let bytes = view.get(&keys::container(container))?;
    bytes.map(|bytes| ContainerRow::decode(&bytes)).transpose()
}

pub(super) fn floor(view: &dyn View, disk: VirtualDiskId) -> Result<Option<FloorRow>, StateError> {
    let bytes = view.get(&keys::floor(disk))?;
    bytes.map(|bytes| FloorRow::decode(&bytes)).transpose()
}

pub(super) fn blob(view: &dyn View, name: BlobName) -> Result<Option<BlobRow>, StateError> {
    let bytes = view.get(&keys::blob(name))?;
    bytes.map(|bytes| BlobRow::decode(&bytes)).transpose()
}

pub(super) fn marks(
    view: &dyn View,
    container: ContainerId,
    writer: WriterId,
) -> Result<Marks, StateError> {
    match view.get(&keys::marks(container, writer))? {
        Some(bytes) => Marks::decode(&bytes),
        None => Ok(Marks::default()),
    }
}

pub(super) fn store(view: &dyn View, store: StoreId) -> Result<StoreRow, StateError> {
    match view.get(&keys::store(store))? {
        Some(bytes) => StoreRow::decode(&bytes),
        None => Ok(StoreRow::default()),
    }
}

pub(super) fn retiring(
    view: &dyn View,
    container: ContainerId,
    store: StoreId,
) -> Result<Option<RetiringRow>, StateError> {
    let bytes = view.get(&keys::retiring(container, store))?;
    bytes.map(|bytes| RetiringRow::decode(&bytes)).transpose()
}

/// What the shard has to do with splits, if anything.
pub(super) fn shard(view: &dyn View) -> Result<Option<ShardRow>, StateError> {
    let bytes = view.get(&keys::shard())?;
    bytes.map(|bytes| ShardRow::decode(&bytes)).transpose()
}

/// The fence that stands: the newer one of the container's own and its disk's floor.
pub(super) fn standing_fence<'a>(
    floor: Option<&'a FloorRow>,
    row: Option<&'a ContainerRow>,
) -> Option<&'a Fence> {
    let floor = floor.map(|floor| &floor.fence);
    let own = row.and_then(|row| row.fence.as_ref());
    match (floor, own) {
        (Some(floor), Some(own))
            if floor.generation > own.generation && !active(Mutant::FloorPassedOver) =>
        {
            Some(floor)
        }
        (_, Some(own)) => Some(own),
        (floor, None) => floor,
    }
}

/// The highest writer that was ever admitted to the container.
pub(super) fn highest_writer(floor: Option<&FloorRow>, row: Option<&ContainerRow>) -> WriterId {
    let floor = floor.map_or(WriterId(0), |floor| floor.highest_writer);
    let own = row.map_or(WriterId(0), |row| row.highest_writer);
    floor.max(own)
}

/// Calls `visit` for every row whose key begins with `prefix` and is at least `from`, until it
/// answers false.
pub(super) fn walk(
    view: &dyn View,
    prefix: &[u8],
    from: Option<Vec<u8>>,
    mut visit: impl FnMut(&Pair) -> Result<bool, StateError>,
) -> Result<(), StateError> {
    let end = after_prefix(prefix);
    let mut from = from.unwrap_or_else(|| prefix.to_vec());
    loop {
        let page = view.scan(&from, &end, PAGE_ROWS)?;
        for pair in &page {
            if !visit(pair)? {
                return Ok(());
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE_ROWS => {
                from.clone_from(last);
                from.push(0);
            }
            _ => return Ok(()),
        }
    }
}

/// Whether W members that take new blobs lack nothing.
pub(super) fn has_quorum_of_whole(placement: &PlacementRow) -> bool {
    let members = placement.members.iter();
    let whole = members.filter(|member| member.is_writable() && member.missing == 0);
    whole.count() >= usize::from(placement.write_quorum)
}

/// Whether every live blob of `container` is held by W members of `placement` that take new blobs:
/// only then may a member that is not lost leave for `placement`.
///
/// The counters answer in most cases; else each blob is looked at.
pub(super) fn is_drained_to(
    view: &dyn View,
    container: ContainerId,
    live_blobs: u64,
    placement: &PlacementRow,
) -> Result<bool, StateError> {
    let hasty = active(Mutant::MemberLeavesUndrained);
    if live_blobs == 0 || hasty || has_quorum_of_whole(placement) {
        return Ok(true);
    }
    let quorum = usize::from(placement.write_quorum);
    let writable: Vec<u32> = placement
        .members
        .iter()
        .filter(|member| member.is_writable())
        .map(|member| member.slot)
        .collect();
    let mut drained = true;
    walk(view, &keys::blobs_of(container), None, |(_, value)| {
        let blob = BlobRow::decode(value)?;
        let held = writable.iter().filter(|slot| blob.is_held_by(**slot));
        drained = held.count() >= quorum;
        Ok(drained)
    })?;
    Ok(drained)
}
