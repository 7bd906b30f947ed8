//! Every command and refusal of the root, told as short transcripts.

use hedgerow_env::{
    ClusterId, Generation, GroupId, NodeId, ReplicaNumber, StoreId, VirtualDiskId, WriterId,
};
use hedgerow_protocol::{
    DEFAULT_CONTAINER_BYTES, DiskRecord, DiskState, Grant, GroupMember, GroupRecord, Location,
    MemberId, NodeRecord, NodeState, Policy, ProxySession, ROOT_GROUP, Residence, Roles,
    RootAnswer, RootBatch, RootCommand, RootOutcome, RootQuery, RootRefusal, StoreRecord, decode,
    encode,
};

mod splits;

use super::{RootMachine, query};
use crate::{Machine, MemoryState};

mod draining;
mod leases;

const CLUSTER: ClusterId = ClusterId(0xc1);

fn node(id: u64) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        name: format!("node{id}"),
        address: format!("node{id}:1"),
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

fn member(id: u64, replica: u32) -> GroupMember {
    GroupMember {
        member: MemberId {
            store: StoreId(id * 10),
            replica: ReplicaNumber(replica),
        },
        node: NodeId(id),
        address: format!("node{id}:1"),
    }
}

fn group(number: u32, ids: &[u64]) -> GroupRecord {
    GroupRecord {
        group: GroupId(number),
        members: (1..)
            .zip(ids)
            .map(|(replica, id)| member(*id, replica))
            .collect(),
    }
}

fn session(node: u64, incarnation: u64) -> ProxySession {
    ProxySession {
        node: NodeId(node),
        incarnation,
    }
}

fn create(nonce: u64, name: &str) -> RootCommand {
    RootCommand::CreateDisk {
        nonce,
        name: name.into(),
        size_bytes: 10 << 30,
        container_bytes: DEFAULT_CONTAINER_BYTES,
        policy: Policy::default(),
        description: String::new(),
    }
}

fn joining(record: NodeRecord) -> RootCommand {
    RootCommand::JoinAtStart { record, start: 1 }
}

fn attach(disk: &DiskRecord, session: ProxySession, nonce: u64) -> RootCommand {
    RootCommand::Attach {
        disk: disk.disk,
        session,
        nonce,
    }
}

struct Root {
    state: MemoryState,
    index: u64,
}

impl Root {
    fn empty() -> Self {
        Self {
            state: MemoryState::default(),
            index: 0,
        }
    }

    /// Three nodes, and two shards.
    fn ready() -> Self {
        let mut root = Self::empty();
        let done = root.run(RootCommand::Initialise {
            cluster: CLUSTER,
            nodes: vec![node(1), node(2), node(3)],
            members: group(0, &[1, 2, 3]).members,
        });
        assert_eq!(done, RootOutcome::Done);
        root.run(RootCommand::CreateShards {
            shards: vec![group(1, &[1, 2, 3]), group(2, &[1, 2, 3])],
        });
        root
    }

    fn run(&mut self, command: RootCommand) -> RootOutcome {
        self.index += 1;
        let batch = encode(&RootBatch(vec![command]));
        let outcomes = RootMachine
            .apply(&mut self.state, self.index, &batch)
            .expect("a state in memory does not fail");
        let mut outcomes: Vec<RootOutcome> = decode(&outcomes).expect("what the machine encoded");
        outcomes.remove(0)
    }

