//! Questions to a shard: pure functions over a view and the log index that it reflects.
//!
//! Invariants: a look-up has no gaps; a page of a feed never ends within one log index, so that an
//! index alone says where to go on; what a feed row says in full is read from the present state.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    BLOCK_UNIT_BYTES, BlobName, ContainerId, ContainerIndex, FamilyId, LayerId, StoreId,
    VirtualDiskId,
};
use hedgerow_protocol::{
    Change, MAXIMUM_BLOB_BYTES, MAXIMUM_MOVES, MAXIMUM_NAMES, MapExtent, MapTarget, MapView,
    Placement, ShardRefusal, ShardReply, ShardStatistics,
};

use super::blobs::name_state;
use super::keys::{self, Position};
use super::map::{self, Entry, LayerAt};
use super::moving::Own;
use super::rows::{BlobRow, CollectedRow, ContainerRow, FeedRow, PlacementRow};
use super::tables::{self, standing_fence, walk};
use crate::fields::after_prefix;
use crate::{Pair, StateError, View};

/// Most blocks in one look-up: 64 MiB. Its answer stays within one message, whatever is mapped.
pub const MAXIMUM_LOOKUP_BLOCKS: u32 = 1 << 17;

/// Most changes in one pull; a page that ends within one log index is completed beyond it.
pub const MAXIMUM_PULL_CHANGES: u32 = 4096;

/// Containers in one answer: some 200 bytes each.
pub const CONTAINERS_PAGE: usize = 1024;

/// Blobs that one question about holdings looks at, whoever holds them.
pub const HOLDINGS_STEP: usize = 4096;

/// Entries of a map that one question about mostly dead blobs looks at.
pub const SPARSE_STEP_ROWS: usize = 4096;

/// A blob is mostly dead when at most one in so many of its stored bytes is still referred to:
/// moving the rest then frees at least three times what it costs to write.
pub const SPARSE_SHARE: u64 = 4;

/// Marks the feed positions of a full listing. Stores hand positions back as they got them.
pub const FULL_LISTING: u64 = 1 << 63;

fn refused(reason: String) -> ShardReply {
    ShardReply::Refused(ShardRefusal::Malformed { reason })
}

/// Answers a look-up.
///
/// # Errors
/// [`StateError`].
pub fn look_up(
    view: &dyn View,
    index: u64,
    container: ContainerId,
    layers: &[LayerId],
    first_block: u32,
    blocks: u32,
) -> Result<ShardReply, StateError> {
    if blocks == 0 || blocks > MAXIMUM_LOOKUP_BLOCKS {
        return Ok(refused(format!(
            "{blocks} blocks: look 1 to {MAXIMUM_LOOKUP_BLOCKS} up at once"
        )));
    }
    let Some(end) = first_block.checked_add(blocks) else {
        return Ok(refused("the range ends past the last block".into()));
    };
    let extents = map::look_up(view, container, layers, first_block, end)?;
    Ok(ShardReply::View(view_of(view, index, container, extents)?))
}

/// The extents with all that a reader needs to fetch what they name.
fn view_of(
    view: &dyn View,
    index: u64,
    container: ContainerId,
    extents: Vec<MapExtent>,
) -> Result<MapView, StateError> {
    let floor = tables::floor(view, container.disk)?;
    let row = tables::container(view, container)?;
    let names: BTreeSet<BlobName> = extents
        .iter()
        .filter_map(|extent| match extent.target {
            MapTarget::Data { blob, .. } => Some(blob),
            MapTarget::Hole => None,
        })
        .collect();
    let mut placements: Vec<(ContainerId, PlacementRow)> = Vec::new();
    let mut incomplete = Vec::new();
    for name in names {
        if placements
            .last()
            .is_none_or(|(last, _)| *last != name.container)
        {
            let home = tables::container(view, name.container)?;
            let placement = home.and_then(|home| home.placement).ok_or_else(|| {
                StateError::Damaged(format!("{name} is mapped, its container not placed"))
            })?;
            placements.push((name.container, placement));
        }
        let (_, placement) = placements.last().expect("just pushed, or there before");
        let blob = tables::blob(view, name)?
            .ok_or_else(|| StateError::Damaged(format!("{name} is mapped and has no row")))?;
        let lacking = lacking(placement, &blob);
        if !lacking.is_empty() {
            incomplete.push((name, lacking));
        }
    }
    Ok(MapView {
        index,
        last_change: row.as_ref().map_or(0, |row| row.last_change),
        generation: standing_fence(floor.as_ref(), row.as_ref()).map(|fence| fence.generation),
        extents,
        placements: placements
            .into_iter()
            .map(|(container, placement)| (container, placement.view()))
            .collect(),
        incomplete,
    })
}

