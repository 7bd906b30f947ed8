//! A shard group: the authority for its containers' placement, fences, block maps and blobs.
//!
//! Commands are those of DESIGN section 3. Blocks are units of 512 bytes within the container.

use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, FamilyId, Generation, GroupId, LayerId, MapEpoch,
    PlacementEpoch, Sequence, StoreId, VirtualDiskId, WriterId,
};
use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{Digest, Layout, Placement, PlacementMember, Policy, ShardRange, Version};

/// Most extents in one commit: 1 MiB in 512-byte pieces of distinct units never needs more.
pub const MAXIMUM_EXTENTS: usize = 2048;
/// Most sequences above the low-water mark that a shard remembers for one writer and container.
pub const MAXIMUM_MARKS: usize = 4096;

/// What a range of blocks refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommitTarget {
    /// Bytes of the commit's own blob.
    Data {
        /// The unit.
        unit: u16,
        /// Where in the unit's plain bytes the range begins, in 512-byte blocks.
        unit_offset_blocks: u16,
        /// The unit's digest.
        digest: Digest,
    },
    /// Zeros.
    Hole,
}

/// One range of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitExtent {
    /// The first block within the container.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// What they refer to.
    pub target: CommitTarget,
}

/// The map commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The container.
    pub container: ContainerId,
    /// The layer that is written.
    pub layer: LayerId,
    /// The writer's generation.
    pub generation: Generation,
    /// The placement epoch under which `acknowledged` was given.
    pub epoch: PlacementEpoch,
    /// The writer.
    pub writer: WriterId,
    /// Its sequence: the blob's name, and the version of the write.
    pub sequence: Sequence,
    /// The lowest sequence that is neither applied nor void.
    pub low_water: Sequence,
    /// What is written.
    pub extents: Vec<CommitExtent>,
    /// Members that hold the blob durably under `epoch`; empty when there are only holes.
    pub acknowledged: Vec<StoreId>,
    /// Stored bytes of the blob, for accounting; 0 when there are only holes.
    pub stored_bytes: u32,
}

/// Most extents in one relocation: what a header can say of a blob that is put together from
/// others ([`crate::MAXIMUM_MOVED`]).
pub const MAXIMUM_MOVES: usize = crate::MAXIMUM_MOVED;

/// One range of a relocation: blocks that refer to a unit of an old blob, and where in the new blob
/// the same bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The first block within the container.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// The old blob, of the same container.
    pub from: BlobName,
    /// Its unit.
    pub from_unit: u16,
    /// Where in that unit the range begins, in 512-byte blocks.
    pub from_offset_blocks: u16,
    /// That unit's digest.
    pub from_digest: Digest,
    /// The unit of the new blob.
    pub unit: u16,
    /// Where in it the range begins, in 512-byte blocks.
    pub unit_offset_blocks: u16,
    /// The new unit's digest.
    pub digest: Digest,
}

/// Makes entries that still refer to old blobs refer to a new one that has the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocate {
    /// The container.
    pub container: ContainerId,
    /// The layer whose entries are changed; it may be frozen, for no content changes.
    pub layer: LayerId,
    /// The generation of the fence.
    pub generation: Generation,
    /// The placement epoch under which `acknowledged` was given.
    pub epoch: PlacementEpoch,
    /// Who relocates.
    pub writer: WriterId,
    /// The new blob's name; no version of anything.
    pub sequence: Sequence,
    /// The lowest sequence that is neither applied nor void.
    pub low_water: Sequence,
    /// What is moved.
    pub moves: Vec<Move>,
    /// Members that hold the new blob durably under `epoch`.
    pub acknowledged: Vec<StoreId>,
    /// Stored bytes of the new blob.
    pub stored_bytes: u32,
}

