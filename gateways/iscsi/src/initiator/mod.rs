//! A small iSCSI initiator, for the simulator and for tests: one session to one logical unit.
//!
//! [`core`] and [`login`] decide, without I/O; [`driver`] runs them over `Env`. It speaks as real
//! initiators do: immediate and unsolicited data, R2T, digests, CHAP.
//!
//! Invariant: when the connection ends, every command under way ends as [`CommandError::Unknown`]:
//! it may have been done, be done later, or never. Does not: retry or reconnect, for what to do
//! about an unknown outcome is the caller's business.

pub mod core;
pub mod driver;
mod login;

use thiserror::Error;

pub use self::core::{Initiator, Output};
pub use driver::{ConnectError, InitiatorSession};

use crate::port::{ChapAccount, ChapCredentials};

/// Whom to log in to, and how.
#[derive(Debug, Clone)]
pub struct InitiatorConfig {
    /// Our iSCSI name.
    pub initiator_name: String,
    /// Our ISID; the same name and ISID replace an older session.
    pub isid: [u8; 6],
    /// The target's iSCSI name.
    pub target_name: String,
    /// Logical unit number.
    pub unit: u16,
    /// Credentials, when the target asks for CHAP; with `target` set, it must prove itself too.
    pub chap: Option<ChapCredentials>,
    /// CRC32C for headers and data.
    pub digests: bool,
}

impl InitiatorConfig {
    /// Logs in to LUN 0 of a target without authentication or digests.
    #[must_use]
    pub fn new(initiator_name: &str, target_name: &str) -> Self {
        Self {
            initiator_name: initiator_name.to_owned(),
            isid: [0x80, 0, 0, 0, 0, 1],
            target_name: target_name.to_owned(),
            unit: 0,
            chap: None,
            digests: false,
        }
    }

    fn account(&self) -> Option<&ChapAccount> {
        self.chap.as_ref().map(|chap| &chap.initiator)
    }
}

/// A command to the logical unit. Blocks are logical blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// READ (16).
    Read {
        /// First block.
        first_block: u64,
        /// Number of blocks.
        block_count: u32,
        /// Bytes of a block, to know how many bytes to expect.
        block_size_bytes: u32,
    },
    /// WRITE (16).
    Write {
        /// First block.
        first_block: u64,
        /// Number of blocks.
        block_count: u32,
        /// The blocks' bytes.
        data: bytes::Bytes,
    },
    /// UNMAP of one range.
    Unmap {
        /// First block.
        first_block: u64,
        /// Number of blocks.
        block_count: u32,
    },
    /// WRITE SAME (16) without data: zeros.
    WriteZeroes {
        /// First block.
        first_block: u64,
        /// Number of blocks.
        block_count: u32,
    },
    /// SYNCHRONIZE CACHE (16) of everything.
    Flush,
    /// READ CAPACITY (16).
    ReadCapacity,
    /// TEST UNIT READY.
    TestUnitReady,
    /// A NOP-Out that is answered with a NOP-In.
    Ping,
}

/// How a command ended when it did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The session ended first: nobody knows whether the command was done.
    #[error("the session ended; the outcome is unknown")]
    Unknown,
    /// BUSY or TASK SET FULL: nothing was done, try again.
    #[error("the unit is busy")]
    Busy,
    /// RESERVATION CONFLICT: nothing was done.
    #[error("reservation conflict")]
    ReservationConflict,
    /// CHECK CONDITION.
    #[error("sense key {key:#x}, code {code:#06x}")]
    Sense {
        /// Sense key.
        key: u8,
        /// Additional sense code and qualifier.
        code: u16,
    },
    /// Another status.
    #[error("SCSI status {status:#04x}")]
    Status {
        /// As received.
        status: u8,
    },
    /// Fewer or more bytes than were asked for.
    #[error("the data has the wrong length")]
    Length,
}

/// Why a session could not begin or ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// The target refused the login.
    #[error("login refused with status {status:#06x}")]
    Refused {
        /// Status-Class and Status-Detail.
        status: u16,
    },
    /// The target could not prove itself.
    #[error("the target failed to authenticate itself")]
    TargetNotAuthenticated,
    /// The target broke the protocol.
    #[error("protocol error of the target: {0}")]
    Protocol(&'static str),
    /// The target asked us to go, or rejected a PDU.
    #[error("the target ended the session")]
    EndedByTarget,
}
