//! Questions to the root: pure functions over a view.

use std::collections::BTreeMap;

use hedgerow_env::{GroupId, VirtualDiskId};
use hedgerow_protocol::{
    DiskRecord, DiskState, PendingShardWork, RootAnswer, RootQuery, ShardTable, Topology,
};

use super::{keys, tables};
use crate::{StateError, View};

/// Answers `query`.
///
/// # Errors
/// [`StateError`].
pub fn answer(view: &dyn View, query: &RootQuery) -> Result<RootAnswer, StateError> {
    Ok(match query {
        RootQuery::Topology => RootAnswer::Topology(topology(view)?),
        RootQuery::Table => RootAnswer::Table(table(view)?),
        RootQuery::Disks => RootAnswer::Disks(disks(view)?),
        RootQuery::DiskByName(name) => RootAnswer::Disk(disk_by_name(view, name)?),
        RootQuery::Leases => {
            let rows = tables::rows(view, &keys::kind(keys::LEASE))?;
            let leases = rows
                .iter()
                .map(|(key, value)| Ok((keys::session_of_key(key)?, tables::number(value)?)));
            RootAnswer::Leases(leases.collect::<Result<_, StateError>>()?)
        }
        RootQuery::PendingFloors => RootAnswer::Pending(pending(view, keys::PENDING_FLOOR)?),
        RootQuery::PendingDrops => RootAnswer::Pending(pending(view, keys::PENDING_DROP)?),
        RootQuery::Cluster => RootAnswer::Cluster(tables::cluster(view)?),
        RootQuery::Split => RootAnswer::Split(tables::split(view)?),
    })
}

/// The nodes, as of the log index of the newest change to one.
///
/// # Errors
/// [`StateError`].
pub fn topology(view: &dyn View) -> Result<Topology, StateError> {
    Ok(Topology {
        index: tables::read_number(view, &keys::topology_index())?.unwrap_or(0),
        nodes: tables::nodes(view)?,
    })
}

/// The shard table.
///
/// # Errors
/// [`StateError`].
pub fn table(view: &dyn View) -> Result<ShardTable, StateError> {
    tables::table(view)
}

/// Disks that can be used, by name.
pub(super) fn disks(view: &dyn View) -> Result<Vec<DiskRecord>, StateError> {
    let mut found: Vec<DiskRecord> = Vec::new();
    for (_, value) in tables::rows(view, &keys::kind(keys::NAME))? {
        let disk = VirtualDiskId(tables::number(&value)?);
        found.extend(tables::disk(view, disk)?);
    }
    Ok(found)
}

fn disk_by_name(view: &dyn View, name: &str) -> Result<Option<DiskRecord>, StateError> {
    let Some(disk) = tables::read_number(view, &keys::name(name))? else {
        return Ok(None);
    };
    let record = tables::disk(view, VirtualDiskId(disk))?;
    Ok(record.filter(|record| record.state == DiskState::Ready))
}

/// Disks with floors or drops outstanding, each with the shards that still have to.
fn pending(view: &dyn View, kind: u8) -> Result<Vec<PendingShardWork>, StateError> {
    let mut work = BTreeMap::<VirtualDiskId, Vec<GroupId>>::new();
    for (key, _) in tables::rows(view, &keys::kind(kind))? {
        let (disk, group) = keys::pending_of_key(&key)?;
        work.entry(disk).or_default().push(group);
    }
    let mut found = Vec::with_capacity(work.len());
    for (disk, groups) in work {
        if let Some(disk) = tables::disk(view, disk)? {
            found.push(PendingShardWork { disk, groups });
        }
    }
    Ok(found)
}
