//! FENCE and FLOOR: who may commit, from which generation on.
//!
//! Invariants: generations only rise; within one generation the admitted writers never change; a
//! writer that was fenced never returns (ids rise, so an id at or below the highest one admitted
//! must be admitted still).

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ContainerId, Generation, LayerId, VirtualDiskId, WriterId};
use hedgerow_protocol::{ShardOutcome, ShardRefusal};

use super::apply::{Apply, Stop};
use super::keys;
use super::rows::{ContainerRow, Fence, FloorRow};
use super::tables::{highest_writer, standing_fence, walk};

/// Most writers admitted to one disk: one for each proxy of a large clustered file system.
pub(super) const MAXIMUM_WRITERS: usize = 256;

/// The generation of a deleted disk's floor.
const HIGHEST: Generation = Generation(u64::MAX);

/// Refuses anything about a deleted disk.
pub(super) fn check_not_deleted(floor: Option<&FloorRow>) -> Result<(), ShardRefusal> {
    match floor {
        Some(floor) if floor.deleted => Err(ShardRefusal::Deleted),
        _ => Ok(()),
    }
}

/// Refuses a fence that contradicts the one that stands.
fn check_succeeds(
    standing: Option<&Fence>,
    highest: WriterId,
    fence: &Fence,
) -> Result<(), ShardRefusal> {
    let malformed = |reason: String| Err(ShardRefusal::Malformed { reason });
    if fence.writers.len() > MAXIMUM_WRITERS {
        return malformed(format!("more than {MAXIMUM_WRITERS} writers"));
    }
    if fence.generation == HIGHEST {
        return malformed("the highest generation is kept for deleted disks".into());
    }
    let Some(standing) = standing else {
        return Ok(());
    };
    if fence.generation < standing.generation && !active(Mutant::FenceMayFall) {
        return Err(ShardRefusal::StaleGeneration {
            current: standing.generation,
        });
    }
    if fence.generation == standing.generation && fence != standing {
        return malformed(format!(
            "{} stands with other writers or another layer",
            fence.generation
        ));
    }
    for writer in &fence.writers {
        let returns = !standing.admits(*writer) && *writer <= highest;
        if returns && !active(Mutant::FenceMayFall) {
            return malformed(format!("{writer} was fenced before"));
        }
    }
    Ok(())
}

/// Stops the replica over a fence that falls (invariant 2 of docs/protocol/pages.md), whatever let it
/// through: from then on a writer that lost the disk could commit again, and nobody would notice.
fn assert_succeeds(standing: Option<&Fence>, highest: WriterId, next: &Fence) {
    let Some(standing) = standing else {
        return;
    };
    assert!(
        next.generation > standing.generation || next == standing,
        "{} stands in the way of another fence at {}",
        standing.generation,
        next.generation
    );
    let is_new = |writer: &WriterId| *writer > highest || standing.admits(*writer);
    assert!(
        next.writers.iter().all(is_new),
        "no writer that was fenced returns"
    );
}

fn sorted_fence(generation: Generation, writers: &[WriterId], layer: LayerId) -> Fence {
    let mut writers = writers.to_vec();
    writers.sort_unstable();
    writers.dedup();
    Fence {
        generation,
        writers,
        layer,
    }
}

/// FENCE.
pub(super) fn fence(
    apply: &mut Apply<'_>,
    container: ContainerId,
    generation: Generation,
    writers: &[WriterId],
    layer: LayerId,
) -> Result<ShardOutcome, Stop> {
    let floor = apply.floor(container.disk)?;
    check_not_deleted(floor.as_ref())?;
    let row = apply.container(container)?;
    let fence = sorted_fence(generation, writers, layer);
    let highest = highest_writer(floor.as_ref(), row.as_ref());
    let standing = standing_fence(floor.as_ref(), row.as_ref()).cloned();
    check_succeeds(standing.as_ref(), highest, &fence)?;
    let mut row = row.unwrap_or_else(ContainerRow::default);
    if row.fence.as_ref() != Some(&fence) {
        assert_succeeds(standing.as_ref(), highest, &fence);
        drop_marks_of_fenced(apply, container, &fence)?;
        let newest = fence.writers.last().copied().unwrap_or_default();
        row.highest_writer = highest.max(newest);
        row.fence = Some(fence);
        apply.set_container(container, Some(row.clone()));
    }
    Ok(ShardOutcome::Fenced {
        last_change: row.last_change,
        placement: row.placement.as_ref().map(super::rows::PlacementRow::view),
    })
}

/// A fenced writer can commit nothing: its names that nothing refers to are free by definition.
fn drop_marks_of_fenced(
    apply: &mut Apply<'_>,
    container: ContainerId,
    fence: &Fence,
) -> Result<(), Stop> {
    apply.write_back()?;
    let mut fenced = Vec::new();
    walk(
        apply.view(),
        &keys::marks_of(container),
        None,
        |(key, _)| {
            if !fence.admits(keys::marks_writer(key)?) {
                fenced.push(key.clone());
            }
            Ok(true)
        },
    )?;
    for key in fenced {
        apply.delete(&key)?;
    }
    Ok(())
}

/// FLOOR.
pub(super) fn floor(
    apply: &mut Apply<'_>,
    disk: VirtualDiskId,
    generation: Generation,
    writers: &[WriterId],
    layer: LayerId,
) -> Result<ShardOutcome, Stop> {
    let standing = apply.floor(disk)?;
    check_not_deleted(standing.as_ref())?;
    let fence = sorted_fence(generation, writers, layer);
    let highest = highest_writer(standing.as_ref(), None);
    check_succeeds(standing.as_ref().map(|row| &row.fence), highest, &fence)?;
    assert_succeeds(standing.as_ref().map(|row| &row.fence), highest, &fence);
    let newest = fence.writers.last().copied().unwrap_or_default();
    let row = FloorRow {
        fence,
        highest_writer: highest.max(newest),
        deleted: false,
    };
    apply.set_floor(disk, row)?;
    Ok(ShardOutcome::Done)
}

/// Raises the floor of `disk` to the highest, for good.
pub(super) fn delete_floor(apply: &mut Apply<'_>, disk: VirtualDiskId) -> Result<(), Stop> {
    let standing = apply.floor(disk)?;
    if standing.as_ref().is_some_and(|row| row.deleted) {
        return Ok(());
    }
    let row = FloorRow {
        fence: sorted_fence(HIGHEST, &[], LayerId(0)),
        highest_writer: highest_writer(standing.as_ref(), None),
        deleted: true,
    };
    apply.set_floor(disk, row)?;
    Ok(())
}

/// Refuses what a writer may not do here now.
pub(super) fn check_admitted(
    fence: Option<&Fence>,
    generation: Generation,
    writer: WriterId,
) -> Result<&Fence, ShardRefusal> {
    let Some(fence) = fence else {
        return Err(ShardRefusal::NotFenced);
    };
    if active(Mutant::CommitFenceUnchecked) {
        return Ok(fence);
    }
    if generation < fence.generation {
        return Err(ShardRefusal::StaleGeneration {
            current: fence.generation,
        });
    }
    if generation > fence.generation {
        return Err(ShardRefusal::NotFenced);
    }
    if !fence.admits(writer) {
        return Err(ShardRefusal::NotAdmitted);
    }
    Ok(fence)
}
