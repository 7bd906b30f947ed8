//! DROP: a deleted disk leaves, in bounded steps.
//!
//! Order of a container: the map entries of the disk's layers, then what is kept of its writers,
//! then its members are retired and the container is gone. The floor stays for ever: it refuses
//! late commands and answers for blobs that an HBlock finds later.
//! A container whose blobs another disk's layers still name keeps them and its members.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ContainerId, FamilyId, LayerId, PlacementEpoch, VirtualDiskId};
use hedgerow_protocol::{MapTarget, ShardOutcome, ShardRefusal};

use super::apply::{Apply, Stop};
use super::blobs::delete_rows;
use super::fence::delete_floor;
use super::map::{self, LayerAt};
use super::moving::Own;
use super::rows::ContainerRow;
use super::{keys, place, tables};

/// Rows that one step removes: as much work as a large commit.
const DROP_STEP_ROWS: usize = 512;

/// Layers of one disk in one command.
const MAXIMUM_LAYERS: usize = 4096;

/// DROP.
pub(super) fn drop_step(
    apply: &mut Apply<'_>,
    disk: VirtualDiskId,
    family: FamilyId,
    layers: &[LayerId],
) -> Result<ShardOutcome, Stop> {
    if layers.len() > MAXIMUM_LAYERS {
        return Err(Stop::Refused(ShardRefusal::Malformed {
            reason: format!("more than {MAXIMUM_LAYERS} layers in one step"),
        }));
    }
    if !active(Mutant::DropWithoutFloor) {
        delete_floor(apply, disk)?;
    }
    apply.write_back()?;
    let own = Own::of(apply.view())?;
    let mut containers = Vec::new();
    tables::walk(
        apply.view(),
        &keys::containers_of(family),
        None,
        |(key, value)| {
            let container = keys::container_of_key(key)?;
            if container.disk == disk && own.has(container) {
                containers.push((container, ContainerRow::decode(value)?));
            }
            Ok(containers.len() <= DROP_STEP_ROWS)
        },
    )?;
    let mut budget = DROP_STEP_ROWS;
    for (container, row) in containers {
        drop_map(apply, container, layers, &mut budget)?;
        if budget == 0 {
            return Ok(ShardOutcome::Dropped { finished: false });
        }
        // Rows of this container may have changed while its map went.
        let row = apply.container(container)?.unwrap_or(row);
        if row.live_blobs == 0 && !drop_container(apply, container, &row, &mut budget)? {
            return Ok(ShardOutcome::Dropped { finished: false });
        }
    }
    Ok(ShardOutcome::Dropped { finished: true })
}

fn drop_map(
    apply: &mut Apply<'_>,
    container: ContainerId,
    layers: &[LayerId],
    budget: &mut usize,
) -> Result<(), Stop> {
    for layer in layers {
        let at = LayerAt {
            family: container.family,
            index: container.index,
            layer: *layer,
        };
        let entries = map::page_of(apply.view(), at, *budget)?;
        *budget -= entries.len();
        for entry in entries {
            map::delete_entry(apply, container, at, &entry)?;
            if let MapTarget::Data { blob, .. } = entry.target {
                // The container's own names are freed with it; those of others are collected.
                let own = blob.container == container;
                apply.release_blocks(blob, entry.blocks, !own)?;
            }
        }
        if *budget == 0 {
            return Ok(());
        }
    }
    Ok(())
}

/// Removes the rest of a container that holds nothing; answers whether it is gone.
fn drop_container(
    apply: &mut Apply<'_>,
    container: ContainerId,
    row: &ContainerRow,
    budget: &mut usize,
) -> Result<bool, Stop> {
    apply.write_back()?;
    let prefixes = [
        keys::free_of(container),
        keys::marks_of(container),
        keys::holes_of(container),
    ];
    for prefix in prefixes {
        *budget -= delete_rows(apply, &prefix, *budget)?;
        if *budget == 0 {
            return Ok(false);
        }
    }
    if let Some(placement) = &row.placement
        && !active(Mutant::DropKeepsMembers)
    {
        let left = PlacementEpoch(placement.epoch.0 + 1);
        for member in &placement.members {
            apply.untell(member.store, member.placed)?;
            apply.delete(&keys::sweep(member.store, container))?;
            place::retire(apply, container, member.store, left)?;
        }
    }
    apply.set_container(container, None);
    apply.write_back()?;
    *budget -= 1;
    Ok(*budget > 0)
}
