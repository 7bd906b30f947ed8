//! [`Lasting`]: what a proxy knows of a disk for longer than one attachment: the operations under
//! way, so that they can be cancelled, and the ranges that they claim.
//!
//! Invariants: an operation runs in a task of its own, so a caller that goes away leaves no name
//! half-way; it starts when its claim lets it and is settled when it has ended.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use hedgerow_env::Env;
use tokio::sync::Notify;

use crate::claims::{Claims, Sharing, Ticket};

/// Names a state-changing operation, for [`crate::VirtualDisk::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationTag(pub u64);

/// A state-changing operation under way.
#[derive(Default)]
pub(crate) struct Operation {
    cancelled: AtomicBool,
    pub(crate) wake: Notify,
    settled: AtomicBool,
    settle: Notify,
}

impl Operation {
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Asks for its end.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.wake.notify_waiters();
    }
}

/// One disk, for as long as somebody of this proxy uses it.
#[derive(Default)]
pub(crate) struct Lasting {
    /// Attachments are taken one at a time: a second one of the same session would end the first.
    pub(crate) attaching: tokio::sync::Mutex<()>,
    operations: Mutex<BTreeMap<OperationTag, Arc<Operation>>>,
    claims: Mutex<Claims>,
    left: Notify,
}

/// A range claimed until dropped.
struct Claim {
    lasting: Arc<Lasting>,
    ticket: Ticket,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.lasting.claims().leave(self.ticket);
        self.lasting.left.notify_waiters();
    }
}

impl Claim {
    /// Returns when the range may be changed, or the operation is cancelled.
    async fn granted(&self, operation: &Operation) {
        loop {
            let left = self.lasting.left.notified();
            let woken = operation.wake.notified();
            if operation.is_cancelled() || self.lasting.claims().may_go(self.ticket) {
                return;
            }
            futures_util::future::select(std::pin::pin!(left), std::pin::pin!(woken)).await;
        }
    }
}

impl Lasting {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().expect("no panic under this lock")
    }

    fn operations(&self) -> MutexGuard<'_, BTreeMap<OperationTag, Arc<Operation>>> {
        self.operations.lock().expect("no panic under this lock")
    }

    /// Runs a change of `range` when nothing older excludes it. None: the process is ending.
    pub(crate) async fn run<T, W>(
        self: &Arc<Self>,
        env: &Env,
        tag: OperationTag,
        (range, sharing): (Range<u64>, Sharing),
        work: impl FnOnce(Arc<Operation>) -> W,
    ) -> Option<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        let operation = Arc::new(Operation::default());
        self.operations().insert(tag, Arc::clone(&operation));
        let claim = Claim {
            lasting: Arc::clone(self),
            ticket: self.claims().enter(range, sharing),
        };
        let (answer, result) = tokio::sync::oneshot::channel();
        let work = work(Arc::clone(&operation));
        let lasting = Arc::clone(self);
        env.spawn("proxy-operation", async move {
            claim.granted(&operation).await;
            let result = work.await;
            drop(claim);
            lasting.operations().remove(&tag);
            operation.settled.store(true, Ordering::SeqCst);
            operation.settle.notify_waiters();
            drop(answer.send(result));
        });
        result.await.ok()
    }

    /// Asks for the end of an operation and returns when its outcome is settled: from then on it
    /// changes nothing.
    pub(crate) async fn cancel(&self, tag: OperationTag) {
        let Some(operation) = self.operations().get(&tag).cloned() else {
            return;
        };
        operation.cancel();
        loop {
            let settled = operation.settle.notified();
            if operation.settled.load(Ordering::SeqCst) {
                return;
            }
            settled.await;
        }
    }
}
