//! Runs commands: answers at once, or names the medium operations to do one after the other.
//!
//! [`begin`] judges a command; what it returns is either the whole reply or an [`Execution`] that
//! the session feeds with the data-out buffer and with each operation's completion.

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};

use super::cdb::{self, Blocks, ByteCheck, Operation};
use super::execution::{Execution, Range, Work};
use super::sense::Sense;
use super::table::Access;
use super::write_same_blocks_max;
use super::{TRANSFER_BYTES_MAX, inquiry, opcodes, parameters, persist, status};
use crate::port::Geometry;
use crate::target::{InitiatorPort, SessionId, Target, Unit};

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

    pub(super) fn data(data: Bytes) -> Self {
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
        _ => return constant(geometry, operation),
    })
}

/// Commands that the geometry and this program alone answer.
fn constant(geometry: Geometry, operation: Operation) -> Result<Reply, Sense> {
    Ok(match operation {
        Operation::ReadCapacity10 => Reply::parameters(parameters::capacity10(geometry), 8),
        Operation::ReadCapacity16 { allocation } => {
            Reply::parameters(parameters::capacity16(geometry), allocation)
        }
        Operation::LbaStatus { first, allocation } => {
            Reply::parameters(parameters::lba_status(first, geometry)?, allocation)
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
    Ok(Begun::Execution(match operation {
        Operation::Read(blocks) => Execution::read(transfer_range(blocks, geometry)?, geometry),
        Operation::Write { blocks, verify } => {
            Execution::write(transfer_range(blocks, geometry)?, verify, geometry)
        }
        Operation::Verify { blocks, check } => {
            let range = match check {
                ByteCheck::Data => transfer_range(blocks, geometry)?,
                _ => whole_range(blocks, geometry)?,
            };
            Execution::verify(range, check, geometry)
        }
        Operation::WriteSame {
            blocks,
            unmap,
            no_data,
        } => {
            let range = write_same_range(blocks, geometry)?;
            Execution::write_same(range, unmap && geometry.thin, no_data, geometry)
        }
        Operation::Unmap { .. } if !geometry.thin => return Err(Sense::INVALID_OPCODE),
        Operation::Unmap { length } => {
            let (ranges, done) = (Vec::new(), 0);
            Execution::new(Work::Unmap { ranges, done }, geometry).with_parameters(length)?
        }
        Operation::SynchronizeCache(blocks) => {
            whole_range(blocks, geometry)?;
            Execution::new(Work::Flush, geometry)
        }
        // Reading ahead is a hint; the range must still exist (SBC-3 5.9).
        Operation::Prefetch(blocks) => {
            whole_range(blocks, geometry)?;
            return Ok(Begun::Reply(Reply::good()));
        }
        _ => return Err(Sense::INVALID_OPCODE),
    }))
}

/// The bytes of a range of blocks inside the disk.
fn whole_range(blocks: Blocks, geometry: Geometry) -> Result<Range, Sense> {
    let end = blocks
        .first
        .checked_add(blocks.count)
        .ok_or(Sense::OUT_OF_RANGE)?;
    let beyond = end > geometry.block_count && !active(Mutant::EndUnchecked);
    if beyond || (blocks.first >= geometry.block_count && blocks.first > 0) {
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
    let block = geometry.block_size_bytes;
    if range.length / u64::from(block) > write_same_blocks_max(block) {
        return Err(Sense::invalid_cdb_field(blocks.count_byte, Some(7)));
    }
    Ok(range)
}
