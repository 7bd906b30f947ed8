//! Typed reads and writes of the root's tables.

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ClusterId, GroupId, VirtualDiskId};
use hedgerow_protocol::{
    DiskRecord, Envelope, GroupRecord, NodeRecord, ProxySession, RootRefusal, ShardTable,
    SplitRecord, decode, encode,
};

use super::keys::{self, Counter};
use crate::fields::{Put, Take, after_prefix};
use crate::{Pair, StateError, Update, View};

/// Rows read at once by jobs that walk a table.
const PAGE_ROWS: usize = 1024;

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is refused.
    Refused(RootRefusal),
    /// The state failed; the replica stops.
    State(StateError),
}

impl From<RootRefusal> for Stop {
    fn from(refusal: RootRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// Reads an enveloped value.
pub(super) fn read<T: Envelope>(view: &dyn View, key: &[u8]) -> Result<Option<T>, StateError> {
    let bytes = view.get(key)?;
    bytes.map(|bytes| read_value(&bytes)).transpose()
}

/// Decodes an enveloped value of a row.
pub(super) fn read_value<T: Envelope>(bytes: &[u8]) -> Result<T, StateError> {
    decode(bytes).map_err(|error| StateError::Damaged(error.to_string()))
}

/// Reads a number.
pub(super) fn read_number(view: &dyn View, key: &[u8]) -> Result<Option<u64>, StateError> {
    let Some(bytes) = view.get(key)? else {
        return Ok(None);
    };
    number(&bytes).map(Some)
}

/// Decodes a number of a row.
pub(super) fn number(bytes: &[u8]) -> Result<u64, StateError> {
    let mut take = Take::new(bytes, "number");
    let number = take.u64()?;
    take.end()?;
    Ok(number)
}

/// Writes a number.
pub(super) fn write_number(
    state: &mut dyn Update,
    key: &[u8],
    number: u64,
) -> Result<(), StateError> {
    state.put(key, &Put::value().u64(number).done())
}

/// Hands out the next number, from 1 on.
pub(super) fn next_number(state: &mut dyn Update, counter: Counter) -> Result<u64, StateError> {
    let key = keys::counter(counter);
    let next = read_number(state, &key)?.unwrap_or(0) + 1;
    write_number(state, &key, next)?;
    Ok(next)
}

pub(super) fn cluster(view: &dyn View) -> Result<Option<ClusterId>, StateError> {
    let Some(bytes) = view.get(&keys::cluster())? else {
        return Ok(None);
    };
    let mut take = Take::new(&bytes, "cluster");
    let cluster = ClusterId(take.u128()?);
    take.end()?;
    Ok(Some(cluster))
}

pub(super) fn table(view: &dyn View) -> Result<ShardTable, StateError> {
    Ok(read(view, &keys::table())?.unwrap_or_default())
}

/// Writes a changed table under the next map epoch.
pub(super) fn write_table(state: &mut dyn Update, mut table: ShardTable) -> Result<(), StateError> {
    table.epoch.0 += 1;
    state.put(&keys::table(), &encode(&table))
}

/// The split that is under way.
pub(super) fn split(view: &dyn View) -> Result<Option<SplitRecord>, StateError> {
    read(view, &keys::split())
}

/// The shards for which something waits when it waits for each: those of the table, and one that a
/// split is about to add.
pub(super) fn every_shard(view: &dyn View) -> Result<Vec<GroupId>, StateError> {
    let table = table(view)?;
    let mut groups: Vec<GroupId> = table.distinct().iter().map(|shard| shard.group).collect();
    if let Some(split) = split(view)?
        && !groups.contains(&split.to.group)
        && !active(Mutant::SplitWithoutPendingFloors)
    {
        groups.push(split.to.group);
    }
    Ok(groups)
}

pub(super) fn nodes(view: &dyn View) -> Result<Vec<NodeRecord>, StateError> {
    rows(view, &keys::kind(keys::NODE))?
        .iter()
        .map(|(_, value)| read_value(value))
        .collect()
}

pub(super) fn disk(view: &dyn View, disk: VirtualDiskId) -> Result<Option<DiskRecord>, StateError> {
    read(view, &keys::disk(disk))
}

pub(super) fn write_disk(state: &mut dyn Update, record: &DiskRecord) -> Result<(), StateError> {
    state.put(&keys::disk(record.disk), &encode(record))
}

/// Disks that `session` has attached.
pub(super) fn attached(
    view: &dyn View,
    session: ProxySession,
) -> Result<Vec<VirtualDiskId>, StateError> {
    rows(view, &keys::attached_of(session))?
        .iter()
        .map(|(key, _)| keys::disk_of_attached(key))
        .collect()
}

/// Raises the number handed out last for a group to the highest that its members carry.
pub(super) fn note_replicas(
    state: &mut dyn Update,
    record: &GroupRecord,
) -> Result<(), StateError> {
    let key = keys::replica(record.group);
    let known = read_number(state, &key)?.unwrap_or(0);
    let members = record.members.iter();
    let highest = members
        .map(|member| u64::from(member.member.replica.0))
        .max();
    match highest {
        Some(highest) if highest > known => write_number(state, &key, highest),
        _ => Ok(()),
    }
}

/// Every row whose key begins with `prefix`, in order.
pub(super) fn rows(view: &dyn View, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
    let end = after_prefix(prefix);
    let mut from = prefix.to_vec();
    let mut found = Vec::new();
    loop {
        let page = view.scan(&from, &end, PAGE_ROWS)?;
        let full = page.len() == PAGE_ROWS;
        found.extend(page);
        match found.last() {
            Some((last, _)) if full => {
                from.clone_from(last);
                from.push(0);
            }
            _ => return Ok(found),
        }
    }
}
