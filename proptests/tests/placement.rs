//! The placement rules on random topologies and policies, against what the rules promise.
//!
//! What is best is counted here by tiers: nodes that are up before those that drain, these before
//! those that are down, and among each the ones with the right kind of store first. A tier is used up
//! before the next is touched. Nodes that drain count at all only where the others cannot serve.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::{
    ContainerId, ContainerIndex, FamilyId, Generation, NodeId, PlacementEpoch, StoreId,
    VirtualDiskId,
};
use hedgerow_pages::placement::{Decision, Unplaceable, place_new, substitute};
use hedgerow_proptests::config;
use hedgerow_protocol::{
    Layout, Location, MemberState, NodeRecord, NodeState, Placement, PlacementMember,
    PlacementRule, Policy, Residence, Roles, StoreRecord, Topology,
};
use proptest::prelude::*;

fn node_state() -> impl Strategy<Value = NodeState> {
    prop_oneof![
        6 => Just(NodeState::Up),
        2 => Just(NodeState::Down),
        1 => Just(NodeState::Draining),
    ]
}

fn residence() -> impl Strategy<Value = Residence> {
    prop_oneof![Just(Residence::Hdd), Just(Residence::Flash)]
}

prop_compose! {
    fn node()(
        data_centre in 0..3_u8,
        rack in 0..3_u8,
        state in node_state(),
        is_hblock in prop::bool::weighted(0.9),
        stores in prop::collection::vec((residence(), 0_u64..1 << 44), 0..3),
    ) -> NodeRecord {
        let store = |(residence, capacity_bytes)| StoreRecord {
            store: StoreId(0),
            capacity_bytes,
            residence,
            system: false,
        };
        NodeRecord {
            node: NodeId(0),
            name: String::new(),
            address: String::new(),
            roles: if is_hblock { Roles::ALL } else { Roles::PAGES },
            location: Location {
                data_centre: format!("dc{data_centre}"),
                rack: format!("rack{rack}"),
            },
            stores: stores.into_iter().map(store).collect(),
            state,
            reason: String::new(),
        }
    }
}

