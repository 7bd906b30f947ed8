//! Operators' requests, answered by any node.

use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{DiskRecord, NodeRecord, Policy};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Not possible at present, or the outcome is unknown: try again.
    TryAgain(String),
}

envelope! { AdminRequest = 60 v 1, AdminReply = 61 v 1 }
