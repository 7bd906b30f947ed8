//! The values of a shard's tables, apart from the marks and the map.
//!
//! Invariants: a member's `missing` counts exactly the live blobs that its slot does not hold, and
//! `owed` those of them that are older than its joining; a slot number is never used twice within
//! its container, so a store that left and came back holds nothing by mistake.

use hedgerow_env::{
    ContainerId, Generation, LayerId, NodeId, PlacementEpoch, Sequence, StoreId, WriterId,
};
use hedgerow_protocol::{Layout, MemberState, Placement, PlacementMember};

use super::keys::Position;
use crate::StateError;
use crate::fields::{Put, Take};

/// Who may commit, and to which layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) generation: Generation,
    pub(super) writers: Vec<WriterId>,
    pub(super) layer: LayerId,
}

impl Fence {
    pub(super) fn admits(&self, writer: WriterId) -> bool {
        self.writers.contains(&writer)
    }

    fn put(&self, mut put: Put) -> Put {
        put = put.u64(self.generation.0).u64(self.layer.0);
        let count = u16::try_from(self.writers.len()).expect("bounded when it was admitted");
        put = put.u16(count);
        for writer in &self.writers {
            put = put.u64(writer.0);
        }
        put
    }

    fn take(take: &mut Take<'_>) -> Result<Self, StateError> {
        let generation = Generation(take.u64()?);
        let layer = LayerId(take.u64()?);
        let count = take.u16()?;
        let writers = (0..count)
            .map(|_| Ok(WriterId(take.u64()?)))
            .collect::<Result<_, StateError>>()?;
        Ok(Self {
            generation,
            writers,
            layer,
        })
    }
}

/// The floor of a disk: it fences every container of it, existing or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FloorRow {
    pub(super) fence: Fence,
    /// The highest writer that any floor admitted.
    pub(super) highest_writer: WriterId,
    /// The disk was deleted: the floor is the highest and stays for ever.
    pub(super) deleted: bool,
}

impl FloorRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let put = Put::value()
            .u8(u8::from(self.deleted))
            .u64(self.highest_writer.0);
        self.fence.put(put).done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "floor");
        let deleted = take.u8()? != 0;
        let highest_writer = WriterId(take.u64()?);
        let fence = Fence::take(&mut take)?;
        take.end()?;
        Ok(Self {
            fence,
            highest_writer,
            deleted,
        })
    }
}

/// A member of a placement, with what it lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemberRow {
    pub(super) store: StoreId,
    pub(super) node: NodeId,
    pub(super) state: MemberState,
    /// Its number within the container; blobs name their holders by it.
    pub(super) slot: u32,
    /// When it joined, or was taken back.
    pub(super) joined: Position,
    /// Live blobs that it does not hold.
    pub(super) missing: u64,
    /// Their stored bytes.
    pub(super) missing_bytes: u64,
    /// Those of them that were committed before it joined: at zero it is no longer filling.
    pub(super) owed: u64,
    /// Its newest placement news in its store's feed.
    pub(super) placed: Position,
}

impl MemberRow {
    /// Whether new blobs go to it and its acknowledgements count.
    pub(super) fn is_writable(&self) -> bool {
        self.state != MemberState::Resting
    }

    /// One live blob more that it lacks.
    pub(super) fn lacks(&mut self, stored_bytes: u32) {
        self.missing += 1;
        self.missing_bytes += u64::from(stored_bytes);
    }

    /// One blob less that it lacks: it got it, or the blob is gone.
    pub(super) fn lacks_no_more(&mut self, blob: &BlobRow) {
        assert!(self.missing > 0, "counted when the blob was committed");
        self.missing -= 1;
        self.missing_bytes -= u64::from(blob.stored_bytes);
        if blob.committed < self.joined {
            assert!(self.owed > 0, "older than its joining, so it was owed");
            self.owed -= 1;
        }
        self.settle();
    }

    /// A filling member that is owed nothing is active.
    pub(super) fn settle(&mut self) {
        if self.state == MemberState::Filling && self.owed == 0 {
            self.state = MemberState::Active;
        }
    }

    fn put(&self, put: Put) -> Put {
        let state = match self.state {
            MemberState::Active => 0,
            MemberState::Filling => 1,
            MemberState::Resting => 2,
        };
        put.u64(self.store.0)
            .u64(self.node.0)
            .u8(state)
            .u32(self.slot)
            .u64(self.joined.index)
            .u32(self.joined.sub)
            .u64(self.missing)
            .u64(self.missing_bytes)
            .u64(self.owed)
            .u64(self.placed.index)
            .u32(self.placed.sub)
    }

