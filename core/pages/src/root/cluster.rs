//! Commands on the cluster itself: identity, nodes, groups, replica numbers.
//!
//! Invariants: the cluster id never changes; a store stands in one node's record at most (a disk
//! moved to another node moves its store); the map epoch rises with each change of the shard table;
//! a replica number is handed out once; a node begins to drain only when the others that keep data
//! are enough for the copies of every disk.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ClusterId, GroupId, NodeId, ReplicaNumber, StoreId};
use hedgerow_protocol::{
    Drain, GroupMember, GroupRecord, MAXIMUM_SLOTS, NodeRecord, NodeState, ROOT_GROUP, RootOutcome,
    RootRefusal, encode,
};

use super::keys;
use super::tables::{self, Stop};
use crate::fields::{Put, Take};
use crate::{StateError, Update};

/// Most stores of a node: the limit of a handshake.
const MAXIMUM_STORES: usize = 64;
/// Longest name, address, rack, data centre or reason, in bytes.
const MAXIMUM_TEXT_BYTES: usize = 512;
/// Most members of a group: five voters, and as many that are joining.
const MAXIMUM_GROUP_MEMBERS: usize = 10;

/// How often a store is offered the same number: one that was retired before it ever joined is then
/// given up.
const OFFERS: u32 = 8;

pub(super) fn invalid(reason: impl Into<String>) -> RootRefusal {
    RootRefusal::Invalid {
        reason: reason.into(),
    }
}

fn check_initialised(state: &dyn Update) -> Result<(), Stop> {
    match tables::cluster(state)? {
        Some(_) => Ok(()),
        None => Err(invalid("the cluster is not initialised").into()),
    }
}

fn check_node(record: &NodeRecord) -> Result<(), RootRefusal> {
    let texts = [
        ("name", &record.name),
        ("address", &record.address),
        ("rack", &record.location.rack),
        ("data centre", &record.location.data_centre),
        ("reason", &record.reason),
    ];
    for (what, text) in texts {
        if text.len() > MAXIMUM_TEXT_BYTES {
            return Err(invalid(format!(
                "the {what} of {} is longer than {MAXIMUM_TEXT_BYTES} bytes",
                record.node
            )));
        }
    }
    if record.address.is_empty() {
        return Err(invalid(format!("{} has no address", record.node)));
    }
    if record.stores.len() > MAXIMUM_STORES {
        return Err(invalid(format!("more than {MAXIMUM_STORES} stores")));
    }
    Ok(())
}

fn check_members(record: &GroupRecord) -> Result<(), RootRefusal> {
    if record.members.is_empty() || record.members.len() > MAXIMUM_GROUP_MEMBERS {
        return Err(invalid(format!(
            "{} must have 1 to {MAXIMUM_GROUP_MEMBERS} members",
            record.group
        )));
    }
    for member in &record.members {
        if member.address.len() > MAXIMUM_TEXT_BYTES {
            return Err(invalid("an address is too long"));
        }
    }
    Ok(())
}

/// Initialise.
pub(super) fn initialise(
    state: &mut dyn Update,
    index: u64,
    cluster: ClusterId,
    nodes: &[NodeRecord],
    members: &[GroupMember],
) -> Result<RootOutcome, Stop> {
    if let Some(standing) = tables::cluster(state)? {
        return if standing == cluster {
            Ok(RootOutcome::Done)
        } else {
            Err(RootRefusal::Initialised { cluster: standing }.into())
        };
    }
    let root = GroupRecord {
        group: ROOT_GROUP,
        members: members.to_vec(),
    };
    check_members(&root)?;
    for node in nodes {
        check_node(node)?;
    }
    state.put(&keys::cluster(), &Put::value().u128(cluster.0).done())?;
    for node in nodes {
        put_node(state, index, node)?;
    }
    tables::note_replicas(state, &root)?;
    let mut table = tables::table(state)?;
    table.root = root;
    tables::write_table(state, table)?;
    Ok(RootOutcome::Done)
}

fn put_node(state: &mut dyn Update, index: u64, record: &NodeRecord) -> Result<(), StateError> {
    state.put(&keys::node(record.node), &encode(record))?;
    tables::write_number(state, &keys::topology_index(), index)
}

