//! One iSCSI session as a sans-I/O core: events in, effects out, time as an argument.
//!
//! A session has one connection (MaxConnections 1) and ErrorRecoveryLevel 0, so a connection that
//! breaks ends it. `login` negotiates, `full` runs the full feature phase, `task` gathers the data
//! of one command, `text` answers discovery.
//!
//! Invariants: effects are in the order in which they must be performed; after [`Effect::Close`]
//! nothing more is sent; [`Effect::Ended`] comes last, when no operation of the session can change
//! a disk any more, and only then does the session leave its target.
//! Does not: read clocks or bytes, or wait.

mod answers;
pub(crate) mod chap;
mod full;
mod login;
mod management;
mod parameters;
mod sequence;
mod task;
mod text;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::Instant;
use thiserror::Error;
use tokio::sync::Notify;

use crate::codec::{CodecError, Digests, RawPdu, Response};
use crate::port::{BlockDevice, BlockError, OperationTag};
pub use crate::scsi::execute::MediumOperation;
use crate::target::{CloseCause, SessionId, Target, Targets, Unit};
use full::FullFeature;
use login::{Login, Outcome};

/// Login must be over by then: an initiator on a live network needs a few round trips.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);

/// After so much silence the target asks whether the initiator is there.
pub const PING_AFTER: Duration = Duration::from_secs(15);

/// A ping that stays unanswered so long ends the session.
pub const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// What the world tells a session.
#[derive(Debug)]
pub enum Event {
    /// A PDU arrived.
    Received(RawPdu),
    /// The bytes that arrived are no PDU.
    Malformed(CodecError),
    /// An operation of [`Effect::Operate`] ended.
    Completed {
        /// As in the effect.
        operation: OperationId,
        /// Its outcome; bytes only for reads.
        result: Result<Bytes, BlockError>,
    },
    /// What an [`Effect::Await`] waited for has come.
    Settled {
        /// As in the effect.
        ticket: u64,
        /// False: it is not known whether what was begun earlier can still take effect.
        settled: bool,
    },
    /// Another session changed shared state that concerns this one.
    Woken,
    /// [`Session::deadline`] passed.
    Tick,
    /// The connection is gone: nothing can be sent or received any more.
    Disconnected,
}

/// Names an operation of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(pub(crate) u64);

/// What a session wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send a PDU.
    Send(Response),
    /// Start an operation and answer with [`Event::Completed`].
    Operate(Operate),
    /// Wait for others' ends and answer with [`Event::Settled`].
    Await {
        /// To be returned.
        ticket: u64,
        /// What to wait for.
        settlement: Settlement,
    },
    /// From the next PDU on, in both directions, use these digests and accept data segments of this
    /// length.
    Framing {
        /// Digests in force.
        digests: Digests,
        /// Our MaxRecvDataSegmentLength.
        data_limit: usize,
    },
    /// Send what is queued, then close the connection and report [`Event::Disconnected`].
    Close(CloseReason),
    /// The session is over; forget it.
    Ended,
}

/// An operation on a block device.
pub struct Operate {
    /// To be returned with the completion.
    pub operation: OperationId,
    /// Where.
    pub device: Arc<dyn BlockDevice>,
    /// What.
    pub medium: MediumOperation,
    /// For operations which change the medium.
    pub tag: OperationTag,
}

impl std::fmt::Debug for Operate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?} {:?}", self.operation, self.medium)
    }
}

/// Things that must end before a session may go on.
#[derive(Default)]
pub struct Settlement {
    operations: Vec<(Arc<Unit>, Vec<OperationTag>)>,
    sessions: Option<(Arc<Target>, Vec<SessionId>)>,
    /// Units whose devices must then be settled ([`BlockDevice::settle`]).
    units: Vec<Arc<Unit>>,
    /// Whether those devices are taken into use for it.
    take: bool,
}

impl std::fmt::Debug for Settlement {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count: usize = self.operations.iter().map(|(_, tags)| tags.len()).sum();
        write!(formatter, "{count} operations")?;
        if let Some((_, sessions)) = &self.sessions {
            write!(formatter, ", {} sessions", sessions.len())?;
        }
        if !self.units.is_empty() {
            write!(formatter, ", {} units", self.units.len())?;
        }
        Ok(())
    }
}

impl Settlement {
    fn is_empty(&self) -> bool {
        self.operations.iter().all(|(_, tags)| tags.is_empty())
            && self.sessions.is_none()
            && self.units.is_empty()
    }

