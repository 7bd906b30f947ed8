//! Requests to the data service.
//!
//! Payload bytes (the units' stored bytes, in order) travel beside the encoded head.

use hedgerow_env::{BlobName, ContainerId, Generation, GroupId, PlacementEpoch, StoreId};
use serde::{Deserialize, Serialize};

use crate::codec::envelope;
use crate::{BlobHeader, Digest, UnitRecord, WriteTarget};

/// Most names in one request.
pub const MAXIMUM_NAMES: usize = 1024;

/// A request to a node's HBlock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HBlockRequest {
    /// From a proxy to one member, which stores it and forwards it to the others; answered
    /// [`HBlockReply::Written`] once `write_quorum` members (two domains, when `domains` asks so)
    /// hold it durably. Payload: the units.
    Write {
        /// The store at this node that is the chosen member.
        store: StoreId,
        /// The blob.
        header: BlobHeader,
        /// The writer's generation.
        generation: Generation,
        /// The placement's epoch.
        epoch: PlacementEpoch,
        /// Every writable member, the chosen one among them.
        targets: Vec<WriteTarget>,
        /// How many must hold it.
        write_quorum: u8,
        /// The domain of each target: the acknowledging set spans two when the targets do.
        domains: Vec<u16>,
    },
    /// Forwarded to one member: store it durably. Payload: the units.
    Store {
        /// The store at this node.
        store: StoreId,
        /// The blob.
        header: BlobHeader,
        /// The writer's generation.
        generation: Generation,
        /// The placement's epoch.
        epoch: PlacementEpoch,
    },
    /// Which of these does the store hold durably? Asked after a change of placement: the member
    /// makes the new epoch durable first.
    Acknowledge {
        /// The store at this node.
        store: StoreId,
        /// The new epoch of `container`.
        epoch: PlacementEpoch,
        /// The container of all names.
        container: ContainerId,
        /// Names with the digests that the asker expects.
        names: Vec<(BlobName, Digest)>,
    },
    /// Read units of a blob.
    Read {
        /// The store at this node.
        store: StoreId,
        /// The blob.
        name: BlobName,
        /// Which units.
        units: Vec<u16>,
    },
    /// Fetch a whole blob (catch-up, repair).
    Fetch {
        /// The store at this node.
        store: StoreId,
        /// The blob.
        name: BlobName,
    },
    /// A reader found this copy damaged: verify it, and fetch it again when it is.
    Suspect {
        /// The store at this node.
        store: StoreId,
        /// The blob.
        name: BlobName,
    },
    /// A shard has news for this store. Nobody sends it and it is refused: a shard's leader acts
    /// once a second, and as often each member asks by itself. Its number stays reserved.
    Hint {
        /// The shard.
        group: GroupId,
        /// The store.
        store: StoreId,
    },
}

/// The answer of an HBlock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HBlockReply {
    /// The members that hold the blob durably under the epoch of the request.
    Written {
        /// At least the write quorum.
        acknowledged: Vec<StoreId>,
    },
    /// Stored durably.
    Stored,
    /// Of the names asked for, those held durably.
    Held(Vec<BlobName>),
    /// The units that were asked for; their stored bytes follow one another in the payload.
    Units(Vec<UnitRecord>),
    /// The whole blob; payload: its units.
    Blob(BlobHeader),
    /// Understood.
    Done,
    /// Refused.
    Refused(HBlockRefusal),
}

/// Why an HBlock refused; nothing was changed by the refused request at this member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum HBlockRefusal {
    /// Look the placement up again.
    #[error("stale placement epoch; {current} has been seen")]
    StaleEpoch {
        /// The highest epoch that this member has seen.
        current: PlacementEpoch,
    },
    /// The writer was fenced.
    #[error("stale generation; {current} has been seen")]
    StaleGeneration {
        /// The highest generation seen.
        current: Generation,
    },
    /// The store is not at this node; look the topology up again.
    #[error("no such store here")]
    NoSuchStore,
    /// Not held here. No damage until a fresh look-up still names it.
    #[error("no such blob here")]
    Missing,
    /// The copy here is damaged; it has been queued for repair.
    #[error("the copy is damaged")]
    Damaged,
    /// Another blob of this name, with other bytes: a broken invariant, reported here and there.
    #[error("another digest under the same name")]
    OtherDigest,
    /// Too few members answered in time: unknown for those that did not. Ask again, or substitute.
    #[error("too few members answered; {acknowledged:?} did")]
    TooFew {
        /// Those that did.
        acknowledged: Vec<StoreId>,
    },
    /// Full or overloaded: retry later.
    #[error("busy: {reason}")]
    Busy {
        /// What is short.
        reason: String,
    },
    /// The store has stopped (failed disk, rolled back).
    #[error("store stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// The blob was collected or its container retired here.
    #[error("collected")]
    Collected,
    /// The request contradicts itself.
    #[error("malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The store is full; or, of a whole write: with room in the stores that refused for lack of it
    /// enough members would hold it. Substitute, or give up after a while.
    #[error("no room; {acknowledged:?} had some")]
    NoRoom {
        /// Members that hold the blob all the same.
        acknowledged: Vec<StoreId>,
    },
}

envelope! { HBlockRequest = 20 v 1, HBlockReply = 21 v 1 }
