//! Fakes of the ports, and a small cluster of HBlocks around one fake shard, for this crate's
//! tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{
    BlobName, BoxFuture, ContainerId, ContainerIndex, Env, FamilyId, Generation, GroupId, LayerId,
    NodeId, PlacementEpoch, Sequence, StoreId, VirtualDiskId, WriterId,
};
use hedgerow_net::testing::MemoryNetwork;
use hedgerow_protocol::{
    BlobHeader, Change, HBlockRefusal, HBlockReply, HBlockRequest, MemberState, NameState,
    PlacementMember, ShardCommand, ShardOutcome, ShardReply, ShardRequest, UnitEncoding,
    UnitRecord, Version, WriteTarget, digest,
};
use tokio::sync::Notify;

use crate::ports::{
    BlobStore, ControlKey, Destination, MemberFault, Members, ScrubStretch, ShardFault, Shards,
    StoreFault, StoreUsage,
};
use crate::verify::verify_blob;
use crate::{HBlock, HBlockConfig};

/// The one shard of these tests.
pub(crate) const SHARD: GroupId = GroupId(1);

/// The container of most tests.
pub(crate) fn container() -> ContainerId {
    ContainerId {
        family: FamilyId(1),
        disk: VirtualDiskId(1),
        index: ContainerIndex(0),
    }
}

/// The name of writer 1's blob `sequence`.
pub(crate) fn name(sequence: u64) -> BlobName {
    BlobName {
        container: container(),
        writer: WriterId(1),
        sequence: Sequence(sequence),
    }
}

/// A blob of `units` units of 512 bytes, whose contents follow from its sequence.
pub(crate) fn blob(sequence: u64, units: u64) -> (BlobHeader, Bytes) {
    blob_with(sequence, units, 0)
}

/// As [`blob`], with other contents for each `salt`.
pub(crate) fn blob_with(sequence: u64, units: u64, salt: u64) -> (BlobHeader, Bytes) {
    let mut payload = Vec::new();
    let mut records = Vec::new();
    for unit in 0..units {
        let mut bytes = vec![0_u8; 512];
        bytes[..8].copy_from_slice(&sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&unit.to_le_bytes());
        bytes[16..24].copy_from_slice(&salt.to_le_bytes());
        records.push(UnitRecord {
            logical_bytes: 512,
            stored_bytes: 512,
            encoding: UnitEncoding::Plain,
            digest: digest(&bytes),
        });
        payload.extend_from_slice(&bytes);
    }
    let header = BlobHeader {
        name: name(sequence),
        layer: LayerId(1),
        first_block: 0,
        version: Version {
            writer: WriterId(1),
            sequence: Sequence(sequence),
        },
        units: records,
        key: 0,
        moved: Vec::new(),
    };
    (header, Bytes::from(payload))
}

#[derive(Default)]
struct Contents {
    blobs: BTreeMap<BlobName, (BlobHeader, Bytes)>,
    records: BTreeMap<ControlKey, Bytes>,
    full: bool,
    stopped: Option<String>,
    append_time: Duration,
    record_time: Duration,
    scrub_from: Option<BlobName>,
}

/// A store in memory. Its contents survive the [`HBlock`] that uses it.
pub(crate) struct FakeStore {
    env: Env,
    id: StoreId,
    contents: Mutex<Contents>,
    changed: Notify,
}

