//! The service over groups in memory: gathering, sharing rounds, placing.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use hedgerow_env::{
    ContainerId, ContainerIndex, FamilyId, Generation, LayerId, NodeId, PlacementEpoch, StoreId,
    VirtualDiskId, WriterId,
};
use hedgerow_net::testing::MemoryNetwork;
use hedgerow_protocol::{
    Location, MemberState, NodeRecord, NodeState, Policy, Residence, Roles, ShardCommand,
    ShardOutcome, ShardRefusal, StoreRecord, Topology,
};

use super::fake::{FakeReplica, FakeReplicas, ROUND_TRIP, only_member};
use super::*;

const SHARD: GroupId = GroupId(1);

struct Node {
    service: GroupService,
    replica: Arc<FakeReplica>,
    directory: Arc<Directory>,
}

fn topology(up: &[u64]) -> Topology {
    let node = |id: u64| NodeRecord {
        node: NodeId(id),
        name: format!("node{id}"),
        address: format!("node{id}:1"),
        roles: Roles::ALL,
        location: Location::default(),
        stores: vec![StoreRecord {
            store: StoreId(id),
            capacity_bytes: 1 << 40,
            residence: Residence::Hdd,
            system: true,
        }],
        state: if up.contains(&id) {
            NodeState::Up
        } else {
            NodeState::Down
        },
        reason: String::new(),
    };
    Topology {
        index: 1 + u64::try_from(up.len()).unwrap(),
        nodes: (1..=4).map(node).collect(),
    }
}

fn node() -> Node {
    let env = MemoryNetwork::new(1).env();
    let replica = FakeReplica::new(&env, SHARD, "node1:1");
    let replicas = Arc::new(FakeReplicas::default());
    replicas.add(Arc::clone(&replica));
    let directory = Arc::new(Directory::new(Vec::new()));
    directory.learn_topology(topology(&[1, 2, 3]));
    let service = GroupService::new(env, replicas, Arc::clone(&directory));
    Node {
        service,
        replica,
        directory,
    }
}

fn container(index: u32) -> ContainerId {
    ContainerId {
        family: FamilyId(1),
        disk: VirtualDiskId(1),
        index: ContainerIndex(index),
    }
}

fn fence(index: u32) -> ShardCommand {
    ShardCommand::Fence {
        container: container(index),
        generation: Generation(1),
        writers: vec![WriterId(1)],
        layer: LayerId(1),
    }
}

impl Node {
    async fn ask(&self, request: ShardRequest) -> GroupReply {
        let body = GroupBody::Shard(request);
        self.service
            .answer(GroupRequest { group: SHARD, body })
            .await
    }

