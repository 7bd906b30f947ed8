//! Operators' requests, answered by any node.

use hedgerow_env::{Generation, GroupId, MapEpoch, NodeId, VirtualDiskId};
use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{DiskRecord, NodeRecord, Policy, ShardRange};

/// A request of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// Create a disk. The nonce makes a retry harmless.
    CreateDisk {
        /// Drawn by the requester.
        nonce: u64,
        /// Its name.
        name: String,
        /// Its size in bytes.
        size_bytes: u64,
        /// Its policy.
        policy: Policy,
        /// For people.
        description: String,
    },
    /// All disks.
    ListDisks,
    /// One disk.
    ShowDisk {
        /// Its name.
        name: String,
    },
    /// Set a disk's size.
    ResizeDisk {
        /// Its name.
        name: String,
        /// The new size in bytes.
        size_bytes: u64,
    },
    /// Delete a disk.
    DeleteDisk {
        /// Its name.
        name: String,
    },
    /// The state of the cluster.
    Status,
    /// Set the size of a disk that is still as the requester saw it. Repeated, it is answered as done,
    /// and goes on with clearing where that was interrupted.
    ResizeSeenDisk {
        /// The disk.
        disk: VirtualDiskId,
        /// The size that the requester saw, in bytes.
        from_bytes: u64,
        /// The generation that it saw.
        generation: Generation,
        /// The new size in bytes.
        size_bytes: u64,
    },
    /// Delete the disk that had this identity when the requester looked. Identities are never used
    /// again: one that is not there any more is answered as done.
    DeleteDiskById {
        /// The disk.
        disk: VirtualDiskId,
    },
    /// The state of the cluster, with who did not answer and where the shards are.
    StatusInFull,
    /// Move the data off a node, or take that back.
    SetDraining {
        /// Its name, or its number in hexadecimal.
        node: String,
        /// Whether it is to drain.
        draining: bool,
    },
    /// The shards and the split that is under way.
    ListShards,
    /// The split that is under way.
    ShowSplit,
    /// Split a shard, as the requester saw the table.
    SplitShard {
        /// The shard.
        group: GroupId,
        /// The epoch of the table that the requester saw.
        epoch: MapEpoch,
    },
}

/// A disk with what this cluster exports of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// The disk.
    pub record: DiskRecord,
    /// Where it can be reached, such as `iscsi://host:port/iqn/lun`.
    pub urls: Vec<String>,
}

/// The state of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StatusView {
    /// The cluster's identity, in hexadecimal.
    pub cluster: String,
    /// The nodes.
    pub nodes: Vec<NodeRecord>,
    /// Number of disks.
    pub disks: u64,
    /// Bytes that lack a copy.
    pub under_replicated_bytes: u64,
    /// Copies found damaged and not yet repaired.
    pub damaged: u64,
    /// Groups that no leader answered for; while there are any, the sums above are incomplete.
    pub silent_groups: Vec<u32>,
}

/// A shard group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// The group.
    pub shard: GroupId,
    /// Who led it when it answered; nobody when it did not.
    pub leader: Option<NodeId>,
    /// Where its replicas are.
    pub members: Vec<NodeId>,
    /// Containers that it has placed; unknown when it did not answer.
    pub containers: Option<u64>,
}

/// The state of the cluster, with who did not answer and where the shards are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullStatus {
    /// The sums.
    pub view: StatusView,
    /// Names of the nodes that did not tell how many of their copies are damaged, those that are down
    /// included; while there are any, that sum is incomplete.
    pub silent_nodes: Vec<String>,
    /// The shards.
    pub shards: Vec<ShardView>,
}

/// How far a split is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitView {
    /// The shard that is split.
    pub from: GroupId,
    /// The new shard.
    pub to: GroupId,
    /// Whether the new shard serves, and what moved is being removed from the old one. Else it is
    /// being copied.
    pub opened: bool,
}

/// A shard of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSlots {
    /// Who leads it, and what it holds.
    pub view: ShardView,
    /// Which containers are its own.
    pub range: ShardRange,
}

/// The shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardList {
    /// The epoch of the table.
    pub epoch: MapEpoch,
    /// The shards, by number.
    pub shards: Vec<ShardSlots>,
    /// The split that is under way.
    pub split: Option<SplitView>,
}

/// The answer to an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    /// One disk.
    Disk(DiskView),
    /// Disks, by name.
    Disks(Vec<DiskView>),
    /// The state.
    Status(StatusView),
    /// Done.
    Done,
    /// Refused: nothing was changed. A sentence that says what to do.
    Refused(String),
    /// Not possible at present: try again. What was begun goes on then.
    TryAgain(String),
    /// The request may have taken effect, or may yet: look, or repeat it where that is harmless.
    Unknown(String),
    /// It has taken effect and something is still to be done, which this node is doing: ask it the
    /// same again to hear of the end.
    Working(String),
    /// To `StatusInFull`.
    StatusInFull(FullStatus),
    /// To `ListShards`.
    Shards(ShardList),
    /// To `SplitShard`: it is under way.
    Splitting(SplitView),
    /// To `ShowSplit`.
    Split(Option<SplitView>),
}

envelope! { AdminRequest = 60 v 1, AdminReply = 61 v 1 }
