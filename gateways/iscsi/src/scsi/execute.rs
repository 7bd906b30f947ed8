//! Runs commands: answers at once, or names the medium operations to do one after the other.
//!
//! [`begin`] judges a command; what it returns is either the whole reply or an [`Execution`] that
//! the session feeds with the data-out buffer and with each operation's completion.

use bytes::{Bytes, BytesMut};

use super::cdb::{self, Blocks, ByteCheck, Operation};
use super::sense::{Sense, attention};
use super::table::Access;
use super::{
    PARAMETER_BYTES_MAX, TRANSFER_BYTES_MAX, WRITE_SAME_BLOCKS_MAX, inquiry, opcodes, parameters,
    persist, status,
};
use crate::port::{BlockError, Geometry};
use crate::target::{InitiatorPort, SessionId, Target, Unit};

/// Size of the pieces in which long verifications and patterns are worked off.
const PIECE_BYTES: u64 = 1 << 20;

/// Who sends a command, and to what.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) target: &'a Target,
    pub(crate) unit: Option<&'a Unit>,
    pub(crate) session: SessionId,
    pub(crate) port: &'a InitiatorPort,
}

/// The end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u8,
    pub(crate) sense: Option<Sense>,
    pub(crate) data: Bytes,
}

impl Reply {
    pub(crate) fn good() -> Self {
        Self::data(Bytes::new())
    }

    fn data(data: Bytes) -> Self {
        Self {
            status: status::GOOD,
            sense: None,
            data,
        }
    }

    pub(crate) fn status(status: u8) -> Self {
        Self {
            status,
            sense: None,
            data: Bytes::new(),
        }
    }

    /// Parameter data, cut to the allocation length (SPC-4 4.2.5.6).
    fn parameters(mut data: Vec<u8>, allocation: u32) -> Self {
        data.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
        Self::data(Bytes::from(data))
    }
}

impl From<Sense> for Reply {
    fn from(sense: Sense) -> Self {
        Self {
            status: status::CHECK_CONDITION,
            sense: Some(sense),
            data: Bytes::new(),
        }
    }
}

/// An operation on the medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediumOperation {
    /// Read so many bytes.
    Read {
        /// Byte offset.
        first_byte: u64,
        /// Length.
        length_bytes: u32,
    },
    /// Write bytes.
    Write {
        /// Byte offset.
        first_byte: u64,
        /// What to write.
        data: Bytes,
    },
    /// Make zeros.
    WriteZeroes {
        /// Byte offset.
        first_byte: u64,
        /// Length.
        length_bytes: u64,
        /// Space may be given back.
        unmap: bool,
    },
    /// Make acknowledged writes durable.
    Flush,
}

impl MediumOperation {
    /// Whether it changes the medium, so that its end must be awaited before an abort is answered.
    pub(crate) fn changes(&self) -> bool {
        matches!(self, Self::Write { .. } | Self::WriteZeroes { .. })
    }
}

/// What a command does next.
#[derive(Debug)]
pub(crate) enum Step {
    Operate(MediumOperation),
    Reply(Reply),
}

/// What became of a command at its beginning.
pub(crate) enum Begun {
    Reply(Reply),
    Execution(Execution),
}

impl From<Sense> for Begun {
    fn from(sense: Sense) -> Self {
        Self::Reply(sense.into())
    }
}

/// A byte range inside the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    length: u64,
}

