//! Who joins a group and who leaves it: the shards' first members, further replicas as nodes join,
//! and members whose numbers are retired.
//!
//! Invariants: a retired member goes before another comes, one at a time, and only while those who
//! live are a majority of the voters; a decision names one step, and the next is decided on what came of it; members of a
//! new group are numbered from 1 on.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{GroupId, NodeId, ReplicaNumber, StoreId};
use hedgerow_protocol::{
    GroupMember, GroupRecord, MemberId, NodeReply, NodeState, Roles, ShardTable, Topology,
};

use crate::Leadership;
use crate::placement::{choose_group_members, replicas_wanted};

/// How many replicas each node holds, by the table.
pub(super) fn load_of(table: &ShardTable) -> BTreeMap<NodeId, usize> {
    let mut load = BTreeMap::new();
    let groups = std::iter::once(&table.root).chain(table.distinct());
    for member in groups.flat_map(|group| &group.members) {
        *load.entry(member.node).or_default() += 1;
    }
    load
}

fn pages_nodes(topology: &Topology) -> usize {
    let nodes = topology.nodes.iter();
    nodes
        .filter(|node| node.roles.contains(Roles::PAGES) && node.state != NodeState::Draining)
        .count()
}

/// The first members of `count` shards, once every member of the root is up; else nothing yet.
pub(super) fn plan_shards(
    topology: &Topology,
    table: &ShardTable,
    count: usize,
    most: usize,
) -> Option<Vec<GroupRecord>> {
    let is_up = |node: NodeId| {
        let mut nodes = topology.nodes.iter();
        nodes.any(|record| record.node == node && record.state == NodeState::Up)
    };
    if table.root.members.is_empty() || !table.root.members.iter().all(|m| is_up(m.node)) {
        return None;
    }
    let wanted = replicas_wanted(pages_nodes(topology), most);
    let mut load = load_of(table);
    let mut shards = Vec::with_capacity(count);
    for number in (1_u32..).take(count) {
        let group = GroupId(number);
        let chosen = choose_group_members(group, topology, &BTreeSet::new(), &load, wanted);
        if chosen.len() < wanted {
            return None;
        }
        let members = (1_u32..).zip(chosen).map(|(replica, (node, store))| {
            *load.entry(node).or_default() += 1;
            member(topology, node, store, ReplicaNumber(replica))
        });
        shards.push(GroupRecord {
            group,
            members: members.collect(),
        });
    }
    Some(shards)
}

/// A member on `node`, with the address that the topology tells.
pub(super) fn member(
    topology: &Topology,
    node: NodeId,
    store: StoreId,
    replica: ReplicaNumber,
) -> GroupMember {
    let mut nodes = topology.nodes.iter();
    let record = nodes.find(|record| record.node == node);
    GroupMember {
        member: MemberId { store, replica },
        node,
        address: record
            .map(|record| record.address.clone())
            .unwrap_or_default(),
    }
}

/// The next step of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing is to be done.
    Rest,
    /// Make these the voters: a learner was left behind.
    Promote(Vec<MemberId>),
    /// Make these the voters: a member's number is retired.
    Remove(Vec<MemberId>),
    /// Start a replica there and let it join.
    Add(NodeId, StoreId),
    /// Tell the root who the members are.
    Record(GroupRecord),
}

/// The voters without one member that is retired. Whoever is retired never votes again, so the group
/// bears as many losses without it as with it.
fn without_retired(leadership: &Leadership, retired: &BTreeSet<MemberId>) -> Option<Step> {
    let mut members = leadership.members.iter();
    let gone = members
        .find(|known| retired.contains(&known.member))?
        .member;
    let voters = leadership.voters.iter().copied();
    let living = voters.clone().filter(|voter| !retired.contains(voter));
    // Else nobody can agree on it: it waits, and nothing is added that could only be lost.
    let can_agree = living.count() * 2 > leadership.voters.len();
    let left = voters.filter(|voter| *voter != gone).collect();
    Some(if can_agree {
        Step::Remove(left)
    } else {
        Step::Rest
    })
}

