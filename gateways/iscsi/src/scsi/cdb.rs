//! Reads CDBs: bytes to [`Operation`]s, with the field that is wrong when one is.

use super::sense::Sense;
use super::table::{self, Lookup, Row};

/// A range of logical blocks, not yet checked against the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// The CDB byte where the count stands, for sense data.
    pub(crate) count_byte: u16,
}

/// BYTCHK (SBC-3 table 43).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteCheck {
    /// Only that the medium can be read.
    Medium,
    /// Against as much data.
    Data,
    /// Each block against one block of data.
    OneBlock,
}

/// A command, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    LbaStatus {
        first: u64,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ModeSense(ModeSense),
    ModeSelect {
        long: bool,
        length: u32,
    },
    Read(Blocks),
    Write {
        blocks: Blocks,
        verify: Option<ByteCheck>,
    },
    Verify {
        blocks: Blocks,
        check: ByteCheck,
    },
    WriteSame {
        blocks: Blocks,
        unmap: bool,
        no_data: bool,
    },
    Unmap {
        length: u32,
    },
    SynchronizeCache(Blocks),
    Prefetch(Blocks),
    StartStop,
    PreventAllow {
        prevent: bool,
    },
    Reserve,
    Release,
    PersistIn {
        action: u8,
        allocation: u32,
    },
    PersistOut {
        action: u8,
        scope_and_kind: u8,
        length: u32,
    },
    ReportOpcodes {
        options: u8,
        opcode: u8,
        action: u16,
        timeouts: bool,
        allocation: u32,
    },
    ReportTaskFunctions {
        extended: bool,
        allocation: u32,
    },
}

/// MODE SENSE's fields (SPC-4 6.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModeSense {
    pub(crate) long: bool,
    pub(crate) no_descriptors: bool,
    pub(crate) long_lba: bool,
    pub(crate) control: u8,
    pub(crate) page: u8,
    pub(crate) subpage: u8,
    pub(crate) allocation: u32,
}

/// Big-endian fields of a CDB.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8; 16]);

