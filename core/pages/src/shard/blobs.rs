//! CONFIRM, HANDLED and COLLECT: who holds a blob, and when it is freed.
//!
//! Invariants: a CONFIRM counts only under the present epoch and for a present member; only names
//! that nothing refers to and that can no longer be committed are collected. A collected name is
//! below its writer's L, or its writer is fenced: either is remembered for good, and COMMIT refuses
//! both.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, ContainerId, PlacementEpoch, Sequence, StoreId, WriterId};
use hedgerow_protocol::{MAXIMUM_NAMES, NameState, ShardOutcome, ShardRefusal};

use super::apply::{Apply, Stop};
use super::keys::{self, Position};
use super::moving::Own;
use super::query::FULL_LISTING;
use super::rows::{CollectedRow, ContainerRow, FloorRow, StoreRow};
use super::tables::{self, highest_writer, standing_fence};
use crate::fields::after_prefix;
use crate::{StateError, View};

/// Rows that a store's collected feed may hold: about a day of one store's deletions. A store that
/// is further behind is told to check every name that it holds.
const MAXIMUM_COLLECTED_ROWS: u32 = 65_536;

/// Rows that are looked at for the oldest one that may go. The first may, but in a shard that hands
/// its older half over; its feed is then longer for a while.
const OLDEST_ROWS: usize = 64;

/// Rows that one HANDLED forgets; the next one goes on.
const HANDLED_STEP_ROWS: usize = 1024;

fn too_many_names() -> Stop {
    Stop::Refused(ShardRefusal::Malformed {
        reason: format!("more than {MAXIMUM_NAMES} names"),
    })
}

/// CONFIRM. Without names it is a step of the store's sweep.
pub(super) fn confirm(
    apply: &mut Apply<'_>,
    store: StoreId,
    names: &[(BlobName, PlacementEpoch)],
) -> Result<ShardOutcome, Stop> {
    if names.len() > MAXIMUM_NAMES {
        return Err(too_many_names());
    }
    let mut known = Vec::with_capacity(names.len());
    for (name, epoch) in names {
        known.push(confirm_one(apply, store, *name, *epoch)?);
    }
    apply.sweep_step(store)?;
    Ok(ShardOutcome::Confirmed(known))
}

fn confirm_one(
    apply: &mut Apply<'_>,
    store: StoreId,
    name: BlobName,
    epoch: PlacementEpoch,
) -> Result<bool, StateError> {
    if !apply.owns(name.container) {
        return Ok(false);
    }
    let Some(mut blob) = tables::blob(apply.view(), name)? else {
        return Ok(false);
    };
    let Some(mut row) = apply.container(name.container)? else {
        return Ok(false);
    };
    let Some(placement) = row.placement.as_mut() else {
        return Ok(false);
    };
    let standing: Vec<u32> = placement.members.iter().map(|member| member.slot).collect();
    if placement.epoch != epoch && !active(Mutant::ConfirmUnderAnyEpoch) {
        return Ok(false);
    }
    let Some(member) = placement.member_mut(store) else {
        return Ok(false);
    };
    if blob.is_held_by(member.slot) {
        return Ok(true);
    }
    member.lacks_no_more(&blob);
    blob.holders.retain(|slot| standing.contains(slot));
    blob.holders.push(member.slot);
    if active(Mutant::ConfirmForAll) {
        blob.holders = standing;
    }
    apply.set_container(name.container, Some(row));
    apply.unlist(&mut blob, store)?;
    apply.put(&keys::blob(name), &blob.encode())?;
    Ok(true)
}

/// HANDLED.
pub(super) fn handled(
    apply: &mut Apply<'_>,
    store: StoreId,
    index: u64,
) -> Result<ShardOutcome, Stop> {
    // A position within a full listing: nothing up to it may be forgotten yet.
    if index & FULL_LISTING == 0 {
        let index = index.min(apply.index());
        let mut row = tables::store(apply.view(), store)?;
        row.handled = row.handled.max(index);
        let from = keys::collected(store, Position::default());
        let to = keys::collected(
            store,
            Position {
                index: index + 1,
                sub: 0,
            },
        );
        let own = Own::of(apply.view())?;
        for (key, value) in apply.view().scan(&from, &to, HANDLED_STEP_ROWS)? {
            // What moves to another shard stands still, and is cleared as a whole.
            if own.has_row(&key, &value)? {
                apply.delete(&key)?;
                row.collected -= 1;
            }
        }
        apply.put(&keys::store(store), &row.encode())?;
    }
    apply.sweep_step(store)?;
    Ok(ShardOutcome::Done)
}

