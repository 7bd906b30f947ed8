//! PDUs from the target (RFC 7143 11.4, 11.6, 11.7, 11.8, 11.9, 11.11, 11.13, 11.15, 11.17, 11.19).
//!
//! Reserved bits are ignored when reading and zero when writing.

use bytes::Bytes;

use super::{CodecError, Counters, Header, Lun, RawPdu, TAG_NONE, flag};

const NOP_IN: u8 = 0x20;
const COMMAND: u8 = 0x21;
const TASK_MANAGEMENT: u8 = 0x22;
const LOGIN: u8 = 0x23;
const TEXT: u8 = 0x24;
const DATA_IN: u8 = 0x25;
const LOGOUT: u8 = 0x26;
const READY_TO_TRANSFER: u8 = 0x31;
const ASYNC: u8 = 0x32;
const REJECT: u8 = 0x3f;

/// A PDU from the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// NOP-In.
    NopIn(NopIn),
    /// SCSI Response.
    Command(Command),
    /// Task Management Function Response.
    TaskManagement(TaskManagement),
    /// Login Response.
    Login(Login),
    /// Text Response.
    Text(Text),
    /// SCSI Data-In.
    DataIn(DataIn),
    /// Logout Response.
    Logout(Logout),
    /// Ready To Transfer.
    ReadyToTransfer(ReadyToTransfer),
    /// Asynchronous Message.
    Async(Async),
    /// Reject.
    Reject(Reject),
}

/// How much of the expected data was not moved, or was too much (RFC 7143 11.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residual {
    /// All as expected.
    #[default]
    None,
    /// So many bytes of what the initiator expected were not moved.
    Underflow(u32),
    /// So many bytes more would have been moved.
    Overflow(u32),
}

impl Residual {
    fn flags(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Overflow(_) => 0x04,
            Self::Underflow(_) => 0x02,
        }
    }

    fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Overflow(count) | Self::Underflow(count) => count,
        }
    }

    fn read(flags: u8, count: u32, opcode: u8) -> Result<Self, CodecError> {
        match flags & 0x06 {
            0 => Ok(Self::None),
            0x04 => Ok(Self::Overflow(count)),
            0x02 => Ok(Self::Underflow(count)),
            _ => Err(CodecError::Field {
                opcode,
                field: "O and U",
            }),
        }
    }
}

/// RFC 7143 11.19.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NopIn {
    /// LUN.
    pub lun: Lun,
    /// Initiator task tag of the ping that it answers.
    pub task: u32,
    /// Target transfer tag when the target asks for an answer.
    pub transfer: u32,
    /// Counters.
    pub counters: Counters,
    /// Ping data.
    pub data: Bytes,
}

/// RFC 7143 11.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// iSCSI response: 0 completed at target, 1 target failure.
    pub response: u8,
    /// SCSI status.
    pub status: u8,
    /// Initiator task tag.
    pub task: u32,
    /// Counters.
    pub counters: Counters,
    /// ExpDataSN: Data-In and R2T PDUs sent for the command.
    pub expected_data: u32,
    /// Residual count.
    pub residual: Residual,
    /// Sense data, without its length field.
    pub sense: Bytes,
}

/// RFC 7143 11.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskManagement {
    /// Response code.
    pub response: u8,
    /// Initiator task tag.
    pub task: u32,
    /// Counters.
    pub counters: Counters,
}

/// RFC 7143 11.13.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// T bit.
    pub transit: bool,
    /// C bit.
    pub continues: bool,
    /// CSG.
    pub current_stage: u8,
    /// NSG.
    pub next_stage: u8,
    /// ISID, echoed.
    pub isid: [u8; 6],
    /// TSIH.
    pub tsih: u16,
    /// Initiator task tag.
    pub task: u32,
    /// Counters.
    pub counters: Counters,
    /// Status-Class and Status-Detail.
    pub status: u16,
    /// Text keys.
    pub data: Bytes,
}

/// RFC 7143 11.11.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// F bit.
    pub last: bool,
    /// C bit.
    pub continues: bool,
    /// LUN.
    pub lun: Lun,
    /// Initiator task tag.
    pub task: u32,
    /// Target transfer tag; all ones when there is no more.
    pub transfer: u32,
    /// Counters.
    pub counters: Counters,
    /// Text keys.
    pub data: Bytes,
}

/// RFC 7143 11.7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataIn {
    /// F bit: the last PDU of its sequence.
    pub last: bool,
    /// S bit with the SCSI status and residual: no SCSI Response follows.
    pub status: Option<(u8, Residual)>,
    /// Initiator task tag.
    pub task: u32,
    /// Counters; StatSN counts only with a status.
    pub counters: Counters,
    /// DataSN.
    pub data_sn: u32,
    /// Buffer offset in bytes.
    pub offset: u32,
    /// The data.
    pub data: Bytes,
}

