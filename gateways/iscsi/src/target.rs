//! What the sessions of one target share: its logical units, their reservations, unit attentions
//! and tasks, and the table of sessions.
//!
//! Every method is a short critical section without waiting. Invariants: a state-changing operation
//! stands in its unit's task table from before it starts until its outcome is known, so that resets
//! and session reinstatement can wait for it; an aborted task starts nothing more; a session leaves
//! the table only when none of its operations is running.
//! Does not: keep anything over a restart of the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::port::{
    BlockDevice, Geometry, LogicalUnit, OperationTag, TargetCatalog, TargetDescription,
};
use crate::scsi::mode::ModeParameters;
use crate::scsi::reservation::Reservations;
use crate::scsi::sense::attention;

/// Most sessions of one target: a cluster's nodes times their paths, with room.
pub(crate) const SESSIONS_MAX: usize = 256;

/// Most unit attentions that wait for one session; the oldest gives way (SAM-5 5.14 allows that).
const ATTENTIONS_MAX: usize = 8;

/// Names a session for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "session-{}", self.0)
    }
}

/// Names a task for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskId(u64);

/// An initiator port: iSCSI name and ISID (RFC 7143 4.4.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InitiatorPort {
    /// InitiatorName.
    pub name: String,
    /// ISID.
    pub isid: [u8; 6],
}

impl fmt::Display for InitiatorPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{},i,0x", self.name)?;
        self.isid
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Numbers that a portal gives once: what is withdrawn and exported again shares none with what it
/// was. They count by portal, so that two runs in one process tell of the same sessions.
#[derive(Debug, Clone, Default)]
struct Numbers(Arc<AtomicU64>);

