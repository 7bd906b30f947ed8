//! The leaders' duties on one node in virtual time: real RPC and service, groups in memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{
    BlobName, BoxFuture, ClusterId, ContainerId, ContainerIndex, Env, Generation, GroupId, Instant,
    NodeId, PlacementEpoch, Sequence, StoreId,
};
use hedgerow_net::testing::MemoryNetwork;
use hedgerow_net::{
    Caller, Directory, GroupClient, Identity, Message, Refusal, RoleSet, Rpc, RpcConfig, Service,
    ServiceId,
};
use hedgerow_protocol::{
    Commit, CommitExtent, CommitTarget, DEFAULT_CONTAINER_BYTES, Grant, GroupRecord, Layout,
    Location, MemberState, NodeRecord, NodeReply, NodeRequest, NodeState, PlacementMember, Policy,
    ProxySession, ROOT_GROUP, Residence, Roles, RootAnswer, RootCommand, RootOutcome, RootQuery,
    SERVICE_GROUP, SERVICE_NODE, ShardCommand, ShardOutcome, ShardRefusal, StoreRecord, decode,
    digest, encode,
};

use super::{DriverConfig, Drivers};
use crate::service::GroupService;
use crate::service::fake::{FakeReplica, FakeReplicas, only_member};

const ADDRESS: &str = "node1:700";
const LIMIT: Duration = Duration::from_secs(5);
const SESSION: ProxySession = ProxySession {
    node: NodeId(1),
    incarnation: 1,
};

/// Starts replicas as a node does.
struct NodeService {
    env: Env,
    replicas: Arc<FakeReplicas>,
}

impl Service for NodeService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let reply = match decode::<NodeRequest>(&request.head) {
            Ok(NodeRequest::StartReplica { group, .. }) => {
                self.replicas
                    .add(FakeReplica::new(&self.env, group, ADDRESS));
                NodeReply::Started
            }
            Ok(NodeRequest::Heartbeat { .. }) => NodeReply::Alive,
            other => NodeReply::Refused(format!("{other:?}")),
        };
        Box::pin(async move { Ok(Message::new(encode(&reply), Bytes::new())) })
    }
}

struct Cluster {
    env: Env,
    client: GroupClient,
    replicas: Arc<FakeReplicas>,
}

fn record(id: u64) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        name: format!("node{id}"),
        address: format!("node{id}:700"),
        roles: Roles::ALL,
        location: Location::default(),
        stores: vec![StoreRecord {
            store: StoreId(id * 10),
            capacity_bytes: 1 << 40,
            residence: Residence::Hdd,
            system: true,
        }],
        state: NodeState::Up,
        reason: String::new(),
    }
}

impl Cluster {
    /// A cluster of one node, whose root was just initialised.
    async fn start() -> Self {
        let env = MemoryNetwork::new(3).env();
        let identity = Identity {
            cluster: Some(ClusterId(1)),
            node: NodeId(1),
            stores: Vec::new(),
            roles: RoleSet::PAGES,
            address: String::new(),
        };
        let rpc = Rpc::start(env.clone(), identity, RpcConfig::default(), ADDRESS)
            .await
            .unwrap();
        let replicas = Arc::new(FakeReplicas::default());
        replicas.add(FakeReplica::new(&env, ROOT_GROUP, ADDRESS));
        let directory = Arc::new(Directory::new(vec![ADDRESS.into()]));
        directory.bootstrap_root(GroupRecord {
            group: ROOT_GROUP,
            members: vec![only_member(ADDRESS)],
        });
        let service = GroupService::new(env.clone(), replicas.clone(), Arc::clone(&directory));
        rpc.serve(ServiceId(SERVICE_GROUP), Arc::new(service.clone()));
        let nodes = NodeService {
            env: env.clone(),
            replicas: Arc::clone(&replicas),
        };
        rpc.serve(ServiceId(SERVICE_NODE), Arc::new(nodes));
        let client = GroupClient::new(env.clone(), rpc, directory);
        let config = DriverConfig {
            shards: 2,
            ..DriverConfig::default()
        };
        Drivers::start(
            env.clone(),
            replicas.clone(),
            service,
            client.clone(),
            config,
        );
        let cluster = Self {
            env,
            client,
            replicas,
        };
        let done = cluster.root(RootCommand::Initialise {
            cluster: ClusterId(1),
            nodes: vec![record(1)],
            members: vec![only_member(ADDRESS)],
        });
        assert_eq!(done.await, RootOutcome::Done);
        cluster
    }