/// RFC 7143 11.15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logout {
    /// 0 closed, 1 CID not found, 2 recovery not supported, 3 clean-up failed.
    pub response: u8,
    /// Initiator task tag.
    pub task: u32,
    /// Counters.
    pub counters: Counters,
    /// Time2Wait in seconds.
    pub wait_s: u16,
    /// Time2Retain in seconds.
    pub retain_s: u16,
}

/// RFC 7143 11.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// Logical unit.
    pub lun: Lun,
    /// Initiator task tag.
    pub task: u32,
    /// Target transfer tag.
    pub transfer: u32,
    /// Counters.
    pub counters: Counters,
    /// R2TSN.
    pub r2t_sn: u32,
    /// Buffer offset in bytes.
    pub offset: u32,
    /// Desired data transfer length in bytes.
    pub length_bytes: u32,
}

/// RFC 7143 11.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Async {
    /// Logical unit.
    pub lun: Lun,
    /// Counters.
    pub counters: Counters,
    /// AsyncEvent.
    pub event: u8,
    /// Parameter1 to Parameter3.
    pub parameters: [u16; 3],
}

/// RFC 7143 11.17.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Reason.
    pub reason: u8,
    /// Counters.
    pub counters: Counters,
    /// The header of the rejected PDU.
    pub header: Bytes,
}

impl Response {
    /// Gives a PDU from a target its meaning.
    ///
    /// # Errors
    /// The opcode or a field has no meaning.
    pub fn decode(pdu: &RawPdu) -> Result<Self, CodecError> {
        let header = Header(pdu.header);
        let data = pdu.data.clone();
        let task = header.u32(16);
        let counters = header.counters();
        Ok(match pdu.opcode() {
            NOP_IN => Self::NopIn(NopIn {
                lun: header.lun(),
                task,
                transfer: header.u32(20),
                counters,
                data,
            }),
            COMMAND => Self::Command(decode_command(pdu)?),
            TASK_MANAGEMENT => Self::TaskManagement(TaskManagement {
                response: header.u8(2),
                task,
                counters,
            }),
            LOGIN => Self::Login(decode_login(header, data)),
            TEXT => Self::Text(Text {
                last: header.u8(1) & 0x80 != 0,
                continues: header.u8(1) & 0x40 != 0,
                lun: header.lun(),
                task,
                transfer: header.u32(20),
                counters,
                data,
            }),
            DATA_IN => Self::DataIn(decode_data_in(header, data)?),
            LOGOUT => Self::Logout(Logout {
                response: header.u8(2),
                task,
                counters,
                wait_s: header.u16(40),
                retain_s: header.u16(42),
            }),
            READY_TO_TRANSFER => Self::ReadyToTransfer(ReadyToTransfer {
                lun: header.lun(),
                task,
                transfer: header.u32(20),
                counters,
                r2t_sn: header.u32(36),
                offset: header.u32(40),
                length_bytes: header.u32(44),
            }),
            ASYNC => Self::Async(Async {
                lun: header.lun(),
                counters,
                event: header.u8(36),
                parameters: [header.u16(38), header.u16(40), header.u16(42)],
            }),
            REJECT => Self::Reject(Reject {
                reason: header.u8(2),
                counters,
                header: data,
            }),
            opcode => return Err(CodecError::Opcode { opcode }),
        })
    }

    /// The PDU's wire form.
    #[must_use]
    pub fn encode(&self) -> RawPdu {
        match self {
            Self::NopIn(pdu) => start(NOP_IN, 0x80, pdu.task, pdu.counters)
                .put_lun(pdu.lun)
                .put_u32(20, pdu.transfer)
                .with(pdu.data.clone()),
            Self::Command(pdu) => encode_command(pdu),
            Self::TaskManagement(pdu) => start(TASK_MANAGEMENT, 0x80, pdu.task, pdu.counters)
                .put(2, &[pdu.response])
                .with(Bytes::new()),
            Self::Login(pdu) => encode_login(pdu),
            Self::Text(pdu) => {
                let flags = flag(pdu.last, 0x80) | flag(pdu.continues, 0x40);
                start(TEXT, flags, pdu.task, pdu.counters)
                    .put_lun(pdu.lun)
                    .put_u32(20, pdu.transfer)
                    .with(pdu.data.clone())
            }
            Self::DataIn(pdu) => encode_data_in(pdu),
            Self::Logout(pdu) => start(LOGOUT, 0x80, pdu.task, pdu.counters)
                .put(2, &[pdu.response])
                .put(40, &pdu.wait_s.to_be_bytes())
                .put(42, &pdu.retain_s.to_be_bytes())
                .with(Bytes::new()),
            Self::ReadyToTransfer(pdu) => start(READY_TO_TRANSFER, 0x80, pdu.task, pdu.counters)
                .put_lun(pdu.lun)
                .put_u32(20, pdu.transfer)
                .put_u32(36, pdu.r2t_sn)
                .put_u32(40, pdu.offset)
                .put_u32(44, pdu.length_bytes)
                .with(Bytes::new()),
            Self::Async(pdu) => start(ASYNC, 0x80, TAG_NONE, pdu.counters)
                .put_lun(pdu.lun)
                .put(36, &[pdu.event])
                .put(38, &pdu.parameters[0].to_be_bytes())
                .put(40, &pdu.parameters[1].to_be_bytes())
                .put(42, &pdu.parameters[2].to_be_bytes())
                .with(Bytes::new()),
            Self::Reject(pdu) => start(REJECT, 0x80, TAG_NONE, pdu.counters)
                .put(2, &[pdu.reason])
                .with(pdu.header.clone()),
        }
    }
}

