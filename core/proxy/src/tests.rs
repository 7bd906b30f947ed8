//! The drivers against one node that plays the root, a shard and two stores: real RPC, virtual
//! time.

mod changes;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{
    BlobName, BoxFuture, ClusterId, ContainerId, ContainerIndex, Env, FamilyId, Generation,
    GroupId, Instant, LayerId, MapEpoch, NodeId, PlacementEpoch, ReplicaNumber, Sequence, StoreId,
    TenantId, VirtualDiskId, WriterId,
};
use hedgerow_net::testing::MemoryNetwork;
use hedgerow_net::{
    Caller, Directory, GroupClient, Identity, Message, Refusal, RoleSet, Rpc, RpcConfig, Service,
    ServiceId,
};
use hedgerow_protocol::{
    Attachment, AttemptEnd, BlobHeader, Commit, DiskRecord, DiskState, Grant, GroupBody,
    GroupMember, GroupRecord, GroupReply, GroupRequest, HBlockRefusal, HBlockReply, HBlockRequest,
    Layout, Location, MapExtent, MapTarget, MapView, MemberId, MemberState, MovedRange, NodeRecord,
    NodeState, Placement, PlacementMember, Policy, ProxySession, ROOT_GROUP, Relocate, Residence,
    Roles, RootAnswer, RootCommand, RootOutcome, RootQuery, RootRefusal, RootReply, RootRequest,
    SERVICE_GROUP, SERVICE_HBLOCK, ShardCommand, ShardOutcome, ShardRefusal, ShardReply,
    ShardRequest, ShardTable, StoreRecord, Topology, UnitRecord, Version, decode, encode,
};

use crate::{IoError, OperationTag, Proxy, ProxyConfig, VirtualDisk, encode_units};

const ADDRESS: &str = "node1:700";
const NODE: NodeId = NodeId(1);
const SHARD: GroupId = GroupId(1);

fn container(index: u32) -> ContainerId {
    ContainerId {
        family: FamilyId(1),
        disk: VirtualDiskId(1),
        index: ContainerIndex(index),
    }
}

fn blob() -> BlobName {
    BlobName {
        container: container(0),
        writer: WriterId(9),
        sequence: Sequence(1),
    }
}

fn placement() -> Placement {
    let member = |store| PlacementMember {
        store: StoreId(store),
        node: NODE,
        state: MemberState::Active,
    };
    Placement {
        epoch: PlacementEpoch(1),
        generation: Generation(1),
        members: vec![member(10), member(20)],
        layout: Layout::Replicated { copies: 2 },
        write_quorum: 2,
    }
}

#[derive(Default)]
struct State {
    /// FENCE of these containers is not answered with success yet.
    unfenceable: BTreeSet<u32>,
    fenced: BTreeSet<u32>,
    detached: bool,
    /// Commands to the root are not answered.
    mute_root: bool,
    /// So often the disk was attached.
    attached: u64,
    /// Rises of the generation that are not of our attachments.
    foreign_rises: u64,
    /// Another proxy holds the disk.
    held: bool,
    /// Commits of older generations are refused.
    floor: Generation,
    /// Stores that have no room.
    full: BTreeSet<StoreId>,
    /// Fences and commits that took effect, with their generations.
    applied: Vec<String>,
    /// Committed holes: container, first block, blocks.
    holes: Vec<(u32, u32, u32)>,
    /// Stores that do not have the blob.
    lacks: BTreeSet<StoreId>,
    /// Whose copies are rotten.
    rotten: BTreeSet<StoreId>,
    /// Stores that the shard counts as lacking it.
    incomplete: BTreeSet<StoreId>,
    suspected: Vec<StoreId>,
    look_ups: u32,
    /// The epoch of the placement, beyond the first.
    later_epochs: u64,
    /// Stores that hold the blob of a write, and those that would say so when they are asked.
    written: BTreeSet<StoreId>,
    /// What proxies asked stores about a write, in order.
    asked: Vec<&'static str>,
    /// The acknowledgements of the commit that was applied.
    committed: Vec<StoreId>,
    /// The block that was written belongs to a mostly dead blob.
    sparse: bool,
    /// How often the shard was asked for such, and what was moved.
    walks: u32,
    relocated: Vec<Relocate>,
    /// The newest blob that was written.
    header: Option<BlobHeader>,
}

