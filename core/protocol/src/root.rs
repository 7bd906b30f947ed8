//! The root group: identity, nodes, shard table, virtual disks, generations, writers and leases.

use hedgerow_env::{
    ClusterId, FamilyId, Generation, GroupId, LayerId, MapEpoch, NodeId, ReplicaNumber, StoreId,
    TenantId, VirtualDiskId, WriterId,
};
use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{
    GroupMember, GroupRecord, MemberId, NodeRecord, NodeState, Policy, ShardTable, SplitRecord,
    Topology,
};

/// Default size of a container, in bytes.
pub const DEFAULT_CONTAINER_BYTES: u64 = 1 << 30;

/// A lease lasts this long for its holder, in milliseconds of its own clock, counted from before it
/// sent the request.
pub const LEASE_MS: u64 = 4_000;
/// The holder renews this often.
pub const LEASE_RENEW_MS: u64 = 1_000;
/// The grantor waits this long, counted from applying the renewal: lease x 1.1 / 0.9, rounded up.
pub const LEASE_WAIT_MS: u64 = 5_000;

/// The process of a proxy: one lease covers all that it has attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProxySession {
    /// The proxy's node.
    pub node: NodeId,
    /// Drawn when the process started.
    pub incarnation: u64,
}

/// Whether a disk can be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// It can.
    Ready,
    /// Deleted; its space is being reclaimed and its name is free.
    Deleting,
}

/// An attachment of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Who holds it.
    pub session: ProxySession,
    /// The nonce of the attach that made it.
    pub nonce: u64,
    /// The writer id that it was granted.
    pub writer: WriterId,
}

/// What the root knows of a virtual disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Its identity.
    pub disk: VirtualDiskId,
    /// Its family.
    pub family: FamilyId,
    /// Its name, unique among disks that are not being deleted.
    pub name: String,
    /// Size in bytes, a multiple of the block size.
    pub size_bytes: u64,
    /// Size of its family's containers in bytes.
    pub container_bytes: u64,
    /// Its policy.
    pub policy: Policy,
    /// Its layers, newest (the one that is written) first.
    pub layers: Vec<LayerId>,
    /// Its generation.
    pub generation: Generation,
    /// Who has it attached.
    pub attachments: Vec<Attachment>,
    /// Whether it can be attached.
    pub state: DiskState,
    /// Owner.
    pub tenant: TenantId,
    /// Quality-of-service class; 0 is the default one.
    pub qos_class: u16,
    /// For people.
    pub description: String,
}

/// What an attach grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The disk as attached (its generation is the grant's).
    pub disk: DiskRecord,
    /// The writer id.
    pub writer: WriterId,
}

