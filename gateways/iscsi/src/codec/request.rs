//! PDUs from the initiator (RFC 7143 11.3, 11.5, 11.7, 11.10, 11.12, 11.14, 11.16, 11.18).
//!
//! Reserved bits are ignored when reading and zero when writing.

use bytes::Bytes;

use super::{CodecError, Header, Lun, RawPdu, flag};

const NOP_OUT: u8 = 0x00;
const COMMAND: u8 = 0x01;
const TASK_MANAGEMENT: u8 = 0x02;
const LOGIN: u8 = 0x03;
const TEXT: u8 = 0x04;
const DATA_OUT: u8 = 0x05;
const LOGOUT: u8 = 0x06;
const SNACK: u8 = 0x10;

/// AHSType of an extended CDB (RFC 7143 11.2.2.3).
const AHS_EXTENDED_CDB: u8 = 1;

/// A PDU from the initiator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// NOP-Out.
    NopOut(NopOut),
    /// SCSI Command.
    Command(Command),
    /// Task Management Function Request.
    TaskManagement(TaskManagement),
    /// Login Request.
    Login(Login),
    /// Text Request.
    Text(Text),
    /// SCSI Data-Out.
    DataOut(DataOut),
    /// Logout Request.
    Logout(Logout),
    /// SNACK Request.
    Snack(Snack),
}

/// RFC 7143 11.18.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NopOut {
    /// I bit.
    pub immediate: bool,
    /// LUN, echoed.
    pub lun: Lun,
    /// Initiator task tag; all ones when no answer is wanted.
    pub task: u32,
    /// Target transfer tag of the NOP-In that it answers.
    pub transfer: u32,
    /// CmdSN.
    pub command_sn: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// Ping data.
    pub data: Bytes,
}

/// Task attributes (RFC 7143 11.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// Untagged; treated as simple.
    Untagged,
    /// May be reordered freely.
    Simple,
    /// After everything older, before everything younger.
    Ordered,
    /// At once.
    HeadOfQueue,
    /// Auto contingent allegiance; not supported.
    Aca,
}

/// RFC 7143 11.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// I bit.
    pub immediate: bool,
    /// F bit: no unsolicited Data-Out follows.
    pub last: bool,
    /// R bit: the initiator expects data.
    pub reads: bool,
    /// W bit: the initiator has data.
    pub writes: bool,
    /// Task attribute.
    pub attribute: Attribute,
    /// Logical unit.
    pub lun: Lun,
    /// Initiator task tag.
    pub task: u32,
    /// Expected data transfer length in bytes.
    pub expected_bytes: u32,
    /// CmdSN.
    pub command_sn: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// The first 16 bytes of the CDB.
    pub cdb: [u8; 16],
    /// The CDB's bytes after the sixteenth, from an extended-CDB AHS.
    pub cdb_rest: Bytes,
    /// Immediate data.
    pub data: Bytes,
}

/// RFC 7143 11.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskManagement {
    /// I bit.
    pub immediate: bool,
    /// The function's seven bits.
    pub function: u8,
    /// Logical unit.
    pub lun: Lun,
    /// Initiator task tag of this request.
    pub task: u32,
    /// Referenced task tag.
    pub referenced_task: u32,
    /// CmdSN.
    pub command_sn: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// RefCmdSN.
    pub referenced_command_sn: u32,
}

/// RFC 7143 11.12.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// T bit: ready to leave the stage.
    pub transit: bool,
    /// C bit: the text goes on in the next PDU.
    pub continues: bool,
    /// CSG.
    pub current_stage: u8,
    /// NSG.
    pub next_stage: u8,
    /// Version-max.
    pub version_max: u8,
    /// Version-min.
    pub version_min: u8,
    /// ISID.
    pub isid: [u8; 6],
    /// TSIH; zero for a new session.
    pub tsih: u16,
    /// Initiator task tag.
    pub task: u32,
    /// CID.
    pub connection: u16,
    /// CmdSN.
    pub command_sn: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// Text keys.
    pub data: Bytes,
}

/// RFC 7143 11.10.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// I bit.
    pub immediate: bool,
    /// F bit.
    pub last: bool,
    /// C bit.
    pub continues: bool,
    /// LUN, echoed together with the transfer tag.
    pub lun: Lun,
    /// Initiator task tag.
    pub task: u32,
    /// Target transfer tag.
    pub transfer: u32,
    /// CmdSN.
    pub command_sn: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// Text keys.
    pub data: Bytes,
}

/// RFC 7143 11.7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOut {
    /// F bit: the last PDU of its sequence.
    pub last: bool,
    /// Logical unit, when the transfer tag is valid.
    pub lun: Lun,
    /// Initiator task tag.
    pub task: u32,
    /// Target transfer tag; all ones for unsolicited data.
    pub transfer: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// DataSN within the sequence.
    pub data_sn: u32,
    /// Buffer offset in bytes.
    pub offset: u32,
    /// The data.
    pub data: Bytes,
}