/// The node that plays everybody else.
struct Other {
    state: Mutex<State>,
    units: Vec<UnitRecord>,
    payload: Bytes,
}

impl Other {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    fn record() -> DiskRecord {
        DiskRecord {
            disk: VirtualDiskId(1),
            family: FamilyId(1),
            name: "demo".into(),
            size_bytes: 8 << 20,
            container_bytes: 1 << 20,
            policy: Policy::default(),
            layers: vec![LayerId(1)],
            generation: Generation(1),
            attachments: Vec::<Attachment>::new(),
            state: DiskState::Ready,
            tenant: TenantId(0),
            qos_class: 0,
            description: String::new(),
        }
    }

    fn root(&self, request: RootRequest) -> RootReply {
        let commands = match request {
            RootRequest::Propose(commands) => commands,
            RootRequest::Query(RootQuery::Table) => {
                return RootReply::Answer(RootAnswer::Table(table()));
            }
            RootRequest::Query(_) => {
                return RootReply::Answer(RootAnswer::Disk(Some(Self::record())));
            }
        };
        let outcome = |command: &RootCommand| match command {
            RootCommand::Attach { .. } => self.grant(),
            RootCommand::Detach { .. } => {
                self.with(|state| state.detached = true);
                RootOutcome::Done
            }
            _ => RootOutcome::Renewed { renewed_at: 1 },
        };
        RootReply::Outcomes(commands.iter().map(outcome).collect())
    }

    fn grant(&self) -> RootOutcome {
        self.with(|state| {
            if state.held {
                let holder = ProxySession {
                    node: NodeId(2),
                    incarnation: 7,
                };
                return RootOutcome::Refused(RootRefusal::Held { holder });
            }
            state.attached += 1;
            let mut disk = Self::record();
            disk.generation.0 += state.attached + state.foreign_rises;
            let writer = WriterId(9 + state.attached);
            RootOutcome::Granted(Grant { disk, writer })
        })
    }

    fn shard(&self, request: ShardRequest) -> ShardReply {
        match request {
            ShardRequest::Propose(commands) => {
                ShardReply::Outcomes(commands.iter().map(|command| self.apply(command)).collect())
            }
            // A page for each: the second has only holes.
            ShardRequest::ContainersAfter { after: None, .. } => ShardReply::ContainersAfter {
                found: vec![(container(0), Some(placement()))],
                more: true,
            },
            ShardRequest::ContainersAfter { .. } => ShardReply::ContainersAfter {
                found: vec![(container(7), None)],
                more: false,
            },
            ShardRequest::Lookup { .. } => ShardReply::View(self.view()),
            // There is no substitute.
            ShardRequest::Substitute { .. } => ShardReply::Refused(ShardRefusal::NotPlaced),
            ShardRequest::Sparse { .. } => self.sparse(),
            other => panic!("not asked here: {other:?}"),
        }
    }

