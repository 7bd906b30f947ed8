//! COMMIT and VOID: how a write comes to be in the map, or never does.
//!
//! Invariants: a sequence is applied at most once; a repeated COMMIT of an applied one is answered
//! as applied, whatever became of its placement meanwhile; the blob of a commit is held by W
//! members that are members now; who lacks it is counted and told.
//!
//! A commit of holes alone has no blob, so neither placement nor acknowledgements concern it.

use std::collections::BTreeMap;

use hedgerow_env::{BlobName, ContainerId, Sequence, WriterId, mutants};
use hedgerow_protocol::{
    AttemptEnd, Commit, CommitTarget, MAXIMUM_EXTENTS, MAXIMUM_UNIT_BYTES, MapTarget, ShardOutcome,
    ShardRefusal, Version,
};

use super::apply::{Apply, Stop};
use super::fence::{check_admitted, check_not_deleted};
use super::keys;
use super::map::{Entry, LayerAt, let_holes_vanish, overwrite};
use super::marks::Marks;
use super::rows::{BlobRow, ContainerRow, Fence, PlacementRow};
use super::tables::{self, standing_fence};

/// Largest sequence: leaves room for arithmetic, and no writer lives that long.
const MAXIMUM_SEQUENCE: u64 = 1 << 62;

/// Blocks of the largest unit.
const MAXIMUM_UNIT_BLOCKS: u32 = MAXIMUM_UNIT_BYTES / 512;

/// Holes that one command lets vanish beyond as many as it makes.
const VANISHING_HOLES: usize = 8;

/// What a repeated COMMIT answers when the index of its change is no longer kept: a cache fill at
/// this index is older than every change, so nothing is filled.
pub(super) const INDEX_NOT_KEPT: u64 = 0;

fn malformed(reason: impl Into<String>) -> ShardRefusal {
    ShardRefusal::Malformed {
        reason: reason.into(),
    }
}

pub(super) fn check_sequence(sequence: Sequence) -> Result<(), ShardRefusal> {
    if (1..=MAXIMUM_SEQUENCE).contains(&sequence.0) {
        Ok(())
    } else {
        Err(malformed(format!("{sequence} is no sequence")))
    }
}

/// Whether the commit has a blob; refuses what contradicts itself.
fn check_shape(commit: &Commit) -> Result<bool, ShardRefusal> {
    check_sequence(commit.sequence)?;
    if commit.low_water.0 > MAXIMUM_SEQUENCE {
        return Err(malformed("no such low-water mark"));
    }
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

/// When the commit was applied earlier: the index to answer.
fn applied_before(apply: &Apply<'_>, marks: &Marks, commit: &Commit) -> Result<Option<u64>, Stop> {
    let blob = || tables::blob(apply.view(), name_of(commit));
    if marks.end_of(commit.sequence) == Some(AttemptEnd::Applied) {
        let index = blob()?.map_or(INDEX_NOT_KEPT, |blob| blob.committed.index);
        return Ok(Some(index));
    }
    if marks.is_below(commit.sequence) {
        return Ok(blob()?.map(|blob| blob.committed.index));
    }
    Ok(None)
}

/// The placement's part: epoch and acknowledgements.
fn check_members<'a>(
    row: Option<&'a ContainerRow>,
    commit: &Commit,
) -> Result<&'a PlacementRow, ShardRefusal> {
    let Some(placement) = row.and_then(|row| row.placement.as_ref()) else {
        return Err(ShardRefusal::NotPlaced);
    };
    let unchecked = mutants::active(mutants::Mutant::PlacementCheckedOutsideShard);
    if commit.epoch != placement.epoch && !unchecked {
        return Err(ShardRefusal::StaleEpoch {
            current: placement.view(),
        });
    }
    let counted = if unchecked {
        commit.acknowledged.len()
    } else {
        placement
            .members
            .iter()
            .filter(|member| {
                let takes =
                    member.is_writable() || mutants::active(mutants::Mutant::RestingMemberCounts);
                takes && commit.acknowledged.contains(&member.store)
            })
            .count()
    };
    let got = u8::try_from(counted).unwrap_or(u8::MAX);
    let short = u8::from(mutants::active(mutants::Mutant::QuorumOneShort));
    if got < placement.write_quorum.saturating_sub(short) {
        return Err(ShardRefusal::TooFewAcknowledged {
            got,
            needed: placement.write_quorum,
        });
    }
    Ok(placement)
}

