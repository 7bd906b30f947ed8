//! What a shard's replica holds, for whoever judges it from outside.
//!
//! Does not: answer anybody in production; those ask by the protocol.

use hedgerow_env::{BlobName, ContainerId, PlacementEpoch, StoreId, VirtualDiskId, WriterId};
use hedgerow_protocol::AttemptEnd;

use super::marks::Marks;
use super::rows::PlacementRow;
use super::split::ShardRow;
use super::{keys, rows, tables};
use crate::{StateError, View};

/// Rows read at once.
const PAGE: usize = 512;

/// A live blob and who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: BlobName,
    /// The epoch of its container's present placement.
    pub epoch: PlacementEpoch,
    /// How many members must have had it before it was committed.
    pub write_quorum: u8,
    /// Members that take new blobs.
    pub writable: Vec<StoreId>,
    /// Members that have it, by their word.
    pub holders: Vec<StoreId>,
    /// The shard remembers that its name was applied, or need not: its writer is fenced, or the
    /// container is another shard's.
    pub is_marked: bool,
}

/// Every blob that the replica has, in the order of names.
///
/// # Errors
/// [`StateError`].
pub fn blobs(view: &dyn View) -> Result<Vec<Held>, StateError> {
    let (mut from, end) = (keys::blobs(), keys::after_blobs());
    let mut held = Vec::new();
    let mut known: Option<(ContainerId, Option<PlacementRow>)> = None;
    let mut marking = Marking::new(view)?;
    loop {
        let page = view.scan(&from, &end, PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(held);
        };
        from.clone_from(last);
        from.push(0);
        for (key, value) in &page {
            let name = keys::name_of_key(key)?;
            let row = rows::BlobRow::decode(value)?;
            if known.as_ref().is_none_or(|(at, _)| *at != name.container) {
                let container = tables::container(view, name.container)?;
                known = Some((name.container, container.and_then(|row| row.placement)));
            }
            let Some((_, Some(placement))) = &known else {
                continue;
            };
            let members = placement.members.iter();
            let holders = members.clone().filter(|member| row.is_held_by(member.slot));
            held.push(Held {
                name,
                epoch: placement.epoch,
                write_quorum: placement.write_quorum,
                writable: members
                    .filter(|member| member.is_writable())
                    .map(|member| member.store)
                    .collect(),
                holders: holders.map(|member| member.store).collect(),
                is_marked: marking.is_marked(name)?,
            });
        }
    }
}

/// What a shard remembers of names, read once for all of one writer in a container.
struct Marking<'a> {
    view: &'a dyn View,
    shard: Option<ShardRow>,
    known: Option<((ContainerId, WriterId), Option<Marks>)>,
}

impl<'a> Marking<'a> {
    fn new(view: &'a dyn View) -> Result<Self, StateError> {
        Ok(Self {
            view,
            shard: tables::shard(view)?,
            known: None,
        })
    }

    fn is_marked(&mut self, name: BlobName) -> Result<bool, StateError> {
        let of = (name.container, name.writer);
        if self.known.as_ref().is_none_or(|(known, _)| *known != of) {
            self.known = Some((of, self.marks(name)?));
        }
        let marks = self.known.as_ref().and_then(|(_, marks)| marks.as_ref());
        Ok(marks.is_none_or(|marks| {
            marks.is_below(name.sequence)
                || marks.end_of(name.sequence) == Some(AttemptEnd::Applied)
        }))
    }

    /// The marks that the name's writer must have, if any.
    fn marks(&self, name: BlobName) -> Result<Option<Marks>, StateError> {
        let shard = self.shard.as_ref();
        if shard.is_some_and(|shard| shard.refusal(name.container).is_some()) {
            return Ok(None);
        }
        let floor = tables::floor(self.view, name.container.disk)?;
        let row = tables::container(self.view, name.container)?;
        let fence = tables::standing_fence(floor.as_ref(), row.as_ref());
        if !fence.is_some_and(|fence| fence.admits(name.writer)) {
            return Ok(None);
        }
        tables::marks(self.view, name.container, name.writer).map(Some)
    }
}

/// The disk of a row that is a disk's floor.
///
/// # Errors
/// [`StateError`].
pub fn floor_of(key: &[u8]) -> Result<Option<VirtualDiskId>, StateError> {
    keys::is_floor(key)
        .then(|| keys::disk_of_floor(key))
        .transpose()
}