/// Whether the blob costs far more than what of it is still referred to. Plain bytes are compared
/// with stored ones: of a compressed blob less must be left.
fn is_sparse(blob: &BlobRow) -> bool {
    let live = u64::from(blob.live_blocks) * BLOCK_UNIT_BYTES;
    live * SPARSE_SHARE <= u64::from(blob.stored_bytes)
}

/// Answers which ranges of a layer, from `first_block` on, refer to mostly dead blobs of the
/// container itself: as many as one relocation can move, after a bounded number of entries.
///
/// # Errors
/// [`StateError`].
pub fn sparse(
    view: &dyn View,
    index: u64,
    container: ContainerId,
    layer: LayerId,
    first_block: u32,
) -> Result<ShardReply, StateError> {
    let at = LayerAt {
        family: container.family,
        index: container.index,
        layer,
    };
    let page = map::page_from(view, at, first_block, SPARSE_STEP_ROWS)?;
    let is_whole = page.len() < SPARSE_STEP_ROWS;
    let mut next = page.last().map(Entry::end).filter(|_| !is_whole);
    let mut known = BTreeMap::<BlobName, bool>::new();
    let mut room = u64::from(MAXIMUM_BLOB_BYTES) / BLOCK_UNIT_BYTES;
    let mut extents = Vec::new();
    for entry in page {
        let MapTarget::Data { blob: name, .. } = entry.target else {
            continue;
        };
        let is_dead = match known.get(&name) {
            Some(known) => *known,
            None => {
                let blob = tables::blob(view, name)?;
                let is_dead = name.container == container && blob.as_ref().is_some_and(is_sparse);
                known.insert(name, is_dead);
                is_dead
            }
        };
        if !is_dead {
            continue;
        }
        if extents.len() == MAXIMUM_MOVES || room < u64::from(entry.blocks) {
            next = Some(entry.first_block);
            break;
        }
        room -= u64::from(entry.blocks);
        extents.push(entry.extent());
    }
    let view = view_of(view, index, container, extents)?;
    Ok(ShardReply::Sparse { view, next })
}

fn lacking(placement: &PlacementRow, blob: &BlobRow) -> Vec<StoreId> {
    let members = placement.members.iter();
    members
        .filter(|member| !blob.is_held_by(member.slot))
        .map(|member| member.store)
        .collect()
}

fn holding(placement: &PlacementRow, blob: &BlobRow) -> Vec<StoreId> {
    let members = placement.members.iter();
    members
        .filter(|member| blob.is_held_by(member.slot))
        .map(|member| member.store)
        .collect()
}

/// The answer to a pull after the index that was applied last: nothing can have changed since.
#[must_use]
pub fn no_changes(after: u64) -> ShardReply {
    ShardReply::Changes {
        changes: Vec::new(),
        next: after,
        more: false,
        full: false,
    }
}

/// Answers a pull.
///
/// # Errors
/// [`StateError`].
pub fn pull(
    view: &dyn View,
    index: u64,
    store: StoreId,
    after: u64,
    limit: u32,
) -> Result<ShardReply, StateError> {
    let goes_on = after & FULL_LISTING != 0;
    let position = after & !FULL_LISTING;
    let behind = !goes_on && position < tables::store(view, store)?.dropped;
    let full = goes_on || behind;
    let from = if behind { 0 } else { position + 1 };
    let (rows, end) = feed_page(view, store, from, limit.clamp(1, MAXIMUM_PULL_CHANGES))?;
    let own = Own::of(view)?;
    let mut changes = Vec::with_capacity(rows.len());
    for (key, value) in rows {
        // Its new shard tells all of it, and more by now: two tales would come in any order.
        if !own.has_row(&key, &value)? {
            continue;
        }
        changes.extend(resolve(view, store, &key, &value)?);
    }
    let next = match end {
        Some(end) if full => end | FULL_LISTING,
        Some(end) => end,
        // A replica that lags behind what the store has seen sends it back to nothing.
        None => index.max(position),
    };
    Ok(ShardReply::Changes {
        changes,
        next,
        more: end.is_some(),
        full,
    })
}

