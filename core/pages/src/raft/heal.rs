//! Mending a damaged log: its lost entries are asked of the other members' log stores, by index,
//! term and checksum, until all are back; then the replica runs.
//!
//! This needs no leader: the stores asked may themselves wait for entries.
//!
//! Invariants: a log with a lost entry is never run; what comes back is what was lost, by its
//! checksum; a replica is given up only when nobody has what it lost, or when the group goes on
//! without it. Giving up is always safe, for a retired number never votes; waiting is what may make
//! it unnecessary.
//! Does not: take snapshots of peers (whoever rejoins gets one of the leader).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_disk::journal::StreamTag;
use hedgerow_env::{AbortOnDrop, GroupId, Instant, Phase, event};
use hedgerow_net::{CallOptions, Message, Peer, ServiceId};
use hedgerow_protocol::{
    GroupMember, LOG_FETCH_ENTRIES_MAX, LogEntryName, LogFetch, LogFetched, MemberId, SERVICE_LOG,
    decode, encode,
};

use super::host::{Shared, copy_forward};
use super::host_config::HostError;
use super::log::Log;
use super::log_record::{Body, LostEntry};
use super::types::Membership;
use crate::StateError;

/// For one answer: the peer reads up to a megabyte from its journal.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two rounds over the peers.
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// How long the silent peers are waited for when one that runs lacks a lost entry: then this replica
/// rejoins instead. A restart of the silent ones is over by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// A log that waits for entries, or for room for its state.
pub(crate) struct Healing {
    log: Arc<Log>,
    _copying: AbortOnDrop,
}

/// What a round over the peers brought.
enum Round {
    Filled,
    Later,
    Hopeless(String),
}

