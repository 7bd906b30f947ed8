//! Every command and refusal of a shard, told as short transcripts; and a randomized comparison
//! with a model that knows blocks one by one.

mod audit;
mod blobs;
mod commits;
mod feeds;
mod fences;
mod model;
mod placements;
mod relocations;
mod splits;

use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, FamilyId, Generation, LayerId, NodeId, PlacementEpoch,
    Sequence, StoreId, VirtualDiskId, WriterId,
};
use hedgerow_protocol::{
    Change, Commit, CommitExtent, CommitTarget, Digest, Layout, MapExtent, MapTarget, MapView,
    MemberState, Placement, PlacementMember, ShardBatch, ShardCommand, ShardOutcome, ShardRefusal,
    ShardReply, decode, encode,
};

use super::{ShardMachine, query};
use crate::{Machine, MemoryState};

/// The container of most stories.
fn home() -> ContainerId {
    at(0)
}

fn at(index: u32) -> ContainerId {
    ContainerId {
        family: FamilyId(1),
        disk: VirtualDiskId(1),
        index: ContainerIndex(index),
    }
}

fn blob(writer: u64, sequence: u64) -> BlobName {
    BlobName {
        container: home(),
        writer: WriterId(writer),
        sequence: Sequence(sequence),
    }
}

fn stores(ids: &[u64]) -> Vec<StoreId> {
    ids.iter().map(|id| StoreId(*id)).collect()
}

fn writable(ids: &[u64]) -> Vec<PlacementMember> {
    members(
        &ids.iter()
            .map(|id| (*id, MemberState::Active))
            .collect::<Vec<_>>(),
    )
}

fn members(list: &[(u64, MemberState)]) -> Vec<PlacementMember> {
    let member = |(id, state): &(u64, MemberState)| PlacementMember {
        store: StoreId(*id),
        node: NodeId(*id),
        state: *state,
    };
    list.iter().map(member).collect()
}

/// A commit of writer 1 under generation 1 and epoch 1, acknowledged by stores 1 and 2.
fn write(sequence: u64, first_block: u32, blocks: u32) -> Commit {
    Commit {
        container: home(),
        layer: LayerId(1),
        generation: Generation(1),
        epoch: PlacementEpoch(1),
        writer: WriterId(1),
        sequence: Sequence(sequence),
        low_water: Sequence(0),
        extents: vec![CommitExtent {
            first_block,
            blocks,
            target: CommitTarget::Data {
                unit: 0,
                unit_offset_blocks: 0,
                digest: Digest(u128::from(sequence)),
            },
        }],
        acknowledged: stores(&[1, 2]),
        stored_bytes: blocks * 512,
    }
}

/// As [`write`], but it unmaps.
fn unmap(sequence: u64, first_block: u32, blocks: u32) -> Commit {
    let mut commit = write(sequence, first_block, blocks);
    commit.extents[0].target = CommitTarget::Hole;
    commit.acknowledged.clear();
    commit.stored_bytes = 0;
    commit
}

/// A shard's state and log.
struct Shard {
    state: MemoryState,
    index: u64,
}

impl Shard {
    fn empty() -> Self {
        Self {
            state: MemoryState::default(),
            index: 0,
        }
    }

    /// Writer 1 is admitted under generation 1 to layer 1; stores 1, 2 and 3 hold the container.
    fn ready() -> Self {
        let mut shard = Self::empty();
        shard.fence(1, &[1]);
        let placed = shard.place(1, writable(&[1, 2, 3]));
        assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
        shard
    }

    /// Applies one log entry through the codec, as the log would; and audits the state.
    fn entry(&mut self, commands: Vec<ShardCommand>) -> Vec<ShardOutcome> {
        self.index += 1;
        let batch = encode(&ShardBatch(commands));
        let outcomes = ShardMachine
            .apply(&mut self.state, self.index, &batch)
            .expect("a state in memory does not fail");
        audit::check(&self.state);
        decode(&outcomes).expect("the machine encodes what it answers")
    }

    fn run(&mut self, command: ShardCommand) -> ShardOutcome {
        self.entry(vec![command]).remove(0)
    }

