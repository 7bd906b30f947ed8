//! After quiescence the replicas of a Raft group hold the same contents: key by key, value by value.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_env::GroupId;
use hedgerow_pages::GroupReplica;

use crate::scenario::{Cluster, Failure};
use crate::world::NodeIndex;

/// Pairs read at once.
const PAGE: usize = 512;

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

async fn contents(replica: &dyn GroupReplica) -> Option<(u64, Contents)> {
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

/// Compares the replicas of every group that have applied the same index.
///
/// # Errors
/// Two replicas at one index differ.
pub async fn check_groups(cluster: &Cluster) -> Result<(), Failure> {
    let mut seen: BTreeMap<GroupId, Vec<(NodeIndex, u64, Contents)>> = BTreeMap::new();
    for (index, node) in cluster.nodes() {
        for replica in node.replicas() {
            if let Some((applied, contents)) = contents(&*replica).await {
                seen.entry(replica.group())
                    .or_default()
                    .push((index, applied, contents));
            }
        }
    }
    for (group, replicas) in seen {
        for (position, (node, applied, contents)) in replicas.iter().enumerate() {
            for (other, other_applied, other_contents) in &replicas[..position] {
                if applied == other_applied && contents != other_contents {
                    let key = first_difference(contents, other_contents);
                    return Err(Failure::correctness(
                        "replica-contents",
                        format!("{group} at index {applied}: nodes {node} and {other}: {key}"),
                    ));
                }
            }
        }
    }
    Ok(())
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
