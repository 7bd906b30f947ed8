//! What the commands of one log entry share: the transaction, rows kept until the entry's end, and
//! the bookkeeping of blobs and feeds.
//!
//! Invariants: a command that is refused has changed nothing; containers and marks are written
//! back before anything scans them and at the end of the entry; every live blob that a writable
//! member lacks is listed in that member's feed, or a sweep that will list it is recorded.

use std::collections::BTreeMap;

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, ContainerId, StoreId, VirtualDiskId, WriterId};
use hedgerow_protocol::ShardRefusal;

use super::keys::{self, Position};
use super::marks::Marks;
use super::moving::Own;
use super::rows::{BlobRow, ContainerRow, FeedRow, FloorRow, Listed};
use super::split::ShardRow;
use super::tables;
use crate::fields::after_prefix;
use crate::{StateError, Update, View};

/// Blobs that one step of a sweep looks at: a step costs about as much as a large commit.
pub(super) const SWEEP_STEP_BLOBS: usize = 512;

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// It is refused.
    Refused(ShardRefusal),
    /// The state failed; the replica stops.
    State(StateError),
}

impl From<ShardRefusal> for Stop {
    fn from(refusal: ShardRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// A row kept until the end of the entry.
struct Kept<T> {
    row: T,
    changed: bool,
}

/// One log entry being applied.
pub(super) struct Apply<'a> {
    state: &'a mut dyn Update,
    /// The entry's index in the log.
    entry: u64,
    /// What a split made of the shard, if one did.
    shard: Option<ShardRow>,
    next_sub: u32,
    containers: BTreeMap<ContainerId, Kept<Option<ContainerRow>>>,
    marks: BTreeMap<(ContainerId, WriterId), Kept<Marks>>,
    floors: BTreeMap<VirtualDiskId, Option<FloorRow>>,
}

impl<'a> Apply<'a> {
    /// The entry at `entry` of the log.
    pub(super) fn new(state: &'a mut dyn Update, entry: u64) -> Result<Self, StateError> {
        let shard = tables::shard(&*state)?;
        Ok(Self {
            state,
            entry,
            shard,
            next_sub: 0,
            containers: BTreeMap::new(),
            marks: BTreeMap::new(),
            floors: BTreeMap::new(),
        })
    }

    /// The index of the entry, counted on from the log of the shard that this one was split from.
    pub(super) fn index(&self) -> u64 {
        self.entry + self.shard.as_ref().map_or(0, |row| row.base)
    }

    /// What the shard has to do with splits.
    pub(super) fn shard(&self) -> Option<&ShardRow> {
        self.shard.as_ref()
    }

    pub(super) fn set_shard(&mut self, row: ShardRow) -> Result<(), StateError> {
        self.state.put(&keys::shard(), &row.encode())?;
        self.shard = Some(row);
        Ok(())
    }

    /// Whether `container` is this shard's to change.
    pub(super) fn owns(&self, container: ContainerId) -> bool {
        let row = self.shard.as_ref();
        row.is_none_or(|row| row.refusal(container).is_none())
    }

    /// The next position within this entry.
    pub(super) fn position(&mut self) -> Position {
        let sub = self.next_sub;
        self.next_sub += 1;
        Position {
            index: self.index(),
            sub,
        }
    }

    /// The state as written so far; containers and marks of this entry are not in it before
    /// [`Self::write_back`].
    pub(super) fn view(&self) -> &dyn View {
        &*self.state
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.state.put(key, value)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.state.delete(key)
    }

    pub(super) fn container(
        &mut self,
        container: ContainerId,
    ) -> Result<Option<ContainerRow>, StateError> {
        if let Some(kept) = self.containers.get(&container) {
            return Ok(kept.row.clone());
        }
        let row = tables::container(&*self.state, container)?;
        let kept = Kept {
            row: row.clone(),
            changed: false,
        };
        self.containers.insert(container, kept);
        Ok(row)
    }

    pub(super) fn set_container(&mut self, container: ContainerId, row: Option<ContainerRow>) {
        let kept = Kept { row, changed: true };
        self.containers.insert(container, kept);
    }

    pub(super) fn marks(
        &mut self,
        container: ContainerId,
        writer: WriterId,
    ) -> Result<Marks, StateError> {
        if let Some(kept) = self.marks.get(&(container, writer)) {
            return Ok(kept.row.clone());
        }
        let row = tables::marks(&*self.state, container, writer)?;
        let kept = Kept {
            row: row.clone(),
            changed: false,
        };
        self.marks.insert((container, writer), kept);
        Ok(row)
    }

    pub(super) fn set_marks(&mut self, container: ContainerId, writer: WriterId, row: Marks) {
        let kept = Kept { row, changed: true };
        self.marks.insert((container, writer), kept);
    }

    pub(super) fn floor(&mut self, disk: VirtualDiskId) -> Result<Option<FloorRow>, StateError> {
        if let Some(row) = self.floors.get(&disk) {
            return Ok(row.clone());
        }
        let row = tables::floor(&*self.state, disk)?;
        self.floors.insert(disk, row.clone());
        Ok(row)
    }

    pub(super) fn set_floor(
        &mut self,
        disk: VirtualDiskId,
        row: FloorRow,
    ) -> Result<(), StateError> {
        self.state.put(&keys::floor(disk), &row.encode())?;
        self.floors.insert(disk, Some(row));
        Ok(())
    }

