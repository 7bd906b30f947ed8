//! Waiting for room: a replica whose state found no space on the disk stops alone, and starts again
//! on the same log when there is some. One whose state finds none when the node starts waits for it
//! in the same way.
//!
//! Its log stays where it is, in the journal, whose room is taken when it is made: so every entry
//! and vote that it promised stands, and the state, opened anew at its last durable point, is
//! filled from there.
//!
//! Invariants: the new state is opened after nothing writes into the old one any more; the replica
//! runs again only when all of its log is durable; it is not retired for want of room.
//!
//! So that this is rare, a file in the states' directory holds [`RESERVE_LOGS`] in advance: it is
//! given up before any state is refused, and taken again when there is room.
//! Does not: make room (those who delete do).

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use hedgerow_disk::journal::{DamagedRange, RecoveredRecord};
use hedgerow_disk::{Reserve, VerifiedConfig};
use hedgerow_env::{AbortOnDrop, DiskError, Env, GroupId, Instant, event};
use hedgerow_protocol::{GroupMember, MemberId};

use super::host::{Shared, stop};
use super::host_config::{HostError, Machines};
use super::log::Log;
use super::machine::StateHandle;
use super::registry::ReplicaRecord;
use crate::{Machine, StateError};

/// First pause before a replica without room is tried again: room comes back by deletions.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause: an operator who made room waits for no more than that.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// A replica that ran for so long was not started too early.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// The reserve's name in the states' directory.
pub const RESERVE_NAME: &str = "reserve";
/// The reserve, in page logs. Deletions and other small changes write over what a state has freed,
/// and so let the file hardly grow; what they need is their page logs, which take their room when
/// they first fill up. Two of them, and one as much for states that grow all the same.
const RESERVE_LOGS: u64 = 3;
/// Pause between two looks whether the reserve is to be taken again.
const RESERVE_PAUSE: Duration = Duration::from_secs(5);

/// The reserve of the states in `directory`, not held yet.
pub(crate) fn new_reserve(env: &Env, directory: &str, verified: &VerifiedConfig) -> Reserve {
    let bytes = RESERVE_LOGS * verified.log_bytes;
    Reserve::new(env, format!("{directory}/{RESERVE_NAME}"), bytes)
}

/// Takes the reserve again whenever it was given up, while the host lives.
pub(crate) async fn keep_reserve(env: Env, host: Weak<Shared>) {
    loop {
        env.sleep(RESERVE_PAUSE).await;
        let Some(host) = host.upgrade() else { return };
        host.hold_reserve().await;
    }
}

/// How long to wait before the next start of a replica that found no room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pause: Duration,
    started: Option<Instant>,
}

impl Pace {
    const FIRST: Self = Self {
        pause: PAUSE_MIN,
        started: None,
    };

    /// The pace after room was wanting once more.
    fn next(self, now: Instant) -> Self {
        let ran = self.started.map(|started| now.since(started));
        if ran.is_some_and(|ran| ran >= SETTLED_AFTER) {
            return Self::FIRST;
        }
        Self {
            pause: (self.pause * 2).min(PAUSE_MAX),
            started: None,
        }
    }
}

impl HostError {
    /// Whether nothing but room was wanting: try again when there is some.
    #[must_use]
    pub fn is_no_room(&self) -> bool {
        matches!(
            self,
            Self::Disk(DiskError::NoSpace { .. }) | Self::State(StateError::NoRoom(_))
        )
    }
}

/// A replica that waits for room.
struct Resting {
    host: Weak<Shared>,
    group: GroupId,
    me: GroupMember,
    log: Arc<Log>,
    machine: Arc<dyn Machine>,
}

impl Shared {
    /// Takes the reserve, if there is room for it.
    pub(crate) async fn hold_reserve(&self) {
        if let Err(error) = self.reserve.hold().await {
            event!(self.env, Debug, "raft", "no reserve: {error}");
        }
    }

    /// Stops the replica `member` of `group`, whose state found no space; starts it again later.
    pub(crate) async fn rest(self: &Arc<Self>, group: GroupId, member: MemberId) {
        let _changing = self.changing.lock().await;
        let found = self.running(group);
        let Some(replica) = found.filter(|replica| replica.me.member == member) else {
            return;
        };
        self.all_running().remove(&group);
        let (log, machine) = (Arc::clone(&replica.log), replica.state.machine());
        // It starts again only when nobody is changing anything: after the stop.
        self.rest_with(group, replica.me.clone(), log, machine);
        stop(replica).await;
    }

    /// Has the replica `me` of `group`, which does not run, wait for room with `log`.
    pub(crate) fn rest_with(
        self: &Arc<Self>,
        group: GroupId,
        me: GroupMember,
        log: Arc<Log>,
        machine: Arc<dyn Machine>,
    ) {
        let reason = "its state found no space".to_owned();
        self.report_damage(group, me.member, reason, false);
        self.wait_with(group, Arc::clone(&log));
        self.slow_down(group);
        let resting = Resting {
            host: Arc::downgrade(self),
            group,
            me,
            log,
            machine,
        };
        self.env.spawn("raft-rest", resting.run());
    }

    fn slow_down(&self, group: GroupId) {
        let mut paces = self.paces.lock().expect("no panic under this lock");
        let now = self.env.now();
        let next = paces.get(&group).map_or(Pace::FIRST, |pace| pace.next(now));
        paces.insert(group, next);
    }

