//! PLACE: the only way that a placement exists or changes.
//!
//! Invariants: epochs rise by one; a member leaves only when every live blob is held by W members
//! that take new blobs, or its store is declared lost; a store that left is not named again before
//! its RETIRE was confirmed; every member that lacks blobs comes to have them listed in its feed;
//! no node has two members, resting ones included, so that one node's failure is one member's.
//! Does not: check domains or liveness. Whoever proposes chose by the placement rules.

use std::collections::BTreeSet;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ContainerId, Generation, NodeId, PlacementEpoch, StoreId};
use hedgerow_protocol::{
    Layout, MAXIMUM_REPLICATION_FACTOR, MemberState, PlacementMember, ShardOutcome, ShardRefusal,
};

use super::apply::{Apply, Stop};
use super::fence::check_not_deleted;
use super::keys::{self, Position};
use super::rows::{ContainerRow, FeedRow, MemberRow, PlacementRow, RetiringRow};
use super::tables::{self, is_drained_to, standing_fence};

/// Most members in all states: twice the most copies, so that each may rest beside its substitute.
const MAXIMUM_MEMBERS: usize = 2 * MAXIMUM_REPLICATION_FACTOR as usize;

/// A PLACE as it was proposed.
pub(super) struct Proposal<'a> {
    pub(super) container: ContainerId,
    pub(super) generation: Generation,
    pub(super) epoch: PlacementEpoch,
    pub(super) members: &'a [PlacementMember],
    pub(super) layout: Layout,
    pub(super) write_quorum: u8,
    pub(super) lost: &'a [StoreId],
}

fn bad(reason: impl Into<String>, current: Option<&PlacementRow>) -> ShardRefusal {
    ShardRefusal::BadPlacement {
        reason: reason.into(),
        current: current.map(PlacementRow::view),
    }
}

/// Rules on the proposal by itself.
fn check_members(
    proposal: &Proposal<'_>,
    current: Option<&PlacementRow>,
) -> Result<(), ShardRefusal> {
    let Layout::Replicated { copies } = proposal.layout;
    if !(1..=MAXIMUM_REPLICATION_FACTOR).contains(&copies) {
        return Err(bad(
            format!("{copies} copies: 1 to 6 are possible"),
            current,
        ));
    }
    if proposal.write_quorum > copies || proposal.write_quorum <= copies / 2 {
        return Err(bad(
            format!(
                "a write quorum of {} does not fit {copies} copies",
                proposal.write_quorum
            ),
            current,
        ));
    }
    if proposal.members.len() > MAXIMUM_MEMBERS {
        return Err(bad(format!("more than {MAXIMUM_MEMBERS} members"), current));
    }
    let stores: BTreeSet<StoreId> = proposal.members.iter().map(|member| member.store).collect();
    if stores.len() != proposal.members.len() {
        return Err(bad("a store is named twice", current));
    }
    let nodes: BTreeSet<NodeId> = proposal.members.iter().map(|member| member.node).collect();
    if nodes.len() != proposal.members.len() {
        return Err(bad("a node has two members", current));
    }
    let writable = proposal
        .members
        .iter()
        .filter(|member| member.state != MemberState::Resting)
        .count();
    if writable != usize::from(copies) {
        return Err(bad(
            format!("{writable} members take new blobs, {copies} copies are asked for"),
            current,
        ));
    }
    Ok(())
}

/// Whether `placement` is what the proposal asks for: then it was applied before.
fn is_same(placement: &PlacementRow, proposal: &Proposal<'_>) -> bool {
    let Layout::Replicated { copies } = proposal.layout;
    placement.epoch == proposal.epoch
        && placement.copies == copies
        && placement.write_quorum == proposal.write_quorum
        && placement.members.len() == proposal.members.len()
        && proposal.members.iter().all(|member| {
            placement
                .member(member.store)
                .is_some_and(|known| known.is_writable() == (member.state != MemberState::Resting))
        })
}

/// PLACE.
pub(super) fn place(apply: &mut Apply<'_>, proposal: &Proposal<'_>) -> Result<ShardOutcome, Stop> {
    let container = proposal.container;
    let floor = apply.floor(container.disk)?;
    check_not_deleted(floor.as_ref())?;
    let row = apply.container(container)?;
    if let Some(fence) = standing_fence(floor.as_ref(), row.as_ref())
        && proposal.generation < fence.generation
    {
        return Err(ShardRefusal::StaleGeneration {
            current: fence.generation,
        }
        .into());
    }
    let row = row.unwrap_or_default();
    let current = row.placement.as_ref();
    if let Some(placement) = current
        && is_same(placement, proposal)
    {
        return Ok(ShardOutcome::Placed(placement.view()));
    }
    check_epoch(proposal, current)?;
    check_members(proposal, current)?;
    let joined = apply.position();
    let (next, slots) = successor(apply, proposal, &row, joined)?;
    check_leaving(apply, proposal, &row, &next)?;
    enact(apply, container, row, next, slots)
}

fn check_epoch(
    proposal: &Proposal<'_>,
    current: Option<&PlacementRow>,
) -> Result<(), ShardRefusal> {
    match current {
        Some(placement)
            if proposal.epoch == placement.epoch && active(Mutant::TwoPlacementsInOneEpoch) =>
        {
            Ok(())
        }
        Some(placement) if proposal.epoch.0 != placement.epoch.0 + 1 => {
            Err(ShardRefusal::StaleEpoch {
                current: placement.view(),
            })
        }
        None if proposal.epoch.0 != 1 => Err(bad("the first epoch is 1", None)),
        _ => Ok(()),
    }
}

