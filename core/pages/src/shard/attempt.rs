//! What COMMIT and RELOCATE have in common: a name that takes effect at most once, under the fence
//! that stands, with a blob that W present members hold.
//!
//! Invariants: a sequence is applied at most once; a repeated attempt of an applied one is answered
//! as applied, whatever became of its placement meanwhile; the blob of an attempt is held by W
//! members that are members now; who lacks it is counted and told.

use hedgerow_env::{BlobName, PlacementEpoch, Sequence, StoreId, mutants};
use hedgerow_protocol::{AttemptEnd, ShardRefusal};

use super::apply::{Apply, Stop};
use super::keys;
use super::marks::Marks;
use super::rows::{BlobRow, ContainerRow, PlacementRow};
use super::tables;

/// Largest sequence: leaves room for arithmetic, and no writer lives that long.
const MAXIMUM_SEQUENCE: u64 = 1 << 62;

/// What a repeated attempt is answered when the index of its change is no longer kept: a cache fill
/// at this index is older than every change, so nothing is filled.
pub(super) const INDEX_NOT_KEPT: u64 = 0;

pub(super) fn malformed(reason: impl Into<String>) -> ShardRefusal {
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

/// One attempt under one name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// Its name; that of its blob too, if it has one.
    pub(super) name: BlobName,
    pub(super) epoch: PlacementEpoch,
    pub(super) low_water: Sequence,
    pub(super) acknowledged: &'a [StoreId],
    pub(super) stored_bytes: u32,
}

impl Attempt<'_> {
    pub(super) fn check_shape(&self) -> Result<(), ShardRefusal> {
        check_sequence(self.name.sequence)?;
        if self.low_water.0 > MAXIMUM_SEQUENCE {
            return Err(malformed("no such low-water mark"));
        }
        Ok(())
    }

    /// When it was applied earlier: the index to answer.
    pub(super) fn applied_before(
        &self,
        apply: &Apply<'_>,
        marks: &Marks,
    ) -> Result<Option<u64>, Stop> {
        let blob = || tables::blob(apply.view(), self.name);
        if marks.end_of(self.name.sequence) == Some(AttemptEnd::Applied) {
            let index = blob()?.map_or(INDEX_NOT_KEPT, |blob| blob.committed.index);
            return Ok(Some(index));
        }
        if marks.is_below(self.name.sequence) {
            return Ok(blob()?.map(|blob| blob.committed.index));
        }
        Ok(None)
    }

    /// The placement's part: epoch and acknowledgements.
    pub(super) fn check_members<'a>(
        &self,
        row: Option<&'a ContainerRow>,
    ) -> Result<&'a PlacementRow, ShardRefusal> {
        let Some(placement) = row.and_then(|row| row.placement.as_ref()) else {
            return Err(ShardRefusal::NotPlaced);
        };
        let unchecked = mutants::active(mutants::Mutant::PlacementCheckedOutsideShard);
        if self.epoch != placement.epoch && !unchecked {
            return Err(ShardRefusal::StaleEpoch {
                current: placement.view(),
            });
        }
        let counted = if unchecked {
            self.acknowledged.len()
        } else {
            placement
                .members
                .iter()
                .filter(|member| {
                    let takes = member.is_writable()
                        || mutants::active(mutants::Mutant::RestingMemberCounts);
                    takes && self.acknowledged.contains(&member.store)
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

    /// Whether the name can still take effect.
    pub(super) fn check_name(&self, apply: &Apply<'_>, marks: &Marks) -> Result<(), Stop> {
        if mutants::active(mutants::Mutant::CollectWithoutRefusal) {
            return Ok(());
        }
        if marks.is_below(self.name.sequence) {
            // Below L a name is either waiting to be collected or was collected.
            let waits = apply.view().get(&keys::free(self.name))?.is_some();
            return Err(Stop::Refused(if waits {
                ShardRefusal::BelowLowWater
            } else {
                ShardRefusal::Collected
            }));
        }
        if marks.end_of(self.name.sequence) == Some(AttemptEnd::Void) {
            return Err(ShardRefusal::Void.into());
        }
        if self.low_water > self.name.sequence {
            return Err(malformed("the low-water mark is above the sequence").into());
        }
        if !marks.has_room(self.low_water, 1) {
            return Err(ShardRefusal::TooManyMarks.into());
        }
        Ok(())
    }

    /// Records the name as applied, and the change of the container's map.
    pub(super) fn record(
        &self,
        apply: &mut Apply<'_>,
        mut marks: Marks,
        row: Option<ContainerRow>,
    ) {
        if marks.end_of(self.name.sequence).is_none() {
            marks.record(self.name.sequence, AttemptEnd::Applied);
        }
        marks.raise(self.low_water);
        apply.set_marks(self.name.container, self.name.writer, marks);
        let mut row = row.unwrap_or_default();
        row.last_change = apply.index();
        apply.set_container(self.name.container, Some(row));
    }

    /// Counts the blob, and tells the members that lack it. With no block that refers to it, it is
    /// free at once.
    pub(super) fn add_blob(&self, apply: &mut Apply<'_>, live_blocks: u32) -> Result<(), Stop> {
        let name = self.name;
        if live_blocks == 0 {
            apply.put(&keys::free(name), &[])?;
            return Ok(());
        }
        let mut row = apply
            .container(name.container)?
            .expect("an attempt with data was checked against its container's placement");
        row.live_blobs += 1;
        row.stored_bytes += u64::from(self.stored_bytes);
        let mut blob = BlobRow {
            live_blocks,
            stored_bytes: self.stored_bytes,
            committed: apply.position(),
            holders: Vec::new(),
            listed: Vec::new(),
        };
        let mut lacking = Vec::new();
        let placement = row
            .placement
            .as_mut()
            .expect("an attempt with data was checked against its placement");
        let all_hold = mutants::active(mutants::Mutant::IncompleteDropped);
        let write_quorum = usize::from(placement.write_quorum);
        let mut held = 0;
        for member in &mut placement.members {
            let acknowledged = member.is_writable() && self.acknowledged.contains(&member.store);
            held += usize::from(acknowledged);
            if acknowledged || all_hold {
                blob.holders.push(member.slot);
                continue;
            }
            member.lacks(self.stored_bytes);
            if member.is_writable() {
                lacking.push(member.store);
            }
        }
        let short = usize::from(mutants::active(mutants::Mutant::QuorumOneShort));
        assert!(
            held + short >= write_quorum,
            "{name} was committed on {held} of {write_quorum} present members"
        );
        apply.set_container(name.container, Some(row));
        for store in lacking {
            apply.list(name, &mut blob, store)?;
        }
        apply.put(&keys::blob(name), &blob.encode())?;
        Ok(())
    }
}
