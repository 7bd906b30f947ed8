//! Nodes, stores, where they stand, and which replicas make up each Raft group.

use std::fmt;

use hedgerow_env::{ContainerIndex, FamilyId, GroupId, MapEpoch, NodeId, ReplicaNumber, StoreId};
use serde::{Deserialize, Serialize};

use crate::Residence;

/// The root group.
pub const ROOT_GROUP: GroupId = GroupId(0);

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Location {
    /// Data centre.
    pub data_centre: String,
    /// Rack, unique within its data centre.
    pub rack: String,
}

/// Role bits of a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Roles(pub u8);

impl Roles {
    /// Metadata service.
    pub const PAGES: Self = Self(1);
    /// Data service.
    pub const HBLOCK: Self = Self(2);
    /// Storage Proxy.
    pub const PROXY: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Whether every bit of `other` is set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names, for people and JSON.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (Self::PAGES, "pages"),
            (Self::HBLOCK, "hblock"),
            (Self::PROXY, "proxy"),
        ]
        .into_iter()
        .filter(|(role, _)| self.contains(*role))
        .map(|(_, name)| name)
        .collect()
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.names().join("+"))
    }
}

/// What the root knows of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Its identity.
    pub store: StoreId,
    /// Usable bytes.
    pub capacity_bytes: u64,
    /// Kind of device.
    pub residence: Residence,
    /// Whether it is its node's system pool (holds the Raft logs and Pages state).
    pub system: bool,
}

/// Whether a node can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Heartbeats arrive.
    Up,
    /// None arrived for a while; nothing is moved yet.
    Down,
    /// Being emptied.
    Draining,
}

/// What the root knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// Where its RPC server listens (`host:port`).
    pub address: String,
    /// Its roles.
    pub roles: Roles,
    /// Where it stands.
    pub location: Location,
    /// Its stores.
    pub stores: Vec<StoreRecord>,
    /// Whether it can be used.
    pub state: NodeState,
    /// Why it is in that state.
    pub reason: String,
}

impl NodeRecord {
    /// Whether copies can lie on it: it has the role and a store.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        self.roles.contains(Roles::HBLOCK) && !self.stores.is_empty()
    }
}

/// A member of a Raft group: a store with the replica number that the group handed out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MemberId {
    /// The system store of the member's node.
    pub store: StoreId,
    /// The number that the group handed out.
    pub replica: ReplicaNumber,
}

impl fmt::Display for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.store, self.replica)
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A member of a group and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its identity.
    pub member: MemberId,
    /// Its node.
    pub node: NodeId,
    /// Its node's RPC address when this was written; the node record has the newest.
    pub address: String,
}

/// A Raft group and its members.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The group.
    pub group: GroupId,
    /// Its members.
    pub members: Vec<GroupMember>,
}

/// The shard table: which groups exist and who serves them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardTable {
    /// Rises with each change.
    pub epoch: MapEpoch,
    /// The root group.
    pub root: GroupRecord,
    /// The shards: a power of two of them, or none before the root's leader made them.
    pub shards: Vec<GroupRecord>,
}

impl ShardTable {
    /// The shard that is the authority for `(family, index)`.
    #[must_use]
    pub fn shard_of(&self, family: FamilyId, index: ContainerIndex) -> Option<&GroupRecord> {
        let count = u64::try_from(self.shards.len()).ok()?;
        if count == 0 {
            return None;
        }
        debug_assert!(
            count.is_power_of_two(),
            "a shard table holds a power of two"
        );
        let mut key = [0_u8; 12];
        key[..8].copy_from_slice(&family.0.to_le_bytes());
        key[8..].copy_from_slice(&index.0.to_le_bytes());
        let slot = xxhash_rust::xxh3::xxh3_64(&key) & (count - 1);
        self.shards.get(usize::try_from(slot).ok()?)
    }

    /// The record of `group`.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&GroupRecord> {
        if group == ROOT_GROUP {
            return Some(&self.root);
        }
        self.shards.iter().find(|record| record.group == group)
    }
}

/// The nodes as the root last told them: the input of placement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// The root's log index at which this was true.
    pub index: u64,
    /// Every node, by id.
    pub nodes: Vec<NodeRecord>,
}

impl Topology {
    /// The node that has `store`.
    #[must_use]
    pub fn node_of(&self, store: StoreId) -> Option<&NodeRecord> {
        self.nodes
            .iter()
            .find(|node| node.stores.iter().any(|record| record.store == store))
    }
}