impl FakeStore {
    pub(crate) fn new(env: Env, id: StoreId) -> Arc<Self> {
        let contents = Contents {
            append_time: Duration::from_millis(1),
            record_time: Duration::from_millis(1),
            ..Contents::default()
        };
        Arc::new(Self {
            env,
            id,
            contents: Mutex::new(contents),
            changed: Notify::new(),
        })
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    pub(crate) fn held(&self) -> Vec<BlobName> {
        self.contents().blobs.keys().copied().collect()
    }

    pub(crate) fn sound(&self, name: BlobName) -> bool {
        let contents = self.contents();
        let blob = contents.blobs.get(&name);
        blob.is_some_and(|(header, payload)| verify_blob(header, payload).is_ok())
    }

    /// Flips one byte of the copy of `name`.
    pub(crate) fn damage(&self, name: BlobName) {
        let mut contents = self.contents();
        let (_, payload) = contents.blobs.get_mut(&name).unwrap();
        let mut bytes = payload.to_vec();
        bytes[40] ^= 1;
        *payload = Bytes::from(bytes);
    }

    pub(crate) fn lose(&self, name: BlobName) {
        self.contents().blobs.remove(&name);
    }

    /// Where it stands in the feeds is not known any more.
    pub(crate) fn forget_feeds(&self) {
        let is_feed = |key: &ControlKey| matches!(key, ControlKey::Feed(_));
        self.contents().records.retain(|key, _| !is_feed(key));
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.contents().full = full;
    }

    pub(crate) fn set_append_time(&self, time: Duration) {
        self.contents().append_time = time;
    }

    pub(crate) fn set_record_time(&self, time: Duration) {
        self.contents().record_time = time;
    }

    pub(crate) fn stop(&self) {
        self.contents().stopped = Some("sync failed".to_owned());
        self.changed.notify_waiters();
    }

    fn check(&self) -> Result<(), StoreFault> {
        match self.contents().stopped.clone() {
            Some(reason) => Err(StoreFault::Stopped { reason }),
            None => Ok(()),
        }
    }
}

/// The handle that an [`HBlock`] gets.
pub(crate) struct StoreHandle(pub(crate) Arc<FakeStore>);

impl BlobStore for StoreHandle {
    fn id(&self) -> StoreId {
        self.0.id
    }

    fn is_system(&self) -> bool {
        false
    }

    fn usage(&self) -> StoreUsage {
        let blobs = u64::try_from(self.0.contents().blobs.len()).unwrap();
        StoreUsage {
            capacity_bytes: 1 << 30,
            used_bytes: blobs * 512,
            blobs,
        }
    }

