//! The initiator's core: commands and PDUs in, PDUs and results out.
//!
//! Commands beyond the target's window (MaxCmdSN) wait here, in order; callers bound their number.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use super::login::{DATA_SEGMENT_BYTES, Limits, Login, Next};
use super::{Command, CommandError, InitiatorConfig, SessionError};
use crate::codec::request::{self, Attribute};
use crate::codec::{Counters, Digests, Lun, RawPdu, Request, Response, TAG_NONE, response};

/// What the core wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a PDU.
    Send(Request),
    /// Use these digests from now on, and accept data segments of this length.
    Framing(Digests, usize),
    /// Login is over; commands go out.
    LoggedIn,
    /// A command ended; the ticket is the one that [`Initiator::submit`] gave.
    Completed(u64, Result<Bytes, CommandError>),
    /// The session cannot go on: close the connection. Commands under way are unknown.
    Failed(SessionError),
    /// The target confirmed the logout.
    LoggedOut,
}

#[derive(Debug)]
struct Running {
    ticket: u64,
    command: Command,
    received: BytesMut,
    expected_bytes: u32,
}

/// One session of an initiator.
#[derive(Debug)]
pub struct Initiator {
    lun: Lun,
    login: Option<Login>,
    limits: Option<Limits>,
    command_sn: u32,
    maximum_command: u32,
    status_sn: u32,
    next_ticket: u64,
    next_task: u32,
    waiting: VecDeque<(u64, Command)>,
    running: BTreeMap<u32, Running>,
    failed: bool,
}

/// Initiator task tag of the logout.
const LOGOUT_TASK: u32 = 0xffff_fffe;

impl Initiator {
    /// A session that has not logged in; `challenge` is unpredictable and serves mutual CHAP.
    #[must_use]
    pub fn new(config: InitiatorConfig, challenge: [u8; 16]) -> Self {
        Self {
            lun: Lun::from_number(config.unit),
            login: Some(Login::new(config, challenge)),
            limits: None,
            command_sn: 1,
            maximum_command: 0,
            status_sn: 0,
            next_ticket: 0,
            next_task: 0,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            failed: false,
        }
    }

    /// Begins the login.
    pub fn start(&mut self, out: &mut Vec<Output>) {
        if let Some(login) = &self.login {
            out.push(Output::Send(login.first()));
        }
    }

    /// Commands that have not ended.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Sends a command, now or when login and window allow.
    pub fn submit(&mut self, command: Command, out: &mut Vec<Output>) -> u64 {
        self.next_ticket += 1;
        self.waiting.push_back((self.next_ticket, command));
        self.send_waiting(out);
        self.next_ticket
    }

    /// Closes the session in order; commands under way are aborted by the target.
    pub fn log_out(&mut self, out: &mut Vec<Output>) {
        out.push(Output::Send(Request::Logout(request::Logout {
            immediate: true,
            reason: 0,
            task: LOGOUT_TASK,
            connection: 0,
            command_sn: self.command_sn,
            expected_status: self.status_sn,
        })));
    }