    /// Cancels the operations and resolves when all of them, and the sessions, have ended, and the
    /// units' devices are settled. False when a device could not tell.
    pub async fn wait(self) -> bool {
        for (unit, tags) in &self.operations {
            unit.settle(tags).await;
        }
        if let Some((target, sessions)) = &self.sessions {
            target.sessions_ended(sessions).await;
        }
        for unit in &self.units {
            if unit.device().settle(self.take).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Why a session closes its connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The initiator logged out.
    #[error("the initiator logged out")]
    Logout,
    /// Login was refused with this status class and detail.
    #[error("login refused with status {status:#06x}: {detail}")]
    LoginRefused {
        /// Status-Class and Status-Detail.
        status: u16,
        /// What was wrong.
        detail: &'static str,
    },
    /// Bytes that are no PDU.
    #[error("malformed PDU: {0}")]
    Malformed(#[from] CodecError),
    /// A PDU that breaks the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// Login did not end in time.
    #[error("login did not end in {} s", LOGIN_TIMEOUT.as_secs())]
    LoginTimeout,
    /// The initiator did not answer a ping.
    #[error("the initiator was silent and did not answer a ping")]
    PeerSilent,
    /// The same initiator port logged in again.
    #[error("the initiator logged in anew")]
    Reinstated,
    /// TARGET COLD RESET.
    #[error("target cold reset")]
    ColdReset,
    /// The target is no longer exported here.
    #[error("the target was withdrawn")]
    Withdrawn,
    /// A command changes the disk, or not: nobody here can know any more.
    #[error("the outcome of a command is unknown")]
    OutcomeUnknown,
    /// The peer closed the connection or it broke.
    #[error("the connection ended")]
    Disconnected,
}

impl From<CloseCause> for CloseReason {
    fn from(cause: CloseCause) -> Self {
        match cause {
            CloseCause::Reinstated => Self::Reinstated,
            CloseCause::ColdReset => Self::ColdReset,
            CloseCause::Withdrawn => Self::Withdrawn,
        }
    }
}

/// What a new session is made of.
pub(crate) struct Seed {
    pub(crate) targets: Arc<Targets>,
    /// Signalled when another session concerns this one.
    pub(crate) wake: Arc<Notify>,
    /// Our address of the connection, for SendTargets.
    pub(crate) local_address: String,
    /// Unpredictable bytes for the CHAP challenge.
    pub(crate) challenge: [u8; 16],
}

enum Phase {
    Login(Box<Login>),
    Full(Box<FullFeature>),
    Closed,
}

/// One session.
pub struct Session {
    phase: Phase,
    closing: bool,
    ended: bool,
}

impl Session {
    pub(crate) fn new(seed: Seed, now: Instant) -> Self {
        let phase = Phase::Login(Box::new(Login::new(seed, now + LOGIN_TIMEOUT)));
        Self {
            phase,
            closing: false,
            ended: false,
        }
    }

    /// What the session is called in logs.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.phase {
            Phase::Login(login) => login.label(),
            Phase::Full(full) => full.label(),
            Phase::Closed => "ended".to_owned(),
        }
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.closing {
            return None;
        }
        match &self.phase {
            Phase::Login(login) => Some(login.deadline()),
            Phase::Full(full) => Some(full.deadline()),
            Phase::Closed => None,
        }
    }

    /// Takes one event; what is to be done is added to `effects`.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        if self.ended {
            return;
        }
        let first = effects.len();
        let was_closing = self.closing;
        match event {
            Event::Disconnected => self.disconnected(effects),
            // Once closing, only the ends of operations still matter.
            Event::Received(_) | Event::Malformed(_) | Event::Tick | Event::Woken
                if was_closing => {}
            Event::Malformed(error) => effects.push(Effect::Close(error.into())),
            event => self.step(now, event, effects),
        }
        // Nothing is sent after the first reason to close.
        let mut closing = was_closing;
        let mut index = 0;
        effects.retain(|effect| {
            let own = index >= first;
            index += 1;
            let keep = !(own && closing && matches!(effect, Effect::Send(_) | Effect::Close(_)));
            closing |= own && matches!(effect, Effect::Close(_));
            keep
        });
        self.closing |= closing;
        if effects[first..]
            .iter()
            .any(|effect| matches!(effect, Effect::Ended))
        {
            self.ended = true;
            self.phase = Phase::Closed;
        }
    }

    fn step(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Login(login) => {
                if let Outcome::Done(full) = login.handle(now, event, effects) {
                    self.phase = Phase::Full(full);
                }
            }
            Phase::Full(full) => full.handle(now, event, effects),
            Phase::Closed => {}
        }
    }

    fn disconnected(&mut self, effects: &mut Vec<Effect>) {
        self.closing = true;
        match &mut self.phase {
            Phase::Login(login) => {
                login.abandon();
                effects.push(Effect::Ended);
            }
            Phase::Full(full) => full.disconnected(effects),
            Phase::Closed => {}
        }
    }
}

#[cfg(test)]
mod transcripts;
