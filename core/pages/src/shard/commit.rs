//! COMMIT and VOID: how a write comes to be in the map, or never does.
//!
//! Invariants: those of `attempt`, for COMMIT; a VOID ends what was not applied, for good.
//!
//! A commit of holes alone has no blob, so neither placement nor acknowledgements concern it.

use std::collections::BTreeMap;

use hedgerow_env::{BlobName, ContainerId, Sequence, WriterId, mutants};
use hedgerow_protocol::{
    AttemptEnd, Commit, CommitTarget, MAXIMUM_EXTENTS, MAXIMUM_UNIT_BYTES, MapTarget, ShardOutcome,
    ShardRefusal, Version,
};

use super::apply::{Apply, Stop};
use super::attempt::{Attempt, check_sequence, malformed};
use super::fence::{check_admitted, check_not_deleted};
use super::keys;
use super::map::{Entry, LayerAt, let_holes_vanish, overwrite};
use super::rows::Fence;
use super::tables::{self, standing_fence};

/// Blocks of the largest unit.
const MAXIMUM_UNIT_BLOCKS: u32 = MAXIMUM_UNIT_BYTES / 512;

/// Holes that one command lets vanish beyond as many as it makes.
const VANISHING_HOLES: usize = 8;

/// Whether the commit has a blob; refuses what contradicts itself.
fn check_shape(commit: &Commit) -> Result<bool, ShardRefusal> {
    if commit.extents.is_empty() || commit.extents.len() > MAXIMUM_EXTENTS {
        return Err(malformed(format!("1 to {MAXIMUM_EXTENTS} extents")));
    }
    let mut next = 0;
    let mut has_data = false;
    for extent in &commit.extents {
        let Some(end) = extent.first_block.checked_add(extent.blocks) else {
            return Err(malformed("an extent ends past the last block"));
        };
        if extent.blocks == 0 || extent.first_block < next {
            return Err(malformed("extents must be ascending and not overlap"));
        }
        if let CommitTarget::Data {
            unit_offset_blocks, ..
        } = extent.target
        {
            has_data = true;
            if u32::from(unit_offset_blocks).saturating_add(extent.blocks) > MAXIMUM_UNIT_BLOCKS {
                return Err(malformed("an extent reaches beyond the largest unit"));
            }
        }
        next = end;
    }
    if !has_data && commit.stored_bytes != 0 {
        return Err(malformed("stored bytes without a blob"));
    }
    Ok(has_data)
}

/// The writer under which the commit's names, marks and versions stand.
fn name_of(commit: &Commit) -> BlobName {
    BlobName {
        container: commit.container,
        writer: commit.writer,
        sequence: commit.sequence,
    }
}

fn attempt_of(commit: &Commit) -> Attempt<'_> {
    Attempt {
        name: name_of(commit),
        epoch: commit.epoch,
        low_water: commit.low_water,
        acknowledged: &commit.acknowledged,
        stored_bytes: commit.stored_bytes,
    }
}

/// COMMIT.
pub(super) fn commit(apply: &mut Apply<'_>, commit: &Commit) -> Result<ShardOutcome, Stop> {
    let attempt = attempt_of(commit);
    attempt.check_shape()?;
    let has_data = check_shape(commit)?;
    let floor = apply.floor(commit.container.disk)?;
    check_not_deleted(floor.as_ref())?;
    let row = apply.container(commit.container)?;
    let standing = standing_fence(floor.as_ref(), row.as_ref());
    let fence = check_admitted(standing, commit.generation, commit.writer)?.clone();
    let marks = apply.marks(commit.container, commit.writer)?;
    if let Some(index) = attempt.applied_before(apply, &marks)? {
        return Ok(ShardOutcome::Committed { index });
    }
    if has_data {
        attempt.check_members(row.as_ref())?;
    }
    let thawed = mutants::active(mutants::Mutant::FrozenLayerWritten);
    if commit.layer != fence.layer && !thawed {
        return Err(ShardRefusal::FrozenLayer.into());
    }
    attempt.check_name(apply, &marks)?;

    attempt.record(apply, marks, row);
    let live_blocks = change_map(apply, commit)?;
    if has_data {
        // None live: every block of it was written by a later sequence before.
        attempt.add_blob(apply, live_blocks)?;
    }
    settle_holes(apply, commit, &fence)?;
    Ok(ShardOutcome::Committed {
        index: apply.index(),
    })
}

