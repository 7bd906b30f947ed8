//! After quiescence every Raft group has as many members as the cluster has room for, and every member of
//! every group runs, has caught up, and holds the same contents as the others: key by key, value by value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{GroupId, StoreId};
use hedgerow_pages::GroupReplica;
use hedgerow_pages::placement::replicas_wanted;
use hedgerow_protocol::{GroupRecord, ShardTable};

use super::losses::Losses;
use crate::scenario::{Cluster, Failure};
use crate::world::{NodeIndex, World};

const ORACLE: &str = "replicas";
/// Members that lag behind have caught up within this time.
const LIMIT: Duration = Duration::from_secs(60);
/// Pairs read at once.
const PAGE: usize = 512;

pub(super) type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) async fn contents(replica: &dyn GroupReplica) -> Option<(u64, Contents)> {
    let found = Arc::new(Mutex::new(None));
    let filling = Arc::clone(&found);
    replica
        .read(Box::new(move |view, index| {
            let Ok(view) = view else { return };
            let mut all = Contents::new();
            let mut from = Vec::new();
            loop {
                let Ok(page) = view.scan(&from, &[0xFF; 64], PAGE) else {
                    return;
                };
                let Some((last, _)) = page.last() else { break };
                from.clone_from(last);
                from.push(0);
                all.extend(page);
            }
            *filling.lock().expect("no panic under this lock") = Some((index, all));
        }))
        .await;
    let mut found = found.lock().expect("no panic under this lock");
    found.take()
}

/// Waits until every member of every group runs, whole, at one index with the others, and compares
/// them there.
///
/// # Errors
/// Two replicas at one index differ; or some member lags, is damaged or does not run for too long.
pub async fn check_groups(
    world: &World,
    cluster: &Cluster,
    lost_disks: usize,
) -> Result<(), Failure> {
    let give_up_ns = world.now_ns() + u64::try_from(LIMIT.as_nanos()).expect("a minute");
    let mut open: BTreeSet<GroupId> = groups(cluster);
    if open.is_empty() {
        return Err(Failure::liveness(ORACLE, "no node knows a group"));
    }
    let mut last = String::new();
    while world.now_ns() < give_up_ns {
        for group in open.clone() {
            match compare(cluster, group, lost_disks).await? {
                None => {
                    open.remove(&group);
                }
                Some(reason) => last = format!("{group}: {reason}"),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        world.sleep(LIMIT / 120).await;
    }
    let text = format!("{} groups after {LIMIT:?}; {last}", open.len());
    Err(Failure::liveness(ORACLE, text))
}

fn records(table: ShardTable) -> Vec<GroupRecord> {
    let mut records: Vec<GroupRecord> = table.distinct().into_iter().cloned().collect();
    records.push(table.root);
    records
}

fn groups(cluster: &Cluster) -> BTreeSet<GroupId> {
    let nodes = cluster.nodes().into_iter();
    nodes
        .flat_map(|(_, node)| records(node.groups().directory().table()))
        .map(|record| record.group)
        .collect()
}

/// None: all members stand at one index and are equal. Else: why they cannot be compared yet.
async fn compare(
    cluster: &Cluster,
    group: GroupId,
    lost_disks: usize,
) -> Result<Option<String>, Failure> {
    let tables = cluster.nodes().into_iter();
    let newest = tables
        .map(|(_, node)| node.groups().directory().table())
        .max_by_key(|table| table.epoch);
    let record = newest
        .into_iter()
        .flat_map(records)
        .find(|record| record.group == group);
    let Some(record) = record else {
        return Ok(Some("no table names it".into()));
    };
    let wanted = replicas_wanted(cluster.nodes().len(), cluster.group_replicas());
    if record.members.len() < wanted {
        let count = record.members.len();
        return Ok(Some(format!("{count} members, {wanted} are wanted")));
    }
    let mut seen: Vec<(NodeIndex, u64, Contents)> = Vec::new();
    let mut described = String::new();
    for (index, node) in cluster.nodes() {
        for replica in node.replicas() {
            let named = replica.group() == group
                && record
                    .members
                    .iter()
                    .any(|one| one.member == replica.member());
            if named && let Some((applied, contents)) = contents(&*replica).await {
                seen.push((index, applied, contents));
                described.push_str(&format!("\n  node {index}: {}", replica.describe()));
            }
        }
    }
    for (position, (node, applied, contents)) in seen.iter().enumerate() {
        for (other, other_applied, other_contents) in &seen[..position] {
            if applied == other_applied && contents != other_contents {
                let key = first_difference(contents, other_contents);
                return Err(Failure::correctness(
                    ORACLE,
                    format!("{group} at index {applied}: nodes {node} and {other}: {key}"),
                ));
            }
        }
    }
    let indexes: Vec<u64> = seen.iter().map(|(_, applied, _)| *applied).collect();
    let together = indexes.windows(2).all(|pair| pair[0] == pair[1]);
    let losses = Losses::of(cluster, lost_disks);
    let stores = record.members.iter().map(|member| member.member.store);
    let gone: BTreeSet<StoreId> = stores.filter(|store| losses.excuse(*store)).collect();
    losses.bear(&gone, ORACLE)?;
    let members = record.members.len() - gone.len();
    if seen.len() == members && together {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} of {members} members answer, at {indexes:?}{described}",
        seen.len()
    )))
}

fn first_difference(one: &Contents, other: &Contents) -> String {
    let keys = one.keys().chain(other.keys());
    let mut different: Vec<&Vec<u8>> = keys
        .filter(|key| one.get(*key) != other.get(*key))
        .collect();
    different.sort();
    different.first().map_or_else(String::new, |key| {
        format!(
            "key {key:02x?}: {:02x?} and {:02x?}",
            one.get(*key),
            other.get(*key)
        )
    })
}
