//! Starting, crashing, pausing and watching nodes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use hedgerow_env::{BoxFuture, Env, HaltReason};
use serde::{Deserialize, Serialize};

use super::World;
use super::coverage::FaultKind;
use super::node::{Life, Main, Node, NodeEnv, NodeStatus};
use super::topology::NodeIndex;
use super::trace::EventKind;

/// The shortest time that a node's monotonic clock shows at its start, so that code may subtract
/// from the present.
const CLOCK_MINIMUM_NS: u64 = 24 * 3_600 * 1_000_000_000;

/// What is added to it at most: three hundred days.
const CLOCK_SPREAD_NS: u64 = 300 * 24 * 3_600 * 1_000_000_000;

/// What a crash does beyond stopping the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The machine loses power: what was not synced is kept, lost or torn at random. Otherwise the
    /// operating system lives on and keeps every write that was submitted.
    pub power_loss: bool,
    /// The machine stays dark until the node restarts: peers hear nothing, not even a reset.
    pub dark: bool,
}

impl Crash {
    /// The process dies; its machine lives (`kill -9`).
    pub const KILL: Self = Self {
        power_loss: false,
        dark: false,
    };
    /// The machine loses power and stays dark until the restart.
    pub const POWER: Self = Self {
        power_loss: true,
        dark: true,
    };
    /// The machine is reset: unsynced writes suffer, connections are reset at once.
    pub const RESET: Self = Self {
        power_loss: true,
        dark: false,
    };
}

