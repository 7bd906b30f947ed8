//! An iSCSI target (RFC 7143) and its SCSI disks (SPC-4, SBC-3, SAM-5) for Hedgerow.
//!
//! Everything that decides is a synchronous core: `codec` turns bytes into PDUs, `session` turns
//! PDUs and completions into PDUs and operations, `scsi` turns commands into operations and sense
//! data. Only `server` and the driver of `initiator` wait for anything, and only through `Env`.
//!
//! Invariants: whatever bytes a peer sends, the process answers, rejects or ends that one session
//! with a logged reason; ABORT TASK is answered only when the aborted operation can no longer
//! change the disk; no status GOOD for a write before the port said that it is durable.
//! Does not: know how blocks are stored, attach disks, or keep anything over a restart.

pub mod codec;
pub mod crc32c;
pub mod initiator;
mod md5;
pub mod memory;
pub mod port;
mod scsi;
pub mod server;
pub mod session;
mod target;

pub use port::{
    BlockDevice, BlockError, ChapAccount, ChapCredentials, Geometry, LogicalUnit, NameError,
    OperationTag, TARGET_NAME_PREFIX, TargetCatalog, TargetDescription, target_name,
};
pub use server::{IscsiServer, ServerError};