    /// Runs a command that must be refused, and must then have changed nothing.
    fn refused(&mut self, command: RootCommand) -> RootRefusal {
        let before = self.state.clone();
        match self.run(command) {
            RootOutcome::Refused(refusal) => {
                assert_eq!(self.state, before, "a refusal changes nothing");
                refusal
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn disk(&mut self, command: RootCommand) -> DiskRecord {
        match self.run(command) {
            RootOutcome::Disk(record) => record,
            other => panic!("expected a disk, got {other:?}"),
        }
    }

    fn resized(&mut self, command: RootCommand) -> (DiskRecord, Option<u64>) {
        match self.run(command) {
            RootOutcome::Resized {
                disk,
                cut_from_bytes,
            } => (disk, cut_from_bytes),
            other => panic!("expected a size, got {other:?}"),
        }
    }

    fn named(&self, name: &str) -> DiskRecord {
        match self.ask(&RootQuery::DiskByName(name.into())) {
            RootAnswer::Disk(Some(record)) => record,
            other => panic!("expected a disk, got {other:?}"),
        }
    }

    fn granted(&mut self, command: RootCommand) -> Grant {
        match self.run(command) {
            RootOutcome::Granted(grant) => grant,
            other => panic!("expected a grant, got {other:?}"),
        }
    }

    fn ask(&self, query: &RootQuery) -> RootAnswer {
        query::answer(&self.state, query).expect("a state in memory does not fail")
    }

    fn renewed_at(&self, session: ProxySession) -> Option<u64> {
        let RootAnswer::Leases(leases) = self.ask(&RootQuery::Leases) else {
            panic!("leases were asked for");
        };
        let mut leases = leases.into_iter();
        leases
            .find(|(known, _)| *known == session)
            .map(|(_, renewed_at)| renewed_at)
    }

    /// The disks and shards that are pending.
    fn pending(&self, query: &RootQuery) -> Vec<(u64, Vec<u32>)> {
        let RootAnswer::Pending(work) = self.ask(query) else {
            panic!("pending work was asked for");
        };
        work.into_iter()
            .map(|item| {
                let groups = item.groups.iter().map(|group| group.0);
                (item.disk.disk.0, groups.collect())
            })
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let RootAnswer::Disks(disks) = self.ask(&RootQuery::Disks) else {
            panic!("disks were asked for");
        };
        disks.into_iter().map(|disk| disk.name).collect()
    }
}

#[test]
fn a_cluster_is_initialised_once() {
    let mut root = Root::empty();
    let refused = root.refused(joining(node(1)));
    assert!(matches!(refused, RootRefusal::Invalid { .. }));
    assert_eq!(root.ask(&RootQuery::Cluster), RootAnswer::Cluster(None));
    let mut root = Root::ready();
    let initialise = |cluster| RootCommand::Initialise {
        cluster,
        nodes: vec![node(9)],
        members: group(0, &[9]).members,
    };
    assert_eq!(root.run(initialise(CLUSTER)), RootOutcome::Done, "repeated");
    let refused = root.refused(initialise(ClusterId(5)));
    assert_eq!(refused, RootRefusal::Initialised { cluster: CLUSTER });
    assert_eq!(
        root.ask(&RootQuery::Cluster),
        RootAnswer::Cluster(Some(CLUSTER))
    );
}

#[test]
fn the_topology_changes_its_index_only_when_a_node_changes() {
    let mut root = Root::ready();
    let index = |root: &Root| query::topology(&root.state).unwrap().index;
    let before = index(&root);
    root.run(joining(node(2)));
    assert_eq!(index(&root), before, "nothing new");
    let mut moved = node(4);
    moved.stores.push(node(2).stores.remove(0));
    root.run(joining(moved));
    assert_eq!(index(&root), root.index);
    let topology = query::topology(&root.state).unwrap();
    assert_eq!(
        topology.node_of(StoreId(20)).unwrap().node,
        NodeId(4),
        "the disk moved"
    );

    let state = |state| RootCommand::SetNodeState {
        node: NodeId(3),
        state,
        reason: "for a reason".into(),
    };
    root.run(state(NodeState::Draining));
    root.run(joining(node(3)));
    let topology = query::topology(&root.state).unwrap();
    assert_eq!(
        topology.nodes[2].state,
        NodeState::Draining,
        "a restart does not end it"
    );
    // A verdict on its silence that was under way when the operator decided.
    root.run(state(NodeState::Down));
    let topology = query::topology(&root.state).unwrap();
    assert_eq!(topology.nodes[2].state, NodeState::Draining);
    // What was found while it drained is told, and ends nothing that was taken back meanwhile.
    let told = |reason: &str| RootCommand::TellDraining {
        node: NodeId(3),
        reason: reason.into(),
    };
    root.run(told("3 containers left"));
    let topology = query::topology(&root.state).unwrap();
    assert_eq!(topology.nodes[2].reason, "3 containers left");
    // It was down when it was judged, and answered; the operator decided before that arrived.
    let judged = |seen, state| RootCommand::JudgeNode {
        node: NodeId(3),
        seen,
        state,
        reason: "a verdict".into(),
    };
    root.run(judged(NodeState::Down, NodeState::Up));
    root.run(judged(NodeState::Up, NodeState::Down));
    let topology = query::topology(&root.state).unwrap();
    assert_eq!(topology.nodes[2].state, NodeState::Draining);
    root.run(state(NodeState::Up));
    root.run(told("2 containers left"));
    let topology = query::topology(&root.state).unwrap();
    let third = &topology.nodes[2];
    assert_eq!(
        (third.state, third.reason.as_str()),
        (NodeState::Up, "for a reason")
    );
    let unknown = RootCommand::SetNodeState {
        node: NodeId(77),
        state: NodeState::Up,
        reason: String::new(),
    };
    assert!(matches!(
        root.refused(unknown),
        RootRefusal::NoSuchNode { .. }
    ));
}

#[test]
fn shards_are_made_once_and_each_change_raises_the_map_epoch() {
    let mut root = Root::ready();
    let table = query::table(&root.state).unwrap();
    assert_eq!((table.epoch.0, table.shards.len()), (2, 2));
    root.run(RootCommand::CreateShards {
        shards: vec![group(1, &[1])],
    });
    assert_eq!(query::table(&root.state).unwrap(), table, "made once");
    root.run(RootCommand::SetGroupMembers(table.shards[0].clone()));
    assert_eq!(query::table(&root.state).unwrap(), table, "nothing new");
    root.run(RootCommand::SetGroupMembers(group(2, &[1, 2])));
    let changed = query::table(&root.state).unwrap();
    assert_eq!((changed.epoch.0, changed.shards[1].members.len()), (3, 2));
    let refused = root.refused(RootCommand::SetGroupMembers(group(7, &[1])));
    assert!(matches!(refused, RootRefusal::Invalid { .. }));

    let mut fresh = Root::empty();
    fresh.run(RootCommand::Initialise {
        cluster: CLUSTER,
        nodes: vec![node(1)],
        members: group(0, &[1]).members,
    });
    for wrong in [
        vec![group(1, &[1]), group(2, &[1]), group(3, &[1])],
        vec![group(2, &[1])],
        vec![group(1, &[])],
    ] {
        let refused = fresh.refused(RootCommand::CreateShards { shards: wrong });
        assert!(matches!(refused, RootRefusal::Invalid { .. }));
    }
}

#[test]
fn replica_numbers_are_handed_out_once_and_offered_until_they_are_used() {
    let mut root = Root::ready();
    let next = |root: &mut Root, group, store| {
        let group = GroupId(group);
        let store = StoreId(store);
        match root.run(RootCommand::NextReplica { group, store }) {
            RootOutcome::Replica(number) => number.0,
            other => panic!("expected a number, got {other:?}"),
        }
    };
    assert_eq!(next(&mut root, 1, 40), 4, "1 to 3 are the first members");
    assert_eq!(next(&mut root, 1, 50), 5);
    assert_eq!(next(&mut root, 1, 40), 4, "the attempt is completed");
    assert_eq!(next(&mut root, 0, 40), 4, "each group has its own");
    let mut grown = group(1, &[1, 2, 3]);
    grown.members.push(member(4, 4));
    root.run(RootCommand::SetGroupMembers(grown));
    assert_eq!(next(&mut root, 1, 40), 6, "used, so it needs another");
    let offers: Vec<u32> = (0..9).map(|_| next(&mut root, 1, 60)).collect();
    assert_eq!(
        (offers[0], offers[7], offers[8]),
        (7, 7, 8),
        "given up at last"
    );
    let unknown = RootCommand::NextReplica {
        group: GroupId(9),
        store: StoreId(1),
    };
    assert!(matches!(root.refused(unknown), RootRefusal::Invalid { .. }));
}

#[test]
fn a_disk_is_created_once_for_each_nonce_under_a_free_name() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    assert_eq!(
        (disk.disk, disk.generation),
        (VirtualDiskId(1), Generation(1))
    );
    assert_eq!(root.disk(create(1, "demo")), disk, "repeated");
    let taken = RootRefusal::NameTaken {
        name: "demo".into(),
    };
    assert_eq!(root.refused(create(2, "demo")), taken);
    let other = root.disk(create(3, "another"));
    assert!(other.disk > disk.disk && other.family > disk.family);
    assert!(other.layers[0] > disk.layers[0]);
    assert_eq!(root.names(), ["another", "demo"]);
    let found = root.ask(&RootQuery::DiskByName("demo".into()));
    assert_eq!(found, RootAnswer::Disk(Some(disk)));
    let missing = root.ask(&RootQuery::DiskByName("none".into()));
    assert_eq!(missing, RootAnswer::Disk(None));
}

#[test]
fn a_disk_that_cannot_be_is_refused_with_a_reason() {
    let mut root = Root::ready();
    let mut next = 0;
    let mut refused = |change: &dyn Fn(&mut String, &mut u64, &mut u64, &mut Policy)| {
        next += 1;
        let mut command = create(next, "demo");
        if let RootCommand::CreateDisk {
            name,
            size_bytes,
            container_bytes,
            policy,
            ..
        } = &mut command
        {
            change(name, size_bytes, container_bytes, policy);
        }
        match root.refused(command) {
            RootRefusal::Invalid { reason } => reason,
            other => panic!("expected a reason, got {other:?}"),
        }
    };
    assert!(refused(&|name, _, _, _| name.clear()).contains("letters"));
    assert!(refused(&|name, _, _, _| name.push('/')).contains("letters"));
    assert!(refused(&|name, _, _, _| name.push('_')).contains("letters"));
    assert!(refused(&|name, _, _, _| *name = "x".repeat(129)).contains("128"));
    assert!(refused(&|_, size, _, _| *size = 0).contains("block size"));
    assert!(refused(&|_, size, _, _| *size = 4097).contains("block size"));
    assert!(refused(&|_, _, container, _| *container = 3 << 20).contains("power of two"));
    assert!(refused(&|_, _, container, _| *container = 1 << 10).contains("power of two"));
    assert!(refused(&|_, _, _, policy| policy.replication_factor = 7).contains("1 to 6"));
    assert!(
        refused(&|_, size, container, _| {
            *container = 1 << 20;
            *size = (1 << 53) + 4096;
        })
        .contains("2^32 containers")
    );
}

fn resize(seen: &DiskRecord, size_bytes: u64) -> RootCommand {
    RootCommand::Resize {
        disk: seen.disk,
        from_bytes: seen.size_bytes,
        generation: seen.generation,
        size_bytes,
    }
}

#[test]
fn growth_is_immediate_and_a_delayed_resize_changes_nothing() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let (grown, cut) = root.resized(resize(&disk, 20 << 30));
    assert_eq!(
        (grown.size_bytes, grown.generation, cut),
        (20 << 30, disk.generation, None)
    );
    assert_eq!(
        root.resized(resize(&disk, 20 << 30)),
        (grown.clone(), None),
        "repeated"
    );
    let (larger, _) = root.resized(resize(&grown, 30 << 30));
    // The first request was sent twice, and one of them took its time.
    let refused = root.refused(resize(&disk, 20 << 30));
    let (size_bytes, generation) = (larger.size_bytes, larger.generation);
    assert_eq!(
        refused,
        RootRefusal::Changed {
            size_bytes,
            generation
        }
    );
    assert!(matches!(
        root.refused(resize(&larger, 1)),
        RootRefusal::Invalid { .. }
    ));
}

#[test]
fn a_disk_that_was_made_smaller_is_fenced_and_grows_only_when_its_cut_is_done() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let held = root.granted(attach(&disk, session(1, 7), 100));
    let refused = root.refused(resize(&held.disk, 2 << 30));
    assert!(matches!(refused, RootRefusal::Held { .. }), "in use");
    root.run(RootCommand::Detach {
        disk: disk.disk,
        writer: held.writer,
    });
    let free = root.named("demo");
    let (shrunk, cut) = root.resized(resize(&free, 2 << 30));
    assert_eq!(shrunk.generation.0, free.generation.0 + 1);
    assert_eq!(cut, Some(10 << 30));
    assert_eq!(root.pending(&RootQuery::PendingFloors), [(1, vec![1, 2])]);
    assert_eq!(
        root.resized(resize(&free, 2 << 30)),
        (shrunk.clone(), cut),
        "repeated, it is to be gone on with"
    );
    let (deeper, cut) = root.resized(resize(&shrunk, 1 << 30));
    assert_eq!(cut, Some(10 << 30), "nothing is zeroed yet");
    let standing = RootRefusal::Cutting {
        size_bytes: 1 << 30,
    };
    assert_eq!(root.refused(resize(&deeper, 20 << 30)), standing);