/// A command of the root's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootCommand {
    /// First command of a cluster: its identity and first nodes.
    Initialise {
        /// The identity drawn by the first seed.
        cluster: ClusterId,
        /// The seeds.
        nodes: Vec<NodeRecord>,
        /// The root's own members.
        members: Vec<GroupMember>,
    },
    /// As [`RootCommand::JoinAtStart`], without a start: only builds before that one propose it.
    Join(NodeRecord),
    /// A decision on a node, whenever it comes. Only builds before [`RootCommand::JudgeNode`] and
    /// [`RootCommand::Drain`] propose it.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Its new state.
        state: NodeState,
        /// Why.
        reason: String,
    },
    /// Creates the shard groups, once.
    CreateShards {
        /// Their first members.
        shards: Vec<GroupRecord>,
    },
    /// Records the members of a group after its own log changed them. Raises the map epoch.
    SetGroupMembers(GroupRecord),
    /// Hands out the next replica number of a group for a store.
    NextReplica {
        /// The group.
        group: GroupId,
        /// The system store that will hold the replica.
        store: StoreId,
    },
    /// Creates a disk. Repeated with the same nonce it answers the disk made first.
    CreateDisk {
        /// Drawn by the requester.
        nonce: u64,
        /// Its name.
        name: String,
        /// Its size in bytes.
        size_bytes: u64,
        /// Size of its containers in bytes.
        container_bytes: u64,
        /// Its policy.
        policy: Policy,
        /// For people.
        description: String,
    },
    /// As [`RootCommand::Resize`], whatever the disk's present size: only builds before that one
    /// propose it.
    ResizeDisk {
        /// The disk.
        disk: VirtualDiskId,
        /// The new size in bytes.
        size_bytes: u64,
    },
    /// Deletes a disk: its name is free at once, its generation is raised, its shards are told.
    DeleteDisk {
        /// The disk.
        disk: VirtualDiskId,
    },
    /// A shard has dropped all of a deleted disk.
    DiskDropped {
        /// The disk.
        disk: VirtualDiskId,
        /// The shard.
        group: GroupId,
    },
    /// Attaches a disk: a new writer id under a raised generation. Repeated with the same nonce it
    /// answers the grant made first, while that stands.
    Attach {
        /// The disk.
        disk: VirtualDiskId,
        /// For whom.
        session: ProxySession,
        /// Counted by the session: one that is not above the highest granted to it is refused.
        nonce: u64,
    },
    /// Releases an attachment after the holder's writes were settled.
    Detach {
        /// The disk.
        disk: VirtualDiskId,
        /// The writer to release.
        writer: WriterId,
    },
    /// Renews the lease of a proxy. Refused for a session whose lease was ended.
    Renew(ProxySession),
    /// Ends a lease whose newest renewal is still that of `renewed_at`: its disks' generations are
    /// raised and their floors become pending.
    ExpireLease {
        /// The proxy.
        session: ProxySession,
        /// The log index of the renewal at which the grantor's wait began. Never reused, so that a
        /// wait for a lease that ended says nothing of one which the same session began later.
        renewed_at: u64,
    },
    /// A shard has applied the floor of a disk at `generation`.
    FloorApplied {
        /// The disk.
        disk: VirtualDiskId,
        /// The generation of the floor.
        generation: Generation,
        /// The shard.
        group: GroupId,
    },
    /// Commits a feature level in this group's log.
    Finalise {
        /// The level.
        feature_level: u16,
    },
    /// A node joins, or came back with a new address, location, role or store. Refused when a later
    /// start of that node is known: a request that was delayed brings nothing old back.
    JoinAtStart {
        /// The node.
        record: NodeRecord,
        /// The start count of its system store.
        start: u64,
    },
    /// Sets the size of a disk that still has the size and generation which the requester saw: a
    /// request that was delayed changes nothing. To be smaller a disk must be held by nobody; its
    /// generation is raised, its floors become pending, and a *cut* stands until what lay beyond the
    /// end is zeroed. While it stands the disk cannot grow, and before its floors stand it cannot be
    /// attached: whatever is listed of it after an attach, no earlier writer can add to. Repeated, it answers as the first time.
    Resize {
        /// The disk.
        disk: VirtualDiskId,
        /// The size that the requester saw.
        from_bytes: u64,
        /// The generation that it saw.
        generation: Generation,
        /// The new size in bytes.
        size_bytes: u64,
    },
    /// Everything beyond the end of a disk that was made smaller is zeroed: the cut is done. Refused
    /// when the generation is another than that under which it was zeroed, or the cut ends farther.
    CutDone {
        /// The disk.
        disk: VirtualDiskId,
        /// The generation of the attachment that zeroed it.
        generation: Generation,
        /// The end of what it zeroed.
        end_bytes: u64,
    },
    /// Tells how far a node is that drains, as long as it does: an operator may have taken that back
    /// while somebody looked.
    TellDraining {
        /// The node.
        node: NodeId,
        /// How far it is, for people.
        reason: String,
    },
    /// A verdict on a node, as long as it is in the state that was judged: an operator may have
    /// decided meanwhile.
    JudgeNode {
        /// The node.
        node: NodeId,
        /// The state in which it was seen.
        seen: NodeState,
        /// Its new state.
        state: NodeState,
        /// Why.
        reason: String,
    },
    /// Begins to split a shard, if the table is still of the epoch that the requester saw; answered
    /// [`RootOutcome::Splitting`]. One split at a time.
    SplitShard {
        /// The shard.
        group: GroupId,
        /// The epoch of the table that the requester saw.
        epoch: MapEpoch,
    },
    /// The shard that a split makes serves: the table shows it from here on.
    ShardOpened {
        /// The new shard.
        group: GroupId,
    },
    /// Nothing of what moved is left in the old shard: the split is over.
    SplitDone {
        /// The new shard.
        group: GroupId,
    },
    /// An operator's decision that a node is to drain, or to drain no more, as long as no node has
    /// changed since the operator's node looked: a copy of it that comes late undoes nothing.
    Drain(Drain),
}

