//! Local storage of one pool: superblock, journal, extent store, and verified pages for Pages.
//!
//! Everything is written against the [`hedgerow_env::Disk`] seam and runs unchanged in the
//! simulator; `os` alone touches the operating system.
//!
//! Invariants: nothing is reported durable before the sync that makes it so; a failed sync is never
//! retried; damage is a typed answer, never silence and never a panic.
//! Does not: know of replication, placement or Raft.

mod blob_record;
mod codec;
mod extent;
mod index;
pub mod journal;
mod life;
mod maintenance;
pub mod os;
mod store;
mod store_open;
pub mod superblock;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod verified;

pub use extent::ExtentConfig;
pub use journal::{
    AppendError, CopyForward, DamagedRange, HeaderCopy, Journal, JournalConfig, JournalReadError,
    Position, Receipt, Record, RecoveredRecord, Stopped, StreamTag,
};
pub use life::Life;
pub use store::{
    BLOB_BYTES_MAX, BLOB_HEADER_BYTES_MAX, BLOBS_PAGE_MAX, Others, ReadError, ScrubReport, Store,
    StoreConfig, StoreError, Usage,
};
pub use store_open::Recovery;
pub use superblock::{
    JournalGeometry, PeerKnowledge, Superblock, SuperblockContent, SuperblockError,
};
pub use verified::{PAGE_BYTES, Reserve, VerifiedConfig, VerifiedError, VerifiedFile};