/// RFC 7143 11.14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logout {
    /// I bit.
    pub immediate: bool,
    /// 0 close the session, 1 close the connection, 2 remove the connection for recovery.
    pub reason: u8,
    /// Initiator task tag.
    pub task: u32,
    /// CID.
    pub connection: u16,
    /// CmdSN.
    pub command_sn: u32,
    /// ExpStatSN.
    pub expected_status: u32,
}

/// RFC 7143 11.16. Only its existence matters: it is always rejected at ErrorRecoveryLevel 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snack {
    /// Type.
    pub kind: u8,
    /// Initiator task tag.
    pub task: u32,
    /// ExpStatSN.
    pub expected_status: u32,
    /// BegRun.
    pub first: u32,
    /// RunLength.
    pub count: u32,
}

impl Request {
    /// Gives a PDU from an initiator its meaning.
    ///
    /// # Errors
    /// The opcode or a field has no meaning.
    pub fn decode(pdu: &RawPdu) -> Result<Self, CodecError> {
        let header = Header(pdu.header);
        let data = pdu.data.clone();
        Ok(match pdu.opcode() {
            NOP_OUT => Self::NopOut(NopOut {
                immediate: pdu.is_immediate(),
                lun: header.lun(),
                task: header.u32(16),
                transfer: header.u32(20),
                command_sn: header.u32(24),
                expected_status: header.u32(28),
                data,
            }),
            COMMAND => Self::Command(decode_command(pdu)?),
            TASK_MANAGEMENT => Self::TaskManagement(TaskManagement {
                immediate: pdu.is_immediate(),
                function: header.u8(1) & 0x7f,
                lun: header.lun(),
                task: header.u32(16),
                referenced_task: header.u32(20),
                command_sn: header.u32(24),
                expected_status: header.u32(28),
                referenced_command_sn: header.u32(32),
            }),
            LOGIN => Self::Login(decode_login(header, data)),
            TEXT => Self::Text(Text {
                immediate: pdu.is_immediate(),
                last: header.u8(1) & 0x80 != 0,
                continues: header.u8(1) & 0x40 != 0,
                lun: header.lun(),
                task: header.u32(16),
                transfer: header.u32(20),
                command_sn: header.u32(24),
                expected_status: header.u32(28),
                data,
            }),
            DATA_OUT => Self::DataOut(DataOut {
                last: header.u8(1) & 0x80 != 0,
                lun: header.lun(),
                task: header.u32(16),
                transfer: header.u32(20),
                expected_status: header.u32(28),
                data_sn: header.u32(36),
                offset: header.u32(40),
                data,
            }),
            LOGOUT => Self::Logout(Logout {
                immediate: pdu.is_immediate(),
                reason: header.u8(1) & 0x7f,
                task: header.u32(16),
                connection: header.u16(20),
                command_sn: header.u32(24),
                expected_status: header.u32(28),
            }),
            SNACK => Self::Snack(Snack {
                kind: header.u8(1) & 0x0f,
                task: header.u32(16),
                expected_status: header.u32(28),
                first: header.u32(40),
                count: header.u32(44),
            }),
            opcode => return Err(CodecError::Opcode { opcode }),
        })
    }

    /// The PDU's wire form.
    #[must_use]
    pub fn encode(&self) -> RawPdu {
        match self {
            Self::NopOut(pdu) => start(NOP_OUT, pdu.immediate, 0x80)
                .put_lun(pdu.lun)
                .put_u32(16, pdu.task)
                .put_u32(20, pdu.transfer)
                .put_u32(24, pdu.command_sn)
                .put_u32(28, pdu.expected_status)
                .with(pdu.data.clone()),
            Self::Command(pdu) => encode_command(pdu),
            Self::TaskManagement(pdu) => start(TASK_MANAGEMENT, pdu.immediate, 0x80 | pdu.function)
                .put_lun(pdu.lun)
                .put_u32(16, pdu.task)
                .put_u32(20, pdu.referenced_task)
                .put_u32(24, pdu.command_sn)
                .put_u32(28, pdu.expected_status)
                .put_u32(32, pdu.referenced_command_sn)
                .with(Bytes::new()),
            Self::Login(pdu) => encode_login(pdu),
            Self::Text(pdu) => {
                let flags = flag(pdu.last, 0x80) | flag(pdu.continues, 0x40);
                start(TEXT, pdu.immediate, flags)
                    .put_lun(pdu.lun)
                    .put_u32(16, pdu.task)
                    .put_u32(20, pdu.transfer)
                    .put_u32(24, pdu.command_sn)
                    .put_u32(28, pdu.expected_status)
                    .with(pdu.data.clone())
            }
            Self::DataOut(pdu) => start(DATA_OUT, false, flag(pdu.last, 0x80))
                .put_lun(pdu.lun)
                .put_u32(16, pdu.task)
                .put_u32(20, pdu.transfer)
                .put_u32(28, pdu.expected_status)
                .put_u32(36, pdu.data_sn)
                .put_u32(40, pdu.offset)
                .with(pdu.data.clone()),
            Self::Logout(pdu) => start(LOGOUT, pdu.immediate, 0x80 | pdu.reason)
                .put_u32(16, pdu.task)
                .put(20, &pdu.connection.to_be_bytes())
                .put_u32(24, pdu.command_sn)
                .put_u32(28, pdu.expected_status)
                .with(Bytes::new()),
            Self::Snack(pdu) => start(SNACK, false, 0x80 | pdu.kind)
                .put_u32(16, pdu.task)
                .put_u32(28, pdu.expected_status)
                .put_u32(40, pdu.first)
                .put_u32(44, pdu.count)
                .with(Bytes::new()),
        }
    }
}