    fn take(take: &mut Take<'_>) -> Result<Self, StateError> {
        Ok(Self {
            store: StoreId(take.u64()?),
            node: NodeId(take.u64()?),
            state: match take.u8()? {
                0 => MemberState::Active,
                1 => MemberState::Filling,
                2 => MemberState::Resting,
                _ => return Err(take.damaged("names no member state")),
            },
            slot: take.u32()?,
            joined: Position {
                index: take.u64()?,
                sub: take.u32()?,
            },
            missing: take.u64()?,
            missing_bytes: take.u64()?,
            owed: take.u64()?,
            placed: Position {
                index: take.u64()?,
                sub: take.u32()?,
            },
        })
    }
}

/// The placement of a container, with what each member lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlacementRow {
    pub(super) epoch: PlacementEpoch,
    pub(super) generation: Generation,
    pub(super) copies: u8,
    pub(super) write_quorum: u8,
    pub(super) members: Vec<MemberRow>,
}

impl PlacementRow {
    /// As others see it.
    pub(super) fn view(&self) -> Placement {
        Placement {
            epoch: self.epoch,
            generation: self.generation,
            members: self
                .members
                .iter()
                .map(|member| PlacementMember {
                    store: member.store,
                    node: member.node,
                    state: member.state,
                })
                .collect(),
            layout: Layout::Replicated {
                copies: self.copies,
            },
            write_quorum: self.write_quorum,
        }
    }

    pub(super) fn member(&self, store: StoreId) -> Option<&MemberRow> {
        self.members.iter().find(|member| member.store == store)
    }

    pub(super) fn member_mut(&mut self, store: StoreId) -> Option<&mut MemberRow> {
        self.members.iter_mut().find(|member| member.store == store)
    }
}

/// A container that exists here: fenced, placed or both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ContainerRow {
    /// Log index of the newest change of its map.
    pub(super) last_change: u64,
    pub(super) live_blobs: u64,
    pub(super) stored_bytes: u64,
    /// The highest writer that was ever admitted here.
    pub(super) highest_writer: WriterId,
    pub(super) next_slot: u32,
    pub(super) fence: Option<Fence>,
    pub(super) placement: Option<PlacementRow>,
}

impl ContainerRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut put = Put::value()
            .u64(self.last_change)
            .u64(self.live_blobs)
            .u64(self.stored_bytes)
            .u64(self.highest_writer.0)
            .u32(self.next_slot)
            .u8(u8::from(self.fence.is_some()))
            .u8(u8::from(self.placement.is_some()));
        if let Some(fence) = &self.fence {
            put = fence.put(put);
        }
        if let Some(placement) = &self.placement {
            put = put
                .u64(placement.epoch.0)
                .u64(placement.generation.0)
                .u8(placement.copies)
                .u8(placement.write_quorum)
                .u8(u8::try_from(placement.members.len()).expect("bounded when placed"));
            for member in &placement.members {
                put = member.put(put);
            }
        }
        put.done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "container");
        let mut row = Self {
            last_change: take.u64()?,
            live_blobs: take.u64()?,
            stored_bytes: take.u64()?,
            highest_writer: WriterId(take.u64()?),
            next_slot: take.u32()?,
            fence: None,
            placement: None,
        };
        let fenced = take.u8()? != 0;
        let placed = take.u8()? != 0;
        if fenced {
            row.fence = Some(Fence::take(&mut take)?);
        }
        if placed {
            let mut placement = PlacementRow {
                epoch: PlacementEpoch(take.u64()?),
                generation: Generation(take.u64()?),
                copies: take.u8()?,
                write_quorum: take.u8()?,
                members: Vec::new(),
            };
            for _ in 0..take.u8()? {
                placement.members.push(MemberRow::take(&mut take)?);
            }
            row.placement = Some(placement);
        }
        take.end()?;
        Ok(row)
    }
}

/// A row in a store's feed which says that the store lacks a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) store: StoreId,
    pub(super) position: Position,
}