    fn apply(&self, command: &ShardCommand) -> ShardOutcome {
        if let ShardCommand::Commit(commit) = command
            && !commit.acknowledged.is_empty()
        {
            return self.apply_data(commit);
        }
        if let ShardCommand::Commit(commit) = command {
            let extent = &commit.extents[0];
            let hole = (commit.container.index.0, extent.first_block, extent.blocks);
            return self.with(|state| {
                let current = state.floor;
                if commit.generation < current {
                    return ShardOutcome::Refused(ShardRefusal::StaleGeneration { current });
                }
                state.holes.push(hole);
                let (generation, first, blocks) = (commit.generation.0, hole.1, hole.2);
                let text = format!("g{generation} commit {first}+{blocks}");
                state.applied.push(text);
                ShardOutcome::Committed { index: 9 }
            });
        }
        if let ShardCommand::Relocate(relocate) = command {
            self.with(|state| state.relocated.push(relocate.clone()));
            return ShardOutcome::Committed { index: 9 };
        }
        if let ShardCommand::Void { sequences, .. } = command {
            let ends = sequences.iter().map(|sequence| {
                let text = format!("void {sequence}");
                self.with(|state| state.applied.push(text));
                (*sequence, AttemptEnd::Void)
            });
            return ShardOutcome::Ended(ends.collect());
        }
        let ShardCommand::Fence {
            container,
            generation,
            ..
        } = command
        else {
            return ShardOutcome::Done;
        };
        let index = container.index.0;
        self.with(|state| {
            if !state.unfenceable.contains(&index) {
                state
                    .applied
                    .push(format!("g{} fence {index}", generation.0));
            }
            if state.unfenceable.contains(&index) {
                return ShardOutcome::Refused(ShardRefusal::NotPlaced);
            }
            state.fenced.insert(index);
            ShardOutcome::Fenced {
                last_change: 1,
                placement: (index == 0).then(placement),
            }
        })
    }

    /// A commit under an epoch that has passed is told the placement that stands.
    fn apply_data(&self, commit: &Commit) -> ShardOutcome {
        self.with(|state| {
            let mut current = placement();
            current.epoch.0 += state.later_epochs;
            if commit.epoch != current.epoch {
                return ShardOutcome::Refused(ShardRefusal::StaleEpoch { current });
            }
            state.committed.clone_from(&commit.acknowledged);
            ShardOutcome::Committed { index: 9 }
        })
    }

    fn sparse(&self) -> ShardReply {
        let mut view = self.view();
        self.with(|state| {
            state.walks += 1;
            state.look_ups -= 1;
            if !state.sparse {
                view.extents.clear();
            }
        });
        ShardReply::Sparse { view, next: None }
    }

    fn view(&self) -> MapView {
        let incomplete: Vec<StoreId> = self.with(|state| {
            state.look_ups += 1;
            state.incomplete.iter().copied().collect()
        });
        let target = MapTarget::Data {
            blob: blob(),
            unit: 0,
            unit_offset_blocks: 0,
            digest: self.units[0].digest,
        };
        MapView {
            index: 5,
            last_change: 5,
            generation: Some(Generation(2)),
            extents: vec![MapExtent {
                first_block: 0,
                blocks: 8,
                target,
                version: Some(Version {
                    writer: WriterId(9),
                    sequence: Sequence(1),
                }),
            }],
            placements: vec![(container(0), placement())],
            incomplete: vec![(blob(), incomplete)],
        }
    }

    fn store(&self, request: &HBlockRequest) -> (HBlockReply, Bytes) {
        match request {
            HBlockRequest::Read { store, .. } if self.with(|state| state.lacks.contains(store)) => {
                (HBlockReply::Refused(HBlockRefusal::Missing), Bytes::new())
            }
            HBlockRequest::Read { store, .. } => {
                let mut payload = self.payload.to_vec();
                if self.with(|state| state.rotten.contains(store)) {
                    payload[0] ^= 1;
                }
                let units = HBlockReply::Units(self.units.clone());
                (units, payload.into())
            }
            HBlockRequest::Suspect { store, .. } => {
                self.with(|state| state.suspected.push(*store));
                (HBlockReply::Done, Bytes::new())
            }
            HBlockRequest::Write {
                header, targets, ..
            } => self.with(|state| {
                state.header = Some(header.clone());
                state.asked.push("write");
                let stores = targets.iter().map(|target| target.member.store);
                let acknowledged: Vec<_> =
                    stores.filter(|store| !state.full.contains(store)).collect();
                state.written.extend(&acknowledged);
                let reply = if state.full.is_empty() {
                    HBlockReply::Written { acknowledged }
                } else {
                    HBlockReply::Refused(HBlockRefusal::NoRoom { acknowledged })
                };
                (reply, Bytes::new())
            }),
            HBlockRequest::Acknowledge { store, names, .. } => self.with(|state| {
                state.asked.push("held?");
                let holds = state.written.contains(store) && !state.lacks.contains(store);
                let names = names.iter().filter(|_| holds);
                let held = names.map(|(name, _)| *name).collect();
                (HBlockReply::Held(held), Bytes::new())
            }),
            other => panic!("not asked here: {other:?}"),
        }
    }
}

