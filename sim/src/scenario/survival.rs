//! Whether what has struck the disks may cost data: the line between faults in spite of which all
//! must hold, and faults after which the system may stop but must never be wrong.
//!
//! A node whose disk may have lost or changed something that was durable is *damaged*, and counts as
//! that to the end of the run, whatever is repaired meanwhile: nobody can see a rotten sector that
//! was not read yet. The faults are *survivable* while the damaged nodes are
//! - fewer than W, so that every acknowledged write has a copy on another node, and
//! - a minority of every Raft group, so that every committed entry and every vote is known elsewhere.
//!
//! Down, slow or silent nodes cost availability only, and only until they are healed: they do not
//! count. A full disk is the same: writes are refused and replicas rest while it lasts, but what was
//! acknowledged stays, nodes live on and start, and all goes on by itself when there is room. Neither do calls that fail or answer wrongly once and leave the medium as it was, where
//! a second look is enough.
//!
//! Invariants: pure; what is struck later never makes the faults so far survivable.

use std::collections::BTreeSet;

use crate::world::{
    DiskArea, DiskFault, DiskFaults, FaultAction, NodeIndex, Strike, SyncMode, TimedFault,
};

use super::plan::Plan;
use super::run::{Failure, FailureKind};
use super::script::Script;

/// The root begins with as many members, and a group may fall back to them when members retire.
const FEWEST_VOTERS: u16 = 3;

/// How many nodes may be damaged.
#[must_use]
pub fn budget(replication_factor: u8, nodes: u16) -> usize {
    let write_quorum = replication_factor / 2 + 1;
    let minority = (nodes.min(FEWEST_VOTERS) - 1) / 2;
    usize::from(write_quorum - 1).min(usize::from(minority))
}

/// The nodes damaged so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survival {
    budget: usize,
    damaged: BTreeSet<NodeIndex>,
    forgetful: BTreeSet<NodeIndex>,
    misread: BTreeSet<NodeIndex>,
}

impl Survival {
    /// Nothing has struck the plan's cluster yet.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self {
            budget: budget(plan.fewest_copies(), plan.founders()),
            damaged: BTreeSet::new(),
            forgetful: BTreeSet::new(),
            misread: BTreeSet::new(),
        }
    }

    /// What all of a script's faults come to.
    #[must_use]
    pub fn of(script: &Script) -> Self {
        let mut survival = Self::new(&script.plan);
        for TimedFault { action, .. } in script.plan.formation.iter().chain(&script.plan.faults) {
            survival.strikes(action);
        }
        for strike in &script.strikes {
            survival.strikes_call(strike);
        }
        survival
    }

    /// Takes in that `action` is done.
    pub fn strikes(&mut self, action: &FaultAction) {
        if let FaultAction::AtPhase(_, _, faults) = action {
            for fault in faults {
                self.strikes(&fault.action);
            }
            return;
        }
        let node = match action.deed() {
            FaultAction::Rot(node, _)
            | FaultAction::RotIn(node, ..)
            | FaultAction::WipeDisk(node)
            | FaultAction::RestoreImage(node) => *node,
            FaultAction::RotSettled(node, _) => {
                self.damaged.insert(*node);
                return;
            }
            FaultAction::Disk(node, faults) if damages(faults) => *node,
            FaultAction::Disk(node, faults) if misreads(faults) => {
                self.misread.insert(*node);
                return;
            }
            _ => return,
        };
        self.damaged.insert(node);
        self.forgetful.insert(node);
    }

    /// Takes in that one call of a disk is struck.
    fn strikes_call(&mut self, strike: &Strike) {
        let Strike::Disk(id, fault) = strike else {
            return;
        };
        let passing = match fault {
            DiskFault::Error => true,
            DiskFault::FlipOnRead { .. } => DiskArea::Extents.holds(&id.path),
            DiskFault::Phantom
            | DiskFault::Misdirect { .. }
            | DiskFault::Misplace { .. }
            | DiskFault::Stale => false,
        };
        let number = id
            .disk
            .strip_prefix("node-")
            .and_then(|number| number.parse().ok());
        match number.map(NodeIndex) {
            Some(node) if passing => {
                self.misread.insert(node);
            }
            Some(node) => {
                self.damaged.insert(node);
                self.forgetful.insert(node);
            }
            None => {}
        }
    }

    /// Whether everything must hold.
    #[must_use]
    pub fn is_survivable(&self) -> bool {
        self.damaged.len() <= self.budget
    }

    /// Whether the system may end a run like that. It may stop, and copies may be lost, once the
    /// faults are beyond what is survivable; it may never be wrong, nor break an invariant.
    #[must_use]
    pub fn excuses(&self, failure: &Failure) -> bool {
        let stops = failure.kind == FailureKind::Liveness || failure.oracle == "copies";
        // A root whose members forgot what they acknowledged may give away what it gave before.
        !self.is_survivable() && (stops || ["leases", "operators"].contains(&failure.oracle))
    }

    /// The damaged nodes.
    #[must_use]
    pub fn damaged(&self) -> &BTreeSet<NodeIndex> {
        &self.damaged
    }

    /// Nodes whose disks may hold what they should and say something else, or nothing, when they are read.
    #[must_use]
    pub fn misread(&self) -> &BTreeSet<NodeIndex> {
        &self.misread
    }

    /// The damaged nodes that may not know what they have lost: all but those where only something rotted that
    /// had settled in a journal.
    #[must_use]
    pub fn forgetful(&self) -> &BTreeSet<NodeIndex> {
        &self.forgetful
    }
}

