//! Members for a new container, and substitutes for members that do not answer.
//!
//! Invariants: a new container names as many members as its policy asks for, of which W are on
//! nodes that are up, or that drain where there are too few others; a substitution leaves W members
//! that take new blobs on nodes that are not down and were not complained about; a resting member
//! that is up is taken back before anyone new is named; nobody on a node that an operator empties is
//! substituted for another or taken back.

use std::collections::BTreeSet;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ContainerId, NodeId, StoreId};
use hedgerow_protocol::{
    MemberState, NodeRecord, NodeState, Placement, PlacementMember, PlacementRule, Policy, Roles,
    Topology,
};

/// No placement is possible now: wait for nodes to return, or add some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unplaceable(pub String);

/// Members, and why they are not the best that the policy could get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// All members, resting ones included.
    pub members: Vec<PlacementMember>,
    /// What falls short of the policy, for people.
    pub notes: Vec<String>,
}

/// A store that could hold the container.
#[derive(Clone)]
struct Candidate<'a> {
    node: &'a NodeRecord,
    store: StoreId,
    /// Not down, and nobody empties it.
    is_up: bool,
    drains: bool,
    /// Whether the store is of the kind that the policy asks for.
    fits_residence: bool,
    /// The higher, the sooner it is taken.
    score: f64,
}

/// The rendezvous score of a store: a draw from (0, 1), raised to 1 / capacity. The logarithm keeps
/// the order and the precision.
fn score(container: ContainerId, store: StoreId, capacity_bytes: u64) -> f64 {
    let mut key = [0_u8; 28];
    key[..8].copy_from_slice(&container.family.0.to_le_bytes());
    key[8..16].copy_from_slice(&container.disk.0.to_le_bytes());
    key[16..20].copy_from_slice(&container.index.0.to_le_bytes());
    key[20..].copy_from_slice(&store.0.to_le_bytes());
    // The high 52 bits fit an f64 exactly.
    let draw = xxhash_rust::xxh3::xxh3_64(&key) >> 12;
    let high = u32::try_from(draw >> 26).expect("26 bits");
    let low = u32::try_from(draw & ((1 << 26) - 1)).expect("26 bits");
    let uniform = (f64::from(high) * 67_108_864.0 + f64::from(low) + 0.5) / 4_503_599_627_370_496.0;
    let gibibytes = u32::try_from((capacity_bytes >> 30).max(1)).unwrap_or(u32::MAX);
    uniform.ln() / f64::from(gibibytes)
}

fn candidates<'a>(
    container: ContainerId,
    topology: &'a Topology,
    policy: &Policy,
    without: &BTreeSet<NodeId>,
) -> Vec<Candidate<'a>> {
    let mut found = Vec::new();
    for node in &topology.nodes {
        if !node.roles.contains(Roles::HBLOCK) || without.contains(&node.node) {
            continue;
        }
        for store in &node.stores {
            found.push(Candidate {
                node,
                store: store.store,
                is_up: node.state == NodeState::Up,
                drains: node.state == NodeState::Draining,
                fits_residence: store.residence == policy.residence,
                score: score(container, store.store, store.capacity_bytes),
            });
        }
    }
    found
}

/// How often a domain of `node` is used by those chosen so far: data centres count before racks.
fn crowding(rule: PlacementRule, node: &NodeRecord, chosen: &[&NodeRecord]) -> (usize, usize) {
    let own = &node.location;
    let count = |same: &dyn Fn(&NodeRecord) -> bool| chosen.iter().filter(|n| same(n)).count();
    let in_centre = count(&|other| other.location.data_centre == own.data_centre);
    let in_rack = count(&|other| other.location == *own);
    match rule {
        PlacementRule::Agnostic => (0, 0),
        PlacementRule::RackAware => (in_rack, 0),
        PlacementRule::DataCentreAware => (in_centre, in_rack),
    }
}

/// Takes up to `wanted` stores on distinct nodes: up before draining before down, of the right kind
/// before others, in less used domains before more used ones, by score.
fn pick<'a>(
    mut pool: Vec<Candidate<'a>>,
    policy: &Policy,
    mut chosen: Vec<&'a NodeRecord>,
    wanted: usize,
) -> Vec<Candidate<'a>> {
    let mut picked: Vec<Candidate<'a>> = Vec::new();
    while picked.len() < wanted {
        let best = pool.iter().enumerate().min_by(|(_, a), (_, b)| {
            let rank = |candidate: &Candidate<'_>| {
                (
                    !candidate.is_up,
                    !candidate.drains,
                    !candidate.fits_residence,
                    crowding(policy.placement, candidate.node, &chosen),
                )
            };
            rank(a)
                .cmp(&rank(b))
                .then(b.score.total_cmp(&a.score))
                .then(a.store.cmp(&b.store))
        });
        let Some((at, _)) = best else {
            break;
        };
        let best = pool.swap_remove(at);
        pool.retain(|other| other.node.node != best.node.node);
        chosen.push(best.node);
        picked.push(best);
    }
    picked
}

fn member_of(candidate: &Candidate<'_>, state: MemberState) -> PlacementMember {
    PlacementMember {
        store: candidate.store,
        node: candidate.node.node,
        state,
    }
}

