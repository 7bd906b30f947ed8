//! The state of the cluster, as far as those who know it answer.
//!
//! Invariant: who did not answer is named: no sum passes for whole that is not.

use futures_util::future::join_all;
use hedgerow_net::Peer;
use hedgerow_protocol::{
    FullStatus, NodeRecord, NodeReply, NodeRequest, NodeState, RootAnswer, RootQuery, ShardReply,
    ShardRequest, ShardView, StatusView,
};

use crate::admin::{AdminError, AdminService, GROUP_LIMIT, HEALTH_LIMIT};

impl AdminService {
    /// Asks everybody.
    pub(crate) async fn status(&self) -> Result<FullStatus, AdminError> {
        let odd = || AdminError::TryAgain("unexpected answer of the root".into());
        let query = |query| self.groups.root_query(query, GROUP_LIMIT);
        let cluster = match query(RootQuery::Cluster).await {
            Ok(RootAnswer::Cluster(cluster)) => cluster,
            Ok(_) => return Err(odd()),
            Err(error) => {
                let who = self.who_answers().await;
                return Err(AdminError::TryAgain(format!("{error}; {who}")));
            }
        };
        let RootAnswer::Topology(topology) = query(RootQuery::Topology).await? else {
            return Err(odd());
        };
        let disks = self.disks().await?.len();
        let mut view = StatusView {
            cluster: cluster
                .map(|cluster| cluster.to_string())
                .unwrap_or_default(),
            nodes: topology.nodes,
            disks: u64::try_from(disks).expect("usize fits 64 bits"),
            under_replicated_bytes: 0,
            damaged: 0,
            silent_groups: Vec::new(),
        };
        let shards = self.shards(&mut view).await;
        let asked = view.nodes.iter().map(|node| async {
            match node.state {
                NodeState::Down => None,
                NodeState::Up | NodeState::Draining => self.health(node).await,
            }
        });
        let replies = join_all(asked).await;
        let silent_nodes;
        (view.damaged, silent_nodes) = damage(view.nodes.iter().zip(&replies));
        Ok(FullStatus {
            view,
            silent_nodes,
            shards,
        })
    }

    async fn health(&self, node: &NodeRecord) -> Option<NodeReply> {
        let peer = Peer::new(node.address.clone(), node.node);
        self.groups
            .node_request(&peer, &NodeRequest::Health, HEALTH_LIMIT)
            .await
    }

    /// When the root does not answer: which nodes do, of those that were known last.
    async fn who_answers(&self) -> String {
        let topology = self.groups.directory().topology();
        let replies = join_all(topology.nodes.iter().map(|node| self.health(node))).await;
        roll_call(topology.nodes.iter().zip(&replies))
    }

    /// Asks every shard, and adds to the sums of `view`.
    pub(crate) async fn shards(&self, view: &mut StatusView) -> Vec<ShardView> {
        let directory = self.groups.directory();
        let mut shards = Vec::new();
        for record in directory.table().distinct() {
            let shard = record.group;
            let request = ShardRequest::Statistics;
            let reply = self.groups.shard(shard, request, GROUP_LIMIT).await;
            let containers = match reply {
                Ok(ShardReply::Statistics(statistics)) => {
                    view.under_replicated_bytes += statistics.under_replicated_bytes;
                    Some(statistics.containers)
                }
                Ok(_) | Err(_) => {
                    view.silent_groups.push(shard.0);
                    None
                }
            };
            // Only a leader answers, and who answered is remembered.
            let leader = containers.and_then(|_| directory.leader_of(shard));
            shards.push(ShardView {
                shard,
                leader: leader.map(|leader| leader.node),
                members: record.members.iter().map(|member| member.node).collect(),
                containers,
            });
        }
        shards
    }
}

/// The damaged copies that nodes told of, and the names of those that told nothing.
fn damage<'a>(
    replies: impl Iterator<Item = (&'a NodeRecord, &'a Option<NodeReply>)>,
) -> (u64, Vec<String>) {
    let mut sum = 0;
    let mut silent = Vec::new();
    for (node, reply) in replies {
        match reply {
            Some(NodeReply::Healthy { damaged }) => sum += damaged,
            _ => silent.push(node.name.clone()),
        }
    }
    (sum, silent)
}

/// Who answers and who does not, for people.
fn roll_call<'a>(replies: impl Iterator<Item = (&'a NodeRecord, &'a Option<NodeReply>)>) -> String {
    let (answering, silent): (Vec<_>, Vec<_>) = replies.partition(|(_, reply)| reply.is_some());
    let names = |nodes: &[(&NodeRecord, &Option<NodeReply>)]| {
        let names: Vec<&str> = nodes.iter().map(|(node, _)| node.name.as_str()).collect();
        names.join(", ")
    };
    if silent.is_empty() {
        return format!("all nodes answer ({}): ask again", names(&answering));
    }
    format!(
        "{} of {} nodes answer ({}), start the others: {}",
        answering.len(),
        answering.len() + silent.len(),
        names(&answering),
        names(&silent)
    )
}

#[cfg(test)]
mod tests {
    use hedgerow_env::NodeId;
    use hedgerow_protocol::{Location, Roles};

    use super::*;

    fn node(name: &str) -> NodeRecord {
        NodeRecord {
            node: NodeId(1),
            name: name.into(),
            address: String::new(),
            roles: Roles::ALL,
            location: Location::default(),
            stores: Vec::new(),
            state: NodeState::Up,
            reason: String::new(),
        }
    }

    #[test]
    fn without_a_majority_it_is_said_whom_to_start() {
        let nodes = ["a", "b", "c"].map(node);
        let told = |replies: &[Option<NodeReply>; 3]| roll_call(nodes.iter().zip(replies));
        let healthy = || Some(NodeReply::Healthy { damaged: 0 });
        let text = "1 of 3 nodes answer (b), start the others: a, c";
        assert_eq!(told(&[None, healthy(), None]), text);
        let text = "all nodes answer (a, b, c): ask again";
        assert_eq!(told(&[healthy(), healthy(), healthy()]), text);
    }

    #[test]
    fn who_tells_nothing_is_named() {
        let nodes = ["a", "b", "c"].map(node);
        let healthy = |damaged| Some(NodeReply::Healthy { damaged });
        let some = [healthy(3), None, healthy(0)];
        let told = damage(nodes.iter().zip(&some));
        assert_eq!(told, (3, vec!["b".into()]));
        let whole = [healthy(0), healthy(0), healthy(0)];
        assert_eq!(damage(nodes.iter().zip(&whole)), (0, Vec::new()));
    }
}
