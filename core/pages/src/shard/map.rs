//! The block map: overwriting a range of a layer, and looking a range up through layers.
//!
//! Invariants: the entries of one layer never overlap; every entry and every hole carries the
//! version of the client write that made it; on one block a writer's higher sequence stands against
//! its lower one, whatever the order of their commits.

use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, FamilyId, LayerId, Sequence, VirtualDiskId, WriterId,
    mutants,
};
use hedgerow_protocol::{Digest, MapExtent, MapTarget, Version};

use super::apply::Apply;
use super::keys::{self, HoleKey};
use crate::fields::{Put, Take};
use crate::{StateError, View};

/// One layer of a family at one container index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerAt {
    pub(super) family: FamilyId,
    pub(super) index: ContainerIndex,
    pub(super) layer: LayerId,
}

impl LayerAt {
    pub(super) fn key(self, first_block: u32) -> Vec<u8> {
        keys::map(self.family, self.index, self.layer, first_block)
    }
}

/// An entry: a range of one layer, what it refers to, and the version that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) first_block: u32,
    pub(super) blocks: u32,
    pub(super) target: MapTarget,
    pub(super) version: Version,
}

impl Entry {
    pub(super) fn end(&self) -> u32 {
        self.first_block + self.blocks
    }

    /// As look-ups answer it.
    pub(super) fn extent(&self) -> MapExtent {
        MapExtent {
            first_block: self.first_block,
            blocks: self.blocks,
            target: self.target,
            version: Some(self.version),
        }
    }

    /// The part of it in `first..end`, which it covers.
    fn part(&self, first: u32, end: u32) -> Self {
        assert!(
            self.first_block <= first && first < end && end <= self.end(),
            "a part lies within its entry"
        );
        let mut part = *self;
        part.first_block = first;
        part.blocks = end - first;
        if let MapTarget::Data {
            unit_offset_blocks, ..
        } = &mut part.target
        {
            let skipped = u16::try_from(first - self.first_block)
                .expect("an entry with data lies within one unit");
            if !mutants::active(mutants::Mutant::PartKeepsOffset) {
                *unit_offset_blocks += skipped;
            }
        }
        part
    }

    fn encode(&self) -> Vec<u8> {
        match self.target {
            MapTarget::Hole => Put::new(0)
                .u32(self.blocks)
                .u64(self.version.writer.0)
                .u64(self.version.sequence.0)
                .done(),
            MapTarget::Data {
                blob,
                unit,
                unit_offset_blocks,
                digest,
            } => {
                let own =
                    blob.writer == self.version.writer && blob.sequence == self.version.sequence;
                let put = Put::new(if own { 1 } else { 2 })
                    .u32(self.blocks)
                    .u64(self.version.writer.0)
                    .u64(self.version.sequence.0)
                    .u64(blob.container.disk.0)
                    .u16(unit)
                    .u16(unit_offset_blocks)
                    .u128(digest.0);
                if own {
                    put.done()
                } else {
                    put.u64(blob.writer.0).u64(blob.sequence.0).done()
                }
            }
        }
    }

    fn decode(at: LayerAt, key: &[u8], value: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(value, "map");
        let tag = take.u8()?;
        let blocks = take.u32()?;
        let version = Version {
            writer: WriterId(take.u64()?),
            sequence: Sequence(take.u64()?),
        };
        let target = match tag {
            0 => MapTarget::Hole,
            1 | 2 => {
                let disk = VirtualDiskId(take.u64()?);
                let unit = take.u16()?;
                let unit_offset_blocks = take.u16()?;
                let digest = Digest(take.u128()?);
                let (writer, sequence) = if tag == 1 {
                    (version.writer, version.sequence)
                } else {
                    (WriterId(take.u64()?), Sequence(take.u64()?))
                };
                let container = ContainerId {
                    family: at.family,
                    disk,
                    index: at.index,
                };
                MapTarget::Data {
                    blob: BlobName {
                        container,
                        writer,
                        sequence,
                    },
                    unit,
                    unit_offset_blocks,
                    digest,
                }
            }
            _ => return Err(take.damaged("names no kind of target")),
        };
        take.end()?;
        Ok(Self {
            first_block: keys::map_first_block(key)?,
            blocks,
            target,
            version,
        })
    }
}

/// The entries of a layer that overlap `first..end`, in order.
pub(super) fn overlapping(
    view: &dyn View,
    at: LayerAt,
    first: u32,
    end: u32,
) -> Result<Vec<Entry>, StateError> {
    let mut found = Vec::new();
    if let Some((key, value)) = view.last(&at.key(0), &at.key(first))? {
        let before = Entry::decode(at, &key, &value)?;
        if before.end() > first {
            found.push(before);
        }
    }
    let blocks = usize::try_from(end - first).expect("a u32 fits a usize here");
    for (key, value) in view.scan(&at.key(first), &at.key(end), blocks)? {
        found.push(Entry::decode(at, &key, &value)?);
    }
    Ok(found)
}