    fn stopped(&self) -> BoxFuture<'static, StoreFault> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            loop {
                let changed = store.changed.notified();
                if let Err(fault) = store.check() {
                    return fault;
                }
                changed.await;
            }
        })
    }

    fn header(&self, name: BlobName) -> Result<BlobHeader, StoreFault> {
        self.0.check()?;
        let contents = self.0.contents();
        let blob = contents.blobs.get(&name).ok_or(StoreFault::Missing)?;
        Ok(blob.0.clone())
    }

    fn damaged(&self) -> Vec<BlobName> {
        Vec::new()
    }

    fn put(
        &self,
        header: BlobHeader,
        payload: Bytes,
    ) -> BoxFuture<'static, Result<(), StoreFault>> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            store.check()?;
            if store.contents().full {
                return Err(StoreFault::Full);
            }
            let time = store.contents().append_time;
            store.env.sleep(time).await;
            store.check()?;
            store
                .contents()
                .blobs
                .insert(header.name, (header, payload));
            Ok(())
        })
    }

    fn read_units(
        &self,
        name: BlobName,
        units: Vec<u16>,
    ) -> BoxFuture<'static, Result<(Vec<UnitRecord>, Bytes), StoreFault>> {
        let read = self.read_blob(name);
        Box::pin(async move {
            let (header, payload) = read.await?;
            let mut records = Vec::new();
            let mut bytes = Vec::new();
            for unit in units {
                let (offset, length) = header.unit_range(unit).ok_or(StoreFault::Missing)?;
                let start = usize::try_from(offset).unwrap();
                let end = start + usize::try_from(length).unwrap();
                records.push(header.units[usize::from(unit)]);
                bytes.extend_from_slice(&payload[start..end]);
            }
            Ok((records, Bytes::from(bytes)))
        })
    }

    fn read_blob(
        &self,
        name: BlobName,
    ) -> BoxFuture<'static, Result<(BlobHeader, Bytes), StoreFault>> {
        let read = self.0.check().and_then(|()| {
            let contents = self.0.contents();
            contents
                .blobs
                .get(&name)
                .cloned()
                .ok_or(StoreFault::Missing)
        });
        Box::pin(async move { read })
    }

    fn delete(&self, names: Vec<BlobName>) -> BoxFuture<'static, Result<(), StoreFault>> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            store.check()?;
            for name in names {
                store.contents().blobs.remove(&name);
            }
            Ok(())
        })
    }

    fn names(&self, after: Option<BlobName>, limit: usize) -> Vec<BlobName> {
        let contents = self.0.contents();
        let names = contents.blobs.keys().copied();
        names
            .filter(|name| after.is_none_or(|after| *name > after))
            .take(limit)
            .collect()
    }

    fn put_record(
        &self,
        key: ControlKey,
        value: Bytes,
    ) -> BoxFuture<'static, Result<(), StoreFault>> {
        let store = Arc::clone(&self.0);
        Box::pin(async move {
            store.check()?;
            let time = store.contents().record_time;
            store.env.sleep(time).await;
            store.contents().records.insert(key, value);
            Ok(())
        })
    }

    fn records(&self) -> BoxFuture<'static, Result<Vec<(ControlKey, Bytes)>, StoreFault>> {
        let records = self.0.contents().records.clone();
        Box::pin(async move { Ok(records.into_iter().collect()) })
    }

    fn scrub(&self, _bytes: u64) -> BoxFuture<'static, Result<ScrubStretch, StoreFault>> {
        let mut contents = self.0.contents();
        let from = contents.scrub_from;
        let next = contents
            .blobs
            .iter()
            .find(|(name, _)| from.is_none_or(|from| **name > from))
            .map(|(name, (header, payload))| (*name, verify_blob(header, payload).is_err()));
        contents.scrub_from = next.map(|(name, _)| name);
        let stretch = ScrubStretch {
            bytes: 512,
            damaged: next
                .filter(|(_, bad)| *bad)
                .map(|(name, _)| name)
                .into_iter()
                .collect(),
            finished: next.is_none(),
        };
        Box::pin(async move { Ok(stretch) })
    }
}

#[derive(Default)]
struct Board {
    feeds: BTreeMap<StoreId, Vec<Change>>,
    incomplete: BTreeMap<(StoreId, BlobName), PlacementEpoch>,
    holdings: BTreeMap<StoreId, BTreeSet<BlobName>>,
    confirmed: Vec<(StoreId, BlobName, PlacementEpoch)>,
    retired: Vec<(StoreId, ContainerId, PlacementEpoch)>,
    handled: BTreeMap<StoreId, u64>,
    states: BTreeMap<BlobName, NameState>,
    pulls: u64,
    silent: bool,
    full: bool,
    hidden: Vec<(StoreId, Change)>,
    forget_answers: u64,
}

/// One shard, reduced to what an HBlock sees of it.
#[derive(Default)]
pub(crate) struct FakeShard {
    board: Mutex<Board>,
}