    /// Writes the kept containers and marks, and forgets them.
    pub(super) fn write_back(&mut self) -> Result<(), StateError> {
        for (container, kept) in std::mem::take(&mut self.containers) {
            if !kept.changed {
                continue;
            }
            let key = keys::container(container);
            match kept.row {
                Some(row) => self.state.put(&key, &row.encode())?,
                None => self.state.delete(&key)?,
            }
        }
        for ((container, writer), kept) in std::mem::take(&mut self.marks) {
            if kept.changed {
                let key = keys::marks(container, writer);
                self.state.put(&key, &kept.row.encode())?;
            }
        }
        Ok(())
    }

    /// Tells `store` something, at a new position of its feed.
    pub(super) fn tell(&mut self, store: StoreId, news: FeedRow) -> Result<Position, StateError> {
        let position = self.position();
        let key = keys::feed(store, position);
        self.state.put(&key, &news.encode())?;
        Ok(position)
    }

    pub(super) fn untell(&mut self, store: StoreId, position: Position) -> Result<(), StateError> {
        self.state.delete(&keys::feed(store, position))
    }

    /// Lists `name` in the feed of `store`, in place of an older row.
    pub(super) fn list(
        &mut self,
        name: BlobName,
        blob: &mut BlobRow,
        store: StoreId,
    ) -> Result<(), StateError> {
        self.unlist(blob, store)?;
        let position = self.tell(store, FeedRow::Incomplete(name))?;
        blob.listed.push(Listed { store, position });
        Ok(())
    }

    /// Takes `name` out of the feed of `store`; answers whether it stood there.
    pub(super) fn unlist(
        &mut self,
        blob: &mut BlobRow,
        store: StoreId,
    ) -> Result<bool, StateError> {
        let Some(at) = blob.listed.iter().position(|listed| listed.store == store) else {
            return Ok(false);
        };
        let listed = blob.listed.remove(at);
        self.untell(store, listed.position)?;
        Ok(true)
    }

    /// `blocks` entries of the map no longer refer to `name`; at zero the blob is free.
    pub(super) fn release_blocks(
        &mut self,
        name: BlobName,
        blocks: u32,
        collect: bool,
    ) -> Result<(), StateError> {
        let Some(mut blob) = tables::blob(&*self.state, name)? else {
            return Err(StateError::Damaged(format!(
                "the map refers to {name}, which has no blob row"
            )));
        };
        assert!(
            blocks <= blob.live_blocks,
            "{name} has as many live blocks as the map refers to"
        );
        blob.live_blocks -= blocks;
        if blob.live_blocks > 0 && !active(Mutant::BlobFreedTooSoon) {
            return self.state.put(&keys::blob(name), &blob.encode());
        }
        self.forget_blob(name, &blob)?;
        if collect {
            self.state.put(&keys::free(name), &[])?;
        }
        Ok(())
    }

    /// The blob is dead: it counts no longer, and no feed lists it.
    fn forget_blob(&mut self, name: BlobName, blob: &BlobRow) -> Result<(), StateError> {
        self.state.delete(&keys::blob(name))?;
        for listed in &blob.listed {
            self.untell(listed.store, listed.position)?;
        }
        let mut row = self
            .container(name.container)?
            .ok_or_else(|| StateError::Damaged(format!("{name} has no container row")))?;
        row.live_blobs -= 1;
        row.stored_bytes -= u64::from(blob.stored_bytes);
        if let Some(placement) = &mut row.placement {
            for member in &mut placement.members {
                if !blob.is_held_by(member.slot) {
                    member.lacks_no_more(blob);
                }
            }
        }
        self.set_container(name.container, Some(row));
        Ok(())
    }

    /// Begins to list anew what `store` lacks of `container`, from its first blob.
    pub(super) fn start_sweep(
        &mut self,
        store: StoreId,
        container: ContainerId,
    ) -> Result<(), StateError> {
        let from = keys::blobs_of(container);
        self.state.put(&keys::sweep(store, container), &from)
    }

    /// Goes on with the first sweep of `store`: for each blob its feed comes to say what is true.
    pub(super) fn sweep_step(&mut self, store: StoreId) -> Result<(), StateError> {
        let own = Own::of(&*self.state)?;
        let Some((key, from)) = own.sweep_of(&*self.state, store)? else {
            return Ok(());
        };
        let (_, container) = keys::sweep_of_key(&key)?;
        let placement = self.container(container)?.and_then(|row| row.placement);
        let slot = placement
            .as_ref()
            .and_then(|placement| placement.member(store))
            .filter(|member| member.is_writable())
            .map(|member| member.slot);
        let end = after_prefix(&keys::blobs_of(container));
        let blobs = self.state.scan(&from, &end, SWEEP_STEP_BLOBS)?;
        for (blob_key, value) in &blobs {
            let name = keys::name_of_key(blob_key)?;
            let mut blob = BlobRow::decode(value)?;
            let lacks = slot.is_some_and(|slot| !blob.is_held_by(slot));
            let changed = if lacks {
                self.list(name, &mut blob, store)?;
                true
            } else {
                self.unlist(&mut blob, store)?
            };
            if changed {
                self.state.put(blob_key, &blob.encode())?;
            }
        }
        match blobs.last() {
            Some((last, _)) if blobs.len() == SWEEP_STEP_BLOBS => {
                let mut next = last.clone();
                next.push(0);
                self.state.put(&key, &next)
            }
            _ => self.state.delete(&key),
        }
    }
}