impl World {
    /// Starts `node` with `main`, which later restarts run too. When `main` returns the process has
    /// ended: everything that it spawned stops.
    ///
    /// # Panics
    /// When the node is up.
    pub fn start(
        &self,
        node: NodeIndex,
        main: impl Fn(Env) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Env {
        self.node(node).lock().main = Some(Arc::new(main));
        self.restart(node)
    }

    /// Starts `node` with a program that waits for ever: the scenario acts through the [`Env`].
    ///
    /// # Panics
    /// When the node is up.
    pub fn start_idle(&self, node: NodeIndex) -> Env {
        self.start(node, |_| Box::pin(std::future::pending()))
    }

    /// Starts a node that is down, as a new incarnation of its last program.
    ///
    /// # Panics
    /// When the node is up or never had a program.
    pub fn restart(&self, node: NodeIndex) -> Env {
        let node = self.node(node);
        self.madsim().restart(node.madsim);
        let spawner = self
            .madsim()
            .get_node(node.madsim)
            .expect("madsim knows its nodes");
        let (env, main, incarnation) = {
            let mut state = node.lock();
            assert!(state.life.is_none(), "{} is up already", node.spec.name);
            let main: Main = state
                .main
                .clone()
                .expect("a node is started before it is restarted");
            state.incarnation += 1;
            node.disk.process_began();
            let life = Arc::new(Life::new(node.index, state.incarnation, spawner));
            state.life = Some(Arc::clone(&life));
            state.ended = None;
            let env = NodeEnv {
                world: self.clone(),
                node: Arc::clone(&node),
                life,
            }
            .into_env();
            state.env = Some(env.clone());
            (env, main, state.incarnation)
        };
        node.powered.store(true, Ordering::Relaxed);
        let dice = self
            .dice("clock")
            .of(u64::from(node.index.0))
            .of(u64::from(incarnation));
        let zero_ns = CLOCK_MINIMUM_NS + dice.below(0, CLOCK_SPREAD_NS);
        node.clock.restart(self.now_ns(), zero_ns);
        self.record(
            EventKind::Start,
            Some(node.index),
            u64::from(incarnation),
            0,
            zero_ns,
        );
        let (world, watched) = (self.clone(), Arc::clone(&node));
        let program = main(env.clone());
        env.spawn("main", async move {
            program.await;
            if let Some(life) = watched
                .life()
                .filter(|life| life.incarnation == incarnation)
            {
                world.end_life(&watched, &life, Crash::KILL, NodeStatus::Exited);
            }
        });
        env
    }

    /// Restarts a node that is down and had a program; false otherwise.
    pub fn restart_if_down(&self, node: NodeIndex) -> bool {
        let ready = {
            let node = self.node(node);
            let state = node.lock();
            state.life.is_none() && state.main.is_some()
        };
        if ready {
            drop(self.restart(node));
        }
        ready
    }

    /// Crashes a node; false when it was down already.
    pub fn crash(&self, node: NodeIndex, crash: Crash) -> bool {
        let node = self.node(node);
        match node.life() {
            Some(life) => self.end_life(&node, &life, crash, NodeStatus::Down),
            None => {
                // The machine of a dead process may still lose power.
                if crash.power_loss {
                    node.disk.power_loss(self);
                }
                node.powered.store(!crash.dark, Ordering::Relaxed);
                false
            }
        }
    }

    /// Ends a life; false when it was over. The order matters: first nothing more may come in or go
    /// out, then the tasks go, then the disk suffers.
    pub(super) fn end_life(
        &self,
        node: &Arc<Node>,
        life: &Arc<Life>,
        crash: Crash,
        status: NodeStatus,
    ) -> bool {
        if !life.end() {
            return false;
        }
        if status == NodeStatus::Down {
            let kind = if crash.power_loss {
                FaultKind::PowerLoss
            } else {
                FaultKind::Kill
            };
            self.struck_life(kind, life);
        }
        node.powered.store(!crash.dark, Ordering::Relaxed);
        self.drop_connections_of(life, !crash.dark);
        self.madsim().kill(node.madsim);
        if crash.power_loss {
            node.disk.power_loss(self);
        }
        node.disk.process_ended();
        let (env, watchers) = {
            let mut state = node.lock();
            state.life = None;
            state.ended = Some(status);
            (state.env.take(), std::mem::take(&mut state.watchers))
        };
        drop((env, life.take_held()));
        let kind = u64::from(crash.power_loss) * 2 + u64::from(crash.dark);
        let incarnation = u64::from(life.incarnation);
        self.record(EventKind::Stop, Some(node.index), incarnation, kind, 0);
        for watcher in watchers {
            watcher.wake();
        }
        true
    }

    /// Pauses a node (SIGSTOP): its tasks and timers stand still, its clock does not, and what
    /// reaches its machine waits there. False when it is down.
    pub fn pause(&self, node: NodeIndex) -> bool {
        self.node(node).life().is_some_and(|life| {
            life.pause();
            self.struck_life(FaultKind::Pause, &life);
            true
        })
    }

    /// Lets a paused node run on. False when it is down.
    pub fn resume(&self, node: NodeIndex) -> bool {
        self.node(node).life().is_some_and(|life| {
            life.resume();
            true
        })
    }

    /// The [`Env`] of the node's present life.
    #[must_use]
    pub fn env(&self, node: NodeIndex) -> Option<Env> {
        self.node(node).lock().env.clone()
    }

    /// What the node is doing.
    #[must_use]
    pub fn status(&self, node: NodeIndex) -> NodeStatus {
        let node = self.node(node);
        let state = node.lock();
        match (&state.life, &state.ended) {
            (Some(life), _) if life.is_paused() => NodeStatus::Paused,
            (Some(_), _) => NodeStatus::Up,
            (None, Some(status)) => status.clone(),
            (None, None) => NodeStatus::Down,
        }
    }

    /// Why the node halted itself, if that is how its last life ended.
    #[must_use]
    pub fn halted(&self, node: NodeIndex) -> Option<HaltReason> {
        match self.status(node) {
            NodeStatus::Halted(reason) => Some(reason),
            _ => None,
        }
    }

    /// What nodes logged as errors since this was asked last.
    #[must_use]
    pub fn take_errors(&self) -> Vec<(NodeIndex, String)> {
        self.trace().take_errors()
    }

    /// What nodes left to the oracles since this was asked last, in that order.
    #[must_use]
    pub fn take_left(&self) -> Vec<super::Left> {
        self.trace().take_left()
    }

    /// The number of the node's present or last incarnation; zero before its first start.
    #[must_use]
    pub fn incarnation(&self, node: NodeIndex) -> u32 {
        self.node(node).lock().incarnation
    }

    /// Waits until the node is down, for whatever reason.
    pub async fn wait_down(&self, node: NodeIndex) -> NodeStatus {
        let watched = self.node(node);
        std::future::poll_fn(|context| {
            let mut state = watched.lock();
            if state.life.is_none() {
                return Poll::Ready(());
            }
            state.watchers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.status(node)
    }

    /// Lets a node's monotonic clock run `drift_ppm` fast (slow when negative), without a step.
    pub fn set_drift(&self, node: NodeIndex, drift_ppm: i32) {
        self.stands(FaultKind::Drift, node, drift_ppm != 0);
        let node = self.node(node);
        node.clock.set_drift(self.now_ns(), drift_ppm);
        if let Some(life) = node.life() {
            self.timers().wake_all_of(&life);
        }
    }

    /// Steps a node's wall clock, which only labels.
    pub fn step_wall(&self, node: NodeIndex, step_ms: i64) {
        self.struck(FaultKind::WallStep, node);
        self.node(node).clock.step_wall(step_ms);
    }
}