/// `Join`, `JoinAtStart`.
pub(super) fn join(
    state: &mut dyn Update,
    index: u64,
    record: &NodeRecord,
    start: Option<u64>,
) -> Result<RootOutcome, Stop> {
    check_initialised(state)?;
    check_node(record)?;
    let mut record = record.clone();
    let known = tables::read::<NodeRecord>(state, &keys::node(record.node))?;
    if let Some(start) = start {
        note_start(state, &record, known.as_ref(), start)?;
    }
    if let Some(known) = &known {
        if known.state == NodeState::Draining && !active(Mutant::JoinForgetsDraining) {
            // An operator's decision outlives a restart.
            record.state = NodeState::Draining;
            record.reason.clone_from(&known.reason);
        }
        if *known == record {
            return Ok(RootOutcome::Done);
        }
    }
    for mut other in tables::nodes(state)? {
        let before = other.stores.len();
        let taken = |store: StoreId| record.stores.iter().any(|own| own.store == store);
        other.stores.retain(|store| !taken(store.store));
        let moved = other.node != record.node && other.stores.len() != before;
        if moved && !active(Mutant::MovedStoreStaysListed) {
            put_node(state, index, &other)?;
        }
    }
    put_node(state, index, &record)?;
    Ok(RootOutcome::Done)
}

/// Refuses what an earlier start of the node said. A system store that was put back in the place of
/// another has started anew since.
fn note_start(
    state: &mut dyn Update,
    record: &NodeRecord,
    known: Option<&NodeRecord>,
    start: u64,
) -> Result<(), Stop> {
    let Some(own) = system_store(record) else {
        return Ok(());
    };
    let key = keys::start(record.node, own);
    let newest = tables::read_number(state, &key)?;
    let same_store = known
        .and_then(system_store)
        .is_none_or(|store| store == own);
    if newest.is_some_and(|newest| start < newest || (start == newest && !same_store)) {
        let node = record.node;
        return Err(invalid(format!("{node} has started again since its start {start}")).into());
    }
    if newest != Some(start) {
        tables::write_number(state, &key, start)?;
    }
    Ok(())
}

fn system_store(record: &NodeRecord) -> Option<StoreId> {
    let mut stores = record.stores.iter();
    stores.find(|store| store.system).map(|store| store.store)
}

/// `SetNodeState`.
pub(super) fn set_node_state(
    state: &mut dyn Update,
    index: u64,
    node: NodeId,
    node_state: NodeState,
    reason: &str,
) -> Result<RootOutcome, Stop> {
    if reason.len() > MAXIMUM_TEXT_BYTES {
        return Err(invalid("the reason is too long").into());
    }
    let Some(mut record) = tables::read::<NodeRecord>(state, &keys::node(node))? else {
        return Err(RootRefusal::NoSuchNode {
            node: node.to_string(),
        }
        .into());
    };
    if record.state == NodeState::Draining && node_state == NodeState::Down {
        // A verdict on what the node was before the operator decided: that stands.
        return Ok(RootOutcome::Done);
    }
    if record.state != NodeState::Draining && node_state == NodeState::Draining {
        check_others_suffice(state, &record)?;
    }
    if record.state != node_state || record.reason != reason {
        record.state = node_state;
        reason.clone_into(&mut record.reason);
        put_node(state, index, &record)?;
    }
    Ok(RootOutcome::Done)
}

/// Refuses to have `record` emptied when its copies have nowhere to go.
fn check_others_suffice(state: &dyn Update, record: &NodeRecord) -> Result<(), Stop> {
    let nodes = tables::nodes(state)?;
    let keepers = nodes.iter().filter(|node| node.keeps_data());
    let others = keepers.filter(|node| node.node != record.node);
    let (draining, left): (Vec<_>, Vec<_>) =
        others.partition(|node| node.state == NodeState::Draining);
    let disks = super::query::disks(state)?;
    let neediest = disks
        .iter()
        .max_by_key(|disk| disk.policy.replication_factor);
    let Some(disk) = neediest.filter(|_| record.keeps_data()) else {
        return Ok(());
    };
    let copies = disk.policy.replication_factor;
    if left.len() >= usize::from(copies) {
        return Ok(());
    }
    let mut reason = format!(
        "{} cannot drain: the {copies} copies of disk {} need {copies} other nodes that keep data \
         (role hblock), there are {}",
        record.name,
        disk.name,
        left.len()
    );
    if !draining.is_empty() {
        let names: Vec<&str> = draining.iter().map(|node| node.name.as_str()).collect();
        reason.push_str(&format!(" beside those that drain ({})", names.join(", ")));
    }
    Err(invalid(format!("{reason}: add a node first")).into())
}

/// `TellDraining`.
pub(super) fn tell_draining(
    state: &mut dyn Update,
    index: u64,
    node: NodeId,
    reason: &str,
) -> Result<RootOutcome, Stop> {
    let draining = NodeState::Draining;
    judge_node(state, index, node, (draining, draining), reason)
}