fn start(opcode: u8, flags: u8, task: u32, counters: Counters) -> Header {
    Header::new(opcode)
        .put(1, &[flags])
        .put_u32(16, task)
        .put_counters(counters)
}

fn decode_command(pdu: &RawPdu) -> Result<Command, CodecError> {
    let header = Header(pdu.header);
    let mut sense = pdu.data.clone();
    if !sense.is_empty() {
        // SenseLength, then the sense data (RFC 7143 11.4.7.2).
        let &[high, low, ..] = &sense[..] else {
            return Err(CodecError::Field {
                opcode: COMMAND,
                field: "SenseLength",
            });
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > sense.len() - 2 {
            return Err(CodecError::Field {
                opcode: COMMAND,
                field: "SenseLength",
            });
        }
        sense = sense.slice(2..2 + length);
    }
    Ok(Command {
        response: header.u8(2),
        status: header.u8(3),
        task: header.u32(16),
        counters: header.counters(),
        expected_data: header.u32(36),
        residual: Residual::read(header.u8(1), header.u32(44), COMMAND)?,
        sense,
    })
}

fn encode_command(pdu: &Command) -> RawPdu {
    let mut data = Vec::new();
    if !pdu.sense.is_empty() {
        let length = u16::try_from(pdu.sense.len()).expect("sense data has at most 252 bytes");
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(&pdu.sense);
    }
    start(COMMAND, 0x80 | pdu.residual.flags(), pdu.task, pdu.counters)
        .put(2, &[pdu.response, pdu.status])
        .put_u32(36, pdu.expected_data)
        .put_u32(44, pdu.residual.count())
        .with(Bytes::from(data))
}

fn decode_data_in(header: Header, data: Bytes) -> Result<DataIn, CodecError> {
    let flags = header.u8(1);
    let status = if flags & 0x01 == 0 {
        None
    } else {
        Some((
            header.u8(3),
            Residual::read(flags, header.u32(44), DATA_IN)?,
        ))
    };
    Ok(DataIn {
        last: flags & 0x80 != 0,
        status,
        task: header.u32(16),
        counters: header.counters(),
        data_sn: header.u32(36),
        offset: header.u32(40),
        data,
    })
}

fn encode_data_in(pdu: &DataIn) -> RawPdu {
    let mut header = start(DATA_IN, flag(pdu.last, 0x80), pdu.task, pdu.counters)
        .put_u32(20, TAG_NONE)
        .put_u32(36, pdu.data_sn)
        .put_u32(40, pdu.offset);
    if let Some((status, residual)) = pdu.status {
        let flags = flag(pdu.last, 0x80) | 0x01 | residual.flags();
        header = header
            .put(1, &[flags, 0, status])
            .put_u32(44, residual.count());
    }
    header.with(pdu.data.clone())
}

fn decode_login(header: Header, data: Bytes) -> Login {
    let flags = header.u8(1);
    Login {
        transit: flags & 0x80 != 0,
        continues: flags & 0x40 != 0,
        current_stage: flags >> 2 & 3,
        next_stage: flags & 3,
        isid: header.bytes(8),
        tsih: header.u16(14),
        task: header.u32(16),
        counters: header.counters(),
        status: header.u16(36),
        data,
    }
}

fn encode_login(pdu: &Login) -> RawPdu {
    let flags = flag(pdu.transit, 0x80)
        | flag(pdu.continues, 0x40)
        | (pdu.current_stage & 3) << 2
        | (pdu.next_stage & 3);
    // Version-max and Version-active are both zero: the only version there is.
    start(LOGIN, flags, pdu.task, pdu.counters)
        .put(8, &pdu.isid)
        .put(14, &pdu.tsih.to_be_bytes())
        .put(36, &pdu.status.to_be_bytes())
        .with(pdu.data.clone())
}
