//! After quiescence every live blob is whole on every writable member of its container, no two copies
//! differ, and each container has as many writable members as its policy says, one a node.
//!
//! Does not: ask a placement for its domains. A member is taken where one is to be had; moving it when
//! its rack's own nodes are back is rebalancing, which is not there yet.
//!
//! The look-up goes to the shard, the copies are read from the stores themselves: neither is asked
//! about the other.

use std::collections::BTreeSet;
use std::time::Duration;

use hedgerow_env::{BlobName, ContainerId, NodeId, StoreId};
use hedgerow_protocol::{BlobHeader, DiskRecord, MapView, Placement, decode, digest};

use super::losses::Losses;
use super::map::{self, Units};
use crate::scenario::{Cluster, Failure};
use crate::world::World;

const ORACLE: &str = "copies";
/// For the finding and repairing of damage: a scrub goes over everything, repair tries a few times.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Checks every container of `disks`. Disks that damaged copies give the cluster `patience`: the
/// damage is to be found, by whoever reads or by the scrub, and repaired.
///
/// # Errors
/// A copy is missing, damaged or different, or a placement has too few members.
pub async fn check(
    world: &World,
    cluster: &Cluster,
    disks: &[DiskRecord],
    lost_disks: usize,
    patience: Duration,
) -> Result<(), Failure> {
    let patience_ns = u64::try_from(patience.as_nanos()).expect("a minute");
    let give_up_ns = world.now_ns() + patience_ns;
    loop {
        match check_all(cluster, disks, lost_disks).await {
            Err(failure) if world.now_ns() >= give_up_ns => return Err(failure),
            Err(_) => world.sleep(LOOK_PAUSE).await,
            Ok(()) => return Ok(()),
        }
    }
}

async fn check_all(
    cluster: &Cluster,
    disks: &[DiskRecord],
    lost_disks: usize,
) -> Result<(), Failure> {
    let losses = Losses::of(cluster, lost_disks);
    let mut gone = BTreeSet::new();
    for disk in disks {
        gone.extend(check_disk(cluster, disk, &losses).await?);
    }
    losses.bear(&gone, ORACLE)
}

/// Whether no writable member lacks a blob, but for those that are gone with their disks.
///
/// # Errors
/// A copy is missing that should be there, or a shard does not answer.
pub async fn lacking_elsewhere(
    cluster: &Cluster,
    disks: &[DiskRecord],
    lost_disks: usize,
) -> Result<(), Failure> {
    let losses = Losses::of(cluster, lost_disks);
    for disk in disks {
        for container in map::containers(disk) {
            let named = map::named(cluster, disk, container, ORACLE).await?;
            for view in &named.views {
                no_writable_member_lacks(view, &losses)?;
            }
        }
    }
    Ok(())
}

/// Judges one disk; answers the members of its containers that are gone.
async fn check_disk(
    cluster: &Cluster,
    disk: &DiskRecord,
    losses: &Losses,
) -> Result<BTreeSet<StoreId>, Failure> {
    let mut gone = BTreeSet::new();
    for container in map::containers(disk) {
        let named = map::named(cluster, disk, container, ORACLE).await?;
        for view in &named.views {
            no_writable_member_lacks(view, losses)?;
        }
        for (container, placement) in &named.placements {
            let stores = placement.writable().map(|member| member.store);
            gone.extend(stores.filter(|store| losses.excuse(*store)));
            check_policy(disk, *container, placement)?;
        }
        for (blob, units) in named.blobs {
            let placement = named.placements.get(&blob.container).ok_or_else(|| {
                Failure::correctness(ORACLE, format!("{blob}: its container has no placement"))
            })?;
            check_blob(cluster, blob, &units, placement, losses).await?;
        }
    }
    Ok(gone)
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
fn no_writable_member_lacks(view: &MapView, losses: &Losses) -> Result<(), Failure> {
    for (blob, stores) in &view.incomplete {
        let home = view
            .placements
            .iter()
            .find(|(container, _)| *container == blob.container);
        let writable = home.iter().flat_map(|(_, placement)| placement.writable());
        if let Some(member) = writable
            .into_iter()
            .find(|member| stores.contains(&member.store) && !losses.excuse(member.store))
        {
            let store = member.store;
            let text = format!("{blob} is listed as lacking at {store} after quiescence");
            return Err(Failure::correctness(ORACLE, text));
        }
    }
    Ok(())
}

async fn check_blob(
    cluster: &Cluster,
    blob: BlobName,
    units: &Units,
    placement: &Placement,
    losses: &Losses,
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
    for member in members.into_iter().filter(|member| !losses.excuse(*member)) {
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