impl FakeShard {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap()
    }

    pub(crate) fn tell(&self, store: StoreId, change: Change) {
        let mut board = self.board();
        if let Change::Incomplete { blob, epoch, .. } = &change {
            board.incomplete.insert((store, *blob), *epoch);
            board.states.insert(*blob, NameState::Live);
        }
        board.feeds.entry(store).or_default().push(change);
    }

    /// As [`FakeShard::tell`], but one proposal of the store later for each.
    pub(crate) fn tell_in_steps(&self, store: StoreId, change: Change) {
        self.board().hidden.push((store, change));
    }

    /// Pulls are answered as parts of a full listing.
    /// The store is counted as a holder of these.
    pub(crate) fn count(&self, store: StoreId, names: impl IntoIterator<Item = BlobName>) {
        self.board()
            .holdings
            .entry(store)
            .or_default()
            .extend(names);
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.board().full = full;
    }

    pub(crate) fn set_state(&self, name: BlobName, state: NameState) {
        self.board().states.insert(name, state);
    }

    /// The shard no longer expects `name` at `store`; CONFIRMs of it are answered *unknown*.
    pub(crate) fn unlist(&self, store: StoreId, name: BlobName) {
        self.board().incomplete.remove(&(store, name));
    }

    pub(crate) fn set_silent(&self, silent: bool) {
        self.board().silent = silent;
    }

    /// The next `count` proposals take effect and their answers are lost.
    pub(crate) fn forget_answers(&self, count: u64) {
        self.board().forget_answers = count;
    }

    pub(crate) fn incomplete(&self) -> usize {
        self.board().incomplete.len()
    }

    pub(crate) fn confirmed(&self) -> Vec<(StoreId, BlobName, PlacementEpoch)> {
        self.board().confirmed.clone()
    }

    pub(crate) fn retired(&self) -> Vec<(StoreId, ContainerId, PlacementEpoch)> {
        self.board().retired.clone()
    }

    pub(crate) fn handled(&self, store: StoreId) -> u64 {
        self.board().handled.get(&store).copied().unwrap_or(0)
    }

    pub(crate) fn pulls(&self) -> u64 {
        self.board().pulls
    }

    fn propose(&self, command: ShardCommand) -> ShardOutcome {
        let mut board = self.board();
        match command {
            ShardCommand::Confirm { store, names } => {
                if !board.hidden.is_empty() {
                    let (store, change) = board.hidden.remove(0);
                    drop(board);
                    self.tell(store, change);
                    board = self.board();
                }
                let mut known = Vec::new();
                for (name, epoch) in names {
                    let wanted = board.incomplete.get(&(store, name)).copied();
                    let takes = wanted.is_some_and(|wanted| epoch >= wanted);
                    if takes {
                        board.incomplete.remove(&(store, name));
                        board.confirmed.push((store, name, epoch));
                    }
                    let before = board
                        .confirmed
                        .iter()
                        .any(|(at, of, _)| (*at, *of) == (store, name));
                    known.push(takes || before);
                }
                ShardOutcome::Confirmed(known)
            }
            ShardCommand::Handled { store, index } => {
                board.handled.insert(store, index);
                ShardOutcome::Done
            }
            ShardCommand::Retired {
                container,
                store,
                epoch,
            } => {
                board.retired.push((store, container, epoch));
                ShardOutcome::Done
            }
            other => panic!("an HBlock proposes no {other:?}"),
        }
    }

    fn answer(&self, request: ShardRequest) -> Result<ShardReply, ShardFault> {
        if self.board().silent {
            return Err(ShardFault("silent".to_owned()));
        }
        match request {
            ShardRequest::Propose(commands) => {
                let outcomes = commands
                    .into_iter()
                    .map(|command| self.propose(command))
                    .collect();
                let mut board = self.board();
                if board.forget_answers > 0 {
                    board.forget_answers -= 1;
                    return Err(ShardFault("answer lost".to_owned()));
                }
                Ok(ShardReply::Outcomes(outcomes))
            }
            ShardRequest::Pull {
                store,
                after,
                limit,
            } => {
                let mut board = self.board();
                board.pulls += 1;
                let feed = board.feeds.get(&store).cloned().unwrap_or_default();
                let from = usize::try_from(after).unwrap().min(feed.len());
                let limit = usize::try_from(limit).unwrap();
                let changes: Vec<Change> = feed[from..].iter().take(limit).cloned().collect();
                let next = from + changes.len();
                Ok(ShardReply::Changes {
                    changes,
                    next: u64::try_from(next).unwrap(),
                    more: next < feed.len() || board.hidden.iter().any(|(of, _)| *of == store),
                    full: board.full,
                })
            }
            ShardRequest::Names { names, .. } => {
                let board = self.board();
                let states = names
                    .iter()
                    .map(|name| {
                        board
                            .states
                            .get(name)
                            .copied()
                            .unwrap_or(NameState::Unknown)
                    })
                    .collect();
                Ok(ShardReply::Names(states))
            }
            ShardRequest::Holdings { store, after } => {
                let board = self.board();
                let all = board.holdings.get(&store).cloned().unwrap_or_default();
                let rest = all.into_iter().filter(|name| Some(*name) > after);
                let names: Vec<BlobName> = rest.take(2).collect();
                let next = (names.len() == 2).then(|| names[1]);
                Ok(ShardReply::Holdings { names, next })
            }
            other => panic!("an HBlock asks no {other:?}"),
        }
    }
}