/// Overwrites the map; answers how many blocks now refer to the commit's blob.
fn change_map(apply: &mut Apply<'_>, commit: &Commit) -> Result<u32, Stop> {
    let at = LayerAt {
        family: commit.container.family,
        index: commit.container.index,
        layer: commit.layer,
    };
    let version = Version {
        writer: commit.writer,
        sequence: commit.sequence,
    };
    let mut live_blocks = 0;
    let mut released = BTreeMap::<BlobName, u32>::new();
    for extent in &commit.extents {
        let target = match extent.target {
            CommitTarget::Hole => MapTarget::Hole,
            CommitTarget::Data {
                unit,
                unit_offset_blocks,
                digest,
            } => MapTarget::Data {
                blob: name_of(commit),
                unit,
                unit_offset_blocks,
                digest,
            },
        };
        let entry = Entry {
            first_block: extent.first_block,
            blocks: extent.blocks,
            target,
            version,
        };
        let done = overwrite(apply, commit.container, at, &entry)?;
        if target != MapTarget::Hole {
            live_blocks += done.taken;
        }
        for (blob, blocks) in done.released {
            *released.entry(blob).or_default() += blocks;
        }
    }
    for (blob, blocks) in released {
        apply.release_blocks(blob, blocks, true)?;
    }
    Ok(live_blocks)
}

fn settle_holes(apply: &mut Apply<'_>, commit: &Commit, fence: &Fence) -> Result<(), Stop> {
    let limit = VANISHING_HOLES + commit.extents.len();
    vanish(
        apply,
        commit.container,
        fence,
        commit.writer,
        commit.low_water,
        limit,
    )
}

fn vanish(
    apply: &mut Apply<'_>,
    container: ContainerId,
    fence: &Fence,
    writer: WriterId,
    low_water: Sequence,
    limit: usize,
) -> Result<(), Stop> {
    // Admitted writers are sorted: whoever lies below the first of them is fenced.
    let fenced_below = fence.writers.first().copied().unwrap_or(writer);
    let_holes_vanish(apply, container, fenced_below, writer, low_water, limit)?;
    Ok(())
}

/// VOID.
pub(super) fn void(
    apply: &mut Apply<'_>,
    container: ContainerId,
    writer: WriterId,
    sequences: &[Sequence],
    low_water: Sequence,
) -> Result<ShardOutcome, Stop> {
    if sequences.len() > hedgerow_protocol::MAXIMUM_MARKS {
        return Err(malformed("too many sequences").into());
    }
    for sequence in sequences {
        check_sequence(*sequence)?;
    }
    let floor = apply.floor(container.disk)?;
    check_not_deleted(floor.as_ref())?;
    let row = apply.container(container)?;
    let standing = standing_fence(floor.as_ref(), row.as_ref());
    let fence = standing.ok_or(ShardRefusal::NotFenced)?.clone();
    let forgiving = mutants::active(mutants::Mutant::VoidAnsweredToFencedWriter);
    if !fence.admits(writer) && !forgiving {
        // What became of a fenced writer's attempts is no longer kept: unknown, not void.
        return Err(ShardRefusal::NotAdmitted.into());
    }
    let mut marks = apply.marks(container, writer)?;
    let mut ends = Vec::with_capacity(sequences.len());
    let mut new = Vec::new();
    for sequence in sequences {
        let name = BlobName {
            container,
            writer,
            sequence: *sequence,
        };
        let end = match marks.end_of(*sequence) {
            Some(_) if mutants::active(mutants::Mutant::AppliedAnsweredAsVoid) => AttemptEnd::Void,
            Some(end) => end,
            None if !marks.is_below(*sequence) => {
                marks_new(&mut new, *sequence);
                AttemptEnd::Void
            }
            None if tables::blob(apply.view(), name)?.is_some() => AttemptEnd::Applied,
            None => return Err(ShardRefusal::BelowLowWater.into()),
        };
        ends.push((*sequence, end));
    }
    if !marks.has_room(low_water, new.len()) {
        return Err(ShardRefusal::TooManyMarks.into());
    }
    // Members may hold blobs of these names.
    let has_members = row.is_some_and(|row| row.placement.is_some());
    for sequence in new {
        if mutants::active(mutants::Mutant::VoidNotRecorded) {
            continue;
        }
        marks.record(sequence, AttemptEnd::Void);
        let name = BlobName {
            container,
            writer,
            sequence,
        };
        if has_members {
            apply.put(&keys::free(name), &[])?;
        }
    }
    marks.raise(low_water);
    apply.set_marks(container, writer, marks);
    vanish(apply, container, &fence, writer, low_water, VANISHING_HOLES)?;
    Ok(ShardOutcome::Ended(ends))
}

fn marks_new(new: &mut Vec<Sequence>, sequence: Sequence) {
    if !new.contains(&sequence) {
        new.push(sequence);
    }
}