/// The placement that the proposal makes of the current one, and the next free slot.
fn successor(
    apply: &Apply<'_>,
    proposal: &Proposal<'_>,
    row: &ContainerRow,
    joined: Position,
) -> Result<(PlacementRow, u32), Stop> {
    let current = row.placement.as_ref();
    let mut slots = row.next_slot;
    let mut members = Vec::with_capacity(proposal.members.len());
    for member in proposal.members {
        let rests = member.state == MemberState::Resting;
        let known = current.and_then(|placement| placement.member(member.store));
        let mut next = match known {
            Some(known) => *known,
            None => {
                if rests {
                    return Err(bad("a new member cannot rest", current).into());
                }
                let retiring = tables::retiring(apply.view(), proposal.container, member.store)?;
                if retiring.is_some() && !active(Mutant::StoreNamedBeforeRetired) {
                    let reason = format!("{} has not yet confirmed its RETIRE", member.store);
                    return Err(bad(reason, current).into());
                }
                slots += 1;
                let whole = active(Mutant::NewMemberCountsAsWhole);
                let (blobs, bytes) = if whole {
                    (0, 0)
                } else {
                    (row.live_blobs, row.stored_bytes)
                };
                MemberRow {
                    store: member.store,
                    node: member.node,
                    state: MemberState::Resting,
                    slot: slots,
                    joined,
                    missing: blobs,
                    missing_bytes: bytes,
                    owed: blobs,
                    placed: Position::default(),
                }
            }
        };
        next.node = member.node;
        if rests {
            next.state = MemberState::Resting;
        } else if next.state == MemberState::Resting {
            // New, or taken back: it owes what it lacks.
            next.state = MemberState::Filling;
            next.joined = joined;
            next.owed = next.missing;
            next.settle();
        }
        members.push(next);
    }
    let Layout::Replicated { copies } = proposal.layout;
    let next = PlacementRow {
        epoch: proposal.epoch,
        generation: proposal.generation,
        copies,
        write_quorum: proposal.write_quorum,
        members,
    };
    Ok((next, slots))
}

/// Members that are not lost leave only when `next` holds everything.
fn check_leaving(
    apply: &Apply<'_>,
    proposal: &Proposal<'_>,
    row: &ContainerRow,
    next: &PlacementRow,
) -> Result<(), Stop> {
    let current = row.placement.as_ref();
    let leaving = current.iter().flat_map(|placement| &placement.members);
    let not_lost = leaving
        .filter(|member| next.member(member.store).is_none())
        .find(|member| !proposal.lost.contains(&member.store));
    let Some(member) = not_lost else {
        return Ok(());
    };
    if is_drained_to(apply.view(), proposal.container, row.live_blobs, next)? {
        return Ok(());
    }
    let reason = format!(
        "{} cannot leave: some blob is not confirmed on {} others",
        member.store, next.write_quorum
    );
    Err(bad(reason, current).into())
}

/// Writes the placement, and tells its members and those who left.
fn enact(
    apply: &mut Apply<'_>,
    container: ContainerId,
    mut row: ContainerRow,
    mut next: PlacementRow,
    slots: u32,
) -> Result<ShardOutcome, Stop> {
    let former = row.placement.take();
    // Whoever knows a placement by its epoch alone would else act on another one.
    assert!(
        former
            .as_ref()
            .is_none_or(|former| former.epoch < next.epoch),
        "{container}: an epoch has one placement: {former:?}, then {next:?}"
    );
    for member in former.iter().flat_map(|placement| &placement.members) {
        apply.untell(member.store, member.placed)?;
        if next.member(member.store).is_none() {
            retire(apply, container, member.store, next.epoch)?;
            if member.missing > 0 {
                apply.start_sweep(member.store, container)?;
            }
        }
    }
    for member in &mut next.members {
        member.placed = apply.tell(member.store, FeedRow::Placed(container))?;
        if member.missing > 0 && !active(Mutant::SweepNotStarted) {
            apply.start_sweep(member.store, container)?;
        }
    }
    let placed = next.view();
    let stores: Vec<StoreId> = next.members.iter().map(|member| member.store).collect();
    row.next_slot = slots;
    row.placement = Some(next);
    apply.set_container(container, Some(row));
    for store in stores {
        apply.sweep_step(store)?;
    }
    Ok(ShardOutcome::Placed(placed))
}

/// `store` left `container` in `epoch`: it is told until it confirms.
pub(super) fn retire(
    apply: &mut Apply<'_>,
    container: ContainerId,
    store: StoreId,
    epoch: PlacementEpoch,
) -> Result<(), Stop> {
    if active(Mutant::RetireNotTold) {
        return Ok(());
    }
    let position = apply.tell(store, FeedRow::Retire(container, epoch))?;
    let row = RetiringRow { epoch, position };
    apply.put(&keys::retiring(container, store), &row.encode())?;
    Ok(())
}

/// RETIRED.
pub(super) fn retired(
    apply: &mut Apply<'_>,
    container: ContainerId,
    store: StoreId,
    epoch: PlacementEpoch,
) -> Result<ShardOutcome, Stop> {
    if let Some(row) = tables::retiring(apply.view(), container, store)?
        && row.epoch == epoch
    {
        apply.untell(store, row.position)?;
        apply.delete(&keys::retiring(container, store))?;
    }
    Ok(ShardOutcome::Done)
}