impl Numbers {
    fn fresh(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// One session as a logical unit knows it.
#[derive(Debug)]
struct Member {
    port: InitiatorPort,
    attentions: VecDeque<u16>,
    block_count: u64,
}

impl Member {
    fn attend(&mut self, code: u16) {
        if self.attentions.contains(&code) {
            return;
        }
        if self.attentions.len() == ATTENTIONS_MAX {
            self.attentions.pop_front();
        }
        self.attentions.push_back(code);
    }
}

#[derive(Debug)]
struct TaskEntry {
    session: SessionId,
    aborted: bool,
    running: Option<OperationTag>,
}

/// The changing part of a logical unit.
#[derive(Debug, Default)]
pub(crate) struct UnitState {
    pub(crate) reservations: Reservations,
    pub(crate) mode: ModeParameters,
    members: BTreeMap<SessionId, Member>,
    tasks: BTreeMap<TaskId, TaskEntry>,
}

impl UnitState {
    /// The next unit attention for a session, and removes it.
    pub(crate) fn take_attention(&mut self, session: SessionId) -> Option<u16> {
        self.members.get_mut(&session)?.attentions.pop_front()
    }

    /// Raises a unit attention for every session but one.
    pub(crate) fn attend_others(&mut self, session: SessionId, code: u16) {
        for (id, member) in &mut self.members {
            if *id != session {
                member.attend(code);
            }
        }
    }

    /// Raises a unit attention for the sessions of initiator ports, except one session.
    pub(crate) fn attend_ports(&mut self, ports: &[InitiatorPort], except: SessionId, code: u16) {
        for (id, member) in &mut self.members {
            if *id != except && ports.contains(&member.port) {
                member.attend(code);
            }
        }
    }

    /// Notices a capacity that this session has not been told of.
    pub(crate) fn notice_capacity(&mut self, session: SessionId, geometry: Geometry) {
        if let Some(member) = self.members.get_mut(&session)
            && member.block_count != geometry.block_count
        {
            member.block_count = geometry.block_count;
            member.attend(attention::CAPACITY_CHANGED);
        }
    }

    /// The sessions of initiator ports.
    fn sessions_of(&self, ports: &[InitiatorPort]) -> BTreeSet<SessionId> {
        let members = self
            .members
            .iter()
            .filter(|(_, member)| ports.contains(&member.port));
        members.map(|(id, _)| *id).collect()
    }
}

/// Operations that must end before an abort may be answered, and whose sessions must look.
#[derive(Debug, Default)]
pub(crate) struct Aborted {
    pub(crate) operations: Vec<OperationTag>,
    pub(crate) sessions: BTreeSet<SessionId>,
}

/// One logical unit.
pub(crate) struct Unit {
    pub(crate) number: u16,
    numbers: Numbers,
    description: Mutex<LogicalUnit>,
    state: Mutex<UnitState>,
    /// Signalled whenever an operation of the task table ended.
    ended: Notify,
}

impl Unit {
    fn new(number: u16, description: LogicalUnit, numbers: Numbers) -> Self {
        Self {
            number,
            numbers,
            description: Mutex::new(description),
            state: Mutex::default(),
            ended: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, UnitState> {
        self.state
            .lock()
            .expect("no holder of a unit's lock panics")
    }

    pub(crate) fn description(&self) -> LogicalUnit {
        self.description
            .lock()
            .expect("no holder of this lock panics")
            .clone()
    }

    pub(crate) fn device(&self) -> Arc<dyn BlockDevice> {
        Arc::clone(
            &self
                .description
                .lock()
                .expect("no holder of this lock panics")
                .device,
        )
    }

    fn attach(&self, session: SessionId, port: &InitiatorPort) {
        let block_count = self.device().geometry().block_count;
        let attentions = VecDeque::from([attention::POWER_ON]);
        let member = Member {
            port: port.clone(),
            attentions,
            block_count,
        };
        let mut state = self.lock();
        state.members.insert(session, member);
        self.device().sessions_changed(state.members.len());
    }

    fn detach(&self, session: SessionId) {
        let mut state = self.lock();
        state.members.remove(&session);
        state.reservations.session_ended(session);
        let leftover = state
            .tasks
            .values()
            .any(|task| task.session == session && task.running.is_some());
        assert!(!leftover, "a session ends after all of its operations");
        state.tasks.retain(|_, task| task.session != session);
        self.device().sessions_changed(state.members.len());
    }

    /// Enters a task.
    pub(crate) fn admit(&self, session: SessionId) -> TaskId {
        let id = TaskId(self.numbers.fresh());
        self.lock().tasks.insert(
            id,
            TaskEntry {
                session,
                aborted: false,
                running: None,
            },
        );
        id
    }

    /// Names the task's next state-changing operation; none when the task was aborted.
    pub(crate) fn begin_operation(&self, task: TaskId) -> Option<OperationTag> {
        let mut state = self.lock();
        let entry = state
            .tasks
            .get_mut(&task)
            .expect("a task is in the table until it finishes");
        assert!(
            entry.running.is_none(),
            "a task runs one operation at a time"
        );
        if entry.aborted {
            return None;
        }
        let tag = OperationTag(self.numbers.fresh());
        entry.running = Some(tag);
        Some(tag)
    }

    /// The task's operation ended, whatever its outcome.
    pub(crate) fn end_operation(&self, task: TaskId) {
        if let Some(entry) = self.lock().tasks.get_mut(&task) {
            entry.running = None;
        }
        self.ended.notify_waiters();
    }

    pub(crate) fn is_aborted(&self, task: TaskId) -> bool {
        self.lock()
            .tasks
            .get(&task)
            .is_none_or(|entry| entry.aborted)
    }

    /// Removes a task that runs nothing.
    pub(crate) fn finish(&self, task: TaskId) {
        let entry = self.lock().tasks.remove(&task);
        assert!(
            entry.is_none_or(|entry| entry.running.is_none()),
            "a task finishes after its operation"
        );
    }

    /// Aborts one task.
    pub(crate) fn abort_task(&self, task: TaskId) -> Aborted {
        self.abort(|id, _| id == task)
    }

    /// Aborts every task of a session.
    pub(crate) fn abort_session(&self, session: SessionId) -> Aborted {
        self.abort(|_, entry| entry.session == session)
    }

    /// Aborts the tasks of initiator ports (PREEMPT AND ABORT), except those of one session.
    pub(crate) fn abort_ports(&self, ports: &[InitiatorPort], except: SessionId) -> Aborted {
        let mut sessions = self.lock().sessions_of(ports);
        sessions.remove(&except);
        self.abort(|_, entry| sessions.contains(&entry.session))
    }

    /// LOGICAL UNIT RESET (SAM-5 6.3.3): aborts everything and undoes what a reset undoes.
    pub(crate) fn reset(&self, by: SessionId) -> Aborted {
        {
            let mut state = self.lock();
            state.mode = ModeParameters::default();
            state.reservations.reset();
            for (id, member) in &mut state.members {
                // The requester knows; everybody else hears of it.
                if *id != by {
                    member.attend(attention::RESET);
                }
            }
        }
        self.abort(|_, _| true)
    }

    fn abort(&self, wanted: impl Fn(TaskId, &TaskEntry) -> bool) -> Aborted {
        let mut aborted = Aborted::default();
        for (id, entry) in &mut self.lock().tasks {
            if wanted(*id, entry) {
                entry.aborted = true;
                aborted.operations.extend(entry.running);
                aborted.sessions.insert(entry.session);
            }
        }
        aborted
    }

    /// Cancels operations and resolves when none of them is running any more.
    pub(crate) async fn settle(&self, operations: &[OperationTag]) {
        for tag in operations {
            loop {
                let ended = self.ended.notified();
                let mut ended = std::pin::pin!(ended);
                // Registered before the check: an end in between is not missed.
                ended.as_mut().enable();
                if !self
                    .lock()
                    .tasks
                    .values()
                    .any(|task| task.running == Some(*tag))
                {
                    break;
                }
                // An operation that is about to be issued is not known to the device yet; its end
                // is awaited all the same, for it is in the table.
                self.device().cancel(*tag).await;
                ended.await;
            }
        }
    }
}

/// One session as its target knows it.
#[derive(Debug)]
struct SessionEntry {
    port: InitiatorPort,
    tsih: u16,
    closing: Option<CloseCause>,
    wake: Arc<Notify>,
}

/// Why a target asks a session to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCause {
    /// The same initiator port logged in again (RFC 7143 6.3.5).
    Reinstated,
    /// TARGET COLD RESET.
    ColdReset,
    /// The target is no longer exported here.
    Withdrawn,
}

/// A new session.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) session: SessionId,
    pub(crate) tsih: u16,
    /// Sessions that must end before this one may go on.
    pub(crate) displaced: Vec<SessionId>,
}

#[derive(Debug, Default)]
struct Sessions {
    entries: BTreeMap<SessionId, SessionEntry>,
    last_tsih: u16,
}

/// One target.
pub(crate) struct Target {
    pub(crate) name: String,
    numbers: Numbers,
    units: Mutex<BTreeMap<u16, Arc<Unit>>>,
    sessions: Mutex<Sessions>,
    /// Signalled whenever a session left the table.
    session_ended: Notify,
}

impl Target {
    fn new(description: TargetDescription, numbers: Numbers) -> Self {
        let target = Self {
            name: description.name.clone(),
            numbers,
            units: Mutex::default(),
            sessions: Mutex::default(),
            session_ended: Notify::new(),
        };
        target.refresh(description);
        target
    }

    /// Takes over what the catalog says now; shared state of units that stay is kept.
    fn refresh(&self, description: TargetDescription) {
        let mut units = self.units.lock().expect("no holder of this lock panics");
        units.retain(|number, _| description.units.contains_key(number));
        for (number, unit) in description.units {
            match units.get(&number) {
                Some(known) => {
                    *known
                        .description
                        .lock()
                        .expect("no holder of this lock panics") = unit;
                }
                None => {
                    units.insert(
                        number,
                        Arc::new(Unit::new(number, unit, self.numbers.clone())),
                    );
                }
            }
        }
    }

    pub(crate) fn unit(&self, number: u16) -> Option<Arc<Unit>> {
        self.units
            .lock()
            .expect("no holder of this lock panics")
            .get(&number)
            .cloned()
    }

    pub(crate) fn units(&self) -> Vec<Arc<Unit>> {
        self.units
            .lock()
            .expect("no holder of this lock panics")
            .values()
            .cloned()
            .collect()
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().expect("no holder of this lock panics")
    }

    /// Enters a session; older ones of the same initiator port are asked to end. None when the
    /// table is full.
    pub(crate) fn open_session(&self, port: &InitiatorPort, wake: Arc<Notify>) -> Option<Opened> {
        let mut sessions = self.sessions();
        if sessions.entries.len() >= SESSIONS_MAX {
            return None;
        }
        let mut displaced = Vec::new();
        for (id, entry) in &mut sessions.entries {
            if entry.port == *port {
                entry.closing.get_or_insert(CloseCause::Reinstated);
                entry.wake.notify_one();
                displaced.push(*id);
            }
        }
        let tsih = loop {
            sessions.last_tsih = sessions.last_tsih.checked_add(1).unwrap_or(1);
            let candidate = sessions.last_tsih;
            if sessions
                .entries
                .values()
                .all(|entry| entry.tsih != candidate)
            {
                break candidate;
            }
        };
        let session = SessionId(self.numbers.fresh());
        let entry = SessionEntry {
            port: port.clone(),
            tsih,
            closing: None,
            wake,
        };
        sessions.entries.insert(session, entry);
        drop(sessions);
        for unit in self.units() {
            unit.attach(session, port);
        }
        Some(Opened {
            session,
            tsih,
            displaced,
        })
    }

    /// Whether a session with this TSIH and initiator port exists.
    pub(crate) fn has_session(&self, port: &InitiatorPort, tsih: u16) -> bool {
        self.sessions()
            .entries
            .values()
            .any(|entry| entry.tsih == tsih && entry.port == *port)
    }

    /// A session and all of its operations ended.
    pub(crate) fn close_session(&self, session: SessionId) {
        for unit in self.units() {
            unit.detach(session);
        }
        self.sessions().entries.remove(&session);
        self.session_ended.notify_waiters();
    }

    /// Why this session is asked to end, if it is.
    pub(crate) fn closing(&self, session: SessionId) -> Option<CloseCause> {
        self.sessions().entries.get(&session)?.closing
    }

    /// Asks all sessions to end.
    pub(crate) fn close_all(&self, cause: CloseCause) {
        for entry in self.sessions().entries.values_mut() {
            entry.closing.get_or_insert(cause);
            entry.wake.notify_one();
        }
    }

    /// Makes sessions look at the shared state.
    pub(crate) fn wake(&self, wanted: &BTreeSet<SessionId>) {
        for (id, entry) in &self.sessions().entries {
            if wanted.contains(id) {
                entry.wake.notify_one();
            }
        }
    }

    /// Resolves when none of these sessions is in the table any more.
    pub(crate) async fn sessions_ended(&self, displaced: &[SessionId]) {
        loop {
            let ended = self.session_ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if !displaced
                .iter()
                .any(|id| self.sessions().entries.contains_key(id))
            {
                return;
            }
            ended.await;
        }
    }
}

/// All targets of a portal that somebody logged in to, over the catalog.
pub(crate) struct Targets {
    catalog: Arc<dyn TargetCatalog>,
    live: Mutex<BTreeMap<String, Arc<Target>>>,
    numbers: Numbers,
}

impl Targets {
    pub(crate) fn new(catalog: Arc<dyn TargetCatalog>) -> Self {
        Self {
            catalog,
            live: Mutex::default(),
            numbers: Numbers::default(),
        }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.catalog.target_names()
    }

    pub(crate) fn describe(&self, name: &str) -> Option<TargetDescription> {
        self.catalog.find(name)
    }

    /// The shared state of a described target.
    pub(crate) fn open(&self, description: TargetDescription) -> Arc<Target> {
        let mut live = self.live.lock().expect("no holder of this lock panics");
        if let Some(known) = live.get(&description.name) {
            known.refresh(description);
            return Arc::clone(known);
        }
        let target = Arc::new(Target::new(description, self.numbers.clone()));
        live.insert(target.name.clone(), Arc::clone(&target));
        target
    }

    /// Ends the sessions of a target that is not exported here any more and forgets its state.
    pub(crate) fn withdraw(&self, name: &str) {
        let target = self
            .live
            .lock()
            .expect("no holder of this lock panics")
            .remove(name);
        if let Some(target) = target {
            target.close_all(CloseCause::Withdrawn);
        }
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&self) {
        for target in self
            .live
            .lock()
            .expect("no holder of this lock panics")
            .values()
        {
            target.close_all(CloseCause::Withdrawn);
        }
    }
}