/// The handle on the shard that an [`HBlock`] gets.
pub(crate) struct ShardHandle(pub(crate) Env, pub(crate) Arc<FakeShard>);

impl Shards for ShardHandle {
    fn groups(&self) -> Vec<GroupId> {
        vec![SHARD]
    }

    fn shard_of(&self, _container: ContainerId) -> Option<GroupId> {
        Some(SHARD)
    }

    fn ask(
        &self,
        _group: GroupId,
        request: ShardRequest,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<ShardReply, ShardFault>> {
        let (env, shard) = (self.0.clone(), Arc::clone(&self.1));
        Box::pin(async move {
            env.sleep(Duration::from_millis(1)).await;
            shard.answer(request)
        })
    }
}

/// The network between the members: who is cut off, and what was sent.
#[derive(Default)]
pub(crate) struct FakeNetwork {
    nodes: Mutex<BTreeMap<StoreId, HBlock>>,
    cut: Mutex<BTreeSet<StoreId>>,
    fetches: Mutex<u64>,
}

impl FakeNetwork {
    pub(crate) fn cut(&self, store: StoreId) {
        self.cut.lock().unwrap().insert(store);
    }

    pub(crate) fn heal(&self, store: StoreId) {
        self.cut.lock().unwrap().remove(&store);
    }

    pub(crate) fn fetches(&self) -> u64 {
        *self.fetches.lock().unwrap()
    }
}

/// The handle on the network that an [`HBlock`] gets.
pub(crate) struct MembersHandle(pub(crate) Env, pub(crate) Arc<FakeNetwork>);

impl Members for MembersHandle {
    fn call(
        &self,
        to: Destination,
        request: HBlockRequest,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(HBlockReply, Bytes), MemberFault>> {
        let (env, network) = (self.0.clone(), Arc::clone(&self.1));
        let store = match to {
            Destination::Target(target) => target.member.store,
            Destination::Store(store) => store,
        };
        Box::pin(async move {
            if matches!(request, HBlockRequest::Fetch { .. }) {
                *network.fetches.lock().unwrap() += 1;
            }
            if network.cut.lock().unwrap().contains(&store) {
                env.sleep(timeout).await;
                return Err(MemberFault::Unknown("cut off".to_owned()));
            }
            let node = network.nodes.lock().unwrap().get(&store).cloned();
            let node = node.ok_or(MemberFault::Unreachable("nobody there".to_owned()))?;
            env.sleep(Duration::from_micros(100)).await;
            let answer = node.answer(request, payload, env.now() + timeout);
            match env.timeout(timeout, answer).await {
                Ok(answer) => Ok(answer),
                Err(_) => Err(MemberFault::Unknown("timed out".to_owned())),
            }
        })
    }
}

/// Some stores, each on its own node, around one shard.
pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) shard: Arc<FakeShard>,
    pub(crate) network: Arc<FakeNetwork>,
    pub(crate) stores: BTreeMap<StoreId, Arc<FakeStore>>,
    pub(crate) config: HBlockConfig,
}

impl Cluster {
    /// Stores 1 to `count`, all started, members of the container's first placement.
    pub(crate) async fn start(count: u64) -> Self {
        Self::start_with(count, HBlockConfig::default()).await
    }