    async fn root(&self, command: RootCommand) -> RootOutcome {
        self.client.root_command(command, LIMIT).await.unwrap()
    }

    async fn ask(&self, query: RootQuery) -> RootAnswer {
        self.client.root_query(query, LIMIT).await.unwrap()
    }

    async fn shard(&self, group: GroupId, command: ShardCommand) -> ShardOutcome {
        let outcomes = self
            .client
            .shard_commands(group, vec![command], LIMIT)
            .await;
        outcomes.unwrap().remove(0)
    }

    async fn seconds(&self, seconds: u64) {
        self.env.sleep(Duration::from_secs(seconds)).await;
    }

    /// A disk that is attached, with one container fenced for its writer.
    async fn attached(&self) -> (Grant, ContainerId, GroupId) {
        let create = RootCommand::CreateDisk {
            nonce: 1,
            name: "demo".into(),
            size_bytes: 1 << 30,
            container_bytes: DEFAULT_CONTAINER_BYTES,
            policy: Policy::default(),
            description: String::new(),
        };
        let RootOutcome::Disk(disk) = self.root(create).await else {
            panic!("the disk is created");
        };
        let attach = RootCommand::Attach {
            disk: disk.disk,
            session: SESSION,
            nonce: 1,
        };
        let RootOutcome::Granted(grant) = self.root(attach).await else {
            panic!("the disk is free");
        };
        let container = ContainerId {
            family: disk.family,
            disk: disk.disk,
            index: ContainerIndex(0),
        };
        let group = self.client.directory().shard_of(container).unwrap();
        (grant, container, group)
    }

    /// Writes the first block of a container twice; the name that is then free.
    async fn overwritten(&self, grant: &Grant, container: ContainerId) -> BlobName {
        let group = self.client.directory().shard_of(container).unwrap();
        let place = ShardCommand::Place {
            container,
            generation: grant.disk.generation,
            epoch: PlacementEpoch(1),
            members: vec![PlacementMember {
                store: StoreId(10),
                node: NodeId(1),
                state: MemberState::Active,
            }],
            layout: Layout::Replicated { copies: 1 },
            write_quorum: 1,
            lost: Vec::new(),
        };
        self.shard(group, Self::fence(grant, container)).await;
        self.shard(group, place).await;
        for sequence in [1, 2] {
            let data = CommitTarget::Data {
                unit: 0,
                unit_offset_blocks: 0,
                digest: digest(b"block"),
            };
            let commit = Commit {
                container,
                layer: grant.disk.layers[0],
                generation: grant.disk.generation,
                epoch: PlacementEpoch(1),
                writer: grant.writer,
                sequence: Sequence(sequence),
                low_water: Sequence(sequence),
                extents: vec![CommitExtent {
                    first_block: 0,
                    blocks: 1,
                    target: data,
                }],
                acknowledged: vec![StoreId(10)],
                stored_bytes: 512,
            };
            let outcome = self.shard(group, ShardCommand::Commit(commit)).await;
            assert!(
                matches!(outcome, ShardOutcome::Committed { .. }),
                "{outcome:?}"
            );
        }
        let idle = ShardCommand::Void {
            container,
            writer: grant.writer,
            sequences: Vec::new(),
            low_water: Sequence(3),
        };
        self.shard(group, idle).await;
        BlobName {
            container,
            writer: grant.writer,
            sequence: Sequence(1),
        }
    }