fn notes_on(picked: &[Candidate<'_>], policy: &Policy) -> Vec<String> {
    let mut notes = Vec::new();
    for candidate in picked {
        if candidate.drains {
            notes.push(format!(
                "{} is draining, and there are too few other nodes",
                candidate.node.name
            ));
        } else if !candidate.is_up {
            notes.push(format!(
                "{} is down and fills when it returns",
                candidate.node.name
            ));
        }
        if !candidate.fits_residence {
            notes.push(format!(
                "{} of {} is not of the kind {:?}",
                candidate.store, candidate.node.name, policy.residence
            ));
        }
    }
    notes
}

/// Members for a container that does not exist yet.
///
/// Nodes that drain are taken last: only where the others alone cannot serve, since a cluster that
/// has shrunk since an operator's decision must go on.
///
/// # Errors
/// [`Unplaceable`]: fewer than W nodes are up or draining, or there are fewer nodes than copies.
pub fn place_new(
    container: ContainerId,
    topology: &Topology,
    policy: &Policy,
) -> Result<Decision, Unplaceable> {
    let all = candidates(container, topology, policy, &BTreeSet::new());
    let staying = all.iter().filter(|candidate| !candidate.drains).cloned();
    place_on(staying.collect(), policy).or_else(|_| place_on(all, policy))
}

fn place_on(pool: Vec<Candidate<'_>>, policy: &Policy) -> Result<Decision, Unplaceable> {
    let copies = usize::from(policy.replication_factor);
    let quorum = usize::from(policy.write_quorum());
    let picked = pick(pool, policy, Vec::new(), copies);
    if picked.len() < copies {
        return Err(Unplaceable(format!(
            "{copies} copies need {copies} nodes with stores, there are {}",
            picked.len()
        )));
    }
    let serves = |candidate: &&Candidate<'_>| candidate.is_up || candidate.drains;
    let serving = picked.iter().filter(serves).count();
    if serving < quorum {
        return Err(Unplaceable(format!(
            "{quorum} of {copies} copies must be on nodes that are up, {serving} are"
        )));
    }
    let members = picked
        .iter()
        .map(|candidate| member_of(candidate, MemberState::Active))
        .collect();
    Ok(Decision {
        members,
        notes: notes_on(&picked, policy),
    })
}

fn is_up(topology: &Topology, member: &PlacementMember) -> bool {
    let node = topology.node_of(member.store);
    node.is_some_and(|node| node.state == NodeState::Up)
}

/// Whether a member's node is not down, and the member was not complained about. A node that an
/// operator empties serves until it is empty.
fn answers(topology: &Topology, member: &PlacementMember, unavailable: &[StoreId]) -> bool {
    !unavailable.contains(&member.store)
        && topology
            .node_of(member.store)
            .is_some_and(|node| node.state != NodeState::Down)
}

/// Members after those in `unavailable` were replaced, as far as there are substitutes.
///
/// A replaced member rests. A resting member that is up is taken back first. Stores in `barred`
/// (they left and have not confirmed their RETIRE) are not named.
///
/// # Errors
/// [`Unplaceable`]: nobody can take a place, or W members that answer would still be lacking.
pub fn substitute(
    container: ContainerId,
    topology: &Topology,
    policy: &Policy,
    current: &Placement,
    unavailable: &[StoreId],
    barred: &[StoreId],
) -> Result<Decision, Unplaceable> {
    let mut members = current.members.clone();
    let missing: Vec<StoreId> = current
        .writable()
        .filter(|member| unavailable.contains(&member.store))
        .map(|member| member.store)
        .collect();
    let mut places = missing.len();
    for member in &mut members {
        let rests = member.state == MemberState::Resting;
        // One that an operator drains stays at rest.
        let is_back = is_up(topology, member) && answers(topology, member, unavailable);
        if rests && places > 0 && is_back {
            member.state = MemberState::Filling;
            places -= 1;
        }
    }
    let mut used: BTreeSet<NodeId> = members.iter().map(|member| member.node).collect();
    used.extend(
        members
            .iter()
            .filter_map(|member| Some(topology.node_of(member.store)?.node)),
    );
    let staying: Vec<&NodeRecord> = members
        .iter()
        .filter(|member| member.state != MemberState::Resting && !missing.contains(&member.store))
        .filter_map(|member| topology.node_of(member.store))
        .collect();
    let mut pool = candidates(container, topology, policy, &used);
    pool.retain(|candidate| {
        let store = candidate.store;
        candidate.is_up && !unavailable.contains(&store) && !barred.contains(&store)
    });
    let picked = pick(pool, policy, staying, places);
    let replaced = missing.len() - (places - picked.len());
    if replaced == 0 {
        return Err(Unplaceable(format!(
            "no node that is up can take the place of {missing:?}"
        )));
    }
    for store in missing.iter().take(replaced) {
        let member = members.iter_mut().find(|member| member.store == *store);
        member.expect("taken from the members").state = MemberState::Resting;
    }
    let substitutes = picked
        .iter()
        .map(|new| member_of(new, MemberState::Filling));
    members.extend(substitutes);
    let answering = members
        .iter()
        .filter(|member| member.state != MemberState::Resting)
        .filter(|member| answers(topology, member, unavailable))
        .count();
    if answering < usize::from(current.write_quorum) && !active(Mutant::SubstituteBeyondQuorum) {
        return Err(Unplaceable(format!(
            "{} members must answer, {answering} would",
            current.write_quorum
        )));
    }
    Ok(Decision {
        members,
        notes: notes_on(&picked, policy),
    })
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
