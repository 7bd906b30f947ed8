//! A store has every blob that its shard counts it for, and has it whole: as it opens, and while it runs.
//!
//! What a store acknowledged it must find again after a loss of power, at once: later it may have fetched
//! what it lost, or the blob is dead, and nobody would ever know. So what the shards have is looked at
//! while the node is still down, and the store in the moment in which it has opened.
//!
//! A replica that was asked may lag: its shard has perhaps collected the blob, or moved it away, before
//! the store was closed. A blob that is lacking is therefore judged by a second look, into a leader that a
//! majority has just confirmed: one that lives on under the same placement lived, and was held, all the time
//! between.
//!
//! Does not: judge a store whose disk may be damaged; it may lack what it knows, or finds out, that it
//! lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::Either;
use hedgerow_env::{BlobName, GroupId, StoreId};
use hedgerow_pages::GroupReplica;
use hedgerow_pages::shard::inspect::Held;
use hedgerow_protocol::ROOT_GROUP;

use super::commits::held_by;
use crate::scenario::{Cluster, Failure};
use crate::world::{NodeIndex, World};

const ORACLE: &str = "openings";
/// Between two comparisons of stores that run.
const PAUSE: Duration = Duration::from_secs(1);

/// A blob that a store lacks, by what a replica had of it.
#[derive(Debug)]
struct Lack {
    node: NodeIndex,
    store: StoreId,
    group: GroupId,
    held: Held,
    what: &'static str,
}

/// Blobs that are to be judged yet.
#[derive(Debug, Default)]
pub struct Openings {
    lacks: Mutex<Vec<Lack>>,
    next_ns: AtomicU64,
}

/// What the shards have, each by the replica that has applied the most.
pub async fn held(world: &World, cluster: &Cluster) -> Vec<(GroupId, Held)> {
    let mut newest = BTreeMap::<GroupId, (u64, _)>::new();
    let nodes = cluster.nodes().into_iter();
    for replica in nodes.flat_map(|(_, node)| node.replicas()) {
        let (group, applied) = (replica.group(), replica.applied_index());
        let is_newer = newest.get(&group).is_none_or(|(known, _)| *known < applied);
        if group != ROOT_GROUP && is_newer {
            newest.insert(group, (applied, replica));
        }
    }
    let mut held = Vec::new();
    for (group, (_, replica)) in newest {
        let blobs = held_by(world, &*replica).await;
        held.extend(blobs.into_iter().map(|blob| (group, blob)));
    }
    held
}

/// What the shards have whose leaders answer.
async fn led(world: &World, cluster: &Cluster) -> BTreeMap<GroupId, BTreeMap<BlobName, Held>> {
    let mut led = BTreeMap::new();
    let nodes = cluster.nodes().into_iter();
    for replica in nodes.flat_map(|(_, node)| node.replicas()) {
        let group = replica.group();
        if group == ROOT_GROUP || led.contains_key(&group) || !leads(world, &*replica).await {
            continue;
        }
        let blobs = held_by(world, &*replica).await.into_iter();
        led.insert(group, blobs.map(|blob| (blob.name, blob)).collect());
    }
    led
}

/// Whether a majority confirms that the replica leads, and it has applied what was acknowledged.
async fn leads(world: &World, replica: &dyn GroupReplica) -> bool {
    // A replica that is stopped meanwhile never answers.
    let limit = std::pin::pin!(world.sleep(PAUSE));
    match futures_util::future::select(replica.linearize(), limit).await {
        Either::Left((confirmed, _)) => confirmed.is_ok(),
        Either::Right(_) => false,
    }
}

impl Openings {
    /// Compares all nodes with what the shards have, now and then.
    ///
    /// # Panics
    /// If another thread panicked here.
    pub async fn look_around(&self, world: &World, cluster: &Cluster) {
        let mut next_ns = self.next_ns.load(Ordering::Relaxed);
        if world.now_ns() < next_ns {
            return;
        }
        next_ns = world.now_ns() + u64::try_from(PAUSE.as_nanos()).expect("a second");
        self.next_ns.store(next_ns, Ordering::Relaxed);
        let held = held(world, cluster).await;
        for index in cluster.indexes() {
            self.compare(cluster, index, &held);
        }
    }

    /// Compares a node that runs, or has just opened its stores, with what the shards had before.
    ///
    /// # Panics
    /// If another thread panicked here.
    pub fn compare(&self, cluster: &Cluster, index: NodeIndex, before: &[(GroupId, Held)]) {
        let Some(node) = cluster.node(index) else {
            return;
        };
        if cluster.is_damaged(index) {
            return;
        }
        for store in node.stores() {
            let damaged: BTreeSet<BlobName> = store.damaged_blobs().into_iter().collect();
            let counted = before
                .iter()
                .filter(|(_, held)| held.holders.contains(&store.id()));
            for (group, held) in counted {
                let what = match store.contains(held.name) {
                    false => "no copy",
                    true if damaged.contains(&held.name) => "a damaged copy",
                    true => continue,
                };
                self.lacks.lock().expect("no panic under it").push(Lack {
                    node: index,
                    store: store.id(),
                    group: *group,
                    held: held.clone(),
                    what,
                });
            }
        }
    }

    /// Judges what was lacking, where the shards answer now.
    ///
    /// # Errors
    /// A store was without a blob that it had acknowledged.
    ///
    /// # Panics
    /// If another thread panicked here.
    pub async fn look(&self, world: &World, cluster: &Cluster) -> Result<(), Failure> {
        if self.lacks.lock().expect("no panic under it").is_empty() {
            return Ok(());
        }
        let lacks = std::mem::take(&mut *self.lacks.lock().expect("no panic under it"));
        let led = led(world, cluster).await;
        for lack in lacks {
            let Some(now) = led.get(&lack.group) else {
                self.lacks.lock().expect("no panic under it").push(lack);
                continue;
            };
            let still = now.get(&lack.held.name);
            if still.is_some_and(|held| held.epoch == lack.held.epoch) {
                let Lack {
                    node,
                    store,
                    held,
                    what,
                    ..
                } = lack;
                let text = format!("node {node}, {store}: {what} of {held:?}");
                return Err(Failure::correctness(ORACLE, text));
            }
        }
        Ok(())
    }
}
