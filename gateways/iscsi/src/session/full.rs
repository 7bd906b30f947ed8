//! The full feature phase (RFC 7143 4.2, 11): commands and their data, pings, text, logout.
//!
//! Task management stands in `management`. Invariants: one response for every task that was not
//! aborted, or the end of the session where the outcome of one is not known; a task that was aborted
//! sends nothing more; operations under way are known by number until they end, aborted or not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::Instant;
use hedgerow_env::mutants::{Mutant, active};

use super::management::Pending;
use super::parameters::Agreed;
use super::sequence::{COMMAND_WINDOW, CommandWindow};
use super::task::{Addressed, DataError, Gathering, Stage, Task};
use super::text::TextExchange;
use super::{CloseReason, Effect, Event, Operate, OperationId, PING_AFTER, PING_TIMEOUT};
use crate::codec::{
    Counters, HEADER_BYTES, Lun, RawPdu, Request, Response, TAG_NONE, request, response,
};
use crate::port::{BlockError, OperationTag};
use crate::scsi::execute::{self, Begun, Context, Reply, Step};
use crate::scsi::execution::Execution;
use crate::scsi::sense::{Key, Sense};
use crate::scsi::status;
use crate::target::{CloseCause, InitiatorPort, SessionId, Target, Targets, TaskId, Unit};

/// Tasks beyond the command window, which only immediate commands can make.
const IMMEDIATE_TASKS_MAX: usize = 16;

/// Data of commands under way in one session, in bytes: reads that are being answered and writes
/// that were asked for. Commands beyond it wait; one command always goes.
const DATA_BUDGET_BYTES: u64 = 64 << 20;

/// Reasons of Reject PDUs (RFC 7143 11.17.1).
mod reject {
    pub(super) const SNACK: u8 = 0x03;
    pub(super) const PROTOCOL: u8 = 0x04;
    pub(super) const TASK_IN_PROGRESS: u8 = 0x07;
    pub(super) const INVALID_FIELD: u8 = 0x09;
}

/// What the full feature phase starts with.
pub(super) struct Start {
    /// None in a discovery session.
    pub(super) session: Option<(Arc<Target>, SessionId)>,
    pub(super) targets: Arc<Targets>,
    pub(super) port: InitiatorPort,
    pub(super) local_address: String,
    pub(super) agreed: Agreed,
    pub(super) connection: u16,
    pub(super) status_sn: u32,
    pub(super) command_sn: u32,
    pub(super) now: Instant,
}

type Queued = (Request, [u8; HEADER_BYTES]);

/// The full feature phase of one session.
pub(super) struct FullFeature {
    pub(super) start: Start,
    status_sn: u32,
    window: CommandWindow<Queued>,
    next_transfer: u32,
    next_number: u64,
    /// Tasks in the order of their arrival; the key also names their operation.
    pub(super) tasks: BTreeMap<u64, Task>,
    /// From initiator task tags to tasks.
    pub(super) by_tag: BTreeMap<u32, u64>,
    /// Tasks that wait for the data budget, in order.
    queue: VecDeque<u64>,
    in_use: u64,
    /// Changing operations of aborted tasks, until they end.
    pub(super) orphans: BTreeMap<u64, (Arc<Unit>, TaskId)>,
    /// Task management and logout requests that wait for operations to end, by ticket.
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) exchange: TextExchange,
    heard: Instant,
    ping: Option<(u32, Instant)>,
    gone: bool,
}

impl FullFeature {
    pub(super) fn new(start: Start) -> Self {
        Self {
            status_sn: start.status_sn,
            window: CommandWindow::new(start.command_sn),
            next_transfer: 0,
            next_number: 0,
            tasks: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            queue: VecDeque::new(),
            in_use: 0,
            orphans: BTreeMap::new(),
            pending: BTreeMap::new(),
            exchange: TextExchange::default(),
            heard: start.now,
            ping: None,
            gone: false,
            start,
        }
    }

    pub(super) fn label(&self) -> String {
        match &self.start.session {
            Some((target, session)) => {
                format!("{session} of {} at {}", self.start.port.name, target.name)
            }
            None => format!("discovery of {}", self.start.port.name),
        }
    }

    pub(super) fn maximum_command(&self) -> u32 {
        self.window.maximum()
    }

