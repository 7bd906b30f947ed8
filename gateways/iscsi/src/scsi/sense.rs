//! Sense data: what a CHECK CONDITION says (SPC-4 4.5), in fixed and descriptor format.

use bytes::Bytes;

/// Sense keys (SPC-4 table 47).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nothing to say.
    NoSense,
    /// The unit cannot be used now.
    NotReady,
    /// The medium is damaged.
    MediumError,
    /// The command cannot be done as it is.
    IllegalRequest,
    /// Something happened that the initiator should know.
    UnitAttention,
    /// Writes are refused.
    DataProtect,
    /// The target gave up; trying again may help.
    AbortedCommand,
    /// Compared data differs.
    Miscompare,
}

impl Key {
    fn code(self) -> u8 {
        match self {
            Self::NoSense => 0x0,
            Self::NotReady => 0x2,
            Self::MediumError => 0x3,
            Self::IllegalRequest => 0x5,
            Self::UnitAttention => 0x6,
            Self::DataProtect => 0x7,
            Self::AbortedCommand => 0xb,
            Self::Miscompare => 0xe,
        }
    }
}

/// Points at the offending field (SPC-4 4.5.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FieldPointer {
    /// In the CDB; otherwise in the parameter data.
    pub(crate) in_cdb: bool,
    /// The byte's index.
    pub(crate) byte: u16,
    /// The most significant bit of the field.
    pub(crate) bit: Option<u8>,
}

/// One sense: key, additional code and qualifier, and what belongs to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sense {
    /// Sense key.
    pub(crate) key: Key,
    /// ASC and ASCQ.
    pub(crate) code: u16,
    /// INFORMATION: an offset or a logical block address.
    pub(crate) information: Option<u64>,
    /// Which field is wrong.
    pub(crate) field: Option<FieldPointer>,
}

impl Sense {
    const fn new(key: Key, code: u16) -> Self {
        Self {
            key,
            code,
            information: None,
            field: None,
        }
    }

    const fn illegal(code: u16) -> Self {
        Self::new(Key::IllegalRequest, code)
    }

    /// NO ADDITIONAL SENSE INFORMATION.
    pub(crate) const NONE: Self = Self::new(Key::NoSense, 0x0000);
    /// INVALID COMMAND OPERATION CODE.
    pub(crate) const INVALID_OPCODE: Self = Self::illegal(0x2000);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub(crate) const OUT_OF_RANGE: Self = Self::illegal(0x2100);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub(crate) const NO_UNIT: Self = Self::illegal(0x2500);
    /// PARAMETER LIST LENGTH ERROR.
    pub(crate) const PARAMETER_LENGTH: Self = Self::illegal(0x1a00);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT: the expected length does not fit the CDB.
    pub(crate) const INFORMATION_UNIT: Self = Self::illegal(0x0e03);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub(crate) const INVALID_RELEASE: Self = Self::illegal(0x2604);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub(crate) const REGISTRATIONS_FULL: Self = Self::illegal(0x5504);
    /// LOGICAL UNIT NOT READY, CAUSE: IN PROCESS OF BECOMING READY.
    pub(crate) const BECOMING_READY: Self = Self::new(Key::NotReady, 0x0401);
    /// LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE: another path has the disk.
    pub(crate) const NOT_ACCESSIBLE: Self = Self::new(Key::NotReady, 0x040c);
    /// UNRECOVERED READ ERROR.
    pub(crate) const READ_ERROR: Self = Self::new(Key::MediumError, 0x1100);
    /// WRITE ERROR.
    pub(crate) const WRITE_ERROR: Self = Self::new(Key::MediumError, 0x0c00);
    /// WRITE PROTECTED.
    pub(crate) const WRITE_PROTECTED: Self = Self::new(Key::DataProtect, 0x2700);
    /// LOGICAL UNIT NOT READY, SPACE ALLOCATION IN PROGRESS: thin provisioning lacks room for now.
    /// Not SPACE ALLOCATION FAILED WRITE PROTECT, at which initiators give up.
    pub(crate) const NO_SPACE: Self = Self::new(Key::NotReady, 0x0414);
    /// NO ADDITIONAL SENSE INFORMATION: the target gave the command up.
    pub(crate) const ABORTED: Self = Self::new(Key::AbortedCommand, 0x0000);

    /// PROTOCOL SERVICE CRC ERROR: data of the command was lost on the way (RFC 7143 11.4.7.2).
    pub(crate) const SEQUENCE: Self = Self::new(Key::AbortedCommand, 0x4705);

