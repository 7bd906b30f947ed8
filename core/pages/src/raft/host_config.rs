//! What a [`PagesHost`](super::PagesHost) is made of, and what it can report.
//!
//! Does not: act.

use std::collections::BTreeMap;
use std::sync::Arc;

use hedgerow_disk::journal::{DamagedRange, Journal, RecoveredRecord, StreamTag};
use hedgerow_disk::{VerifiedConfig, VerifiedError};
use hedgerow_env::{DiskError, Env, GroupId, NodeId, StoreId};
use hedgerow_net::Rpc;
use hedgerow_protocol::MemberId;

use super::network::Addresses;
use super::registry::RegistryError;
use super::timing::RaftTiming;
use crate::{Machine, ProposeError, StateError};

/// Gives each group its machine.
pub type Machines = Arc<dyn Fn(GroupId) -> Arc<dyn Machine> + Send + Sync>;

/// What a host is made of.
pub struct HostConfig {
    /// The node's seams.
    pub env: Env,
    /// The node's RPC; the host serves [`SERVICE_RAFT`] on it.
    pub rpc: Rpc,
    /// The system pool's store.
    pub store: StoreId,
    /// The node.
    pub node: NodeId,
    /// Its journal.
    pub journal: Journal,
    /// The control records that the journal's recovery found; those of other owners are ignored.
    pub recovered: BTreeMap<StreamTag, Vec<RecoveredRecord>>,
    /// What it found damaged.
    pub damaged: Vec<DamagedRange>,
    /// The directory of the replicas' state files, relative to the node's root.
    pub directory: String,
    /// Times and sizes.
    pub timing: RaftTiming,
    /// Sizes of the state files' logs.
    pub verified: VerifiedConfig,
    /// The machines.
    pub machines: Machines,
    /// Where members listen now.
    pub addresses: Addresses,
}

/// Why a replica or the host did not start or stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The replica's state failed or is damaged.
    #[error(transparent)]
    State(#[from] StateError),
    /// The journal refused a record; the reason says whether for good.
    #[error("journal: {0}")]
    Journal(String),
    /// The group runs here under another number: retire that first.
    #[error("{group} runs here as {running}")]
    Exists {
        /// The group.
        group: GroupId,
        /// The replica of it.
        running: MemberId,
    },
    /// The number was retired, or is lower than one that was: ask the group for a new one.
    #[error("{member} of {group} is retired")]
    Retired {
        /// The group.
        group: GroupId,
        /// The member that was to start.
        member: MemberId,
    },
    /// The member belongs to another store than this host's.
    #[error("{member} is not of store {store}")]
    WrongStore {
        /// The member that was to start.
        member: MemberId,
        /// This host's store.
        store: StoreId,
    },
    /// Times or sizes contradict each other.
    #[error("raft configuration: {0}")]
    Configuration(String),
    /// openraft did not start.
    #[error("raft: {0}")]
    Raft(String),
}

impl From<VerifiedError> for HostError {
    fn from(error: VerifiedError) -> Self {
        match error {
            VerifiedError::Disk(error) => Self::Disk(error),
            error => Self::State(StateError::Damaged(error.to_string())),
        }
    }
}

impl From<RegistryError> for HostError {
    fn from(error: RegistryError) -> Self {
        Self::Journal(error.to_string())
    }
}

impl From<ProposeError> for HostError {
    fn from(error: ProposeError) -> Self {
        Self::Raft(error.to_string())
    }
}

/// A replica that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedReplica {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub member: MemberId,
    /// What is wrong.
    pub reason: String,
    /// Whether its log or state is lost: retire it, and join the group again under a new number.
    /// Else it stopped for a reason that a restart of the node may cure.
    pub is_lost: bool,
}
