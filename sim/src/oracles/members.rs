//! Nodes that were added to the running cluster are members like the others: the root has them, up and
//! with their stores, and containers that are placed from now on name them.
//!
//! Asked last, for it makes a disk of its own: with as many containers as it has, each of which names
//! each store by a hash of both, a store that may be named at all is named.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::StoreId;
use hedgerow_protocol::{
    DiskRecord, NodeState, Policy, RootAnswer, RootCommand, RootOutcome, RootQuery,
};
use hedgerow_proxy::OperationTag;

use super::map;
use crate::scenario::{Addition, Cluster, Failure, on_node};
use crate::world::World;

const ORACLE: &str = "members";
/// A node that joined is known to be up within this time; the disk is made and used within it, too.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(500);
const ASK_LIMIT: Duration = Duration::from_secs(3);
/// The disk of this question, and its containers.
const DISK: &str = "members";
const CONTAINERS: u64 = 96;
const CONTAINER_BYTES: u64 = 1 << 20;

/// Checks every node of `additions`.
///
/// # Errors
/// One of them is not known to be up, or no new container names its store.
pub async fn check(
    world: &World,
    cluster: &Cluster,
    additions: &[Addition],
) -> Result<(), Failure> {
    if additions.is_empty() {
        return Ok(());
    }
    let give_up_ns = world.now_ns() + u64::try_from(LIMIT.as_nanos()).expect("a minute");
    loop {
        match known_to_be_up(world, cluster, additions).await {
            Ok(()) => break,
            Err(failure) if world.now_ns() >= give_up_ns => return Err(failure),
            Err(_) => world.sleep(LOOK_PAUSE).await,
        }
    }
    let disk = used_disk(world, cluster).await?;
    let mut named: BTreeSet<StoreId> = BTreeSet::new();
    for container in map::containers(&disk) {
        let of_map = map::named(cluster, &disk, container, ORACLE).await?;
        let placements = of_map.placements.values();
        named.extend(placements.flat_map(|placement| {
            let members = placement.writable();
            members.map(|member| member.store).collect::<Vec<_>>()
        }));
    }
    for addition in additions {
        let node = cluster.node(addition.node);
        let mut stores = node.iter().flat_map(|node| node.stores());
        if !stores.any(|store| named.contains(&store.id())) {
            let text = format!("no new container names added node {}", addition.node);
            return Err(Failure::correctness(ORACLE, text));
        }
    }
    Ok(())
}

/// Whether the root has every added node, as one that is up and has a store.
async fn known_to_be_up(
    world: &World,
    cluster: &Cluster,
    additions: &[Addition],
) -> Result<(), Failure> {
    let failure = |text: String| Failure::liveness(ORACLE, text);
    let Some((_, asked)) = cluster.nodes().into_iter().next() else {
        return Err(failure("no node runs".into()));
    };
    let groups = asked.groups().clone();
    let asking = async move { groups.root_query(RootQuery::Topology, ASK_LIMIT).await.ok() };
    let Some(RootAnswer::Topology(topology)) = on_node(world, &asked, asking).await.flatten()
    else {
        return Err(failure("the root does not answer".into()));
    };
    for addition in additions {
        let node = cluster.node(addition.node).map(|node| node.id());
        let record = topology
            .nodes
            .iter()
            .find(|record| Some(record.node) == node);
        let is_member =
            record.is_some_and(|record| record.state == NodeState::Up && !record.stores.is_empty());
        if !is_member {
            let text = format!("added node {} is no member: {record:?}", addition.node);
            return Err(failure(text));
        }
    }
    Ok(())
}

/// A new disk of which every container has a block written.
async fn used_disk(world: &World, cluster: &Cluster) -> Result<DiskRecord, Failure> {
    let policy = Policy {
        replication_factor: u8::try_from(cluster.indexes().len()).unwrap_or(3).min(3),
        ..Policy::default()
    };
    let block_size = usize::try_from(policy.block_size).expect("32 bits");
    let command = RootCommand::CreateDisk {
        nonce: !world.seed(),
        name: DISK.into(),
        size_bytes: CONTAINERS * CONTAINER_BYTES,
        container_bytes: CONTAINER_BYTES,
        policy,
        description: String::new(),
    };
    let give_up_ns = world.now_ns() + u64::try_from(LIMIT.as_nanos()).expect("a minute");
    let mut turn = 0;
    while world.now_ns() < give_up_ns {
        let nodes = cluster.nodes();
        let Some((_, node)) = nodes.get(turn % nodes.len().max(1)) else {
            world.sleep(LOOK_PAUSE).await;
            continue;
        };
        turn += 1;
        let (groups, proxy) = (node.groups().clone(), node.proxy());
        let command = command.clone();
        let using = async move {
            let made = groups.root_command(command, ASK_LIMIT).await.ok()?;
            let RootOutcome::Disk(record) = made else {
                return None;
            };
            let proxy = proxy?;
            let disk = proxy.attach(DISK).await.ok()?;
            let data = Bytes::from(vec![1; block_size]);
            for container in 0..CONTAINERS {
                let offset = container * CONTAINER_BYTES;
                let written = disk.write(offset, data.clone(), OperationTag(container + 1));
                written.await.ok()?;
            }
            drop(proxy.detach(&disk).await);
            Some(record)
        };
        if let Some(record) = on_node(world, node, using).await.flatten() {
            return Ok(record);
        }
        world.sleep(LOOK_PAUSE).await;
    }
    let text = format!("no new disk could be used within {LIMIT:?}");
    Err(Failure::liveness(ORACLE, text))
}
