//! [`Proxy`]: the session of one process; attaches disks, keeps the lease, detaches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{Env, NodeId, Phase, Random, VirtualDiskId, event};
use hedgerow_net::{GroupClient, GroupError, Rpc};
use hedgerow_protocol::{
    DiskRecord, LEASE_RENEW_MS, ProxySession, RootAnswer, RootCommand, RootOutcome, RootQuery,
    RootRefusal,
};

use crate::commit::Committers;
use crate::disk::VirtualDisk;
use crate::lasting::Lasting;
use crate::lease::Lease;
use crate::loose_ends::LooseEnd;

/// How long a clean stop tries to settle and release each disk. The root and a quorum answer in
/// milliseconds when they answer at all, and the lease ends five seconds after the last renewal.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Times of a proxy.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// How long an attach or detach is tried.
    pub attach_limit: Duration,
    /// How long one renewal is tried; the next begins when it ends.
    pub renew_limit: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            attach_limit: Duration::from_secs(10),
            renew_limit: Duration::from_secs(2),
        }
    }
}

/// Why a disk was not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Check the name.
    #[error("no virtual disk is called {0:?}")]
    NoSuchDisk(String),
    /// Another proxy has it: wait for its release, or for the end of its lease (5 s).
    #[error("held by {holder:?}")]
    Held {
        /// Who has it.
        holder: ProxySession,
    },
    /// Try again: the root did not answer in time, or this session has just ended.
    #[error("{0}")]
    TryAgain(String),
}

fn try_again(error: GroupError) -> AttachError {
    AttachError::TryAgain(error.to_string())
}

struct Inner {
    env: Env,
    rpc: Rpc,
    groups: GroupClient,
    committers: Arc<Committers>,
    config: ProxyConfig,
    state: Mutex<State>,
}

struct State {
    session: ProxySession,
    lease: Arc<Mutex<Lease>>,
    disks: BTreeMap<VirtualDiskId, VirtualDisk>,
    lasting: BTreeMap<VirtualDiskId, Weak<Lasting>>,
    loose: BTreeMap<VirtualDiskId, LooseEnd>,
    random: Random,
    /// Attaches asked for so far, under whichever session.
    attaches: u64,
    stopping: bool,
}

/// The proxy of one process.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