fn topology() -> impl Strategy<Value = Topology> {
    prop::collection::vec(node(), 0..12).prop_map(|mut nodes| {
        for (number, node) in (1..).zip(&mut nodes) {
            node.node = NodeId(number);
            node.name = format!("node{number}");
            for (at, store) in (0..).zip(&mut node.stores) {
                store.store = StoreId(number * 10 + at);
            }
        }
        Topology { index: 1, nodes }
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = prop_oneof![
        Just(PlacementRule::Agnostic),
        Just(PlacementRule::RackAware),
        Just(PlacementRule::DataCentreAware),
    ];
    (1..=6_u8, rule, residence()).prop_map(|(replication_factor, placement, residence)| Policy {
        replication_factor,
        placement,
        residence,
        ..Policy::default()
    })
}

fn container() -> impl Strategy<Value = ContainerId> {
    (any::<u64>(), any::<u32>()).prop_map(|(disk, index)| ContainerId {
        family: FamilyId(disk),
        disk: VirtualDiskId(disk),
        index: ContainerIndex(index),
    })
}

fn shuffled(topology: &Topology, by: u64) -> Topology {
    let mut other = topology.clone();
    other
        .nodes
        .sort_by_key(|node| (node.node.0 ^ by).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for node in &mut other.nodes {
        node.stores.reverse();
    }
    other
}

fn keeps_data(node: &NodeRecord) -> bool {
    node.roles.contains(Roles::HBLOCK) && !node.stores.is_empty()
}

fn stays(node: &NodeRecord) -> bool {
    keeps_data(node) && node.state != NodeState::Draining
}

/// Whether `nodes` alone could hold a new container.
fn can_serve(nodes: &[&NodeRecord], policy: &Policy) -> bool {
    let mut serving = nodes.to_vec();
    serving.retain(|node| node.state != NodeState::Down);
    nodes.len() >= usize::from(policy.replication_factor)
        && serving.len() >= usize::from(policy.write_quorum())
}

/// Who may be named for a new container.
fn usable<'a>(topology: &'a Topology, policy: &Policy) -> Vec<&'a NodeRecord> {
    let those = |is_usable: fn(&NodeRecord) -> bool| {
        let nodes = topology.nodes.iter();
        nodes.filter(|node| is_usable(node)).collect::<Vec<_>>()
    };
    let staying = those(stays);
    match can_serve(&staying, policy) {
        true => staying,
        false => those(keeps_data),
    }
}

/// How many tiers there are.
const TIERS: usize = 6;

/// The tier of a usable node: 0 is taken first.
fn tier(node: &NodeRecord, policy: &Policy) -> usize {
    let fits = node
        .stores
        .iter()
        .any(|store| store.residence == policy.residence);
    let of_state = match node.state {
        NodeState::Up => 0,
        NodeState::Draining => 2,
        NodeState::Down => 4,
    };
    of_state + usize::from(!fits)
}

type Domain = (String, String);

/// The domain that the rule spreads over first, and the finer one below it.
fn domains(node: &NodeRecord, rule: PlacementRule) -> Option<(Domain, Domain)> {
    let Location { data_centre, rack } = node.location.clone();
    let fine = (data_centre.clone(), rack);
    match rule {
        PlacementRule::Agnostic => None,
        PlacementRule::RackAware => Some((fine.clone(), fine)),
        PlacementRule::DataCentreAware => Some(((data_centre, String::new()), fine)),
    }
}

fn counts(nodes: &[&NodeRecord], of: impl Fn(&NodeRecord) -> Domain) -> BTreeMap<Domain, usize> {
    let mut counts = BTreeMap::new();
    for node in nodes {
        *counts.entry(of(node)).or_default() += 1;
    }
    counts
}

/// No node could be exchanged for an unused one of its tier in a less used domain, and as many
/// domains are used as there can be.
fn check_spread(topology: &Topology, policy: &Policy, chosen: &[&NodeRecord]) {
    let rule = policy.placement;
    if rule == PlacementRule::Agnostic {
        return;
    }
    let coarse = |node: &NodeRecord| domains(node, rule).expect("a rule with domains").0;
    let fine = |node: &NodeRecord| domains(node, rule).expect("a rule with domains").1;
    let (by_coarse, by_fine) = (counts(chosen, coarse), counts(chosen, fine));
    let used = |counts: &BTreeMap<Domain, usize>, domain| counts.get(&domain).copied().unwrap_or(0);
    let last = chosen
        .iter()
        .map(|node| tier(node, policy))
        .max()
        .expect("somebody is chosen");
    let ids: BTreeSet<NodeId> = chosen.iter().map(|node| node.node).collect();
    let mut in_last = usable(topology, policy);
    in_last.retain(|node| tier(node, policy) == last);
    let unused = || in_last.iter().filter(|node| !ids.contains(&node.node));
    for taken in chosen.iter().filter(|node| tier(node, policy) == last) {
        for other in unused() {
            let (own, there) = (
                used(&by_coarse, coarse(taken)),
                used(&by_coarse, coarse(other)),
            );
            assert!(
                own <= there + 1,
                "{} crowds, {} is free",
                taken.name,
                other.name
            );
            if coarse(taken) == coarse(other) {
                let (own, there) = (used(&by_fine, fine(taken)), used(&by_fine, fine(other)));
                assert!(
                    own <= there + 1,
                    "{} crowds, {} is free",
                    taken.name,
                    other.name
                );
            }
        }
    }
    let before = chosen.iter().filter(|node| tier(node, policy) < last);
    let mut reached: BTreeSet<Domain> = before.map(|node| coarse(node)).collect();
    let free = chosen
        .iter()
        .filter(|node| tier(node, policy) == last)
        .count();
    let more: BTreeSet<Domain> = in_last.iter().map(|node| coarse(node)).collect();
    let fresh: Vec<Domain> = more.difference(&reached).cloned().collect();
    reached.extend(fresh.into_iter().take(free));
    assert_eq!(
        by_coarse.len(),
        reached.len(),
        "as many domains as possible"
    );
}

fn nodes_of<'a>(topology: &'a Topology, members: &[PlacementMember]) -> Vec<&'a NodeRecord> {
    let node = |member: &PlacementMember| {
        let node = topology
            .node_of(member.store)
            .expect("a store of the topology");
        assert_eq!(node.node, member.node, "the member names its store's node");
        node
    };
    members.iter().map(node).collect()
}

