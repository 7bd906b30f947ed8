//! The wire format of iSCSI (RFC 7143 section 11), as pure functions over bytes.
//!
//! Three layers: [`frame`] cuts a byte stream into [`RawPdu`]s and checks digests; [`request`] and
//! [`response`] give them meaning, from initiator and target; [`text`] reads and writes the
//! `key=value` data of login and text PDUs. Each decodes what it encodes, for target and initiator.
//!
//! Invariants: arbitrary bytes give a value or a typed error, never a panic, and never make the
//! decoder hold more than one PDU of the agreed size. Data segments are slices of what was
//! received, not copies. Does not: keep session state, or judge sequence numbers.

pub mod frame;
pub mod request;
pub mod response;
pub mod text;

use bytes::Bytes;
use thiserror::Error;

pub use frame::{Digests, Framer, RawPdu};
pub use request::Request;
pub use response::Response;

/// Length of the basic header segment in bytes (RFC 7143 11.2.1).
pub const HEADER_BYTES: usize = 48;

/// The reserved value of a task or transfer tag (RFC 7143 11.2.1.8).
pub const TAG_NONE: u32 = 0xffff_ffff;

/// What is wrong with received bytes. Every variant ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The data segment is longer than we declared to accept.
    #[error("a data segment of {length_bytes} bytes, more than the {limit_bytes} declared")]
    DataTooLong {
        /// As announced in the header.
        length_bytes: usize,
        /// Our MaxRecvDataSegmentLength.
        limit_bytes: usize,
    },
    /// CRC32C over header and AHS differs.
    #[error("the header digest differs")]
    HeaderDigest,
    /// CRC32C over the data segment differs.
    #[error("the data digest differs")]
    DataDigest,
    /// The opcode is not one that this side of a session may receive.
    #[error("opcode {opcode:#04x} has no meaning in this direction")]
    Opcode {
        /// The six bits.
        opcode: u8,
    },
    /// An additional header segment contradicts its own length.
    #[error("an additional header segment is malformed")]
    AdditionalHeader,
    /// A field holds a value that the standard does not define.
    #[error("the field {field} of opcode {opcode:#04x} is malformed")]
    Field {
        /// The PDU's opcode.
        opcode: u8,
        /// The field's name in the standard.
        field: &'static str,
    },
}

/// An eight-byte logical unit number field (SAM-5 4.7). Only single-level LUNs name something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lun(pub u64);

impl Lun {
    /// The field for logical unit `number` (peripheral addressing below 256, flat above).
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        if number < 0x100 {
            Self(u64::from(number) << 48)
        } else {
            Self((0x4000 | u64::from(number & 0x3fff)) << 48)
        }
    }

    /// The logical unit's number, if the field is a single-level address of a method in use.
    #[must_use]
    pub fn number(self) -> Option<u16> {
        let [a, b, rest @ ..] = self.0.to_be_bytes();
        if rest != [0; 6] {
            return None;
        }
        match a >> 6 {
            // Peripheral device addressing, bus 0.
            0 if a == 0 => Some(u16::from(b)),
            // Flat space addressing.
            1 => Some(u16::from_be_bytes([a & 0x3f, b])),
            _ => None,
        }
    }

    /// Whether it names the REPORT LUNS well-known logical unit (SPC-4 8.2).
    #[must_use]
    pub fn is_report_luns(self) -> bool {
        self.0 == 0xc101_0000_0000_0000
    }
}

/// The counters of every PDU from the target (RFC 7143 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// StatSN.
    pub status: u32,
    /// ExpCmdSN.
    pub expected_command: u32,
    /// MaxCmdSN.
    pub maximum_command: u32,
}

/// A header under construction or inspection; all fields are big-endian.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header(pub(crate) [u8; HEADER_BYTES]);

impl Header {
    pub(crate) fn new(opcode: u8) -> Self {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = opcode;
        Self(bytes)
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(crate) fn lun(&self) -> Lun {
        Lun((u64::from(self.u32(8)) << 32) | u64::from(self.u32(12)))
    }

    pub(crate) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.0[at..at + N]);
        out
    }

    pub(crate) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn put_u32(self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_be_bytes())
    }

    pub(crate) fn put_lun(self, lun: Lun) -> Self {
        self.put(8, &lun.0.to_be_bytes())
    }

    pub(crate) fn put_counters(self, counters: Counters) -> Self {
        self.put_u32(24, counters.status)
            .put_u32(28, counters.expected_command)
            .put_u32(32, counters.maximum_command)
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters {
            status: self.u32(24),
            expected_command: self.u32(28),
            maximum_command: self.u32(32),
        }
    }

    pub(crate) fn with(self, data: Bytes) -> RawPdu {
        RawPdu {
            header: self.0,
            additional: Bytes::new(),
            data,
        }
    }
}

/// `bit` when `set`.
pub(crate) fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}