/// A command of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardCommand {
    /// The only way that a placement exists or changes.
    Place {
        /// The container.
        container: ContainerId,
        /// The disk's generation.
        generation: Generation,
        /// Current epoch + 1 (1 for a new container).
        epoch: PlacementEpoch,
        /// All members, resting ones included.
        members: Vec<PlacementMember>,
        /// How blobs are laid out.
        layout: Layout,
        /// W.
        write_quorum: u8,
        /// Stores declared lost: they may leave without being drained.
        lost: Vec<StoreId>,
    },
    /// Admits exactly these writers to the container under this generation.
    Fence {
        /// The container.
        container: ContainerId,
        /// The generation.
        generation: Generation,
        /// The admitted writers.
        writers: Vec<WriterId>,
        /// The layer that is written under it; older ones are frozen.
        layer: LayerId,
    },
    /// Fences every container of a disk, existing or not.
    Floor {
        /// The disk.
        disk: VirtualDiskId,
        /// Its family.
        family: FamilyId,
        /// The generation below which everything is refused.
        generation: Generation,
        /// The admitted writers.
        writers: Vec<WriterId>,
        /// The layer that is written under it; older ones are frozen.
        layer: LayerId,
    },
    /// The map commit.
    Commit(Commit),
    /// Ends attempts: each is answered *applied*, or recorded as void and refused from then on.
    Void {
        /// The container.
        container: ContainerId,
        /// The writer.
        writer: WriterId,
        /// The sequences to end.
        sequences: Vec<Sequence>,
        /// The lowest sequence that is neither applied nor void.
        low_water: Sequence,
    },
    /// Frees names that nothing refers to and that can no longer be committed; checked when applied.
    Collect {
        /// The container.
        container: ContainerId,
        /// The writer.
        writer: WriterId,
        /// The sequences.
        sequences: Vec<Sequence>,
    },
    /// A store holds these blobs durably.
    Confirm {
        /// The store.
        store: StoreId,
        /// Names, each with the epoch under which it is confirmed.
        names: Vec<(BlobName, PlacementEpoch)>,
    },
    /// A store has durably handled its feed up to `index`: what lies below may be forgotten.
    Handled {
        /// The store.
        store: StoreId,
        /// The feed index.
        index: u64,
    },
    /// A store has dropped a container that it was told to retire in `epoch`.
    Retired {
        /// The container.
        container: ContainerId,
        /// The store.
        store: StoreId,
        /// The epoch in which it left.
        epoch: PlacementEpoch,
    },
    /// One bounded step of dropping a deleted disk; answered [`ShardOutcome::Dropped`].
    Drop {
        /// The disk.
        disk: VirtualDiskId,
        /// Its family.
        family: FamilyId,
        /// Its layers.
        layers: Vec<LayerId>,
    },
    /// Commits a feature level in this group's log.
    Finalise {
        /// The level.
        feature_level: u16,
    },
    /// Moves what is left of mostly dead blobs; answered [`ShardOutcome::Committed`].
    Relocate(Relocate),
    /// From here on the containers of `range` are another shard's, and what is kept of them stands
    /// still until it is cleared; answered [`ShardOutcome::Split`], also when it is repeated.
    Split {
        /// The shard to which they move.
        to: GroupId,
        /// What moves: half of what this shard has.
        range: ShardRange,
        /// The map epoch that those who ask for such a container are told.
        epoch: MapEpoch,
    },
    /// The first command of a shard that a split makes: it receives rows, and serves nobody yet.
    /// Answered [`ShardOutcome::Adopted`], also when it is repeated.
    Begin {
        /// What it will have.
        range: ShardRange,
        /// The position of the split in the old shard's log: positions are counted on from it.
        base: u64,
        /// The map epoch that those who ask for another container are told.
        epoch: MapEpoch,
    },
    /// Rows of the old shard, in order; answered [`ShardOutcome::Adopted`]. Repeated, it changes
    /// nothing.
    Adopt {
        /// Where the page begins.
        from: Vec<u8>,
        /// Keys and values as they stand there.
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        /// Where the next page begins; none after the last.
        next: Option<Vec<u8>>,
    },
    /// Everything was adopted: serve. Refused before that.
    Open,
    /// One bounded step of removing what moved to `to`; answered [`ShardOutcome::Cleared`].
    Clear {
        /// The shard that has it now.
        to: GroupId,
        /// The map epoch from which the table shows it.
        epoch: MapEpoch,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// Its commit was applied.
    Applied,
    /// It had no effect and never will.
    Void,
}