/// Every entry of a layer whose key begins with a map prefix; for dropping a layer in steps.
pub(super) fn page_of(
    view: &dyn View,
    at: LayerAt,
    limit: usize,
) -> Result<Vec<Entry>, StateError> {
    let prefix = keys::map_layer(at.family, at.index, at.layer);
    view.scan(&prefix, &crate::fields::after_prefix(&prefix), limit)?
        .iter()
        .map(|(key, value)| Entry::decode(at, key, value))
        .collect()
}

/// Entries of a layer that begin at `first` or behind it, in order.
pub(super) fn page_from(
    view: &dyn View,
    at: LayerAt,
    first: u32,
    limit: usize,
) -> Result<Vec<Entry>, StateError> {
    let end = crate::fields::after_prefix(&keys::map_layer(at.family, at.index, at.layer));
    view.scan(&at.key(first), &end, limit)?
        .iter()
        .map(|(key, value)| Entry::decode(at, key, value))
        .collect()
}

/// What an overwrite did.
#[derive(Debug, Default)]
pub(super) struct Overwritten {
    /// Blocks that now refer to the new target.
    pub(super) taken: u32,
    /// Blobs that lost blocks, each with how many.
    pub(super) released: Vec<(BlobName, u32)>,
}

fn put_entry(
    apply: &mut Apply<'_>,
    container: ContainerId,
    at: LayerAt,
    entry: &Entry,
) -> Result<(), StateError> {
    apply.put(&at.key(entry.first_block), &entry.encode())?;
    if entry.target == MapTarget::Hole {
        apply.put(&hole_key(container, at, entry).encode(), &[])?;
    }
    Ok(())
}

pub(super) fn delete_entry(
    apply: &mut Apply<'_>,
    container: ContainerId,
    at: LayerAt,
    entry: &Entry,
) -> Result<(), StateError> {
    apply.delete(&at.key(entry.first_block))?;
    if entry.target == MapTarget::Hole {
        apply.delete(&hole_key(container, at, entry).encode())?;
    }
    Ok(())
}

fn hole_key(container: ContainerId, at: LayerAt, entry: &Entry) -> HoleKey {
    HoleKey {
        container,
        writer: entry.version.writer,
        sequence: entry.version.sequence,
        layer: at.layer,
        first_block: entry.first_block,
    }
}

/// Makes the range of `new` refer to its target, except where the same writer wrote later.
pub(super) fn overwrite(
    apply: &mut Apply<'_>,
    container: ContainerId,
    at: LayerAt,
    new: &Entry,
) -> Result<Overwritten, StateError> {
    let mut done = Overwritten::default();
    let mut unwritten = new.first_block;
    let mut pieces = Vec::new();
    for old in overlapping(apply.view(), at, new.first_block, new.end())? {
        let first = old.first_block.max(new.first_block);
        let end = old.end().min(new.end());
        let later =
            old.version.writer == new.version.writer && old.version.sequence > new.version.sequence;
        if later && !mutants::active(mutants::Mutant::LateCommitOverwrites) {
            if unwritten < first {
                pieces.push(new.part(unwritten, first));
            }
            unwritten = end;
            continue;
        }
        delete_entry(apply, container, at, &old)?;
        if old.first_block < first {
            put_entry(apply, container, at, &old.part(old.first_block, first))?;
        }
        if end < old.end() && !mutants::active(mutants::Mutant::OverwriteLosesTail) {
            put_entry(apply, container, at, &old.part(end, old.end()))?;
        }
        if let MapTarget::Data { blob, .. } = old.target {
            let lost = mutants::active(mutants::Mutant::OverwriteLosesTail);
            let end = if lost { old.end() } else { end };
            done.released.push((blob, end - first));
        }
    }
    if unwritten < new.end() {
        pieces.push(new.part(unwritten, new.end()));
    }
    let leaves_no_trace = new.target == MapTarget::Hole
        && mutants::active(mutants::Mutant::UnmapWithoutVersionedHole);
    for piece in pieces {
        done.taken += piece.blocks;
        if !leaves_no_trace {
            put_entry(apply, container, at, &piece)?;
        }
    }
    // In production, too: nothing else would ever tell that an older write took the place of a later
    // one, and it costs one look at entries that were just written.
    assert!(
        is_covered(apply.view(), at, new)?,
        "every block of {new:?} keeps its version or a later one of its writer"
    );
    Ok(done)
}

