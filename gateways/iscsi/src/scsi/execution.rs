//! Commands that take data or use the medium: their work, step by step.
//!
//! Invariants: an execution names one medium operation at a time and stays inside the range that was
//! checked at its beginning; its reply is its last step.

use bytes::{Bytes, BytesMut};
use hedgerow_env::mutants::{Mutant, active};

use super::cdb::ByteCheck;
use super::execute::{Context, MediumOperation, Reply, Step};
use super::sense::{Sense, attention};
use super::{PARAMETER_BYTES_MAX, parameters, persist, status};
use crate::port::{BlockError, Geometry};
use crate::target::InitiatorPort;

/// Size of the pieces in which long verifications and patterns are worked off.
const PIECE_BYTES: u64 = 1 << 20;

/// A byte range inside the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) length: u64,
}

#[derive(Debug)]
pub(super) enum Work {
    Read(Range),
    /// `written` once the medium has the data and the verification follows.
    Write {
        range: Range,
        verify: Option<ByteCheck>,
        data: Bytes,
        written: bool,
    },
    Verify {
        range: Range,
        check: ByteCheck,
        data: Bytes,
        done: u64,
    },
    WriteSame {
        range: Range,
        unmap: bool,
        no_data: bool,
        zeros: bool,
        pattern: Bytes,
        /// Length of the operation under way.
        piece: u64,
        done: u64,
    },
    Unmap {
        ranges: Vec<(u64, u64)>,
        done: usize,
    },
    ModeSelect {
        long: bool,
    },
    PersistOut {
        action: u8,
        scope_and_kind: u8,
    },
    Flush,
}

/// A command that needs the medium, or data from the initiator.
#[derive(Debug)]
pub(crate) struct Execution {
    work: Work,
    geometry: Geometry,
    data_out: u32,
    data_in: u32,
    /// The command's task must abort these ports' tasks when it is done (PREEMPT AND ABORT).
    pub(crate) abort_ports: Vec<InitiatorPort>,
}

impl Execution {
    pub(super) fn new(work: Work, geometry: Geometry) -> Self {
        Self {
            work,
            geometry,
            data_out: 0,
            data_in: 0,
            abort_ports: Vec::new(),
        }
    }

    pub(super) fn read(range: Range, geometry: Geometry) -> Self {
        let data_in = transfer_length(range);
        Self {
            data_in,
            ..Self::new(Work::Read(range), geometry)
        }
    }

    pub(super) fn write(range: Range, verify: Option<ByteCheck>, geometry: Geometry) -> Self {
        let work = Work::Write {
            range,
            verify,
            data: Bytes::new(),
            written: false,
        };
        Self {
            data_out: transfer_length(range),
            ..Self::new(work, geometry)
        }
    }

    pub(super) fn verify(range: Range, check: ByteCheck, geometry: Geometry) -> Self {
        let data_out = match check {
            ByteCheck::Medium => 0,
            ByteCheck::Data => transfer_length(range),
            ByteCheck::OneBlock => geometry.block_size_bytes,
        };
        let work = Work::Verify {
            range,
            check,
            data: Bytes::new(),
            done: 0,
        };
        Self {
            data_out,
            ..Self::new(work, geometry)
        }
    }

    pub(super) fn write_same(range: Range, unmap: bool, no_data: bool, geometry: Geometry) -> Self {
        let pattern = Bytes::new();
        let (zeros, piece, done) = (false, 0, 0);
        let work = Work::WriteSame {
            range,
            unmap,
            no_data,
            zeros,
            pattern,
            piece,
            done,
        };
        let data_out = if no_data {
            0
        } else {
            geometry.block_size_bytes
        };
        Self {
            data_out,
            ..Self::new(work, geometry)
        }
    }

    pub(super) fn with_parameters(self, length: u32) -> Result<Self, Sense> {
        if length > PARAMETER_BYTES_MAX {
            return Err(Sense::PARAMETER_LENGTH);
        }
        Ok(Self {
            data_out: length,
            ..self
        })
    }

    /// Bytes that the CDB asks of the initiator.
    pub(crate) fn data_out_bytes(&self) -> u32 {
        self.data_out
    }

    /// Bytes that the CDB offers to the initiator.
    pub(crate) fn data_in_bytes(&self) -> u32 {
        self.data_in
    }

    /// Fits the command to an initiator that has less or more data than the CDB asks for.
    ///
    /// A write is shortened to the whole blocks there are; anything else that does not fit is
    /// refused, for it would do something other than what the CDB says.
    pub(crate) fn fit(&mut self, expected_bytes: u32) -> Result<(), Sense> {
        match &mut self.work {
            Work::WriteSame { no_data: false, .. } if expected_bytes != self.data_out => {
                Err(Sense::INFORMATION_UNIT)
            }
            Work::Write { .. } if active(Mutant::ShortWriteKeepsLength) => Ok(()),
            _ if expected_bytes >= self.data_out => Ok(()),
            Work::Write { range, .. }
                if expected_bytes.is_multiple_of(self.geometry.block_size_bytes) =>
            {
                range.length = u64::from(expected_bytes);
                self.data_out = expected_bytes;
                Ok(())
            }
            _ => Err(Sense::INFORMATION_UNIT),
        }
    }