fn start(opcode: u8, immediate: bool, flags: u8) -> Header {
    Header::new(opcode | flag(immediate, 0x40)).put(1, &[flags])
}

fn decode_command(pdu: &RawPdu) -> Result<Command, CodecError> {
    let header = Header(pdu.header);
    let flags = header.u8(1);
    let attribute = match flags & 0x07 {
        0 => Attribute::Untagged,
        1 => Attribute::Simple,
        2 => Attribute::Ordered,
        3 => Attribute::HeadOfQueue,
        4 => Attribute::Aca,
        _ => {
            return Err(CodecError::Field {
                opcode: COMMAND,
                field: "ATTR",
            });
        }
    };
    Ok(Command {
        immediate: pdu.is_immediate(),
        last: flags & 0x80 != 0,
        reads: flags & 0x40 != 0,
        writes: flags & 0x20 != 0,
        attribute,
        lun: header.lun(),
        task: header.u32(16),
        expected_bytes: header.u32(20),
        command_sn: header.u32(24),
        expected_status: header.u32(28),
        cdb: header.bytes(32),
        cdb_rest: extended_cdb(&pdu.additional)?,
        data: pdu.data.clone(),
    })
}

/// The extended CDB among the additional headers; others (bidirectional length) are stepped over.
fn extended_cdb(additional: &Bytes) -> Result<Bytes, CodecError> {
    let mut rest = additional.clone();
    let mut found = Bytes::new();
    while !rest.is_empty() {
        let &[high, low, kind, ..] = &rest[..] else {
            return Err(CodecError::AdditionalHeader);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // AHSLength counts the bytes after type; the whole is padded to words.
        let whole = (3 + length).next_multiple_of(4);
        if length == 0 || whole > rest.len() {
            return Err(CodecError::AdditionalHeader);
        }
        let segment = rest.split_to(whole);
        if kind & 0x3f == AHS_EXTENDED_CDB {
            if !found.is_empty() || length < 2 {
                return Err(CodecError::AdditionalHeader);
            }
            // One reserved byte stands before the CDB's continuation.
            found = segment.slice(4..3 + length);
        }
    }
    Ok(found)
}

fn encode_command(pdu: &Command) -> RawPdu {
    let attribute = match pdu.attribute {
        Attribute::Untagged => 0,
        Attribute::Simple => 1,
        Attribute::Ordered => 2,
        Attribute::HeadOfQueue => 3,
        Attribute::Aca => 4,
    };
    let flags = flag(pdu.last, 0x80) | flag(pdu.reads, 0x40) | flag(pdu.writes, 0x20) | attribute;
    let mut raw = start(COMMAND, pdu.immediate, flags)
        .put_lun(pdu.lun)
        .put_u32(16, pdu.task)
        .put_u32(20, pdu.expected_bytes)
        .put_u32(24, pdu.command_sn)
        .put_u32(28, pdu.expected_status)
        .put(32, &pdu.cdb)
        .with(pdu.data.clone());
    if !pdu.cdb_rest.is_empty() {
        let length = u16::try_from(pdu.cdb_rest.len() + 1).expect("a CDB is below 64 KiB");
        let mut segment = length.to_be_bytes().to_vec();
        segment.extend_from_slice(&[AHS_EXTENDED_CDB, 0]);
        segment.extend_from_slice(&pdu.cdb_rest);
        segment.resize(segment.len().next_multiple_of(4), 0);
        raw.additional = Bytes::from(segment);
    }
    raw
}

fn decode_login(header: Header, data: Bytes) -> Login {
    let flags = header.u8(1);
    Login {
        transit: flags & 0x80 != 0,
        continues: flags & 0x40 != 0,
        current_stage: flags >> 2 & 3,
        next_stage: flags & 3,
        version_max: header.u8(2),
        version_min: header.u8(3),
        isid: header.bytes(8),
        tsih: header.u16(14),
        task: header.u32(16),
        connection: header.u16(20),
        command_sn: header.u32(24),
        expected_status: header.u32(28),
        data,
    }
}

fn encode_login(pdu: &Login) -> RawPdu {
    let flags = flag(pdu.transit, 0x80)
        | flag(pdu.continues, 0x40)
        | (pdu.current_stage & 3) << 2
        | (pdu.next_stage & 3);
    // Login requests are always immediate (RFC 7143 11.12).
    start(LOGIN, true, flags)
        .put(2, &[pdu.version_max, pdu.version_min])
        .put(8, &pdu.isid)
        .put(14, &pdu.tsih.to_be_bytes())
        .put_u32(16, pdu.task)
        .put(20, &pdu.connection.to_be_bytes())
        .put_u32(24, pdu.command_sn)
        .put_u32(28, pdu.expected_status)
        .with(pdu.data.clone())
}
