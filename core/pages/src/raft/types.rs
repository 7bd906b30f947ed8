//! openraft's type configuration, and the few names of it that the rest of this folder uses.
//!
//! Invariants: one leader a term (the standard leader id), so that a term names a leadership; a
//! member is (store, replica number), never an address.
//! Does not: hold logic.

use std::fmt;

use bytes::Bytes;
use hedgerow_env::GroupId;
use hedgerow_protocol::{Envelope, GroupMember, MemberId};
use openraft::RaftTypeConfig;
use serde::{Deserialize, Serialize};

use super::runtime::EnvRuntime;

/// The type configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

/// A proposed batch, encoded by the group's machine's own protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch(pub(crate) Bytes);

impl fmt::Display for Batch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.0.len())
    }
}

/// The encoded outcomes of a batch; empty for entries of openraft's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Bytes);

impl RaftTypeConfig for Types {
    type D = Batch;
    type R = Outcomes;
    type NodeId = MemberId;
    type Node = GroupMember;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, MemberId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Batch, MemberId, GroupMember>;
    type Entry = openraft::impls::Entry<
        <Self::LeaderId as openraft::vote::RaftLeaderId>::Committed,
        Self::Payload,
    >;
    type AsyncRuntime = EnvRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type LeaderId = openraft::alias::LeaderIdOf<Types>;
pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<MemberId, GroupMember>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// The term of `log_id`.
pub(crate) fn term_of(log_id: &LogId) -> u64 {
    *log_id.leader_id
}

/// Gives wrappers of openraft's types their place among the envelopes of `core/protocol`.
/// Kinds 70 to 89 are this folder's.
macro_rules! enveloped {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $kind:literal v $version:literal;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Serialize, Deserialize)]
            #[serde(bound = "")]
            pub(crate) struct $name(pub(crate) $inner);

            impl Envelope for $name {
                const KIND: u16 = $kind;
                const VERSION: u16 = $version;
            }
        )+
    };
}

enveloped! {
    /// A log entry, as the journal holds it.
    StoredEntry(Entry) = 70 v 1;
    /// A vote, as the journal holds it.
    StoredVote(Vote) = 71 v 1;
    /// A purge mark, as the journal holds it.
    StoredPurge(LogId) = 72 v 1;
    /// A truncation, as the journal holds it: entries after this one are gone.
    StoredTruncation(Option<LogId>) = 73 v 1;
    /// The last applied log id and membership, as the state's own table holds them.
    StoredApplied((Option<LogId>, StoredMembership)) = 74 v 1;
}

/// A message to a replica of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct RaftMessage {
    /// The group.
    pub(crate) group: GroupId,
    /// The replica that speaks.
    pub(crate) from: MemberId,
    /// The replica spoken to; any other refuses it.
    pub(crate) to: MemberId,
    /// What it says.
    pub(crate) request: RaftRequest,
}

/// What one replica says to another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum RaftRequest {
    /// Entries, or a heartbeat.
    Append(openraft::raft::AppendEntriesRequest<Types>),
    /// A request for a vote.
    Vote(openraft::raft::VoteRequest<Types>),
    /// Whether a vote would be given.
    PreVote(openraft::raft::VoteRequest<Types>),
    /// The leader hands over.
    TransferLeader(openraft::raft::TransferLeaderRequest<Types>),
    /// A snapshot follows.
    SnapshotBegin {
        /// Its last log id, which names it.
        snapshot: LogId,
    },
    /// Some of a snapshot's pairs.
    SnapshotChunk {
        /// Which snapshot.
        snapshot: LogId,
        /// The key before the first pair.
        after: Option<Vec<u8>>,
        /// The pairs, in key order.
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// All pairs were sent: install it.
    SnapshotEnd {
        /// The sender's vote.
        vote: Vote,
        /// Its description.
        meta: Box<SnapshotMeta>,
        /// How many pairs it has.
        length: u64,
    },
}

/// The answer to a [`RaftRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum RaftReply {
    /// To `Append`.
    Append(openraft::raft::AppendEntriesResponse<Types>),
    /// To `Vote` and `PreVote`.
    Vote(openraft::raft::VoteResponse<Types>),
    /// To `TransferLeader`.
    Transferred(openraft::raft::TransferLeaderResponse<Types>),
    /// To `SnapshotBegin` and `SnapshotChunk`: the last key held.
    SnapshotHeld(Option<Vec<u8>>),
    /// To parts of a snapshot: begin again.
    SnapshotOutOfStep,
    /// To parts of a snapshot: another is being installed; ask later.
    SnapshotBusy,
    /// To `SnapshotEnd`: installed, or refused for a higher vote.
    SnapshotEnded(openraft::raft::SnapshotResponse<Types>),
}

impl Envelope for RaftMessage {
    const KIND: u16 = 76;
    const VERSION: u16 = 1;
}

impl Envelope for RaftReply {
    const KIND: u16 = 77;
    const VERSION: u16 = 1;
}