    /// The connection ended: every unfinished command's outcome is unknown.
    pub fn disconnected(&mut self, out: &mut Vec<Output>) {
        self.failed = true;
        let waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(ticket, _)| ticket);
        let running = std::mem::take(&mut self.running)
            .into_values()
            .map(|running| running.ticket);
        let mut tickets: Vec<u64> = waiting.chain(running).collect();
        tickets.sort_unstable();
        out.extend(
            tickets
                .into_iter()
                .map(|t| Output::Completed(t, Err(CommandError::Unknown))),
        );
    }

    /// Takes a PDU of the target.
    pub fn handle(&mut self, pdu: &RawPdu, out: &mut Vec<Output>) {
        if self.failed {
            return;
        }
        let outcome = match Response::decode(pdu) {
            Ok(response) => self.response(response, out),
            Err(_) => Err(SessionError::Protocol("malformed PDU")),
        };
        match outcome {
            Ok(()) => self.send_waiting(out),
            Err(error) => {
                self.failed = true;
                out.push(Output::Failed(error));
            }
        }
    }

    fn response(&mut self, pdu: Response, out: &mut Vec<Output>) -> Result<(), SessionError> {
        match pdu {
            Response::Login(reply) => self.log_in(&reply, out),
            Response::NopIn(nop) => self.nop(&nop, out),
            Response::Command(reply) => self.ended(&reply, out),
            Response::DataIn(data) => self.data_in(&data, out),
            Response::ReadyToTransfer(request) => self.transfer(&request, out),
            Response::Logout(reply) => {
                self.count(reply.counters, true);
                out.push(Output::LoggedOut);
                Ok(())
            }
            Response::TaskManagement(_) | Response::Text(_) => {
                Err(SessionError::Protocol("an answer to nothing"))
            }
            Response::Async(_) | Response::Reject(_) => Err(SessionError::EndedByTarget),
        }
    }

    fn log_in(
        &mut self,
        reply: &response::Login,
        out: &mut Vec<Output>,
    ) -> Result<(), SessionError> {
        let login = self
            .login
            .as_mut()
            .ok_or(SessionError::Protocol("a second login"))?;
        match login.response(reply)? {
            Next::Send(mut request) => {
                self.status_sn = reply.counters.status.wrapping_add(1);
                if let Request::Login(login) = &mut request {
                    login.expected_status = self.status_sn;
                }
                out.push(Output::Send(request));
            }
            Next::Done(limits) => {
                self.status_sn = reply.counters.status.wrapping_add(1);
                self.maximum_command = reply.counters.maximum_command;
                self.limits = Some(limits);
                self.login = None;
                let length = usize::try_from(DATA_SEGMENT_BYTES).expect("a small number");
                out.push(Output::Framing(limits.digests, length));
                out.push(Output::LoggedIn);
            }
        }
        Ok(())
    }

    /// Takes a PDU's counters; `numbered` when its StatSN is its own.
    fn count(&mut self, counters: Counters, numbered: bool) {
        if numbered {
            self.status_sn = counters.status.wrapping_add(1);
        }
        let ahead = counters.maximum_command.wrapping_sub(self.maximum_command);
        if ahead < 1 << 31 {
            self.maximum_command = counters.maximum_command;
        }
    }

    fn send_waiting(&mut self, out: &mut Vec<Output>) {
        let Some(limits) = self.limits else { return };
        // The window is open while CmdSN is not beyond MaxCmdSN (serial arithmetic).
        while self.maximum_command.wrapping_sub(self.command_sn) < 1 << 31 {
            let Some((ticket, command)) = self.waiting.pop_front() else {
                return;
            };
            self.send(limits, ticket, command, out);
        }
    }

    fn send(&mut self, limits: Limits, ticket: u64, command: Command, out: &mut Vec<Output>) {
        self.next_task = (self.next_task + 1) & 0x7fff_ffff;
        let task = self.next_task;
        let command_sn = self.command_sn;
        self.command_sn = self.command_sn.wrapping_add(1);
        let expected_status = self.status_sn;
        if command == Command::Ping {
            out.push(Output::Send(Request::NopOut(request::NopOut {
                immediate: false,
                lun: Lun(0),
                task,
                transfer: TAG_NONE,
                command_sn,
                expected_status,
                data: Bytes::new(),
            })));
        } else {
            let (cdb, data, reads) = encode(&command);
            let data = data.unwrap_or_default();
            let length = u32::try_from(data.len()).expect("transfers are below 4 GiB");
            let first = limits.first_burst.min(length);
            let immediate = if limits.immediate_data {
                first.min(limits.peer_data_segment)
            } else {
                0
            };
            let unsolicited = !limits.initial_r2t && immediate < first;
            out.push(Output::Send(Request::Command(request::Command {
                immediate: false,
                last: !unsolicited,
                reads: reads > 0,
                writes: length > 0,
                attribute: Attribute::Simple,
                lun: self.lun,
                task,
                expected_bytes: reads.max(length),
                command_sn,
                expected_status,
                cdb,
                cdb_rest: Bytes::new(),
                data: part(&data, 0, immediate),
            })));
            if unsolicited {
                self.send_data(limits, task, TAG_NONE, &data, immediate..first, out);
            }
        }
        let (_, _, expected_bytes) = encode(&command);
        let received = BytesMut::new();
        self.running.insert(
            task,
            Running {
                ticket,
                command,
                received,
                expected_bytes,
            },
        );
    }

    fn send_data(
        &self,
        limits: Limits,
        task: u32,
        transfer: u32,
        data: &Bytes,
        range: std::ops::Range<u32>,
        out: &mut Vec<Output>,
    ) {
        let (mut offset, mut data_sn) = (range.start, 0);
        while offset < range.end {
            let length = limits.peer_data_segment.min(range.end - offset);
            out.push(Output::Send(Request::DataOut(request::DataOut {
                last: offset + length == range.end,
                lun: self.lun,
                task,
                transfer,
                expected_status: self.status_sn,
                data_sn,
                offset,
                data: part(data, offset, length),
            })));
            offset += length;
            data_sn += 1;
        }
    }

    fn transfer(
        &mut self,
        request: &response::ReadyToTransfer,
        out: &mut Vec<Output>,
    ) -> Result<(), SessionError> {
        self.count(request.counters, false);
        let unasked = SessionError::Protocol("an R2T for nothing");
        let limits = self.limits.ok_or(unasked.clone())?;
        let running = self.running.get(&request.task).ok_or(unasked.clone())?;
        let (_, data, _) = encode(&running.command);
        let data = data.ok_or(unasked.clone())?;
        let end = request
            .offset
            .checked_add(request.length_bytes)
            .ok_or(unasked.clone())?;
        if usize::try_from(end).map_or(true, |end| end > data.len()) {
            return Err(unasked);
        }
        self.send_data(
            limits,
            request.task,
            request.transfer,
            &data,
            request.offset..end,
            out,
        );
        Ok(())
    }

    fn nop(&mut self, nop: &response::NopIn, out: &mut Vec<Output>) -> Result<(), SessionError> {
        self.count(nop.counters, nop.task != TAG_NONE);
        if nop.task != TAG_NONE {
            let running = self.running.remove(&nop.task);
            let running = running.ok_or(SessionError::Protocol("a NOP-In for nothing"))?;
            out.push(Output::Completed(running.ticket, Ok(Bytes::new())));
        }
        if nop.transfer != TAG_NONE {
            out.push(Output::Send(Request::NopOut(request::NopOut {
                immediate: true,
                lun: nop.lun,
                task: TAG_NONE,
                transfer: nop.transfer,
                command_sn: self.command_sn,
                expected_status: self.status_sn,
                data: Bytes::new(),
            })));
        }
        Ok(())
    }

    fn data_in(
        &mut self,
        pdu: &response::DataIn,
        out: &mut Vec<Output>,
    ) -> Result<(), SessionError> {
        self.count(pdu.counters, pdu.status.is_some());
        let nothing = SessionError::Protocol("data for nothing");
        let running = self.running.get_mut(&pdu.task).ok_or(nothing)?;
        let expected = usize::try_from(running.expected_bytes).expect("32 bits fit");
        let in_order = u64::from(pdu.offset) == running.received.len() as u64;
        if !in_order || running.received.len() + pdu.data.len() > expected {
            return Err(SessionError::Protocol(
                "data out of order or beyond the end",
            ));
        }
        running.received.extend_from_slice(&pdu.data);
        if let Some((status, _)) = pdu.status {
            self.complete(pdu.task, status, &Bytes::new(), out);
        }
        Ok(())
    }

    fn ended(
        &mut self,
        reply: &response::Command,
        out: &mut Vec<Output>,
    ) -> Result<(), SessionError> {
        self.count(reply.counters, true);
        if !self.running.contains_key(&reply.task) {
            return Err(SessionError::Protocol("a response to nothing"));
        }
        self.complete(reply.task, reply.status, &reply.sense, out);
        Ok(())
    }

    fn complete(&mut self, task: u32, status: u8, sense: &Bytes, out: &mut Vec<Output>) {
        let Some(running) = self.running.remove(&task) else {
            return;
        };
        let complete = running.received.len() as u64 == u64::from(running.expected_bytes);
        let result = match status {
            0x00 if !complete => Err(CommandError::Length),
            0x00 => Ok(running.received.freeze()),
            0x02 => Err(sense_of(sense)),
            0x08 | 0x28 => Err(CommandError::Busy),
            0x18 => Err(CommandError::ReservationConflict),
            status => Err(CommandError::Status { status }),
        };
        out.push(Output::Completed(running.ticket, result));
    }
}

