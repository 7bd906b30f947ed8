//! The ports through which the target reaches the world: block devices and the catalog of targets.
//!
//! The gateway decides *what the initiator should be told*, so [`BlockError`] is named by that and
//! not by what went wrong inside the cluster. The ports know nothing of iSCSI or SCSI, and the
//! gateway knows nothing of containers, generations or replicas.
//!
//! Invariants that an implementation keeps:
//! - A write, zeroing or unmap that was answered with `Ok` is durable: the target reports its write
//!   cache as disabled, so SYNCHRONIZE CACHE and FUA have nothing left to do.
//! - A change whose outcome is not known stays *unsettled* until it is, or ends as
//!   [`BlockError::OutcomeUnknown`]; it never turns into an error that says "did not happen".
//! - [`BlockDevice::cancel`] resolves only when the operation can no longer change the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

/// The longest iSCSI name, in bytes (RFC 7143 4.2.7.1: 223).
pub const NAME_BYTES_MAX: usize = 223;

/// The authority part of every target name that this product makes.
pub const TARGET_NAME_PREFIX: &str = "iqn.2026-11.io.hedgerow:";

/// Names one state-changing operation of one device; unique within a running target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationTag(pub u64);

impl fmt::Display for OperationTag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "op-{}", self.0)
    }
}

/// The shape of a block device as the initiator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a logical block: 512, 4096 or 65536.
    pub block_size_bytes: u32,
    /// Number of logical blocks; may grow (or shrink) while sessions are open.
    pub block_count: u64,
    /// Bytes at which the device works without read-modify-write; a power of two and a multiple of
    /// the block size (the block size itself when it is not known).
    pub optimal_io_bytes: u32,
    /// The disk refuses every write.
    pub read_only: bool,
    /// Unmapped ranges give their space back and read as zeros.
    pub thin: bool,
}

impl Geometry {
    /// A thin, writable disk of `block_count` blocks.
    #[must_use]
    pub fn new(block_size_bytes: u32, block_count: u64) -> Self {
        assert!(
            block_size_bytes.is_power_of_two() && block_size_bytes >= 512,
            "a logical block is a power of two of at least 512 bytes"
        );
        Self {
            block_size_bytes,
            block_count,
            optimal_io_bytes: block_size_bytes.max(4096),
            read_only: false,
            thin: true,
        }
    }
}

/// Why an operation was not done, named by what the initiator is told to do. But for
/// [`BlockError::OutcomeUnknown`], [`BlockError::NoSpace`] and [`BlockError::Medium`] nothing was
/// begun, or it has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Too much is in progress, or there is no room for now: nothing was done, the initiator retries
    /// soon (status BUSY).
    #[error("the device is busy")]
    Busy,
    /// The device cannot serve now but is expected back (NOT READY, becoming ready).
    #[error("the device is unavailable for now")]
    Unavailable,
    /// The range lies outside the device: it shrank after the command was checked.
    #[error("the range is outside the device")]
    OutOfRange,
    /// This access path lost the disk: another proxy owns it, or it was detached or deleted.
    #[error("the device is gone from this access path")]
    Gone,
    /// The disk refuses writes.
    #[error("the device is read-only")]
    ReadOnly,
    /// There was room for a part of the write only, which was done; the initiator repeats all of it
    /// (NOT READY, SPACE ALLOCATION IN PROGRESS: a temporary lack, SBC-3 4.7.3).
    #[error("no space is left")]
    NoSpace,
    /// The bytes cannot be read or stored: every copy is damaged or lost (MEDIUM ERROR).
    #[error("the medium failed: {0}")]
    Medium(String),
    /// The operation was cancelled before it changed anything.
    #[error("the operation was cancelled")]
    Cancelled,
    /// A change was begun, and whether it took effect cannot be known through this access path: the
    /// command is not answered and its session ends, which is how iSCSI says so.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
}

/// A disk, as one access path sees it.
///
/// Offsets and lengths are in bytes and always whole logical blocks inside the geometry last
/// answered; an implementation checks again and answers [`BlockError::OutOfRange`].
pub trait BlockDevice: Send + Sync {
    /// So many sessions use the device from now on; called whenever that changes. A device that
    /// nobody uses may be given up, so that another access path can have it.
    fn sessions_changed(&self, _count: usize) {}

    /// The present shape. Called for every command, so it is cheap and does not block.
    fn geometry(&self) -> Geometry;

    /// Reads `length_bytes` bytes; the answer has exactly that length.
    fn read(
        &self,
        first_byte: u64,
        length_bytes: u32,
    ) -> BoxFuture<'static, Result<Bytes, BlockError>>;

