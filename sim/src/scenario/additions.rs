//! Blank nodes that operators add to the running cluster, under the faults as they are.
//!
//! An added node exists in a plan from the beginning, with the highest numbers, and is started in the
//! safety phase for the first time. By the end of convergence it is a member like the others.
//! In some seeds, drawn from a stream of their own.
//!
//! Invariants: faults that other streams draw concern the nodes that are there from the beginning, but
//! that a partition has every added node on one of its sides; the seeds of a cluster are none of
//! those that are added.

use hedgerow_env::{Phase, Random};
use serde::{Deserialize, Serialize};

use crate::world::{FaultAction, NodeIndex, TimedFault};

use super::blows::{self, Blow, HARMLESS};
use super::classes::Class;
use super::cluster::Cluster;
use super::nemesis::{Ground, Numbers};
use super::plan::Plan;

/// Of so many seeds one has nodes added.
const ONE_ADDS_OF: u64 = 5;
/// Clusters of more nodes are large enough.
const LARGE: u16 = 8;
/// What an added node is struck in while it joins.
const JOINING: [Phase; 6] = [
    Phase::Formation,
    Phase::Formation,
    Phase::Formation,
    Phase::Recovery,
    Phase::CatchUp,
    Phase::JournalSync,
];

/// A node that is not there from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addition {
    /// When it starts for the first time, from the beginning of the safety phase.
    pub at_ns: u64,
    /// Which.
    pub node: NodeIndex,
}

/// Adds a node or two to a plan, and half of all times what strikes them while they join.
pub(super) fn draw(random: &mut Random, plan: &mut Plan, wanted: &[Class]) {
    if !Class::Additions.is_due(random, ONE_ADDS_OF, wanted) || plan.nodes > LARGE {
        return;
    }
    let end_ns = u64::try_from(plan.safety.as_nanos()).expect("a run is short");
    let count = 1 + u16::try_from(random.below(2)).expect("small");
    let first = plan.nodes;
    plan.nodes += count;
    let ground = Ground {
        nodes: plan.nodes,
        racks: plan.racks,
        safety: plan.safety,
    };
    let mut numbers = Numbers::ADDITIONS;
    for node in (first..plan.nodes).map(NodeIndex) {
        let drift = i32::try_from(random.below(180_000)).expect("small") - 90_000;
        plan.drift_ppm.push(drift);
        let at_ns = random.below(end_ns * 3 / 4);
        plan.additions.push(Addition { at_ns, node });
        for fault in &mut plan.faults {
            if let FaultAction::Partition(groups) = fault.action.deed_mut() {
                let side = random.index(groups.len());
                groups[side].push(node);
            }
        }
        if random.chance(1, 2) {
            for _ in 0..=random.below(3) {
                let phase = JOINING[random.index(JOINING.len())];
                let blow = match HARMLESS[random.index(HARMLESS.len())] {
                    // A first start needs room for a store: without any it is right to refuse.
                    Blow::FullDisk => Blow::SlowDisk,
                    blow => blow,
                };
                let then = blows::strike(random, ground, &mut numbers, (blow, false), node);
                let action = FaultAction::AtPhase(node, phase.name().to_owned(), then);
                plan.faults.push(TimedFault { at_ns: 0, action });
            }
        }
    }
    plan.faults.sort_by_key(|fault| fault.at_ns);
}

/// Starts the nodes that are due; all of them, once the safety phase is over.
pub(super) fn start_due(cluster: &Cluster, additions: &[Addition], since_began_ns: u64) {
    for addition in additions {
        if addition.at_ns <= since_began_ns && !cluster.has_appeared(addition.node) {
            cluster.start_one(addition.node);
        }
    }
}
