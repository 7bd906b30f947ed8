//! After convergence every split has ended, and each row that belongs to a container is in the shard
//! that the table names for it, and in no other. A disk that has a floor in one shard has one in all of them. (It
//! may be higher in one: a shard is told the disk's generation of the moment, not that which it waits for.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hedgerow_env::{GroupId, VirtualDiskId};
use hedgerow_pages::shard::{inspect, moving};
use hedgerow_protocol::{ROOT_GROUP, RootAnswer, RootQuery, ShardTable};

use super::replicas::contents;
use crate::scenario::{Cluster, Failure, on_node};
use crate::world::World;

/// Of each shard, by the first of its replicas: the disks that have a floor.
type Floors = BTreeMap<GroupId, BTreeSet<VirtualDiskId>>;

const ORACLE: &str = "shards";
/// A split of the few rows of a run has ended so long after the faults.
const LIMIT: Duration = Duration::from_secs(60);
/// One question to the root.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Waits for the end of splits, then looks at every row of every replica.
///
/// # Errors
/// A split does not end, or a row stays in another shard than the table's.
pub async fn check(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    let table = ended(world, cluster).await?;
    // Replicas may yet have to apply what their leaders have.
    let give_up_ns = world.now_ns() + u64::try_from(LIMIT.as_nanos()).expect("a minute");
    loop {
        match astray(cluster, &table).await? {
            None => return Ok(()),
            Some(text) if world.now_ns() >= give_up_ns => {
                return Err(Failure::correctness(ORACLE, text));
            }
            Some(_) => world.sleep(LIMIT / 120).await,
        }
    }
}

/// A row that is in another shard than the table's.
async fn astray(cluster: &Cluster, table: &ShardTable) -> Result<Option<String>, Failure> {
    let mut floors = Floors::new();
    for (index, node) in cluster.nodes() {
        for replica in node.replicas() {
            let group = replica.group();
            let members = table.group(group).map(|record| record.members.iter());
            let named = members
                .is_some_and(|mut members| members.any(|member| member.member == replica.member()));
            if group == ROOT_GROUP || !named {
                continue;
            }
            let Some((_, contents)) = contents(&*replica).await else {
                continue;
            };
            let mut own = BTreeSet::new();
            for (key, value) in &contents {
                let damaged = |error| {
                    Failure::correctness(ORACLE, format!("{group}: key {key:02x?}: {error}"))
                };
                own.extend(inspect::floor_of(key).map_err(damaged)?);
                let home = moving::home_of(key, value).map_err(damaged)?;
                let Some((family, at)) = home else { continue };
                let named = table.shard_of(family, at).map(|shard| shard.group);
                if named != Some(group) {
                    let text = format!("{group} on node {index}: {key:02x?} is of {named:?}");
                    return Ok(Some(text));
                }
            }
            floors.entry(group).or_insert(own);
        }
    }
    Ok(unlike(&floors))
}

/// Two shards of which one lacks a floor.
fn unlike(floors: &Floors) -> Option<String> {
    let (first, expected) = floors.first_key_value()?;
    let mut others = floors.iter();
    let (other, found) = others.find(|(_, floors)| *floors != expected)?;
    Some(format!(
        "disks with a floor: in {first} {expected:?}, in {other} {found:?}"
    ))
}

/// The table, once no split is under way.
async fn ended(world: &World, cluster: &Cluster) -> Result<ShardTable, Failure> {
    let give_up_ns = world.now_ns() + u64::try_from(LIMIT.as_nanos()).expect("a minute");
    let mut last = String::from("no node runs");
    while world.now_ns() < give_up_ns {
        for (_, node) in cluster.nodes() {
            let groups = node.groups().clone();
            let asked = on_node(world, &node, async move {
                let split = groups.root_query(RootQuery::Split, ASK_LIMIT).await.ok()?;
                let table = groups.root_query(RootQuery::Table, ASK_LIMIT).await.ok()?;
                Some((split, table))
            });
            match asked.await.flatten() {
                Some((RootAnswer::Split(None), RootAnswer::Table(table))) => return Ok(table),
                Some((split, _)) => last = format!("{split:?}"),
                None => "the root does not answer".clone_into(&mut last),
            }
        }
        world.sleep(LIMIT / 120).await;
    }
    let text = format!("after {LIMIT:?} a split is under way: {last}");
    Err(Failure::liveness(ORACLE, text))
}
