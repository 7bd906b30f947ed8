//! One store of this node: the [`Member`] core with the store that makes its answers true.
//!
//! Invariants: nothing is answered as held before the blob and the record of its container are
//! durable; appends of one name never overlap; an append runs to its end even when nobody waits for
//! it any more; a blob that was collected while it was appended is deleted before the name is free.
//! Does not: talk to other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    BlobName, ContainerId, Env, Generation, HaltReason, Phase, PlacementEpoch, StoreId, event,
};
use hedgerow_protocol::{BlobHeader, Digest, HBlockRefusal, UnitRecord, encode};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::member::{Finished, Member, RecordVersion, StoreDecision};
use crate::ports::{BlobStore, ControlKey, StoreFault};
use crate::promises::StorePromises;
use crate::verify::{BlobFault, verify_blob, verify_units};
use crate::wounds::{WoundCounters, Wounds};

/// Stripes of locks that keep the writes of one container's record in order.
const RECORD_LOCKS: usize = 64;

/// Most quarantined names remembered; more are counted again in the next sweep.
const MAXIMUM_QUARANTINED: usize = 16 << 10;

type StoreResult = Result<(), HBlockRefusal>;

#[derive(Default)]
struct State {
    member: Member,
    wounds: Wounds,
    waiters: BTreeMap<BlobName, Vec<oneshot::Sender<StoreResult>>>,
    quarantined: BTreeSet<BlobName>,
    stopped: Option<String>,
}

/// One store of this node.
pub(crate) struct Local {
    env: Env,
    store: Arc<dyn BlobStore>,
    state: Mutex<State>,
    promises: Arc<StorePromises>,
    record_locks: Vec<tokio::sync::Mutex<()>>,
    wounded: Notify,
    sweep: Notify,
}

/// A store operation that was admitted and is under way.
pub(crate) struct Storing {
    container: ContainerId,
    version: RecordVersion,
    appended: oneshot::Receiver<StoreResult>,
}

impl Local {
    pub(crate) fn new(env: Env, store: Arc<dyn BlobStore>, member: Member) -> Arc<Self> {
        let promises = Arc::new(StorePromises::of(member.fences()));
        let state = State {
            member,
            ..State::default()
        };
        Arc::new(Self {
            env,
            store,
            state: Mutex::new(state),
            promises,
            record_locks: (0..RECORD_LOCKS)
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
            wounded: Notify::new(),
            sweep: Notify::new(),
        })
    }

    pub(crate) fn id(&self) -> StoreId {
        self.store.id()
    }

    /// What this store promises in this life.
    pub(crate) fn promises(&self) -> Arc<StorePromises> {
        Arc::clone(&self.promises)
    }

