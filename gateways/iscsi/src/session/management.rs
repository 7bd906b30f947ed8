//! Task management and logout (RFC 7143 11.5, 11.6, 11.14): what is aborted, and who must end first.
//!
//! Invariant: a function is answered only when no operation that it aborted can change the disk any
//! more (SAM-5 7.1), whichever session started it; a reset also waits until nothing that a former
//! user of the disk began elsewhere can take effect any more (DESIGN section 4.2).

use std::collections::BTreeSet;
use std::sync::Arc;

use hedgerow_env::mutants::{Mutant, active};

use super::full::FullFeature;
use super::task::{Addressed, Task};
use super::{CloseReason, Effect, Settlement};
use crate::codec::{Lun, Response, request, response};
use crate::scsi::execute::Reply;
use crate::target::{Aborted, CloseCause, InitiatorPort, Unit};

/// Responses to task management functions (RFC 7143 11.6.1).
mod code {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const NO_TASK: u8 = 1;
    pub(super) const NO_UNIT: u8 = 2;
    pub(super) const NO_REASSIGNMENT: u8 = 4;
    pub(super) const NOT_SUPPORTED: u8 = 5;
    pub(super) const REJECTED: u8 = 255;
}

/// An answer that waits for operations to end.
pub(super) enum Pending {
    /// A task management response.
    Function { task: u32, restart: bool },
    /// A logout response.
    Logout(request::Logout),
    /// The response to PREEMPT AND ABORT.
    Command(Addressed, Reply),
}

impl FullFeature {
    /// Performs a task management function.
    pub(super) fn manage(&mut self, request: request::TaskManagement, effects: &mut Vec<Effect>) {
        let immediate = |this: &mut Self, response, effects: &mut Vec<Effect>| {
            let counters = this.numbered();
            let task = request.task;
            let answer = response::TaskManagement {
                response,
                task,
                counters,
            };
            effects.push(Effect::Send(Response::TaskManagement(answer)));
        };
        let (target, session) = self
            .start
            .session
            .clone()
            .expect("discovery was turned away");
        let unit = request.lun.number().and_then(|number| target.unit(number));
        let settlement = match (request.function, unit) {
            // ABORT TASK
            (1, Some(unit)) => match self.abort_task(request.referenced_task, &unit) {
                Some(aborted) => self.settlement(vec![(unit, aborted)]),
                None => return immediate(self, code::NO_TASK, effects),
            },
            // ABORT TASK SET and CLEAR TASK SET: each I_T nexus has a task set of its own.
            (2 | 4, Some(unit)) => {
                let aborted = unit.abort_session(session);
                self.settlement(vec![(unit, aborted)])
            }
            // LOGICAL UNIT RESET
            (5, Some(unit)) => {
                let aborted = unit.reset(session);
                let mut settlement = self.settlement(vec![(Arc::clone(&unit), aborted)]);
                settlement.units = vec![unit];
                settlement.take = true;
                settlement
            }
            // TARGET WARM RESET, TARGET COLD RESET
            (6 | 7, _) => {
                let units = target.units();
                let reset = units
                    .iter()
                    .map(|unit| (Arc::clone(unit), unit.reset(session)));
                let aborted = reset.collect();
                let mut settlement = self.settlement(aborted);
                settlement.units = units;
                settlement.take = true;
                settlement
            }
            (1 | 2 | 4 | 5, None) => return immediate(self, code::NO_UNIT, effects),
            // CLEAR ACA; TASK REASSIGN needs ErrorRecoveryLevel 2.
            (3, _) => return immediate(self, code::NOT_SUPPORTED, effects),
            (8, _) => return immediate(self, code::NO_REASSIGNMENT, effects),
            _ => return immediate(self, code::REJECTED, effects),
        };
        let restart = request.function == 7;
        self.wait(
            settlement,
            Pending::Function {
                task: request.task,
                restart,
            },
            effects,
        );
        self.go_on(effects);
    }

    /// Aborts one of our own tasks; none when it is not there (any more).
    fn abort_task(&mut self, tag: u32, unit: &Arc<Unit>) -> Option<Aborted> {
        let number = self.by_tag.get(&tag)?;
        let task = self
            .tasks
            .get(number)
            .filter(|task| Arc::ptr_eq(&task.unit, unit))?;
        Some(unit.abort_task(task.id))
    }

    /// Drops our own aborted tasks, tells other sessions, and names what must end.
    fn settlement(&mut self, aborted: Vec<(Arc<Unit>, Aborted)>) -> Settlement {
        self.drop_aborted();
        let mut others = BTreeSet::new();
        let mut operations = Vec::new();
        for (unit, aborted) in aborted {
            others.extend(aborted.sessions);
            operations.push((unit, aborted.operations));
        }
        if let Some((target, session)) = &self.start.session {
            others.remove(session);
            target.wake(&others);
        }
        Settlement {
            operations,
            ..Settlement::default()
        }
    }

