//! One replica of a Raft group, as services and drivers see it: no openraft type appears here.

use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, GroupId};
use hedgerow_protocol::{GroupMember, MemberId};

use crate::raft::Promises;
use crate::{StateError, View};

/// Who leads a group, as this replica knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader, if known.
    pub leader: Option<GroupMember>,
    /// Whether this replica is it.
    pub is_leader: bool,
    /// Voters and learners at present.
    pub members: Vec<GroupMember>,
    /// The voters among them.
    pub voters: Vec<MemberId>,
}

/// An applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Its log index.
    pub index: u64,
    /// The machine's encoded outcomes.
    pub outcomes: Bytes,
}

/// Why a proposal or a read was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed: ask the leader.
    #[error("not the leader; {leader:?} may be")]
    NotLeader {
        /// The leader, if known.
        leader: Option<GroupMember>,
    },
    /// It may or may not be applied: ask again.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
    /// Not proposed: this replica has stopped.
    #[error("replica stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A job that reads the state; it is given the view and the log index that the view reflects.
pub type ReadJob = Box<dyn FnOnce(Result<&dyn View, StateError>, u64) + Send>;

/// One replica of a group.
pub trait GroupReplica: Send + Sync {
    /// The group.
    fn group(&self) -> GroupId;
    /// This replica's own identity.
    fn member(&self) -> MemberId;
    /// Who leads.
    fn leadership(&self) -> Leadership;
    /// Completes when [`GroupReplica::leadership`] differs from `known` (or soon after).
    fn leadership_changed(&self, known: Leadership) -> BoxFuture<'static, ()>;
    /// Proposes an encoded batch and awaits its application here.
    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Proposed, ProposeError>>;
    /// Waits until the local state holds everything acknowledged before this call (read index).
    fn linearize(&self) -> BoxFuture<'static, Result<(), ProposeError>>;
    /// The index of the last entry applied here, without a look at the state: what is read
    /// afterwards reflects it or a later one. While it stands, so does every answer.
    fn applied_index(&self) -> u64;
    /// For people: its role, term and logs, and how far the others are if it leads.
    fn describe(&self) -> String;
    /// For whoever judges it from outside: what it promises in this life.
    fn promises(&self) -> Option<Arc<Promises>> {
        None
    }
    /// Runs a job on a consistent view of the local state, away from the async threads.
    fn read(&self, job: ReadJob) -> BoxFuture<'static, ()>;
    /// Adds a learner, waits for it to catch up, and makes `voters` the voters (joint consensus).
    fn change_voters(
        &self,
        add: Vec<GroupMember>,
        voters: Vec<MemberId>,
    ) -> BoxFuture<'static, Result<(), ProposeError>>;
}