    // A writer from before the cut may still fill containers of a shard without the floor.
    let refused = root.refused(attach(&deeper, session(1, 7), 101));
    assert_eq!(refused, standing);
    for group in 1..=2 {
        assert_eq!(
            root.refused(attach(&deeper, session(1, 7), 101)),
            standing,
            "without {group}"
        );
        root.run(RootCommand::FloorApplied {
            disk: disk.disk,
            generation: deeper.generation,
            group: GroupId(group),
        });
    }
    let zeroing = root.granted(attach(&deeper, session(1, 7), 101));
    assert_eq!(zeroing.disk.size_bytes, 1 << 30, "nobody gets the old size");
    let done = |generation, end_bytes| RootCommand::CutDone {
        disk: disk.disk,
        generation,
        end_bytes,
    };
    let stale = root.refused(done(deeper.generation, 10 << 30));
    assert!(matches!(stale, RootRefusal::Changed { .. }));
    let short = root.refused(done(zeroing.disk.generation, 2 << 30));
    assert!(matches!(short, RootRefusal::Changed { .. }));
    assert_eq!(root.refused(resize(&zeroing.disk, 20 << 30)), standing);
    root.run(done(zeroing.disk.generation, 10 << 30));
    let (grown, cut) = root.resized(resize(&zeroing.disk, 20 << 30));
    assert_eq!((grown.size_bytes, cut), (20 << 30, None));
}

