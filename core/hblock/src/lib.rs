//! HBlock, the data service: stores and replicates blobs, catches up, repairs, scrubs.
//!
//! Invariants (docs/protocol/hblock.md has them in full): a write is answered only when W members,
//! of two domains where the policy asks for them, hold it durably under its epoch; a member answers
//! under an epoch or generation only after it made that durable; bytes are stored and returned only
//! when every unit has its digest; only what a shard calls collected or retired is deleted.
//!
//! Layout: `member`, `write`, `feed`, `wounds`, `ranges`, `budget` and `verify` are pure cores;
//! `local`, `coordinate`, `service`, `pull`, `repair`, `sweep` and `scrub` are drivers over the
//! `ports`; `adapters` binds the ports to the disk, RPC and the shards.
//!
//! Does not: place containers, commit maps, or decide what is free (the shards do).

mod adapters;
mod budget;
mod config;
mod context;
mod coordinate;
mod feed;
mod hblock;
mod holdings;
mod local;
mod member;
mod ports;
mod promises;
mod pull;
mod ranges;
mod repair;
mod scrub;
mod service;
mod sweep;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod verify;
mod wounds;
mod write;

pub use adapters::DiskStore;
pub use budget::Budget;
pub use config::HBlockConfig;
pub use feed::{Attempt, Expected, Feed, FeedConfig, MAXIMUM_LISTED, PULL_LIMIT, UNKNOWN_LIMIT};
pub use hblock::{HBlock, HBlockError, StoreStatus};
pub use member::{
    ContainerRecord, Finished, MAXIMUM_COLLECTED_WRITERS, MAXIMUM_CONTAINERS, MAXIMUM_PENDING,
    Member, RecordVersion, Role, StoreDecision,
};
pub use ports::{
    BlobStore, ControlKey, Destination, MemberFault, Members, ScrubStretch, ShardFault, Shards,
    StoreFault, StoreUsage,
};
pub use promises::StorePromises;
pub use pull::FeedRecord;
pub use ranges::{MAXIMUM_RANGES, SequenceRanges};
pub use verify::{BlobFault, MAXIMUM_UNITS, verify_blob, verify_units};
pub use wounds::{MAXIMUM_WOUNDS, WoundCounters, Wounds};
pub use write::{Acknowledgements, MAXIMUM_TARGETS, TargetOutcome, Verdict};
