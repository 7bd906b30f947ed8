//! Local storage of one pool: superblock, journal, extent store, and verified pages for Pages.
//!
//! Everything is written against the [`hedgerow_env::Disk`] seam and runs unchanged in the
//! simulator; `os` alone touches the operating system.
//!
//! Invariants: nothing is reported durable before the sync that makes it so; a failed sync is never
//! retried; damage is a typed answer, never silence and never a panic.
//! Does not: know of replication, placement or Raft.

mod codec;
pub mod journal;
pub mod os;
pub mod superblock;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
