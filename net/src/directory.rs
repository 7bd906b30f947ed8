//! What a process believes of the cluster's shape: the shard table, the topology, leaders.
//!
//! Invariants: a table or topology is replaced by a newer one only; nothing's safety depends on how
//! new it is, since whoever is called says who it is.
//! Does not: ask anybody ([`GroupClient`](crate::GroupClient) does).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_env::{ContainerId, GroupId, MapEpoch, NodeId, StoreId};
use hedgerow_protocol::{GroupMember, GroupRecord, ShardTable, Topology};

use crate::Peer;

/// What this process believes of the cluster's shape; refreshed by whoever learns better.
#[derive(Default)]
pub struct Directory {
    state: Mutex<DirectoryState>,
}

#[derive(Default)]
struct DirectoryState {
    table: ShardTable,
    /// With the addresses that nodes told in the place of the root's.
    topology: Arc<Topology>,
    told: BTreeMap<NodeId, Told>,
    /// Addresses to ask while the table is empty (`seeds` of the configuration).
    seeds: Vec<String>,
    /// A shard that a split makes, until the table shows it.
    coming: Option<GroupRecord>,
    /// The last known leader of each group.
    leaders: BTreeMap<GroupId, GroupMember>,
}

/// Where a node says that it listens.
#[derive(Debug)]
struct Told {
    address: String,
    /// What the root said at that time: as long as it says nothing else, the node knows better.
    then: String,
}

impl Directory {
    /// A directory that knows only where to ask first.
    #[must_use]
    pub fn new(seeds: Vec<String>) -> Self {
        Self {
            state: Mutex::new(DirectoryState {
                seeds,
                ..DirectoryState::default()
            }),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut DirectoryState) -> T) -> T {
        act(&mut self.state.lock().expect("no panic under this lock"))
    }

    /// The shard table as last seen.
    #[must_use]
    pub fn table(&self) -> ShardTable {
        self.with(|state| state.table.clone())
    }

    /// The epoch of the table as last seen.
    #[must_use]
    pub fn epoch(&self) -> MapEpoch {
        self.with(|state| state.table.epoch)
    }

    /// Remembers a table unless a newer one is known. True when it was news.
    pub fn learn_table(&self, table: ShardTable) -> bool {
        self.with(|state| {
            let news = table.epoch > state.table.epoch;
            if news {
                state.table = table;
            }
            news
        })
    }

    /// Remembers the root's first members, until a table is known.
    pub fn bootstrap_root(&self, root: GroupRecord) {
        self.with(|state| {
            if state.table.epoch == MapEpoch(0) {
                state.table.root = root;
            }
        });
    }

    /// Remembers where a shard is that the table does not show yet, in place of an earlier one.
    pub fn expect_shard(&self, record: GroupRecord) {
        self.with(|state| state.coming = Some(record));
    }

