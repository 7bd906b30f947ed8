//! The decision how a blank node gets into a cluster. Pure.
//!
//! Invariant: a cluster is founded only by the first seed, and only when *all* seeds are reachable
//! and blank; one unreachable seed means wait. So two clusters never come of one list of seeds.

use std::collections::BTreeMap;

use hedgerow_env::ClusterId;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::NodeRecord;

/// What a seed told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// It belongs to no cluster.
    Blank(NodeRecord),
    /// It belongs to this one.
    Member(ClusterId),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask again later; why.
    Wait(String),
    /// Join this cluster.
    Join(ClusterId),
    /// Found a cluster of these nodes, the first seed first.
    Found(Vec<NodeRecord>),
}

/// Decides for the blank node that is advertised as `own`, from what the seeds told (`None`:
/// no answer). `heard` holds an entry for each seed but itself.
#[must_use]
pub fn decide(own: &NodeRecord, seeds: &[String], heard: &BTreeMap<String, Option<Seed>>) -> Step {
    let clusters: Vec<ClusterId> = heard
        .values()
        .filter_map(|seed| match seed {
            Some(Seed::Member(cluster)) => Some(*cluster),
            _ => None,
        })
        .collect();
    if let Some(first) = clusters.first() {
        if clusters.iter().any(|cluster| cluster != first) {
            return Step::Wait(
                "the seeds belong to different clusters: correct the list of seeds".into(),
            );
        }
        return Step::Join(*first);
    }
    if seeds.first() != Some(&own.address) {
        return Step::Wait("waiting for the first seed to found the cluster".into());
    }
    let mut nodes = vec![own.clone()];
    for seed in &seeds[1..] {
        match heard.get(seed) {
            Some(Some(Seed::Blank(record))) => {
                if nodes.iter().any(|node| node.node == record.node) {
                    return Step::Wait(format!("{seed}: the same node answers at two seeds"));
                }
                nodes.push(record.clone());
            }
            _ if active(Mutant::FoundingWithSilentSeed) => {}
            _ => return Step::Wait(format!("waiting for the seed {seed}")),
        }
    }
    Step::Found(nodes)
}

#[cfg(test)]
mod tests {
    use hedgerow_env::NodeId;
    use hedgerow_protocol::{Location, NodeState, Roles};

    use super::*;

    fn node(number: u64, address: &str) -> NodeRecord {
        NodeRecord {
            node: NodeId(number),
            name: format!("node-{number}"),
            address: address.into(),
            roles: Roles::ALL,
            location: Location::default(),
            stores: Vec::new(),
            state: NodeState::Up,
            reason: String::new(),
        }
    }

    fn seeds() -> Vec<String> {
        ["a", "b", "c"].map(String::from).to_vec()
    }

    #[test]
    fn the_first_seed_founds_only_when_all_are_reachable_and_blank() {
        let own = node(1, "a");
        let blank = |number, address| Some(Seed::Blank(node(number, address)));
        let mut heard = BTreeMap::from([("b".to_string(), blank(2, "b")), ("c".into(), None)]);
        assert!(matches!(decide(&own, &seeds(), &heard), Step::Wait(_)));
        heard.insert("c".into(), blank(3, "c"));
        let Step::Found(nodes) = decide(&own, &seeds(), &heard) else {
            panic!("it founds")
        };
        assert_eq!(nodes.len(), 3);
        assert!(matches!(
            decide(&node(2, "b"), &seeds(), &heard),
            Step::Wait(_)
        ));
    }

    #[test]
    fn a_seed_that_is_a_member_is_joined_also_by_the_first() {
        let heard = BTreeMap::from([
            ("b".to_string(), Some(Seed::Member(ClusterId(7)))),
            ("c".to_string(), None),
        ]);
        assert_eq!(
            decide(&node(1, "a"), &seeds(), &heard),
            Step::Join(ClusterId(7))
        );
    }

    #[test]
    fn seeds_of_two_clusters_or_one_node_twice_are_refused() {
        let mut heard = BTreeMap::from([
            ("b".to_string(), Some(Seed::Member(ClusterId(7)))),
            ("c".to_string(), Some(Seed::Member(ClusterId(8)))),
        ]);
        assert!(matches!(
            decide(&node(1, "a"), &seeds(), &heard),
            Step::Wait(_)
        ));
        heard.insert("b".into(), Some(Seed::Blank(node(2, "b"))));
        heard.insert("c".into(), Some(Seed::Blank(node(2, "c"))));
        assert!(matches!(
            decide(&node(1, "a"), &seeds(), &heard),
            Step::Wait(_)
        ));
    }
}
