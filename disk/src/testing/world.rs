//! One thread, virtual time, one node.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use hedgerow_env::{
    AbortHandle, BoxFuture, Clock, Disk, Env, EnvParts, Events, HaltReason, Instant, Level,
    Listener, Network, NetworkError, Random, Seeds, Stream, StreamKind, TaskHandle, Tasks,
    WallTime,
};

use super::FaultDisk;

/// Turns after which a run is taken to hang.
const TURNS_MAX: u64 = 20_000_000;

#[derive(Default)]
struct State {
    tasks: BTreeMap<u64, Option<BoxFuture<'static, ()>>>,
    next_task: u64,
    ready: VecDeque<u64>,
    timers: BTreeMap<(Instant, u64), Waker>,
    next_timer: u64,
    now: Instant,
    halted: Option<HaltReason>,
    events: Vec<String>,
    left: Vec<Arc<dyn Any + Send + Sync>>,
    draws: u64,
}

/// A node's world: an [`Env`] over a [`FaultDisk`], run to completion by [`World::run`].
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    disk: Arc<dyn Disk>,
    faults: FaultDisk,
    seed: u64,
}

impl World {
    /// A world with an empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let faults = FaultDisk::new(seed);
        Self {
            state: Arc::default(),
            disk: Arc::new(faults.clone()),
            faults,
            seed,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("tests do not panic while holding the world")
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &FaultDisk {
        &self.faults
    }

    /// The node's handle on its seams.
    #[must_use]
    pub fn env(&self) -> Env {
        Env::new(EnvParts {
            clock: Arc::new(self.clone()),
            tasks: Arc::new(self.clone()),
            seeds: Arc::new(self.clone()),
            network: Arc::new(NoNetwork),
            disk: Arc::clone(&self.disk),
            events: Arc::new(self.clone()),
        })
    }

    /// Everything that the node said.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.state().events.clone()
    }

    /// What was left to whoever judges, since this was asked last.
    #[must_use]
    pub fn take_left(&self) -> Vec<Arc<dyn Any + Send + Sync>> {
        std::mem::take(&mut self.state().left)
    }

    /// Ends every task and loses what was not synced, as a power cut does.
    pub fn power_cut(&self) {
        let tasks = std::mem::take(&mut self.state().tasks);
        self.state().ready.clear();
        self.state().timers.clear();
        drop(tasks);
        self.faults.restart();
    }

    /// Runs until `future` completes.
    ///
    /// # Panics
    /// When nothing can go on, as after a crash of the disk.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.run_or_crash(future).expect("the future completes")
    }

    /// Runs until `future` completes, or until the disk has crashed and nothing can go on.
    ///
    /// # Panics
    /// When it hangs with a disk that works.
    pub fn run_or_crash<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        self.env().spawn("main", async move {
            let value = future.await;
            *filled.lock().expect("one thread") = Some(value);
        });
        for _ in 0..TURNS_MAX {
            if let Some(value) = slot.lock().expect("one thread").take() {
                return Some(value);
            }
            if self.faults.is_crashed() || !self.turn() {
                assert!(
                    self.faults.is_crashed(),
                    "nothing can go on, and the disk works"
                );
                return None;
            }
        }
        panic!("the run hangs");
    }

    /// Polls one task, or lets time pass to the next timer. False when neither is there.
    fn turn(&self) -> bool {
        let next = self.state().ready.pop_front();
        let Some(number) = next else {
            return self.pass_time();
        };
        let Some(Some(mut task)) = self.state().tasks.get_mut(&number).map(Option::take) else {
            return true;
        };
        let waker = Waker::from(Arc::new(TaskWaker {
            world: Arc::downgrade(&self.state),
            number,
        }));
        let done = task
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let mut state = self.state();
        if done {
            state.tasks.remove(&number);
        } else if let Some(place) = state.tasks.get_mut(&number) {
            *place = Some(task);
            return true;
        }
        drop(state);
        true
    }

    fn pass_time(&self) -> bool {
        let mut state = self.state();
        let Some(((at, _), waker)) = state.timers.pop_first() else {
            return false;
        };
        state.now = state.now.max(at);
        drop(state);
        waker.wake();
        true
    }
}

struct TaskWaker {
    world: std::sync::Weak<Mutex<State>>,
    number: u64,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(world) = self.world.upgrade() {
            let mut state = world
                .lock()
                .expect("tests do not panic while holding the world");
            if !state.ready.contains(&self.number) {
                state.ready.push_back(self.number);
            }
        }
    }
}

struct Abort {
    world: World,
    number: u64,
}

impl AbortHandle for Abort {
    fn abort(&self) {
        let task = self.world.state().tasks.remove(&self.number);
        drop(task);
    }
}

impl Tasks for World {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        let mut state = self.state();
        let number = state.next_task;
        state.next_task += 1;
        state.tasks.insert(number, Some(future));
        state.ready.push_back(number);
        drop(state);
        TaskHandle::new(Arc::new(Abort {
            world: self.clone(),
            number,
        }))
    }

    fn blocking(
        &self,
        _name: &'static str,
        job: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move { job() })
    }

    fn halt(&self, reason: HaltReason) {
        self.state().halted = Some(reason);
    }
}

impl Clock for World {
    fn now(&self) -> Instant {
        self.state().now
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let world = self.clone();
        let mut key = None;
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = world.state();
            if state.now >= deadline {
                return Poll::Ready(());
            }
            let number = *key.get_or_insert_with(|| {
                state.next_timer += 1;
                state.next_timer
            });
            state
                .timers
                .insert((deadline, number), context.waker().clone());
            Poll::Pending
        }))
    }
}

impl Seeds for World {
    fn stream(&self, label: &str) -> Random {
        let mut state = self.state();
        state.draws += 1;
        let label = xxhash_rust::xxh3::xxh3_64(label.as_bytes());
        Random::from_seed(self.seed ^ label ^ state.draws)
    }

    fn secret(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream("secret").fill(&mut bytes);
        bytes
    }
}

impl Events for World {
    fn enabled(&self, _level: Level) -> bool {
        true
    }

    fn emit(&self, _level: Level, component: &'static str, message: std::fmt::Arguments<'_>) {
        self.state().events.push(format!("{component}: {message}"));
    }

    fn is_judged(&self) -> bool {
        true
    }

    fn leave(&self, what: Arc<dyn Any + Send + Sync>) {
        self.state().left.push(what);
    }
}

/// This world has no network.
struct NoNetwork;

impl Network for NoNetwork {
    fn listen(
        &self,
        _address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Box<dyn Listener>, NetworkError>> {
        Box::pin(std::future::pending())
    }

    fn connect(
        &self,
        _address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Stream, NetworkError>> {
        Box::pin(std::future::pending())
    }
}