/// A live blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlobRow {
    /// Blocks of the map that refer to it.
    pub(super) live_blocks: u32,
    pub(super) stored_bytes: u32,
    /// When it was committed.
    pub(super) committed: Position,
    /// Slots of the members that hold it durably.
    pub(super) holders: Vec<u32>,
    /// Where stores' feeds say that they lack it.
    pub(super) listed: Vec<Listed>,
}

impl BlobRow {
    pub(super) fn is_held_by(&self, slot: u32) -> bool {
        self.holders.contains(&slot)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut put = Put::value()
            .u32(self.live_blocks)
            .u32(self.stored_bytes)
            .u64(self.committed.index)
            .u32(self.committed.sub)
            .u8(u8::try_from(self.holders.len()).expect("at most the members"));
        for slot in &self.holders {
            put = put.u32(*slot);
        }
        for listed in &self.listed {
            put = put
                .u64(listed.store.0)
                .u64(listed.position.index)
                .u32(listed.position.sub);
        }
        put.done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "blob");
        let mut row = Self {
            live_blocks: take.u32()?,
            stored_bytes: take.u32()?,
            committed: Position {
                index: take.u64()?,
                sub: take.u32()?,
            },
            holders: Vec::new(),
            listed: Vec::new(),
        };
        for _ in 0..take.u8()? {
            row.holders.push(take.u32()?);
        }
        while !take.clone().rest().is_empty() {
            row.listed.push(Listed {
                store: StoreId(take.u64()?),
                position: Position {
                    index: take.u64()?,
                    sub: take.u32()?,
                },
            });
        }
        Ok(row)
    }
}

/// One entry of a store's feed; what it says in full is read when it is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeedRow {
    Placed(ContainerId),
    Incomplete(hedgerow_env::BlobName),
    Retire(ContainerId, PlacementEpoch),
}

impl FeedRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Placed(container) => Put::new(0).container(*container).done(),
            Self::Incomplete(name) => Put::new(1)
                .container(name.container)
                .u64(name.writer.0)
                .u64(name.sequence.0)
                .done(),
            Self::Retire(container, epoch) => Put::new(2).container(*container).u64(epoch.0).done(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "feed");
        let tag = take.u8()?;
        let container = take.container()?;
        let row = match tag {
            0 => Self::Placed(container),
            1 => Self::Incomplete(hedgerow_env::BlobName {
                container,
                writer: WriterId(take.u64()?),
                sequence: Sequence(take.u64()?),
            }),
            2 => Self::Retire(container, PlacementEpoch(take.u64()?)),
            _ => return Err(take.damaged("names no kind of news")),
        };
        take.end()?;
        Ok(row)
    }
}

/// Names that were collected, as a store's feed lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CollectedRow {
    pub(super) container: ContainerId,
    pub(super) writer: WriterId,
    pub(super) sequences: Vec<Sequence>,
}

impl CollectedRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut put = Put::value().container(self.container).u64(self.writer.0);
        for sequence in &self.sequences {
            put = put.u64(sequence.0);
        }
        put.done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "collected");
        let mut row = Self {
            container: take.container()?,
            writer: WriterId(take.u64()?),
            sequences: Vec::new(),
        };
        while !take.clone().rest().is_empty() {
            row.sequences.push(Sequence(take.u64()?));
        }
        Ok(row)
    }
}

/// How far a store has come with its feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StoreRow {
    /// It has durably handled everything up to this log index.
    pub(super) handled: u64,
    /// Rows in its collected feed.
    pub(super) collected: u32,
    /// Collected rows up to this log index were dropped unhandled.
    pub(super) dropped: u64,
}

impl StoreRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        Put::value()
            .u64(self.handled)
            .u32(self.collected)
            .u64(self.dropped)
            .done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "store");
        let row = Self {
            handled: take.u64()?,
            collected: take.u32()?,
            dropped: take.u64()?,
        };
        take.end()?;
        Ok(row)
    }
}

/// A store that left a container and has not confirmed that it dropped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RetiringRow {
    /// The epoch in which it left.
    pub(super) epoch: PlacementEpoch,
    /// Where its feed says so.
    pub(super) position: Position,
}

impl RetiringRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        Put::value()
            .u64(self.epoch.0)
            .u64(self.position.index)
            .u32(self.position.sub)
            .done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "retiring");
        let row = Self {
            epoch: PlacementEpoch(take.u64()?),
            position: Position {
                index: take.u64()?,
                sub: take.u32()?,
            },
        };
        take.end()?;
        Ok(row)
    }
}
