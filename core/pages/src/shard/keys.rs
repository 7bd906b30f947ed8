//! The tables of a shard's state and their keys. Kinds are never reused.
//!
//! | kind | key | value |
//! | --- | --- | --- |
//! | 1 container | family, index, disk | fence, placement, counters |
//! | 2 floor | disk | generation, writers, layer, deleted |
//! | 3 map | family, index, layer, first block | extent -> blob or hole, version |
//! | 4 blob | container, writer, sequence | live blocks, bytes, holders, feed rows |
//! | 5 marks | container, writer | L, applied and void sequences above it |
//! | 6 free | container, writer, sequence | nothing: to be collected |
//! | 7 hole | container, writer, sequence, layer, first block | nothing: may vanish |
//! | 8 feed | store, log index, sub | placed, incomplete or retire |
//! | 9 collected feed | store, log index, sub | container, writer, sequences |
//! | 10 store | store | feed position and limits |
//! | 11 retiring | container, store | epoch in which it left, feed row |
//! | 12 sweep | store, container | where its listing goes on |
//! | 13 feature level | | level |
//! | 14 shard | | what it answers for, and what it does |

use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, FamilyId, LayerId, Sequence, StoreId, VirtualDiskId,
    WriterId,
};

use crate::StateError;
use crate::fields::{Put, Take};

pub(super) const CONTAINER: u8 = 1;
const FLOOR: u8 = 2;
const MAP: u8 = 3;
const BLOB: u8 = 4;
const MARKS: u8 = 5;
pub(super) const FREE: u8 = 6;
const HOLE: u8 = 7;
const FEED: u8 = 8;
const COLLECTED: u8 = 9;
const STORE: u8 = 10;
const RETIRING: u8 = 11;
pub(super) const SWEEP: u8 = 12;
const FEATURE: u8 = 13;
const SHARD: u8 = 14;

/// Where a row says which container it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// Family and index stand in front.
    InKey,
    /// The container stands behind a store.
    BehindStore,
    /// In the value of a feed's row.
    InFeed,
    /// In the value of a collected feed's row.
    InCollected,
    /// Each shard has such rows for every container.
    Everywhere,
    /// The shard's own.
    Nowhere,
}

pub(super) fn home_of_kind(key: &[u8]) -> Home {
    match key.first() {
        Some(&(CONTAINER | MAP | BLOB | MARKS | FREE | HOLE | RETIRING)) => Home::InKey,
        Some(&SWEEP) => Home::BehindStore,
        Some(&FEED) => Home::InFeed,
        Some(&COLLECTED) => Home::InCollected,
        Some(&(FLOOR | STORE | FEATURE)) => Home::Everywhere,
        _ => Home::Nowhere,
    }
}

/// A position in a store's feed. Also orders commits and placements: `sub` numbers what one log
/// entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Position {
    pub(super) index: u64,
    pub(super) sub: u32,
}

pub(super) fn kind(kind: u8) -> Vec<u8> {
    Put::new(kind).done()
}

pub(super) fn container(container: ContainerId) -> Vec<u8> {
    Put::new(CONTAINER).container(container).done()
}

pub(super) fn containers_of(family: FamilyId) -> Vec<u8> {
    Put::new(CONTAINER).u64(family.0).done()
}

pub(super) fn container_of_key(key: &[u8]) -> Result<ContainerId, StateError> {
    let mut take = Take::new(key, "container key");
    take.u8()?;
    let container = take.container()?;
    take.end()?;
    Ok(container)
}

pub(super) fn floor(disk: VirtualDiskId) -> Vec<u8> {
    Put::new(FLOOR).u64(disk.0).done()
}

/// The disk of a floor's key.
pub(super) fn disk_of_floor(key: &[u8]) -> Result<VirtualDiskId, StateError> {
    let mut take = Take::new(key, "floor key");
    take.u8()?;
    let disk = VirtualDiskId(take.u64()?);
    take.end()?;
    Ok(disk)
}

/// Every layer's entries at one container index.
pub(super) fn map_index(family: FamilyId, index: ContainerIndex) -> Vec<u8> {
    Put::new(MAP).u64(family.0).u32(index.0).done()
}