/// A page of both feeds of a store in order, and the index through which it is complete if more
/// waits behind it.
fn feed_page(
    view: &dyn View,
    store: StoreId,
    from: u64,
    limit: u32,
) -> Result<(Vec<Pair>, Option<u64>), StateError> {
    let mut limit = usize::try_from(limit).expect("a u32 fits a usize here");
    loop {
        let mut horizon: Option<u64> = None;
        let mut rows: Vec<(Position, Pair)> = Vec::new();
        for (start, stop) in keys::feed_from(store, from) {
            let page = view.scan(&start, &stop, limit)?;
            if page.len() == limit
                && let Some((last, _)) = page.last()
            {
                // The last index may go on in rows that were not read.
                let last = keys::feed_position(last)?.index;
                let complete = if active(Mutant::PullSkipsRest) {
                    last
                } else {
                    last.saturating_sub(1)
                };
                horizon = Some(horizon.map_or(complete, |known| known.min(complete)));
            }
            for pair in page {
                rows.push((keys::feed_position(&pair.0)?, pair));
            }
        }
        rows.sort_by_key(|(position, _)| *position);
        if let Some(horizon) = horizon {
            rows.retain(|(position, _)| position.index <= horizon);
        }
        if rows.is_empty() && horizon.is_some() {
            // One log index has more rows than the page: take it whole.
            limit *= 2;
            continue;
        }
        return Ok((rows.into_iter().map(|(_, pair)| pair).collect(), horizon));
    }
}

/// What a feed row says at present; nothing when it was overtaken.
fn resolve(
    view: &dyn View,
    store: StoreId,
    key: &[u8],
    value: &[u8],
) -> Result<Option<Change>, StateError> {
    if keys::is_collected(key) {
        let row = CollectedRow::decode(value)?;
        return Ok(Some(Change::Collected {
            container: row.container,
            writer: row.writer,
            sequences: row.sequences,
        }));
    }
    let placement_of = |container| -> Result<Option<PlacementRow>, StateError> {
        Ok(tables::container(view, container)?.and_then(|row| row.placement))
    };
    match FeedRow::decode(value)? {
        FeedRow::Retire(container, epoch) => Ok(Some(Change::Retire { container, epoch })),
        FeedRow::Placed(container) => {
            let placement = placement_of(container)?;
            Ok(placement.map(|placement| Change::Placed {
                container,
                placement: placement.view(),
            }))
        }
        FeedRow::Incomplete(name) => {
            let (Some(placement), Some(blob)) =
                (placement_of(name.container)?, tables::blob(view, name)?)
            else {
                return Ok(None);
            };
            let expected = placement
                .member(store)
                .is_some_and(|member| member.is_writable() && !blob.is_held_by(member.slot));
            Ok(expected.then(|| Change::Incomplete {
                blob: name,
                epoch: placement.epoch,
                sources: holding(&placement, &blob),
            }))
        }
    }
}

/// Answers what is known of names.
///
/// # Errors
/// [`StateError`].
pub fn names(view: &dyn View, names: &[BlobName]) -> Result<ShardReply, StateError> {
    if names.len() > MAXIMUM_NAMES {
        return Ok(refused(format!("more than {MAXIMUM_NAMES} names")));
    }
    let mut states = Vec::with_capacity(names.len());
    for name in names {
        let floor = tables::floor(view, name.container.disk)?;
        let row = tables::container(view, name.container)?;
        let low_water = tables::marks(view, name.container, name.writer)?.low_water();
        let state = name_state(view, floor.as_ref(), row.as_ref(), *name, low_water)?;
        states.push(state);
    }
    Ok(ShardReply::Names(states))
}

