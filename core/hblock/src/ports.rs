//! What HBlock needs of the world: a store of blobs, the other members, the shards.
//!
//! Invariant: nothing else of this crate names the disk, RPC or the group client; drivers and tests
//! are written against these three traits.
//! Does not: decide anything.

use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BlobName, BoxFuture, ContainerId, GroupId, StoreId};
use hedgerow_protocol::{
    BlobHeader, HBlockReply, HBlockRequest, ShardReply, ShardRequest, UnitRecord, WriteTarget,
};

/// Why a store did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    /// Overloaded: retry later.
    #[error("busy: {reason}")]
    Busy {
        /// What is short.
        reason: String,
    },
    /// No blob fits any more: somebody has to free space.
    #[error("the store is full")]
    Full,
    /// It does not hold that blob.
    #[error("no such blob")]
    Missing,
    /// What it holds of that blob does not pass its checks.
    #[error("damaged")]
    Damaged,
    /// It stopped for good (failed sync, rolled back).
    #[error("stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// It was closed in order.
    #[error("closed")]
    Closed,
}

/// Room in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreUsage {
    /// Bytes that it may use.
    pub capacity_bytes: u64,
    /// Bytes that it uses.
    pub used_bytes: u64,
    /// Blobs that it holds.
    pub blobs: u64,
}

/// What a stretch of scrubbing found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubStretch {
    /// Bytes that were read.
    pub bytes: u64,
    /// Blobs whose copies do not pass their checks.
    pub damaged: Vec<BlobName>,
    /// The end of the store was reached; the next stretch begins anew.
    pub finished: bool,
}

/// A record that HBlock keeps in a store beside the blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlKey {
    /// Of a container: [`crate::ContainerRecord`].
    Container(ContainerId),
    /// Of a shard's feed: [`crate::FeedRecord`].
    Feed(GroupId),
}

/// One store of this node. A put or delete is durable once its future completes, whether or not it
/// is still awaited; calls of one name are not overlapped by HBlock.
pub trait BlobStore: Send + Sync {
    /// Its identity.
    fn id(&self) -> StoreId;
    /// Whether it is the system pool: when it stops, the node does.
    fn is_system(&self) -> bool;
    /// Its room.
    fn usage(&self) -> StoreUsage;
    /// Completes when the store has stopped, with the reason.
    fn stopped(&self) -> BoxFuture<'static, StoreFault>;
    /// The header of a blob that is held, perhaps in a damaged copy; from memory.
    ///
    /// # Errors
    /// [`StoreFault::Missing`], or [`StoreFault::Damaged`] when not even the header can be read.
    fn header(&self, name: BlobName) -> Result<BlobHeader, StoreFault>;
    /// Blobs whose copies are known to be damaged.
    fn damaged(&self) -> Vec<BlobName>;
    /// Stores a blob durably, in place of any copy that has its name.
    fn put(&self, header: BlobHeader, payload: Bytes)
    -> BoxFuture<'static, Result<(), StoreFault>>;
    /// Records and stored bytes of some units, in the order asked for.
    fn read_units(
        &self,
        name: BlobName,
        units: Vec<u16>,
    ) -> BoxFuture<'static, Result<(Vec<UnitRecord>, Bytes), StoreFault>>;
    /// A whole blob.
    fn read_blob(
        &self,
        name: BlobName,
    ) -> BoxFuture<'static, Result<(BlobHeader, Bytes), StoreFault>>;
    /// Deletes blobs; those that are not held are passed over.
    fn delete(&self, names: Vec<BlobName>) -> BoxFuture<'static, Result<(), StoreFault>>;
    /// Names that are held, ascending, after `after`, at most `limit`.
    fn names(&self, after: Option<BlobName>, limit: usize) -> Vec<BlobName>;
    /// Writes a record, durably, in place of the one of that key.
    fn put_record(
        &self,
        key: ControlKey,
        value: Bytes,
    ) -> BoxFuture<'static, Result<(), StoreFault>>;
    /// All records, ascending by key, as recovered. Asked once, at the start.
    fn records(&self) -> BoxFuture<'static, Result<Vec<(ControlKey, Bytes)>, StoreFault>>;
    /// Checks the next stretch of the store, at most about `bytes`.
    fn scrub(&self, bytes: u64) -> BoxFuture<'static, Result<ScrubStretch, StoreFault>>;
}

/// Whom to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A target that a write names, with its address.
    Target(WriteTarget),
    /// A store; the topology knows where it is.
    Store(StoreId),
}

/// Why a member gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberFault {
    /// Nothing was sent; try again later or elsewhere.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It may have acted.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The HBlocks of other nodes.
pub trait Members: Send + Sync {
    /// Sends a request with its payload, and waits for the reply and its payload.
    fn call(
        &self,
        to: Destination,
        request: HBlockRequest,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(HBlockReply, Bytes), MemberFault>>;
}

/// A shard did not answer; whether a proposal took effect is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShardFault(pub String);

/// The shards.
pub trait Shards: Send + Sync {
    /// All shards that are known.
    fn groups(&self) -> Vec<GroupId>;
    /// The shard of a container.
    fn shard_of(&self, container: ContainerId) -> Option<GroupId>;
    /// Asks a shard.
    fn ask(
        &self,
        group: GroupId,
        request: ShardRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ShardReply, ShardFault>>;
}