    /// Forgets all tasks that somebody aborted.
    pub(super) fn drop_aborted(&mut self) {
        let aborted: Vec<u64> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.unit.is_aborted(task.id))
            .map(|(number, _)| *number)
            .collect();
        for number in aborted {
            self.forget(number);
        }
    }

    /// Aborts all tasks of this session, also those of units that were withdrawn meanwhile.
    pub(super) fn abort_everything(&mut self) -> Settlement {
        let abort = |task: &Task| (Arc::clone(&task.unit), task.unit.abort_task(task.id));
        let mut aborted: Vec<(Arc<Unit>, Aborted)> = self.tasks.values().map(abort).collect();
        // What was aborted before may still be running.
        for (unit, id) in self.orphans.values() {
            aborted.push((Arc::clone(unit), unit.abort_task(*id)));
        }
        self.settlement(aborted)
    }

    /// PREEMPT AND ABORT: the victims' tasks end before the command is answered.
    pub(super) fn abort_preempted(
        &mut self,
        unit: &Arc<Unit>,
        ports: &[InitiatorPort],
        addressed: Addressed,
        reply: Reply,
        effects: &mut Vec<Effect>,
    ) {
        let (_, session) = self.start.session.clone().expect("commands have a target");
        let aborted = unit.abort_ports(ports, session);
        let mut settlement = self.settlement(vec![(Arc::clone(unit), aborted)]);
        // Nor may anything that former users of the disk began, on any node, take effect after it.
        settlement.units = vec![Arc::clone(unit)];
        settlement.take = true;
        self.wait(settlement, Pending::Command(addressed, reply), effects);
    }

    pub(super) fn logout(&mut self, request: request::Logout, effects: &mut Vec<Effect>) {
        let own = request.connection == self.start.connection;
        let refusal = match request.reason {
            0 => None,
            1 if own => None,
            1 => Some(1), // CID not found
            _ => Some(2), // connection recovery is not supported
        };
        if let Some(response) = refusal {
            return self.answer_logout(request, response, effects);
        }
        let settlement = self.abort_everything();
        self.wait(settlement, Pending::Logout(request), effects);
    }

    fn answer_logout(&mut self, request: request::Logout, response: u8, effects: &mut Vec<Effect>) {
        let counters = self.numbered();
        effects.push(Effect::Send(Response::Logout(response::Logout {
            response,
            task: request.task,
            counters,
            wait_s: 0,
            retain_s: 0,
        })));
    }

    /// Answers once everything of the settlement has ended.
    fn wait(&mut self, settlement: Settlement, pending: Pending, effects: &mut Vec<Effect>) {
        let early =
            matches!(pending, Pending::Function { .. }) && active(Mutant::AbortAnsweredEarly);
        if early || settlement.is_empty() {
            return self.answer(pending, true, effects);
        }
        let ticket = self.number();
        self.pending.insert(ticket, pending);
        effects.push(Effect::Await { ticket, settlement });
    }

    pub(super) fn settled(&mut self, ticket: u64, settled: bool, effects: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.remove(&ticket) {
            self.answer(pending, settled, effects);
        }
    }

    fn answer(&mut self, pending: Pending, settled: bool, effects: &mut Vec<Effect>) {
        match pending {
            Pending::Function { task, restart } => {
                let counters = self.numbered();
                // A reset that is not known to have ended everything is none: the initiator goes on
                // to the next stronger one.
                let response = if settled {
                    code::COMPLETE
                } else {
                    code::REJECTED
                };
                let answer = response::TaskManagement {
                    response,
                    task,
                    counters,
                };
                effects.push(Effect::Send(Response::TaskManagement(answer)));
                if restart && settled {
                    self.restart(effects);
                }
            }
            Pending::Logout(request) => {
                self.answer_logout(request, 0, effects);
                effects.push(Effect::Close(CloseReason::Logout));
            }
            Pending::Command(addressed, reply) => self.respond(addressed, reply, effects),
        }
    }

    /// TARGET COLD RESET ends every session of the target, ours too (RFC 7143 11.5.1).
    fn restart(&mut self, effects: &mut Vec<Effect>) {
        if let Some((target, _)) = &self.start.session {
            target.close_all(CloseCause::ColdReset);
        }
        let parameters = [self.start.connection, 0, 0];
        let counters = self.numbered();
        let message = response::Async {
            lun: Lun(0),
            counters,
            event: 2,
            parameters,
        };
        effects.push(Effect::Send(Response::Async(message)));
        effects.push(Effect::Close(CloseReason::ColdReset));
    }
}
