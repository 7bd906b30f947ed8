//! [`PagesHost`]: every replica of one node.
//!
//! Invariants: a replica is in the registry, durably, before it runs, and its state file exists,
//! durably, before that; a retired number never runs again; a replica whose log or state is damaged
//! does not run and is reported, while the others go on; a journal that stops halts the node.
//! Does not: decide where replicas belong (the root does).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use hedgerow_disk::journal::{CLOSED, DamagedRange, Journal, Position, RecoveredRecord, StreamTag};
use hedgerow_disk::{VerifiedConfig, VerifiedFile};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    DiskError, Env, GroupId, HaltReason, NodeId, ReplicaNumber, StoreId, event, with_current_env,
};
use hedgerow_net::{Rpc, ServiceId};
use hedgerow_protocol::{GroupMember, MemberId, SERVICE_RAFT};
use openraft::Raft;

use super::host_config::{DamagedReplica, HostConfig, HostError, Machines};
use super::log::{Log, LogHandle};
use super::log_core::LogCore;
use super::log_record::Header;
use super::machine::StateHandle;
use super::network::{Addresses, Network};
use super::recovery::{LogDamage, recover_log};
use super::registry::{REGISTRY_STREAM, Registry, ReplicaRecord};
use super::replica::{Replica, ReplicaHandle, TypedRaft};
use super::serve::RaftService;
use super::store::StateStore;
use super::timing::RaftTiming;
use crate::{GroupReplica, Machine, StateError};

pub(crate) struct Shared {
    env: Env,
    rpc: Rpc,
    store: StoreId,
    node: NodeId,
    journal: Journal,
    directory: String,
    timing: RaftTiming,
    verified: VerifiedConfig,
    addresses: Addresses,
    registry: Registry,
    running: Mutex<BTreeMap<GroupId, Arc<Replica>>>,
    damaged: Mutex<BTreeMap<GroupId, DamagedReplica>>,
    /// One start or retirement at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Shared {
    /// The replica of `group` that runs here.
    pub(crate) fn running(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.all_running().get(&group).cloned()
    }

    fn all_running(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arc<Replica>>> {
        self.running.lock().expect("no panic under this lock")
    }

    fn all_damaged(&self) -> MutexGuard<'_, BTreeMap<GroupId, DamagedReplica>> {
        self.damaged.lock().expect("no panic under this lock")
    }

    fn state_path(&self, group: GroupId, replica: ReplicaNumber) -> String {
        format!("{}/{}", self.directory, state_name(group, replica))
    }

    /// Runs the replica `me` of `group` on the log `core` and its state file.
    async fn run(
        self: &Arc<Self>,
        group: GroupId,
        me: GroupMember,
        machine: Arc<dyn Machine>,
        core: LogCore,
    ) -> Result<Arc<Replica>, HostError> {
        let store = self.open_state(group, me.member.replica).await?;
        let state = StateHandle::new(self.env.clone(), store, machine);
        let replica_number = me.member.replica;
        let journal = self.journal.clone();
        let log = Log::start(
            &self.env,
            journal,
            group,
            replica_number,
            core,
            state.clone(),
        );
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
        let copying = copy_forward(self.env.clone(), self.journal.clone(), log, raft.clone());
        let copy_forward = self.env.spawn("raft-copy-forward", copying).abort_on_drop();
        let replica = Arc::new(Replica {
            env: self.env.clone(),
            group,
            me,
            raft,
            state,
            _copy_forward: copy_forward,
        });
        self.all_running().insert(group, Arc::clone(&replica));
        event!(
            self.env,
            Info,
            "raft",
            "{group} runs as {}",
            replica.me.member
        );
        Ok(replica)
    }

    async fn open_state(
        &self,
        group: GroupId,
        replica: ReplicaNumber,
    ) -> Result<StateStore, HostError> {
        let path = self.state_path(group, replica);
        let file = VerifiedFile::open(&self.env, &path, self.verified.clone()).await?;
        let (env, cache) = (self.env.clone(), self.timing.state_cache_bytes);
        let open = move || StateStore::open(&env, file, cache);
        Ok(self.env.blocking("pages-open", open).await?)
    }

