//! After quiescence every live blob is whole on every writable member of its container, no two copies
//! differ, and each container has as many writable members as its policy says, one a node.
//!
//! Does not: ask a placement for its domains. A member is taken where one is to be had; moving it when
//! its rack's own nodes are back is rebalancing, which is not there yet.
//!
//! The look-up goes to the shard, the copies are read from the stores themselves: neither is asked
//! about the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hedgerow_env::{BlobName, ContainerId, ContainerIndex, NodeId, StoreId};
use hedgerow_protocol::{
    BlobHeader, DiskRecord, MapTarget, MapView, Placement, ShardReply, ShardRequest, decode, digest,
};

use crate::scenario::{Cluster, Failure};

const ORACLE: &str = "copies";
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Blocks of 512 bytes looked up at once.
const PAGE_BLOCKS: u32 = 2048;

/// Checks every container of `disk`.
///
/// # Errors
/// A copy is missing, damaged or different, or a placement has too few members.
pub async fn check(cluster: &Cluster, disk: &DiskRecord) -> Result<(), Failure> {
    let containers = disk.size_bytes.div_ceil(disk.container_bytes);
    for index in 0..u32::try_from(containers).expect("a small disk") {
        let index = ContainerIndex(index);
        let id = ContainerId {
            family: disk.family,
            disk: disk.disk,
            index,
        };
        let blocks = u32::try_from(disk.container_bytes / 512).expect("a small container");
        let mut named: BTreeMap<BlobName, BTreeSet<(u16, u128)>> = BTreeMap::new();
        let mut placements: BTreeMap<ContainerId, Placement> = BTreeMap::new();
        let mut at = 0;
        while at < blocks {
            let view = look_up(cluster, disk, id, at, PAGE_BLOCKS.min(blocks - at)).await?;
            for extent in &view.extents {
                if let MapTarget::Data {
                    blob, unit, digest, ..
                } = extent.target
                {
                    named.entry(blob).or_default().insert((unit, digest.0));
                }
            }
            placements.extend(view.placements.iter().cloned());
            no_writable_member_lacks(&view)?;
            at += PAGE_BLOCKS;
        }
        for (container, placement) in &placements {
            check_policy(disk, *container, placement)?;
        }
        for (blob, units) in named {
            let placement = placements.get(&blob.container).ok_or_else(|| {
                Failure::correctness(ORACLE, format!("{blob}: its container has no placement"))
            })?;
            check_blob(cluster, blob, &units, placement).await?;
        }
    }
    Ok(())
}

/// Replication factor, and one member a node.
fn check_policy(
    disk: &DiskRecord,
    container: ContainerId,
    placement: &Placement,
) -> Result<(), Failure> {
    let wrong = |text: String| {
        let text = format!("{container} ({placement:?}): {text}");
        Err(Failure::correctness(ORACLE, text))
    };
    let members: Vec<_> = placement.writable().collect();
    let factor = usize::from(disk.policy.replication_factor);
    if members.len() != factor {
        return wrong(format!("{} members for {factor} copies", members.len()));
    }
    let nodes: BTreeSet<NodeId> = members.iter().map(|member| member.node).collect();
    if nodes.len() != factor {
        return wrong("two members on one node".into());
    }
    Ok(())
}

/// Resting members take no new blobs, so they may lack some; writable ones may not.
fn no_writable_member_lacks(view: &MapView) -> Result<(), Failure> {
    for (blob, stores) in &view.incomplete {
        let home = view
            .placements
            .iter()
            .find(|(container, _)| *container == blob.container);
        let writable = home.iter().flat_map(|(_, placement)| placement.writable());
        if let Some(member) = writable
            .into_iter()
            .find(|member| stores.contains(&member.store))
        {
            let store = member.store;
            let text = format!("{blob} is listed as lacking at {store} after quiescence");
            return Err(Failure::correctness(ORACLE, text));
        }
    }
    Ok(())
}

async fn look_up(
    cluster: &Cluster,
    disk: &DiskRecord,
    container: ContainerId,
    first_block: u32,
    blocks: u32,
) -> Result<MapView, Failure> {
    let request = ShardRequest::Lookup {
        container,
        layers: disk.layers.clone(),
        first_block,
        blocks,
    };
    for (_, node) in cluster.nodes() {
        let Some(group) = node.groups().directory().shard_of(container) else {
            continue;
        };
        if let Ok(ShardReply::View(view)) =
            node.groups().shard(group, request.clone(), ASK_LIMIT).await
        {
            return Ok(view);
        }
    }
    Err(Failure::liveness(
        ORACLE,
        format!("{container}: its shard does not answer"),
    ))
}

async fn check_blob(
    cluster: &Cluster,
    blob: BlobName,
    units: &BTreeSet<(u16, u128)>,
    placement: &Placement,
) -> Result<(), Failure> {
    let wrong = |store: StoreId, text: &str| {
        Failure::correctness(ORACLE, format!("{blob} at {store} ({placement:?}): {text}"))
    };
    let members: Vec<StoreId> = placement.writable().map(|member| member.store).collect();
    if members.len() < usize::from(placement.write_quorum) {
        return Err(wrong(
            StoreId::default(),
            "fewer members than the write quorum",
        ));
    }
    for member in members {
        let nodes = cluster.nodes();
        let stores = nodes.iter().flat_map(|(_, node)| node.stores());
        let Some(store) = stores.into_iter().find(|store| store.id() == member) else {
            return Err(wrong(member, "the store is not there"));
        };
        let Some(header) = store.blob_header(blob) else {
            return Err(wrong(member, "no copy"));
        };
        let header: BlobHeader =
            decode(&header).map_err(|error| wrong(member, &error.to_string()))?;
        for (unit, expected) in units {
            let Some((offset, length)) = header.unit_range(*unit) else {
                return Err(wrong(member, "a unit is missing"));
            };
            let bytes = store
                .read_blob(
                    blob,
                    usize::try_from(offset).expect("small"),
                    length as usize,
                )
                .await
                .map_err(|error| wrong(member, &error.to_string()))?;
            if digest(&bytes).0 != *expected {
                return Err(wrong(member, "the digest differs from the map's"));
            }
        }
    }
    Ok(())
}