    /// Runs a command that must be refused, and must then have changed nothing.
    fn refused(&mut self, command: ShardCommand) -> ShardRefusal {
        let before = self.state.clone();
        match self.run(command) {
            ShardOutcome::Refused(refusal) => {
                assert_eq!(self.state, before, "a refusal changes nothing");
                refusal
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn fence(&mut self, generation: u64, writers: &[u64]) -> ShardOutcome {
        self.run(fence(generation, writers))
    }

    fn place(&mut self, epoch: u64, members: Vec<PlacementMember>) -> ShardOutcome {
        self.run(place(epoch, members))
    }

    fn commit(&mut self, commit: Commit) -> ShardOutcome {
        self.run(ShardCommand::Commit(commit))
    }

    /// Commits, which must succeed.
    fn committed(&mut self, commit: Commit) -> u64 {
        match self.commit(commit) {
            ShardOutcome::Committed { index } => index,
            other => panic!("expected a commit, got {other:?}"),
        }
    }

    fn confirm(&mut self, store: u64, names: &[BlobName], epoch: u64) -> Vec<bool> {
        let names = names.iter().map(|name| (*name, PlacementEpoch(epoch)));
        let outcome = self.run(ShardCommand::Confirm {
            store: StoreId(store),
            names: names.collect(),
        });
        match outcome {
            ShardOutcome::Confirmed(known) => known,
            other => panic!("expected confirmations, got {other:?}"),
        }
    }

    fn view(&self, layers: &[u64], first_block: u32, blocks: u32) -> MapView {
        let layers: Vec<LayerId> = layers.iter().map(|layer| LayerId(*layer)).collect();
        let reply = query::look_up(
            &self.state,
            self.index,
            home(),
            &layers,
            first_block,
            blocks,
        );
        match reply {
            Ok(ShardReply::View(view)) => view,
            other => panic!("expected a view, got {other:?}"),
        }
    }

    /// The map of the first blocks, one word for each run: `w1:3+0x8` is eight blocks of blob 3 of
    /// writer 1 from its block 0 on, `hole(w1:2)x4` a versioned hole, `-x4` what was never written.
    fn map(&self, blocks: u32) -> String {
        let view = self.view(&[1], 0, blocks);
        let words: Vec<String> = view.extents.iter().map(word).collect();
        words.join(" ")
    }

    fn placement(&self) -> Placement {
        query::placement(&self.state, home())
            .expect("a state in memory does not fail")
            .expect("the container is placed")
    }

    fn pull(&self, store: u64, after: u64, limit: u32) -> Pulled {
        match query::pull(&self.state, self.index, StoreId(store), after, limit) {
            Ok(ShardReply::Changes {
                changes,
                next,
                more,
                full,
            }) => Pulled {
                changes,
                next,
                more,
                full,
            },
            other => panic!("expected changes, got {other:?}"),
        }
    }

    /// The blobs that `store` is told to get.
    fn lacks(&self, store: u64) -> Vec<u64> {
        let pulled = self.pull(store, 0, query::MAXIMUM_PULL_CHANGES);
        let lacked = pulled.changes.iter().filter_map(|change| match change {
            Change::Incomplete { blob, .. } => Some(blob.sequence.0),
            _ => None,
        });
        let mut lacked: Vec<u64> = lacked.collect();
        lacked.sort_unstable();
        lacked
    }
}

struct Pulled {
    changes: Vec<Change>,
    next: u64,
    more: bool,
    full: bool,
}

fn word(extent: &MapExtent) -> String {
    let version = extent
        .version
        .map(|version| format!("{}:{}", version.writer, version.sequence.0));
    match (extent.target, version) {
        (MapTarget::Hole, None) => format!("-x{}", extent.blocks),
        (MapTarget::Hole, Some(version)) => format!("hole({version})x{}", extent.blocks),
        (
            MapTarget::Data {
                blob,
                unit_offset_blocks,
                ..
            },
            _,
        ) => format!(
            "{}:{}+{unit_offset_blocks}x{}",
            blob.writer, blob.sequence.0, extent.blocks
        ),
    }
}

fn fence(generation: u64, writers: &[u64]) -> ShardCommand {
    ShardCommand::Fence {
        container: home(),
        generation: Generation(generation),
        writers: writers.iter().map(|writer| WriterId(*writer)).collect(),
        layer: LayerId(1),
    }
}

fn floor(generation: u64, writers: &[u64]) -> ShardCommand {
    ShardCommand::Floor {
        disk: VirtualDiskId(1),
        family: FamilyId(1),
        generation: Generation(generation),
        writers: writers.iter().map(|writer| WriterId(*writer)).collect(),
        layer: LayerId(1),
    }
}

fn place(epoch: u64, members: Vec<PlacementMember>) -> ShardCommand {
    ShardCommand::Place {
        container: home(),
        generation: Generation(1),
        epoch: PlacementEpoch(epoch),
        members,
        layout: Layout::Replicated { copies: 3 },
        write_quorum: 2,
        lost: Vec::new(),
    }
}

fn void(sequences: &[u64], low_water: u64) -> ShardCommand {
    ShardCommand::Void {
        container: home(),
        writer: WriterId(1),
        sequences: sequences
            .iter()
            .map(|sequence| Sequence(*sequence))
            .collect(),
        low_water: Sequence(low_water),
    }
}

fn collect(writer: u64, sequences: &[u64]) -> ShardCommand {
    ShardCommand::Collect {
        container: home(),
        writer: WriterId(writer),
        sequences: sequences
            .iter()
            .map(|sequence| Sequence(*sequence))
            .collect(),
    }
}
