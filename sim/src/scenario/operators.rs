//! What operators do while the cluster is used: disks made, resized and deleted, nodes drained.
//!
//! Drawn from a stream of their own as data; [`operating`](super::operating) does it, and
//! [`other_disks`](super::other_disks) uses the disks that they make.
//!
//! Invariants: the first disk is never made smaller or deleted, since the plan's own clients use all
//! of it; no other disk has fewer copies than damage to a disk allows for.

use std::time::Duration;

use hedgerow_env::Random;
use hedgerow_protocol::{PlacementRule, Policy};
use serde::{Deserialize, Serialize};

use crate::world::NodeIndex;

use super::classes::Class;

/// Disks besides the first, at most.
pub const OTHER_DISKS_MAXIMUM: u32 = 8;
/// Halves of containers of a disk, at most.
pub const HALVES_MAXIMUM: u32 = 256;
/// Drawn: disks besides the first.
const OTHER_DISKS: u64 = 2;
/// Drawn: halves of containers of one.
const HALVES: u64 = 5;
/// Drawn: the longest drain.
const DRAIN_MAXIMUM_MS: u64 = 12_000;

/// What an operator does at one moment, and to what: that and its number are its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorAction {
    /// When he begins, from the beginning of the safety phase. He goes on until it is done.
    pub at_ns: u64,
    /// What.
    pub deed: OperatorDeed,
}

/// What an operator does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OperatorDeed {
    /// Makes a disk.
    Create {
        /// Its number, from 1.
        disk: u32,
        /// Where a client uses it.
        client: NodeIndex,
        /// Its policy.
        policy: Policy,
        /// Its size in halves of containers.
        halves: u32,
    },
    /// Gives a disk another size. Its client lets go of it for as long as it takes to be smaller.
    Resize {
        /// Its number; 0 is the plan's own disk.
        disk: u32,
        /// Its new size in halves of containers.
        halves: u32,
    },
    /// Deletes a disk, whoever uses it.
    Delete {
        /// Its number, from 1.
        disk: u32,
    },
    /// Moves the data off a node, and takes that back.
    Drain {
        /// Which.
        node: NodeIndex,
        /// Taken back at this time.
        until_ns: u64,
    },
}

/// Actions of one subject are done one after the other; those of several at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A disk.
    Disk(u32),
    /// A node.
    Node(NodeIndex),
}

impl OperatorAction {
    /// What it concerns.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self.deed {
            OperatorDeed::Create { disk, .. }
            | OperatorDeed::Resize { disk, .. }
            | OperatorDeed::Delete { disk } => Subject::Disk(disk),
            OperatorDeed::Drain { node, .. } => Subject::Node(node),
        }
    }

    /// The node that it names, to be checked or renumbered.
    pub fn node_mut(&mut self) -> Option<&mut NodeIndex> {
        match &mut self.deed {
            OperatorDeed::Create { client, .. } => Some(client),
            OperatorDeed::Drain { node, .. } => Some(node),
            OperatorDeed::Resize { .. } | OperatorDeed::Delete { .. } => None,
        }
    }

    /// The disk that it makes, if it makes one.
    #[must_use]
    pub fn creates(&self) -> Option<(u32, &Policy)> {
        match &self.deed {
            OperatorDeed::Create { disk, policy, .. } => Some((*disk, policy)),
            _ => None,
        }
    }
}

/// What the operators of a plan have before them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Estate {
    pub(super) nodes: u16,
    pub(super) safety: Duration,
    pub(super) containers: u32,
    /// Copies of the first disk.
    pub(super) replication_factor: u8,
}