struct Groups(Arc<Other>);
struct Stores(Arc<Other>);

impl Service for Groups {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let request: GroupRequest = decode(&request.head).unwrap();
        let proposes = matches!(&request.body, GroupBody::Root(RootRequest::Propose(_)));
        if proposes && self.0.with(|state| state.mute_root) {
            return Box::pin(std::future::pending());
        }
        let reply = match request.body {
            GroupBody::Root(request) => GroupReply::Root(self.0.root(request)),
            GroupBody::Shard(request) => GroupReply::Shard(self.0.shard(request)),
            other @ GroupBody::Retired(_) => panic!("not asked here: {other:?}"),
        };
        Box::pin(async move { Ok(Message::new(encode(&reply), Bytes::new())) })
    }
}

impl Service for Stores {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let (reply, payload) = self.0.store(&decode(&request.head).unwrap());
        Box::pin(async move { Ok(Message::new(encode(&reply), payload)) })
    }
}

fn group(group: GroupId) -> GroupRecord {
    GroupRecord {
        group,
        members: vec![GroupMember {
            member: MemberId {
                store: StoreId(10),
                replica: ReplicaNumber(1),
            },
            node: NODE,
            address: ADDRESS.into(),
        }],
    }
}

fn table() -> ShardTable {
    ShardTable {
        epoch: MapEpoch(1),
        root: group(ROOT_GROUP),
        shards: vec![group(SHARD)],
    }
}

fn topology() -> Topology {
    let store = |id| StoreRecord {
        store: StoreId(id),
        capacity_bytes: 1 << 40,
        residence: Residence::Hdd,
        system: id == 10,
    };
    Topology {
        index: 1,
        nodes: vec![NodeRecord {
            node: NODE,
            name: "node1".into(),
            address: ADDRESS.into(),
            roles: Roles::ALL,
            location: Location::default(),
            stores: vec![store(10), store(20)],
            state: NodeState::Up,
            reason: String::new(),
        }],
    }
}

struct Stage {
    env: Env,
    other: Arc<Other>,
    proxy: Proxy,
}

impl Stage {
    async fn set() -> Self {
        let env = MemoryNetwork::new(3).env();
        let identity = Identity {
            cluster: Some(ClusterId(1)),
            node: NODE,
            stores: Vec::new(),
            roles: RoleSet::PAGES,
            address: String::new(),
        };
        let rpc = Rpc::start(env.clone(), identity, RpcConfig::default(), ADDRESS)
            .await
            .unwrap();
        let (units, payload) = encode_units(&Bytes::from(vec![7; 4096]), false);
        let other = Arc::new(Other {
            state: Mutex::default(),
            units,
            payload,
        });
        rpc.serve(ServiceId(SERVICE_GROUP), Arc::new(Groups(other.clone())));
        rpc.serve(ServiceId(SERVICE_HBLOCK), Arc::new(Stores(other.clone())));
        let directory = Arc::new(Directory::new(vec![ADDRESS.into()]));
        directory.learn_topology(topology());
        directory.learn_table(table());
        let groups = GroupClient::new(env.clone(), rpc.clone(), directory);
        let proxy = Proxy::start(env.clone(), rpc, groups, NODE, ProxyConfig::default());
        Self { env, other, proxy }
    }

    async fn attach(&self) -> VirtualDisk {
        self.proxy.attach("demo").await.unwrap()
    }

    async fn seconds(&self, seconds: u64) {
        self.env.sleep(Duration::from_secs(seconds)).await;
    }

