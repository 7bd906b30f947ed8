//! What the shards say of a disk: every container's map, asked of them as a proxy asks.
//!
//! Does not: judge anything, or look into a store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hedgerow_env::{BlobName, ContainerId, ContainerIndex};
use hedgerow_protocol::{
    DiskRecord, MapTarget, MapView, Placement, ShardRefusal, ShardReply, ShardRequest,
};

use crate::scenario::{Cluster, Failure};

const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How often everybody is asked, and how long after one another.
const ROUNDS: usize = 10;
const ROUND_PAUSE: Duration = Duration::from_millis(500);
/// Blocks of 512 bytes looked up at once.
const PAGE_BLOCKS: u32 = 2048;

/// The units of a blob that the map refers to, each with its digest.
pub(super) type Units = BTreeSet<(u16, u128)>;

/// What a container's map names.
#[derive(Default)]
pub(super) struct Named {
    /// Every blob that an extent refers to.
    pub(super) blobs: BTreeMap<BlobName, Units>,
    /// The placements of their containers.
    pub(super) placements: BTreeMap<ContainerId, Placement>,
    /// The answers themselves.
    pub(super) views: Vec<MapView>,
}

/// The containers of `disk`, whether or not anything is in them.
pub(super) fn containers(disk: &DiskRecord) -> impl Iterator<Item = ContainerId> {
    let (family, disk, count) = (
        disk.family,
        disk.disk,
        disk.size_bytes.div_ceil(disk.container_bytes),
    );
    let count = u32::try_from(count).expect("a small disk");
    (0..count).map(move |index| ContainerId {
        family,
        disk,
        index: ContainerIndex(index),
    })
}

/// Everything that the map of one container names.
///
/// # Errors
/// Its shard does not answer: `oracle` could not judge.
pub(super) async fn named(
    cluster: &Cluster,
    disk: &DiskRecord,
    container: ContainerId,
    oracle: &'static str,
) -> Result<Named, Failure> {
    let blocks = u32::try_from(disk.container_bytes / 512).expect("a small container");
    let mut named = Named::default();
    let mut at = 0;
    while at < blocks {
        let request = ShardRequest::Lookup {
            container,
            layers: disk.layers.clone(),
            first_block: at,
            blocks: PAGE_BLOCKS.min(blocks - at),
        };
        let Some(ShardReply::View(view)) = ask(cluster, container, request).await else {
            let text = format!("{container}: its shard does not answer");
            return Err(Failure::liveness(oracle, text));
        };
        for extent in &view.extents {
            if let MapTarget::Data {
                blob, unit, digest, ..
            } = extent.target
            {
                named
                    .blobs
                    .entry(blob)
                    .or_default()
                    .insert((unit, digest.0));
            }
        }
        named.placements.extend(view.placements.iter().cloned());
        named.views.push(view);
        at += PAGE_BLOCKS;
    }
    Ok(named)
}

/// Asks the shard of `container` through any node that knows it, and again for a while: what a node
/// knows of the table may be a second old, and a shard may have moved by a split.
pub(super) async fn ask(
    cluster: &Cluster,
    container: ContainerId,
    request: ShardRequest,
) -> Option<ShardReply> {
    for _ in 0..ROUNDS {
        for (_, node) in cluster.nodes() {
            let Some(group) = node.groups().directory().shard_of(container) else {
                continue;
            };
            let asked = node.groups().shard(group, request.clone(), ASK_LIMIT);
            match asked.await {
                Err(_)
                | Ok(ShardReply::Refused(ShardRefusal::Moved { .. } | ShardRefusal::NotServing)) => {
                }
                Ok(reply) => return Some(reply),
            }
        }
        cluster.world().sleep(ROUND_PAUSE).await;
    }
    None
}