    /// A unit attention (see [`attention`]).
    #[must_use]
    pub(crate) const fn attention(code: u16) -> Self {
        Self::new(Key::UnitAttention, code)
    }

    /// INVALID FIELD IN CDB at `byte`.
    #[must_use]
    pub(crate) const fn invalid_cdb_field(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(0x2400);
        sense.field = Some(FieldPointer {
            in_cdb: true,
            byte,
            bit,
        });
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST at `byte`.
    #[must_use]
    pub(crate) const fn invalid_parameter(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(0x2600);
        sense.field = Some(FieldPointer {
            in_cdb: false,
            byte,
            bit,
        });
        sense
    }

    /// MISCOMPARE DURING VERIFY OPERATION; `offset` is the first differing byte of the data-out
    /// buffer.
    #[must_use]
    pub(crate) const fn miscompare(offset: u64) -> Self {
        let mut sense = Self::new(Key::Miscompare, 0x1d00);
        sense.information = Some(offset);
        sense
    }

    /// The bytes: fixed format (SPC-4 4.5.3), or descriptor format (4.5.2) when D_SENSE is set.
    #[must_use]
    pub(crate) fn encode(&self, descriptor: bool) -> Bytes {
        if descriptor {
            self.encode_descriptors()
        } else {
            self.encode_fixed()
        }
    }

    fn encode_fixed(&self) -> Bytes {
        let mut bytes = vec![0_u8; 18];
        bytes[0] = 0x70;
        bytes[2] = self.key.code();
        // A value over 32 bits cannot be said in this format: VALID stays zero (SPC-4 4.5.3).
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = 10;
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&field_bytes(field));
        }
        Bytes::from(bytes)
    }

    fn encode_descriptors(&self) -> Bytes {
        let [asc, ascq] = self.code.to_be_bytes();
        let mut bytes = vec![0x72, self.key.code(), asc, ascq, 0, 0, 0, 0];
        if let Some(information) = self.information {
            bytes.extend_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            bytes.extend_from_slice(&information.to_be_bytes());
        }
        if let Some(field) = self.field {
            bytes.extend_from_slice(&[0x02, 0x06, 0x00, 0x00]);
            bytes.extend_from_slice(&field_bytes(field));
            bytes.push(0);
        }
        bytes[7] = u8::try_from(bytes.len() - 8).expect("two descriptors at most");
        Bytes::from(bytes)
    }
}

fn field_bytes(field: FieldPointer) -> [u8; 3] {
    let [high, low] = field.byte.to_be_bytes();
    let command = if field.in_cdb { 0x40 } else { 0 };
    let bit = field.bit.map_or(0, |bit| 0x08 | (bit & 7));
    [0x80 | command | bit, high, low]
}

/// Additional sense codes of unit attentions (SPC-4 table 49).
pub(crate) mod attention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: the first command of a new nexus.
    pub(crate) const POWER_ON: u16 = 0x2900;
    /// BUS DEVICE RESET FUNCTION OCCURRED: after LOGICAL UNIT RESET or a target reset.
    pub(crate) const RESET: u16 = 0x2903;
    /// MODE PARAMETERS CHANGED.
    pub(crate) const MODE_CHANGED: u16 = 0x2a01;
    /// RESERVATIONS PREEMPTED.
    pub(crate) const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    /// RESERVATIONS RELEASED.
    pub(crate) const RESERVATIONS_RELEASED: u16 = 0x2a04;
    /// REGISTRATIONS PREEMPTED.
    pub(crate) const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    /// CAPACITY DATA HAS CHANGED.
    pub(crate) const CAPACITY_CHANGED: u16 = 0x2a09;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let sense = Sense::invalid_cdb_field(1, Some(7));
        let fixed = sense.encode(false);
        assert_eq!(fixed[..3], [0x70, 0, 0x05]);
        assert_eq!(fixed[12..18], [0x24, 0x00, 0, 0xcf, 0, 1]);
        let descriptors = sense.encode(true);
        assert_eq!(descriptors[..8], [0x72, 0x05, 0x24, 0x00, 0, 0, 0, 8]);
        assert_eq!(descriptors[8..], [0x02, 0x06, 0, 0, 0xcf, 0, 1, 0]);
    }

    #[test]
    fn a_value_too_large_for_fixed_format_is_left_out_there_only() {
        let sense = Sense::miscompare(1 << 40);
        assert_eq!(sense.encode(false)[0], 0x70);
        assert_eq!(sense.encode(true)[12..20], (1_u64 << 40).to_be_bytes());
        assert_eq!(
            Sense::miscompare(7).encode(false)[..7],
            [0xf0, 0, 0x0e, 0, 0, 0, 7]
        );
    }
}