/// Whether the name can still be committed.
fn check_name(apply: &Apply<'_>, marks: &Marks, commit: &Commit) -> Result<(), Stop> {
    if mutants::active(mutants::Mutant::CollectWithoutRefusal) {
        return Ok(());
    }
    if marks.is_below(commit.sequence) {
        // Below L a name is either waiting to be collected or was collected.
        let waits = apply.view().get(&keys::free(name_of(commit)))?.is_some();
        return Err(Stop::Refused(if waits {
            ShardRefusal::BelowLowWater
        } else {
            ShardRefusal::Collected
        }));
    }
    if marks.end_of(commit.sequence) == Some(AttemptEnd::Void) {
        return Err(ShardRefusal::Void.into());
    }
    if commit.low_water > commit.sequence {
        return Err(malformed("the low-water mark is above the sequence").into());
    }
    if !marks.has_room(commit.low_water, 1) {
        return Err(ShardRefusal::TooManyMarks.into());
    }
    Ok(())
}

/// COMMIT.
pub(super) fn commit(apply: &mut Apply<'_>, commit: &Commit) -> Result<ShardOutcome, Stop> {
    let has_data = check_shape(commit)?;
    let floor = apply.floor(commit.container.disk)?;
    check_not_deleted(floor.as_ref())?;
    let row = apply.container(commit.container)?;
    let standing = standing_fence(floor.as_ref(), row.as_ref());
    let fence = check_admitted(standing, commit.generation, commit.writer)?.clone();
    let mut marks = apply.marks(commit.container, commit.writer)?;
    if let Some(index) = applied_before(apply, &marks, commit)? {
        return Ok(ShardOutcome::Committed { index });
    }
    if has_data {
        check_members(row.as_ref(), commit)?;
    }
    let thawed = mutants::active(mutants::Mutant::FrozenLayerWritten);
    if commit.layer != fence.layer && !thawed {
        return Err(ShardRefusal::FrozenLayer.into());
    }
    check_name(apply, &marks, commit)?;

    if marks.end_of(commit.sequence).is_none() {
        marks.record(commit.sequence, AttemptEnd::Applied);
    }
    marks.raise(commit.low_water);
    apply.set_marks(commit.container, commit.writer, marks);
    let mut row = row.unwrap_or_default();
    row.last_change = apply.index();
    apply.set_container(commit.container, Some(row));
    let live_blocks = change_map(apply, commit)?;
    if has_data {
        add_blob(apply, commit, live_blocks)?;
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

/// Counts the commit's blob, and tells the members that lack it.
fn add_blob(apply: &mut Apply<'_>, commit: &Commit, live_blocks: u32) -> Result<(), Stop> {
    let name = name_of(commit);
    if live_blocks == 0 {
        // Every block of it was written by a later sequence before.
        apply.put(&keys::free(name), &[])?;
        return Ok(());
    }
    let mut row = apply
        .container(commit.container)?
        .expect("a commit with data was checked against its container's placement");
    row.live_blobs += 1;
    row.stored_bytes += u64::from(commit.stored_bytes);
    let mut blob = BlobRow {
        live_blocks,
        stored_bytes: commit.stored_bytes,
        committed: apply.position(),
        holders: Vec::new(),
        listed: Vec::new(),
    };
    let mut lacking = Vec::new();
    let placement = row
        .placement
        .as_mut()
        .expect("a commit with data was checked against its placement");
    let all_hold = mutants::active(mutants::Mutant::IncompleteDropped);
    let write_quorum = usize::from(placement.write_quorum);
    let mut held = 0;
    for member in &mut placement.members {
        let acknowledged = member.is_writable() && commit.acknowledged.contains(&member.store);
        held += usize::from(acknowledged);
        if acknowledged || all_hold {
            blob.holders.push(member.slot);
            continue;
        }
        member.lacks(commit.stored_bytes);
        if member.is_writable() {
            lacking.push(member.store);
        }
    }
    let short = usize::from(mutants::active(mutants::Mutant::QuorumOneShort));
    assert!(
        held + short >= write_quorum,
        "{name} was committed on {held} of {write_quorum} present members"
    );
    apply.set_container(commit.container, Some(row));
    for store in lacking {
        apply.list(name, &mut blob, store)?;
    }
    apply.put(&keys::blob(name), &blob.encode())?;
    Ok(())
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