    /// Starts with the whole data-out buffer.
    pub(crate) fn start(&mut self, context: Context<'_>, data: Bytes) -> Step {
        match &mut self.work {
            Work::Write { data: slot, .. }
            | Work::Verify { data: slot, .. }
            | Work::WriteSame { pattern: slot, .. } => {
                *slot = data;
                self.begin_pattern();
                self.next()
            }
            Work::Unmap { ranges, .. } => match parameters::unmap_ranges(&data, self.geometry) {
                Ok(parsed) => {
                    *ranges = parsed;
                    self.next()
                }
                Err(sense) => Step::Reply(sense.into()),
            },
            Work::ModeSelect { long } => {
                let long = *long;
                Step::Reply(self.mode_select(context, long, &data))
            }
            Work::PersistOut {
                action,
                scope_and_kind,
            } => {
                let (action, scope_and_kind) = (*action, *scope_and_kind);
                Step::Reply(self.persist_out(context, action, scope_and_kind, &data))
            }
            Work::Read(_) | Work::Flush => self.next(),
        }
    }

    /// Goes on after an operation that [`Step::Operate`] named.
    pub(crate) fn complete(&mut self, completion: Result<Bytes, BlockError>) -> Step {
        let bytes = match completion {
            Ok(bytes) => bytes,
            Err(error) => return Step::Reply(failure(&error, self.writing())),
        };
        match &mut self.work {
            Work::Read(range) => {
                assert_eq!(
                    bytes.len() as u64,
                    range.length,
                    "the port answers with that length"
                );
                Step::Reply(Reply::data(bytes))
            }
            Work::Write { verify: None, .. } | Work::ModeSelect { .. } => {
                Step::Reply(Reply::good())
            }
            Work::PersistOut { .. } | Work::Flush => Step::Reply(Reply::good()),
            Work::Write {
                written: written @ false,
                ..
            } => {
                *written = true;
                self.next()
            }
            Work::Write { verify, data, .. } => {
                let compared = *verify == Some(ByteCheck::Data);
                Step::Reply(if compared {
                    compare(data, &bytes, 0)
                } else {
                    Reply::good()
                })
            }
            Work::Verify {
                check, data, done, ..
            } => {
                let checked = match check {
                    ByteCheck::Medium => Reply::good(),
                    ByteCheck::Data => compare(data, &bytes, 0),
                    ByteCheck::OneBlock => compare_each(data, &bytes),
                };
                *done += bytes.len() as u64;
                if checked.status == status::GOOD {
                    self.next()
                } else {
                    Step::Reply(checked)
                }
            }
            Work::WriteSame { piece, done, .. } => {
                *done += *piece;
                self.next()
            }
            Work::Unmap { ranges, done } => {
                if active(Mutant::UnmapFirstRangeOnly) {
                    ranges.truncate(1);
                }
                *done += 1;
                self.next()
            }
        }
    }

    /// Whether the operation under way changes the medium.
    fn writing(&self) -> bool {
        match self.work {
            Work::Write { written, .. } => !written,
            Work::WriteSame { .. } | Work::Unmap { .. } => true,
            _ => false,
        }
    }

    /// A pattern of zeros needs no pattern; any other is spread over a piece, once.
    fn begin_pattern(&mut self) {
        let Work::WriteSame {
            range,
            zeros,
            pattern,
            ..
        } = &mut self.work
        else {
            return;
        };
        if pattern.iter().all(|byte| *byte == 0) {
            *zeros = true;
            return;
        }
        let length = usize::try_from(range.length.min(PIECE_BYTES.max(pattern.len() as u64)))
            .expect("a piece fits memory");
        let mut spread = BytesMut::with_capacity(length);
        while spread.len() < length {
            spread.extend_from_slice(pattern);
        }
        *pattern = spread.freeze();
    }

