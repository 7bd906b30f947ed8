//! Requests to a node as such: bootstrap, joining, heartbeats, the shard table.

use hedgerow_env::{ClusterId, GroupId, MapEpoch, NodeId, VirtualDiskId};
use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{GroupMember, MemberId, NodeRecord, ShardTable, SplitRecord, Topology};

/// A request to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Who are you, and what do you belong to?
    Describe,
    /// From the first seed to the other seeds, all of which are blank: belong to this cluster.
    /// Durable before it is answered; a claimed node accepts the same claim again and no other.
    Claim {
        /// The cluster's identity.
        cluster: ClusterId,
        /// The first seed.
        by: NodeId,
        /// The first members of the root group.
        root: Vec<GroupMember>,
    },
    /// The shard table, if newer than this epoch.
    Table {
        /// The epoch that the asker has.
        known: MapEpoch,
    },
    /// The topology, if newer than this root log index.
    Topology {
        /// The index that the asker has.
        known: u64,
    },
    /// Run a replica of a group here (as a learner until the group votes it in).
    StartReplica {
        /// The group.
        group: GroupId,
        /// This node's member.
        member: MemberId,
        /// The group's members at present.
        members: Vec<GroupMember>,
        /// Initialise the group with `members` as its voters: only at the creation of a group, sent
        /// to one of them.
        initialise: bool,
    },
    /// A liveness probe. Latency is not sampled by it: RPC's pings do that, on every connection.
    Heartbeat {
        /// The sender.
        from: NodeId,
    },
    /// This node's own counters, for status.
    Health,
    /// The disks that this node exports.
    Exports,
}

/// A disk as one node exports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The disk.
    pub disk: VirtualDiskId,
    /// Where it can be reached there, such as `iscsi://host:port/iqn/lun`.
    pub url: String,
}

/// The answer of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeReply {
    /// The node, and its cluster if it has one.
    Described {
        /// The node as it would join.
        record: NodeRecord,
        /// Its cluster.
        cluster: Option<ClusterId>,
        /// The shard table that it knows.
        table: Option<ShardTable>,
    },
    /// The claim stands.
    Claimed,
    /// Claimed by another.
    ClaimedElsewhere {
        /// The cluster that it belongs to.
        cluster: ClusterId,
    },
    /// The table, when newer.
    Table(Option<ShardTable>),
    /// The topology, when newer.
    Topology(Option<Topology>),
    /// The replica runs.
    Started,
    /// Alive.
    Alive,
    /// The counters.
    Healthy {
        /// Copies found damaged and not yet repaired.
        damaged: u64,
    },
    /// Refused.
    Refused(String),
    /// The disks that are exported, by target name.
    Exports(Vec<Export>),
    /// The store's replica of the group has another number, and runs.
    RunsAs(MemberId),
}

envelope! {
    NodeRequest = 50 v 1, NodeReply = 51 v 1, ShardTable = 52 v 1, Topology = 53 v 1,
    SplitRecord = 54 v 1
}