    async fn shard(&self, request: ShardRequest) -> ShardReply {
        match self.ask(request).await {
            GroupReply::Shard(reply) => reply,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    async fn ensure_placed(&self, index: u32) -> ShardReply {
        let request = ShardRequest::EnsurePlaced {
            container: container(index),
            generation: Generation(1),
            policy: Policy::default(),
        };
        self.shard(request).await
    }

    async fn substitute(&self, epoch: u64, unavailable: &[u64]) -> ShardReply {
        let request = ShardRequest::Substitute {
            container: container(0),
            generation: Generation(1),
            policy: Policy::default(),
            epoch: PlacementEpoch(epoch),
            unavailable: unavailable.iter().map(|store| StoreId(*store)).collect(),
        };
        self.shard(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn independent_callers_share_entries_and_each_gets_its_own_outcome() {
    let node = node();
    let callers = (0..300).map(|index| {
        let commands = vec![fence(index), fence(index)];
        node.ask(ShardRequest::Propose(commands))
    });
    for reply in join_all(callers).await {
        let GroupReply::Shard(ShardReply::Outcomes(outcomes)) = reply else {
            panic!("expected outcomes, got {reply:?}");
        };
        assert_eq!(outcomes.len(), 2);
        assert!(matches!(outcomes[0], ShardOutcome::Fenced { .. }));
    }
    let entries = node.replica.entries.load(Ordering::SeqCst);
    assert!(entries <= 8, "{entries} entries for 300 callers");
}

#[tokio::test(start_paused = true)]
async fn a_lost_outcome_is_unknown_and_never_a_failure() {
    let node = node();
    node.replica.loses_outcomes.store(true, Ordering::SeqCst);
    let reply = node.ask(ShardRequest::Propose(vec![fence(1)])).await;
    assert!(matches!(reply, GroupReply::Unknown { .. }), "{reply:?}");
    node.replica.loses_outcomes.store(false, Ordering::SeqCst);
    let reply = node.ask(ShardRequest::Propose(vec![fence(1)])).await;
    assert!(
        matches!(reply, GroupReply::Shard(_)),
        "asked again it is answered: {reply:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_says_who_does_and_what_is_not_here_says_so() {
    let node = node();
    node.replica.leads.store(false, Ordering::SeqCst);
    let leader = Some(only_member("node1:1"));
    let reply = node.ask(ShardRequest::Statistics).await;
    assert_eq!(reply, GroupReply::NotLeader { leader });
    let elsewhere = GroupRequest {
        group: GroupId(9),
        body: GroupBody::Shard(ShardRequest::Statistics),
    };
    let reply = node.service.answer(elsewhere).await;
    assert!(matches!(reply, GroupReply::NoSuchGroup { .. }));
}

#[tokio::test(start_paused = true)]
async fn reads_share_a_round_that_began_after_they_were_asked() {
    let node = node();
    let asks = (0..100).map(|_| node.ask(ShardRequest::Statistics));
    join_all(asks).await;
    let rounds = node.replica.read_rounds.load(Ordering::SeqCst);
    assert!((1..=2).contains(&rounds), "{rounds} rounds for 100 reads");
    node.ask(ShardRequest::Statistics).await;
    assert_eq!(node.replica.read_rounds.load(Ordering::SeqCst), rounds + 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_asked_within_a_round_waits_for_the_next_one() {
    let node = node();
    let late = async {
        tokio::time::sleep(ROUND_TRIP / 2).await;
        node.ask(ShardRequest::Statistics).await
    };
    futures_util::future::join(node.ask(ShardRequest::Statistics), late).await;
    assert_eq!(node.replica.read_rounds.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_too_large_for_an_entry_is_refused_before_it_is_proposed() {
    let node = node();
    let commands = (0..1025).map(fence).collect();
    let reply = node.ask(ShardRequest::Propose(commands)).await;
    assert!(matches!(reply, GroupReply::Busy { .. }), "{reply:?}");
    assert_eq!(node.replica.entries.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn everyone_who_wants_a_container_placed_gets_the_same_placement() {
    let node = node();
    let replies = join_all((0..10).map(|_| node.ensure_placed(0))).await;
    let ShardReply::Placed { placement } = &replies[0] else {
        panic!("expected a placement, got {:?}", replies[0]);
    };
    assert_eq!(placement.epoch, PlacementEpoch(1));
    assert!(replies.iter().all(|reply| *reply == replies[0]));
    assert_eq!(node.ensure_placed(0).await, replies[0]);
}

#[tokio::test(start_paused = true)]
async fn too_few_nodes_are_unplaceable_until_they_return() {
    let node = node();
    node.directory.learn_topology(Topology {
        index: 50,
        ..topology(&[1])
    });
    let reply = node.ensure_placed(0).await;
    let refused = matches!(reply, ShardReply::Refused(ShardRefusal::Unplaceable { .. }));
    assert!(refused, "{reply:?}");
    node.directory.learn_topology(Topology {
        index: 51,
        ..topology(&[1, 2])
    });
    let reply = node.ensure_placed(0).await;
    assert!(
        matches!(reply, ShardReply::Placed { .. }),
        "W are up: {reply:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_substitute_takes_a_place_once_for_all_who_complain() {
    let node = node();
    let refused = node.substitute(1, &[2]).await;
    assert_eq!(refused, ShardReply::Refused(ShardRefusal::NotPlaced));
    node.ensure_placed(0).await;
    node.directory.learn_topology(Topology {
        index: 60,
        ..topology(&[1, 2, 3, 4])
    });
    let replies = join_all((0..5).map(|_| node.substitute(1, &[2]))).await;
    for reply in &replies {
        let ShardReply::Placed { placement } = reply else {
            panic!("expected a placement, got {reply:?}");
        };
        assert_eq!(placement.epoch, PlacementEpoch(2));
        let rests = placement
            .members
            .iter()
            .find(|member| member.store == StoreId(2));
        assert_eq!(rests.map(|member| member.state), Some(MemberState::Resting));
        assert!(placement.has(StoreId(4)));
    }
    let reply = node.substitute(2, &[4, 2]).await;
    let refused = matches!(reply, ShardReply::Refused(ShardRefusal::Unplaceable { .. }));
    assert!(refused, "nobody is left: {reply:?}");
}
