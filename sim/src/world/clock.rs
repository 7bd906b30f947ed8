//! Each node's own clock: monotonic, with an offset of its own and a rate within 10 % of true time;
//! and a wall clock that may step.
//!
//! Invariants: a node's monotonic clock never steps and never runs backwards, also when its rate
//! changes; a sleep never ends before its deadline on the node's own clock.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use hedgerow_env::{BoxFuture, Clock, Instant, WallTime};

use super::node::NodeEnv;
use super::timers::{Action, TimerKey};

/// The bound on drift that the system is told of: 10 %, in parts per million.
pub const RATE_BOUND_PPM: i32 = 100_000;

/// The wall time at which a world begins: 2026-01-01, in milliseconds since the Unix epoch.
const WALL_BASE_MS: i64 = 1_767_225_600_000;

/// What a right clock shows when the world is `true_ns` old.
#[must_use]
pub fn wall_time(true_ns: u64) -> WallTime {
    let base_ms = u64::try_from(WALL_BASE_MS).expect("after 1970");
    WallTime(base_ms + true_ns / 1_000_000)
}

/// A million, for rates.
const MILLION: u128 = 1_000_000;

/// A node's clock: a line through (true, local) with a slope, and the wall clock's offset.
#[derive(Debug)]
pub(super) struct NodeClock(Mutex<Line>);

#[derive(Debug, Clone, Copy)]
struct Line {
    true_base_ns: u64,
    local_base_ns: u64,
    /// Local nanoseconds in a million true ones.
    rate: u64,
    /// Counts changes of the rate, so that a sleep notices.
    changes: u64,
    wall_offset_ms: i64,
}

impl Line {
    fn local(&self, true_ns: u64) -> u64 {
        let passed = u128::from(true_ns.saturating_sub(self.true_base_ns));
        let local = passed * u128::from(self.rate) / MILLION;
        self.local_base_ns
            .saturating_add(u64::try_from(local).unwrap_or(u64::MAX))
    }

    /// The first true time at which the local clock shows `local_ns` or more.
    fn truth(&self, local_ns: u64) -> u64 {
        let wanted = u128::from(local_ns.saturating_sub(self.local_base_ns)) * MILLION;
        let passed = wanted.div_ceil(u128::from(self.rate));
        self.true_base_ns
            .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

impl NodeClock {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Line {
            true_base_ns: 0,
            local_base_ns: 0,
            rate: 1_000_000,
            changes: 0,
            wall_offset_ms: 0,
        }))
    }

    fn line(&self) -> Line {
        *self.0.lock().expect("no panic while a clock is held")
    }

    /// The local time at true time `true_ns`.
    pub(super) fn local(&self, true_ns: u64) -> u64 {
        self.line().local(true_ns)
    }

    /// A new incarnation's clock begins at another zero.
    pub(super) fn restart(&self, true_ns: u64, local_ns: u64) {
        let mut line = self.0.lock().expect("no panic while a clock is held");
        line.true_base_ns = true_ns;
        line.local_base_ns = local_ns;
        line.changes += 1;
    }

    /// From `true_ns` on the clock runs `drift_ppm` fast (or slow, when negative), without a step.
    pub(super) fn set_drift(&self, true_ns: u64, drift_ppm: i32) {
        let mut line = self.0.lock().expect("no panic while a clock is held");
        line.local_base_ns = line.local(true_ns);
        line.true_base_ns = true_ns;
        let rate = 1_000_000 + i64::from(drift_ppm);
        line.rate = u64::try_from(rate.max(1)).expect("at least one");
        line.changes += 1;
    }

    /// Steps the wall clock.
    pub(super) fn step_wall(&self, step_ms: i64) {
        let mut line = self.0.lock().expect("no panic while a clock is held");
        line.wall_offset_ms = line.wall_offset_ms.saturating_add(step_ms);
    }

    fn wall(&self, true_ns: u64) -> WallTime {
        let passed_ms = i64::try_from(true_ns / 1_000_000).unwrap_or(i64::MAX);
        let wall_ms = WALL_BASE_MS
            .saturating_add(self.line().wall_offset_ms)
            .saturating_add(passed_ms);
        WallTime(u64::try_from(wall_ms).unwrap_or(0))
    }
}

impl Clock for NodeEnv {
    fn now(&self) -> Instant {
        Instant::from_nanoseconds(self.node.clock.local(self.world.now_ns()))
    }

    fn wall(&self) -> WallTime {
        self.node.clock.wall(self.world.now_ns())
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(LocalSleep {
            env: self.clone(),
            deadline,
            armed: None,
        })
    }
}

/// Waits for a node's own clock. Armed once, however often it is polled; disarmed when dropped.
struct LocalSleep {
    env: NodeEnv,
    deadline: Instant,
    armed: Option<Armed>,
}

struct Armed {
    key: TimerKey,
    waker: Waker,
    changes: u64,
}

impl Future for LocalSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let line = self.env.node.clock.line();
        let world = self.env.world.clone();
        if line.local(world.now_ns()) >= self.deadline.as_nanoseconds() {
            return Poll::Ready(());
        }
        if let Some(armed) = &mut self.armed
            && armed.changes == line.changes
        {
            if armed.waker.will_wake(context.waker()) {
                return Poll::Pending;
            }
            if world.timers().rewake(armed.key, context.waker()) {
                armed.waker.clone_from(context.waker());
                return Poll::Pending;
            }
        }
        self.disarm();
        let at_ns = line.truth(self.deadline.as_nanoseconds());
        let waker = context.waker().clone();
        let life = Some(Arc::clone(&self.env.life));
        let key = world.insert_timer(at_ns, Action::Wake(waker.clone(), life));
        self.armed = Some(Armed {
            key,
            waker,
            changes: line.changes,
        });
        Poll::Pending
    }
}

impl LocalSleep {
    fn disarm(&mut self) {
        if let Some(armed) = self.armed.take() {
            self.env.world.timers().cancel(armed.key);
        }
    }
}

impl Drop for LocalSleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_rate_is_not_a_step() {
        let clock = NodeClock::new();
        clock.restart(1_000, 500_000);
        clock.set_drift(2_000, RATE_BOUND_PPM);
        assert_eq!(clock.local(2_000), 501_000);
        assert_eq!(clock.local(12_000), 512_000, "10 % fast");
        clock.set_drift(12_000, -RATE_BOUND_PPM);
        assert_eq!(clock.local(12_000), 512_000);
        assert_eq!(clock.local(22_000), 521_000, "10 % slow");
    }

    #[test]
    fn a_deadline_is_never_reached_early() {
        for rate in [900_000, 933_333, 1_000_000, 1_000_001, 1_100_000] {
            let line = Line {
                true_base_ns: 77,
                local_base_ns: 1_234,
                rate,
                changes: 0,
                wall_offset_ms: 0,
            };
            for local_ns in [1_234, 1_235, 9_999, 1_000_000_007] {
                let true_ns = line.truth(local_ns);
                assert!(
                    line.local(true_ns) >= local_ns,
                    "rate {rate}, local {local_ns}"
                );
                assert!(true_ns <= 77 || line.local(true_ns - 1) < local_ns);
            }
        }
    }
}