    pub(crate) async fn start_with(count: u64, config: HBlockConfig) -> Self {
        let env = MemoryNetwork::default().env();
        let stores = (1..=count)
            .map(|id| (StoreId(id), FakeStore::new(env.clone(), StoreId(id))))
            .collect();
        let cluster = Self {
            env,
            shard: Arc::default(),
            network: Arc::default(),
            stores,
            config,
        };
        for id in 1..=count {
            cluster.start_node(StoreId(id)).await;
        }
        cluster
    }

    pub(crate) async fn start_node(&self, id: StoreId) -> HBlock {
        let store = StoreHandle(Arc::clone(&self.stores[&id]));
        let node = HBlock::with_ports(
            self.env.clone(),
            vec![Arc::new(store)],
            Arc::new(MembersHandle(self.env.clone(), Arc::clone(&self.network))),
            Arc::new(ShardHandle(self.env.clone(), Arc::clone(&self.shard))),
            self.config.clone(),
        );
        let node = node.await.unwrap();
        self.network.nodes.lock().unwrap().insert(id, node.clone());
        node
    }

    pub(crate) async fn stop_node(&self, id: StoreId) {
        let node = self.network.nodes.lock().unwrap().remove(&id);
        node.unwrap().shutdown().await;
    }

    pub(crate) fn node(&self, id: u64) -> HBlock {
        self.network.nodes.lock().unwrap()[&StoreId(id)].clone()
    }

    pub(crate) fn store(&self, id: u64) -> &Arc<FakeStore> {
        &self.stores[&StoreId(id)]
    }

    pub(crate) fn targets(&self) -> Vec<WriteTarget> {
        self.stores
            .keys()
            .map(|store| WriteTarget {
                member: PlacementMember {
                    store: *store,
                    node: NodeId(store.0),
                    state: MemberState::Active,
                },
                address: format!("node-{}:1", store.0),
            })
            .collect()
    }

    /// A write of `blob` through store 1, with a quorum of two.
    pub(crate) async fn write(
        &self,
        (header, payload): (BlobHeader, Bytes),
        epoch: u64,
        domains: Vec<u16>,
    ) -> HBlockReply {
        let request = HBlockRequest::Write {
            store: StoreId(1),
            header,
            generation: Generation(1),
            epoch: PlacementEpoch(epoch),
            targets: self.targets(),
            write_quorum: 2,
            domains,
        };
        self.ask_with(1, request, payload).await.0
    }

    pub(crate) async fn ask(&self, id: u64, request: HBlockRequest) -> HBlockReply {
        self.ask_with(id, request, Bytes::new()).await.0
    }

    pub(crate) async fn ask_with(
        &self,
        id: u64,
        request: HBlockRequest,
        payload: Bytes,
    ) -> (HBlockReply, Bytes) {
        let deadline = self.env.now() + Duration::from_secs(2);
        self.node(id).answer(request, payload, deadline).await
    }

    /// Sends `STORE` of a blob straight to one member.
    pub(crate) async fn offer(
        &self,
        id: u64,
        (header, payload): (BlobHeader, Bytes),
        generation: u64,
        epoch: u64,
    ) -> HBlockReply {
        let request = HBlockRequest::Store {
            store: StoreId(id),
            header,
            generation: Generation(generation),
            epoch: PlacementEpoch(epoch),
        };
        self.ask_with(id, request, payload).await.0
    }

    pub(crate) async fn sleep(&self, milliseconds: u64) {
        self.env.sleep(Duration::from_millis(milliseconds)).await;
    }

    /// Waits until `condition` holds, for at most a minute.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        for _ in 0..6_000 {
            if condition() {
                return;
            }
            self.sleep(10).await;
        }
        panic!("never came true: {what}");
    }
}

/// The refusal of a reply.
pub(crate) fn refusal(reply: HBlockReply) -> HBlockRefusal {
    match reply {
        HBlockReply::Refused(refusal) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}