pub(super) fn map_layer(family: FamilyId, index: ContainerIndex, layer: LayerId) -> Vec<u8> {
    Put::new(MAP).u64(family.0).u32(index.0).u64(layer.0).done()
}

pub(super) fn map(
    family: FamilyId,
    index: ContainerIndex,
    layer: LayerId,
    first_block: u32,
) -> Vec<u8> {
    Put::new(MAP)
        .u64(family.0)
        .u32(index.0)
        .u64(layer.0)
        .u32(first_block)
        .done()
}

/// The first block of a map key.
pub(super) fn map_first_block(key: &[u8]) -> Result<u32, StateError> {
    let mut take = Take::new(key, "map key");
    take.u8()?;
    take.u64()?;
    take.u32()?;
    take.u64()?;
    let first_block = take.u32()?;
    take.end()?;
    Ok(first_block)
}

fn name_key(kind: u8, name: BlobName) -> Vec<u8> {
    Put::new(kind)
        .container(name.container)
        .u64(name.writer.0)
        .u64(name.sequence.0)
        .done()
}

/// Reads the name out of a blob or free key.
pub(super) fn name_of_key(key: &[u8]) -> Result<BlobName, StateError> {
    let mut take = Take::new(key, "name key");
    take.u8()?;
    let name = BlobName {
        container: take.container()?,
        writer: WriterId(take.u64()?),
        sequence: Sequence(take.u64()?),
    };
    take.end()?;
    Ok(name)
}

pub(super) fn blob(name: BlobName) -> Vec<u8> {
    name_key(BLOB, name)
}

pub(super) fn blobs() -> Vec<u8> {
    kind(BLOB)
}

/// What comes behind every blob.
pub(super) fn after_blobs() -> Vec<u8> {
    kind(BLOB + 1)
}

pub(super) fn blobs_of(container: ContainerId) -> Vec<u8> {
    Put::new(BLOB).container(container).done()
}

pub(super) fn free(name: BlobName) -> Vec<u8> {
    name_key(FREE, name)
}

pub(super) fn free_of(container: ContainerId) -> Vec<u8> {
    Put::new(FREE).container(container).done()
}

pub(super) fn marks(container: ContainerId, writer: WriterId) -> Vec<u8> {
    Put::new(MARKS).container(container).u64(writer.0).done()
}

pub(super) fn marks_of(container: ContainerId) -> Vec<u8> {
    Put::new(MARKS).container(container).done()
}

/// The writer of a marks key.
pub(super) fn marks_writer(key: &[u8]) -> Result<WriterId, StateError> {
    let mut take = Take::new(key, "marks key");
    take.u8()?;
    take.container()?;
    let writer = WriterId(take.u64()?);
    take.end()?;
    Ok(writer)
}

/// A hole that may vanish, found by the version that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HoleKey {
    pub(super) container: ContainerId,
    pub(super) writer: WriterId,
    pub(super) sequence: Sequence,
    pub(super) layer: LayerId,
    pub(super) first_block: u32,
}

impl HoleKey {
    pub(super) fn encode(&self) -> Vec<u8> {
        Put::new(HOLE)
            .container(self.container)
            .u64(self.writer.0)
            .u64(self.sequence.0)
            .u64(self.layer.0)
            .u32(self.first_block)
            .done()
    }

    pub(super) fn decode(key: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(key, "hole key");
        take.u8()?;
        let decoded = Self {
            container: take.container()?,
            writer: WriterId(take.u64()?),
            sequence: Sequence(take.u64()?),
            layer: LayerId(take.u64()?),
            first_block: take.u32()?,
        };
        take.end()?;
        Ok(decoded)
    }
}

pub(super) fn holes_of(container: ContainerId) -> Vec<u8> {
    Put::new(HOLE).container(container).done()
}

pub(super) fn holes_of_writer(container: ContainerId, writer: WriterId) -> Vec<u8> {
    Put::new(HOLE).container(container).u64(writer.0).done()
}

