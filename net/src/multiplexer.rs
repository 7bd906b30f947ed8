//! The tables of outstanding requests: the caller's and the called side's.
//!
//! Invariants: each request is completed once, whatever comes twice or late; whether a request was
//! sent is decided under the same lock as its abandonment, so "not sent" is never a guess.
//! Does not: know of time, frames or tasks; `T` is what the driver keeps for each request.

use std::collections::BTreeMap;

use hedgerow_env::mutants::{Mutant, active};

use crate::frame::RequestId;

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// No byte of it was handed to the network: it did not run.
    NotSent,
    /// It may run, have run, or never run.
    Sent,
}

/// The caller's requests on one connection.
#[derive(Debug)]
pub struct RequestTable<T> {
    next: u64,
    closed: bool,
    pending: BTreeMap<RequestId, (Progress, T)>,
}

impl<T> Default for RequestTable<T> {
    fn default() -> Self {
        Self {
            next: 1,
            closed: false,
            pending: BTreeMap::new(),
        }
    }
}

impl<T> RequestTable<T> {
    /// Enters a request.
    ///
    /// # Errors
    /// Gives `token` back when the connection is closed.
    pub fn begin(&mut self, token: T) -> Result<RequestId, T> {
        if self.closed {
            return Err(token);
        }
        let id = RequestId(self.next);
        self.next += 1;
        self.pending.insert(id, (Progress::NotSent, token));
        Ok(id)
    }

    /// Just before the bytes go out. False when the request was abandoned: do not send it.
    pub fn sending(&mut self, id: RequestId) -> bool {
        match self.pending.get_mut(&id) {
            Some((progress, _)) => {
                *progress = Progress::Sent;
                true
            }
            None => false,
        }
    }

    /// An answer came. `None` when nobody waits: it is late or came twice.
    pub fn complete(&mut self, id: RequestId) -> Option<T> {
        let oldest = self.pending.keys().next().copied();
        let id = oldest
            .filter(|_| active(Mutant::AnswersInOrder))
            .unwrap_or(id);
        match self.pending.get(&id) {
            Some((Progress::Sent, _)) => self.pending.remove(&id).map(|(_, token)| token),
            // An answer to what was never sent answers something else.
            Some((Progress::NotSent, _)) | None => None,
        }
    }

    /// Nobody waits any more. `None` when it was completed before.
    pub fn abandon(&mut self, id: RequestId) -> Option<Progress> {
        self.pending.remove(&id).map(|(progress, _)| progress)
    }

    /// The connection ended: every outstanding request, in order.
    pub fn close(&mut self) -> Vec<(Progress, T)> {
        self.closed = true;
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// Outstanding requests.
    #[must_use]
    pub fn length(&self) -> usize {
        self.pending.len()
    }

    /// The highest number handed out so far; tells whether the connection is in use.
    #[must_use]
    pub const fn begun(&self) -> u64 {
        self.next - 1
    }
}

/// The called side's requests on one connection: those that run.
#[derive(Debug)]
pub struct ServeTable<T> {
    closed: bool,
    running: BTreeMap<RequestId, Option<T>>,
}

impl<T> Default for ServeTable<T> {
    fn default() -> Self {
        Self {
            closed: false,
            running: BTreeMap::new(),
        }
    }
}

impl<T> ServeTable<T> {
    /// Admits a request. False when the same one runs already, or the connection is closed.
    pub fn admit(&mut self, id: RequestId) -> bool {
        let twice = self.running.contains_key(&id) && !active(Mutant::DuplicateRequestRuns);
        if self.closed || twice {
            return false;
        }
        self.running.insert(id, None);
        true
    }

    /// Keeps the means to stop an admitted request.
    ///
    /// # Errors
    /// Gives it back when the connection closed or the request was cancelled meanwhile: use it.
    /// Nothing is kept of a request that has ended by itself.
    pub fn attach(&mut self, id: RequestId, stop: T) -> Result<(), T> {
        match self.running.get_mut(&id) {
            Some(slot) => {
                *slot = Some(stop);
                Ok(())
            }
            None => Err(stop),
        }
    }

    /// The request has ended.
    pub fn finish(&mut self, id: RequestId) {
        self.running.remove(&id);
    }

    /// The caller no longer waits: what stops the request, if it runs.
    pub fn cancel(&mut self, id: RequestId) -> Option<T> {
        self.running.remove(&id).flatten()
    }

    /// The connection ended: what stops each running request, in order.
    pub fn close(&mut self) -> Vec<T> {
        self.closed = true;
        std::mem::take(&mut self.running)
            .into_values()
            .flatten()
            .collect()
    }

    /// Running requests.
    #[must_use]
    pub fn length(&self) -> usize {
        self.running.len()
    }
}
