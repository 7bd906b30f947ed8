//! The model: two containers as their blocks, attempts, members and holders.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_env::{
    ContainerId, ContainerIndex, FamilyId, Generation, NodeId, PlacementEpoch, StoreId,
    VirtualDiskId,
};
use hedgerow_protocol::{AttemptEnd, Layout, MemberState, PlacementMember, ShardCommand};

pub(crate) const BLOCKS: u32 = 32;
pub(crate) const CONTAINERS: u32 = 2;
pub(crate) const STORES: u64 = 7;
pub(crate) const COPIES: u8 = 3;
pub(crate) const QUORUM: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    Never,
    Hole(u64, u64),
    /// The version and where the bytes are.
    Data((u64, u64), Place),
}

/// Where the bytes of a block are: the blob, the unit, the offset of the block in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) blob: (u64, u64),
    pub(crate) unit: u16,
    pub(crate) offset: u16,
}

/// What a block has in it: the client's write (writer, sequence) and the block that it wrote.
pub(crate) type Content = ((u64, u64), u32);

impl Block {
    pub(crate) fn version(self) -> Option<(u64, u64)> {
        match self {
            Self::Never => None,
            Self::Hole(writer, sequence) => Some((writer, sequence)),
            Self::Data(version, _) => Some(version),
        }
    }
}

/// A generation with its writers.
pub(crate) type Fence = (u64, BTreeSet<u64>);

#[derive(Debug, Default)]
pub(crate) struct Attempts {
    pub(crate) low_water: u64,
    pub(crate) ends: BTreeMap<u64, AttemptEnd>,
}

impl Attempts {
    /// L as an honest writer says it: the lowest sequence that has not ended.
    pub(crate) fn settled(&self) -> u64 {
        (1..)
            .find(|sequence| !self.ends.contains_key(sequence))
            .expect("sequences do not end")
    }
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) blocks: Vec<Block>,
    pub(crate) fence: Option<Fence>,
    pub(crate) attempts: BTreeMap<u64, Attempts>,
    pub(crate) epoch: u64,
    /// Store and whether it rests.
    pub(crate) members: Vec<(u64, bool)>,
    /// Who holds the blobs that were committed, and how many bytes they store.
    pub(crate) blobs: BTreeMap<(u64, u64), (BTreeSet<u64>, u32)>,
    /// What the blobs have in them, the present ones and those of attempts that were sent.
    pub(crate) contents: BTreeMap<Place, Content>,
    /// Names that were collected: never to be committed, for ever.
    pub(crate) collected: BTreeSet<(u64, u64)>,
}

impl Container {
    pub(crate) fn new() -> Self {
        Self {
            blocks: vec![Block::Never; BLOCKS as usize],
            fence: None,
            attempts: BTreeMap::new(),
            epoch: 1,
            members: vec![(1, false), (2, false), (3, false)],
            blobs: BTreeMap::new(),
            contents: BTreeMap::new(),
            collected: BTreeSet::new(),
        }
    }

    pub(crate) fn is_live(&self, name: (u64, u64)) -> bool {
        let refers = |block: &Block| matches!(block, Block::Data(_, at) if at.blob == name);
        self.blocks.iter().any(refers)
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (&(u64, u64), &(BTreeSet<u64>, u32))> {
        self.blobs.iter().filter(|(name, _)| self.is_live(**name))
    }

    pub(crate) fn writable(&self) -> impl Iterator<Item = u64> {
        self.members
            .iter()
            .filter(|(_, rests)| !rests)
            .map(|(store, _)| *store)
    }
}

pub(crate) fn place_command(
    container: u32,
    epoch: u64,
    members: &[(u64, bool)],
    generation: u64,
) -> ShardCommand {
    let member = |(store, rests): &(u64, bool)| PlacementMember {
        store: StoreId(*store),
        node: NodeId(*store),
        state: if *rests {
            MemberState::Resting
        } else {
            MemberState::Active
        },
    };
    ShardCommand::Place {
        container: id(container),
        generation: Generation(generation),
        epoch: PlacementEpoch(epoch),
        members: members.iter().map(member).collect(),
        layout: Layout::Replicated { copies: COPIES },
        write_quorum: u8::try_from(QUORUM).expect("two"),
        lost: Vec::new(),
    }
}

pub(crate) fn id(container: u32) -> ContainerId {
    ContainerId {
        family: FamilyId(1),
        disk: VirtualDiskId(1),
        index: ContainerIndex(container),
    }
}

pub(crate) fn some_of(members: &[(u64, bool)], mask: u8) -> Vec<StoreId> {
    let taken = members
        .iter()
        .enumerate()
        .filter(|(at, _)| mask & (1 << (at % 8)) != 0);
    taken.map(|(_, (store, _))| StoreId(*store)).collect()
}
