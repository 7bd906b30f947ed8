//! The table of supported commands: CDB lengths, usage maps and what reservations let through.
//!
//! A command exists for this target exactly when it stands here; REPORT SUPPORTED OPERATION CODES
//! answers from the same rows that dispatch uses.

/// How a command stands to reservations (SPC-4 table 64, SBC-3 table 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Allowed whoever holds a reservation.
    Always,
    /// Reads the medium or the unit's state.
    Read,
    /// Changes the medium or the unit's state.
    Write,
    /// Judges reservations itself.
    Reservation,
}

/// One supported command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) opcode: u8,
    /// The service action, for opcodes that have them.
    pub(crate) action: Option<u8>,
    pub(crate) access: Access,
    /// CDB USAGE DATA (SPC-4 6.35.3); its length is the CDB's.
    pub(crate) usage: &'static [u8],
}

const fn row(access: Access, usage: &'static [u8]) -> Row {
    Row {
        opcode: usage[0],
        action: None,
        access,
        usage,
    }
}

const fn action(access: Access, usage: &'static [u8]) -> Row {
    // In the usage map the service action stands as its value (SPC-4 6.35.3).
    Row {
        opcode: usage[0],
        action: Some(usage[1] & 0x1f),
        access,
        usage,
    }
}

const F: u8 = 0xff;