/// What [`RootCommand::Drain`] asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The node.
    pub node: NodeId,
    /// The topology's index as it was seen.
    pub seen: u64,
    /// Whether it is to drain.
    pub draining: bool,
    /// Why.
    pub reason: String,
}

/// Why the root refused; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RootRefusal {
    /// Choose another name.
    #[error("a virtual disk called {name:?} exists")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Check the name or id.
    #[error("no such virtual disk: {disk}")]
    NoSuchDisk {
        /// The name or id as asked.
        disk: String,
    },
    /// Check the id.
    #[error("no such node: {node}")]
    NoSuchNode {
        /// The node as asked.
        node: String,
    },
    /// Wait for its release or the end of its lease.
    #[error("held by {holder:?}")]
    Held {
        /// The holder.
        holder: ProxySession,
    },
    /// Start anew: the session's lease was ended.
    #[error("the lease of this session was ended")]
    LeaseEnded,
    /// Correct the request.
    #[error("{reason}")]
    Invalid {
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// Another cluster, or initialised already.
    #[error("initialised already as cluster {cluster}")]
    Initialised {
        /// The identity that stands.
        cluster: ClusterId,
    },
    /// Never to be retried: refused by the committed feature level.
    #[error("needs feature level {needed}, {committed} is committed")]
    FeatureLevel {
        /// What the command needs.
        needed: u16,
        /// What is committed.
        committed: u16,
    },
    /// Look again: the disk is not as the requester saw it.
    #[error("the disk was changed meanwhile: {size_bytes} bytes under {generation}")]
    Changed {
        /// Its present size.
        size_bytes: u64,
        /// Its present generation.
        generation: Generation,
    },
    /// Resize it to `size_bytes` again, which ends the cut, before it grows; to attach it, wait until
    /// every shard knows of the cut.
    #[error("the disk is still being cut to {size_bytes} bytes: repeat that first")]
    Cutting {
        /// The size to which it is being cut.
        size_bytes: u64,
    },
    /// Look again: the shard table is not as the requester saw it.
    #[error("the shard table was changed meanwhile: it is of map {epoch}")]
    TableChanged {
        /// Its present epoch.
        epoch: MapEpoch,
    },
    /// Wait for the end of that split.
    #[error("{} is being split: one split at a time", split.from)]
    SplitUnderWay {
        /// The split.
        split: SplitRecord,
    },
    /// Attach under a higher nonce: this request was delayed past a later one of its session.
    #[error("a later attach of this session was granted: number {newest}")]
    Overtaken {
        /// The highest nonce that was granted to the session.
        newest: u64,
    },
    /// Look again: the nodes are not as the requester saw them.
    #[error("some node was changed meanwhile: the topology is of index {index}")]
    NodesChanged {
        /// Its present index.
        index: u64,
    },
}

