//! What the leader's driver has to propose: names to collect, feeds to go on with, resting members
//! to let go or to take back. Pure functions over a view; the machine checks each proposal again.
//!
//! Invariants: one call looks at a bounded number of rows and says where the next goes on; a member
//! is taken back only when it lacks less than its substitute, so that two cannot swap for ever.

use std::collections::BTreeMap;

use hedgerow_env::{ContainerId, PlacementEpoch, Sequence, StoreId, WriterId};
use hedgerow_protocol::{
    Layout, MAXIMUM_NAMES, MemberState, NameState, PlacementMember, ShardCommand,
};

use super::blobs::name_state;
use super::keys;
use super::moving::Own;
use super::rows::{ContainerRow, MemberRow, PlacementRow};
use super::tables::{self, has_quorum_of_whole, is_drained_to, standing_fence};
use crate::fields::after_prefix;
use crate::{StateError, View};

/// Rows that one call looks at.
const STEP_ROWS: usize = 4096;

/// Where a walk over a table goes on; empty at its beginning.
pub type Cursor = Vec<u8>;

fn page(
    view: &dyn View,
    table: u8,
    cursor: &mut Cursor,
    limit: usize,
) -> Result<Vec<crate::Pair>, StateError> {
    let prefix = keys::kind(table);
    let from = if cursor.is_empty() { &prefix } else { &*cursor };
    let rows = view.scan(from, &after_prefix(&prefix), limit)?;
    cursor.clear();
    if let Some((last, _)) = rows.last()
        && rows.len() == limit
    {
        cursor.extend_from_slice(last);
        cursor.push(0);
    }
    Ok(rows)
}

/// COLLECT commands for names that are free and settled.
///
/// # Errors
/// [`StateError`].
pub fn collectable(view: &dyn View, cursor: &mut Cursor) -> Result<Vec<ShardCommand>, StateError> {
    let own = Own::of(view)?;
    let mut found = BTreeMap::<(ContainerId, WriterId), Vec<Sequence>>::new();
    for (key, _) in page(view, keys::FREE, cursor, STEP_ROWS)? {
        let name = keys::name_of_key(&key)?;
        if !own.has(name.container) {
            continue;
        }
        let floor = tables::floor(view, name.container.disk)?;
        let row = tables::container(view, name.container)?;
        let low_water = tables::marks(view, name.container, name.writer)?.low_water();
        let state = name_state(view, floor.as_ref(), row.as_ref(), name, low_water)?;
        if state == NameState::Collected {
            let writer = (name.container, name.writer);
            found.entry(writer).or_default().push(name.sequence);
        }
    }
    let mut commands = Vec::new();
    for ((container, writer), sequences) in found {
        for sequences in sequences.chunks(MAXIMUM_NAMES) {
            commands.push(ShardCommand::Collect {
                container,
                writer,
                sequences: sequences.to_vec(),
            });
        }
    }
    Ok(commands)
}

/// A step for each store whose feed is still being filled.
///
/// # Errors
/// [`StateError`].
pub fn sweeping(view: &dyn View) -> Result<Vec<ShardCommand>, StateError> {
    let mut from = keys::kind(keys::SWEEP);
    let end = after_prefix(&from);
    let own = Own::of(view)?;
    let mut commands = Vec::new();
    while let Some((key, _)) = view.scan(&from, &end, 1)?.into_iter().next() {
        let (store, _) = keys::sweep_of_key(&key)?;
        if own.sweep_of(view, store)?.is_some() {
            commands.push(ShardCommand::Confirm {
                store,
                names: Vec::new(),
            });
        }
        from = after_prefix(&keys::sweeps_of(store));
    }
    Ok(commands)
}

/// PLACE commands that let drained members go, or take returned ones back. `is_up` tells whether a
/// store's node is up.
///
/// # Errors
/// [`StateError`].
pub fn resting(
    view: &dyn View,
    cursor: &mut Cursor,
    is_up: &dyn Fn(StoreId) -> bool,
) -> Result<Vec<ShardCommand>, StateError> {
    let own = Own::of(view)?;
    let mut commands = Vec::new();
    for (key, value) in page(view, keys::CONTAINER, cursor, STEP_ROWS)? {
        if !own.has(keys::container_of_key(&key)?) {
            continue;
        }
        let row = ContainerRow::decode(&value)?;
        let Some(placement) = &row.placement else {
            continue;
        };
        if placement.members.iter().all(MemberRow::is_writable) {
            continue;
        }
        let container = keys::container_of_key(&key)?;
        if let Some(members) = settle(view, container, &row, placement, is_up)? {
            let floor = tables::floor(view, container.disk)?;
            let fence = standing_fence(floor.as_ref(), Some(&row));
            commands.push(ShardCommand::Place {
                container,
                generation: fence.map_or(placement.generation, |fence| fence.generation),
                epoch: PlacementEpoch(placement.epoch.0 + 1),
                members,
                layout: Layout::Replicated {
                    copies: placement.copies,
                },
                write_quorum: placement.write_quorum,
                lost: Vec::new(),
            });
        }
    }
    Ok(commands)
}

/// The members without those who may leave; else with one taken back; else nothing.
fn settle(
    view: &dyn View,
    container: ContainerId,
    row: &ContainerRow,
    placement: &PlacementRow,
    is_up: &dyn Fn(StoreId) -> bool,
) -> Result<Option<Vec<PlacementMember>>, StateError> {
    let mut without = placement.clone();
    without.members.retain(MemberRow::is_writable);
    let mut remaining = without.members.iter();
    let filling = remaining.any(|member| member.state == MemberState::Filling);
    // Whether each blob is on enough others takes a walk over all of them: it waits until those who
    // are to take the places have filled, unless their counters tell that enough others have all.
    let walks = !filling || has_quorum_of_whole(&without);
    if walks && is_drained_to(view, container, row.live_blobs, &without)? {
        return Ok(Some(without.view().members));
    }
    let resting = placement
        .members
        .iter()
        .filter(|member| !member.is_writable());
    let returned = resting
        .filter(|member| is_up(member.store))
        .min_by_key(|member| (member.missing, member.store));
    let filling = placement.members.iter();
    let substitute = filling
        .filter(|member| member.state == MemberState::Filling)
        .max_by_key(|member| (member.missing, member.store));
    let (Some(returned), Some(substitute)) = (returned, substitute) else {
        return Ok(None);
    };
    if returned.missing >= substitute.missing {
        return Ok(None);
    }
    let mut members = placement.view().members;
    for member in &mut members {
        if member.store == returned.store {
            member.state = MemberState::Filling;
        } else if member.store == substitute.store {
            member.state = MemberState::Resting;
        }
    }
    Ok(Some(members))
}
