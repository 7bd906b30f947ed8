//! [`GroupReplica`] over openraft: one replica that runs.
//!
//! Invariants: an outcome that was not seen is unknown, never refused; reads see one transaction.
//! Does not: time out: callers have deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{AbortOnDrop, BoxFuture, Env, GroupId, Phase, with_current_env};
use hedgerow_protocol::{GroupMember, MemberId};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{
    ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::{Raft, ReadPolicy, ServerState};

use super::log::Log;
use super::machine::StateHandle;
use super::promises::Promises;
use super::quiet::Quiet;
use super::types::{Batch, LogId, Types};
use crate::replica::ReadJob;
use crate::{GroupReplica, Leadership, ProposeError, Proposed, View};

pub(crate) type TypedRaft = Raft<Types, StateHandle>;

/// A running replica.
pub(crate) struct Replica {
    pub(crate) env: Env,
    pub(crate) group: GroupId,
    pub(crate) me: GroupMember,
    pub(crate) raft: TypedRaft,
    pub(crate) state: StateHandle,
    pub(crate) log: Arc<Log>,
    pub(crate) quiet: Quiet,
    pub(crate) _tasks: [AbortOnDrop; 2],
}

fn not_leader(forward: ForwardToLeader<Types>) -> ProposeError {
    ProposeError::NotLeader {
        leader: forward.leader_node,
    }
}

fn unknown(reason: impl std::fmt::Display) -> ProposeError {
    ProposeError::Unknown {
        reason: reason.to_string(),
    }
}

fn write_error(error: RaftError<Types, ClientWriteError<Types>>) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => not_leader(forward),
        // Discarded here; another leader may have committed it. The rest concerns members.
        other => unknown(other),
    }
}

impl Replica {
    /// Why it has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let state = metrics.borrow_watched().running_state.clone();
        state.err().map(|fatal| fatal.to_string())
    }

    /// Makes `members` the voters of a group that has none; harmless when it has.
    pub(crate) async fn initialise(&self, members: Vec<GroupMember>) -> Result<(), ProposeError> {
        let members: BTreeMap<MemberId, GroupMember> = members
            .into_iter()
            .map(|member| (member.member, member))
            .collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(unknown(error)),
        }
    }

    async fn propose_batch(&self, batch: Bytes) -> Result<Proposed, ProposeError> {
        if let Some(reason) = self.stopped() {
            return Err(ProposeError::Stopped { reason });
        }
        self.quiet.stir(&self.raft);
        let written = self
            .raft
            .client_write(Batch(batch))
            .await
            .map_err(write_error)?;
        Ok(Proposed {
            index: written.log_id.index,
            outcomes: written.data.0,
        })
    }

    async fn read_index(&self) -> Result<(), ProposeError> {
        if let Some(reason) = self.stopped() {
            return Err(ProposeError::Stopped { reason });
        }
        if active(Mutant::ReadIndexSkipped) {
            return Ok(());
        }
        self.quiet.stir(&self.raft);
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(not_leader(forward))
            }
            Err(error) => Err(unknown(error)),
        }
    }

    async fn set_voters(
        &self,
        add: Vec<GroupMember>,
        voters: BTreeSet<MemberId>,
    ) -> Result<(), ProposeError> {
        let _phase = self.env.phase(Phase::Membership);
        self.quiet.stir(&self.raft);
        for member in add {
            // Returns once the learner has nearly caught up.
            let added = self.raft.add_learner(member.member, member, true).await;
            added.map_err(write_error)?;
        }
        // Not retained: a member that votes no more leaves the group.
        let changed = self.raft.change_membership(voters, false).await;
        changed.map(drop).map_err(write_error)
    }
}

/// A handle that services and drivers hold.
#[derive(Clone)]
pub(crate) struct ReplicaHandle(pub(crate) Arc<Replica>);

impl ReplicaHandle {
    /// openraft finds its node in the task; whoever polls this may be no task of the node.
    fn inside<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        with_current_env(self.0.env.clone(), Box::pin(future))
    }
}

impl GroupReplica for ReplicaHandle {
    fn group(&self) -> GroupId {
        self.0.group
    }

    fn member(&self) -> MemberId {
        self.0.me.member
    }

    fn leadership(&self) -> Leadership {
        let runs = self.0.stopped().is_none();
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader.filter(|_| runs);
        Leadership {
            term: metrics.vote.leader_id.term,
            leader: leader.and_then(|leader| membership.get_node(&leader).cloned()),
            is_leader: leader == Some(self.0.me.member) && metrics.state == ServerState::Leader,
            members: membership
                .nodes()
                .map(|(_, member)| member.clone())
                .collect(),
            voters: membership.voter_ids().collect(),
        }
    }

    fn leadership_changed(&self, known: Leadership) -> BoxFuture<'static, ()> {
        let replica = self.clone();
        Box::pin(async move {
            let mut metrics = replica.0.raft.server_metrics();
            loop {
                // Seen before it is compared, so that no change falls between.
                drop(metrics.borrow_and_update());
                if replica.leadership() != known {
                    return;
                }
                if metrics.changed().await.is_err() && replica.leadership() == known {
                    break;
                }
            }
            // It has stopped for good: nothing will ever change, and nothing may keep it alive.
            drop((replica, metrics));
            std::future::pending().await
        })
    }

    fn propose(&self, batch: Bytes) -> BoxFuture<'static, Result<Proposed, ProposeError>> {
        let replica = Arc::clone(&self.0);
        self.inside(async move { replica.propose_batch(batch).await })
    }

    fn linearize(&self) -> BoxFuture<'static, Result<(), ProposeError>> {
        let replica = Arc::clone(&self.0);
        self.inside(async move { replica.read_index().await })
    }

    fn applied_index(&self) -> u64 {
        self.0.state.store.applied_index()
    }

    fn promises(&self) -> Option<Arc<Promises>> {
        Some(self.0.log.promises())
    }

    fn describe(&self) -> String {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let mut text = format!(
            "{:?} of term {}, log {}..={}, applied {}",
            metrics.state,
            metrics.current_term,
            index(metrics.purged),
            metrics.last_log_index.unwrap_or(0),
            self.applied_index(),
        );
        for (member, matched) in metrics.replication.iter().flatten() {
            text.push_str(&format!("; {member} matches {}", index(*matched)));
        }
        if let Err(stopped) = &metrics.running_state {
            text.push_str(&format!("; stopped: {stopped}"));
        }
        text
    }

    fn read(&self, job: ReadJob) -> BoxFuture<'static, ()> {
        let state = self.0.state.clone();
        Box::pin(async move {
            state
                .blocking(|store| match store.view() {
                    Ok(view) => {
                        let index = view.applied.index();
                        job(Ok(&view.reading as &dyn View), index);
                    }
                    Err(error) => job(Err(error), 0),
                })
                .await;
        })
    }

    fn change_voters(
        &self,
        add: Vec<GroupMember>,
        voters: Vec<MemberId>,
    ) -> BoxFuture<'static, Result<(), ProposeError>> {
        let replica = Arc::clone(&self.0);
        let voters = voters.into_iter().collect();
        self.inside(async move { replica.set_voters(add, voters).await })
    }
}
