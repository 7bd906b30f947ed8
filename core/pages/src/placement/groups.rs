//! Which nodes hold the replicas of a Raft group: spread by data centre and rack, evenly.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::{GroupId, NodeId, StoreId};
use hedgerow_protocol::{NodeRecord, NodeState, Roles, Topology};

/// How many replicas a group should have with so many Pages nodes: three, or five where five nodes
/// make it worth it and `most` allows it.
#[must_use]
pub fn replicas_wanted(pages_nodes: usize, most: usize) -> usize {
    match pages_nodes {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => most.min(3),
        _ => most.min(5),
    }
}

fn system_store(node: &NodeRecord) -> Option<StoreId> {
    let system = node.stores.iter().find(|store| store.system)?;
    Some(system.store)
}

/// The nodes that could hold a replica, each with its system store.
fn hosts(topology: &Topology) -> Vec<(&NodeRecord, StoreId)> {
    topology
        .nodes
        .iter()
        .filter(|node| node.roles.contains(Roles::PAGES) && node.state == NodeState::Up)
        .filter_map(|node| Some((node, system_store(node)?)))
        .collect()
}

/// Up to `wanted` further nodes for `group`, beside those that hold it already: less used data
/// centres first, then racks, then nodes with fewer replicas in `load`, then by a hash.
#[must_use]
pub fn choose_group_members(
    group: GroupId,
    topology: &Topology,
    present: &BTreeSet<NodeId>,
    load: &BTreeMap<NodeId, usize>,
    wanted: usize,
) -> Vec<(NodeId, StoreId)> {
    let mut chosen: Vec<&NodeRecord> = topology
        .nodes
        .iter()
        .filter(|node| present.contains(&node.node))
        .collect();
    let mut pool = hosts(topology);
    pool.retain(|(node, _)| !present.contains(&node.node));
    let mut picked = Vec::new();
    while picked.len() < wanted {
        let best = pool.iter().enumerate().min_by_key(|(_, (node, _))| {
            let own = &node.location;
            let same_centre = |other: &&&NodeRecord| other.location.data_centre == own.data_centre;
            let same_rack = |other: &&&NodeRecord| other.location == *own;
            let mut key = [0_u8; 12];
            key[..4].copy_from_slice(&group.0.to_le_bytes());
            key[4..].copy_from_slice(&node.node.0.to_le_bytes());
            (
                chosen.iter().filter(same_centre).count(),
                chosen.iter().filter(same_rack).count(),
                load.get(&node.node).copied().unwrap_or(0),
                xxhash_rust::xxh3::xxh3_64(&key),
            )
        });
        let Some((at, _)) = best else {
            break;
        };
        let (node, store) = pool.swap_remove(at);
        chosen.push(node);
        picked.push((node.node, store));
    }
    picked
}

#[cfg(test)]
mod tests {
    use hedgerow_protocol::{Location, Residence, StoreRecord};

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
                store: StoreId(id),
                capacity_bytes: 1 << 40,
                residence: Residence::Hdd,
                system: true,
            }],
            state: NodeState::Up,
            reason: String::new(),
        }
    }

    #[test]
    fn replicas_stand_in_distinct_centres_then_racks_and_on_idle_nodes() {
        let topology = Topology {
            index: 1,
            nodes: vec![
                node(1, "a", "r1"),
                node(2, "a", "r1"),
                node(3, "a", "r2"),
                node(4, "b", "r1"),
                node(5, "b", "r1"),
            ],
        };
        let present = BTreeSet::from([NodeId(1)]);
        let load = BTreeMap::from([(NodeId(4), 3), (NodeId(5), 1)]);
        let chosen = choose_group_members(GroupId(1), &topology, &present, &load, 2);
        let nodes: Vec<u64> = chosen.iter().map(|(node, _)| node.0).collect();
        assert_eq!(
            nodes,
            vec![5, 3],
            "another centre and idle, then another rack"
        );
    }

    #[test]
    fn three_replicas_or_five_where_there_are_nodes_for_them() {
        let wanted: Vec<usize> = (0..7).map(|nodes| replicas_wanted(nodes, 5)).collect();
        assert_eq!(wanted, vec![0, 1, 1, 3, 3, 5, 5]);
        assert_eq!(replicas_wanted(9, 3), 3);
    }
}
