//! [`Env`]: one cheap, cloneable handle on all seams of one node.

use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::{
    BoxFuture, Clock, Disk, Events, HaltReason, InPhase, Instant, Network, Phase, Random, Seeds,
    TaskHandle, Tasks, WallTime, with_current_env,
};

/// The parts of an [`Env`].
pub struct EnvParts {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Tasks.
    pub tasks: Arc<dyn Tasks>,
    /// Randomness.
    pub seeds: Arc<dyn Seeds>,
    /// Streams.
    pub network: Arc<dyn Network>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Logs.
    pub events: Arc<dyn Events>,
}

/// All seams of one node.
#[derive(Clone)]
pub struct Env(Arc<EnvParts>);

/// The deadline passed first. The outcome of what was awaited is unknown, not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed; the outcome is unknown")]
pub struct Elapsed;

impl Env {
    /// Joins the parts.
    #[must_use]
    pub fn new(parts: EnvParts) -> Self {
        Self(Arc::new(parts))
    }

    /// The same seams but for the disk: a tester beside a simulated cluster keeps its files outside.
    #[must_use]
    pub fn with_disk(&self, disk: Arc<dyn Disk>) -> Self {
        Self(Arc::new(EnvParts {
            clock: Arc::clone(&self.0.clock),
            tasks: Arc::clone(&self.0.tasks),
            seeds: Arc::clone(&self.0.seeds),
            network: Arc::clone(&self.0.network),
            disk,
            events: Arc::clone(&self.0.events),
        }))
    }

    /// The present instant of this node's monotonic clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// The wall time, as a label.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        self.0.clock.wall()
    }

    /// Completes `duration` from now.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now() + duration)
    }

    /// Completes at or after `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.0.clock.sleep_until(deadline)
    }

    /// Awaits `future` for at most `limit`; the future is dropped when the limit passes.
    ///
    /// # Errors
    /// [`Elapsed`]: the outcome is unknown.
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        self.deadline(self.now() + limit, future).await
    }

    /// Awaits `future` until `deadline`; the future is dropped when it passes.
    ///
    /// # Errors
    /// [`Elapsed`]: the outcome is unknown.
    pub async fn deadline<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = std::pin::pin!(future);
        // `select` polls its first argument first: a result that is there wins over the clock.
        match select(future.as_mut(), self.sleep_until(deadline)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(Elapsed),
        }
    }

    /// Spawns a named task of this node.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> TaskHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0
            .tasks
            .spawn(name, with_current_env(self.clone(), Box::pin(future)))
    }

    /// Runs `future` in a task of its own and awaits it. Once this was polled, `future` goes on to its
    /// end even if its caller is dropped (a deadline, a cancelled request): for what must not stop
    /// half-way.
    ///
    /// Never completes when the node stops meanwhile.
    pub async fn to_the_end<T, F>(&self, name: &'static str, future: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let meeting: Arc<Mutex<(Option<T>, Option<Waker>)>> = Arc::new(Mutex::new((None, None)));
        let filled = Arc::clone(&meeting);
        self.spawn(name, async move {
            let value = future.await;
            let waiter = {
                let mut meeting = filled.lock().expect(MEETING);
                meeting.0 = Some(value);
                meeting.1.take()
            };
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        });
        std::future::poll_fn(move |context| {
            let mut meeting = meeting.lock().expect(MEETING);
            if let Some(value) = meeting.0.take() {
                return Poll::Ready(value);
            }
            meeting.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Runs a blocking job (the Pages store's calls) away from the async threads.
    ///
    /// Never completes when the node stops meanwhile.
    pub async fn blocking<T, J>(&self, name: &'static str, job: J) -> T
    where
        T: Send + 'static,
        J: FnOnce() -> T + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        let run = Box::new(move || {
            let value = job();
            *filled.lock().expect("nobody panics while holding the slot") = Some(value);
        });
        self.0.tasks.blocking(name, run).await;
        let value = slot
            .lock()
            .expect("nobody panics while holding the slot")
            .take();
        match value {
            Some(value) => value,
            None => std::future::pending().await,
        }
    }

    /// Stops this node for `reason`.
    pub fn halt(&self, reason: HaltReason) {
        crate::event!(self, Error, "node", "halt: {reason}");
        self.0.tasks.halt(reason);
    }

    /// A labelled stream of random numbers.
    #[must_use]
    pub fn random(&self, label: &str) -> Random {
        self.0.seeds.stream(label)
    }

    /// Bytes fit for keys and nonces.
    #[must_use]
    pub fn secret(&self, length: usize) -> Vec<u8> {
        self.0.seeds.secret(length)
    }

    /// The network seam.
    #[must_use]
    pub fn network(&self) -> &dyn Network {
        &*self.0.network
    }

    /// The disk seam.
    #[must_use]
    pub fn disk(&self) -> &dyn Disk {
        &*self.0.disk
    }

    /// The disk seam, to be kept.
    #[must_use]
    pub fn disk_handle(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.0.disk)
    }

    /// Says that this node is in `phase` until what is returned is dropped.
    #[must_use = "dropping it ends the phase"]
    pub fn phase(&self, phase: Phase) -> InPhase {
        InPhase::begin(Arc::clone(&self.0.events), phase)
    }

    /// The events seam.
    #[must_use]
    pub fn events(&self) -> &dyn Events {
        &*self.0.events
    }
}

const MEETING: &str = "nobody panics while holding a task's answer";