impl Proxy {
    /// Starts the proxy of `node`; its session is drawn anew.
    #[must_use]
    pub fn start(
        env: Env,
        rpc: Rpc,
        groups: GroupClient,
        node: NodeId,
        config: ProxyConfig,
    ) -> Self {
        let mut random = env.random("proxy-session");
        let session = ProxySession {
            node,
            incarnation: random.bits(),
        };
        let committers = Arc::new(Committers::new(env.clone(), groups.clone()));
        let proxy = Self(Arc::new(Inner {
            env: env.clone(),
            rpc,
            groups,
            committers,
            config,
            state: Mutex::new(State {
                session,
                lease: Arc::default(),
                disks: BTreeMap::new(),
                lasting: BTreeMap::new(),
                loose: BTreeMap::new(),
                random,
                attaches: 0,
                stopping: false,
            }),
        }));
        let renewing = proxy.clone();
        env.spawn("proxy-lease", async move { renewing.keep_lease().await });
        let telling = proxy.clone();
        env.spawn("proxy-marks", async move { telling.tell_marks().await });
        proxy
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().expect("no panic under this lock"))
    }

    pub(crate) fn env(&self) -> &Env {
        &self.0.env
    }

    /// What outlasts attachments of this disk; forgotten when nobody has one or changes anything.
    pub(crate) fn lasting(&self, disk: VirtualDiskId) -> Arc<Lasting> {
        self.with(|state| {
            state.lasting.retain(|_, known| known.strong_count() > 0);
            let known = state.lasting.get(&disk).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let fresh = Arc::<Lasting>::default();
                state.lasting.insert(disk, Arc::downgrade(&fresh));
                fresh
            })
        })
    }

    /// The present session.
    #[must_use]
    pub fn session(&self) -> ProxySession {
        self.with(|state| state.session)
    }

    /// The disks attached here now.
    #[must_use]
    pub fn attached(&self) -> Vec<VirtualDisk> {
        self.with(|state| state.disks.values().cloned().collect())
    }

    /// The record of a disk, as the root has it now.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn find(&self, name: &str) -> Result<Option<DiskRecord>, GroupError> {
        let query = RootQuery::DiskByName(name.to_owned());
        match self
            .0
            .groups
            .root_query(query, self.0.config.attach_limit)
            .await?
        {
            RootAnswer::Disk(record) => Ok(record),
            _ => Err(GroupError::Unexpected {
                group: hedgerow_protocol::ROOT_GROUP,
            }),
        }
    }

    /// Attaches the disk called `name`; the same attachment when it is attached here already.
    ///
    /// # Errors
    /// [`AttachError`].
    pub async fn attach(&self, name: &str) -> Result<VirtualDisk, AttachError> {
        let record = self.find(name).await.map_err(try_again)?;
        let record = record.ok_or_else(|| AttachError::NoSuchDisk(name.to_owned()))?;
        self.attach_found(record).await
    }

    /// Attaches the disk of a lost attachment, unless another has its name by now.
    pub(crate) async fn attach_again(
        &self,
        lost: &VirtualDisk,
    ) -> Result<VirtualDisk, AttachError> {
        let name = &lost.record().name;
        let record = self.find(name).await.map_err(try_again)?;
        let record = record.filter(|record| record.disk == lost.id());
        let record = record.ok_or_else(|| AttachError::NoSuchDisk(name.clone()))?;
        self.attach_found(record).await
    }

    /// The present attachment of a disk, if there is one.
    #[must_use]
    pub fn attachment_of(&self, disk: VirtualDiskId) -> Option<VirtualDisk> {
        let attached = self.with(|state| state.disks.get(&disk).cloned());
        attached.filter(|disk| !disk.is_lost())
    }

    async fn attach_found(&self, record: DiskRecord) -> Result<VirtualDisk, AttachError> {
        let _phase = self.0.env.phase(Phase::Attach);
        let lasting = self.lasting(record.disk);
        let _one = lasting.attaching.lock().await;
        if self.with(|state| state.stopping) {
            return Err(AttachError::TryAgain("the node is stopping".into()));
        }
        if let Some(disk) = self.attachment_of(record.disk) {
            return Ok(disk);
        }
        let (session, lease) = self.with(|state| (state.session, Arc::clone(&state.lease)));
        let sent = self.0.env.now();
        // Until the root has answered, which whoever asks may not wait for.
        self.with(|state| state.loose.insert(record.disk, LooseEnd::Grant));
        let outcome = self.grant(record.disk).await;
        if outcome.is_ok() {
            self.tied(record.disk, LooseEnd::Grant);
        }
        match outcome.map_err(try_again)? {
            RootOutcome::Granted(grant) => {
                let received = self.0.env.now();
                lease
                    .lock()
                    .expect("no panic under this lock")
                    .renewed(sent, received);
                Ok(self.keep(session, (lease, Arc::clone(&lasting)), grant))
            }
            RootOutcome::Refused(RootRefusal::Held { holder }) => Err(AttachError::Held { holder }),
            RootOutcome::Refused(RootRefusal::NoSuchDisk { .. }) => {
                Err(AttachError::NoSuchDisk(record.name))
            }
            RootOutcome::Refused(refusal) => {
                if refusal == RootRefusal::LeaseEnded {
                    self.end_session(session);
                }
                Err(AttachError::TryAgain(refusal.to_string()))
            }
            other => Err(AttachError::TryAgain(format!(
                "unexpected answer {other:?}"
            ))),
        }
    }

    /// Asks the root for a disk, under a nonce of its own.
    pub(crate) async fn grant(&self, disk: VirtualDiskId) -> Result<RootOutcome, GroupError> {
        let (session, nonce) = self.with(|state| {
            state.attaches += 1;
            (state.session, state.attaches)
        });
        let attach = RootCommand::Attach {
            disk,
            session,
            nonce,
        };
        self.root(attach).await
    }

    pub(crate) async fn root(&self, command: RootCommand) -> Result<RootOutcome, GroupError> {
        let limit = self.0.config.attach_limit;
        self.0.groups.root_command(command, limit).await
    }

    /// What the root did not answer yet.
    pub(crate) fn loose_ends(&self) -> Vec<(VirtualDiskId, LooseEnd)> {
        self.with(|state| {
            state
                .loose
                .iter()
                .map(|(disk, end)| (*disk, *end))
                .collect()
        })
    }

    /// Whether this is loose still.
    pub(crate) fn is_loose(&self, disk: VirtualDiskId, end: LooseEnd) -> bool {
        self.with(|state| state.loose.get(&disk) == Some(&end))
    }

    /// The root has answered, unless something else of the disk is loose by now.
    pub(crate) fn tied(&self, disk: VirtualDiskId, end: LooseEnd) {
        self.with(|state| {
            if state.loose.get(&disk) == Some(&end) {
                state.loose.remove(&disk);
            }
        });
    }

    fn keep(
        &self,
        session: ProxySession,
        (lease, lasting): (Arc<Mutex<Lease>>, Arc<Lasting>),
        grant: hedgerow_protocol::Grant,
    ) -> VirtualDisk {
        let id = grant.disk.disk;
        let disk = VirtualDisk::new(
            self.0.env.clone(),
            self.0.rpc.clone(),
            self.0.groups.clone(),
            Arc::clone(&self.0.committers),
            lease,
            lasting,
            grant,
        );
        let (replaced, current) = self.with(|state| {
            (
                state.disks.insert(id, disk.clone()),
                state.session == session,
            )
        });
        if let Some(replaced) = replaced {
            replaced.lose("attached anew");
        }
        if !current {
            disk.lose("its session has ended");
        }
        disk
    }

    /// Releases a disk: waits for what is under way, and until nothing of an earlier holder can
    /// take effect any more, then lets others attach it.
    ///
    /// # Errors
    /// [`AttachError::TryAgain`]: a shard or the root did not answer. The disk may then still be
    /// held: the root is asked again until it answers, or the lease ends.
    pub async fn detach(&self, disk: &VirtualDisk) -> Result<(), AttachError> {
        disk.idle().await;
        let settled = self
            .0
            .env
            .timeout(self.0.config.attach_limit, disk.settled());
        match settled.await {
            // Fenced: it is somebody else's by now, and the release below changes nothing.
            Ok(Ok(()) | Err(_)) => {}
            Err(elapsed) => {
                let text = format!("its containers are not all fenced yet: {elapsed}");
                return Err(AttachError::TryAgain(text));
            }
        }
        // What was overwritten under marks that no commit carried could not be freed before somebody
        // attaches the disk again, if anybody does. A shard that gives no answer is not waited for.
        let told = disk.tell_low_water();
        let told = self.0.env.timeout(self.0.config.attach_limit, told).await;
        if let Err(elapsed) = told {
            let name = &disk.record().name;
            event!(self.0.env, Warn, "proxy", "{name}: its marks: {elapsed}");
        }
        disk.detached();
        self.with(|state| {
            if state
                .disks
                .get(&disk.id())
                .is_some_and(|kept| kept.writer() == disk.writer())
            {
                state.disks.remove(&disk.id());
            }
        });
        let (disk, writer) = (disk.id(), disk.writer());
        let end = LooseEnd::Release(writer);
        self.with(|state| state.loose.insert(disk, end));
        self.root(RootCommand::Detach { disk, writer })
            .await
            .map_err(try_again)?;
        self.tied(disk, end);
        Ok(())
    }

    /// Releases everything, within [`RELEASE_LIMIT`]; for a clean stop. What cannot be released by
    /// then (a write without a quorum, a root without a leader) is left to the end of the lease.
    pub async fn shutdown(&self) {
        self.with(|state| state.stopping = true);
        let releasing = self.attached().into_iter().map(|disk| async move {
            let release = self.0.env.timeout(RELEASE_LIMIT, self.detach(&disk));
            let text = match release.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            disk.lose("the node is stopping");
            let name = &disk.record().name;
            event!(self.0.env, Warn, "proxy", "{name}: not released: {text}");
        });
        join_all(releasing).await;
    }

    fn end_session(&self, session: ProxySession) {
        let ended = self.with(|state| {
            if state.session != session {
                return Vec::new();
            }
            state
                .lease
                .lock()
                .expect("no panic under this lock")
                .ended();
            state.session.incarnation = state.random.bits();
            state.lease = Arc::default();
            // Whatever the root had of it is gone.
            state.loose.clear();
            std::mem::take(&mut state.disks).into_values().collect()
        });
        if active(Mutant::EndedLeaseKeepsDisks) {
            return;
        }
        for disk in ended {
            disk.lose("the lease was ended");
        }
    }

    async fn keep_lease(&self) {
        let period = Duration::from_millis(LEASE_RENEW_MS);
        loop {
            let began = self.0.env.now();
            let (session, lease, wanted) = self.with(|state| {
                let wanted = !state.disks.is_empty();
                (state.session, Arc::clone(&state.lease), wanted)
            });
            if self.with(|state| state.stopping && state.disks.is_empty()) {
                return;
            }
            if wanted {
                self.renew(session, &lease).await;
            }
            self.0.env.sleep_until(began + period).await;
        }
    }

    /// Tells shards the low-water marks of idle containers, apart from the lease: a silent shard
    /// must not delay a renewal.
    async fn tell_marks(&self) {
        while !self.with(|state| state.stopping) {
            self.0
                .env
                .sleep(Duration::from_millis(LEASE_RENEW_MS))
                .await;
            for disk in self.attached() {
                disk.tell_low_water().await;
            }
            self.tie_loose_ends().await;
        }
    }

    async fn renew(&self, session: ProxySession, lease: &Mutex<Lease>) {
        let _phase = self.0.env.phase(Phase::Renewal);
        let sent = self.0.env.now();
        let renewed = self
            .0
            .groups
            .root_command(RootCommand::Renew(session), self.0.config.renew_limit);
        match renewed.await {
            Ok(RootOutcome::Renewed { .. }) => {
                let received = self.0.env.now();
                lease
                    .lock()
                    .expect("no panic under this lock")
                    .renewed(sent, received);
            }
            Ok(RootOutcome::Refused(RootRefusal::LeaseEnded)) => {
                // It ended between the sending and now: by then it must have run out.
                let now = self.0.env.now();
                let stood = lease.lock().expect("no panic under this lock").holds(now);
                if stood {
                    let text = "the lease was ended while it stood";
                    event!(self.0.env, Error, "proxy", "{session:?}: {text}");
                }
                self.end_session(session);
            }
            Ok(other) => event!(self.0.env, Warn, "proxy", "renewal: {other:?}"),
            Err(error) => event!(self.0.env, Warn, "proxy", "renewal: {error}"),
        }
    }
}