    /// Reads the one block that was written, and lets what follows in the background end.
    async fn read(&self, disk: &VirtualDisk) {
        let bytes = disk.read(0, 4096).await.unwrap();
        assert_eq!(bytes, Bytes::from(vec![7; 4096]));
        self.seconds(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_detached_only_when_every_container_of_it_is_fenced() {
    let stage = Stage::set().await;
    stage.other.with(|state| state.unfenceable.insert(7));
    let disk = stage.attach().await;
    stage.seconds(1).await;
    assert_eq!(stage.other.with(|state| state.fenced.clone()), [0].into());

    let (proxy, detaching) = (stage.proxy.clone(), disk.clone());
    let ended = Arc::new(Mutex::new(None));
    let told = Arc::clone(&ended);
    stage.env.spawn("detach", async move {
        let result = proxy.detach(&detaching).await;
        *told.lock().unwrap() = Some(result);
    });
    stage.seconds(3).await;
    assert_eq!(*ended.lock().unwrap(), None, "a container is not fenced");
    assert!(!stage.other.with(|state| state.detached));

    stage.other.with(|state| state.unfenceable.clear());
    stage.seconds(2).await;
    assert_eq!(*ended.lock().unwrap(), Some(Ok(())));
    assert!(stage.other.with(|state| state.detached));
    assert_eq!(
        stage.other.with(|state| state.fenced.clone()),
        [0, 7].into()
    );
}

/// One lease covers all disks of a proxy: what the root did not answer would stand as long as it holds
/// any other disk.
#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_is_asked_for_again() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(1).await;
    stage.other.with(|state| state.mute_root = true);
    assert!(stage.proxy.detach(&disk).await.is_err());
    assert!(!stage.other.with(|state| state.detached));
    stage.other.with(|state| state.mute_root = false);
    stage.seconds(15).await;
    assert!(stage.other.with(|state| state.detached));
}

#[tokio::test(start_paused = true)]
async fn a_grant_without_an_answer_is_given_back() {
    let stage = Stage::set().await;
    stage.other.with(|state| state.mute_root = true);
    assert!(stage.proxy.attach("demo").await.is_err());
    stage.other.with(|state| state.mute_root = false);
    stage.seconds(25).await;
    assert!(stage.other.with(|state| state.detached));
    assert!(stage.proxy.attached().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_nobody_waits_for_any_more_is_given_back() {
    let stage = Stage::set().await;
    stage.other.with(|state| state.mute_root = true);
    let attaching = stage.proxy.attach("demo");
    let given_up = stage.env.timeout(Duration::from_secs(2), attaching).await;
    assert!(given_up.is_err(), "dropped while the root is asked");
    stage.other.with(|state| state.mute_root = false);
    stage.seconds(25).await;
    assert!(stage.other.with(|state| state.detached));
}

/// Two containers exist of a disk that had, before it was cut to 1 MiB, a million of them.
#[tokio::test(start_paused = true)]
async fn clearing_touches_the_containers_that_exist_and_no_others() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    let range = (1 << 20) - 4096..1 << 40;
    disk.clear(range, OperationTag(1)).await.unwrap();
    let holes = stage.other.with(|state| state.holes.clone());
    assert_eq!(holes, [(0, 2040, 8), (7, 0, 2048)]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_be_fenced_everywhere_stays_attached() {
    let stage = Stage::set().await;
    stage.other.with(|state| state.unfenceable.insert(7));
    let disk = stage.attach().await;
    assert!(stage.proxy.detach(&disk).await.is_err());
    assert!(!disk.is_lost() && !stage.other.with(|state| state.detached));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lacks_what_the_shard_counts_it_for_is_told() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.read(&disk).await;
    stage.other.with(|state| state.lacks = [StoreId(10)].into());
    // Answered by the other store, and from a cached look-up: the copy is found all the same.
    stage.read(&disk).await;
    let suspected = stage.other.with(|state| state.suspected.clone());
    assert_eq!(suspected, [StoreId(10)]);
}

#[tokio::test(start_paused = true)]
async fn a_rotten_copy_is_not_believed_but_told_and_another_one_read() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage
        .other
        .with(|state| state.rotten = [StoreId(10)].into());
    stage.read(&disk).await;
    let suspected = stage.other.with(|state| state.suspected.clone());
    assert_eq!(suspected, [StoreId(10)]);
    // With no sound copy there is no answer.
    stage
        .other
        .with(|state| state.rotten = [StoreId(10), StoreId(20)].into());
    let answer = stage
        .env
        .timeout(Duration::from_secs(9), disk.read(0, 4096))
        .await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_the_shard_knows_to_lack_the_blob_is_left_alone() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.read(&disk).await;
    // The cached look-up still says that store 10 has it; a fresh one does not.
    let before = stage.other.with(|state| {
        state.lacks = [StoreId(10)].into();
        state.incomplete = [StoreId(10)].into();
        state.look_ups
    });
    stage.read(&disk).await;
    assert!(
        stage.other.with(|state| state.look_ups) > before,
        "looked up again"
    );
    assert!(stage.other.with(|state| state.suspected.is_empty()));
}

/// Writes one block while the placement changes between the members' word and the commit.
async fn write_across_an_epoch(stage: &Stage) -> (Vec<&'static str>, Vec<StoreId>) {
    let disk = stage.attach().await;
    stage.other.with(|state| state.later_epochs = 1);
    let data = Bytes::from(vec![7; 4096]);
    disk.write(0, data, OperationTag(1)).await.unwrap();
    stage
        .other
        .with(|state| (state.asked.clone(), state.committed.clone()))
}

#[tokio::test(start_paused = true)]
async fn members_answer_under_a_new_epoch_by_the_name_without_the_bytes() {
    let stage = Stage::set().await;
    let (asked, committed) = write_across_an_epoch(&stage).await;
    assert_eq!(asked, ["write", "held?", "held?"]);
    assert_eq!(committed, [StoreId(10), StoreId(20)]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lacks_the_name_under_the_new_epoch_gets_the_frame_again() {
    let stage = Stage::set().await;
    stage.other.with(|state| state.lacks = [StoreId(20)].into());
    let (asked, committed) = write_across_an_epoch(&stage).await;
    assert_eq!(asked, ["write", "held?", "held?", "write"]);
    assert_eq!(committed, [StoreId(10), StoreId(20)]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_attachment_moves_what_is_left_of_a_mostly_dead_blob() {
    let stage = Stage::set().await;
    stage.other.with(|state| state.sparse = true);
    let disk = stage.attach().await;
    stage.seconds(3).await;
    let moved = stage.other.with(|state| state.relocated.clone());
    let [relocate] = &moved[..] else {
        panic!("one relocation: {moved:?}");
    };
    let [one] = relocate.moves[..] else {
        panic!("one range: {relocate:?}");
    };
    assert_eq!(one.from, blob());
    assert_eq!((one.first_block, one.blocks), (0, 8));
    assert_eq!(relocate.writer, disk.writer());
    assert_eq!(relocate.acknowledged, [StoreId(10), StoreId(20)]);
    let header = stage.other.with(|state| state.header.clone()).unwrap();
    assert_eq!(header.units[usize::from(one.unit)].digest, one.digest);
    let written_by = Version {
        writer: WriterId(9),
        sequence: Sequence(1),
    };
    let kept = MovedRange {
        first_block: 0,
        blocks: 8,
        unit: 0,
        unit_offset_blocks: 0,
        version: written_by,
    };
    assert_eq!(header.moved, [kept], "the client's version");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_nobody_writes_is_walked_once_and_a_lost_attachment_walks_no_more() {
    let stage = Stage::set().await;
    let disk = stage.attach().await;
    stage.seconds(30).await;
    let walks = |stage: &Stage| stage.other.with(|state| state.walks);
    assert_eq!(walks(&stage), 2, "each container once");
    disk.zero(0, 4096, OperationTag(1)).await.unwrap();
    stage.seconds(10).await;
    assert_eq!(walks(&stage), 3, "again after a write");
    disk.zero(0, 4096, OperationTag(2)).await.unwrap();
    disk.lose("told so");
    stage.seconds(10).await;
    assert_eq!(walks(&stage), 3);
}