/// Replaces the parts of entries within `blocks` blocks from `first` on by what `change` makes of
/// them; those of which it makes nothing stay. Answers the replaced parts as they were.
pub(super) fn replace_parts(
    apply: &mut Apply<'_>,
    container: ContainerId,
    at: LayerAt,
    (first, blocks): (u32, u32),
    change: &dyn Fn(&Entry) -> Option<Entry>,
) -> Result<Vec<Entry>, StateError> {
    let end = first + blocks;
    let mut replaced = Vec::new();
    for old in overlapping(apply.view(), at, first, end)? {
        let part = old.part(old.first_block.max(first), old.end().min(end));
        let Some(new) = change(&part) else {
            continue;
        };
        assert!(
            (new.first_block, new.blocks) == (part.first_block, part.blocks),
            "a part is replaced by one of its range"
        );
        delete_entry(apply, container, at, &old)?;
        if old.first_block < part.first_block {
            let before = old.part(old.first_block, part.first_block);
            put_entry(apply, container, at, &before)?;
        }
        if part.end() < old.end() {
            put_entry(apply, container, at, &old.part(part.end(), old.end()))?;
        }
        put_entry(apply, container, at, &new)?;
        replaced.push(part);
    }
    Ok(replaced)
}

/// Whether each block of `new` has an entry of its version, or of a later one of the same writer.
fn is_covered(view: &dyn View, at: LayerAt, new: &Entry) -> Result<bool, StateError> {
    let mut next = new.first_block;
    for entry in overlapping(view, at, new.first_block, new.end())? {
        let later = entry.version.writer == new.version.writer
            && entry.version.sequence >= new.version.sequence;
        if !later || entry.first_block > next {
            return Ok(false);
        }
        next = entry.end();
    }
    Ok(next >= new.end())
}

/// Looks `first..end` up through `layers`, newest first: the whole range, without gaps.
pub(super) fn look_up(
    view: &dyn View,
    container: ContainerId,
    layers: &[LayerId],
    first: u32,
    end: u32,
) -> Result<Vec<MapExtent>, StateError> {
    let mut layers = layers.to_vec();
    if mutants::active(mutants::Mutant::OlderLayerFirst) {
        layers.reverse();
    }
    let mut open = vec![(first, end)];
    let mut found: Vec<MapExtent> = Vec::new();
    for layer in layers {
        let at = LayerAt {
            family: container.family,
            index: container.index,
            layer,
        };
        let mut still_open = Vec::new();
        for (from, to) in open {
            let mut next = from;
            for entry in overlapping(view, at, from, to)? {
                let part = entry.part(entry.first_block.max(from), entry.end().min(to));
                if next < part.first_block {
                    still_open.push((next, part.first_block));
                }
                next = part.end();
                found.push(part.extent());
            }
            if next < to {
                still_open.push((next, to));
            }
        }
        open = still_open;
    }
    found.extend(open.into_iter().map(|(from, to)| MapExtent {
        first_block: from,
        blocks: to - from,
        target: MapTarget::Hole,
        version: None,
    }));
    found.sort_unstable_by_key(|extent| extent.first_block);
    Ok(found)
}

/// Removes holes of `container` that can no longer be outlived by an older write: those of fenced
/// writers, and those of `writer` below `low_water`; at most `limit` of them.
pub(super) fn let_holes_vanish(
    apply: &mut Apply<'_>,
    container: ContainerId,
    fenced_below: WriterId,
    writer: WriterId,
    low_water: Sequence,
    limit: usize,
) -> Result<(), StateError> {
    let low_water = if mutants::active(mutants::Mutant::HoleVanishesEarly) {
        Sequence(u64::MAX)
    } else {
        low_water
    };
    let ranges = [
        (
            keys::holes_of(container),
            keys::holes_of_writer(container, fenced_below),
        ),
        (
            keys::holes_of_writer(container, writer),
            keys::holes_below(container, writer, low_water),
        ),
    ];
    for (from, to) in ranges {
        for (key, _) in apply.view().scan(&from, &to, limit)? {
            let hole = HoleKey::decode(&key)?;
            apply.delete(&key)?;
            let older = (
                keys::map_index(container.family, container.index),
                keys::map_layer(container.family, container.index, hole.layer),
            );
            // An older layer may have the block: then the hole hides it and stays for good.
            if apply.view().scan(&older.0, &older.1, 1)?.is_empty() {
                let at = LayerAt {
                    family: container.family,
                    index: container.index,
                    layer: hole.layer,
                };
                apply.delete(&at.key(hole.first_block))?;
            }
        }
    }
    Ok(())
}