/// Why a shard refused; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ShardRefusal {
    /// The writer was fenced: attach again.
    #[error("stale generation; the fence stands at {current}")]
    StaleGeneration {
        /// The generation of the fence or floor.
        current: Generation,
    },
    /// The writer is not admitted under this generation.
    #[error("writer not admitted")]
    NotAdmitted,
    /// FENCE the container first.
    #[error("the container has no fence")]
    NotFenced,
    /// Ask the members again under the current epoch.
    #[error("stale placement epoch {}", current.epoch)]
    StaleEpoch {
        /// The placement that stands.
        current: Placement,
    },
    /// PLACE the container first.
    #[error("the container has no placement")]
    NotPlaced,
    /// A placement that breaks a rule.
    #[error("placement refused: {reason}")]
    BadPlacement {
        /// The rule.
        reason: String,
        /// The placement that stands, if any.
        current: Option<Placement>,
    },
    /// Get more acknowledgements.
    #[error("{got} acknowledgements of current members, {needed} needed")]
    TooFewAcknowledged {
        /// Counted.
        got: u8,
        /// W.
        needed: u8,
    },
    /// The layer is not the one that is written.
    #[error("the layer is frozen")]
    FrozenLayer,
    /// The name was collected; it can never be committed.
    #[error("the name was collected")]
    Collected,
    /// The sequence was ended without effect.
    #[error("the sequence is void")]
    Void,
    /// The sequence lies below the low-water mark and its outcome is no longer kept.
    #[error("the sequence lies below the low-water mark")]
    BelowLowWater,
    /// Too many sequences above the low-water mark: settle older ones first.
    #[error("too many unsettled sequences")]
    TooManyMarks,
    /// The disk was deleted.
    #[error("the disk was deleted")]
    Deleted,
    /// The command contradicts itself.
    #[error("malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// Refused by the committed feature level.
    #[error("needs feature level {needed}")]
    FeatureLevel {
        /// What the command needs.
        needed: u16,
    },
    /// Too few usable nodes for the policy at this moment: retry later.
    #[error("no placement possible now: {reason}")]
    Unplaceable {
        /// What is missing.
        reason: String,
    },
    /// The container is another shard's: get a table of this epoch or a later one, and ask again.
    #[error("the container moved to another shard by map {epoch}")]
    Moved {
        /// The map epoch known here.
        epoch: MapEpoch,
    },
    /// The shard still receives what it will have: ask again later.
    #[error("the shard does not serve yet")]
    NotServing,
}

/// The result of a shard command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardOutcome {
    /// Applied; nothing to tell.
    Done,
    /// The placement that stands now.
    Placed(Placement),
    /// Applied now or earlier, at this log index.
    Committed {
        /// Index of the change, for metacache fills.
        index: u64,
    },
    /// The fence stands; here is what a cache must know.
    Fenced {
        /// Index of the container's newest change.
        last_change: u64,
        /// The placement, if there is one.
        placement: Option<Placement>,
    },
    /// How each attempt ended.
    Ended(Vec<(Sequence, AttemptEnd)>),
    /// For each name, whether it is known (unknown: not committed yet, nothing was changed).
    Confirmed(Vec<bool>),
    /// A step of a drop; `finished` when nothing of the disk is left.
    Dropped {
        /// Nothing is left.
        finished: bool,
    },
    /// Which of the sequences were collected.
    Collected(Vec<Sequence>),
    /// Refused; nothing changed.
    Refused(ShardRefusal),
    /// The split stands.
    Split {
        /// Its position in this shard's log.
        position: u64,
    },
    /// The rows before this key were adopted.
    Adopted {
        /// Where the next page begins; none when all were.
        next: Option<Vec<u8>>,
    },
    /// A step of clearing; `finished` when nothing is left of what moved.
    Cleared {
        /// Nothing is left.
        finished: bool,
    },
}