    /// The topology as last seen.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.with(|state| Arc::clone(&state.topology))
    }

    /// Remembers a topology unless a newer one is known. True when it was news. Where a node has told
    /// another address since the root learned the one that it has, that stands.
    pub fn learn_topology(&self, mut topology: Topology) -> bool {
        self.with(|state| {
            let news = topology.index > state.topology.index;
            if news {
                let DirectoryState { told, .. } = state;
                for record in &mut topology.nodes {
                    match told.get(&record.node) {
                        Some(told) if told.then == record.address => {
                            record.address.clone_from(&told.address);
                        }
                        Some(_) => drop(told.remove(&record.node)),
                        None => {}
                    }
                }
                state.topology = Arc::new(topology);
            }
            news
        })
    }

    /// Remembers that `node` said in a handshake that it listens at `address`. The root learns it from
    /// the node, too, but not while its members cannot find one another: then this is all they have.
    pub fn told(&self, node: NodeId, address: &str) {
        self.with(|state| {
            let mut nodes = state.topology.nodes.iter();
            let known = nodes.position(|record| record.node == node && record.address != address);
            // What others hold is copied only for news: every handshake comes here.
            let Some(at) = known else { return };
            let record = &mut Arc::make_mut(&mut state.topology).nodes[at];
            let before = std::mem::replace(&mut record.address, address.to_owned());
            let told = state.told.entry(node).or_insert_with(|| Told {
                address: String::new(),
                then: before,
            });
            address.clone_into(&mut told.address);
        });
    }

    /// The shard of a container, once the table is known.
    #[must_use]
    pub fn shard_of(&self, container: ContainerId) -> Option<GroupId> {
        self.with(|state| {
            let record = state.table.shard_of(container.family, container.index);
            record.map(|record| record.group)
        })
    }

    /// The shards, once the table is known.
    #[must_use]
    pub fn shards(&self) -> Vec<GroupId> {
        self.with(|state| {
            let shards = state.table.distinct().into_iter();
            shards.map(|record| record.group).collect()
        })
    }

    /// Where `node` listens, by the newest knowledge.
    #[must_use]
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let topology = self.topology();
        let record = topology.nodes.iter().find(|record| record.node == node)?;
        Some(record.address.clone())
    }

    /// The peer that has `store`.
    #[must_use]
    pub fn peer_of_store(&self, store: StoreId) -> Option<Peer> {
        let topology = self.topology();
        let record = topology.node_of(store)?;
        Some(Peer::new(record.address.clone(), record.node))
    }

    /// Addresses of nodes to ask for the table, in a fixed order.
    pub(crate) fn acquaintances(&self) -> Vec<Peer> {
        self.with(|state| {
            let known = state.topology.nodes.iter();
            let mut peers: Vec<Peer> = known
                .map(|record| Peer::new(record.address.clone(), record.node))
                .collect();
            for seed in &state.seeds {
                if !peers.iter().any(|peer| peer.address == *seed) {
                    peers.push(Peer::anyone_at(seed.clone()));
                }
            }
            peers
        })
    }

    /// Members of `group` to try, the likely leader first.
    pub(crate) fn candidates(&self, group: GroupId) -> Vec<Peer> {
        self.with(|state| {
            let coming = state.coming.iter();
            let known = state
                .table
                .group(group)
                .or_else(|| coming.into_iter().find(|record| record.group == group));
            let mut members: Vec<GroupMember> = known
                .map(|record| record.members.clone())
                .unwrap_or_default();
            if let Some(leader) = state.leaders.get(&group) {
                members.retain(|member| member.node != leader.node);
                members.insert(0, leader.clone());
            }
            let topology = &state.topology;
            members
                .into_iter()
                .map(|member| {
                    let newest = topology
                        .nodes
                        .iter()
                        .find(|record| record.node == member.node);
                    let address = newest.map_or(member.address, |record| record.address.clone());
                    Peer::new(address, member.node)
                })
                .collect()
        })
    }

    /// Remembers that `node` leads a group that it is a member of.
    pub(crate) fn set_leading(&self, group: GroupId, node: NodeId) {
        self.with(|state| {
            let members = state
                .table
                .group(group)
                .map(|record| record.members.as_slice());
            let member = members
                .unwrap_or_default()
                .iter()
                .find(|member| member.node == node);
            if let Some(member) = member.cloned() {
                state.leaders.insert(group, member);
            }
        });
    }

    pub(crate) fn set_leader(&self, group: GroupId, leader: Option<GroupMember>) {
        self.with(|state| match leader {
            Some(leader) => {
                state.leaders.insert(group, leader);
            }
            None => {
                state.leaders.remove(&group);
            }
        });
    }

    /// The last known leader of a group, for status pages; a guess.
    #[must_use]
    pub fn leader_of(&self, group: GroupId) -> Option<GroupMember> {
        self.with(|state| state.leaders.get(&group).cloned())
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::{Location, NodeRecord, NodeState, Roles};

    use super::*;

    const A: NodeId = NodeId(1);

    fn topology(index: u64, address: &str) -> Topology {
        Topology {
            index,
            nodes: vec![NodeRecord {
                node: A,
                name: "a".into(),
                address: address.into(),
                roles: Roles::default(),
                location: Location::default(),
                stores: Vec::new(),
                state: NodeState::Up,
                reason: String::new(),
            }],
        }
    }

    #[test]
    fn what_a_node_tells_stands_until_the_root_says_something_new() {
        let directory = Directory::new(Vec::new());
        directory.told(A, "a:1");
        assert_eq!(directory.address_of(A), None, "nobody knows that node");
        directory.learn_topology(topology(1, "a:1"));
        directory.told(A, "a:2");
        assert_eq!(directory.address_of(A).as_deref(), Some("a:2"));
        // The root has not heard of it yet.
        directory.learn_topology(topology(2, "a:1"));
        assert_eq!(directory.address_of(A).as_deref(), Some("a:2"));
        directory.told(A, "a:3");
        directory.learn_topology(topology(3, "a:1"));
        assert_eq!(directory.address_of(A).as_deref(), Some("a:3"));
        directory.learn_topology(topology(4, "a:4"));
        assert_eq!(directory.address_of(A).as_deref(), Some("a:4"));
        // It has moved there: what it told before is over.
        directory.learn_topology(topology(5, "a:1"));
        assert_eq!(directory.address_of(A).as_deref(), Some("a:1"));
    }
}