/// `JudgeNode`.
pub(super) fn judge_node(
    state: &mut dyn Update,
    index: u64,
    node: NodeId,
    (seen, verdict): (NodeState, NodeState),
    reason: &str,
) -> Result<RootOutcome, Stop> {
    let record = tables::read::<NodeRecord>(state, &keys::node(node))?;
    match record.map(|record| record.state) {
        Some(known) if known == seen => set_node_state(state, index, node, verdict, reason),
        // An operator has decided since.
        _ => Ok(RootOutcome::Done),
    }
}

/// `Drain`.
pub(super) fn drain(state: &mut dyn Update, index: u64, wish: &Drain) -> Result<RootOutcome, Stop> {
    let present = tables::read_number(state, &keys::topology_index())?.unwrap_or(0);
    if wish.seen != present && !active(Mutant::LateDrainObeyed) {
        return Err(RootRefusal::NodesChanged { index: present }.into());
    }
    let node_state = match wish.draining {
        true => NodeState::Draining,
        false => NodeState::Up,
    };
    set_node_state(state, index, wish.node, node_state, &wish.reason)
}

/// `CreateShards`.
pub(super) fn create_shards(
    state: &mut dyn Update,
    shards: &[GroupRecord],
) -> Result<RootOutcome, Stop> {
    check_initialised(state)?;
    let mut table = tables::table(state)?;
    if !table.shards.is_empty() {
        // Made once; whoever asks again goes by the table.
        return Ok(RootOutcome::Done);
    }
    if !shards.len().is_power_of_two() || shards.len() > MAXIMUM_SLOTS {
        let reason = format!(
            "{} shards: use a power of two to {MAXIMUM_SLOTS}",
            shards.len()
        );
        return Err(invalid(reason).into());
    }
    for (number, shard) in (1_u32..).zip(shards) {
        if shard.group != GroupId(number) {
            return Err(invalid("shards are numbered from 1 on, in order").into());
        }
        check_members(shard)?;
    }
    for shard in shards {
        tables::note_replicas(state, shard)?;
    }
    table.shards = shards.to_vec();
    tables::write_table(state, table)?;
    Ok(RootOutcome::Done)
}

/// `SetGroupMembers`.
pub(super) fn set_group_members(
    state: &mut dyn Update,
    record: &GroupRecord,
) -> Result<RootOutcome, Stop> {
    check_members(record)?;
    let mut table = tables::table(state)?;
    let mut known: Vec<&mut GroupRecord> = std::iter::once(&mut table.root)
        .chain(&mut table.shards)
        .filter(|standing| standing.group == record.group)
        .collect();
    if known.is_empty() {
        return Err(invalid(format!("no group {}", record.group)).into());
    }
    if known.iter().any(|standing| **standing != *record) {
        for standing in &mut known {
            standing.clone_from(record);
        }
        tables::note_replicas(state, record)?;
        tables::write_table(state, table)?;
    }
    Ok(RootOutcome::Done)
}

/// `NextReplica`. A store that is not a member yet is offered its number again, so that an attempt
/// which broke off after the replica was started can be completed.
pub(super) fn next_replica(
    state: &mut dyn Update,
    group: GroupId,
    store: StoreId,
) -> Result<RootOutcome, Stop> {
    let table = tables::table(state)?;
    let split = tables::split(state)?;
    let made = split.as_ref().map(|split| &split.to);
    let made = made.filter(|record| record.group == group);
    let Some(record) = table.group(group).or(made) else {
        return Err(invalid(format!("no group {group}")).into());
    };
    let offered = keys::offered(group, store);
    if let Some(bytes) = state.get(&offered)? {
        let mut take = Take::new(&bytes, "offered");
        let (number, times) = (take.u32()?, take.u32()?);
        take.end()?;
        let used = record
            .members
            .iter()
            .any(|member| member.member.store == store && member.member.replica.0 >= number);
        if (!used && times < OFFERS) || active(Mutant::ReplicaNumberReused) {
            let row = Put::value().u32(number).u32(times + 1).done();
            state.put(&offered, &row)?;
            return Ok(RootOutcome::Replica(ReplicaNumber(number)));
        }
    }
    let key = keys::replica(group);
    let next = tables::read_number(state, &key)?.unwrap_or(0) + 1;
    let Ok(number) = u32::try_from(next) else {
        return Err(invalid(format!("{group} has handed out every replica number")).into());
    };
    tables::write_number(state, &key, next)?;
    state.put(&offered, &Put::value().u32(number).u32(1).done())?;
    Ok(RootOutcome::Replica(ReplicaNumber(number)))
}