    pub(super) fn deadline(&self) -> Instant {
        match self.ping {
            Some((_, sent)) => sent + PING_TIMEOUT,
            None => self.heard + PING_AFTER,
        }
    }

    pub(super) fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Received(pdu) => {
                self.heard = now;
                self.ping = None;
                self.received(&pdu, effects);
            }
            Event::Completed { operation, result } => self.completed(operation, result, effects),
            Event::Settled { ticket, settled } => self.settled(ticket, settled, effects),
            Event::Woken => self.woken(effects),
            Event::Tick => self.tick(now, effects),
            Event::Malformed(_) | Event::Disconnected => {}
        }
    }

    /// The connection is gone: abort everything, and end when nothing runs any more.
    pub(super) fn disconnected(&mut self, effects: &mut Vec<Effect>) {
        self.gone = true;
        let settlement = self.abort_everything();
        if !settlement.is_empty() {
            let ticket = self.number();
            effects.push(Effect::Await { ticket, settlement });
        }
        self.end_if_drained(effects);
    }

    fn end_if_drained(&mut self, effects: &mut Vec<Effect>) {
        if self.gone && self.orphans.is_empty() {
            if let Some((target, session)) = &self.start.session {
                target.close_session(*session);
            }
            effects.push(Effect::Ended);
        }
    }

    fn woken(&mut self, effects: &mut Vec<Effect>) {
        let Some((target, session)) = &self.start.session else {
            return;
        };
        if let Some(cause) = target.closing(*session) {
            if cause != CloseCause::Reinstated {
                // The target will drop the connection (RFC 7143 11.9.1, event 2); retry at once.
                let parameters = [self.start.connection, 0, 0];
                let counters = self.numbered();
                let message = response::Async {
                    lun: Lun(0),
                    counters,
                    event: 2,
                    parameters,
                };
                effects.push(Effect::Send(Response::Async(message)));
            }
            effects.push(Effect::Close(cause.into()));
            return;
        }
        self.drop_aborted();
        self.go_on(effects);
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if now < self.deadline() {
            return;
        }
        if self.ping.is_some() {
            effects.push(Effect::Close(CloseReason::PeerSilent));
            return;
        }
        let transfer = self.transfer_tag();
        self.ping = Some((transfer, now));
        let counters = self.counters();
        effects.push(Effect::Send(Response::NopIn(response::NopIn {
            lun: Lun(0),
            task: TAG_NONE,
            transfer,
            counters,
            data: Bytes::new(),
        })));
    }

    /// Counters of a PDU that does not advance StatSN.
    pub(super) fn counters(&self) -> Counters {
        Counters {
            status: self.status_sn,
            expected_command: self.window.expected(),
            maximum_command: self.window.maximum(),
        }
    }

    /// Counters of a PDU with a StatSN of its own.
    pub(super) fn numbered(&mut self) -> Counters {
        self.window.open(self.tasks.len());
        let counters = self.counters();
        self.status_sn = self.status_sn.wrapping_add(1);
        counters
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// The next transfer tag; taken with [`FullFeature::transfer_tag`].
    fn coming_transfer_tag(&self) -> u32 {
        match self.next_transfer.wrapping_add(1) {
            TAG_NONE => 0,
            tag => tag,
        }
    }

    pub(super) fn transfer_tag(&mut self) -> u32 {
        self.next_transfer = self.coming_transfer_tag();
        self.next_transfer
    }

    fn reject(&mut self, reason: u8, header: &[u8; HEADER_BYTES], effects: &mut Vec<Effect>) {
        let counters = self.numbered();
        let header = Bytes::copy_from_slice(header);
        effects.push(Effect::Send(Response::Reject(response::Reject {
            reason,
            counters,
            header,
        })));
    }

    /// Rejects a PDU that breaks the protocol and closes: at ErrorRecoveryLevel 0 there is no way
    /// back (RFC 7143 7.1.1).
    pub(super) fn violation(
        &mut self,
        what: &'static str,
        header: &[u8; HEADER_BYTES],
        effects: &mut Vec<Effect>,
    ) {
        self.reject(reject::PROTOCOL, header, effects);
        effects.push(Effect::Close(CloseReason::Protocol(what)));
    }

    fn received(&mut self, pdu: &RawPdu, effects: &mut Vec<Effect>) {
        let header = pdu.header;
        let request = match Request::decode(pdu) {
            Ok(request) => request,
            Err(error) => {
                self.reject(reject::INVALID_FIELD, &header, effects);
                effects.push(Effect::Close(error.into()));
                return;
            }
        };
        let (immediate, number) = match &request {
            Request::DataOut(_) => return self.data_out(request, &header, effects),
            Request::Snack(_) => return self.reject(reject::SNACK, &header, effects),
            Request::Login(_) => {
                return self.violation("a login request after login", &header, effects);
            }
            // The answer to a ping is no command.
            Request::NopOut(nop) if nop.task == TAG_NONE => return,
            Request::NopOut(nop) => (nop.immediate, nop.command_sn),
            Request::Command(command) => (command.immediate, command.command_sn),
            Request::TaskManagement(request) => (request.immediate, request.command_sn),
            Request::Text(text) => (text.immediate, text.command_sn),
            Request::Logout(logout) => (logout.immediate, logout.command_sn),
        };
        if immediate {
            return self.perform((request, header), effects);
        }
        let Some(first) = self.window.take(number, (request, header)) else {
            return;
        };
        self.perform(first, effects);
        while let Some(next) = self.window.next_held() {
            self.perform(next, effects);
        }
    }

    fn perform(&mut self, (request, header): Queued, effects: &mut Vec<Effect>) {
        let discovery = self.start.session.is_none();
        match request {
            Request::Command(_) | Request::TaskManagement(_) if discovery => {
                self.violation("a SCSI command in a discovery session", &header, effects);
            }
            Request::Command(command) => self.command(command, &header, effects),
            Request::TaskManagement(request) => self.manage(request, effects),
            Request::NopOut(nop) => self.nop(nop, effects),
            Request::Text(text) => self.text(&text, &header, effects),
            Request::Logout(logout) => self.logout(logout, effects),
            Request::DataOut(_) | Request::Snack(_) | Request::Login(_) => {}
        }
    }

    fn command(
        &mut self,
        command: request::Command,
        header: &[u8; HEADER_BYTES],
        effects: &mut Vec<Effect>,
    ) {
        if self.by_tag.contains_key(&command.task) {
            return self.reject(reject::TASK_IN_PROGRESS, header, effects);
        }
        if let Err(what) = self.check_data(&command) {
            return self.violation(what, header, effects);
        }
        let (target, session) = self
            .start
            .session
            .clone()
            .expect("discovery was turned away");
        let unit = command.lun.number().and_then(|number| target.unit(number));
        let descriptor_sense = unit
            .as_ref()
            .is_some_and(|u| u.lock().mode.descriptor_sense);
        let mut addressed = Addressed {
            task: command.task,
            expected_bytes: command.expected_bytes,
            reads: command.reads,
            wanted_out: 0,
            transfers: 0,
            descriptor_sense,
        };
        let context = Context {
            target: &target,
            unit: unit.as_deref(),
            session,
            port: &self.start.port,
        };
        let limit = usize::try_from(COMMAND_WINDOW).expect("small") + IMMEDIATE_TASKS_MAX;
        let begun = if self.tasks.len() >= limit {
            Begun::Reply(Reply::status(status::TASK_SET_FULL))
        } else if let Some(sense) = unsupported(&command) {
            Begun::Reply(sense.into())
        } else {
            execute::begin(context, &command.cdb)
        };
        match (begun, unit) {
            (Begun::Execution(mut execution), Some(unit)) => {
                addressed.wanted_out = execution.data_out_bytes();
                let out = if command.writes {
                    command.expected_bytes
                } else {
                    0
                };
                if let Err(sense) = execution.fit(out) {
                    return self.respond(addressed, sense.into(), effects);
                }
                self.admit(command, addressed.wanted_out, execution, unit, effects);
            }
            (Begun::Reply(reply), _) => self.respond(addressed, reply, effects),
            (Begun::Execution(_), None) => self.respond(addressed, Sense::NO_UNIT.into(), effects),
        }
    }

    /// Checks immediate and announced unsolicited data against what was agreed (RFC 7143 4.2.5.3).
    fn check_data(&self, command: &request::Command) -> Result<(), &'static str> {
        let agreed = &self.start.agreed;
        let immediate = u32::try_from(command.data.len()).expect("a data segment has 24 bits");
        if immediate > 0 {
            if !agreed.immediate_data || !command.writes {
                return Err("immediate data where none may come");
            }
            if immediate > agreed.first_burst || immediate > command.expected_bytes {
                return Err("more immediate data than FirstBurstLength or the expected length");
            }
        }
        if !command.last && (agreed.initial_r2t || !command.writes) {
            return Err("unsolicited data was announced where none may come");
        }
        Ok(())
    }

    fn admit(
        &mut self,
        command: request::Command,
        wanted_out: u32,
        execution: Execution,
        unit: Arc<Unit>,
        effects: &mut Vec<Effect>,
    ) {
        let (_, session) = self
            .start
            .session
            .clone()
            .expect("discovery was turned away");
        let first_burst = self.start.agreed.first_burst.min(command.expected_bytes);
        let unsolicited = (!command.last).then_some(first_burst);
        let used = execution.data_out_bytes();
        let gathering = Gathering::new(used, command.data.clone(), unsolicited);
        let cost = u64::from(used) + u64::from(execution.data_in_bytes());
        let number = self.number();
        let task = Task {
            id: unit.admit(session),
            unit,
            wanted_out,
            execution,
            gathering,
            stage: Stage::Queued,
            cost,
            transfers: 0,
            changing: false,
            command: request::Command {
                data: Bytes::new(),
                ..command
            },
        };
        self.by_tag.insert(task.command.task, number);
        self.tasks.insert(number, task);
        self.queue.push_back(number);
        self.go_on(effects);
    }

    /// Starts what the data budget and the order of tasks allow.
    pub(super) fn go_on(&mut self, effects: &mut Vec<Effect>) {
        while let Some(number) = self.queue.front().copied() {
            let Some(task) = self.tasks.get_mut(&number) else {
                self.queue.pop_front();
                continue;
            };
            if self.in_use > 0 && self.in_use + task.cost > DATA_BUDGET_BYTES {
                break;
            }
            self.queue.pop_front();
            self.in_use += task.cost;
            task.stage = Stage::Gathering;
            self.gather(number, effects);
        }
        let ready = |task: &Task| task.stage == Stage::Ready;
        while self.tasks.values().any(ready) {
            let next = self
                .tasks
                .iter()
                .find(|(n, task)| ready(task) && !self.must_wait(**n));
            let Some(number) = next.map(|(number, _)| *number) else {
                break;
            };
            self.start(number, effects);
        }
    }

    /// Asks for missing data, or makes the task ready.
    fn gather(&mut self, number: u64, effects: &mut Vec<Effect>) {
        let agreed = self.start.agreed;
        loop {
            let transfer = self.coming_transfer_tag();
            let counters = self.counters();
            let Some(task) = self.tasks.get_mut(&number) else {
                return;
            };
            let burst =
                task.gathering
                    .next_burst(transfer, agreed.max_burst, agreed.outstanding_r2t);
            let Some((offset, length_bytes)) = burst else {
                if task.gathering.is_complete() {
                    task.stage = Stage::Ready;
                }
                return;
            };
            self.next_transfer = transfer;
            let r2t_sn = task.transfers;
            task.transfers += 1;
            effects.push(Effect::Send(Response::ReadyToTransfer(
                response::ReadyToTransfer {
                    lun: task.command.lun,
                    task: task.command.task,
                    transfer,
                    counters,
                    r2t_sn,
                    offset,
                    length_bytes,
                },
            )));
        }
    }

    fn data_out(
        &mut self,
        request: Request,
        header: &[u8; HEADER_BYTES],
        effects: &mut Vec<Effect>,
    ) {
        let Request::DataOut(pdu) = request else {
            return;
        };
        // Data for a task that was answered early or aborted is still under way: it is dropped.
        let Some(number) = self.by_tag.get(&pdu.task).copied() else {
            return;
        };
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        match task.gathering.data_out(pdu) {
            Ok(()) => {}
            Err(DataError::Violation(what)) => return self.violation(what, header, effects),
            Err(DataError::OutOfSequence) => {
                // The command ends undone; what else comes for it is dropped.
                let addressed = task.addressed();
                self.forget(number);
                self.respond(addressed, Sense::SEQUENCE.into(), effects);
                return self.go_on(effects);
            }
        }
        if task.stage == Stage::Gathering {
            self.gather(number, effects);
            self.go_on(effects);
        }
    }

    /// Task attributes (SAM-5 8): an ordered task waits for all older ones of its unit, and younger
    /// ones wait for it; the head of the queue waits for nobody.
    fn must_wait(&self, number: u64) -> bool {
        let Some(task) = self.tasks.get(&number) else {
            return false;
        };
        if task.jumps_queue() {
            return false;
        }
        let older = self.tasks.range(..number).map(|(_, older)| older);
        older
            .filter(|older| Arc::ptr_eq(&older.unit, &task.unit))
            .any(|older| {
                let ordered = task.is_ordered() && !active(Mutant::OrderedTaskOvertakes);
                ordered || older.is_ordered()
            })
    }

    fn start(&mut self, number: u64, effects: &mut Vec<Effect>) {
        let (target, session) = self.start.session.clone().expect("tasks have a target");
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        let unit = Arc::clone(&task.unit);
        let context = Context {
            target: &target,
            unit: Some(&unit),
            session,
            port: &self.start.port,
        };
        task.stage = Stage::Operating;
        let data = task.gathering.take();
        let step = task.execution.start(context, data);
        self.step(number, step, effects);
    }

    fn step(&mut self, number: u64, step: Step, effects: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        match step {
            Step::Operate(medium) => {
                task.changing = medium.changes();
                let tag = if task.changing {
                    let Some(tag) = task.unit.begin_operation(task.id) else {
                        // Aborted by another session; its wake-up is on the way.
                        task.changing = false;
                        self.forget(number);
                        return;
                    };
                    tag
                } else {
                    OperationTag(0)
                };
                effects.push(Effect::Operate(Operate {
                    operation: OperationId(number),
                    device: task.unit.device(),
                    medium,
                    tag,
                }));
            }
            Step::Reply(reply) => {
                let ports = std::mem::take(&mut task.execution.abort_ports);
                let unit = Arc::clone(&task.unit);
                let addressed = task.addressed();
                let aborted = unit.is_aborted(task.id);
                self.forget(number);
                if aborted {
                    return;
                }
                if ports.is_empty() {
                    self.respond(addressed, reply, effects);
                } else {
                    self.abort_preempted(&unit, &ports, addressed, reply, effects);
                }
            }
        }
    }

    fn completed(
        &mut self,
        OperationId(number): OperationId,
        result: Result<Bytes, BlockError>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some((unit, id)) = self.orphans.remove(&number) {
            unit.end_operation(id);
            unit.finish(id);
            self.end_if_drained(effects);
            return;
        }
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        if std::mem::take(&mut task.changing) {
            task.unit.end_operation(task.id);
        }
        if task.unit.is_aborted(task.id) {
            self.forget(number);
        } else if result == Err(BlockError::OutcomeUnknown) {
            // No status says *unknown*; the end of the session does (RFC 7143 7.1.4.4).
            self.forget(number);
            effects.push(Effect::Close(CloseReason::OutcomeUnknown));
            return;
        } else {
            let step = task.execution.complete(result);
            self.step(number, step, effects);
        }
        self.go_on(effects);
    }

    /// Removes a task without a response. A changing operation under way becomes an orphan.
    pub(super) fn forget(&mut self, number: u64) {
        let Some(task) = self.tasks.remove(&number) else {
            return;
        };
        self.by_tag.remove(&task.command.task);
        if task.stage != Stage::Queued {
            self.in_use -= task.cost;
        }
        if task.changing {
            self.orphans.insert(number, (task.unit, task.id));
        } else {
            task.unit.finish(task.id);
        }
    }
}

/// Commands that no unit of ours can take: bidirectional ones and those with attribute ACA.
fn unsupported(command: &request::Command) -> Option<Sense> {
    if command.reads && command.writes {
        return Some(Sense::INFORMATION_UNIT);
    }
    // INVALID MESSAGE ERROR (SAM-5 8.6.5: ACA without an ACA condition).
    (command.attribute == request::Attribute::Aca).then_some(Sense {
        key: Key::AbortedCommand,
        code: 0x4900,
        information: None,
        field: None,
    })
}