/// What a range of blocks of a disk refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapTarget {
    /// Bytes of a blob.
    Data {
        /// The blob.
        blob: BlobName,
        /// The unit.
        unit: u16,
        /// Where in the unit's plain bytes the range begins, in 512-byte blocks.
        unit_offset_blocks: u16,
        /// The unit's digest.
        digest: Digest,
    },
    /// Zeros: unmapped, zeroed or never written.
    Hole,
}

/// One entry of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapExtent {
    /// The first block within the container.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// What they refer to.
    pub target: MapTarget,
    /// The version of the client write; none where nothing was ever written.
    pub version: Option<Version>,
}

/// Where a container's blobs are, for readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapView {
    /// The shard's log index that the view reflects.
    pub index: u64,
    /// Index of the container's newest change.
    pub last_change: u64,
    /// The generation of the container's fence, if it has one.
    pub generation: Option<Generation>,
    /// The whole range that was asked for, without gaps.
    pub extents: Vec<MapExtent>,
    /// Placements of every container whose blobs the extents name.
    pub placements: Vec<(ContainerId, Placement)>,
    /// Members that lack a blob that the extents name.
    pub incomplete: Vec<(BlobName, Vec<StoreId>)>,
}

/// News for a store, from its shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The store is a member of this placement.
    Placed {
        /// The container.
        container: ContainerId,
        /// The placement.
        placement: Placement,
    },
    /// The store is expected to hold this blob and has not confirmed it.
    Incomplete {
        /// The blob.
        blob: BlobName,
        /// The epoch to confirm it under.
        epoch: PlacementEpoch,
        /// Members that have it.
        sources: Vec<StoreId>,
    },
    /// These names were collected: delete them, refuse them later.
    Collected {
        /// The container.
        container: ContainerId,
        /// The writer.
        writer: WriterId,
        /// The sequences.
        sequences: Vec<Sequence>,
    },
    /// The store left the container in `epoch`: delete what it has of it, unless its own epoch of the
    /// container is higher.
    Retire {
        /// The container.
        container: ContainerId,
        /// The epoch in which it left.
        epoch: PlacementEpoch,
    },
}

/// What a shard knows about a name that an HBlock holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameState {
    /// Entries refer to it.
    Live,
    /// It may yet be committed.
    Pending,
    /// It is free: nothing refers to it and it can no longer be committed.
    Collected,
    /// Not known here at all: quarantine it, do not delete it.
    Unknown,
}

