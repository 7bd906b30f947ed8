//! Giving a replica up: its number is retired durably, so that it never votes again; its log and
//! state stay until its group has let it go, and are removed then.
//!
//! Invariants: the retirement is durable before anybody is told; nothing is removed before the
//! group's leader counts the member no more, or a successor starts here.
//! Does not: tell the group (the drivers do).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard};

use hedgerow_disk::journal::{CopyForward, Journal, JournalReadError, StreamTag};
use hedgerow_env::{AbortOnDrop, BoxFuture, Env, GroupId, ReplicaNumber, event};
use hedgerow_protocol::{GroupMember, MemberId};
use tokio::sync::mpsc;

use super::PagesHost;
use super::host::{Shared, state_name, stop};
use super::host_config::HostError;
use super::registry::{Key, ReplicaRecord};

/// A retired replica that its group may still count as a member.
pub(crate) struct Departing {
    member: MemberId,
    _copying: AbortOnDrop,
}

impl Shared {
    pub(crate) fn all_departing(&self) -> MutexGuard<'_, BTreeMap<GroupId, Departing>> {
        self.departing.lock().expect("no panic under this lock")
    }

    /// This store's member under `replica`. Peers know its address by the topology.
    pub(crate) fn own_member(&self, replica: ReplicaNumber) -> GroupMember {
        GroupMember {
            member: MemberId {
                store: self.store,
                replica,
            },
            node: self.node,
            address: String::new(),
        }
    }

    /// Writes damaged registrations again: their headers say all that matters.
    pub(crate) async fn register_again(&self, lost: BTreeSet<Key>) -> Result<(), HostError> {
        // In ascending order, so that the newest of a group stands in the end.
        for key in lost {
            let record = ReplicaRecord {
                group: key.group,
                member: self.own_member(key.replica),
                retired: key.retired,
            };
            self.registry.write(record).await?;
        }
        Ok(())
    }

    /// Retires a replica that does not run; durable on return.
    pub(crate) async fn condemn(
        &self,
        group: GroupId,
        me: GroupMember,
        reason: String,
    ) -> Result<(), HostError> {
        let member = me.member;
        let record = ReplicaRecord {
            group,
            member: me,
            retired: true,
        };
        self.registry.write(record).await?;
        self.report_damage(group, member, reason, true);
        self.depart(group, member);
        Ok(())
    }

    /// Stops the replica `member` of `group` and retires it.
    pub(crate) async fn condemn_running(
        self: &Arc<Self>,
        group: GroupId,
        member: MemberId,
        reason: String,
    ) {
        let _changing = self.changing.lock().await;
        let found = self.running(group);
        let Some(replica) = found.filter(|replica| replica.me.member == member) else {
            return;
        };
        self.all_running().remove(&group);
        let me = replica.me.clone();
        stop(replica).await;
        if let Err(error) = self.condemn(group, me, reason).await {
            // It stays stopped; the next start meets the damage again.
            self.report_damage(group, member, error.to_string(), true);
        }
    }

    /// Keeps what a retired replica has left until [`Shared::forget`].
    pub(crate) fn depart(&self, group: GroupId, member: MemberId) {
        self.all_unjudged().remove(&group);
        let requests = self.journal.copy_forward_requests(StreamTag::raft(group));
        let copying = copy_as_is(self.env.clone(), self.journal.clone(), requests);
        let copying = self.env.spawn("raft-departing", copying);
        let departing = Departing {
            member,
            _copying: copying.abort_on_drop(),
        };
        self.all_departing().insert(group, departing);
    }

    /// Removes what the retired replica `member` has left. Harmless when it is gone.
    pub(crate) async fn forget(&self, group: GroupId, member: MemberId) -> Result<(), HostError> {
        let is_there = |departing: &Departing| departing.member == member;
        if !self.all_departing().get(&group).is_some_and(is_there) {
            return Ok(());
        }
        self.all_departing().remove(&group);
        self.all_damaged().remove(&group);
        self.journal.release_stream(StreamTag::raft(group));
        let name = state_name(group, member.replica);
        Ok(self.remove_states(|found| found.starts_with(&name)).await?)
    }
}

impl PagesHost {
    /// Retires this store's replica of `group`: its number never runs again. Harmless when there is
    /// none. What it leaves goes with [`PagesHost::forget`], or when its successor starts.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn retire_replica(&self, group: GroupId) -> Result<(), HostError> {
        if let Some(running) = self.0.running(group) {
            let reason = "it was retired".to_owned();
            let member = running.me.member;
            drop(running);
            self.0.condemn_running(group, member, reason).await;
            return Ok(());
        }
        let _changing = self.0.changing.lock().await;
        self.0.all_healing().remove(&group);
        match self.0.registry.record(group) {
            Some(record) if !record.retired => {
                let reason = "it was retired".to_owned();
                self.0.condemn(group, record.member, reason).await
            }
            _ => Ok(()),
        }
    }

    /// The retired replicas that have no successor here.
    #[must_use]
    pub fn retired(&self) -> Vec<(GroupId, MemberId)> {
        let records = self.0.registry.records().into_iter();
        records
            .filter(|record| record.retired)
            .map(|record| (record.group, record.member.member))
            .collect()
    }

    /// The group counts `member` no more: removes its log and state. Harmless when they are gone.
    ///
    /// # Errors
    /// [`HostError`]: what is left goes when the group is asked again.
    pub fn forget(
        &self,
        group: GroupId,
        member: MemberId,
    ) -> BoxFuture<'static, Result<(), HostError>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let _changing = shared.changing.lock().await;
            shared.forget(group, member).await
        })
    }
}

/// Copies the records of a retired replica out of segments that the journal wants to free.
async fn copy_as_is(env: Env, journal: Journal, mut requests: mpsc::Receiver<CopyForward>) {
    while let Some(request) = requests.recv().await {
        for position in request.positions {
            let copied = async {
                match journal.read(position).await {
                    Ok(record) => {
                        let receipt = journal.append_when_ready(record).await;
                        let receipt = receipt.map_err(|error| error.to_string())?;
                        receipt.durable().await.map_err(|error| error.to_string())
                    }
                    // Nothing that anybody could still use.
                    Err(JournalReadError::Missing(_) | JournalReadError::Damaged(_)) => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            };
            match copied.await {
                Ok(()) => journal.release(position),
                Err(error) => event!(env, Warn, "raft", "copying what was left: {error}"),
            }
        }
    }
}