    pub(crate) fn store(&self) -> &Arc<dyn BlobStore> {
        &self.store
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Acts on the member core, without I/O.
    pub(crate) fn with_member<T>(&self, act: impl FnOnce(&mut Member) -> T) -> T {
        act(&mut self.lock().member)
    }

    /// Begins to store a blob for a writer: judged at once, appended in the background. The append
    /// keeps `room` until it ends, whoever still waits for it.
    pub(crate) fn begin_store(
        self: &Arc<Self>,
        header: &BlobHeader,
        payload: &Bytes,
        generation: Generation,
        epoch: PlacementEpoch,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Storing, HBlockRefusal> {
        let name = header.name;
        let identity = header.identity_digest();
        let mut state = self.lock();
        if let Some(reason) = &state.stopped {
            let reason = reason.clone();
            return Err(HBlockRefusal::Stopped { reason });
        }
        let decision = state.member.store(name, identity, generation, epoch);
        let (version, proceed) = match decision {
            StoreDecision::Refuse(refusal) => {
                drop(state);
                self.report(name, &refusal);
                return Err(refusal);
            }
            StoreDecision::Join(version) => (version, false),
            StoreDecision::Proceed(version) => (version, true),
        };
        let (sender, appended) = oneshot::channel();
        if !proceed && active(Mutant::JoinedStoreAnswersAtOnce) {
            drop(sender.send(Ok(())));
        } else {
            state.waiters.entry(name).or_default().push(sender);
        }
        drop(state);
        if proceed {
            let append = Arc::clone(self).append(header.clone(), payload.clone(), identity);
            self.env.spawn("hblock-append", async move {
                append.await;
                drop(room);
            });
        }
        Ok(Storing {
            container: name.container,
            version,
            appended,
        })
    }

    /// Waits until a begun store operation may be answered.
    pub(crate) async fn finish_store(&self, storing: Storing) -> StoreResult {
        let durable = self.make_durable(storing.container, storing.version);
        let (recorded, appended) = futures_util::future::join(durable, storing.appended).await;
        appended.map_err(|_| stopped("the append was abandoned"))??;
        recorded
    }

    /// Stores a verified copy that the shard wants here (catch-up, repair of a missing blob).
    /// False when it is not wanted any more, or already under way.
    pub(crate) async fn store_copy(
        self: &Arc<Self>,
        header: BlobHeader,
        payload: Bytes,
    ) -> Result<bool, HBlockRefusal> {
        let _phase = self.env.phase(Phase::Replica);
        let name = header.name;
        let identity = header.identity_digest();
        let waiter = {
            let mut state = self.lock();
            if state.member.store_copy(name, identity).is_none() {
                return Ok(false);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiters.entry(name).or_default().push(sender);
            receiver
        };
        let append = Arc::clone(self).append(header, payload, identity);
        self.env.spawn("hblock-append-copy", append);
        if active(Mutant::CopyHeldBeforeSync) {
            return Ok(true);
        }
        waiter
            .await
            .map_err(|_| stopped("the append was abandoned"))??;
        Ok(true)
    }

    /// Appends a pending name and tells everybody who waits for it.
    async fn append(self: Arc<Self>, header: BlobHeader, payload: Bytes, identity: Digest) {
        let name = header.name;
        let mut outcome = self.place(header, payload, identity).await;
        let unwanted = match self.with_member(|member| member.finish(name)) {
            Finished::Kept => None,
            Finished::Collected => Some(HBlockRefusal::Collected),
            Finished::Retired(current) => Some(HBlockRefusal::StaleEpoch { current }),
        };
        if let Some(refusal) = unwanted {
            outcome = self.delete(vec![name]).await.and(Err(refusal));
            self.with_member(|member| member.abandon(name));
        }
        let waiters = self.lock().waiters.remove(&name).unwrap_or_default();
        if let Err(refusal) = &outcome {
            self.report(name, refusal);
        }
        for waiter in waiters {
            // A waiter that went away needs no answer.
            let _gone = waiter.send(outcome.clone());
        }
    }

    /// Puts the bytes in place unless the same are there and sound.
    async fn place(&self, header: BlobHeader, payload: Bytes, identity: Digest) -> StoreResult {
        let name = header.name;
        match self.store.header(name) {
            Ok(held) if held.identity_digest() != identity => {
                return Err(HBlockRefusal::OtherDigest);
            }
            Ok(_) if !self.is_wounded(name) => return Ok(()),
            Ok(_) | Err(StoreFault::Damaged | StoreFault::Missing) => {}
            Err(fault) => return Err(self.refusal(fault)),
        }
        let put = self.store.put(header, payload).await;
        put.map_err(|fault| self.refusal(fault))?;
        let mut state = self.lock();
        if state.wounds.contains(name) {
            state.wounds.repaired(name);
        }
        Ok(())
    }

    /// Waits until the record of `container` is durable up to `version`, which somebody is to be answered
    /// under.
    pub(crate) async fn make_durable(
        &self,
        container: ContainerId,
        version: RecordVersion,
    ) -> StoreResult {
        self.write_record(container, version).await?;
        if let Some(fence) = self.with_member(|member| member.fence(container, version)) {
            self.promises.note(container, fence);
        }
        Ok(())
    }

    async fn write_record(&self, container: ContainerId, version: RecordVersion) -> StoreResult {
        let durable = self.with_member(|member| member.is_durable(container, version));
        if durable || active(Mutant::RecordNotAwaited) {
            return Ok(());
        }
        let stripe = usize::try_from(container.disk.0 ^ u64::from(container.index.0))
            .expect("64 bits fit usize here")
            % RECORD_LOCKS;
        let _in_order = self.record_locks[stripe].lock().await;
        let unwritten = self.with_member(|member| {
            let done = member.is_durable(container, version);
            if done {
                None
            } else {
                member.unwritten(container)
            }
        });
        let Some((version, record)) = unwritten else {
            return Ok(());
        };
        let key = ControlKey::Container(container);
        let result = self.store.put_record(key, encode(&record)).await;
        result.map_err(|fault| self.refusal(fault))?;
        self.with_member(|member| member.written(container, version));
        Ok(())
    }

    /// Which of these names are held durably, with these digests, in sound copies.
    pub(crate) async fn acknowledge(
        &self,
        container: ContainerId,
        epoch: PlacementEpoch,
        names: Vec<(BlobName, Digest)>,
    ) -> Result<Vec<BlobName>, HBlockRefusal> {
        let version = self.with_member(|member| member.acknowledge(container, epoch))?;
        self.make_durable(container, version).await?;
        let mut held = Vec::with_capacity(names.len());
        for (name, expected) in names {
            self.await_pending(name).await;
            match self.sound_identity(name)? {
                Some(identity) if identity == expected => held.push(name),
                Some(_) => self.report(name, &HBlockRefusal::OtherDigest),
                None => {}
            }
        }
        Ok(held)
    }

    /// Whether `name` is held durably in a copy not known to be damaged.
    pub(crate) async fn holds(&self, name: BlobName) -> Result<bool, HBlockRefusal> {
        self.await_pending(name).await;
        Ok(self.sound_identity(name)?.is_some())
    }

    fn sound_identity(&self, name: BlobName) -> Result<Option<Digest>, HBlockRefusal> {
        let wounded = self.is_wounded(name) && !active(Mutant::WoundedCopyCounts);
        if wounded || !self.with_member(|member| member.wants(name)) {
            return Ok(None);
        }
        match self.store.header(name) {
            Ok(header) => Ok(Some(header.identity_digest())),
            Err(StoreFault::Damaged) => {
                self.wound(name);
                Ok(None)
            }
            Err(StoreFault::Missing) => Ok(None),
            Err(fault) => Err(self.refusal(fault)),
        }
    }

    /// Waits for the append of `name` that is under way, if one is.
    async fn await_pending(&self, name: BlobName) {
        let waiter = {
            let mut state = self.lock();
            if !state.member.is_pending(name) {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiters.entry(name).or_default().push(sender);
            receiver
        };
        // Its outcome does not matter: the store is asked next.
        let _outcome = waiter.await;
    }

    /// Reads units and checks their digests.
    pub(crate) async fn read_units(
        &self,
        name: BlobName,
        units: Vec<u16>,
    ) -> Result<(Vec<UnitRecord>, Bytes), HBlockRefusal> {
        let read = self.store.read_units(name, units).await;
        let (records, payload) = read.map_err(|fault| self.read_fault(name, fault))?;
        match verify_units(&records, &payload) {
            Ok(()) => Ok((records, payload)),
            Err(BlobFault::Header(_) | BlobFault::Digest { .. }) => {
                Err(self.read_fault(name, StoreFault::Damaged))
            }
        }
    }

    /// Reads a whole blob and checks its digests.
    pub(crate) async fn read_blob(
        &self,
        name: BlobName,
    ) -> Result<(BlobHeader, Bytes), HBlockRefusal> {
        let read = self.store.read_blob(name).await;
        let (header, payload) = read.map_err(|fault| self.read_fault(name, fault))?;
        if header.name != name || verify_blob(&header, &payload).is_err() {
            return Err(self.read_fault(name, StoreFault::Damaged));
        }
        Ok((header, payload))
    }

    /// Deletes blobs, and forgets what was known of them.
    pub(crate) async fn delete(&self, names: Vec<BlobName>) -> StoreResult {
        let result = self.store.delete(names.clone()).await;
        result.map_err(|fault| self.refusal(fault))?;
        let mut state = self.lock();
        for name in names {
            state.wounds.settled(name);
            state.quarantined.remove(&name);
        }
        Ok(())
    }

    /// The copy of `name` is damaged: lists it for repair.
    pub(crate) fn wound(&self, name: BlobName) {
        let now = self.env.now();
        if self.lock().wounds.found(now, name) {
            event!(self.env, Warn, "hblock", "{}: {name} is damaged", self.id());
            self.wounded.notify_one();
        }
    }

    pub(crate) fn is_wounded(&self, name: BlobName) -> bool {
        self.lock().wounds.contains(name)
    }

    pub(crate) fn with_wounds<T>(&self, act: impl FnOnce(&mut Wounds) -> T) -> T {
        act(&mut self.lock().wounds)
    }

    /// Completes when a wound was found since the last time.
    pub(crate) async fn wounded(&self) {
        self.wounded.notified().await;
    }

    /// Every name that is held is to be asked after soon.
    pub(crate) fn sweep_soon(&self) {
        self.sweep.notify_one();
    }

    /// Completes when a sweep was asked for since the last time.
    pub(crate) async fn sweep_wanted(&self) {
        self.sweep.notified().await;
    }

    pub(crate) fn wound_counters(&self) -> WoundCounters {
        self.lock().wounds.counters()
    }

    /// `name` is unknown to its shard: it is kept, and counted.
    pub(crate) fn quarantine(&self, name: BlobName) {
        let mut state = self.lock();
        if state.quarantined.len() < MAXIMUM_QUARANTINED && state.quarantined.insert(name) {
            drop(state);
            event!(
                self.env,
                Warn,
                "hblock",
                "{}: {name} quarantined",
                self.id()
            );
        }
    }

    /// `name` is known to its shard after all.
    pub(crate) fn release(&self, name: BlobName) {
        self.lock().quarantined.remove(&name);
    }

    pub(crate) fn quarantined(&self) -> u64 {
        u64::try_from(self.lock().quarantined.len()).expect("bounded")
    }

    /// Why the store stopped, if it did.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.lock().stopped.clone()
    }

    fn read_fault(&self, name: BlobName, fault: StoreFault) -> HBlockRefusal {
        match fault {
            StoreFault::Damaged => {
                self.wound(name);
                HBlockRefusal::Damaged
            }
            fault => self.refusal(fault),
        }
    }

    /// The answer for a fault of the store. A store that stopped stays so, and takes the node with
    /// it when it is the system pool.
    pub(crate) fn refusal(&self, fault: StoreFault) -> HBlockRefusal {
        match fault {
            StoreFault::Busy { reason } => HBlockRefusal::Busy { reason },
            StoreFault::Full => HBlockRefusal::NoRoom {
                acknowledged: Vec::new(),
            },
            StoreFault::Missing => HBlockRefusal::Missing,
            StoreFault::Damaged => HBlockRefusal::Damaged,
            StoreFault::Closed => {
                let reason = StoreFault::Closed.to_string();
                self.lock().stopped.get_or_insert_with(|| reason.clone());
                HBlockRefusal::Stopped { reason }
            }
            StoreFault::Stopped { reason } => {
                let first = self.lock().stopped.replace(reason.clone()).is_none();
                if first {
                    let store = self.id();
                    event!(self.env, Error, "hblock", "{store} stopped: {reason}");
                    if self.store.is_system() {
                        self.env.halt(HaltReason::DiskFailed(reason.clone()));
                    }
                }
                HBlockRefusal::Stopped { reason }
            }
        }
    }

    /// Says aloud what must never happen.
    fn report(&self, name: BlobName, refusal: &HBlockRefusal) {
        if *refusal == HBlockRefusal::OtherDigest {
            let store = self.id();
            event!(
                self.env,
                Error,
                "hblock",
                "broken invariant: {store}: {name}: {refusal}"
            );
        }
    }
}

fn stopped(reason: &str) -> HBlockRefusal {
    HBlockRefusal::Stopped {
        reason: reason.to_owned(),
    }
}
