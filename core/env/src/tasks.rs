//! Tasks. Every task spawned here has its [`Env`] in a thread-local while it is polled; that is the
//! only ambient state of the program, and it exists for the Raft runtime's static functions.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::{BoxFuture, Env};

/// Why a node stops itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaltReason {
    /// A broken invariant: continuing could lose or corrupt data.
    Invariant(String),
    /// A disk that held journal or Pages state failed a call (a failed sync is never retried). No
    /// other error is named so: the simulator tolerates this where it failed a disk, and only there.
    DiskFailed(String),
    /// A peer knows more of this store than the store itself: an old image was restored.
    RolledBack(String),
    /// Something that the node cannot serve without is not to be had, though its disks work: an
    /// address in use, a record that does not decode.
    CannotServe(String),
}

impl std::fmt::Display for HaltReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invariant(text) => write!(formatter, "broken invariant: {text}"),
            Self::DiskFailed(text) => write!(formatter, "disk failed: {text}"),
            Self::RolledBack(text) => write!(formatter, "store rolled back: {text}"),
            Self::CannotServe(text) => write!(formatter, "cannot serve: {text}"),
        }
    }
}

/// The tasks seam of one node.
pub trait Tasks: Send + Sync {
    /// Runs `future` to its end unless aborted or the node stops.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle;
    /// Runs a blocking job: on a bounded thread pool in production; in place, its time charged
    /// afterwards, in the simulator.
    fn blocking(&self, name: &'static str, job: Box<dyn FnOnce() + Send>)
    -> BoxFuture<'static, ()>;
    /// Stops this node: nothing of it acts afterwards. In production the process exits when the
    /// node is alone in it.
    fn halt(&self, reason: HaltReason);
}

/// Aborts a task at its next suspension.
pub trait AbortHandle: Send + Sync {
    /// Aborts; harmless when the task has ended.
    fn abort(&self);
}

/// A running task. Dropping the handle lets the task run on.
pub struct TaskHandle(Arc<dyn AbortHandle>);

impl TaskHandle {
    /// Wraps an implementation's abort handle.
    #[must_use]
    pub fn new(handle: Arc<dyn AbortHandle>) -> Self {
        Self(handle)
    }

    /// Aborts the task at its next suspension.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// A guard that aborts the task when dropped.
    #[must_use]
    pub fn abort_on_drop(self) -> AbortOnDrop {
        AbortOnDrop(self)
    }
}

/// Aborts its task when dropped.
pub struct AbortOnDrop(TaskHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Env>> = const { RefCell::new(None) };
}

/// The [`Env`] of the task that is being polled on this thread, if any.
#[must_use]
pub fn current_env() -> Option<Env> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Wraps `future` so that [`current_env`] finds `env` whenever it is polled (and while it is dropped
/// after a last poll it finds nothing). [`Env::spawn`] does this for every task.
pub fn with_current_env<T: Send + 'static>(
    env: Env,
    future: BoxFuture<'static, T>,
) -> BoxFuture<'static, T> {
    Box::pin(InEnv { env, future })
}

struct InEnv<T> {
    env: Env,
    future: BoxFuture<'static, T>,
}

impl<T> Future for InEnv<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let previous = CURRENT.with(|current| current.replace(Some(self.env.clone())));
        let _restore = Restore(Some(previous));
        self.future.as_mut().poll(context)
    }
}

/// Puts the previous value back even when the poll panics.
struct Restore(Option<Option<Env>>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(previous) = self.0.take() {
            CURRENT.with(|current| current.replace(previous));
        }
    }
}
