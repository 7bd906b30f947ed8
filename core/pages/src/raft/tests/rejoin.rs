//! The whole way back, by the duties of the nodes alone: a damaged replica of the root and one of a
//! shard are retired, let go, and replaced under new numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, ClusterId, Env, GroupId, Instant, StoreId};
use hedgerow_net::{Caller, Directory, GroupClient, Message, Refusal, Service, ServiceId};
use hedgerow_protocol::{
    GroupMember, GroupRecord, Location, NodeRecord, NodeReply, NodeRequest, NodeState, ROOT_GROUP,
    Residence, Roles, RootCommand, RootOutcome, SERVICE_GROUP, SERVICE_NODE, ShardTable,
    StoreRecord, decode, encode,
};

use super::super::PagesHost;
use super::super::log_record::Kind;
use super::damage::{damage, records};
use super::world::{Cluster, Node, machine_of};
use crate::drivers::{DriverConfig, Drivers};
use crate::service::{GroupService, Replicas};
use crate::{StateError, View};

const SHARD: GroupId = GroupId(1);
const LIMIT: Duration = Duration::from_secs(5);
/// Virtual time for a verdict, a removal, an addition and a snapshot.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a node answers as such, as far as the duties ask for it.
struct NodeService {
    env: Env,
    host: Arc<PagesHost>,
    directory: Arc<Directory>,
}

impl Service for NodeService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let (host, directory, env) = (
            Arc::clone(&self.host),
            Arc::clone(&self.directory),
            self.env.clone(),
        );
        Box::pin(async move {
            let reply = match decode::<NodeRequest>(&request.head).unwrap() {
                NodeRequest::Heartbeat { .. } => NodeReply::Alive,
                NodeRequest::Table { known } => {
                    let table = Some(directory.table());
                    NodeReply::Table(table.filter(|table| table.epoch > known))
                }
                NodeRequest::Topology { known } => {
                    let topology = directory.topology();
                    NodeReply::Topology((topology.index > known).then(|| (*topology).clone()))
                }
                NodeRequest::Describe => NodeReply::Refused("not asked here".into()),
                NodeRequest::StartReplica {
                    group,
                    member,
                    members,
                    initialise,
                } => {
                    let own = members.iter().find(|known| known.member == member);
                    let own = own.expect("it is among them").clone();
                    let first = initialise.then_some(members);
                    let (sender, started) = tokio::sync::oneshot::channel();
                    env.spawn("start-replica", async move {
                        let machine = machine_of(group);
                        let started = host.start_replica(group, own, machine, first).await;
                        drop(sender.send(started.map(drop)));
                    });
                    match started.await {
                        Ok(Ok(())) => NodeReply::Started,
                        other => NodeReply::Refused(format!("{other:?}")),
                    }
                }
                other => NodeReply::Refused(format!("{other:?}")),
            };
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }
}

fn record(member: &GroupMember) -> NodeRecord {
    NodeRecord {
        node: member.node,
        name: member.node.to_string(),
        address: member.address.clone(),
        roles: Roles::ALL,
        location: Location::default(),
        stores: vec![StoreRecord {
            store: member.member.store,
            capacity_bytes: 1 << 40,
            residence: Residence::Hdd,
            system: true,
        }],
        state: NodeState::Up,
        reason: String::new(),
    }
}

/// Starts the services and duties of a node.
fn serve(node: &Node, root: &GroupRecord) -> GroupClient {
    let env = node.env().clone();
    let seeds = root.members.iter().map(|member| member.address.clone());
    let directory = Arc::new(Directory::new(seeds.collect()));
    directory.bootstrap_root(root.clone());
    let host = node.shared_host();
    let replicas: Arc<dyn Replicas> = Arc::clone(&host) as Arc<dyn Replicas>;
    let service = GroupService::new(env.clone(), Arc::clone(&replicas), Arc::clone(&directory));
    let rpc = node.rpc();
    rpc.serve(ServiceId(SERVICE_GROUP), Arc::new(service.clone()));
    let endpoint = NodeService {
        env: env.clone(),
        host,
        directory: Arc::clone(&directory),
    };
    rpc.serve(ServiceId(SERVICE_NODE), Arc::new(endpoint));
    let client = GroupClient::new(env.clone(), rpc.clone(), directory);
    let config = DriverConfig {
        shards: 1,
        ..DriverConfig::default()
    };
    Drivers::start(env.clone(), replicas, service, client.clone(), config);
    let (refreshing, clock) = (client.clone(), env.clone());
    env.spawn("refresh", async move {
        loop {
            clock.sleep(Duration::from_secs(1)).await;
            refreshing.refresh(clock.now() + LIMIT).await;
        }
    });
    client
}

