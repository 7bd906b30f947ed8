//! [`PagesHost`]: every replica of one node.
//!
//! Invariants: a replica is in the registry, durably, before it runs, and its state file exists,
//! durably, before that; a retired number never runs again; a replica whose log or state is damaged
//! does not run until it is mended, or is retired, durably, before this start shows anything, while
//! the others go on; a journal that stops halts the node.
//! Does not: decide where replicas belong (the root does), mend (`heal`), wait for room (`room`), or
//! leave (`departure`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use hedgerow_disk::journal::{
    CLOSED, CopyForward, DamagedRange, HeaderCopy, Journal, RecoveredRecord, StreamTag,
};
use hedgerow_disk::{Reserve, VerifiedConfig, VerifiedFile};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    AbortOnDrop, DiskError, Env, GroupId, HaltReason, NodeId, ReplicaNumber, StoreId, event,
    with_current_env,
};
use hedgerow_net::{Rpc, ServiceId};
use hedgerow_protocol::{GroupMember, MemberId, SERVICE_LOG, SERVICE_QUIET, SERVICE_RAFT};
use openraft::Raft;
use tokio::sync::mpsc;

use super::backend::{Health, Trouble};
use super::departure::Departing;
use super::heal::Healing;
use super::host_config::{DamagedReplica, HostConfig, HostError, Machines};
use super::log::{Log, LogHandle};
use super::log_core::LogCore;
use super::log_record::Header;
use super::machine::StateHandle;
use super::network::{Addresses, Network};
use super::quiet::{Quiet, QuietService, rounds};
use super::recovery::{Judged, LogDamage, recover_log};
use super::registry::{Key, REGISTRY_STREAM, Registry, ReplicaRecord};
use super::replica::{Replica, ReplicaHandle};
use super::room::{Pace, keep_reserve, new_reserve};
use super::serve::{LogService, RaftService};
use super::store::StateStore;
use super::timing::RaftTiming;
use crate::{GroupReplica, Machine, StateError};

pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) rpc: Rpc,
    pub(crate) store: StoreId,
    pub(crate) node: NodeId,
    pub(crate) journal: Journal,
    pub(crate) directory: String,
    timing: RaftTiming,
    verified: VerifiedConfig,
    pub(crate) reserve: Reserve,
    pub(crate) addresses: Addresses,
    pub(crate) registry: Registry,
    running: Mutex<BTreeMap<GroupId, Arc<Replica>>>,
    damaged: Mutex<BTreeMap<GroupId, DamagedReplica>>,
    /// Logs that wait for entries of their peers.
    pub(crate) healing: Mutex<BTreeMap<GroupId, Healing>>,
    /// Retired replicas that their groups may still count as members.
    pub(crate) departing: Mutex<BTreeMap<GroupId, Departing>>,
    /// Replicas that are registered since this start and whose states could not be opened for the first
    /// time: nothing of them has run, and another attempt begins anew.
    unopened: Mutex<BTreeSet<GroupId>>,
    /// Replicas whose damaged logs wait to be judged until their states can be opened.
    pub(crate) unjudged: Mutex<BTreeMap<GroupId, AbortOnDrop>>,
    /// How long to wait before replicas are started again that found no room.
    pub(crate) paces: Mutex<BTreeMap<GroupId, Pace>>,
    /// One start or retirement at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Shared {
    /// The replica of `group` that runs here.
    pub(crate) fn running(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.all_running().get(&group).cloned()
    }

    /// The log of `group` here, of a replica that runs or waits for entries.
    pub(crate) fn log(&self, group: GroupId) -> Option<Arc<Log>> {
        let running = self.running(group).map(|replica| Arc::clone(&replica.log));
        running.or_else(|| self.healing_log(group))
    }

    pub(crate) fn all_running(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<Replica>>> {
        self.running.lock().expect("no panic under this lock")
    }

    pub(crate) fn all_damaged(&self) -> MutexGuard<'_, BTreeMap<GroupId, DamagedReplica>> {
        self.damaged.lock().expect("no panic under this lock")
    }

    fn all_unopened(&self) -> MutexGuard<'_, BTreeSet<GroupId>> {
        self.unopened.lock().expect("no panic under this lock")
    }

    fn state_path(&self, group: GroupId, replica: ReplicaNumber) -> String {
        format!("{}/{}", self.directory, state_name(group, replica))
    }

    /// Runs the replica `me` of `group` on its log and the state beside it.
    pub(crate) async fn run(
        self: &Arc<Self>,
        group: GroupId,
        me: GroupMember,
        log: Arc<Log>,
    ) -> Result<Arc<Replica>, HostError> {
        let state = log.state();
        let config = self
            .timing
            .config(group.to_string())
            .map_err(HostError::Configuration)?;
        let network = Network {
            env: self.env.clone(),
            rpc: self.rpc.clone(),
            addresses: Arc::clone(&self.addresses),
            append_timeout: self.timing.append,
            group,
            member: me.member,
        };
        let storage = LogHandle(Arc::clone(&log));
        let (id, config, machine) = (me.member, Arc::new(config), state.clone());
        let starting = async move { Raft::new(id, config, network, storage, machine).await };
        // openraft finds its node in the task; whoever polls this may be no task of the node.
        let raft = with_current_env(self.env.clone(), Box::pin(starting))
            .await
            .map_err(|fatal| HostError::Raft(fatal.to_string()))?;
        let make_snapshot = {
            let raft = raft.clone();
            move || {
                let raft = raft.clone();
                // A replica that has stopped copies instead.
                async move { drop(raft.trigger().snapshot().await) }
            }
        };
        let requests = self.journal.copy_forward_requests(StreamTag::raft(group));
        let copying = copy_forward(self.env.clone(), requests, Arc::clone(&log), make_snapshot);
        let copying = self.env.spawn("raft-copy-forward", copying);
        let watching = self.watch_state(group, me.member, Arc::clone(state.store.health()));
        let replica = Arc::new(Replica {
            env: self.env.clone(),
            group,
            me,
            raft,
            state,
            log,
            quiet: Quiet::default(),
            _tasks: [copying.abort_on_drop(), watching],
        });
        self.all_running().insert(group, Arc::clone(&replica));
        let member = replica.me.member;
        event!(self.env, Info, "raft", "{group} runs as {member}");
        Ok(replica)
    }

    /// Gives the replica up when its state is found damaged, and stops it for as long as there is
    /// no room for it.
    fn watch_state(
        self: &Arc<Self>,
        group: GroupId,
        member: MemberId,
        health: Arc<Health>,
    ) -> AbortOnDrop {
        let host = Arc::downgrade(self);
        let watching = async move {
            let trouble = health.trouble().await;
            let Some(shared) = host.upgrade() else { return };
            // A task of its own: this one ends with the replica.
            let env = shared.env.clone();
            match trouble {
                Trouble::Damage => env.spawn("raft-condemn", async move {
                    let reason = "its state is damaged".to_owned();
                    shared.condemn_running(group, member, reason).await;
                }),
                Trouble::NoRoom => env.spawn("raft-room", async move {
                    shared.rest(group, member).await;
                }),
            };
        };
        self.env.spawn("raft-state-watch", watching).abort_on_drop()
    }

    /// The log `core` of `me`, with the state `store` beside it, if there was room to open that.
    fn start_log(
        &self,
        group: GroupId,
        me: &GroupMember,
        core: LogCore,
        store: Option<StateStore>,
        machine: Arc<dyn Machine>,
    ) -> Arc<Log> {
        let state = store.map(|store| StateHandle::new(self.env.clone(), store, machine));
        let journal = self.journal.clone();
        let kept_entries = self.timing.kept_entries;
        let replica = me.member.replica;
        Log::start(
            &self.env,
            journal,
            group,
            replica,
            core,
            state,
            kept_entries,
        )
    }

    /// Starts a replica that was there at the last start.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        record: ReplicaRecord,
        found: Vec<RecoveredRecord>,
        damaged: &[DamagedRange],
        machines: &Machines,
    ) -> Result<(), HostError> {
        let (group, me) = (record.group, record.member.clone());
        if record.retired {
            self.depart(group, me.member);
            return Ok(());
        }
        let store = match self.open_state(group, me.member.replica).await {
            Ok(store) => Some(store),
            Err(error) if error.is_no_room() => None,
            Err(HostError::State(error @ StateError::Damaged(_))) => {
                return self.condemn(group, me, error.to_string()).await;
            }
            Err(HostError::State(error)) => {
                let reason = error.to_string();
                self.report_damage(group, me.member, reason, false);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let applied = store.as_ref().map(StateStore::applied).unwrap_or_default();
        let cache = self.timing.log_cache_bytes;
        let replica = me.member.replica;
        // Kept for later where the state, which is to tell what it covers, cannot be opened.
        let kept = store.is_none().then(|| found.clone());
        let judged = recover_log(group, replica, found, damaged, cache, applied.log_id);
        let Judged {
            core,
            dead,
            rewrites,
            mut memberships,
        } = match judged {
            Ok(judged) if store.is_some() || judged.core.lost().is_empty() => judged,
            Err(LogDamage(reason)) if store.is_some() => {
                return self.condemn(group, me, reason).await;
            }
            // What the state covers is no loss, and nobody can tell yet what that is.
            Ok(_) | Err(_) => {
                let found = kept.unwrap_or_default();
                self.judge_later(record, found, damaged, machines);
                return Ok(());
            }
        };
        let (is_open, machine) = (store.is_some(), machines(group));
        let log = self.start_log(group, &me, core, store, Arc::clone(&machine));
        let settled = log.settle(rewrites).await;
        settled.map_err(|error| HostError::Journal(error.to_string()))?;
        self.journal.release_all(dead);
        if !is_open {
            self.rest_with(group, me, log, machine);
            return Ok(());
        }
        if log.lost().is_empty() {
            return self.run_resumed(group, me, log).await;
        }
        memberships.insert(0, applied.membership.membership().clone());
        self.heal(group, me, log, &memberships);
        Ok(())
    }

    pub(crate) async fn open_state(
        &self,
        group: GroupId,
        replica: ReplicaNumber,
    ) -> Result<StateStore, HostError> {
        let path = self.state_path(group, replica);
        let file = VerifiedFile::open_with(
            &self.env,
            &path,
            self.verified.clone(),
            Some(self.reserve.clone()),
        )
        .await?;
        let (env, cache) = (self.env.clone(), self.timing.state_cache_bytes);
        let open = move || StateStore::open(&env, file, cache);
        Ok(self.env.blocking("pages-open", open).await?)
    }

    /// Removes the state files of a replica, or of all that are not `owned`.
    pub(crate) async fn remove_states(
        &self,
        is_removed: impl Fn(&str) -> bool,
    ) -> Result<(), DiskError> {
        let disk = self.env.disk_handle();
        for name in disk.list(&self.directory).await? {
            if name.contains(STATE_SUFFIX) && is_removed(&name) {
                disk.remove(&format!("{}/{name}", self.directory)).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn report_damage(
        &self,
        group: GroupId,
        member: MemberId,
        reason: String,
        is_lost: bool,
    ) {
        let what = if is_lost { "is lost" } else { "does not run" };
        event!(self.env, Error, "raft", "{group} {member} {what}: {reason}");
        let damaged = DamagedReplica {
            group,
            member,
            reason,
            is_lost,
        };
        self.all_damaged().insert(group, damaged);
    }
}

/// Whether records of the registry may be lost there of which nothing is known.
fn may_hide_registrations(range: &DamagedRange) -> bool {
    let is_nameless =
        |copy: &HeaderCopy| copy.stream == REGISTRY_STREAM && Key::decode(&copy.header).is_none();
    !range.complete || range.records.iter().any(is_nameless)
}

/// Copies the log's records out of segments that the journal wants to free.
pub(crate) async fn copy_forward<F: Future<Output = ()>>(
    env: Env,
    mut requests: mpsc::Receiver<CopyForward>,
    log: Arc<Log>,
    make_snapshot: impl Fn() -> F,
) {
    while let Some(request) = requests.recv().await {
        if let Err(error) = log.free_segment(request, make_snapshot()).await {
            let group = log.group();
            event!(env, Warn, "raft", "{group}: copying forward: {error}");
        }
    }
}

/// What the name of a replica's state file ends with; the files beside it add to it.
const STATE_SUFFIX: &str = ".state";

/// The name of a replica's state file.
pub(crate) fn state_name(group: GroupId, replica: ReplicaNumber) -> String {
    format!("{group}-{replica}{STATE_SUFFIX}")
}

/// Every replica of one node.
pub struct PagesHost(pub(super) Arc<Shared>);

impl PagesHost {
    /// Starts every replica that the store has, and serves Raft messages.
    ///
    /// Damaged replicas do not run: see [`PagesHost::damaged`].
    ///
    /// # Errors
    /// [`HostError`]: the node cannot serve Pages.
    pub async fn start(mut config: HostConfig) -> Result<Self, HostError> {
        let records = config
            .recovered
            .remove(&REGISTRY_STREAM)
            .unwrap_or_default();
        let (registry, lost) = Registry::recover(config.journal.clone(), records, &config.damaged);
        config
            .timing
            .config(String::new())
            .map_err(HostError::Configuration)?;
        let reserve = new_reserve(&config.env, &config.directory, &config.verified);
        let shared = Arc::new(Shared {
            env: config.env,
            rpc: config.rpc,
            store: config.store,
            node: config.node,
            journal: config.journal,
            directory: config.directory,
            timing: config.timing,
            verified: config.verified,
            reserve,
            addresses: config.addresses,
            registry,
            running: Mutex::default(),
            damaged: Mutex::default(),
            healing: Mutex::default(),
            departing: Mutex::default(),
            unjudged: Mutex::default(),
            unopened: Mutex::default(),
            paces: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
        });
        let host = Self(shared);
        if config.damaged.iter().any(may_hide_registrations) {
            host.0.registry.doubt().await?;
        }
        host.0.register_again(lost).await?;
        host.judge_orphans(&config.recovered).await?;
        host.remove_strangers().await?;
        host.0.hold_reserve().await;
        host.spawn_watchers();
        for record in host.0.registry.records() {
            let found = config.recovered.remove(&StreamTag::raft(record.group));
            let found = found.unwrap_or_default();
            let (damaged, machines) = (&config.damaged, &config.machines);
            host.0.resume(record, found, damaged, machines).await?;
        }
        let service = RaftService(Arc::downgrade(&host.0));
        host.0.rpc.serve(ServiceId(SERVICE_RAFT), Arc::new(service));
        let quiet = QuietService(Arc::downgrade(&host.0));
        host.0.rpc.serve(ServiceId(SERVICE_QUIET), Arc::new(quiet));
        let logs = LogService(Arc::downgrade(&host.0));
        host.0.rpc.serve(ServiceId(SERVICE_LOG), Arc::new(logs));
        Ok(host)
    }

    /// Logs without a registration: it is lost, for a replica is registered before it writes. None
    /// of their numbers may run again as if it were new.
    async fn judge_orphans(
        &self,
        recovered: &BTreeMap<StreamTag, Vec<RecoveredRecord>>,
    ) -> Result<(), HostError> {
        for (stream, records) in recovered {
            let group = u32::try_from(stream.id).map(GroupId);
            let (StreamTag::RAFT_KIND, Ok(group)) = (stream.kind, group) else {
                continue;
            };
            let headers = records
                .iter()
                .map(|found| Header::decode(&found.record.header));
            let Some(replica) = headers.flatten().map(|header| header.replica).max() else {
                continue;
            };
            let known = self.0.registry.record(group);
            if known.is_some_and(|known| known.member.member.replica >= replica) {
                continue;
            }
            let me = self.0.own_member(replica);
            let reason = "its registration is lost".to_owned();
            self.0.condemn(group, me, reason).await?;
        }
        Ok(())
    }

    /// Removes state files that no registered replica owns: of starts that broke off. Those of a
    /// retired one stay until its group has let it go.
    async fn remove_strangers(&self) -> Result<(), HostError> {
        let records = self.0.registry.records();
        let owned: BTreeSet<String> = records
            .iter()
            .map(|record| state_name(record.group, record.member.member.replica))
            .collect();
        let is_stranger = |name: &str| !owned.iter().any(|owned| name.starts_with(owned.as_str()));
        Ok(self.0.remove_states(is_stranger).await?)
    }

    fn spawn_watchers(&self) {
        let (env, journal) = (self.0.env.clone(), self.0.journal.clone());
        self.0.env.spawn("raft-journal", async move {
            let stopped = journal.stopped().await;
            if stopped.reason != CLOSED {
                env.halt(HaltReason::DiskFailed(stopped.to_string()));
            }
        });
        let reserve = keep_reserve(self.0.env.clone(), Arc::downgrade(&self.0));
        self.0.env.spawn("raft-reserve", reserve);
        let (env, host) = (self.0.env.clone(), Arc::downgrade(&self.0));
        let quiet = rounds(env, host, self.0.timing.election_min / 2);
        self.0.env.spawn("raft-quiet", quiet);
        let host = Arc::downgrade(&self.0);
        let mut requests = self.0.journal.copy_forward_requests(REGISTRY_STREAM);
        self.0.env.spawn("raft-registry", async move {
            while let Some(request) = requests.recv().await {
                let Some(host) = host.upgrade() else { return };
                if let Err(error) = host.registry.free_segment(request).await {
                    event!(
                        host.env,
                        Warn,
                        "raft",
                        "copying the registry forward: {error}"
                    );
                }
            }
        });
    }

    /// Starts a new replica `me` of `group`. With `initialise` it makes these members the voters of
    /// a group that has none. Starting one that runs already changes nothing.
    ///
    /// Once begun it goes on to its end, though its caller may have given up meanwhile: a replica that
    /// is registered and was left there would neither run nor be started by anyone until the node
    /// starts anew.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn start_replica(
        &self,
        group: GroupId,
        me: GroupMember,
        machine: Arc<dyn Machine>,
        initialise: Option<Vec<GroupMember>>,
    ) -> Result<Arc<dyn GroupReplica>, HostError> {
        let host = Self(Arc::clone(&self.0));
        let starting = async move { host.started(group, me, machine, initialise).await };
        self.0.env.to_the_end("raft-start", starting).await
    }

    async fn started(
        &self,
        group: GroupId,
        me: GroupMember,
        machine: Arc<dyn Machine>,
        initialise: Option<Vec<GroupMember>>,
    ) -> Result<Arc<dyn GroupReplica>, HostError> {
        let _changing = self.0.changing.lock().await;
        let member = me.member;
        if member.store != self.0.store {
            let store = self.0.store;
            return Err(HostError::WrongStore { member, store });
        }
        let replica = match self.0.running(group) {
            Some(running) if running.me.member == member => running,
            Some(running) => {
                let running = running.me.member;
                return Err(HostError::Exists { group, running });
            }
            None => self.create(group, me, machine).await?,
        };
        if let Some(members) = initialise {
            let (env, starting) = (self.0.env.clone(), Arc::clone(&replica));
            let initialise = async move { starting.initialise(members).await };
            with_current_env(env, Box::pin(initialise)).await?;
        }
        Ok(Arc::new(ReplicaHandle(replica)))
    }

    async fn create(
        &self,
        group: GroupId,
        me: GroupMember,
        machine: Arc<dyn Machine>,
    ) -> Result<Arc<Replica>, HostError> {
        let member = me.member;
        match self.0.registry.record(group) {
            Some(known) => {
                let number = known.member.member.replica;
                let retired =
                    member.replica < number || (known.retired && member.replica == number);
                if retired && !active(Mutant::RetiredReplicaRuns) {
                    return Err(HostError::Retired { group, member });
                }
                if known.retired {
                    self.0.forget(group, known.member.member).await?;
                } else if known.member.member != member || !self.0.all_unopened().contains(&group) {
                    // It waits for entries, or is damaged.
                    let running = known.member.member;
                    return Err(HostError::Exists { group, running });
                }
            }
            None if self.0.registry.is_in_doubt() => {
                // It may have run here, and what it promised is lost with its registration.
                let reason = "it may have run here before the damage".to_owned();
                self.0.condemn(group, me, reason).await?;
                return Err(HostError::Retired { group, member });
            }
            None => {}
        }
        // Made and closed once before it is registered: what is registered exists durably. What a
        // start that broke off has left is no state of this replica.
        let name = state_name(group, member.replica);
        self.0
            .remove_states(|found| found.starts_with(&name))
            .await?;
        let created = self.0.open_state(group, member.replica).await?;
        self.0
            .env
            .blocking("pages-create", move || drop(created))
            .await;
        self.0.env.disk().sync_directory(&self.0.directory).await?;
        let record = ReplicaRecord {
            group,
            member: me.clone(),
            retired: false,
        };
        self.0.registry.write(record).await?;
        self.0.all_unopened().insert(group);
        let core = LogCore::new(self.0.timing.log_cache_bytes);
        let store = match self.0.open_state(group, member.replica).await {
            Ok(store) => store,
            Err(error) if error.is_no_room() => {
                let log = self
                    .0
                    .start_log(group, &me, core, None, Arc::clone(&machine));
                self.0.all_unopened().remove(&group);
                self.0.rest_with(group, me, log, machine);
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.0.all_unopened().remove(&group);
        let log = self.0.start_log(group, &me, core, Some(store), machine);
        self.0.run(group, me, log).await
    }

    /// The replica of `group` that runs here.
    #[must_use]
    pub fn replica(&self, group: GroupId) -> Option<Arc<dyn GroupReplica>> {
        let replica = self.0.running(group)?;
        Some(Arc::new(ReplicaHandle(replica)))
    }

    /// The groups with a running replica here.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.0.all_running().keys().copied().collect()
    }

    /// The store whose replicas these are.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.0.store
    }

    /// Replicas that do not run because their log or state is damaged or failed.
    #[must_use]
    pub fn damaged(&self) -> Vec<DamagedReplica> {
        let mut damaged: Vec<DamagedReplica> = self.0.all_damaged().values().cloned().collect();
        for replica in self.0.all_running().values() {
            damaged.extend(replica.stopped().map(|reason| DamagedReplica {
                group: replica.group,
                member: replica.me.member,
                reason,
                is_lost: replica.state.store.is_damaged(),
            }));
        }
        damaged
    }

    /// Stops every replica; their logs and states stay.
    pub async fn shutdown(&self) {
        let _changing = self.0.changing.lock().await;
        self.0.all_healing().clear();
        self.0.all_departing().clear();
        self.0.all_unjudged().clear();
        let running = std::mem::take(&mut *self.0.all_running());
        for replica in running.into_values() {
            stop(replica).await;
        }
    }
}

/// Stops a replica and closes its state away from the async threads.
pub(crate) async fn stop(replica: Arc<Replica>) {
    let env = replica.env.clone();
    let raft = replica.raft.clone();
    let shutdown = async move { raft.shutdown().await };
    // It has stopped either way.
    let _ = with_current_env(env.clone(), Box::pin(shutdown)).await;
    env.blocking("pages-close", move || drop(replica)).await;
}
