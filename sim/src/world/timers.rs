//! The world's one timer queue, ordered by (time, order of arming), and its driver.
//!
//! madsim never cancels a timer and cannot sleep for less than a millisecond, so all waiting goes
//! through this queue: a timer is removed when its owner is dropped, and madsim holds only the few
//! wake-ups that the driver asked for.
//!
//! Invariants: timers fire in order of (time, sequence), never early; an armed madsim wake-up exists
//! at or before the first timer's time. No lock is held while anything is woken or called.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use madsim::time::TimeHandle;

use super::World;
use super::node::Life;
use super::tasks::{self, TaskKey};
use super::trace::EventKind;

/// More timers than any scenario has use for: a loop that sends or sleeps without ever waiting.
const TIMERS_MAXIMUM: usize = 1_000_000;

/// A timer's place in the queue.
pub(super) type TimerKey = (u64, u64);

/// What happens when a timer fires.
pub(super) enum Action {
    /// A task is woken; of a paused node only once it resumes.
    Wake(Waker, Option<Arc<Life>>),
    /// The world acts by itself: a message arrives, a fault strikes.
    Call(Box<dyn FnOnce(&World) + Send>),
}

/// An armed timer.
struct Timer {
    action: Action,
    /// The task that armed it.
    task: Option<TaskKey>,
}

impl Action {
    fn fire(self, world: &World, at_ns: u64) {
        match self {
            Self::Wake(waker, life) => {
                let node = life.as_ref().map(|life| life.node);
                if life.is_none_or(|life| !life.hold_if_paused(&waker)) {
                    world.record(EventKind::Timer, node, 0, at_ns, 0);
                    waker.wake();
                }
            }
            Self::Call(call) => call(world),
        }
    }
}

#[derive(Default)]
struct Queue {
    timers: BTreeMap<TimerKey, Timer>,
    sequence: u64,
    /// Times for which madsim will wake the driver.
    armed: BTreeSet<u64>,
    driver: Option<Waker>,
    closed: bool,
}

/// The queue. See the file's head.
#[derive(Default)]
pub(super) struct Timers(Mutex<Queue>);

impl Timers {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.0
            .lock()
            .expect("no panic while the timer queue is held")
    }

    /// Adds a timer at true time `at_ns`.
    pub(super) fn insert(&self, time: &TimeHandle, at_ns: u64, action: Action) -> TimerKey {
        let mut queue = self.lock();
        let key = (at_ns, queue.sequence);
        queue.sequence += 1;
        if queue.closed {
            return key;
        }
        let task = tasks::present();
        queue.timers.insert(key, Timer { action, task });
        let count = queue.timers.len();
        queue.arm(time);
        drop(queue);
        assert!(
            count <= TIMERS_MAXIMUM,
            "{count} timers are armed: something loops"
        );
        key
    }

    /// Gives an armed timer another waker; false when it is no longer armed.
    pub(super) fn rewake(&self, key: TimerKey, waker: &Waker) -> bool {
        match self
            .lock()
            .timers
            .get_mut(&key)
            .map(|timer| &mut timer.action)
        {
            Some(Action::Wake(present, _)) => {
                present.clone_from(waker);
                true
            }
            _ => false,
        }
    }

    /// Removes a timer, if it is still armed.
    pub(super) fn cancel(&self, key: TimerKey) {
        // Dropped after the lock: an action may own anything.
        let removed = self.lock().timers.remove(&key);
        drop(removed);
    }

    /// Fires all sleeping timers of `life` early: its clock changed, each must look again.
    pub(super) fn wake_all_of(&self, life: &Arc<Life>) {
        let mut wakers = Vec::new();
        self.lock().timers.retain(|_, timer| match &timer.action {
            Action::Wake(waker, Some(owner)) if Arc::ptr_eq(owner, life) => {
                wakers.push(waker.clone());
                false
            }
            _ => true,
        });
        for waker in wakers {
            waker.wake();
        }
    }

    /// Timers now armed.
    pub(super) fn len(&self) -> usize {
        self.lock().timers.len()
    }

    /// Drops every timer, and every later one at once: the run is over.
    pub(super) fn close(&self) {
        let timers = {
            let mut queue = self.lock();
            queue.closed = true;
            queue.driver = None;
            std::mem::take(&mut queue.timers)
        };
        drop(timers);
    }

    fn pop_due(&self, now_ns: u64) -> Option<(u64, Timer)> {
        let mut queue = self.lock();
        let entry = queue.timers.first_entry()?;
        if entry.key().0 > now_ns {
            return None;
        }
        let ((at_ns, _), timer) = entry.remove_entry();
        Some((at_ns, timer))
    }

    /// One poll of the driver: fires what is due, then sees that madsim will wake it again.
    fn drive(&self, world: &World, waker: &Waker) {
        while let Some((at_ns, timer)) = self.pop_due(world.now_ns()) {
            tasks::in_name_of(timer.task, || timer.action.fire(world, at_ns));
        }
        let mut queue = self.lock();
        if queue
            .driver
            .as_ref()
            .is_none_or(|present| !present.will_wake(waker))
        {
            queue.driver = Some(waker.clone());
        }
        let now_ns = world.now_ns();
        while queue.armed.first().is_some_and(|at_ns| *at_ns <= now_ns) {
            queue.armed.pop_first();
        }
        queue.arm(world.time());
    }
}

impl Queue {
    /// Arms a madsim wake-up for the first timer, unless one as early exists.
    fn arm(&mut self, time: &TimeHandle) {
        let Some(driver) = &self.driver else { return };
        let Some(((at_ns, _), _)) = self.timers.first_key_value() else {
            return;
        };
        if self.armed.first().is_some_and(|armed| armed <= at_ns) {
            return;
        }
        let now = time.elapsed();
        let at = Duration::from_nanos(*at_ns);
        // A fresh `sleep` is at least 1 ms long; `reset` has no such floor.
        let mut sleep = time.sleep(Duration::ZERO);
        Pin::new(&mut sleep).reset(time.now_instant() + at.saturating_sub(now));
        if Future::poll(Pin::new(&mut sleep), &mut Context::from_waker(driver)).is_ready() {
            driver.wake_by_ref();
        } else {
            self.armed.insert(*at_ns);
        }
    }
}

/// Runs the timer queue for as long as the world exists.
pub(super) async fn drive(world: World) {
    std::future::poll_fn(|context| {
        world.timers().drive(&world, context.waker());
        Poll::<()>::Pending
    })
    .await;
}

/// Waits until a true time, as a device or the world itself does: no node's clock matters.
pub(super) struct TrueSleep {
    world: World,
    life: Option<Arc<Life>>,
    at_ns: u64,
    key: Option<TimerKey>,
}

impl TrueSleep {
    pub(super) fn until(world: &World, life: Option<&Arc<Life>>, at_ns: u64) -> Self {
        Self {
            world: world.clone(),
            life: life.cloned(),
            at_ns,
            key: None,
        }
    }
}

impl Future for TrueSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.now_ns() >= self.at_ns {
            return Poll::Ready(());
        }
        if let Some(key) = self.key
            && self.world.timers().rewake(key, context.waker())
        {
            return Poll::Pending;
        }
        let action = Action::Wake(context.waker().clone(), self.life.clone());
        self.key = Some(self.world.insert_timer(self.at_ns, action));
        Poll::Pending
    }
}

impl Drop for TrueSleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.world.timers().cancel(key);
        }
    }
}