/// The containers of a disk that anybody has touched, in order: also those with holes only, whose
/// fences count as much; also those that move to another shard, until they are cleared: whoever goes
/// by an older table then misses none, for the new one stands before any is cleared.
///
/// # Errors
/// [`StateError`].
pub fn containers(
    view: &dyn View,
    family: FamilyId,
    disk: VirtualDiskId,
    after: Option<ContainerIndex>,
) -> Result<ShardReply, StateError> {
    let from = after.map(|index| {
        let last = ContainerId {
            family,
            disk,
            index,
        };
        after_prefix(&keys::container(last))
    });
    let mut found: Vec<(ContainerId, Option<Placement>)> = Vec::new();
    let mut more = false;
    walk(view, &keys::containers_of(family), from, |(key, value)| {
        let container = keys::container_of_key(key)?;
        if container.disk != disk {
            return Ok(true);
        }
        more = found.len() == CONTAINERS_PAGE;
        if !more {
            let placement = ContainerRow::decode(value)?.placement;
            found.push((container, placement.map(|placement| placement.view())));
        }
        Ok(!more)
    })?;
    Ok(ShardReply::ContainersAfter { found, more })
}

/// The blobs that `store` is counted as holding. A store that lost some without knowing their names
/// finds them by it: what it lacks of these it does not have to be told of otherwise.
///
/// # Errors
/// [`StateError`].
pub fn holdings(
    view: &dyn View,
    store: StoreId,
    after: Option<BlobName>,
) -> Result<ShardReply, StateError> {
    let from = after.map(|name| after_prefix(&keys::blob(name)));
    let mut names = Vec::new();
    let (mut looked_at, mut next) = (0, None);
    let mut home: Option<(ContainerId, Option<u32>)> = None;
    let own = Own::of(view)?;
    walk(view, &keys::blobs(), from, |(key, value)| {
        let name = keys::name_of_key(key)?;
        let slot = match home {
            _ if !own.has(name.container) => None,
            Some((container, slot)) if container == name.container => slot,
            _ => {
                let row = tables::container(view, name.container)?;
                let placement = row.and_then(|row| row.placement);
                let slot = placement
                    .and_then(|placement| placement.member(store).map(|member| member.slot));
                home = Some((name.container, slot));
                slot
            }
        };
        if let Some(slot) = slot
            && BlobRow::decode(value)?.is_held_by(slot)
        {
            names.push(name);
        }
        looked_at += 1;
        if looked_at < HOLDINGS_STEP && names.len() < MAXIMUM_NAMES {
            return Ok(true);
        }
        next = Some(name);
        Ok(false)
    })?;
    Ok(ShardReply::Holdings { names, next })
}

/// One container as it stands: the placement and the generation of the fence.
///
/// # Errors
/// [`StateError`].
pub fn placement(view: &dyn View, container: ContainerId) -> Result<Option<Placement>, StateError> {
    let row = tables::container(view, container)?;
    Ok(row.and_then(|row| row.placement).map(|row| row.view()))
}

/// Stores that left a container and have not confirmed its RETIRE: they may not be named again.
///
/// # Errors
/// [`StateError`].
pub fn retiring(view: &dyn View, container: ContainerId) -> Result<Vec<StoreId>, StateError> {
    let mut stores = Vec::new();
    walk(view, &keys::retiring_of(container), None, |(key, _)| {
        stores.push(keys::retiring_store(key)?);
        Ok(true)
    })?;
    Ok(stores)
}

/// The counters.
///
/// # Errors
/// [`StateError`].
pub fn statistics(view: &dyn View) -> Result<ShardStatistics, StateError> {
    let mut sum = ShardStatistics::default();
    let own = Own::of(view)?;
    walk(view, &keys::kind(keys::CONTAINER), None, |(key, value)| {
        if !own.has_row(key, value)? {
            return Ok(true);
        }
        let row = ContainerRow::decode(value)?;
        sum.blobs += row.live_blobs;
        sum.stored_bytes += row.stored_bytes;
        if let Some(placement) = &row.placement {
            sum.containers += 1;
            for member in placement
                .members
                .iter()
                .filter(|member| member.is_writable())
            {
                sum.incomplete += member.missing;
                sum.under_replicated_bytes += member.missing_bytes;
            }
        }
        Ok(true)
    })?;
    Ok(sum)
}
