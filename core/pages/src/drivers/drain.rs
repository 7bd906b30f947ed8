//! Draining, as far as data goes: members on nodes that an operator drains get substitutes, one
//! container after the other, and the operator is told how many are left.
//!
//! Invariants: what a walk asks for is conditional on the epoch that it saw, and the shard checks it
//! again; a member leaves only when every live blob is on enough others (`shard/work.rs` sees to
//! that, as for any substituted member); one walk asks a bounded number of shards at once.
//!
//! Does not: move replicas of groups. A drained node goes on with those that it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Drivers;
use super::health::without_silence;
use crate::GroupReplica;
use futures_util::future::join_all;
use hedgerow_env::{ContainerId, ContainerIndex, NodeId, PlacementEpoch, StoreId, event};
use hedgerow_protocol::{
    DiskRecord, NodeRecord, NodeState, Placement, ROOT_GROUP, RootAnswer, RootCommand, RootQuery,
    ShardRefusal, ShardReply, ShardRequest,
};

/// One question to a shard; a container of which nothing was heard counts as not drained.
const ASK_LIMIT: Duration = Duration::from_secs(2);
/// Between two walks when all that drain are empty.
const EMPTY_PAUSE: Duration = Duration::from_secs(10);
/// Containers asked for at once, so that other duties of the shards have their turn.
const AT_ONCE: usize = 32;

/// What a walk over every container found, by draining node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Containers that the node is still a member of.
    containers: u64,
    /// Of those, how many no other node can take now.
    stuck: u64,
    /// Containers whose shard did not answer.
    unheard: u64,
}

impl Left {
    /// For the operator.
    fn text(self) -> String {
        let Self {
            containers,
            stuck,
            unheard,
        } = self;
        if unheard > 0 {
            return format!("{containers} containers left, {unheard} could not be asked for");
        }
        match (containers, stuck) {
            (0, _) => DRAINED.to_owned(),
            (_, 0) => format!("{containers} containers left"),
            _ => format!("{containers} containers left, {stuck} need another node"),
        }
    }
}

/// The reason of a draining node that holds nothing any more.
const DRAINED: &str = "drained: holds no data";

/// What was heard of one container.
enum Heard {
    /// These nodes are among its members; whether no substitute could be had.
    Members(Vec<NodeId>, bool),
    Nothing,
}

impl Drivers {
    /// The rounds of the root's leader.
    pub(super) async fn draining(self) {
        loop {
            self.env.sleep(self.config.round).await;
            let Some((replica, _)) = self.leading(ROOT_GROUP) else {
                continue;
            };
            let Some(RootAnswer::Topology(topology)) =
                self.root_answer(&replica, RootQuery::Topology).await
            else {
                continue;
            };
            let nodes = topology.nodes.into_iter();
            let is_draining = |node: &NodeRecord| node.state == NodeState::Draining;
            let draining: Vec<_> = nodes.filter(is_draining).collect();
            if draining.is_empty() {
                continue;
            }
            if let Some(RootAnswer::Disks(disks)) =
                self.root_answer(&replica, RootQuery::Disks).await
            {
                self.drain(&replica, &draining, &disks).await;
            }
            // Next to nothing is placed on a node that drains: what is empty mostly stays so.
            let is_empty = |node: &NodeRecord| without_silence(&node.reason) == DRAINED;
            if draining.iter().all(is_empty) {
                self.env.sleep(EMPTY_PAUSE).await;
            }
        }
    }

    /// Whether all of `draining` still drain.
    async fn still_drain(&self, replica: &Arc<dyn GroupReplica>, draining: &[NodeRecord]) -> bool {
        let answer = self.root_answer(replica, RootQuery::Topology).await;
        let Some(RootAnswer::Topology(topology)) = answer else {
            return false;
        };
        let drains = |one: &NodeRecord| {
            let mut nodes = topology.nodes.iter();
            nodes.any(|node| node.node == one.node && node.state == NodeState::Draining)
        };
        draining.iter().all(drains)
    }