fn check_new(topology: &Topology, policy: &Policy, answer: &Result<Decision, Unplaceable>) {
    let copies = usize::from(policy.replication_factor);
    let usable = usable(topology, policy);
    assert_eq!(answer.is_ok(), can_serve(&usable, policy), "{answer:?}");
    let Ok(Decision { members, .. }) = answer else {
        return;
    };
    let chosen = nodes_of(topology, members);
    let distinct: BTreeSet<NodeId> = chosen.iter().map(|node| node.node).collect();
    assert_eq!(
        (members.len(), distinct.len()),
        (copies, copies),
        "one member a node"
    );
    let is_usable = |node: &&NodeRecord| usable.iter().any(|other| other.node == node.node);
    assert!(chosen.iter().all(is_usable));
    assert!(
        members
            .iter()
            .all(|member| member.state == MemberState::Active)
    );
    for at in 0..TIERS {
        let before = usable.iter().filter(|node| tier(node, policy) < at).count();
        let own = usable
            .iter()
            .filter(|node| tier(node, policy) == at)
            .count();
        let wanted = own.min(copies.saturating_sub(before));
        let taken = chosen
            .iter()
            .filter(|node| tier(node, policy) == at)
            .count();
        assert_eq!(taken, wanted, "tier {at}: better nodes first");
    }
    for (member, node) in members.iter().zip(&chosen) {
        let fits = |store: &&StoreRecord| store.residence == policy.residence;
        if node.stores.iter().any(|store| fits(&store)) {
            let own = node.stores.iter().find(|store| store.store == member.store);
            assert!(
                own.is_some_and(|store| fits(&store)),
                "the right kind where there is one"
            );
        }
    }
    check_spread(topology, policy, &chosen);
}

fn placement_of(members: Vec<PlacementMember>, policy: &Policy) -> Placement {
    Placement {
        epoch: PlacementEpoch(1),
        generation: Generation(1),
        members,
        layout: Layout::Replicated {
            copies: policy.replication_factor,
        },
        write_quorum: policy.write_quorum(),
    }
}

struct Complaint {
    unavailable: Vec<StoreId>,
    barred: Vec<StoreId>,
}

/// Who was fine stays as it was, nobody leaves, and who returns may be named.
fn check_former_members(
    current: &Placement,
    decision: &Decision,
    complaint: &Complaint,
    may_be_named: &dyn Fn(StoreId) -> bool,
) {
    let unavailable = &complaint.unavailable;
    for member in &current.members {
        let now = decision
            .members
            .iter()
            .find(|other| other.store == member.store);
        let now = now.expect("nobody leaves by a substitution");
        let was_fine = member.state != MemberState::Resting && !unavailable.contains(&member.store);
        if was_fine {
            assert_eq!(now, member, "who was not complained about stays as it was");
        }
        if member.state == MemberState::Resting && now.state != MemberState::Resting {
            assert!(may_be_named(member.store) && now.state == MemberState::Filling);
        }
    }
}