/// Whose disks are lost with all that they held: their nodes come back with empty ones, and what
/// they were members of goes on without them.
#[must_use]
pub fn lost_disks(plan: &Plan) -> BTreeSet<NodeIndex> {
    let wiped = |fault: &TimedFault| match fault.action.deed() {
        FaultAction::WipeDisk(node) => Some(*node),
        _ => None,
    };
    plan.faults.iter().filter_map(wiped).collect()
}

/// Whether anything strikes a disk after which copies may have to be repaired: by damage, or by a
/// look that took it for damage.
#[must_use]
pub fn touches_copies(script: &Script) -> bool {
    let struck = |strike: &Strike| matches!(strike, Strike::Disk(..));
    !Survival::of(script).damaged().is_empty()
        || script.plan.faults.iter().any(looks_damaged)
        || script.strikes.iter().any(struck)
}

fn looks_damaged(fault: &TimedFault) -> bool {
    match fault.action.deed() {
        FaultAction::Disk(_, faults) => misreads(faults),
        FaultAction::AtPhase(_, _, faults) => faults.iter().any(looks_damaged),
        _ => false,
    }
}

fn misreads(faults: &DiskFaults) -> bool {
    faults.read_error_ppm + faults.flip_on_read_ppm > 0
}

/// Whether a disk with these faults may lose or change what was durable, or say something else than
/// it holds where that is not asked for again.
fn damages(faults: &DiskFaults) -> bool {
    let lies = matches!(faults.sync, SyncMode::FailThenLie | SyncMode::Lie);
    let flips = faults.flip_on_read_ppm > 0 && faults.area != DiskArea::Extents;
    let wrong = [
        faults.phantom_write_ppm,
        faults.misdirected_write_ppm,
        faults.misplaced_write_ppm,
        faults.stale_read_ppm,
    ];
    let loses = wrong.into_iter().any(|ppm| ppm > 0);
    faults.lost || lies || flips || loses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Crash;

    const A: NodeIndex = NodeIndex(0);
    const B: NodeIndex = NodeIndex(1);

    fn check(replication_factor: u8, actions: &[FaultAction], survivable: bool) {
        let mut plan = Plan::plain();
        plan.nodes = 5;
        plan.policy.replication_factor = replication_factor;
        let mut survival = Survival::new(&plan);
        for action in actions {
            survival.strikes(action);
        }
        assert_eq!(
            survival.is_survivable(),
            survivable,
            "{replication_factor} {actions:?}"
        );
    }

    #[test]
    fn one_damaged_node_is_survived_where_another_holds_all_that_was_acknowledged() {
        let rot = |node| FaultAction::RotIn(node, DiskArea::Extents, 1);
        for (factor, survivable) in [(1, false), (2, true), (3, true), (5, true)] {
            check(factor, &[rot(A), rot(A)], survivable);
        }
        check(3, &[rot(A), FaultAction::WipeDisk(B)], false);
    }

    #[test]
    fn what_leaves_the_medium_as_it_was_costs_nothing() {
        let faults = DiskFaults {
            read_error_ppm: 1,
            write_error_ppm: 1,
            sync_error_ppm: 1,
            flip_on_read_ppm: 1,
            area: DiskArea::Extents,
            sync: SyncMode::Fail,
            stuck: true,
            capacity_bytes: Some(1),
            ..DiskFaults::default()
        };
        let on_all = [A, B].map(|node| FaultAction::Disk(node, faults));
        check(1, &on_all, true);
        check(1, &[FaultAction::Crash(A, Crash::POWER)], true);
    }

    #[test]
    fn a_disk_whose_reads_fail_or_flip_may_look_damaged() {
        for (read_error_ppm, flip_on_read_ppm, looks) in [(1, 0, true), (0, 1, true), (0, 0, false)]
        {
            let faults = DiskFaults {
                read_error_ppm,
                flip_on_read_ppm,
                write_error_ppm: 1,
                area: DiskArea::Extents,
                ..DiskFaults::default()
            };
            let mut survival = Survival::new(&Plan::plain());
            survival.strikes(&FaultAction::Disk(A, faults));
            assert_eq!(survival.misread().contains(&A), looks);
            assert!(survival.damaged().is_empty());
        }
    }

    #[test]
    fn a_disk_that_lies_is_damaged() {
        for faults in [
            DiskFaults {
                sync: SyncMode::FailThenLie,
                ..DiskFaults::default()
            },
            DiskFaults {
                flip_on_read_ppm: 1,
                ..DiskFaults::default()
            },
            DiskFaults {
                lost: true,
                ..DiskFaults::default()
            },
        ] {
            check(3, &[FaultAction::Disk(A, faults)], true);
            check(
                3,
                &[A, B].map(|node| FaultAction::Disk(node, faults)),
                false,
            );
        }
    }
}