    /// Removes the state files of a replica, or of all that are not `owned`.
    async fn remove_states(&self, is_removed: impl Fn(&str) -> bool) -> Result<(), DiskError> {
        let disk = self.env.disk_handle();
        for name in disk.list(&self.directory).await? {
            if name.contains(STATE_SUFFIX) && is_removed(&name) {
                disk.remove(&format!("{}/{name}", self.directory)).await?;
            }
        }
        Ok(())
    }

    fn report_damage(&self, group: GroupId, member: MemberId, reason: String, is_lost: bool) {
        event!(
            self.env,
            Error,
            "raft",
            "{group} {member} does not run: {reason}"
        );
        let damaged = DamagedReplica {
            group,
            member,
            reason,
            is_lost,
        };
        self.all_damaged().insert(group, damaged);
    }
}

/// Copies the log's records out of segments that the journal wants to free.
async fn copy_forward(env: Env, journal: Journal, log: Arc<Log>, raft: TypedRaft) {
    let mut requests = journal.copy_forward_requests(StreamTag::raft(log.group()));
    while let Some(request) = requests.recv().await {
        let make_snapshot = async {
            // A replica that has stopped copies instead.
            let _ = raft.trigger().snapshot().await;
        };
        if let Err(error) = log.free_segment(request, make_snapshot).await {
            event!(
                env,
                Warn,
                "raft",
                "{}: copying forward: {error}",
                log.group()
            );
        }
    }
}

/// What the name of a replica's state file ends with; the files beside it add to it.
const STATE_SUFFIX: &str = ".state";

/// The name of a replica's state file.
fn state_name(group: GroupId, replica: ReplicaNumber) -> String {
    format!("{group}-{replica}{STATE_SUFFIX}")
}