    fn fence(grant: &Grant, container: ContainerId) -> ShardCommand {
        ShardCommand::Fence {
            container,
            generation: grant.disk.generation,
            writers: vec![grant.writer],
            layer: grant.disk.layers[0],
        }
    }
}

#[tokio::test(start_paused = true)]
async fn shards_come_up_by_themselves_after_bootstrap() {
    let cluster = Cluster::start().await;
    cluster.seconds(4).await;
    let RootAnswer::Table(table) = cluster.ask(RootQuery::Table).await else {
        panic!("the table was asked for");
    };
    assert_eq!(table.shards.len(), 2);
    for shard in &table.shards {
        let outcome = cluster
            .shard(shard.group, ShardCommand::Finalise { feature_level: 1 })
            .await;
        assert_eq!(outcome, ShardOutcome::Done);
    }
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_falls_silent_is_fenced_in_every_shard_and_one_that_renews_is_not() {
    let cluster = Cluster::start().await;
    cluster.seconds(4).await;
    let (grant, container, group) = cluster.attached().await;
    let fenced = cluster
        .shard(group, Cluster::fence(&grant, container))
        .await;
    assert!(matches!(fenced, ShardOutcome::Fenced { .. }), "{fenced:?}");
    for _ in 0..8 {
        cluster.seconds(1).await;
        let renewed = cluster.root(RootCommand::Renew(SESSION)).await;
        assert!(
            matches!(renewed, RootOutcome::Renewed { .. }),
            "{renewed:?}"
        );
    }
    cluster.seconds(4).await;
    let again = cluster
        .shard(group, Cluster::fence(&grant, container))
        .await;
    assert!(
        matches!(again, ShardOutcome::Fenced { .. }),
        "the lease stands: {again:?}"
    );

    cluster.seconds(4).await;
    let stale = cluster
        .shard(group, Cluster::fence(&grant, container))
        .await;
    let current = Generation(grant.disk.generation.0 + 1);
    let refusal = ShardRefusal::StaleGeneration { current };
    assert_eq!(stale, ShardOutcome::Refused(refusal));
    let pending = cluster.ask(RootQuery::PendingFloors).await;
    assert_eq!(pending, RootAnswer::Pending(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_disk_is_dropped_everywhere_and_forgotten() {
    let cluster = Cluster::start().await;
    cluster.seconds(4).await;
    let (grant, container, group) = cluster.attached().await;
    cluster
        .shard(group, Cluster::fence(&grant, container))
        .await;
    let disk = grant.disk.disk;
    cluster.root(RootCommand::DeleteDisk { disk }).await;
    cluster.seconds(3).await;
    let pending = cluster.ask(RootQuery::PendingDrops).await;
    assert_eq!(pending, RootAnswer::Pending(Vec::new()));
    let late = cluster
        .shard(group, Cluster::fence(&grant, container))
        .await;
    assert_eq!(late, ShardOutcome::Refused(ShardRefusal::Deleted));
}

/// Two shards are led here; the first loses its quorum in the middle of its leader's round.
#[tokio::test(start_paused = true)]
async fn a_group_without_a_quorum_holds_up_no_other() {
    let cluster = Cluster::start().await;
    cluster.seconds(4).await;
    let (grant, first, _) = cluster.attached().await;
    let in_group = |group| {
        let at = |index| ContainerId {
            index: ContainerIndex(index),
            ..first
        };
        let directory = cluster.client.directory();
        (0..64)
            .map(at)
            .find(|container| directory.shard_of(*container) == Some(GroupId(group)))
            .unwrap()
    };
    cluster.overwritten(&grant, in_group(1)).await;
    let stuck = cluster.replicas.0.lock().unwrap()[&GroupId(1)].clone();
    stuck.stalls.store(true, Ordering::SeqCst);
    // Something to propose is what the leader of the stuck group hangs on, for ever.
    let before = stuck.entries.load(Ordering::SeqCst);
    cluster.seconds(3).await;
    assert!(stuck.entries.load(Ordering::SeqCst) > before, "it proposed");

    let free = cluster.overwritten(&grant, in_group(2)).await;
    let other = cluster.replicas.0.lock().unwrap()[&GroupId(2)].clone();
    let before = other.entries.load(Ordering::SeqCst);
    cluster.seconds(3).await;
    assert!(
        other.entries.load(Ordering::SeqCst) > before,
        "{free} was not collected"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_is_down_after_a_while() {
    let cluster = Cluster::start().await;
    let join = RootCommand::JoinAtStart {
        record: record(2),
        start: 1,
    };
    cluster.root(join).await;
    cluster.seconds(3).await;
    let states = |answer| {
        let RootAnswer::Topology(topology) = answer else {
            panic!("the topology was asked for");
        };
        let nodes = topology.nodes.into_iter();
        nodes.map(|node| node.state).collect::<Vec<NodeState>>()
    };
    let early = states(cluster.ask(RootQuery::Topology).await);
    assert_eq!(early, [NodeState::Up, NodeState::Up]);
    cluster.seconds(6).await;
    let late = states(cluster.ask(RootQuery::Topology).await);
    assert_eq!(late, [NodeState::Up, NodeState::Down]);
}

/// Afterwards the lease ends: the new shard gets the floor, too.
#[tokio::test(start_paused = true)]
async fn a_shard_is_split_and_both_go_on() {
    let cluster = Cluster::start().await;
    cluster.seconds(4).await;
    let (grant, first, _) = cluster.attached().await;
    let directory = cluster.client.directory();
    let at = |index| ContainerId {
        index: ContainerIndex(index),
        ..first
    };
    let of_one = |container: &ContainerId| directory.shard_of(*container) == Some(GroupId(1));
    let containers: Vec<ContainerId> = (0..64).map(at).filter(of_one).take(6).collect();
    for container in &containers {
        cluster.overwritten(&grant, *container).await;
    }
    let RootAnswer::Table(table) = cluster.ask(RootQuery::Table).await else {
        panic!("the table was asked for");
    };
    let split = RootCommand::SplitShard {
        group: GroupId(1),
        epoch: table.epoch,
    };
    let begun = cluster.root(split).await;
    assert!(matches!(begun, RootOutcome::Splitting(_)), "{begun:?}");
    for _ in 0..6 {
        cluster.root(RootCommand::Renew(SESSION)).await;
        cluster.seconds(1).await;
    }
    assert_eq!(cluster.ask(RootQuery::Split).await, RootAnswer::Split(None));
    let RootAnswer::Table(table) = cluster.ask(RootQuery::Table).await else {
        panic!("the table was asked for");
    };
    assert_eq!(table.distinct().len(), 3);
    directory.learn_table(table.clone());
    let mut moved = 0;
    for container in containers {
        let group = directory.shard_of(container).unwrap();
        moved += usize::from(group == GroupId(3));
        let fenced = cluster
            .shard(group, Cluster::fence(&grant, container))
            .await;
        let ShardOutcome::Fenced { last_change, .. } = fenced else {
            panic!("{fenced:?}");
        };
        assert!(last_change > 0, "its map came along");
        let other = GroupId(if group == GroupId(3) { 1 } else { 3 });
        let refused = cluster
            .shard(other, Cluster::fence(&grant, container))
            .await;
        assert!(
            matches!(
                refused,
                ShardOutcome::Refused(ShardRefusal::Moved { epoch }) if epoch <= table.epoch
            ),
            "{refused:?}"
        );
    }
    assert!(moved > 0, "some of six move");
    cluster.seconds(4).await;
    // The lease has ended: every shard has the floor, and the new one, too.
    cluster.seconds(4).await;
    let pending = cluster.ask(RootQuery::PendingFloors).await;
    assert_eq!(pending, RootAnswer::Pending(Vec::new()));
}