fn check_substitute(
    topology: &Topology,
    current: &Placement,
    complaint: &Complaint,
    answer: &Result<Decision, Unplaceable>,
) {
    let Complaint {
        unavailable,
        barred,
    } = complaint;
    let state = |store: StoreId| topology.node_of(store).map(|node| node.state);
    let answers = |store: StoreId| {
        let serves = matches!(state(store), Some(NodeState::Up | NodeState::Draining));
        serves && !unavailable.contains(&store)
    };
    // Who is being emptied goes on serving, and gets nothing more.
    let may_be_named = |store: StoreId| answers(store) && state(store) == Some(NodeState::Up);
    let missing = current
        .writable()
        .filter(|member| unavailable.contains(&member.store))
        .count();
    let resting = current
        .members
        .iter()
        .filter(|member| member.state == MemberState::Resting);
    let back = resting
        .filter(|member| may_be_named(member.store))
        .count()
        .min(missing);
    let members: BTreeSet<NodeId> = current.members.iter().map(|member| member.node).collect();
    let is_candidate = |store: StoreId| may_be_named(store) && !barred.contains(&store);
    let candidates = topology.nodes.iter().filter(|node| {
        let free = stays(node) && !members.contains(&node.node);
        free && node.stores.iter().any(|store| is_candidate(store.store))
    });
    let new = candidates.count().min(missing - back);
    let staying = current
        .writable()
        .filter(|member| answers(member.store))
        .count();
    let answering = staying + back + new;
    let possible = back + new > 0 && answering >= usize::from(current.write_quorum);
    assert_eq!(answer.is_ok(), possible, "{answer:?}");
    let Ok(decision) = answer else {
        return;
    };
    let nodes: BTreeSet<NodeId> = decision.members.iter().map(|member| member.node).collect();
    assert_eq!(nodes.len(), decision.members.len(), "one member a node");
    let writable = decision
        .members
        .iter()
        .filter(|member| member.state != MemberState::Resting);
    assert_eq!(writable.clone().count(), current.writable().count());
    assert_eq!(
        writable.filter(|member| answers(member.store)).count(),
        answering
    );
    check_former_members(current, decision, complaint, &may_be_named);
    let added: Vec<_> = decision
        .members
        .iter()
        .filter(|own| !current.has(own.store))
        .collect();
    assert_eq!(added.len(), new);
    for member in added {
        assert_eq!(member.state, MemberState::Filling);
        assert!(is_candidate(member.store), "{member:?} was named");
    }
}

proptest! {
    #![proptest_config(config(8000))]

    #[test]
    fn a_new_container_is_placed_as_well_as_can_be(
        topology in topology(),
        policy in policy(),
        container in container(),
        by in any::<u64>(),
        gone in any::<prop::sample::Index>(),
    ) {
        let answer = place_new(container, &topology, &policy);
        check_new(&topology, &policy, &answer);
        let again = place_new(container, &shuffled(&topology, by), &policy);
        prop_assert_eq!(&again, &answer, "the order of nodes and stores does not matter");

        // A change of the topology moves as little as it must: who holds nothing is not missed.
        let Ok(decision) = answer else { return Ok(()) };
        let mut smaller = topology.clone();
        let holds = |node: &NodeRecord| decision.members.iter().any(|own| own.node == node.node);
        let idle: Vec<NodeId> =
            topology.nodes.iter().filter(|node| !holds(node)).map(|node| node.node).collect();
        if !idle.is_empty() {
            let gone = idle[gone.index(idle.len())];
            smaller.nodes.retain(|node| node.node != gone);
            prop_assert_eq!(place_new(container, &smaller, &policy), Ok(decision));
        }
    }

    /// Members fail and return over several rounds; stores that left may be barred.
    #[test]
    fn a_substitution_is_made_exactly_when_it_helps(
        mut topology in topology(),
        policy in policy(),
        container in container(),
        rounds in prop::collection::vec(
            (
                prop::collection::vec(node_state(), 12),
                prop::collection::vec(any::<prop::sample::Index>(), 0..4),
                prop::collection::vec(any::<prop::sample::Index>(), 0..3),
            ),
            1..4,
        ),
        by in any::<u64>(),
    ) {
        let Ok(decision) = place_new(container, &topology, &policy) else { return Ok(()) };
        let mut current = placement_of(decision.members, &policy);
        let all = topology.nodes.iter().flat_map(|node| &node.stores).map(|store| store.store);
        let all: Vec<StoreId> = all.collect();
        for (states, unavailable, barred) in rounds {
            for (node, state) in topology.nodes.iter_mut().zip(states) {
                node.state = state;
            }
            let members = &current.members;
            let complaint = Complaint {
                unavailable: unavailable
                    .iter()
                    .map(|at| members[at.index(members.len())].store)
                    .collect(),
                barred: barred.iter().map(|at| all[at.index(all.len())]).collect(),
            };
            let Complaint { unavailable, barred } = &complaint;
            let answer = substitute(container, &topology, &policy, &current, unavailable, barred);
            check_substitute(&topology, &current, &complaint, &answer);
            let other = shuffled(&topology, by);
            let again = substitute(container, &other, &policy, &current, unavailable, barred);
            prop_assert_eq!(&again, &answer);
            if let Ok(decision) = answer {
                current = placement_of(decision.members, &policy);
            }
        }
    }
}
