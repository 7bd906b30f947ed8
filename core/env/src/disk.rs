//! Files. Paths are relative to the node's own root, with `/` between the parts.
//!
//! Durability: a write is durable once a [`File::sync`] that began after the write completed has
//! succeeded; creation, rename and removal are durable once [`Disk::sync_directory`] of the parent
//! succeeded. After a failed sync nothing is known of any write since the last good one; a failed
//! sync is never retried (it stops the pool).

use std::sync::Arc;

use bytes::Bytes;

use crate::BoxFuture;

/// Why a disk call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// Create it, or treat it as absent.
    #[error("{path}: not found")]
    NotFound {
        /// The path that was asked for.
        path: String,
    },
    /// It exists and the mode asked for a new file.
    #[error("{path}: exists already")]
    AlreadyExists {
        /// The path that was asked for.
        path: String,
    },
    /// Free space, then try again; nothing of the call's effect may be relied upon.
    #[error("{path}: no space left on device")]
    NoSpace {
        /// The file that was written.
        path: String,
    },
    /// Another process holds the lock on the directory.
    #[error("{path}: in use by another process")]
    Locked {
        /// The locked path.
        path: String,
    },
    /// The device failed the call. A failed sync is never retried.
    #[error("{path}: {operation}: {reason}")]
    Device {
        /// The file or directory.
        path: String,
        /// `read`, `write`, `sync`, ...
        operation: &'static str,
        /// What the device or the operating system said.
        reason: String,
    },
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist.
    Existing,
    /// Created empty when absent.
    Create,
    /// Created empty; refused when it exists.
    CreateNew,
}

/// The disk seam of one node.
pub trait Disk: Send + Sync {
    /// Opens `path` for reading and writing; missing parent directories are created with it.
    fn open(
        &self,
        path: &str,
        mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>>;
    /// Renames a file, replacing what stood at `to`.
    fn rename(&self, from: &str, to: &str) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Removes a file.
    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Names of the files and directories directly in `directory`, sorted; empty when it is absent.
    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>>;
    /// Makes creations, renames and removals in `directory` durable.
    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>>;
    /// Bytes that the file system below `directory` could still store for us.
    fn free_bytes(&self, directory: &str) -> BoxFuture<'static, Result<u64, DiskError>>;
    /// Opens a file whose calls block: for the Pages store alone, inside [`crate::Env::blocking`].
    fn open_blocking(&self, path: &str, mode: OpenMode)
    -> Result<Arc<dyn BlockingFile>, DiskError>;
}

/// One open file. Calls may overlap; overlapping writes to the same bytes are the caller's mistake.
pub trait File: Send + Sync {
    /// Reads `length` bytes at `offset`; fewer only where the file ends.
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'static, Result<Bytes, DiskError>>;
    /// Writes all parts, one after the other, from `offset` on. The file grows as needed.
    fn write_at(&self, offset: u64, parts: Vec<Bytes>)
    -> BoxFuture<'static, Result<(), DiskError>>;
    /// Makes every write that completed before this call durable, with the length that they need.
    fn sync(&self) -> BoxFuture<'static, Result<(), DiskError>>;
    /// As [`File::write_at`] and then [`File::sync`], but of this write alone, for systems that do
    /// both in one call. Others hand the parts back: make the two calls.
    ///
    /// # Errors
    /// The parts, untouched.
    fn write_durably(
        &self,
        _offset: u64,
        parts: Vec<Bytes>,
    ) -> Result<BoxFuture<'static, Result<(), DiskError>>, Vec<Bytes>> {
        Err(parts)
    }
    /// Sets the length; new bytes read as zeros and are backed by allocated space where possible.
    fn resize(&self, length: u64) -> BoxFuture<'static, Result<(), DiskError>>;
    /// The present length in bytes.
    fn length(&self) -> BoxFuture<'static, Result<u64, DiskError>>;
}

/// One open file whose calls block the thread.
pub trait BlockingFile: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` from `offset`; reading past the end is an error.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError>;
    /// As [`File::sync`].
    fn sync(&self) -> Result<(), DiskError>;
    /// As [`File::resize`].
    fn resize(&self, length: u64) -> Result<(), DiskError>;
    /// The present length in bytes.
    fn length(&self) -> Result<u64, DiskError>;
}