/// Draws what operators do: in one seed of three.
pub(super) fn draw(random: &mut Random, estate: Estate, wanted: &[Class]) -> Vec<OperatorAction> {
    let mut actions = Vec::new();
    if !Class::Operators.is_due(random, 3, wanted) {
        return actions;
    }
    let end_ns = u64::try_from(estate.safety.as_nanos()).expect("a run is short");
    for disk in (1..).take(usize::try_from(random.below(OTHER_DISKS + 1)).expect("few")) {
        draw_disk(random, estate, disk, end_ns, &mut actions);
    }
    let mut halves = 2 * estate.containers;
    for _ in 0..random.below(3) {
        halves += 1 + small(random, 3);
        let deed = OperatorDeed::Resize { disk: 0, halves };
        let at_ns = random.below(end_ns);
        actions.push(OperatorAction { at_ns, deed });
    }
    if random.chance(1, 2) {
        let node = node(random, estate.nodes);
        let at_ns = random.below(end_ns);
        let until_ns = at_ns + 1_000_000 * (500 + random.below(DRAIN_MAXIMUM_MS));
        let until_ns = until_ns.min(end_ns);
        let deed = OperatorDeed::Drain { node, until_ns };
        actions.push(OperatorAction { at_ns, deed });
    }
    // The first disk only grows, in whatever order its times were drawn.
    let mut growing: Vec<u64> = grown(&actions).map(|action| action.at_ns).collect();
    growing.sort_unstable();
    let is_growth = |action: &&mut OperatorAction| action.subject() == Subject::Disk(0);
    for (action, at_ns) in actions.iter_mut().filter(is_growth).zip(growing) {
        action.at_ns = at_ns;
    }
    actions.sort_by_key(|action| action.at_ns);
    actions
}

fn grown(actions: &[OperatorAction]) -> impl Iterator<Item = &OperatorAction> {
    let first = |action: &&OperatorAction| action.subject() == Subject::Disk(0);
    actions.iter().filter(first)
}

fn small(random: &mut Random, below: u64) -> u32 {
    u32::try_from(random.below(below)).expect("small")
}

fn node(random: &mut Random, nodes: u16) -> NodeIndex {
    NodeIndex(u16::try_from(random.below(u64::from(nodes))).expect("few nodes"))
}

/// A disk of its own policy: made, resized a few times, and in half of all cases deleted.
fn draw_disk(
    random: &mut Random,
    estate: Estate,
    disk: u32,
    end_ns: u64,
    actions: &mut Vec<OperatorAction>,
) {
    let least = estate.replication_factor.min(2);
    let most = u8::try_from(estate.nodes).unwrap_or(u8::MAX);
    let rules = [
        PlacementRule::Agnostic,
        PlacementRule::RackAware,
        PlacementRule::DataCentreAware,
    ];
    let policy = Policy {
        replication_factor: [3, 1, 2, 5][random.index(4)].clamp(least, most),
        placement: rules[random.index(rules.len())],
        block_size: [512, 4096, 65_536][random.index(3)],
        compression: random.chance(1, 3),
        ..Policy::default()
    };
    let mut at_ns = random.below(end_ns / 2);
    let client = node(random, estate.nodes);
    let halves = 1 + small(random, HALVES);
    let create = OperatorDeed::Create {
        disk,
        client,
        policy,
        halves,
    };
    let mut deeds = vec![create];
    for _ in 0..random.below(4) {
        let halves = 1 + small(random, HALVES);
        deeds.push(OperatorDeed::Resize { disk, halves });
    }
    if random.chance(1, 2) {
        deeds.push(OperatorDeed::Delete { disk });
    }
    for deed in deeds {
        actions.push(OperatorAction { at_ns, deed });
        at_ns = (at_ns + 1_000_000 * (300 + random.below(6_000))).min(end_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_disk_only_grows_and_others_have_copies_to_lose() {
        for seed in 0..300 {
            let estate = Estate {
                nodes: 5,
                safety: Duration::from_secs(20),
                containers: 2,
                replication_factor: 3,
            };
            let actions = draw(&mut Random::from_seed(seed), estate, &[Class::Operators]);
            assert!(actions.is_sorted_by_key(|action| action.at_ns));
            let mut size = 4;
            for action in grown(&actions) {
                let OperatorDeed::Resize { halves, .. } = action.deed else {
                    panic!("{action:?}");
                };
                assert!(halves > size, "seed {seed}");
                size = halves;
            }
            let created = actions.iter().filter_map(OperatorAction::creates);
            for (disk, policy) in created {
                assert!(disk >= 1);
                assert!((2..=5).contains(&policy.replication_factor));
            }
        }
    }
}