/// A request to a shard's leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardRequest {
    /// Propose these commands; they are applied in order, and answered one by one.
    Propose(Vec<ShardCommand>),
    /// Make sure that the container is placed: answered [`ShardReply::Placed`].
    EnsurePlaced {
        /// The container.
        container: ContainerId,
        /// The disk's generation.
        generation: Generation,
        /// The disk's policy.
        policy: Policy,
    },
    /// Replace members that do not answer: answered [`ShardReply::Placed`].
    Substitute {
        /// The container.
        container: ContainerId,
        /// The disk's generation.
        generation: Generation,
        /// The disk's policy.
        policy: Policy,
        /// The epoch that the requester knows; a newer one is answered as it stands.
        epoch: PlacementEpoch,
        /// The members that do not answer.
        unavailable: Vec<StoreId>,
    },
    /// A linearizable look-up of a range through a chain of layers, newest first.
    Lookup {
        /// The container.
        container: ContainerId,
        /// The layers, newest first.
        layers: Vec<LayerId>,
        /// First block.
        first_block: u32,
        /// How many blocks.
        blocks: u32,
    },
    /// What concerns a store after the feed index that it has handled.
    Pull {
        /// The store.
        store: StoreId,
        /// The feed index that the store has durably handled.
        after: u64,
        /// At most this many changes.
        limit: u32,
    },
    /// What is known of these names of one store.
    Names {
        /// Who asks.
        store: StoreId,
        /// The names.
        names: Vec<BlobName>,
    },
    /// All containers of a disk at once: refused, for there is no limit to them. Only builds before
    /// [`ShardRequest::ContainersAfter`] ask so.
    Containers {
        /// The family.
        family: FamilyId,
        /// The disk.
        disk: VirtualDiskId,
    },
    /// Counters for status and oracles.
    Statistics,
    /// Which blobs the shard counts a store as holding, in order, some at a time.
    Holdings {
        /// The store.
        store: StoreId,
        /// Those after this one.
        after: Option<BlobName>,
    },
    /// Containers of a disk that exist in this shard, in order, some at a time.
    ContainersAfter {
        /// The family.
        family: FamilyId,
        /// The disk.
        disk: VirtualDiskId,
        /// Those after this one.
        after: Option<ContainerIndex>,
    },
    /// Ranges of a layer that refer to mostly dead blobs of the container itself, some at a time:
    /// answered [`ShardReply::Sparse`].
    Sparse {
        /// The container.
        container: ContainerId,
        /// The layer.
        layer: LayerId,
        /// Look from this block on.
        first_block: u32,
    },
    /// Rows that move to another shard by a split, some at a time: answered
    /// [`ShardReply::Moving`].
    Moving {
        /// The shard to which they move.
        to: GroupId,
        /// Where the page begins; empty: at the first row.
        from: Vec<u8>,
    },
}

/// Counters of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShardStatistics {
    /// Placed containers.
    pub containers: u64,
    /// Live blobs.
    pub blobs: u64,
    /// Stored bytes of live blobs, one copy.
    pub stored_bytes: u64,
    /// (blob, store) pairs in `incomplete`.
    pub incomplete: u64,
    /// Stored bytes of those pairs.
    pub under_replicated_bytes: u64,
}

/// The reply of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardReply {
    /// One outcome for each command.
    Outcomes(Vec<ShardOutcome>),
    /// The placement that stands, with each member's address.
    Placed {
        /// The placement.
        placement: Placement,
    },
    /// The look-up.
    View(MapView),
    /// News for the store.
    Changes {
        /// In order of the feed.
        changes: Vec<Change>,
        /// Everything up to this feed index is in `changes` or was handled before.
        next: u64,
        /// More is waiting.
        more: bool,
        /// The store was too far behind: `changes` begins a full listing instead of a suffix.
        full: bool,
    },
    /// One state for each name.
    Names(Vec<NameState>),
    /// The containers with their placements; builds before [`ShardReply::ContainersAfter`] answer so.
    Containers(Vec<(ContainerId, Placement)>),
    /// The counters.
    Statistics(ShardStatistics),
    /// Refused; nothing changed.
    Refused(ShardRefusal),
    /// Blobs that a store is counted as holding.
    Holdings {
        /// Their names.
        names: Vec<BlobName>,
        /// Where to go on; none at the end.
        next: Option<BlobName>,
    },
    /// Containers of a disk.
    ContainersAfter {
        /// Each with its placement; one that has only holes has none.
        found: Vec<(ContainerId, Option<Placement>)>,
        /// Whether there are more after the last of them.
        more: bool,
    },
    /// What refers to mostly dead blobs.
    Sparse {
        /// Their ranges in order, with gaps; [`MAXIMUM_MOVES`] at most, and of one blob's length
        /// together. All else is as in a look-up.
        view: MapView,
        /// The block to go on from; none at the end of the layer.
        next: Option<u32>,
    },
    /// Rows that move.
    Moving {
        /// Keys and values as they stand.
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        /// Where the next page begins; none after the last.
        next: Option<Vec<u8>>,
    },
}

/// A batch of shard commands: one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardBatch(pub Vec<ShardCommand>);

envelope! { ShardBatch = 40 v 1, Vec<ShardOutcome> = 41 v 1, Placement = 42 v 1 }