/// All supported commands, by operation code.
pub(crate) static ROWS: &[Row] = &[
    row(Access::Always, &[0x00, 0, 0, 0, 0, 0]), // TEST UNIT READY
    row(Access::Always, &[0x03, 0x01, 0, 0, F, 0]), // REQUEST SENSE
    row(Access::Read, &[0x08, 0x1f, F, F, F, 0]), // READ (6)
    row(Access::Write, &[0x0a, 0x1f, F, F, F, 0]), // WRITE (6)
    row(Access::Always, &[0x12, 0x01, F, F, F, 0]), // INQUIRY
    row(Access::Write, &[0x15, 0x11, 0, 0, F, 0]), // MODE SELECT (6)
    row(Access::Reservation, &[0x16, 0, 0, 0, 0, 0]), // RESERVE (6)
    row(Access::Reservation, &[0x17, 0, 0, 0, 0, 0]), // RELEASE (6)
    row(Access::Read, &[0x1a, 0x08, F, F, F, 0]), // MODE SENSE (6)
    row(Access::Write, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0]), // START STOP UNIT
    row(Access::Always, &[0x1e, 0, 0, 0, 0x03, 0]), // PREVENT ALLOW MEDIUM REMOVAL
    row(Access::Always, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), // READ CAPACITY (10)
    row(Access::Read, &[0x28, 0x18, F, F, F, F, 0, F, F, 0]), // READ (10)
    row(Access::Write, &[0x2a, 0x18, F, F, F, F, 0, F, F, 0]), // WRITE (10)
    row(Access::Write, &[0x2e, 0x16, F, F, F, F, 0, F, F, 0]), // WRITE AND VERIFY (10)
    row(Access::Read, &[0x2f, 0x16, F, F, F, F, 0, F, F, 0]), // VERIFY (10)
    row(Access::Read, &[0x34, 0x02, F, F, F, F, 0, F, F, 0]), // PRE-FETCH (10)
    row(Access::Write, &[0x35, 0x02, F, F, F, F, 0, F, F, 0]), // SYNCHRONIZE CACHE (10)
    row(Access::Write, &[0x41, 0x08, F, F, F, F, 0, F, F, 0]), // WRITE SAME (10)
    row(Access::Write, &[0x42, 0, 0, 0, 0, 0, 0, F, F, 0]), // UNMAP
    row(Access::Write, &[0x55, 0x11, 0, 0, 0, 0, 0, F, F, 0]), // MODE SELECT (10)
    row(Access::Reservation, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]), // RESERVE (10)
    row(Access::Reservation, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]), // RELEASE (10)
    row(Access::Read, &[0x5a, 0x18, F, F, 0, 0, 0, F, F, 0]), // MODE SENSE (10)
    action(Access::Reservation, &[0x5e, 0x00, 0, 0, 0, 0, 0, F, F, 0]), // READ KEYS
    action(Access::Reservation, &[0x5e, 0x01, 0, 0, 0, 0, 0, F, F, 0]), // READ RESERVATION
    action(Access::Reservation, &[0x5e, 0x02, 0, 0, 0, 0, 0, F, F, 0]), // REPORT CAPABILITIES
    action(Access::Reservation, &[0x5e, 0x03, 0, 0, 0, 0, 0, F, F, 0]), // READ FULL STATUS
    action(Access::Reservation, &[0x5f, 0x00, F, 0, 0, F, F, F, F, 0]), // REGISTER
    action(Access::Reservation, &[0x5f, 0x01, F, 0, 0, F, F, F, F, 0]), // RESERVE
    action(Access::Reservation, &[0x5f, 0x02, F, 0, 0, F, F, F, F, 0]), // RELEASE
    action(Access::Reservation, &[0x5f, 0x03, F, 0, 0, F, F, F, F, 0]), // CLEAR
    action(Access::Reservation, &[0x5f, 0x04, F, 0, 0, F, F, F, F, 0]), // PREEMPT
    action(Access::Reservation, &[0x5f, 0x05, F, 0, 0, F, F, F, F, 0]), // PREEMPT AND ABORT
    action(Access::Reservation, &[0x5f, 0x06, F, 0, 0, F, F, F, F, 0]), // REGISTER, IGNORE KEY
    row(
        Access::Read,
        &[0x88, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // READ (16)
    row(
        Access::Write,
        &[0x8a, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // WRITE (16)
    row(
        Access::Write,
        &[0x8e, 0x16, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // WRITE VERIFY (16)
    row(
        Access::Read,
        &[0x8f, 0x16, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // VERIFY (16)
    row(
        Access::Read,
        &[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // PRE-FETCH (16)
    row(
        Access::Write,
        &[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // SYNC CACHE (16)
    row(
        Access::Write,
        &[0x93, 0x09, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // WRITE SAME (16)
    action(
        Access::Always,
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0],
    ), // CAPACITY (16)
    action(
        Access::Read,
        &[0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0],
    ), // GET LBA STATUS
    row(Access::Always, &[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, 0]), // REPORT LUNS
    action(
        Access::Always,
        &[0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, 0],
    ), // REPORT OPCODES
    action(
        Access::Always,
        &[0xa3, 0x0d, 0x80, 0, 0, 0, F, F, F, F, 0, 0],
    ), // REPORT TASK FUNCTIONS
    row(Access::Read, &[0xa8, 0x18, F, F, F, F, F, F, F, F, 0, 0]), // READ (12)
    row(Access::Write, &[0xaa, 0x18, F, F, F, F, F, F, F, F, 0, 0]), // WRITE (12)
    row(Access::Write, &[0xae, 0x16, F, F, F, F, F, F, F, F, 0, 0]), // WRITE AND VERIFY (12)
    row(Access::Read, &[0xaf, 0x16, F, F, F, F, F, F, F, F, 0, 0]), // VERIFY (12)
];

/// What the table says of a CDB's first two bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lookup {
    /// The command.
    Found(&'static Row),
    /// The operation code exists, this service action does not.
    NoSuchAction,
    /// No such operation code.
    NoSuchOpcode,
}

/// Finds the row of a CDB.
pub(crate) fn find(opcode: u8, service_action: u8) -> Lookup {
    let mut rows = ROWS.iter().filter(|row| row.opcode == opcode).peekable();
    if rows.peek().is_none() {
        return Lookup::NoSuchOpcode;
    }
    rows.find(|row| row.action.is_none_or(|own| own == service_action))
        .map_or(Lookup::NoSuchAction, Lookup::Found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_once_and_as_long_as_their_group_says() {
        for pair in ROWS.windows(2) {
            assert!((pair[0].opcode, pair[0].action) < (pair[1].opcode, pair[1].action));
        }
        for row in ROWS {
            // The top three bits of an operation code give the CDB's length (SPC-4 4.3.4.1).
            let length = [6, 10, 10, 0, 16, 12, 0, 0][usize::from(row.opcode >> 5)];
            assert_eq!(row.usage.len(), length, "opcode {:#04x}", row.opcode);
        }
    }
}