    fn pause(&self, group: GroupId) -> Duration {
        let paces = self.paces.lock().expect("no panic under this lock");
        paces.get(&group).map_or(PAUSE_MIN, |pace| pace.pause)
    }

    fn note_start(&self, group: GroupId) {
        let mut paces = self.paces.lock().expect("no panic under this lock");
        if let Some(pace) = paces.get_mut(&group) {
            pace.started = Some(self.env.now());
        }
    }
}

/// A damaged log that nobody can judge before the state beside it can be opened. What is left of it
/// stays where it is: nothing of it may be freed before.
struct Unjudged {
    host: Weak<Shared>,
    record: ReplicaRecord,
    found: Vec<RecoveredRecord>,
    damaged: Vec<DamagedRange>,
    machines: Machines,
}

impl Shared {
    pub(crate) fn all_unjudged(&self) -> MutexGuard<'_, BTreeMap<GroupId, AbortOnDrop>> {
        self.unjudged.lock().expect("no panic under this lock")
    }

    /// Resumes the replica of `record` when there is room for its state.
    pub(crate) fn judge_later(
        self: &Arc<Self>,
        record: ReplicaRecord,
        found: Vec<RecoveredRecord>,
        damaged: &[DamagedRange],
        machines: &Machines,
    ) {
        let group = record.group;
        let reason = "its log is damaged, and its state found no space".to_owned();
        self.report_damage(group, record.member.member, reason, false);
        self.slow_down(group);
        let unjudged = Unjudged {
            host: Arc::downgrade(self),
            record,
            found,
            damaged: damaged.to_vec(),
            machines: Arc::clone(machines),
        };
        let waiting = self.env.spawn("raft-unjudged", unjudged.run());
        self.all_unjudged().insert(group, waiting.abort_on_drop());
    }
}

impl Unjudged {
    async fn run(self) {
        let group = self.record.group;
        loop {
            let Some(host) = self.host.upgrade() else {
                return;
            };
            let (env, pause) = (host.env.clone(), host.pause(group));
            drop(host);
            env.sleep(pause).await;
            let Some(host) = self.host.upgrade() else {
                return;
            };
            // Whoever retires the replica or stops the host ends this task.
            let _changing = host.changing.lock().await;
            // Room for the reserve is room enough to go on for a while.
            if host.reserve.hold().await.is_ok() {
                return self.resume(&host).await;
            }
            host.slow_down(group);
        }
    }

    async fn resume(self, host: &Arc<Shared>) {
        let (group, member) = (self.record.group, self.record.member.member);
        host.all_damaged().remove(&group);
        let resumed = host.resume(self.record, self.found, &self.damaged, &self.machines);
        if let Err(error) = resumed.await {
            host.report_damage(group, member, error.to_string(), false);
        }
    }
}

impl Resting {
    async fn run(self) {
        loop {
            let Some(host) = self.host.upgrade() else {
                return;
            };
            let (env, pause) = (host.env.clone(), host.pause(self.group));
            drop(host);
            env.sleep(pause).await;
            let Some(host) = self.host.upgrade() else {
                return;
            };
            let _changing = host.changing.lock().await;
            if !host.waits_with(self.group, &self.log) {
                return;
            }
            match self.reopen(&host).await {
                Ok(()) => return self.start(&host).await,
                Err(error) if error.is_no_room() => {
                    let member = self.me.member;
                    event!(env, Debug, "raft", "{} {member}: {error}", self.group);
                    host.slow_down(self.group);
                }
                Err(error) => return self.give_up(&host, error).await,
            }
        }
    }

    /// Puts the state as it is durable beside the log.
    async fn reopen(&self, host: &Shared) -> Result<(), HostError> {
        // Room for the reserve is room enough to go on for a while.
        host.reserve.hold().await?;
        let store = host.open_state(self.group, self.me.member.replica).await?;
        let settled = self.log.settled().await;
        settled.map_err(|error| HostError::Journal(error.to_string()))?;
        let machine = Arc::clone(&self.machine);
        let state = StateHandle::new(host.env.clone(), store, machine);
        let old = self.log.replace_state(state);
        // Closed away from the async threads, as any.
        host.env.blocking("pages-close", move || drop(old)).await;
        Ok(())
    }

    async fn start(self, host: &Arc<Shared>) {
        let (group, me) = (self.group, self.me);
        let member = me.member;
        host.all_healing().remove(&group);
        host.all_damaged().remove(&group);
        host.note_start(group);
        event!(
            host.env,
            Info,
            "raft",
            "{group} {member}: there is room again"
        );
        if let Err(error) = host.run_resumed(group, me, self.log).await {
            host.report_damage(group, member, error.to_string(), false);
        }
    }

    /// Something else is wrong with the state.
    async fn give_up(self, host: &Shared, error: HostError) {
        let (group, me) = (self.group, self.me);
        let member = me.member;
        let reason = error.to_string();
        if matches!(error, HostError::State(StateError::Damaged(_))) {
            host.all_healing().remove(&group);
            if let Err(error) = host.condemn(group, me, reason).await {
                host.report_damage(group, member, error.to_string(), true);
            }
            return;
        }
        host.report_damage(group, member, reason, false);
    }
}