fn sense_of(sense: &[u8]) -> CommandError {
    let (key, code) = match sense {
        [
            0x70 | 0xf0,
            _,
            key,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            asc,
            ascq,
            ..,
        ] => (*key, [*asc, *ascq]),
        [0x72, key, asc, ascq, ..] => (*key, [*asc, *ascq]),
        _ => return CommandError::Status { status: 0x02 },
    };
    CommandError::Sense {
        key: key & 0x0f,
        code: u16::from_be_bytes(code),
    }
}

fn part(data: &Bytes, offset: u32, length: u32) -> Bytes {
    let start = usize::try_from(offset).expect("32 bits fit");
    data.slice(start..start + usize::try_from(length).expect("32 bits fit"))
}

/// CDB, data for the target, and bytes expected from it.
fn encode(command: &Command) -> ([u8; 16], Option<Bytes>, u32) {
    let mut cdb = [0; 16];
    let mut range = |opcode: u8, first_block: u64, block_count: u32| {
        cdb[0] = opcode;
        cdb[2..10].copy_from_slice(&first_block.to_be_bytes());
        cdb[10..14].copy_from_slice(&block_count.to_be_bytes());
    };
    let (data, expected) = match command {
        Command::Read {
            first_block,
            block_count,
            block_size_bytes,
        } => {
            range(0x88, *first_block, *block_count);
            (None, block_count.saturating_mul(*block_size_bytes))
        }
        Command::Write {
            first_block,
            block_count,
            data,
        } => {
            range(0x8a, *first_block, *block_count);
            (Some(data.clone()), 0)
        }
        Command::WriteZeroes {
            first_block,
            block_count,
        } => {
            range(0x93, *first_block, *block_count);
            cdb[1] = 0x01; // NDOB
            (None, 0)
        }
        Command::Unmap {
            first_block,
            block_count,
        } => {
            cdb[0] = 0x42;
            cdb[8] = 24;
            let mut list = BytesMut::with_capacity(24);
            list.put_slice(&[0, 22, 0, 16, 0, 0, 0, 0]);
            list.put_u64(*first_block);
            list.put_u32(*block_count);
            list.put_u32(0);
            (Some(list.freeze()), 0)
        }
        Command::Flush => {
            cdb[0] = 0x91;
            (None, 0)
        }
        Command::ReadCapacity => {
            cdb[..2].copy_from_slice(&[0x9e, 0x10]);
            cdb[13] = 32;
            (None, 32)
        }
        Command::TestUnitReady | Command::Ping => (None, 0),
    };
    (cdb, data, expected)
}