    /// Writes `data`; durable when it resolves with `Ok`.
    fn write(
        &self,
        first_byte: u64,
        data: Bytes,
        tag: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>>;

    /// Makes a range read as zeros; with `unmap` its space may also be given back.
    fn write_zeroes(
        &self,
        first_byte: u64,
        length_bytes: u64,
        unmap: bool,
        tag: OperationTag,
    ) -> BoxFuture<'static, Result<(), BlockError>>;

    /// Makes everything acknowledged before the call durable.
    fn flush(&self) -> BoxFuture<'static, Result<(), BlockError>>;

    /// Asks for the end of an operation and resolves when its outcome is settled: from then on it
    /// changes nothing, and its own future resolves too. Resolves at once for a tag that is not
    /// known; the operation may then still be about to start, and its end is awaited anyway.
    fn cancel(&self, tag: OperationTag) -> BoxFuture<'static, ()>;

    /// Resolves when nothing that was ever begun on this disk by anyone who may not use it any more,
    /// through this portal or another, can still take effect. Asked before a reset or the login of
    /// an initiator that was here before is answered. With `take` the disk is taken into use for
    /// this; without, a disk that this portal has not used has nothing to settle.
    ///
    /// # Errors
    /// [`BlockError`]: it is not known; nothing may be answered that says so.
    fn settle(&self, take: bool) -> BoxFuture<'static, Result<(), BlockError>> {
        let _nobody_else_uses_it = take;
        Box::pin(std::future::ready(Ok(())))
    }
}

/// One logical unit of a target.
#[derive(Clone)]
pub struct LogicalUnit {
    /// Where its blocks are.
    pub device: Arc<dyn BlockDevice>,
    /// 128 bits which name the disk for ever and everywhere (NAA and EUI designators, serial
    /// number): the same disk through two portals shows the same identity.
    pub identity: [u8; 16],
    /// The disk's name, for the T10 vendor designator.
    pub name: String,
}

impl fmt::Debug for LogicalUnit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LogicalUnit")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A CHAP user and secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapAccount {
    /// CHAP_N.
    pub user: String,
    /// The shared secret (RFC 7143 12.1.3 asks for 96 bits or more).
    pub secret: Vec<u8>,
}

impl fmt::Debug for ChapAccount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChapAccount")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The CHAP credentials that guard a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapCredentials {
    /// What the initiator must prove.
    pub initiator: ChapAccount,
    /// What the target proves when the initiator asks (mutual CHAP).
    pub target: Option<ChapAccount>,
}

/// A target as the catalog knows it now.
#[derive(Debug, Clone)]
pub struct TargetDescription {
    /// The iSCSI name, usually made by [`target_name`].
    pub name: String,
    /// Logical units by number; LUN 0 should exist.
    pub units: BTreeMap<u16, LogicalUnit>,
    /// Without credentials anybody may log in.
    pub chap: Option<ChapCredentials>,
    /// Addresses (`host:port`) for SendTargets; when empty, the address that the initiator
    /// connected to.
    pub portals: Vec<String>,
}

/// Lists the targets of this portal; disks come and go while it runs.
pub trait TargetCatalog: Send + Sync {
    /// The names that discovery shows, in order.
    fn target_names(&self) -> Vec<String>;

    /// The target of that name, if it is exported here now.
    fn find(&self, name: &str) -> Option<TargetDescription>;
}

/// The target name of a disk: `iqn.2026-11.io.hedgerow:<disk name>`.
///
/// # Errors
/// The disk's name holds a character that an iSCSI name may not have, or is empty or too long.
pub fn target_name(disk_name: &str) -> Result<String, NameError> {
    let name = format!("{TARGET_NAME_PREFIX}{disk_name}");
    if disk_name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { bytes: name.len() });
    }
    match disk_name.chars().find(|c| !is_name_character(*c)) {
        Some(character) => Err(NameError::Character { character }),
        None => Ok(name),
    }
}

/// RFC 3722: lower-case letters, digits, dash, dot and colon.
fn is_name_character(character: char) -> bool {
    character.is_ascii_lowercase()
        || character.is_ascii_digit()
        || matches!(character, '-' | '.' | ':')
}

/// Why a disk's name cannot be part of an iSCSI name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// There is no name.
    #[error("a disk that is exported over iSCSI needs a name")]
    Empty,
    /// Over [`NAME_BYTES_MAX`].
    #[error("the iSCSI name would have {bytes} bytes, more than {NAME_BYTES_MAX}")]
    TooLong {
        /// The length it would have.
        bytes: usize,
    },
    /// Not one of a-z, 0-9, dash, dot, colon.
    #[error("{character:?} may not stand in an iSCSI name (a-z, 0-9, '-', '.', ':')")]
    Character {
        /// The first offender.
        character: char,
    },
}