/// The result of a root command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOutcome {
    /// Applied; nothing to tell.
    Done,
    /// The disk as it stands now.
    Disk(DiskRecord),
    /// The grant.
    Granted(Grant),
    /// The lease stands.
    Renewed {
        /// The log index of its newest renewal.
        renewed_at: u64,
    },
    /// The replica number.
    Replica(ReplicaNumber),
    /// Refused; nothing changed.
    Refused(RootRefusal),
    /// The disk has its new size.
    Resized {
        /// The disk as it stands now.
        disk: DiskRecord,
        /// The end of what lies beyond the disk's and is not zeroed yet, in bytes.
        cut_from_bytes: Option<u64>,
    },
    /// The split stands.
    Splitting(SplitRecord),
}

/// A linearizable question to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootQuery {
    /// The nodes.
    Topology,
    /// The shard table.
    Table,
    /// All disks that are not being deleted, by name.
    Disks,
    /// One disk by name.
    DiskByName(String),
    /// Leases, each with the log index of its newest renewal.
    Leases,
    /// Floors that some shard has not applied yet, with those shards.
    PendingFloors,
    /// Deleted disks that some shard has not dropped yet, with those shards.
    PendingDrops,
    /// The cluster's identity.
    Cluster,
    /// The split that is under way.
    Split,
}

/// A floor or drop that some shards have not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingShardWork {
    /// The disk.
    pub disk: DiskRecord,
    /// The shards that still have to.
    pub groups: Vec<GroupId>,
}

/// The root's answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAnswer {
    /// The nodes.
    Topology(Topology),
    /// The shard table.
    Table(ShardTable),
    /// Disks.
    Disks(Vec<DiskRecord>),
    /// One disk, if it exists.
    Disk(Option<DiskRecord>),
    /// Leases, each with the log index of its newest renewal.
    Leases(Vec<(ProxySession, u64)>),
    /// Floors or drops outstanding.
    Pending(Vec<PendingShardWork>),
    /// The cluster's identity, once initialised.
    Cluster(Option<ClusterId>),
    /// The split that is under way.
    Split(Option<SplitRecord>),
}

/// A request to the root's leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootRequest {
    /// Propose these commands; they are applied in order, and answered one by one.
    Propose(Vec<RootCommand>),
    /// Answer from a state that contains all that was acknowledged before the question.
    Query(RootQuery),
}

/// The root's reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootReply {
    /// One outcome for each command.
    Outcomes(Vec<RootOutcome>),
    /// The answer.
    Answer(RootAnswer),
}

/// A request to a group's leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRequest {
    /// The group.
    pub group: GroupId,
    /// The request.
    pub body: GroupBody,
}

/// What is asked of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupBody {
    /// Of the root.
    Root(RootRequest),
    /// Of a shard.
    Shard(crate::ShardRequest),
    /// From a member's node to the leader: this number is retired for ever. Let it go, and take
    /// the store in again under a new one.
    Retired(MemberId),
}

/// The reply of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupReply {
    /// Of the root.
    Root(RootReply),
    /// Of a shard.
    Shard(crate::ShardReply),
    /// This replica does not lead; here is who may.
    NotLeader {
        /// The leader as this replica sees it.
        leader: Option<GroupMember>,
    },
    /// No replica of the group runs here; get a newer table.
    NoSuchGroup {
        /// The epoch of the table known here.
        epoch: MapEpoch,
    },
    /// Retry later: the group has no leader, or its queue is full. The outcome of a proposal
    /// answered so is *not applied*.
    Busy {
        /// Why.
        reason: String,
    },
    /// The outcome is unknown (leadership was lost meanwhile): ask again.
    Unknown {
        /// Why.
        reason: String,
    },
    /// To `Retired`: whether the group counts it as a member no more.
    Retired {
        /// Else: ask again later.
        is_gone: bool,
    },
}

/// A batch of root commands: one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootBatch(pub Vec<RootCommand>);

/// The member of a group that something concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GroupMemberId {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
}

envelope! {
    GroupRequest = 30 v 1,
    GroupReply = 31 v 1,
    RootBatch = 32 v 1,
    DiskRecord = 33 v 1,
    NodeRecord = 34 v 1,
    GroupRecord = 35 v 1,
    Vec<RootOutcome> = 36 v 1,
}
