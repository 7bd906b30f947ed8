//! After quiescence no store holds a blob that nothing refers to: what was overwritten, given up, or
//! left behind by a writer that never returned is freed within a bound, and so is what a store kept
//! of a container that it left, or of a disk that is no more. (That nothing is freed too soon is what `copies` asks.)
//!
//! Where stores sweep over their names as rarely as on servers, what was committed and is free must have
//! been freed because its shard told them: only of what was never committed does nobody tell.
//!
//! By then every client has stopped and released the disk, or died and lost its lease: no writer is
//! left whose outstanding names could excuse a blob. The map is asked of the shards and the names are
//! read from the stores; what a shard *says* of a name counts for nothing, since a shard that forgot
//! to free it says that it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hedgerow_env::{BlobName, ContainerId, StoreId};
use hedgerow_protocol::{DiskRecord, Placement, ShardReply, ShardRequest};

use super::map;
use crate::scenario::{Cluster, Failure};
use crate::world::{NodeIndex, World};

const ORACLE: &str = "blobs";
/// A lease and the wait for its end, the floors that it leaves, a shard's collection and a store's
/// sweep over its names, each more than once: a step may fail and come round again.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Names of one page.
const PAGE: usize = 1_024;
/// Blobs named in a failure.
const SHOWN: usize = 4;

/// A blob that a store holds and nothing refers to there.
struct Stray {
    node: NodeIndex,
    store: StoreId,
    name: BlobName,
    /// The shard owes the store word of it, whatever the blob was: the disk is deleted, or the store has
    /// left the container.
    owed: bool,
    why: &'static str,
}

/// Waits until no store holds anything that it need not.
///
/// # Errors
/// Some store still does after [`LIMIT`].
pub async fn check(
    world: &World,
    cluster: &Cluster,
    disks: &[DiskRecord],
    seen: Option<&BTreeSet<BlobName>>,
) -> Result<(), Failure> {
    let give_up_ns = world.now_ns() + u64::try_from(LIMIT.as_nanos()).expect("a minute");
    loop {
        let mut strays = strays(cluster, disks).await?;
        if let Some(seen) = seen {
            let told = |stray: &Stray| {
                let damaged = cluster.is_damaged(stray.node);
                stray.owed || seen.contains(&stray.name) && !damaged
            };
            strays.retain(told);
        }
        if strays.is_empty() {
            return Ok(());
        }
        if world.now_ns() >= give_up_ns {
            return Err(leaked(cluster, &strays).await);
        }
        world.sleep(LOOK_PAUSE).await;
    }
}

async fn strays(cluster: &Cluster, disks: &[DiskRecord]) -> Result<Vec<Stray>, Failure> {
    let mut named: BTreeSet<BlobName> = BTreeSet::new();
    let mut placements: BTreeMap<ContainerId, Placement> = BTreeMap::new();
    for disk in disks {
        for container in map::containers(disk) {
            let found = map::named(cluster, disk, container, ORACLE).await?;
            named.extend(found.blobs.into_keys());
            placements.extend(found.placements);
        }
    }
    let is_deleted = |name: BlobName| disks.iter().all(|disk| disk.disk != name.container.disk);
    let mut strays = Vec::new();
    for (node, running) in cluster.nodes() {
        for store in running.stores() {
            let mut after = None;
            loop {
                let page = store.blobs(after, PAGE);
                let Some(last) = page.last() else { break };
                after = Some(*last);
                for name in page {
                    let placement = placements.get(&name.container);
                    let mut members = placement.iter().flat_map(|placement| &placement.members);
                    let is_member = members.any(|member| member.store == store.id());
                    let why = match (named.contains(&name), is_member) {
                        (true, true) => continue,
                        (true, false) => "the store is no member of its container",
                        (false, _) => "no entry of the map names it",
                    };
                    strays.push(Stray {
                        node,
                        store: store.id(),
                        name,
                        // Of a container without entries no placement is told.
                        owed: is_deleted(name) || placement.is_some() && !is_member,
                        why,
                    });
                }
            }
        }
    }
    Ok(strays)
}

/// The failure, with what the shards say of the first names: it helps whoever looks for the cause.
async fn leaked(cluster: &Cluster, strays: &[Stray]) -> Failure {
    let mut text = format!(
        "{} blobs that nothing refers to after {LIMIT:?}",
        strays.len()
    );
    for stray in strays.iter().take(SHOWN) {
        let Stray {
            node,
            store,
            name,
            why,
            ..
        } = stray;
        let request = ShardRequest::Names {
            store: *store,
            names: vec![*name],
        };
        let said = match map::ask(cluster, name.container, request).await {
            Some(ShardReply::Names(states)) => format!("{states:?}"),
            other => format!("{other:?}"),
        };
        text.push_str(&format!(
            "\n  {name} at {store} on node {node}: {why}; its shard says {said}"
        ));
    }
    Failure::liveness(ORACLE, text)
}
