//! REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4 6.35, 6.36).

use super::sense::Sense;
use super::table::{self, Lookup, ROWS, Row};

/// A command timeouts descriptor that promises nothing (SPC-4 6.35.4).
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORT SUPPORTED OPERATION CODES.
pub(crate) fn report(
    options: u8,
    opcode: u8,
    action: u16,
    timeouts: bool,
) -> Result<Vec<u8>, Sense> {
    let has_actions = ROWS
        .iter()
        .any(|row| row.opcode == opcode && row.action.is_some());
    match options {
        0 => Ok(all(timeouts)),
        1 if has_actions => Err(Sense::invalid_cdb_field(3, None)),
        1 => Ok(one(find(opcode, 0), timeouts)),
        2 if !has_actions && find(opcode, 0).is_some() => Err(Sense::invalid_cdb_field(3, None)),
        2 | 3 => Ok(one(find(opcode, action), timeouts)),
        _ => Err(Sense::invalid_cdb_field(2, Some(2))),
    }
}

/// The row of a command; for commands without service actions, `action` must be zero.
fn find(opcode: u8, action: u16) -> Option<&'static Row> {
    let narrow = u8::try_from(action).ok()?;
    match table::find(opcode, narrow) {
        Lookup::Found(row) if row.action.is_some() || action == 0 => Some(row),
        _ => None,
    }
}

fn all(timeouts: bool) -> Vec<u8> {
    let mut list = vec![0; 4];
    for row in ROWS {
        let flags = u8::from(row.action.is_some()) | u8::from(timeouts) << 1;
        let length = u8::try_from(row.usage.len()).expect("a CDB has at most 16 bytes");
        let action = row.action.unwrap_or(0);
        list.extend_from_slice(&[row.opcode, 0, 0, action, 0, flags, 0, length]);
        if timeouts {
            list.extend_from_slice(&TIMEOUTS);
        }
    }
    let length = u32::try_from(list.len() - 4).expect("the table is small");
    list[..4].copy_from_slice(&length.to_be_bytes());
    list
}

fn one(row: Option<&Row>, timeouts: bool) -> Vec<u8> {
    let Some(row) = row else {
        return vec![0, 0x01, 0, 0];
    };
    let length = u8::try_from(row.usage.len()).expect("a CDB has at most 16 bytes");
    // SUPPORT 3: conforms to a standard. CTDP announces the timeouts descriptor.
    let mut answer = vec![0, 0x03 | u8::from(timeouts) << 7, 0, length];
    answer.extend_from_slice(row.usage);
    if timeouts {
        answer.extend_from_slice(&TIMEOUTS);
    }
    answer
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, clear task set and
/// logical unit reset; no queries, no I_T nexus reset, no target reset as a SAM function.
pub(crate) fn task_functions(extended: bool) -> Vec<u8> {
    const ABORT_CLEAR_AND_RESET: u8 = 0x80 | 0x40 | 0x10 | 0x08;
    if extended {
        let mut answer = vec![ABORT_CLEAR_AND_RESET, 0, 0, 12];
        answer.resize(16, 0);
        answer
    } else {
        vec![ABORT_CLEAR_AND_RESET, 0, 0, 0]
    }
}
