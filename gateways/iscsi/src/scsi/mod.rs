//! SCSI commands (SAM-5, SPC-4, SBC-3) as pure functions over a logical unit's shared state.
//!
//! [`cdb`] reads a CDB into an [`cdb::Operation`], `execute` runs it: at once, or as a sequence of
//! medium operations that the session performs. Sense data is made in [`sense`] alone.
//!
//! Invariants: a CDB that is not in [`table`] never reaches the medium; every range is checked
//! against the geometry before the first medium operation; reservations and unit attentions are
//! judged before a command has any effect. Does not: move data over the wire, or keep task order.

pub(crate) mod cdb;
pub(crate) mod execute;
pub(crate) mod execution;
pub(crate) mod inquiry;
pub(crate) mod mode;
pub(crate) mod opcodes;
pub(crate) mod parameters;
pub(crate) mod persist;
pub(crate) mod reservation;
pub(crate) mod sense;
pub(crate) mod table;

/// Status codes (SAM-5 5.3).
pub(crate) mod status {
    /// Done.
    pub(crate) const GOOD: u8 = 0x00;
    /// See the sense data.
    pub(crate) const CHECK_CONDITION: u8 = 0x02;
    /// Try again soon.
    pub(crate) const BUSY: u8 = 0x08;
    /// Another initiator holds a reservation.
    pub(crate) const RESERVATION_CONFLICT: u8 = 0x18;
    /// No room for the task.
    pub(crate) const TASK_SET_FULL: u8 = 0x28;
}

/// The longest transfer of one READ, WRITE or VERIFY, in bytes (block limits VPD page): bounds what
/// one command can hold in memory; initiators reach full speed well below it.
pub(crate) const TRANSFER_BYTES_MAX: u64 = 16 << 20;

/// The longest WRITE SAME, in blocks: the most that WRITE SAME (10) can say.
const WRITE_SAME_BLOCKS_MAX: u64 = 65_535;

/// The longest WRITE SAME, in bytes: a pattern that is not zero is written out in pieces, and this
/// bounds how long one command can take.
const WRITE_SAME_BYTES_MAX: u64 = 256 << 20;

/// The longest WRITE SAME in blocks of this size (block limits VPD page).
pub(crate) fn write_same_blocks_max(block_size_bytes: u32) -> u64 {
    (WRITE_SAME_BYTES_MAX / u64::from(block_size_bytes)).min(WRITE_SAME_BLOCKS_MAX)
}

/// The most that one UNMAP command may name, in bytes.
pub(crate) const UNMAP_BYTES_MAX: u64 = 512 << 20;

/// Most descriptors of one UNMAP command.
pub(crate) const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// Most parameter data that a command may bring (MODE SELECT, PERSISTENT RESERVE OUT, UNMAP).
pub(crate) const PARAMETER_BYTES_MAX: u32 = 8 + 16 * UNMAP_DESCRIPTORS_MAX;