impl Shared {
    pub(crate) fn all_healing(&self) -> MutexGuard<'_, BTreeMap<GroupId, Healing>> {
        self.healing.lock().expect("no panic under this lock")
    }

    /// The log of `group` that waits for entries here.
    pub(crate) fn healing_log(&self, group: GroupId) -> Option<Arc<Log>> {
        let healing = self.all_healing();
        healing.get(&group).map(|healing| Arc::clone(&healing.log))
    }

    /// Keeps `log`, whose replica does not run, at the disposal of peers and of the journal.
    pub(crate) fn wait_with(&self, group: GroupId, log: Arc<Log>) {
        let requests = self.journal.copy_forward_requests(StreamTag::raft(group));
        let no_snapshot = || async {};
        let copying = copy_forward(self.env.clone(), requests, Arc::clone(&log), no_snapshot);
        let copying = self.env.spawn("raft-copy-forward", copying);
        let healing = Healing {
            log,
            _copying: copying.abort_on_drop(),
        };
        self.all_healing().insert(group, healing);
    }

    /// Whether `log` still waits: its replica may have been retired, or the host be stopping.
    pub(crate) fn waits_with(&self, group: GroupId, log: &Arc<Log>) -> bool {
        let waiting = self.healing_log(group);
        waiting.is_some_and(|waiting| Arc::ptr_eq(&waiting, log))
    }

    /// Begins to mend `log`, whose group had these memberships, the newest last.
    pub(crate) fn heal(
        self: &Arc<Self>,
        group: GroupId,
        me: GroupMember,
        log: Arc<Log>,
        memberships: &[Membership],
    ) {
        let count = log.lost().len();
        let member = me.member;
        event!(
            self.env,
            Warn,
            "raft",
            "{group} {member}: {count} entries are damaged; asking the other members"
        );
        let nodes = memberships.iter().flat_map(Membership::nodes);
        let peers: BTreeMap<MemberId, GroupMember> = nodes
            .filter(|(member, _)| **member != me.member)
            .map(|(member, node)| (*member, node.clone()))
            .collect();
        let voters = memberships
            .last()
            .map(|newest| newest.voter_ids().collect());
        self.wait_with(group, Arc::clone(&log));
        let healer = Healer {
            host: Arc::downgrade(self),
            group,
            me,
            log,
            peers: peers.into_values().collect(),
            voters: voters.unwrap_or_default(),
            give_up: self.env.now() + PATIENCE,
        };
        self.env.spawn("raft-heal", healer.run());
    }

    /// Runs a replica that was there before; what it turns out to lack is reported.
    pub(crate) async fn run_resumed(
        self: &Arc<Self>,
        group: GroupId,
        me: GroupMember,
        log: Arc<Log>,
    ) -> Result<(), HostError> {
        let state = log.state();
        let store = Arc::clone(&state.store);
        let member = me.member;
        let error = match self.run(group, me.clone(), Arc::clone(&log)).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if store.is_full() && !store.is_damaged() {
            // It found that out by reading what it had applied: nothing else is wrong with it.
            self.rest_with(group, me, log, state.machine());
            return Ok(());
        }
        if store.is_damaged() || matches!(error, HostError::State(StateError::Damaged(_))) {
            return self.condemn(group, me, error.to_string()).await;
        }
        match error {
            HostError::State(error) => {
                self.report_damage(group, member, error.to_string(), false);
                Ok(())
            }
            HostError::Raft(error) => {
                // Log and state contradict each other, unless the journal failed underneath.
                let is_lost = self.journal.is_stopped().is_none();
                self.report_damage(group, member, error, is_lost);
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// Mends one log.
struct Healer {
    host: Weak<Shared>,
    group: GroupId,
    me: GroupMember,
    log: Arc<Log>,
    peers: Vec<GroupMember>,
    voters: BTreeSet<MemberId>,
    give_up: Instant,
}

impl Healer {
    async fn run(self) {
        loop {
            let Some(host) = self.host.upgrade() else {
                return;
            };
            if !host.waits_with(self.group, &self.log) {
                return;
            }
            match self.round(&host).await {
                Round::Later => {}
                Round::Filled => return self.finish(&host, None).await,
                Round::Hopeless(reason) => return self.finish(&host, Some(reason)).await,
            }
            let env = host.env.clone();
            drop(host);
            env.sleep(ROUND_PAUSE).await;
        }
    }

    /// Runs the replica, or gives it up for `hopeless`.
    async fn finish(self, host: &Arc<Shared>, hopeless: Option<String>) {
        let _changing = host.changing.lock().await;
        if !host.waits_with(self.group, &self.log) {
            return;
        }
        host.all_healing().remove(&self.group);
        let (group, me) = (self.group, self.me);
        let member = me.member;
        let done = match hopeless {
            None => {
                event!(
                    host.env,
                    Info,
                    "raft",
                    "{group} {member}: the log is whole again"
                );
                host.run_resumed(group, me, self.log).await
            }
            Some(reason) => host.condemn(group, me, reason).await,
        };
        if let Err(error) = done {
            host.report_damage(group, member, error.to_string(), false);
        }
    }

    /// Asks each peer for what is still lost.
    async fn round(&self, host: &Shared) -> Round {
        let _phase = host.env.phase(Phase::Refill);
        let mut lacking = BTreeMap::new();
        for peer in &self.peers {
            if let Some(runs) = self.ask_for_all(host, peer).await {
                lacking.insert(peer.member, runs);
            }
            if self.log.lost().is_empty() {
                return Round::Filled;
            }
        }
        // Whatever is lost still is lacking at every peer that answered.
        let all_lack = lacking.len() == self.peers.len();
        let majority = self.voters.len() / 2 + 1;
        // Two that wait for the same entry must not give up on each other's word.
        let run = |voter: &&MemberId| lacking.get(*voter) == Some(&true);
        let quorum_lacks = self.voters.iter().filter(run).count() >= majority;
        let one_lacks = lacking.values().any(|runs| *runs);
        let is_late = one_lacks && host.env.now() >= self.give_up;
        match self.log.lost().first() {
            Some(lost) if all_lack || quorum_lacks || is_late => Round::Hopeless(format!(
                "the entry at index {}, term {} is damaged, and {} of {} other members lack it",
                lost.index,
                lost.term,
                lacking.len(),
                self.peers.len()
            )),
            _ => Round::Later,
        }
    }

    /// Takes all that `peer` holds of what is lost. If it surely lacks some of it: whether its
    /// replica runs.
    async fn ask_for_all(&self, host: &Shared, peer: &GroupMember) -> Option<bool> {
        let mut lost = self.log.lost();
        while !lost.is_empty() {
            lost.truncate(LOG_FETCH_ENTRIES_MAX);
            let fetched = self.ask(host, peer, &lost).await?;
            let lacks = fetched.complete.then_some(fetched.runs);
            let entries: Vec<_> = lost
                .iter()
                .filter_map(|lost| {
                    let name = name_of(lost);
                    let mut held = fetched.held.iter();
                    let (_, payload) = held.find(|(held, _)| *held == name)?;
                    Some((*lost, Body::refill(lost, payload)?))
                })
                .collect();
            let count = entries.len();
            if let Err(error) = self.log.fill(entries).await {
                let group = self.group;
                event!(host.env, Warn, "raft", "{group}: refilling: {error}");
                return None;
            }
            if count == 0 || (fetched.complete && count < lost.len()) {
                return lacks;
            }
            lost = self.log.lost();
        }
        None
    }

    async fn ask(
        &self,
        host: &Shared,
        peer: &GroupMember,
        lost: &[LostEntry],
    ) -> Option<LogFetched> {
        let address = (host.addresses)(peer).unwrap_or_else(|| peer.address.clone());
        let request = LogFetch {
            group: self.group,
            wanted: lost.iter().map(name_of).collect(),
        };
        let request = Message::new(encode(&request), Bytes::new());
        let peer = Peer::new(address, peer.node);
        let options = CallOptions::within(FETCH_TIMEOUT);
        let service = ServiceId(SERVICE_LOG);
        let call = host.rpc.call_with(&peer, service, request, options);
        // RPC keeps the deadline, too; this one holds even where it waits for a connection.
        let answered = host.env.timeout(FETCH_TIMEOUT, call).await.ok()?;
        decode(&answered.ok()?.head).ok()
    }
}

fn name_of(lost: &LostEntry) -> LogEntryName {
    LogEntryName {
        index: lost.index,
        term: lost.term,
        checksum: lost.checksum,
    }
}
