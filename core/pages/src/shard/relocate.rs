//! RELOCATE: what is left of mostly dead blobs moves to a new one.
//!
//! Invariants: only entries, and parts of entries, that still refer to the old blob's unit are
//! changed, and nothing of them but where their bytes are; their versions stay, so a write that
//! comes late is ordered as before; nothing overwritten or unmapped returns, no hole moves; the name
//! of a relocation takes effect at most once, as a commit's; each block that the new blob gains an
//! old one loses. When nothing is left to move, the new blob is free at once.
//!
//! Does not: know whether the new unit has the same bytes as the old one. Who relocates has read
//! them under the old digest, and every later reader checks the new one.

use std::collections::BTreeMap;

use hedgerow_env::BlobName;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{
    MAXIMUM_MOVES, MAXIMUM_UNIT_BYTES, MapTarget, Move, Relocate, ShardOutcome, ShardRefusal,
    Version,
};

use super::apply::{Apply, Stop};
use super::attempt::{Attempt, malformed};
use super::fence::{check_admitted, check_not_deleted};
use super::map::{Entry, LayerAt, replace_parts};
use super::tables::standing_fence;

/// Blocks of the largest unit.
const MAXIMUM_UNIT_BLOCKS: u32 = MAXIMUM_UNIT_BYTES / 512;

fn check_shape(relocate: &Relocate) -> Result<(), ShardRefusal> {
    if relocate.moves.is_empty() || relocate.moves.len() > MAXIMUM_MOVES {
        return Err(malformed(format!("1 to {MAXIMUM_MOVES} moves")));
    }
    let mut next = 0;
    for one in &relocate.moves {
        let Some(end) = one.first_block.checked_add(one.blocks) else {
            return Err(malformed("a move ends past the last block"));
        };
        if one.blocks == 0 || one.first_block < next {
            return Err(malformed("moves must be ascending and not overlap"));
        }
        let offset = one.from_offset_blocks.max(one.unit_offset_blocks);
        if u32::from(offset).saturating_add(one.blocks) > MAXIMUM_UNIT_BLOCKS {
            return Err(malformed("a move reaches beyond the largest unit"));
        }
        if one.from.container != relocate.container {
            return Err(malformed("a move from another container"));
        }
        next = end;
    }
    Ok(())
}

fn attempt_of(relocate: &Relocate) -> Attempt<'_> {
    Attempt {
        name: BlobName {
            container: relocate.container,
            writer: relocate.writer,
            sequence: relocate.sequence,
        },
        epoch: relocate.epoch,
        low_water: relocate.low_water,
        acknowledged: &relocate.acknowledged,
        stored_bytes: relocate.stored_bytes,
    }
}

/// RELOCATE.
pub(super) fn relocate(apply: &mut Apply<'_>, command: &Relocate) -> Result<ShardOutcome, Stop> {
    let attempt = attempt_of(command);
    attempt.check_shape()?;
    check_shape(command)?;
    let floor = apply.floor(command.container.disk)?;
    check_not_deleted(floor.as_ref())?;
    let row = apply.container(command.container)?;
    let standing = standing_fence(floor.as_ref(), row.as_ref());
    check_admitted(standing, command.generation, command.writer)?;
    let marks = apply.marks(command.container, command.writer)?;
    if let Some(index) = attempt.applied_before(apply, &marks)? {
        return Ok(ShardOutcome::Committed { index });
    }
    attempt.check_members(row.as_ref())?;
    attempt.check_name(apply, &marks)?;

    attempt.record(apply, marks, row);
    let moved = change_map(apply, command, attempt.name)?;
    attempt.add_blob(apply, moved)?;
    Ok(ShardOutcome::Committed {
        index: apply.index(),
    })
}

/// Moves what may be moved; answers how many blocks refer to the new blob now.
fn change_map(apply: &mut Apply<'_>, command: &Relocate, name: BlobName) -> Result<u32, Stop> {
    let at = LayerAt {
        family: command.container.family,
        index: command.container.index,
        layer: command.layer,
    };
    let mut moved = 0;
    let mut released = BTreeMap::<BlobName, u32>::new();
    for one in &command.moves {
        let change = |part: &Entry| moved_part(part, one, name);
        let range = (one.first_block, one.blocks);
        for part in replace_parts(apply, command.container, at, range, &change)? {
            moved += part.blocks;
            if let MapTarget::Data { blob, .. } = part.target {
                *released.entry(blob).or_default() += part.blocks;
            }
        }
    }
    for (blob, blocks) in released {
        apply.release_blocks(blob, blocks, true)?;
    }
    Ok(moved)
}

/// What becomes of a part of an entry that lies within the range of `one`; none when it stays.
fn moved_part(part: &Entry, one: &Move, name: BlobName) -> Option<Entry> {
    let skipped = u16::try_from(part.first_block - one.first_block)
        .expect("a move lies within the largest unit");
    let old = MapTarget::Data {
        blob: one.from,
        unit: one.from_unit,
        unit_offset_blocks: one.from_offset_blocks + skipped,
        digest: one.from_digest,
    };
    let anything = active(Mutant::MoveUnconditional) && part.target != MapTarget::Hole;
    if part.target != old && !anything {
        return None;
    }
    let mut new = *part;
    new.target = MapTarget::Data {
        blob: name,
        unit: one.unit,
        unit_offset_blocks: one.unit_offset_blocks + skipped,
        digest: one.digest,
    };
    if active(Mutant::MoveNewVersion) {
        new.version = Version {
            writer: name.writer,
            sequence: name.sequence,
        };
    }
    Some(new)
}
