//! Replicas and stores keep their word: no life of a Raft member begins without the vote, or the entries, that
//! an earlier life of it had called durable, no life of a store without the epochs and generations under which
//! an earlier one had answered, and no life of a pool without the blobs that an earlier one held for good, or with
//! any that it had deleted for good. And no pool finds a blob damaged where the disk is sound and reads true.
//!
//! Others were answered accordingly, and a majority that forgets may lose what was acknowledged; yet it takes
//! rare luck for a client to see it. Here it is seen at the next start, whoever was harmed.
//!
//! Some damaged disks may have lost the very last that was written to them, of which nothing tells any more, or be
//! old images: there a vote is asked for only where the entries are all there, and of stores nothing. What else is
//! lost a replica finds out by itself, and does not run; where no more has rotted than what had settled in a
//! journal ([`RotSettled`](crate::world::FaultAction::RotSettled)), everything lost is of that kind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_disk::Life;
use hedgerow_env::{GroupId, StoreId};
use hedgerow_hblock::StorePromises;
use hedgerow_pages::raft::Promises;
use hedgerow_protocol::MemberId;

use crate::scenario::{Cluster, Failure};
use crate::world::{NodeIndex, World};

const ORACLE: &str = "promises";

/// The newest life seen of each member and of each store.
#[derive(Debug, Default)]
pub struct Lives {
    replicas: Mutex<BTreeMap<(GroupId, MemberId), Arc<Promises>>>,
    stores: Mutex<BTreeMap<StoreId, Arc<StorePromises>>>,
    pools: Mutex<BTreeMap<StoreId, (NodeIndex, Arc<Life>)>>,
}

impl Lives {
    /// Looks at every replica and every store that runs, and at every pool that was opened.
    ///
    /// # Errors
    /// One has begun without what an earlier life of it had promised.
    pub fn look(&self, world: &World, cluster: &Cluster) -> Result<(), Failure> {
        self.look_at_replicas(cluster)?;
        self.look_at_stores(cluster)?;
        self.look_at_pools(world, cluster)
    }

    /// Every life of a pool is left as it begins, so none is overlooked, however short.
    fn look_at_pools(&self, world: &World, cluster: &Cluster) -> Result<(), Failure> {
        let mut lives = self.pools.lock().expect("no panic under this lock");
        for (index, left) in world.take_left() {
            let Ok(present) = left.downcast::<Life>() else {
                continue;
            };
            let store = present.store();
            let before = lives.insert(store, (index, Arc::clone(&present)));
            if let Some((node, before)) = &before {
                look_for_damage(cluster, *node, before)?;
            }
            let before = before.filter(|_| !cluster.is_damaged(index));
            if let Some(why) = before.and_then(|(_, before)| before.broken_by(&present)) {
                let text = format!("node {index}: {store}: {why}");
                return Err(Failure::correctness(ORACLE, text));
            }
        }
        lives
            .values()
            .try_for_each(|(node, life)| look_for_damage(cluster, *node, life))
    }

    fn look_at_stores(&self, cluster: &Cluster) -> Result<(), Failure> {
        let mut lives = self.stores.lock().expect("no panic under this lock");
        for (index, node) in cluster.nodes() {
            for (store, present) in node.promises() {
                let before = lives.insert(store, Arc::clone(&present));
                // A record that is known to be lost comes back from the feed, which is read from its beginning.
                let before = before.filter(|_| !cluster.is_damaged(index));
                let before = before.filter(|before| !Arc::ptr_eq(before, &present));
                if let Some(why) = before.and_then(|before| before.broken_by(&present)) {
                    let text = format!("node {index}: {store}: {why}");
                    return Err(Failure::correctness(ORACLE, text));
                }
            }
        }
        Ok(())
    }

    fn look_at_replicas(&self, cluster: &Cluster) -> Result<(), Failure> {
        let mut lives = self.replicas.lock().expect("no panic under this lock");
        for (index, node) in cluster.nodes() {
            for replica in node.replicas() {
                let Some(present) = replica.promises() else {
                    continue;
                };
                let (group, member) = (replica.group(), replica.member());
                let before = lives.insert((group, member), Arc::clone(&present));
                let before = before.filter(|before| !Arc::ptr_eq(before, &present));
                let may_lose = cluster.is_forgetful(index);
                let broken = before.and_then(|before| before.broken_by(&present, may_lose));
                if let Some(why) = broken {
                    let text = format!("node {index}: {group} {member}: {why}");
                    return Err(Failure::correctness(ORACLE, text));
                }
            }
        }
        Ok(())
    }
}

/// A blob that was found damaged, in a life that goes on or is over, was on a disk that may be.
fn look_for_damage(cluster: &Cluster, node: NodeIndex, life: &Life) -> Result<(), Failure> {
    if life.damage() == 0 || cluster.may_look_damaged(node) {
        return Ok(());
    }
    let text = format!(
        "node {node}, whose disk is sound: {} found damage",
        life.store()
    );
    Err(Failure::correctness("damage", text))
}