/// What is known of `name`, and whether it may be collected.
pub(super) fn name_state(
    view: &dyn View,
    floor: Option<&FloorRow>,
    row: Option<&ContainerRow>,
    name: BlobName,
    low_water: Sequence,
) -> Result<NameState, StateError> {
    if tables::blob(view, name)?.is_some() {
        return Ok(NameState::Live);
    }
    if floor.is_some_and(|floor| floor.deleted) {
        return Ok(NameState::Collected);
    }
    let Some(row) = row else {
        return Ok(NameState::Unknown);
    };
    if name.writer > highest_writer(floor, Some(row)) || name.sequence.0 == 0 {
        return Ok(NameState::Unknown);
    }
    let admitted = standing_fence(floor, Some(row)).is_some_and(|fence| fence.admits(name.writer));
    if admitted && name.sequence >= low_water && !active(Mutant::PendingNameCollected) {
        return Ok(NameState::Pending);
    }
    Ok(NameState::Collected)
}

/// COLLECT.
pub(super) fn collect(
    apply: &mut Apply<'_>,
    container: ContainerId,
    writer: WriterId,
    sequences: &[Sequence],
) -> Result<ShardOutcome, Stop> {
    if sequences.len() > MAXIMUM_NAMES {
        return Err(too_many_names());
    }
    let floor = apply.floor(container.disk)?;
    let row = apply.container(container)?;
    let low_water = apply.marks(container, writer)?.low_water();
    let mut collected = Vec::new();
    for sequence in sequences {
        let name = BlobName {
            container,
            writer,
            sequence: *sequence,
        };
        let (floor, row) = (floor.as_ref(), row.as_ref());
        if name_state(apply.view(), floor, row, name, low_water)? == NameState::Collected {
            apply.delete(&keys::free(name))?;
            collected.push(*sequence);
        }
    }
    let placement = row.and_then(|row| row.placement);
    if !collected.is_empty() && !active(Mutant::CollectionNotTold) {
        let news = CollectedRow {
            container,
            writer,
            sequences: collected.clone(),
        };
        for member in placement.iter().flat_map(|placement| &placement.members) {
            tell_collected(apply, member.store, &news)?;
        }
    }
    Ok(ShardOutcome::Collected(collected))
}

/// Adds to the collected feed of `store`; a full feed loses its oldest row and remembers that.
fn tell_collected(
    apply: &mut Apply<'_>,
    store: StoreId,
    news: &CollectedRow,
) -> Result<(), StateError> {
    let mut row: StoreRow = tables::store(apply.view(), store)?;
    if row.collected >= MAXIMUM_COLLECTED_ROWS {
        let from = keys::collected(store, Position::default());
        let [_, (_, to)] = keys::feed_from(store, 0);
        let own = Own::of(apply.view())?;
        let mut oldest = None;
        for (key, value) in apply.view().scan(&from, &to, OLDEST_ROWS)? {
            if own.has_row(&key, &value)? {
                oldest = Some(key);
                break;
            }
        }
        if let Some(key) = oldest {
            row.dropped = keys::feed_position(&key)?.index;
            row.collected -= 1;
            apply.delete(&key)?;
        }
    }
    let position = apply.position();
    apply.put(&keys::collected(store, position), &news.encode())?;
    row.collected += 1;
    apply.put(&keys::store(store), &row.encode())
}

/// Deletes up to `budget` rows whose key begins with `prefix`; answers how many there were.
pub(super) fn delete_rows(
    apply: &mut Apply<'_>,
    prefix: &[u8],
    budget: usize,
) -> Result<usize, StateError> {
    let rows = apply.view().scan(prefix, &after_prefix(prefix), budget)?;
    for (key, _) in &rows {
        apply.delete(key)?;
    }
    Ok(rows.len())
}