    /// The next operation of the work, or its good end.
    fn next(&mut self) -> Step {
        let operation = match &mut self.work {
            Work::Read(range) if range.length > 0 => Some(read(*range)),
            Work::Flush => Some(MediumOperation::Flush),
            Work::Write { range, .. } if range.length == 0 => None,
            Work::Write {
                range,
                written: true,
                ..
            } => Some(read(*range)),
            Work::Write { range, data, .. } => {
                assert_eq!(data.len() as u64, range.length, "all data was collected");
                Some(MediumOperation::Write {
                    first_byte: range.first,
                    data: data.clone(),
                })
            }
            Work::Verify {
                range, check, done, ..
            } if *done < range.length => {
                let piece = if *check == ByteCheck::Data {
                    range.length
                } else {
                    PIECE_BYTES
                };
                let first = range.first + *done;
                let length = piece.min(range.length - *done);
                Some(read(Range { first, length }))
            }
            Work::WriteSame {
                range,
                unmap,
                zeros: true,
                piece,
                done,
                ..
            } if *done == 0 => {
                *piece = range.length;
                (range.length > 0).then_some(MediumOperation::WriteZeroes {
                    first_byte: range.first,
                    length_bytes: range.length,
                    unmap: *unmap,
                })
            }
            Work::WriteSame {
                range,
                pattern,
                piece,
                done,
                ..
            } if *done < range.length => {
                let length = (range.length - *done).min(pattern.len() as u64);
                *piece = length;
                let data = pattern.slice(..usize::try_from(length).expect("within the pattern"));
                Some(MediumOperation::Write {
                    first_byte: range.first + *done,
                    data,
                })
            }
            Work::Unmap { ranges, done } => {
                ranges
                    .get(*done)
                    .map(|(first, length)| MediumOperation::WriteZeroes {
                        first_byte: *first,
                        length_bytes: *length,
                        unmap: true,
                    })
            }
            _ => None,
        };
        operation.map_or_else(|| Step::Reply(Reply::good()), Step::Operate)
    }

    fn mode_select(&self, context: Context<'_>, long: bool, list: &[u8]) -> Reply {
        let unit = context.unit.expect("only units run executions");
        let mut state = unit.lock();
        match state.mode.select(long, list, self.geometry) {
            Ok(mode) if mode == state.mode => Reply::good(),
            Ok(mode) => {
                state.mode = mode;
                state.attend_others(context.session, attention::MODE_CHANGED);
                Reply::good()
            }
            Err(sense) => sense.into(),
        }
    }

    fn persist_out(
        &mut self,
        context: Context<'_>,
        action: u8,
        scope_and_kind: u8,
        list: &[u8],
    ) -> Reply {
        let unit = context.unit.expect("only units run executions");
        let mut state = unit.lock();
        let port = context.port;
        match persist::perform(&mut state.reservations, port, action, scope_and_kind, list) {
            Ok(concerned) => {
                let preempted = match action {
                    3 => attention::RESERVATIONS_PREEMPTED,
                    _ => attention::REGISTRATIONS_PREEMPTED,
                };
                let released = attention::RESERVATIONS_RELEASED;
                state.attend_ports(&concerned.preempted, context.session, preempted);
                state.attend_ports(&concerned.released, context.session, released);
                if action == 5 {
                    self.abort_ports = concerned.preempted;
                }
                Reply::good()
            }
            Err(persist::Failure::Conflict) => Reply::status(status::RESERVATION_CONFLICT),
            Err(persist::Failure::Sense(sense)) => sense.into(),
        }
    }
}

fn transfer_length(range: Range) -> u32 {
    u32::try_from(range.length).expect("transfers are limited")
}

fn read(range: Range) -> MediumOperation {
    let length_bytes = u32::try_from(range.length).expect("transfers are limited");
    MediumOperation::Read {
        first_byte: range.first,
        length_bytes,
    }
}

/// Compares the data-out buffer, from `offset` of it, with the medium.
fn compare(expected: &[u8], found: &[u8], offset: u64) -> Reply {
    match expected.iter().zip(found).position(|(a, b)| a != b) {
        None => Reply::good(),
        Some(index) => Sense::miscompare(offset + index as u64).into(),
    }
}

/// Compares every block found with one expected block.
fn compare_each(block: &[u8], found: &[u8]) -> Reply {
    let bad = found
        .chunks(block.len())
        .find(|chunk| *chunk != &block[..chunk.len()]);
    bad.map_or_else(Reply::good, |chunk| compare(block, chunk, 0))
}

/// What the initiator is told when the port refused or failed.
fn failure(error: &BlockError, writing: bool) -> Reply {
    match error {
        BlockError::Busy => Reply::status(status::BUSY),
        BlockError::Unavailable => Sense::BECOMING_READY.into(),
        BlockError::OutOfRange => Sense::OUT_OF_RANGE.into(),
        BlockError::Gone => Sense::NOT_ACCESSIBLE.into(),
        BlockError::ReadOnly => Sense::WRITE_PROTECTED.into(),
        BlockError::NoSpace => Sense::NO_SPACE.into(),
        BlockError::Medium(_) if writing => Sense::WRITE_ERROR.into(),
        BlockError::Medium(_) => Sense::READ_ERROR.into(),
        BlockError::Cancelled => Sense::ABORTED.into(),
        BlockError::OutcomeUnknown => unreachable!("its session ends without an answer"),
    }
}
