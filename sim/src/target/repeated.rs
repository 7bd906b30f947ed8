//! Faults that do something again and again while they are on, and clean stops, which take a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hedgerow_env::{AbortOnDrop, Env};
use hedgerow_jepsen::run::{Struck, TargetError, node_name};

use crate::scenario::on_node;
use crate::world::{Crash, NodeIndex, World};

use super::cluster::SimCluster;

/// A clean stop that takes longer is a hang; the limit of the target `processes`.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const STOP_POLL: Duration = Duration::from_millis(50);
/// How often links that break connections may do so.
const BREAK_PERIOD: Duration = Duration::from_millis(250);
/// Pieces that pass a busy link in that time: the rate of breaks counts in pieces.
const PIECES_A_PERIOD: u64 = 25;

/// Breaks connections of `links` at the rate of `reset_ppm` until what it returns is dropped.
pub(super) fn breaks(
    world: &World,
    env: &Env,
    links: &[(NodeIndex, NodeIndex)],
    reset_ppm: u32,
) -> Option<AbortOnDrop> {
    if reset_ppm == 0 {
        return None;
    }
    let mut random = world.random("connections that break");
    let chance_ppm = (u64::from(reset_ppm) * PIECES_A_PERIOD).min(1_000_000);
    let (world, inner, links) = (world.clone(), env.clone(), links.to_vec());
    let task = env.spawn("breaks", async move {
        loop {
            inner.sleep(BREAK_PERIOD).await;
            for (from, to) in &links {
                if random.chance(chance_ppm, 1_000_000) {
                    world.break_connections(*from, *to);
                }
            }
        }
    });
    Some(task.abort_on_drop())
}

/// A clock that is wrong now.
pub(super) struct WrongClock {
    changes: Arc<AtomicU64>,
    /// Whether it is wrong at this moment, and by what.
    off: Arc<AtomicBool>,
    wall_offset_ms: i64,
    _strobing: Option<AbortOnDrop>,
}

impl SimCluster {
    /// Puts a clock wrong; on and off in turns of `strobe_ms`, if that is not zero.
    pub(super) fn begin_clock(
        &self,
        node: u16,
        wall_offset_ms: i64,
        rate_ppm: i32,
        strobe_ms: u64,
    ) {
        let index = NodeIndex(node);
        let changes = Arc::new(AtomicU64::new(0));
        let off = Arc::new(AtomicBool::new(false));
        let turn = {
            let (world, changes, off) = (self.world.clone(), changes.clone(), off.clone());
            move || {
                let was_off = off.fetch_xor(true, Ordering::Relaxed);
                let (step_ms, drift_ppm) = if was_off {
                    (-wall_offset_ms, 0)
                } else {
                    (wall_offset_ms, rate_ppm)
                };
                world.set_drift(index, drift_ppm);
                world.step_wall(index, step_ms);
                // A clock that nobody looks at shows nothing.
                let seen = u64::from(world.env(index).is_some());
                changes.fetch_add(seen, Ordering::Relaxed);
            }
        };
        turn();
        let strobing = (strobe_ms > 0).then(|| {
            let inner = self.env().clone();
            let task = self.env().spawn("strobe", async move {
                loop {
                    inner.sleep(Duration::from_millis(strobe_ms)).await;
                    turn();
                }
            });
            task.abort_on_drop()
        });
        let clock = WrongClock {
            changes,
            off,
            wall_offset_ms,
            _strobing: strobing,
        };
        let mut clocks = self.clocks.lock().expect("no panic under this lock");
        clocks.insert(node, clock);
    }

    /// Puts a clock right again.
    pub(super) fn end_clock(&self, node: u16) -> Struck {
        let mut clocks = self.clocks.lock().expect("no panic under this lock");
        let Some(clock) = clocks.remove(&node) else {
            return Struck::No("it never began".to_owned());
        };
        let index = NodeIndex(node);
        if clock.off.load(Ordering::Relaxed) {
            self.world.set_drift(index, 0);
            self.world.step_wall(index, -clock.wall_offset_ms);
        }
        let changes = clock.changes.load(Ordering::Relaxed);
        let text = format!("its clock was changed {changes} times");
        if changes > 0 {
            Struck::Yes(text)
        } else {
            Struck::No(text)
        }
    }

    /// Tells a node to stop in order; its process ends when it has.
    pub(super) fn begin_stop(&self, node: u16) -> Result<(), TargetError> {
        let index = NodeIndex(node);
        if self.world.env(index).is_none() {
            return Err(TargetError(format!("{} does not run", node_name(node))));
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let mut stops = self.stops.lock().expect("no panic under this lock");
        stops.insert(node, Arc::clone(&stopped));
        drop(stops);
        // One that has just begun dies of the signal; nothing was promised yet.
        let Some(running) = self.cluster.node(index) else {
            self.world.crash(index, Crash::KILL);
            stopped.store(true, Ordering::Relaxed);
            return Ok(());
        };
        let world = self.world.clone();
        let incarnation = world.incarnation(index);
        let inner = running.clone();
        self.env().spawn("stop", async move {
            let done = on_node(&world, &running, async move { inner.shutdown().await }).await;
            if done.is_some() && world.incarnation(index) == incarnation {
                world.crash(index, Crash::KILL);
                stopped.store(true, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    /// Waits until a node that was told to stop has done so; kills it when it hangs.
    pub(super) async fn end_stop(&self, node: u16) -> Struck {
        let stopped = {
            let mut stops = self.stops.lock().expect("no panic under this lock");
            stops.remove(&node)
        };
        let Some(stopped) = stopped else {
            return Struck::No("it never began".to_owned());
        };
        let index = NodeIndex(node);
        let give_up = self.env().now() + STOP_LIMIT;
        while !stopped.load(Ordering::Relaxed) && self.env().now() < give_up {
            self.env().sleep(STOP_POLL).await;
        }
        let in_time = stopped.load(Ordering::Relaxed);
        if !in_time {
            self.world.crash(index, Crash::KILL);
        }
        self.world.restart_if_down(index);
        if in_time {
            Struck::Yes("stopped in order, started again".to_owned())
        } else {
            let seconds = STOP_LIMIT.as_secs();
            Struck::No(format!("it did not stop within {seconds} s"))
        }
    }
}
