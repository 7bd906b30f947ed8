//! Tests of the choice of members.

use hedgerow_env::{ContainerIndex, FamilyId, Generation, PlacementEpoch, VirtualDiskId};
use hedgerow_protocol::{Layout, Location, Residence, StoreRecord};

use super::*;

fn node(id: u64, data_centre: &str, rack: &str) -> NodeRecord {
    NodeRecord {
        node: NodeId(id),
        name: format!("node{id}"),
        address: format!("node{id}:1"),
        roles: Roles::ALL,
        location: Location {
            data_centre: data_centre.into(),
            rack: rack.into(),
        },
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

/// Nodes 1 to 6: racks r1 r1 r2 r2 r3 r3; data centres a a a b b b.
fn six() -> Topology {
    let place = [
        ("a", "r1"),
        ("a", "r1"),
        ("a", "r2"),
        ("b", "r2"),
        ("b", "r3"),
        ("b", "r3"),
    ];
    let nodes = (1..).zip(place).map(|(id, (dc, rack))| node(id, dc, rack));
    Topology {
        index: 1,
        nodes: nodes.collect(),
    }
}

fn container(index: u32) -> ContainerId {
    ContainerId {
        family: FamilyId(1),
        disk: VirtualDiskId(1),
        index: ContainerIndex(index),
    }
}

fn policy(copies: u8, placement: PlacementRule) -> Policy {
    Policy {
        replication_factor: copies,
        placement,
        ..Policy::default()
    }
}

fn nodes_of(members: &[PlacementMember]) -> BTreeSet<u64> {
    members.iter().map(|member| member.node.0).collect()
}

fn current(stores: &[(u64, MemberState)]) -> Placement {
    let member = |(id, state): &(u64, MemberState)| PlacementMember {
        store: StoreId(id * 10),
        node: NodeId(*id),
        state: *state,
    };
    Placement {
        epoch: PlacementEpoch(1),
        generation: Generation(1),
        members: stores.iter().map(member).collect(),
        layout: Layout::Replicated { copies: 3 },
        write_quorum: 2,
    }
}

#[test]
fn every_factor_gets_distinct_nodes_and_the_same_answer_each_time() {
    for copies in 1..=6 {
        let policy = policy(copies, PlacementRule::Agnostic);
        let chosen = place_new(container(7), &six(), &policy).unwrap();
        assert_eq!(nodes_of(&chosen.members).len(), usize::from(copies));
        assert_eq!(Ok(chosen), place_new(container(7), &six(), &policy));
    }
}

#[test]
fn racks_and_data_centres_are_spread_over_before_they_repeat() {
    let topology = six();
    for index in 0..50 {
        let racks = policy(3, PlacementRule::RackAware);
        let chosen = place_new(container(index), &topology, &racks).unwrap();
        let distinct: BTreeSet<&Location> = chosen
            .members
            .iter()
            .map(|member| &topology.node_of(member.store).unwrap().location)
            .collect();
        assert_eq!(distinct.len(), 3, "container {index}");

        let centres = policy(3, PlacementRule::DataCentreAware);
        let chosen = place_new(container(index), &topology, &centres).unwrap();
        let centre = |member: &PlacementMember| {
            topology
                .node_of(member.store)
                .unwrap()
                .location
                .data_centre
                .clone()
        };
        let distinct: BTreeSet<String> = chosen.members.iter().map(centre).collect();
        assert_eq!(distinct.len(), 2, "container {index}");
    }
}

#[test]
fn load_follows_capacity() {
    let mut topology = six();
    topology.nodes[0].stores[0].capacity_bytes = 3 << 40;
    let mut counts = [0_u32; 7];
    let policy = policy(1, PlacementRule::Agnostic);
    for index in 0..4000 {
        let chosen = place_new(container(index), &topology, &policy).unwrap();
        counts[usize::try_from(chosen.members[0].node.0).unwrap()] += 1;
    }
    assert!(
        (1300..1700).contains(&counts[1]),
        "three eighths: {counts:?}"
    );
    for others in &counts[2..] {
        assert!((400..600).contains(others), "one eighth each: {counts:?}");
    }
}

#[test]
fn down_nodes_are_named_only_for_lack_of_others_and_only_beyond_the_quorum() {
    let mut topology = six();
    topology.nodes.truncate(3);
    topology.nodes[0].state = NodeState::Down;
    let policy = policy(3, PlacementRule::Agnostic);
    let chosen = place_new(container(1), &topology, &policy).unwrap();
    assert_eq!(nodes_of(&chosen.members), BTreeSet::from([1, 2, 3]));
    assert_eq!(chosen.notes.len(), 1, "{:?}", chosen.notes);

    topology.nodes[1].state = NodeState::Down;
    let refused = place_new(container(1), &topology, &policy).unwrap_err();
    assert!(refused.to_string().contains("1 are"), "{refused}");

    let mut topology = six();
    topology.nodes[0].state = NodeState::Down;
    topology.nodes[1].state = NodeState::Draining;
    for index in 0..50 {
        let chosen = place_new(container(index), &topology, &policy).unwrap();
        assert!(nodes_of(&chosen.members).iter().all(|id| *id >= 3));
    }
}

#[test]
fn a_cluster_that_shrank_while_a_node_drains_still_serves() {
    let policy = policy(3, PlacementRule::Agnostic);
    let mut topology = six();
    topology.nodes.truncate(4);
    topology.nodes[0].state = NodeState::Draining;
    topology.nodes[1].state = NodeState::Down;
    let chosen = place_new(container(1), &topology, &policy).unwrap();
    assert_eq!(nodes_of(&chosen.members), BTreeSet::from([2, 3, 4]), "last");

    topology.nodes.remove(1);
    let chosen = place_new(container(1), &topology, &policy).unwrap();
    assert_eq!(nodes_of(&chosen.members), BTreeSet::from([1, 3, 4]));
    assert_eq!(
        chosen.notes,
        ["node1 is draining, and there are too few other nodes"]
    );

    // Without it W members could not answer.
    topology.nodes[1].state = NodeState::Down;
    let chosen = place_new(container(1), &topology, &policy).unwrap();
    assert_eq!(nodes_of(&chosen.members), BTreeSet::from([1, 3, 4]));
}

#[test]
fn too_few_nodes_are_a_clear_refusal() {
    let mut topology = six();
    topology.nodes.truncate(2);
    let refused = place_new(container(1), &topology, &policy(3, PlacementRule::Agnostic));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "3 copies need 3 nodes with stores, there are 2"
    );
}

#[test]
fn the_right_residence_is_taken_first() {
    let mut topology = six();
    for node in &mut topology.nodes[3..] {
        node.stores[0].residence = Residence::Flash;
    }
    let mut policy = policy(3, PlacementRule::Agnostic);
    policy.residence = Residence::Flash;
    let chosen = place_new(container(1), &topology, &policy).unwrap();
    assert_eq!(nodes_of(&chosen.members), BTreeSet::from([4, 5, 6]));
    policy.replication_factor = 4;
    let chosen = place_new(container(1), &topology, &policy).unwrap();
    assert_eq!(chosen.notes.len(), 1, "one store is of the other kind");
}

#[test]
fn a_member_that_does_not_answer_rests_beside_its_substitute() {
    use MemberState::{Active, Filling, Resting};
    let now = current(&[(1, Active), (3, Active), (5, Active)]);
    let policy = policy(3, PlacementRule::RackAware);
    let next = substitute(container(1), &six(), &policy, &now, &[StoreId(50)], &[]).unwrap();
    assert_eq!(next.members[2].state, Resting);
    assert_eq!(
        next.members[3].node,
        NodeId(6),
        "the rack of the one that rests"
    );
    assert_eq!(next.members[3].state, Filling);
    assert_eq!(next.members.len(), 4);
}

#[test]
fn a_resting_member_that_is_up_is_taken_back_first() {
    use MemberState::{Active, Filling, Resting};
    let now = current(&[(1, Active), (3, Active), (5, Resting), (6, Filling)]);
    let policy = policy(3, PlacementRule::Agnostic);
    let next = substitute(container(1), &six(), &policy, &now, &[StoreId(60)], &[]).unwrap();
    let states: Vec<MemberState> = next.members.iter().map(|member| member.state).collect();
    assert_eq!(states, vec![Active, Active, Filling, Resting]);
}

#[test]
fn without_a_spare_node_nothing_is_substituted() {
    use MemberState::Active;
    let mut topology = six();
    topology.nodes.truncate(3);
    let now = current(&[(1, Active), (2, Active), (3, Active)]);
    let policy = policy(3, PlacementRule::Agnostic);
    let refused = substitute(container(1), &topology, &policy, &now, &[StoreId(10)], &[]);
    assert!(refused.is_err());
}

#[test]
fn one_spare_for_too_many_lost_members_is_not_spent() {
    use MemberState::Active;
    let members: Vec<_> = (1..6).map(|id| (id, Active)).collect();
    let now = Placement {
        layout: Layout::Replicated { copies: 5 },
        write_quorum: 3,
        ..current(&members)
    };
    let policy = policy(5, PlacementRule::Agnostic);
    let lost: Vec<StoreId> = (1..5).map(|id| StoreId(id * 10)).collect();
    let refused = substitute(container(1), &six(), &policy, &now, &lost, &[]);
    assert!(refused.is_err(), "{refused:?}: two of three would answer");
    assert!(substitute(container(1), &six(), &policy, &now, &lost[1..], &[]).is_ok());
}

#[test]
fn one_spare_for_two_lost_members_restores_the_quorum() {
    use MemberState::{Active, Resting};
    let mut topology = six();
    topology.nodes.truncate(4);
    let now = current(&[(1, Active), (2, Active), (3, Active)]);
    let policy = policy(3, PlacementRule::Agnostic);
    let lost = [StoreId(10), StoreId(20)];
    let next = substitute(container(1), &topology, &policy, &now, &lost, &[]).unwrap();
    let resting = next
        .members
        .iter()
        .filter(|member| member.state == Resting)
        .count();
    assert_eq!((resting, next.members.len()), (1, 4));
}

#[test]
fn members_on_nodes_that_are_being_emptied_count_and_are_not_taken_back() {
    use MemberState::{Active, Filling, Resting};
    let mut topology = six();
    topology.nodes[0].state = NodeState::Draining;
    topology.nodes[1].state = NodeState::Draining;
    topology.nodes[2].state = NodeState::Down;
    let now = current(&[(1, Active), (2, Active), (3, Active)]);
    let policy = policy(3, PlacementRule::Agnostic);
    let next = substitute(container(1), &topology, &policy, &now, &[StoreId(30)], &[]).unwrap();
    let states: Vec<MemberState> = next.members.iter().map(|member| member.state).collect();
    assert_eq!(states, vec![Active, Active, Resting, Filling]);

    let now = current(&[(1, Resting), (4, Active), (5, Active), (3, Active)]);
    let next = substitute(container(1), &topology, &policy, &now, &[StoreId(30)], &[]).unwrap();
    let states: Vec<MemberState> = next.members.iter().map(|member| member.state).collect();
    assert_eq!(states, vec![Resting, Active, Active, Resting, Filling]);
}