impl Fields<'_> {
    fn bit(self, byte: usize, bit: u8) -> bool {
        self.0[byte] & (1 << bit) != 0
    }

    fn u16(self, at: usize) -> u32 {
        u32::from(u16::from_be_bytes([self.0[at], self.0[at + 1]]))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64(self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// The range of a command, by the CDB's length group.
    fn blocks(self) -> Blocks {
        match self.0[0] >> 5 {
            0 => {
                let first = self.u32(0) & 0x001f_ffff;
                let count = match self.0[4] {
                    0 => 256,
                    count => u64::from(count),
                };
                Blocks {
                    first: u64::from(first),
                    count,
                    count_byte: 4,
                }
            }
            4 => Blocks {
                first: self.u64(2),
                count: u64::from(self.u32(10)),
                count_byte: 10,
            },
            5 => Blocks {
                first: u64::from(self.u32(2)),
                count: u64::from(self.u32(6)),
                count_byte: 6,
            },
            _ => Blocks {
                first: u64::from(self.u32(2)),
                count: u64::from(self.u16(7)),
                count_byte: 7,
            },
        }
    }

    /// READ and WRITE carry no protection information here (SBC-3 5.11: the field must be zero).
    fn unprotected(self) -> Result<Self, Sense> {
        if self.0[1] & 0xe0 != 0 {
            Err(Sense::invalid_cdb_field(1, Some(7)))
        } else {
            Ok(self)
        }
    }

    fn byte_check(self) -> Result<ByteCheck, Sense> {
        match self.0[1] >> 1 & 3 {
            0 => Ok(ByteCheck::Medium),
            1 => Ok(ByteCheck::Data),
            3 => Ok(ByteCheck::OneBlock),
            _ => Err(Sense::invalid_cdb_field(1, Some(2))),
        }
    }
}

/// Reads a CDB.
pub(crate) fn parse(cdb: &[u8; 16]) -> Result<(&'static Row, Operation), Sense> {
    let row = match table::find(cdb[0], cdb[1] & 0x1f) {
        Lookup::Found(row) => row,
        Lookup::NoSuchAction => return Err(Sense::invalid_cdb_field(1, Some(4))),
        Lookup::NoSuchOpcode => return Err(Sense::INVALID_OPCODE),
    };
    // NACA asks for ACA, which standard INQUIRY data says is not supported (SAM-5 5.2).
    let control = row.usage.len() - 1;
    if cdb[control] & 0x04 != 0 {
        let byte = u16::try_from(control).expect("a CDB has 16 bytes");
        return Err(Sense::invalid_cdb_field(byte, Some(2)));
    }
    let fields = Fields(cdb);
    let operation = match cdb[0] {
        0x08 | 0x0a | 0x28..=0x42 | 0x88..=0x93 | 0xa8..=0xaf => medium(fields)?,
        0x5e | 0x5f | 0x16 | 0x17 | 0x56 | 0x57 => reservation(fields),
        _ => primary(fields)?,
    };
    Ok((row, operation))
}

/// Commands of SBC-3 which name blocks.
fn medium(fields: Fields<'_>) -> Result<Operation, Sense> {
    let blocks = fields.blocks();
    Ok(match fields.0[0] {
        0x08 => Operation::Read(blocks),
        0x0a => Operation::Write {
            blocks,
            verify: None,
        },
        0x28 | 0x88 | 0xa8 => Operation::Read(fields.unprotected()?.blocks()),
        0x2a | 0x8a | 0xaa => Operation::Write {
            blocks: fields.unprotected()?.blocks(),
            verify: None,
        },
        0x2e | 0x8e | 0xae => match fields.unprotected()?.byte_check()? {
            ByteCheck::OneBlock => return Err(Sense::invalid_cdb_field(1, Some(2))),
            check => Operation::Write {
                blocks,
                verify: Some(check),
            },
        },
        0x2f | 0x8f | 0xaf => Operation::Verify {
            blocks,
            check: fields.unprotected()?.byte_check()?,
        },
        0x34 | 0x90 => Operation::Prefetch(blocks),
        0x35 | 0x91 => Operation::SynchronizeCache(blocks),
        0x41 | 0x93 => {
            let fields = fields.unprotected()?;
            if fields.bit(1, 4) {
                return Err(Sense::invalid_cdb_field(1, Some(4))); // ANCHOR
            }
            let no_data = fields.0[0] == 0x93 && fields.bit(1, 0);
            Operation::WriteSame {
                blocks,
                unmap: fields.bit(1, 3),
                no_data,
            }
        }
        0x42 => {
            if fields.bit(1, 0) {
                return Err(Sense::invalid_cdb_field(1, Some(0))); // ANCHOR
            }
            Operation::Unmap {
                length: fields.u16(7),
            }
        }
        _ => return Err(Sense::INVALID_OPCODE),
    })
}

fn reservation(fields: Fields<'_>) -> Operation {
    let action = fields.0[1] & 0x1f;
    match fields.0[0] {
        0x16 | 0x56 => Operation::Reserve,
        0x17 | 0x57 => Operation::Release,
        0x5e => Operation::PersistIn {
            action,
            allocation: fields.u16(7),
        },
        _ => Operation::PersistOut {
            action,
            scope_and_kind: fields.0[2],
            length: fields.u32(5),
        },
    }
}

/// MODE SELECT and MODE SENSE, (6) and (10).
fn mode(fields: Fields<'_>) -> Result<Operation, Sense> {
    let cdb = fields.0;
    let long = cdb[0] >= 0x55;
    let length = if long {
        fields.u16(7)
    } else {
        u32::from(cdb[4])
    };
    if matches!(cdb[0], 0x15 | 0x55) {
        if cdb[1] & 0x01 != 0 {
            return Err(Sense::invalid_cdb_field(1, Some(0))); // SP: no pages are saved.
        }
        return Ok(Operation::ModeSelect { long, length });
    }
    Ok(Operation::ModeSense(ModeSense {
        long,
        no_descriptors: fields.bit(1, 3),
        long_lba: long && fields.bit(1, 4),
        control: cdb[2] >> 6,
        page: cdb[2] & 0x3f,
        subpage: cdb[3],
        allocation: length,
    }))
}

/// Commands of SPC-4 and the capacity commands.
fn primary(fields: Fields<'_>) -> Result<Operation, Sense> {
    let cdb = fields.0;
    Ok(match cdb[0] {
        0x00 => Operation::TestUnitReady,
        0x03 => Operation::RequestSense {
            descriptor: fields.bit(1, 0),
            allocation: u32::from(cdb[4]),
        },
        0x12 => {
            let page = fields.bit(1, 0).then_some(cdb[2]);
            if page.is_none() && cdb[2] != 0 {
                return Err(Sense::invalid_cdb_field(2, Some(7)));
            }
            Operation::Inquiry {
                page,
                allocation: fields.u16(3),
            }
        }
        0x15 | 0x1a | 0x55 | 0x5a => mode(fields)?,
        0x1b => {
            // LOEJ means loading or ejecting a medium that this disk does not have.
            if cdb[4] & 0xf0 == 0 && fields.bit(4, 1) {
                return Err(Sense::invalid_cdb_field(4, Some(1)));
            }
            Operation::StartStop
        }
        0x1e => Operation::PreventAllow {
            prevent: cdb[4] & 0x03 != 0,
        },
        0x25 => Operation::ReadCapacity10,
        0x9e if cdb[1] & 0x1f == 0x12 => Operation::LbaStatus {
            first: fields.u64(2),
            allocation: fields.u32(10),
        },
        0x9e => Operation::ReadCapacity16 {
            allocation: fields.u32(10),
        },
        0xa0 => Operation::ReportLuns {
            select: cdb[2],
            allocation: fields.u32(6),
        },
        0xa3 if cdb[1] & 0x1f == 0x0c => Operation::ReportOpcodes {
            options: cdb[2] & 0x07,
            opcode: cdb[3],
            action: u16::from_be_bytes([cdb[4], cdb[5]]),
            timeouts: fields.bit(2, 7),
            allocation: fields.u32(6),
        },
        0xa3 => Operation::ReportTaskFunctions {
            extended: fields.bit(2, 7),
            allocation: fields.u32(6),
        },
        _ => return Err(Sense::INVALID_OPCODE),
    })
}