pub(super) fn holes_below(container: ContainerId, writer: WriterId, sequence: Sequence) -> Vec<u8> {
    Put::new(HOLE)
        .container(container)
        .u64(writer.0)
        .u64(sequence.0)
        .done()
}

fn feed_key(kind: u8, store: StoreId, position: Position) -> Vec<u8> {
    Put::new(kind)
        .u64(store.0)
        .u64(position.index)
        .u32(position.sub)
        .done()
}

pub(super) fn feed(store: StoreId, position: Position) -> Vec<u8> {
    feed_key(FEED, store, position)
}

pub(super) fn collected(store: StoreId, position: Position) -> Vec<u8> {
    feed_key(COLLECTED, store, position)
}

/// The bounds of both feeds of a store from `index` on: `(feed, collected)`, each `(from, to)`.
pub(super) fn feed_from(store: StoreId, index: u64) -> [(Vec<u8>, Vec<u8>); 2] {
    [FEED, COLLECTED].map(|kind| {
        let from = feed_key(kind, store, Position { index, sub: 0 });
        (
            from,
            crate::fields::after_prefix(&Put::new(kind).u64(store.0).done()),
        )
    })
}

/// The position in a feed key.
pub(super) fn feed_position(key: &[u8]) -> Result<Position, StateError> {
    let mut take = Take::new(key, "feed key");
    take.u8()?;
    take.u64()?;
    let position = Position {
        index: take.u64()?,
        sub: take.u32()?,
    };
    take.end()?;
    Ok(position)
}

pub(super) fn store(store: StoreId) -> Vec<u8> {
    Put::new(STORE).u64(store.0).done()
}

pub(super) fn retiring(container: ContainerId, store: StoreId) -> Vec<u8> {
    Put::new(RETIRING).container(container).u64(store.0).done()
}

pub(super) fn retiring_of(container: ContainerId) -> Vec<u8> {
    Put::new(RETIRING).container(container).done()
}

/// The store of a retiring key.
pub(super) fn retiring_store(key: &[u8]) -> Result<StoreId, StateError> {
    let mut take = Take::new(key, "retiring key");
    take.u8()?;
    take.container()?;
    let store = StoreId(take.u64()?);
    take.end()?;
    Ok(store)
}

pub(super) fn sweep(store: StoreId, container: ContainerId) -> Vec<u8> {
    Put::new(SWEEP).u64(store.0).container(container).done()
}

pub(super) fn sweeps_of(store: StoreId) -> Vec<u8> {
    Put::new(SWEEP).u64(store.0).done()
}

/// The store and container of a sweep key.
pub(super) fn sweep_of_key(key: &[u8]) -> Result<(StoreId, ContainerId), StateError> {
    let mut take = Take::new(key, "sweep key");
    take.u8()?;
    let store = StoreId(take.u64()?);
    let container = take.container()?;
    take.end()?;
    Ok((store, container))
}

pub(super) fn feature() -> Vec<u8> {
    Put::new(FEATURE).done()
}

pub(super) fn shard() -> Vec<u8> {
    Put::new(SHARD).done()
}

pub(super) fn is_marks(key: &[u8]) -> bool {
    key.first() == Some(&MARKS)
}

pub(super) fn is_floor(key: &[u8]) -> bool {
    key.first() == Some(&FLOOR)
}

/// The store of a feed key.
pub(super) fn store_of_feed(key: &[u8]) -> Result<StoreId, StateError> {
    let mut take = Take::new(key, "feed key");
    take.u8()?;
    Ok(StoreId(take.u64()?))
}

/// The store of a store key; none for another key.
pub(super) fn store_of_key(key: &[u8]) -> Result<Option<StoreId>, StateError> {
    let mut take = Take::new(key, "store key");
    if take.u8()? != STORE {
        return Ok(None);
    }
    let store = StoreId(take.u64()?);
    take.end()?;
    Ok(Some(store))
}

/// Whether a feed key belongs to the collected feed.
pub(super) fn is_collected(key: &[u8]) -> bool {
    key.first() == Some(&COLLECTED)
}