/// An entry of an earlier build's log, which has no size or generation to compare with.
#[test]
fn a_resize_of_an_earlier_build_does_what_it_did_and_grows_no_disk_that_is_being_cut() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let unseen = |size_bytes| RootCommand::ResizeDisk {
        disk: disk.disk,
        size_bytes,
    };
    let grown = root.disk(unseen(20 << 30));
    assert_eq!(
        (grown.size_bytes, grown.generation),
        (20 << 30, disk.generation)
    );
    let shrunk = root.disk(unseen(4 << 30));
    assert_eq!(shrunk.generation.0, disk.generation.0 + 1);
    root.resized(resize(&shrunk, 2 << 30));
    let refused = root.refused(unseen(20 << 30));
    assert!(matches!(refused, RootRefusal::Cutting { .. }));
}

#[test]
fn a_join_that_was_delayed_past_a_restart_brings_nothing_back() {
    let mut root = Root::ready();
    let join = |record: &NodeRecord, start| RootCommand::JoinAtStart {
        record: record.clone(),
        start,
    };
    let mut moved = node(2);
    moved.address = "elsewhere:700".into();
    root.run(join(&node(2), 4));
    root.run(join(&moved, 5));
    assert!(matches!(
        root.refused(join(&node(2), 4)),
        RootRefusal::Invalid { .. }
    ));
    root.run(join(&moved, 5));

    // Its system store is replaced: the new one counts its own starts.
    let mut replaced = moved.clone();
    replaced.stores[0].store = StoreId(77);
    root.run(join(&replaced, 1));
    assert!(matches!(
        root.refused(join(&moved, 5)),
        RootRefusal::Invalid { .. }
    ));
    root.run(join(&moved, 6));
    let topology = query::topology(&root.state).unwrap();
    assert_eq!(topology.nodes[1].stores[0].store, StoreId(20), "put back");
}

