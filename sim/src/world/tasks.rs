//! Tasks of a node: they run on the node's madsim node, stand still while it is paused and are
//! dropped, never polled again, once its life is over.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hedgerow_env::{AbortHandle, BoxFuture, HaltReason, TaskHandle, Tasks};
use serde::{Deserialize, Serialize};

use super::World;
use super::lifecycle::Crash;
use super::node::{Life, NodeEnv, NodeStatus};
use super::timers::TrueSleep;

/// After so many spawned tasks madsim is made to forget those that ended; it would keep a record
/// of each for as long as its node lives.
pub(super) const SPAWNS_BETWEEN_SWEEPS: u64 = 4_096;

/// A task's name, for those who read a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLabel {
    /// What the code that spawned it calls it.
    pub name: String,
    /// Its number among all tasks of the run, in the order of their spawning.
    pub number: u64,
}

impl fmt::Display for TaskLabel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.name, self.number)
    }
}

/// A task, as long as nobody has to read its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskKey {
    name: &'static str,
    number: u64,
}

impl From<TaskKey> for TaskLabel {
    fn from(key: TaskKey) -> Self {
        Self {
            name: key.name.to_owned(),
            number: key.number,
        }
    }
}

thread_local! {
    /// The task that runs now; a world has its thread to itself.
    static PRESENT: Cell<Option<TaskKey>> = const { Cell::new(None) };
}

/// The task that runs now, if it is one of a node.
pub(super) fn present() -> Option<TaskKey> {
    PRESENT.get()
}

/// Does `act` in the name of `task`.
pub(super) fn in_name_of<T>(task: Option<TaskKey>, act: impl FnOnce() -> T) -> T {
    let before = PRESENT.replace(task);
    let value = act();
    PRESENT.set(before);
    value
}

/// One task of one life.
struct NodeTask {
    key: TaskKey,
    world: World,
    life: Arc<Life>,
    future: BoxFuture<'static, ()>,
}

impl Future for NodeTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.life.is_over() || self.life.hold_if_paused(context.waker()) {
            return Poll::Pending;
        }
        self.world.count_poll();
        in_name_of(Some(self.key), || self.future.as_mut().poll(context))
    }
}

struct Abort(madsim::task::AbortHandle);

impl AbortHandle for Abort {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Tasks for NodeEnv {
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        let number = self.world.count_spawn();
        let task = NodeTask {
            key: TaskKey { name, number },
            world: self.world.clone(),
            life: Arc::clone(&self.life),
            future,
        };
        let handle = self.life.spawner.spawn(task);
        TaskHandle::new(Arc::new(Abort(handle.abort_handle())))
    }

    fn blocking(
        &self,
        _name: &'static str,
        job: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        let env = self.clone();
        Box::pin(async move {
            if !env.life.is_over() {
                job();
            }
            if env.life.is_over() {
                // The node crashed at one of the job's disk calls, or before it began.
                return std::future::pending().await;
            }
            let done_ns = env.world.now_ns() + env.life.take_charge();
            TrueSleep::until(&env.world, Some(&env.life), done_ns).await;
            env.disk_unstuck().await;
        })
    }

    fn halt(&self, reason: HaltReason) {
        self.world.end_life(
            &self.node,
            &self.life,
            Crash::KILL,
            NodeStatus::Halted(reason),
        );
    }
}
