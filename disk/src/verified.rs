//! A file of verified pages for the Pages state: every page is checked on every read.
//!
//! Three kinds of files stand beside each other: the *pages*, two copies of a *table* (checksum and
//! write counter of every page), and a *log*. A write stays in memory; a sync appends all dirty
//! pages with their checksums to the log as one frame and syncs once. From time to time, right
//! after a sync, a checkpoint writes the logged pages into the pages file, syncs it, writes the
//! table into the older of its two copies under the next generation, syncs that, and so ends the
//! log: frames of an older generation are foreign.
//!
//! Why a log and not the table alone: the user of this file (redb) overwrites its header page in
//! place and may find pages written after the last sync old, new or torn after a crash. A table
//! cannot tell such a page from a rotten one. With the log no unsynced byte ever reaches the pages
//! file, so after a crash the contents are *exactly* those of the last sync that succeeded (or of
//! the one in progress, whole), every page has one right checksum, and any mismatch is damage.
//!
//! Invariants: the pages file is written only with pages that the log holds durably; opening reads
//! the table and the log, never all pages; an invalid log frame is *torn* only when no later frame
//! of its generation exists, else the file is damaged; after a failed sync every call fails.
//! Does not: cache pages (redb does), or repair them (a replica does, from a peer).
//! Layout: `docs/format/verified.md`.

mod file;
mod format;
mod reserve;
mod state;

pub use file::VerifiedFile;
pub use reserve::Reserve;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// How a verified file trades memory and log length for writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedConfig {
    /// A checkpoint follows the sync that brings the log to this size (or to four tables').
    pub log_bytes: u64,
    /// Dirty pages held in memory; beyond that they go to the log before their sync.
    pub dirty_bytes: usize,
}

impl Default for VerifiedConfig {
    fn default() -> Self {
        Self {
            log_bytes: 16 << 20,
            dirty_bytes: 16 << 20,
        }
    }
}

impl VerifiedConfig {
    /// Frequent checkpoints, for tests and simulation.
    #[must_use]
    pub fn small() -> Self {
        Self {
            log_bytes: 256 << 10,
            dirty_bytes: 128 << 10,
        }
    }
}

/// Why a call on a verified file failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifiedError {
    /// The page's bytes do not fit the table: this replica must stop answering and be repaired.
    #[error("{path}: page {page} is damaged")]
    Mismatch {
        /// The pages file.
        path: String,
        /// The page's number.
        page: u64,
    },
    /// The table or a synced log frame is lost: the file's state is not known any more.
    #[error("{path}: {what} is damaged; rebuild this replica from its peers")]
    Damaged {
        /// The pages file.
        path: String,
        /// What is damaged.
        what: &'static str,
    },
    /// The range passes the file's end.
    #[error("{path}: {offset} + {length} passes the end at {end}")]
    OutOfRange {
        /// The pages file.
        path: String,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
        /// The file's length.
        end: u64,
    },
    /// An earlier write or sync failed; what is durable shows at the next open.
    #[error("{path}: stopped after a disk failure")]
    Stopped {
        /// The pages file.
        path: String,
    },
    /// The disk failed the call.
    #[error(transparent)]
    Disk(#[from] hedgerow_env::DiskError),
}

#[cfg(test)]
mod tests;