#[test]
fn a_deleted_disk_frees_its_name_at_once_and_goes_when_every_shard_dropped_it() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    root.granted(attach(&disk, session(1, 7), 100));
    let renewed_at = root.renewed_at(session(1, 7)).unwrap();
    root.run(RootCommand::ExpireLease {
        session: session(1, 7),
        renewed_at,
    });
    let holder = session(2, 2);
    root.granted(attach(&disk, holder, 101));
    let delete = RootCommand::DeleteDisk { disk: disk.disk };
    let deleted = root.disk(delete.clone());
    assert_eq!(deleted.state, DiskState::Deleting);
    assert!(deleted.attachments.is_empty() && deleted.generation > Generation(3));
    assert_eq!(root.disk(delete.clone()), deleted, "repeated");
    assert!(root.names().is_empty());
    assert!(
        root.pending(&RootQuery::PendingFloors).is_empty(),
        "the drop implies them"
    );
    assert_eq!(root.pending(&RootQuery::PendingDrops), [(1, vec![1, 2])]);
    let refused = root.refused(attach(&disk, holder, 102));
    assert!(matches!(refused, RootRefusal::NoSuchDisk { .. }));

    let anew = root.disk(create(2, "demo"));
    assert_ne!(anew.disk, disk.disk, "ids are never reused");
    for group in [2, 1, 1] {
        root.run(RootCommand::DiskDropped {
            disk: disk.disk,
            group: GroupId(group),
        });
    }
    assert!(root.pending(&RootQuery::PendingDrops).is_empty());
    let gone = root.refused(delete);
    assert!(matches!(gone, RootRefusal::NoSuchDisk { .. }));
    assert_eq!(root.names(), ["demo"]);
}

#[test]
fn a_feature_level_is_committed_once_and_none_above_the_build() {
    let mut root = Root::ready();
    let level = |feature_level| RootCommand::Finalise { feature_level };
    assert_eq!(root.run(level(1)), RootOutcome::Done);
    let refused = RootRefusal::FeatureLevel {
        needed: 2,
        committed: 1,
    };
    assert_eq!(root.refused(level(2)), refused);
}

#[test]
fn the_root_group_stands_in_the_table() {
    let root = Root::ready();
    let table = query::table(&root.state).unwrap();
    assert_eq!(table.group(ROOT_GROUP).unwrap().members.len(), 3);
}