/// The next step of `group`, which is led here and of which these members are `retired`.
pub(super) fn next_step(
    group: GroupId,
    leadership: &Leadership,
    retired: &BTreeSet<MemberId>,
    topology: &Topology,
    table: &ShardTable,
    most: usize,
) -> Step {
    let is_up = |node: NodeId| {
        let mut nodes = topology.nodes.iter();
        nodes.any(|record| record.node == node && record.state == NodeState::Up)
    };
    if let Some(step) = without_retired(leadership, retired) {
        return step;
    }
    let wanted = replicas_wanted(pages_nodes(topology), most);
    let learner = leadership
        .members
        .iter()
        .find(|known| !leadership.voters.contains(&known.member) && is_up(known.node));
    if let Some(learner) = learner {
        let mut voters = leadership.voters.clone();
        voters.push(learner.member);
        return Step::Promote(voters);
    }
    if leadership.voters.len() < wanted {
        let present = leadership.members.iter().map(|known| known.node).collect();
        let load = load_of(table);
        let chosen = choose_group_members(group, topology, &present, &load, 1);
        if let Some((node, store)) = chosen.first() {
            return Step::Add(*node, *store);
        }
    }
    // Voters alone: whoever is recorded has a log, so that starting a group never begins it anew.
    let mut members = leadership.members.clone();
    if !active(Mutant::GroupRecordsLearners) {
        members.retain(|known| leadership.voters.contains(&known.member));
    }
    members.sort_by_key(|known| known.member);
    let ids = |members: &[GroupMember]| -> BTreeSet<MemberId> {
        members.iter().map(|known| known.member).collect()
    };
    match table.group(group) {
        Some(record) if ids(&record.members) != ids(&members) => {
            Step::Record(GroupRecord { group, members })
        }
        _ => Step::Rest,
    }
}

