//! The split of a shard, as far as the root keeps it: which one, into which, how far.
//!
//! Invariants: one split at a time; a number of a shard is handed out once; whatever waits for each
//! shard waits for the new one from the entry that begins its split on, also what waited for the old
//! one then; the table shows the new shard only when it serves, and the old one's rows are cleared
//! only after that.
//! Does not: act on shards (`drivers/split.rs` does).

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{GroupId, MapEpoch, ReplicaNumber};
use hedgerow_protocol::{
    GroupMember, GroupRecord, MAXIMUM_SLOTS, MemberId, NodeState, RootOutcome, RootRefusal,
    SplitRecord, encode,
};

use super::cluster::invalid;
use super::keys;
use super::tables::{self, Stop};
use crate::{StateError, Update};

/// `SplitShard`.
pub(super) fn begin(
    state: &mut dyn Update,
    group: GroupId,
    epoch: MapEpoch,
) -> Result<RootOutcome, Stop> {
    let table = tables::table(state)?;
    if let Some(split) = tables::split(state)? {
        return if split.from == group && split.began == epoch {
            Ok(RootOutcome::Splitting(split))
        } else {
            Err(RootRefusal::SplitUnderWay { split }.into())
        };
    }
    if table.epoch != epoch {
        let epoch = table.epoch;
        return Err(RootRefusal::TableChanged { epoch }.into());
    }
    let old = table.shards.iter().find(|shard| shard.group == group);
    let (Some(old), Some(range)) = (old, table.range_of(group)) else {
        let number = group.0;
        let reason = format!("there is no shard {number}: `hedgerow shard list` shows them");
        return Err(invalid(reason).into());
    };
    let (_, moves) = range.halves();
    if 1 << moves.bits > MAXIMUM_SLOTS {
        let reason = format!(
            "{group} has one of {MAXIMUM_SLOTS} parts of all containers: there are no smaller ones"
        );
        return Err(invalid(reason).into());
    }
    let highest = table.shards.iter().map(|shard| shard.group.0).max();
    let split = SplitRecord {
        from: group,
        to: GroupRecord {
            group: GroupId(highest.unwrap_or(0) + 1),
            members: first_members(state, old)?,
        },
        range: moves,
        began: epoch,
        opened: false,
    };
    tables::note_replicas(state, &split.to)?;
    state.put(&keys::split(), &encode(&split))?;
    copy_pending(state, &split)?;
    Ok(RootOutcome::Splitting(split))
}

/// The new shard begins where the old one is. The first member begins a group as a rule, so one whose
/// node is up stands in front.
fn first_members(state: &dyn Update, old: &GroupRecord) -> Result<Vec<GroupMember>, StateError> {
    let nodes = tables::nodes(state)?;
    let is_up = |member: &GroupMember| {
        let mut nodes = nodes.iter();
        nodes.any(|node| node.node == member.node && node.state == NodeState::Up)
    };
    let mut members = old.members.clone();
    members.sort_by_key(|member| !is_up(member));
    let numbered = (1_u32..).zip(members).map(|(number, member)| GroupMember {
        member: MemberId {
            store: member.member.store,
            replica: ReplicaNumber(number),
        },
        ..member
    });
    Ok(numbered.collect())
}

/// What waits for the old shard concerns containers that move.
fn copy_pending(state: &mut dyn Update, split: &SplitRecord) -> Result<(), StateError> {
    if active(Mutant::SplitWithoutPendingFloors) {
        return Ok(());
    }
    for kind in [keys::PENDING_FLOOR, keys::PENDING_DROP] {
        for (key, value) in tables::rows(state, &keys::kind(kind))? {
            let (disk, group) = keys::pending_of_key(&key)?;
            if group == split.from {
                state.put(&keys::pending(kind, disk, split.to.group), &value)?;
            }
        }
    }
    Ok(())
}

/// `ShardOpened`.
pub(super) fn opened(state: &mut dyn Update, group: GroupId) -> Result<RootOutcome, Stop> {
    let split = tables::split(state)?;
    let Some(mut split) = split.filter(|split| split.to.group == group && !split.opened) else {
        return Ok(RootOutcome::Done);
    };
    let mut table = tables::table(state)?;
    table.assign(split.range, &split.to);
    tables::write_table(state, table)?;
    split.opened = true;
    state.put(&keys::split(), &encode(&split))?;
    Ok(RootOutcome::Done)
}

/// `SplitDone`.
pub(super) fn done(state: &mut dyn Update, group: GroupId) -> Result<RootOutcome, Stop> {
    let split = tables::split(state)?;
    if split.is_some_and(|split| split.to.group == group && split.opened) {
        state.delete(&keys::split())?;
    }
    Ok(RootOutcome::Done)
}
