//! The decision how a blank node gets into a cluster. Pure.
//!
//! Invariant: a cluster is founded only by the first seed, and only when *all* seeds are reachable
//! and blank; one unreachable seed means wait. So two clusters never come of one list of seeds. Nor is
//! one founded that nobody could lead: it would stay so, also with corrected roles.

use std::collections::BTreeMap;

use hedgerow_env::ClusterId;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{NodeRecord, Roles};

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
        return Step::Wait(why_not_founding(own, seeds));
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
    if !nodes.iter().any(|node| node.roles.contains(Roles::PAGES)) {
        return Step::Wait(
            "no seed has the role pages: give it to one of them, better to three, and start it again"
                .into(),
        );
    }
    Step::Found(nodes)
}

/// What one that is not the first seed waits for. That it is no seed at all is right for a node
/// that is added later, and a mistake at any other.
fn why_not_founding(own: &NodeRecord, seeds: &[String]) -> String {
    let first = seeds.first().map_or("", String::as_str);
    let mut text = format!("waiting for the first seed, {first}, to found the cluster");
    if !seeds.contains(&own.address) {
        text.push_str(&format!(
            "; no seed is this node, {}: if it is to be one, correct `advertise` or `seeds`",
            own.address
        ));
    }
    text
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

    /// An empty root would be kept, and nobody could ever lead it.
    #[test]
    fn nothing_is_founded_while_no_seed_has_the_role_pages() {
        let without = |mut node: NodeRecord| {
            node.roles = Roles::HBLOCK.with(Roles::PROXY);
            node
        };
        let blank = |node| Some(Seed::Blank(node));
        let own = without(node(1, "a"));
        let heard = |third| {
            let second = blank(without(node(2, "b")));
            BTreeMap::from([("b".to_string(), second), ("c".into(), blank(third))])
        };
        let step = decide(&own, &seeds(), &heard(without(node(3, "c"))));
        assert!(matches!(step, Step::Wait(reason) if reason.contains("role pages")));
        let step = decide(&own, &seeds(), &heard(node(3, "c")));
        assert!(
            matches!(step, Step::Found(nodes) if nodes.len() == 3),
            "one is enough"
        );
    }

    #[test]
    fn a_node_that_is_no_seed_says_so_while_it_waits() {
        let told = |address: &str| match decide(&node(2, address), &seeds(), &BTreeMap::new()) {
            Step::Wait(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            told("b"),
            "waiting for the first seed, a, to found the cluster"
        );
        assert!(
            told("d").contains("no seed is this node, d"),
            "{}",
            told("d")
        );
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