    /// One walk over every container; it ends early when an operator takes a drain back.
    async fn drain(
        &self,
        replica: &Arc<dyn GroupReplica>,
        draining: &[NodeRecord],
        disks: &[DiskRecord],
    ) {
        let mut left: BTreeMap<NodeId, Left> = draining
            .iter()
            .map(|node| (node.node, Left::default()))
            .collect();
        for disk in disks {
            let mut containers = containers(disk);
            loop {
                let some: Vec<ContainerId> = containers.by_ref().take(AT_ONCE).collect();
                if some.is_empty() {
                    break;
                }
                if !self.still_drain(replica, draining).await {
                    return;
                }
                let asked = some
                    .iter()
                    .map(|container| self.drain_container(draining, disk, *container));
                for heard in join_all(asked).await {
                    note(&mut left, &heard);
                }
            }
        }
        let changed = draining.iter().filter_map(|node| {
            let reason = left[&node.node].text();
            // The word on its silence stays while nothing else changes.
            (reason != without_silence(&node.reason)).then(|| {
                event!(self.env, Info, "pages", "{}: {reason}", node.name);
                RootCommand::TellDraining {
                    node: node.node,
                    reason,
                }
            })
        });
        self.propose_root(changed.collect()).await;
    }

    /// Has the members of one container that drain substituted.
    async fn drain_container(
        &self,
        draining: &[NodeRecord],
        disk: &DiskRecord,
        container: ContainerId,
    ) -> Heard {
        // An epoch older than any: the placement is answered as it stands.
        let asked = self.substitute(disk, container, PlacementEpoch(0), Vec::new());
        let mut placement = match asked.await {
            Some(ShardReply::Placed { placement }) => placement,
            // Its new shard tells where it is, in a later walk.
            Some(ShardReply::Refused(ShardRefusal::Moved { .. } | ShardRefusal::NotServing)) => {
                return Heard::Nothing;
            }
            Some(ShardReply::Refused(_)) => return Heard::Members(Vec::new(), false),
            _ => return Heard::Nothing,
        };
        let mut is_stuck = false;
        let leaving = writable_on(draining, &placement);
        if !leaving.is_empty() {
            match self
                .substitute(disk, container, placement.epoch, leaving)
                .await
            {
                Some(ShardReply::Placed { placement: next }) => placement = next,
                Some(ShardReply::Refused(
                    ShardRefusal::Moved { .. } | ShardRefusal::NotServing,
                )) => return Heard::Nothing,
                Some(ShardReply::Refused(refusal)) => {
                    event!(self.env, Info, "pages", "{container}: draining: {refusal}");
                    is_stuck = true;
                }
                _ => return Heard::Nothing,
            }
        }
        let members = draining.iter().filter(|node| {
            let mut members = placement.members.iter();
            members.any(|member| has_store(node, member.store))
        });
        Heard::Members(members.map(|node| node.node).collect(), is_stuck)
    }

    async fn substitute(
        &self,
        disk: &DiskRecord,
        container: ContainerId,
        epoch: PlacementEpoch,
        unavailable: Vec<StoreId>,
    ) -> Option<ShardReply> {
        let group = self.client.directory().shard_of(container)?;
        let request = ShardRequest::Substitute {
            container,
            generation: disk.generation,
            policy: disk.policy.clone(),
            epoch,
            unavailable,
        };
        self.client.shard(group, request, ASK_LIMIT).await.ok()
    }
}

fn note(left: &mut BTreeMap<NodeId, Left>, heard: &Heard) {
    match heard {
        Heard::Members(nodes, is_stuck) => {
            for node in nodes {
                let left = left.entry(*node).or_default();
                left.containers += 1;
                left.stuck += u64::from(*is_stuck);
            }
        }
        Heard::Nothing => {
            for left in left.values_mut() {
                left.unheard += 1;
            }
        }
    }
}

fn containers(disk: &DiskRecord) -> impl Iterator<Item = ContainerId> + use<> {
    let (family, id) = (disk.family, disk.disk);
    let count = disk.size_bytes.div_ceil(disk.container_bytes);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    (0..count).map(move |index| ContainerId {
        family,
        disk: id,
        index: ContainerIndex(index),
    })
}

fn has_store(node: &NodeRecord, store: StoreId) -> bool {
    node.stores.iter().any(|record| record.store == store)
}

/// The stores of draining nodes that take new blobs.
fn writable_on(draining: &[NodeRecord], placement: &Placement) -> Vec<StoreId> {
    let drains = |store: StoreId| draining.iter().any(|node| has_store(node, store));
    let members = placement.writable().map(|member| member.store);
    members.filter(|store| drains(*store)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_reads_what_is_left_and_what_it_waits_for() {
        let left = |containers, stuck, unheard| {
            let left = Left {
                containers,
                stuck,
                unheard,
            };
            left.text()
        };
        assert_eq!(left(0, 0, 0), "drained: holds no data");
        assert_eq!(left(3, 0, 0), "3 containers left");
        assert_eq!(left(3, 1, 0), "3 containers left, 1 need another node");
        assert_eq!(left(0, 0, 2), "0 containers left, 2 could not be asked for");
    }
}