/// A cluster of three with a root and one shard, all of three replicas.
async fn founded(seed: u64) -> (Cluster, GroupRecord, Vec<GroupClient>) {
    let cluster = Cluster::blank(3, seed).await;
    let members: Vec<GroupMember> = cluster.nodes.iter().map(|node| node.member(1)).collect();
    let root = GroupRecord {
        group: ROOT_GROUP,
        members: members.clone(),
    };
    let clients: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| serve(node, &root))
        .collect();
    for (at, node) in cluster.nodes.iter().enumerate() {
        let host = node.shared_host();
        let (own, first) = (members[at].clone(), (at == 0).then(|| members.clone()));
        let started = node.inside(async move {
            let machine = machine_of(ROOT_GROUP);
            host.start_replica(ROOT_GROUP, own, machine, first)
                .await
                .map(drop)
        });
        started.await.expect("the root starts");
    }
    let command = RootCommand::Initialise {
        cluster: ClusterId(7),
        nodes: members.iter().map(record).collect(),
        members,
    };
    let done = clients[0].root_command(command, 4 * LIMIT).await;
    assert_eq!(done, Ok(RootOutcome::Done));
    until("three voters everywhere", || {
        [ROOT_GROUP, SHARD]
            .iter()
            .all(|group| voters(&cluster, *group).len() == 3)
    })
    .await;
    (cluster, root, clients)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let held = tokio::time::timeout(PATIENCE, wait).await;
    assert!(held.is_ok(), "{what}");
}

/// The voters of `group`, by store, as its leader knows them.
fn voters(cluster: &Cluster, group: GroupId) -> BTreeMap<StoreId, u32> {
    let running = cluster.nodes.iter().filter(|node| node.runs());
    let replicas = running.filter_map(|node| node.host().replica(group));
    let mut leaders = replicas.map(|replica| replica.leadership());
    let leader = leaders.find(|leadership| leadership.is_leader);
    let voters = leader
        .map(|leadership| leadership.voters)
        .unwrap_or_default();
    let pairs = voters
        .into_iter()
        .map(|voter| (voter.store, voter.replica.0));
    pairs.collect()
}

/// Index and contents of a replica.
async fn contents(node: &Node, group: GroupId) -> (u64, Vec<(Vec<u8>, Vec<u8>)>) {
    let Some(replica) = node.host().replica(group) else {
        return Default::default();
    };
    let found = Arc::new(Mutex::new(Default::default()));
    let filling = Arc::clone(&found);
    let job = Box::new(move |view: Result<&dyn View, StateError>, index| {
        let pairs = view.unwrap().scan(&[0], &[0xff; 64], usize::MAX).unwrap();
        *filling.lock().unwrap() = (index, pairs);
    });
    node.inside(replica.read(job)).await;
    let found = found.lock().unwrap();
    found.clone()
}

/// Waits until all three replicas of `group` stand at one index, and compares them.
async fn check_equal(cluster: &Cluster, group: GroupId) {
    for _ in 0..600 {
        let mut all = Vec::new();
        for node in &cluster.nodes {
            all.push(contents(node, group).await);
        }
        if all
            .iter()
            .all(|(index, _)| *index == all[0].0 && *index > 0)
        {
            assert!(all.iter().all(|one| *one == all[0]), "{group} differs");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{group} does not converge");
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_a_damaged_vote_and_one_with_damaged_pages_come_back_by_themselves() {
    let (mut cluster, root, clients) = founded(41).await;
    let hurt = 2;
    let store = cluster.nodes[hurt].member(1).member.store;
    cluster.nodes[hurt].stop().await;
    let disk = &cluster.nodes[hurt].disk;
    let votes = records(disk, 0, Kind::Vote);
    damage(disk, votes.last().expect("the root's replica has voted"));
    let mut pages = disk.paths("pool/pages/").into_iter();
    let pages = pages
        .find(|path| path.contains("g1-") && path.ends_with(".state"))
        .expect("the shard's replica has a state");
    disk.rot(&pages, 0, disk.content(&pages).len());
    for table in 0..2 {
        let table = format!("{pages}.table{table}");
        disk.rot(&table, 0, disk.content(&table).len());
    }
    cluster.nodes[hurt].start().await;
    let retired = cluster.nodes[hurt].host().retired();
    let groups: Vec<GroupId> = retired.iter().map(|(group, _)| *group).collect();
    assert_eq!(groups, [ROOT_GROUP, SHARD]);
    serve(&cluster.nodes[hurt], &root);

    for group in [ROOT_GROUP, SHARD] {
        until("the store votes under a new number", || {
            let voters = voters(&cluster, group);
            voters.len() == 3 && voters.get(&store).is_some_and(|number| *number > 1)
        })
        .await;
        check_equal(&cluster, group).await;
    }
    assert!(cluster.nodes[hurt].host().retired().is_empty());
    assert!(cluster.nodes[hurt].host().damaged().is_empty());
    // And the table knows.
    let known = |table: &ShardTable| {
        let groups = [&table.root, &table.shards[0]];
        groups.iter().all(|group| {
            let mut members = group.members.iter();
            members.any(|known| known.member.store == store && known.member.replica.0 > 1)
        })
    };
    let client = &clients[0];
    until("the table names the successors", || {
        let table = client.directory().table();
        !table.shards.is_empty() && known(&table)
    })
    .await;
}