/// Who joins after a node was asked to start `asked`. A store's replica that runs under another number was
/// started and never joined, or was left out; it has forgotten nothing, and comes in as what it is. (Its
/// store would refuse every other number for as long as it runs.)
pub(super) fn joining(asked: GroupMember, reply: Option<&NodeReply>) -> Option<GroupMember> {
    match reply {
        Some(NodeReply::Started) => Some(asked),
        Some(NodeReply::RunsAs(running))
            if running.store == asked.member.store && !active(Mutant::RunningReplicaLeftOut) =>
        {
            Some(GroupMember {
                member: *running,
                ..asked
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::{Location, NodeRecord, ROOT_GROUP, Residence, StoreRecord};

    use super::*;

    fn topology(count: u64) -> Topology {
        let node = |id| NodeRecord {
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
        };
        Topology {
            index: 1,
            nodes: (1..=count).map(node).collect(),
        }
    }

    fn members(topology: &Topology, ids: &[u64]) -> Vec<GroupMember> {
        (1_u32..)
            .zip(ids)
            .map(|(number, id)| {
                let replica = ReplicaNumber(number);
                member(topology, NodeId(*id), StoreId(id * 10), replica)
            })
            .collect()
    }

    fn table(topology: &Topology, root: &[u64]) -> ShardTable {
        ShardTable {
            root: GroupRecord {
                group: ROOT_GROUP,
                members: members(topology, root),
            },
            ..ShardTable::default()
        }
    }

    #[test]
    fn shards_are_planned_evenly_once_the_root_is_whole() {
        let mut nodes = topology(5);
        let table = table(&nodes, &[1, 2, 3]);
        let shards = plan_shards(&nodes, &table, 4, 3).unwrap();
        assert_eq!(shards.len(), 4);
        let mut load = BTreeMap::<NodeId, usize>::new();
        for member in shards.iter().flat_map(|shard| &shard.members) {
            *load.entry(member.node).or_default() += 1;
        }
        let total: usize = load.values().sum();
        assert_eq!(total, 12, "three replicas each");
        let with_root =
            |id: u64| load.get(&NodeId(id)).copied().unwrap_or(0) + usize::from(id <= 3);
        assert!((1..=5).all(|id| with_root(id) == 3), "{load:?}");
        nodes.nodes[2].state = NodeState::Down;
        assert_eq!(plan_shards(&nodes, &table, 4, 3), None);
    }

    #[test]
    fn a_group_grows_one_member_at_a_time_and_tells_the_root() {
        let nodes = topology(3);
        let table = table(&nodes, &[1]);
        let none = BTreeSet::new();
        let mut leadership = Leadership {
            members: members(&nodes, &[1]),
            voters: vec![members(&nodes, &[1])[0].member],
            is_leader: true,
            ..Leadership::default()
        };
        let step = next_step(ROOT_GROUP, &leadership, &none, &nodes, &table, 3);
        assert!(matches!(step, Step::Add(NodeId(2 | 3), _)), "{step:?}");

        // It was added as a learner, and the leader changed before it became a voter.
        leadership.members = members(&nodes, &[1, 2]);
        let step = next_step(ROOT_GROUP, &leadership, &none, &nodes, &table, 3);
        let voters: Vec<MemberId> = leadership.members.iter().map(|m| m.member).collect();
        assert_eq!(step, Step::Promote(voters));

        leadership.members = members(&nodes, &[1, 2, 3]);
        leadership.voters = leadership.members.iter().map(|m| m.member).collect();
        let step = next_step(ROOT_GROUP, &leadership, &none, &nodes, &table, 3);
        assert!(matches!(step, Step::Record(_)), "{step:?}");
        let table = super::tests::table(&nodes, &[1, 2, 3]);
        let step = next_step(ROOT_GROUP, &leadership, &none, &nodes, &table, 3);
        assert_eq!(step, Step::Rest);
    }

    #[test]
    fn a_learner_whose_node_is_down_is_recorded_only_when_it_votes() {
        let mut nodes = topology(3);
        nodes.nodes[2].state = NodeState::Down;
        let table = table(&nodes, &[1]);
        let members = members(&nodes, &[1, 2, 3]);
        let leadership = Leadership {
            voters: members[..2].iter().map(|one| one.member).collect(),
            members: members.clone(),
            is_leader: true,
            ..Leadership::default()
        };
        let none = BTreeSet::new();
        let step = next_step(ROOT_GROUP, &leadership, &none, &nodes, &table, 3);
        let Step::Record(record) = step else {
            panic!("{step:?}");
        };
        assert_eq!(record.members, members[..2]);
    }

    #[test]
    fn a_replica_that_runs_joins_under_its_own_number() {
        let asked = members(&topology(3), &[1, 2, 3]).remove(2);
        let with = |store, number| MemberId {
            store: StoreId(store),
            replica: ReplicaNumber(number),
        };
        let who = |reply: Option<NodeReply>| {
            let joining = joining(asked.clone(), reply.as_ref());
            joining.map(|joining| joining.member)
        };
        assert_eq!(who(Some(NodeReply::Started)), Some(asked.member));
        let earlier = with(30, 1);
        assert_eq!(who(Some(NodeReply::RunsAs(earlier))), Some(earlier));
        assert_eq!(who(Some(NodeReply::RunsAs(with(20, 1)))), None);
        assert_eq!(who(Some(NodeReply::Refused("starting".into()))), None);
        assert_eq!(who(None), None);
    }

    #[test]
    fn a_retired_member_goes_first_and_its_node_joins_anew() {
        let nodes = topology(3);
        let table = table(&nodes, &[1, 2, 3]);
        let all = members(&nodes, &[1, 2, 3]);
        let ids: Vec<MemberId> = all.iter().map(|member| member.member).collect();
        let mut leadership = Leadership {
            members: all,
            voters: ids.clone(),
            is_leader: true,
            ..Leadership::default()
        };
        let retired = BTreeSet::from([ids[2]]);
        let step = next_step(ROOT_GROUP, &leadership, &retired, &nodes, &table, 3);
        assert_eq!(step, Step::Remove(ids[..2].to_vec()));
        leadership.voters.truncate(2);
        leadership.members.truncate(2);
        let step = next_step(ROOT_GROUP, &leadership, &retired, &nodes, &table, 3);
        assert_eq!(step, Step::Add(NodeId(3), StoreId(30)));

        // It was damaged again before it became a voter.
        let again = member(&nodes, NodeId(3), StoreId(30), ReplicaNumber(4));
        let retired = BTreeSet::from([again.member]);
        leadership.members.push(again);
        let step = next_step(ROOT_GROUP, &leadership, &retired, &nodes, &table, 3);
        assert_eq!(step, Step::Remove(ids[..2].to_vec()));
    }

    #[test]
    fn nobody_is_let_go_by_less_than_a_majority() {
        let nodes = topology(3);
        let table = table(&nodes, &[1, 2]);
        let all = members(&nodes, &[1, 2]);
        let ids: Vec<MemberId> = all.iter().map(|member| member.member).collect();
        let leadership = Leadership {
            members: all,
            voters: ids.clone(),
            is_leader: true,
            ..Leadership::default()
        };
        let retired = BTreeSet::from([ids[1]]);
        let step = next_step(ROOT_GROUP, &leadership, &retired, &nodes, &table, 3);
        assert_eq!(step, Step::Rest);
    }
}
