//! A node of the world and its lives: one [`Life`] from each start to the next crash.
//!
//! Invariants: once a life is over nothing of it acts: its disk calls write nothing, its messages are
//! not sent, its tasks are only dropped. A node has at most one life that is not over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use hedgerow_env::{BoxFuture, Env, EnvParts, HaltReason};

use super::World;
use super::clock::NodeClock;
use super::coverage::{Phases, Standing};
use super::disk::NodeDisk;
use super::seeds::CallCounts;
use super::topology::{NodeIndex, NodeSpec};

/// The program of a node, run anew at each start.
pub(super) type Main = Arc<dyn Fn(Env) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeStatus {
    /// Never started, crashed or stopped.
    Down,
    /// Running.
    Up,
    /// Running but paused: nothing of it moves.
    Paused,
    /// Its program came to its end.
    Exited,
    /// It stopped itself.
    Halted(HaltReason),
}

/// What outlives a crash: the machine.
pub(super) struct Node {
    pub(super) index: NodeIndex,
    pub(super) spec: NodeSpec,
    pub(super) madsim: madsim::task::NodeId,
    pub(super) clock: NodeClock,
    pub(super) disk: NodeDisk,
    /// A machine without power answers nothing, not even with a reset.
    pub(super) powered: AtomicBool,
    pub(super) standing: Standing,
    pub(super) state: Mutex<NodeState>,
}

#[derive(Default)]
pub(super) struct NodeState {
    pub(super) incarnation: u32,
    pub(super) main: Option<Main>,
    pub(super) life: Option<Arc<Life>>,
    pub(super) env: Option<Env>,
    /// Why the last life ended, if by itself.
    pub(super) ended: Option<NodeStatus>,
    /// Those who wait for the node to go down.
    pub(super) watchers: Vec<Waker>,
}

impl Node {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, NodeState> {
        self.state
            .lock()
            .expect("no panic while a node's state is held")
    }

    /// The present life, if the node is up.
    pub(super) fn life(&self) -> Option<Arc<Life>> {
        self.lock().life.clone()
    }

    pub(super) fn is_powered(&self) -> bool {
        self.powered.load(Ordering::Relaxed)
    }
}

/// One run of a node's program.
pub(super) struct Life {
    pub(super) node: NodeIndex,
    pub(super) incarnation: u32,
    over: AtomicBool,
    paused: AtomicBool,
    /// Wakers that rang while the node was paused.
    held: Mutex<Vec<Waker>>,
    pub(super) call_counts: CallCounts,
    pub(super) phases: Phases,
    /// Time that blocking disk calls took and that is not slept off yet.
    charged_ns: AtomicU64,
    /// The number of connections that this life opened, which names the next one.
    pub(super) connects: AtomicU64,
    pub(super) spawner: madsim::runtime::NodeHandle,
}

impl Life {
    pub(super) fn new(
        node: NodeIndex,
        incarnation: u32,
        spawner: madsim::runtime::NodeHandle,
    ) -> Self {
        Self {
            node,
            incarnation,
            over: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            held: Mutex::new(Vec::new()),
            call_counts: CallCounts::default(),
            phases: Phases::default(),
            charged_ns: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            spawner,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends this life; false when it was over before.
    pub(super) fn end(&self) -> bool {
        !self.over.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Resumes, and rings every waker that rang meanwhile, in its order.
    pub(super) fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        for waker in self.take_held() {
            waker.wake();
        }
    }

    /// Takes the wakers that were held back; their tasks are woken or dropped by the caller.
    pub(super) fn take_held(&self) -> Vec<Waker> {
        std::mem::take(&mut *self.held.lock().expect("no panic while wakers are held"))
    }

    /// Holds `waker` back if the node is paused.
    pub(super) fn hold_if_paused(&self, waker: &Waker) -> bool {
        let paused = self.is_paused();
        if paused {
            let mut held = self.held.lock().expect("no panic while wakers are held");
            if !held.iter().any(|present| present.will_wake(waker)) {
                held.push(waker.clone());
            }
        }
        paused
    }

    /// Notes time that a blocking call took.
    pub(super) fn charge(&self, duration_ns: u64) {
        self.charged_ns.fetch_add(duration_ns, Ordering::Relaxed);
    }

    pub(super) fn take_charge(&self) -> u64 {
        self.charged_ns.swap(0, Ordering::Relaxed)
    }
}

/// All seams of one life of one node; each is implemented in the file of its subject.
#[derive(Clone)]
pub(super) struct NodeEnv {
    pub(super) world: World,
    pub(super) node: Arc<Node>,
    pub(super) life: Arc<Life>,
}

impl NodeEnv {
    pub(super) fn into_env(self) -> Env {
        let shared = Arc::new(self);
        Env::new(EnvParts {
            clock: shared.clone(),
            tasks: shared.clone(),
            seeds: shared.clone(),
            network: shared.clone(),
            disk: shared.clone(),
            events: shared,
        })
    }
}