#[derive(Debug)]
enum Work {
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

/// Judges a command and starts it.
pub(crate) fn begin(context: Context<'_>, cdb: &[u8; 16]) -> Begun {
    let Some(unit) = context.unit else {
        return without_unit(context, cdb);
    };
    let geometry = unit.device().geometry();
    let parsed = cdb::parse(cdb);
    let quiet = matches!(cdb[0], 0x03 | 0x12 | 0xa0); // REQUEST SENSE, INQUIRY, REPORT LUNS
    {
        let mut state = unit.lock();
        state.notice_capacity(context.session, geometry);
        if !quiet && let Some(code) = state.take_attention(context.session) {
            return Sense::attention(code).into();
        }
        if let Ok((row, operation)) = &parsed {
            // Letting the medium go is always allowed; keeping it is not (SPC-4 table 64).
            let access = match operation {
                Operation::PreventAllow { prevent: true } => Access::Read,
                _ => row.access,
            };
            if state
                .reservations
                .conflicts(access, context.session, context.port)
            {
                return Begun::Reply(Reply::status(status::RESERVATION_CONFLICT));
            }
        }
    }
    match parsed.and_then(|(_, operation)| dispatch(context, unit, geometry, operation)) {
        Ok(begun) => begun,
        Err(sense) => sense.into(),
    }
}

/// Commands to a logical unit that does not exist (SPC-4 6.6.2, SAM-5 4.7.4).
fn without_unit(context: Context<'_>, cdb: &[u8; 16]) -> Begun {
    match cdb::parse(cdb) {
        Ok((_, Operation::Inquiry { page, allocation })) => {
            let data = match page {
                None => Ok(inquiry::standard(None)),
                Some(code) => inquiry::page(code, None, None, &context.target.name),
            };
            data.map_or_else(Into::into, |data| {
                Begun::Reply(Reply::parameters(data, allocation))
            })
        }
        Ok((_, Operation::ReportLuns { select, allocation })) => {
            parameters::luns(select, context.target).map_or_else(Into::into, |data| {
                Begun::Reply(Reply::parameters(data, allocation))
            })
        }
        Ok((
            _,
            Operation::RequestSense {
                descriptor,
                allocation,
            },
        )) => {
            let data = Sense::NO_UNIT.encode(descriptor).to_vec();
            Begun::Reply(Reply::parameters(data, allocation))
        }
        _ => Sense::NO_UNIT.into(),
    }
}

fn dispatch(
    context: Context<'_>,
    unit: &Unit,
    geometry: Geometry,
    operation: Operation,
) -> Result<Begun, Sense> {
    match operation {
        Operation::Read(_)
        | Operation::Write { .. }
        | Operation::Verify { .. }
        | Operation::WriteSame { .. }
        | Operation::Unmap { .. }
        | Operation::SynchronizeCache(_)
        | Operation::Prefetch(_) => medium(unit, geometry, operation),
        Operation::ModeSelect { long, length } => {
            let execution = Execution::new(Work::ModeSelect { long }, geometry);
            execution.with_parameters(length).map(Begun::Execution)
        }
        Operation::PersistOut {
            action,
            scope_and_kind,
            length,
        } => {
            if unit.lock().reservations.classic_blocks(context.session) {
                return Ok(Begun::Reply(Reply::status(status::RESERVATION_CONFLICT)));
            }
            let work = Work::PersistOut {
                action,
                scope_and_kind,
            };
            Execution::new(work, geometry)
                .with_parameters(length)
                .map(Begun::Execution)
        }
        _ => immediate(context, unit, geometry, operation).map(Begun::Reply),
    }
}

/// Commands that are answered from state alone.
fn immediate(
    context: Context<'_>,
    unit: &Unit,
    geometry: Geometry,
    operation: Operation,
) -> Result<Reply, Sense> {
    let session = context.session;
    Ok(match operation {
        Operation::RequestSense {
            descriptor,
            allocation,
        } => {
            let pending = unit.lock().take_attention(session).map(Sense::attention);
            let data = pending.unwrap_or(Sense::NONE).encode(descriptor);
            Reply::parameters(data.to_vec(), allocation)
        }
        Operation::Inquiry { page, allocation } => {
            let description = unit.description();
            let data = match page {
                None => inquiry::standard(Some(&description)),
                Some(code) => {
                    let name = &context.target.name;
                    inquiry::page(code, Some(&description), Some(geometry), name)?
                }
            };
            Reply::parameters(data, allocation)
        }
        Operation::ReadCapacity10 => Reply::parameters(parameters::capacity10(geometry), 8),
        Operation::ReadCapacity16 { allocation } => {
            Reply::parameters(parameters::capacity16(geometry), allocation)
        }
        Operation::ReportLuns { select, allocation } => {
            Reply::parameters(parameters::luns(select, context.target)?, allocation)
        }
        Operation::ModeSense(request) => {
            let mode = unit.lock().mode;
            Reply::parameters(mode.sense(request, geometry)?, request.allocation)
        }
        Operation::Reserve | Operation::Release => {
            let reservations = &mut unit.lock().reservations;
            let outcome = if operation == Operation::Reserve {
                reservations.reserve_classic(session)
            } else {
                reservations.release_classic(session)
            };
            outcome.map_or_else(
                |_| Reply::status(status::RESERVATION_CONFLICT),
                |()| Reply::good(),
            )
        }
        Operation::PersistIn { action, allocation } => {
            let state = unit.lock();
            if state.reservations.classic_blocks(session) {
                return Ok(Reply::status(status::RESERVATION_CONFLICT));
            }
            Reply::parameters(persist::answer(action, &state.reservations)?, allocation)
        }
        Operation::ReportOpcodes {
            options,
            opcode,
            action,
            timeouts,
            allocation,
        } => Reply::parameters(
            opcodes::report(options, opcode, action, timeouts)?,
            allocation,
        ),
        Operation::ReportTaskFunctions {
            extended,
            allocation,
        } => Reply::parameters(opcodes::task_functions(extended), allocation),
        // The medium is always there and never leaves.
        Operation::TestUnitReady | Operation::StartStop | Operation::PreventAllow { .. } => {
            Reply::good()
        }
        _ => return Err(Sense::INVALID_OPCODE),
    })
}

/// Commands which name blocks.
fn medium(unit: &Unit, geometry: Geometry, operation: Operation) -> Result<Begun, Sense> {
    let writes = matches!(
        operation,
        Operation::Write { .. } | Operation::WriteSame { .. } | Operation::Unmap { .. }
    );
    if writes && (geometry.read_only || unit.lock().mode.write_protect) {
        return Err(Sense::WRITE_PROTECTED);
    }
    let new = |work| Execution::new(work, geometry);
    Ok(Begun::Execution(match operation {
        Operation::Read(blocks) => {
            let range = transfer_range(blocks, geometry)?;
            let length = u32::try_from(range.length).expect("transfers are limited");
            Execution {
                data_in: length,
                ..new(Work::Read(range))
            }
        }
        Operation::Write { blocks, verify } => {
            let range = transfer_range(blocks, geometry)?;
            let length = u32::try_from(range.length).expect("transfers are limited");
            let work = Work::Write {
                range,
                verify,
                data: Bytes::new(),
                written: false,
            };
            Execution {
                data_out: length,
                ..new(work)
            }
        }
        Operation::Verify { blocks, check } => {
            let range = match check {
                ByteCheck::Data => transfer_range(blocks, geometry)?,
                _ => whole_range(blocks, geometry)?,
            };
            let data_out = match check {
                ByteCheck::Medium => 0,
                ByteCheck::Data => u32::try_from(range.length).expect("transfers are limited"),
                ByteCheck::OneBlock => geometry.block_size_bytes,
            };
            let work = Work::Verify {
                range,
                check,
                data: Bytes::new(),
                done: 0,
            };
            Execution {
                data_out,
                ..new(work)
            }
        }
        Operation::WriteSame {
            blocks,
            unmap,
            no_data,
        } => {
            let range = write_same_range(blocks, geometry)?;
            let unmap = unmap && geometry.thin;
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
            Execution {
                data_out,
                ..new(work)
            }
        }
        Operation::Unmap { .. } if !geometry.thin => return Err(Sense::INVALID_OPCODE),
        Operation::Unmap { length } => new(Work::Unmap {
            ranges: Vec::new(),
            done: 0,
        })
        .with_parameters(length)?,
        Operation::SynchronizeCache(blocks) => {
            whole_range(blocks, geometry)?;
            new(Work::Flush)
        }
        // Reading ahead is a hint; the range must still exist (SBC-3 5.9).
        _ => {
            if let Operation::Prefetch(blocks) = operation {
                whole_range(blocks, geometry)?;
            }
            return Ok(Begun::Reply(Reply::good()));
        }
    }))
}

/// The bytes of a range of blocks inside the disk.
fn whole_range(blocks: Blocks, geometry: Geometry) -> Result<Range, Sense> {
    let end = blocks
        .first
        .checked_add(blocks.count)
        .ok_or(Sense::OUT_OF_RANGE)?;
    if end > geometry.block_count || (blocks.first >= geometry.block_count && blocks.first > 0) {
        return Err(Sense::OUT_OF_RANGE);
    }
    let block = u64::from(geometry.block_size_bytes);
    Ok(Range {
        first: blocks.first * block,
        length: blocks.count * block,
    })
}

/// The same, within MAXIMUM TRANSFER LENGTH.
fn transfer_range(blocks: Blocks, geometry: Geometry) -> Result<Range, Sense> {
    let range = whole_range(blocks, geometry)?;
    if range.length > TRANSFER_BYTES_MAX {
        return Err(Sense::invalid_cdb_field(blocks.count_byte, Some(7)));
    }
    Ok(range)
}

/// WRITE SAME's range: a count of zero reaches to the end of the disk (WSNZ is zero).
fn write_same_range(blocks: Blocks, geometry: Geometry) -> Result<Range, Sense> {
    let mut range = whole_range(blocks, geometry)?;
    if blocks.count == 0 {
        let block = u64::from(geometry.block_size_bytes);
        range.length = geometry.block_count * block - range.first;
    }
    if range.length / u64::from(geometry.block_size_bytes) > WRITE_SAME_BLOCKS_MAX {
        return Err(Sense::invalid_cdb_field(blocks.count_byte, Some(7)));
    }
    Ok(range)
}

impl Execution {
    fn new(work: Work, geometry: Geometry) -> Self {
        Self {
            work,
            geometry,
            data_out: 0,
            data_in: 0,
            abort_ports: Vec::new(),
        }
    }

    fn with_parameters(self, length: u32) -> Result<Self, Sense> {
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
            Work::Unmap { done, .. } => {
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
    }
}