/// Every replica of one node.
pub struct PagesHost(Arc<Shared>);

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
        let shared = Arc::new(Shared {
            env: config.env,
            rpc: config.rpc,
            store: config.store,
            node: config.node,
            journal: config.journal,
            directory: config.directory,
            timing: config.timing,
            verified: config.verified,
            addresses: config.addresses,
            registry,
            running: Mutex::default(),
            damaged: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
        });
        let host = Self(shared);
        host.remove_strangers().await?;
        for key in lost {
            let member = MemberId {
                store: host.0.store,
                replica: key.replica,
            };
            let reason = "its registration is damaged".to_owned();
            host.0.report_damage(key.group, member, reason, true);
        }
        host.spawn_watchers();
        for record in host.0.registry.records() {
            let found = config.recovered.remove(&StreamTag::raft(record.group));
            host.resume(
                record,
                found.unwrap_or_default(),
                &config.damaged,
                &config.machines,
            )
            .await?;
        }
        host.judge_orphans(config.recovered);
        let service = RaftService(Arc::downgrade(&host.0));
        host.0.rpc.serve(ServiceId(SERVICE_RAFT), Arc::new(service));
        Ok(host)
    }

    /// Logs without a registration: it is lost, for a replica is registered before it writes. None
    /// of their numbers may run again as if it were new.
    fn judge_orphans(&self, left: BTreeMap<StreamTag, Vec<RecoveredRecord>>) {
        for (stream, records) in left {
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
            let store = self.0.store;
            let reason = "its registration is lost".to_owned();
            self.0
                .report_damage(group, MemberId { store, replica }, reason, true);
        }
    }

    /// Removes state files that no registered replica owns: of starts that broke off, or retired.
    async fn remove_strangers(&self) -> Result<(), HostError> {
        let records = self.0.registry.records();
        let owned: BTreeSet<String> = records
            .iter()
            .filter(|record| !record.retired)
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

    /// Starts a replica that was there at the last start.
    async fn resume(
        &self,
        record: ReplicaRecord,
        found: Vec<RecoveredRecord>,
        damaged: &[DamagedRange],
        machines: &Machines,
    ) -> Result<(), HostError> {
        let (group, me) = (record.group, record.member);
        let positions: Vec<Position> = found.iter().map(|record| record.position).collect();
        if record.retired {
            self.0.journal.release_all(positions);
            return Ok(());
        }
        if self.0.all_damaged().contains_key(&group) {
            return Ok(());
        }
        let cache = self.0.timing.log_cache_bytes;
        let recovered = recover_log(group, me.member.replica, found, damaged, cache);
        let (core, dead) = match recovered {
            Ok(recovered) => recovered,
            Err(LogDamage(reason)) => {
                self.0.report_damage(group, me.member, reason, true);
                return Ok(());
            }
        };
        self.0.journal.release_all(dead);
        let machine = machines(group);
        let member = me.member;
        match self.0.run(group, me, machine, core).await {
            Ok(_) => Ok(()),
            Err(HostError::State(error)) => {
                let is_lost = matches!(error, StateError::Damaged(_));
                self.0
                    .report_damage(group, member, error.to_string(), is_lost);
                Ok(())
            }
            Err(HostError::Raft(error)) => {
                // Log and state contradict each other, unless the journal failed underneath.
                let is_lost = self.0.journal.is_stopped().is_none();
                self.0.report_damage(group, member, error, is_lost);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Starts a new replica `me` of `group`. With `initialise` it makes these members the voters of
    /// a group that has none. Starting one that runs already changes nothing.
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
        let damaged = self
            .0
            .all_damaged()
            .get(&group)
            .map(|damaged| damaged.member);
        if let Some(running) = damaged {
            return Err(HostError::Exists { group, running });
        }
        if let Some(known) = self.0.registry.record(group) {
            let known_number = known.member.member.replica;
            let retired =
                member.replica < known_number || (known.retired && member.replica == known_number);
            if retired && !active(Mutant::RetiredReplicaRuns) {
                return Err(HostError::Retired { group, member });
            }
            if !known.retired {
                // Its start failed.
                let running = known.member.member;
                return Err(HostError::Exists { group, running });
            }
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
        let core = LogCore::new(self.0.timing.log_cache_bytes);
        self.0.run(group, me, machine, core).await
    }

    /// Retires this store's replica of `group`, running or damaged: its number never runs again,
    /// its log and state are given up. Harmless when there is none.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn retire_replica(&self, group: GroupId) -> Result<(), HostError> {
        let _changing = self.0.changing.lock().await;
        let running = self.0.all_running().remove(&group);
        let damaged = self
            .0
            .all_damaged()
            .get(&group)
            .map(|damaged| damaged.member);
        if let Some(replica) = running {
            stop(replica).await;
        }
        let record = match (self.0.registry.record(group), damaged) {
            (Some(record), None) => record,
            (Some(record), Some(member)) if record.member.member == member => record,
            // Its registration was damaged: its number stands in the copy of the header.
            (_, Some(member)) => ReplicaRecord {
                group,
                member: GroupMember {
                    member,
                    node: self.0.node,
                    address: String::new(),
                },
                retired: false,
            },
            (None, None) => return Ok(()),
        };
        let name = state_name(group, record.member.member.replica);
        if !record.retired {
            let retired = true;
            self.0
                .registry
                .write(ReplicaRecord { retired, ..record })
                .await?;
        }
        self.0.journal.release_stream(StreamTag::raft(group));
        self.0.all_damaged().remove(&group);
        Ok(self
            .0
            .remove_states(|found| found.starts_with(&name))
            .await?)
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
        let running = std::mem::take(&mut *self.0.all_running());
        for replica in running.into_values() {
            stop(replica).await;
        }
    }
}

/// Stops a replica and closes its state away from the async threads.
async fn stop(replica: Arc<Replica>) {
    let env = replica.env.clone();
    let raft = replica.raft.clone();
    let shutdown = async move { raft.shutdown().await };
    // It has stopped either way.
    let _ = with_current_env(env.clone(), Box::pin(shutdown)).await;
    env.blocking("pages-close", move || drop(replica)).await;
}
