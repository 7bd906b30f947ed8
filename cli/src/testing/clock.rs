//! A clock whose wall time is off and whose monotonic time runs at another rate.
//!
//! Invariant: monotonic time never steps, whatever the rate is changed to, as `Env` promises.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{BoxFuture, Clock, Instant, WallTime};

use crate::jepsen::orders::Report;

/// A sleeper looks at the clock again after this: the rate may have changed meanwhile.
const LONGEST_NAP: Duration = Duration::from_millis(100);
const MILLION: u128 = 1_000_000;

/// The clock.
pub(crate) struct TestClock {
    real: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    /// Where the present rate began, on the real clock and on this one.
    real_from: Instant,
    from: Instant,
    rate_ppm: i32,
    wall_offset_ms: i64,
    changes: u64,
}

impl State {
    fn at(&self, real: Instant) -> Instant {
        let passed = real.since(self.real_from).as_nanos();
        let factor = MILLION.saturating_add_signed(i128::from(self.rate_ppm));
        let passed = u64::try_from(passed * factor / MILLION).unwrap_or(u64::MAX);
        self.from + Duration::from_nanos(passed)
    }
}

impl TestClock {
    /// A clock that agrees with `real`.
    pub(crate) fn new(real: Arc<dyn Clock>) -> Self {
        let now = real.now();
        let state = State {
            real_from: now,
            from: now,
            rate_ppm: 0,
            wall_offset_ms: 0,
            changes: 0,
        };
        Self {
            real,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> State {
        *self.state.lock().expect("no panic under this lock")
    }

    /// Changes rate and offset, if they are others.
    pub(crate) fn set(&self, rate_ppm: i32, wall_offset_ms: i64) {
        // A stopped or reversed clock is beyond what any clock does.
        let rate_ppm = rate_ppm.clamp(-900_000, 900_000);
        let mut state = self.state.lock().expect("no panic under this lock");
        if (state.rate_ppm, state.wall_offset_ms) == (rate_ppm, wall_offset_ms) {
            return;
        }
        let real = self.real.now();
        *state = State {
            real_from: real,
            from: state.at(real),
            rate_ppm,
            wall_offset_ms,
            changes: state.changes + 1,
        };
    }

    /// What a report says of it.
    pub(super) fn report(&self) -> Report {
        Report {
            wall_ms: self.wall().0,
            now_ns: self.now().as_nanoseconds(),
            clock_changes: self.state().changes,
            ..Report::default()
        }
    }
}

/// The same clock as a seam.
pub(crate) struct SharedClock(pub(crate) Arc<TestClock>);

impl TestClock {
    fn now(&self) -> Instant {
        // Under the lock: a change between the two readings would step time backwards.
        let state = self.state.lock().expect("no panic under this lock");
        state.at(self.real.now())
    }

    fn wall(&self) -> WallTime {
        let offset = self.state().wall_offset_ms;
        WallTime(self.real.wall().0.saturating_add_signed(offset))
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall(&self) -> WallTime {
        self.0.wall()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let clock = Arc::clone(&self.0);
        Box::pin(async move {
            loop {
                let left = deadline.since(clock.now());
                if left.is_zero() {
                    return;
                }
                let rate = f64::from(clock.state().rate_ppm) / 1e6;
                let nap = left.div_f64(1.0 + rate).min(LONGEST_NAP);
                let until = clock.real.now() + nap;
                clock.real.sleep_until(until).await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Instant {
            Instant::from_nanoseconds(self.0.load(Ordering::SeqCst))
        }

        fn wall(&self) -> WallTime {
            WallTime(1_000_000)
        }

        fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
            self.0
                .fetch_max(deadline.as_nanoseconds(), Ordering::SeqCst);
            Box::pin(async {})
        }
    }

    #[tokio::test]
    async fn the_rate_changes_without_a_step_and_sleepers_follow_it() {
        let hand = Arc::new(Hand(AtomicU64::new(1_000)));
        let clock = Arc::new(TestClock::new(Arc::clone(&hand) as Arc<dyn Clock>));
        assert_eq!(clock.now().as_nanoseconds(), 1_000);
        clock.set(100_000, -5);
        assert_eq!(clock.now().as_nanoseconds(), 1_000);
        assert_eq!(clock.wall(), WallTime(999_995));
        hand.0.store(2_000, Ordering::SeqCst);
        assert_eq!(clock.now().as_nanoseconds(), 2_100);
        clock.set(0, 0);
        hand.0.store(3_000, Ordering::SeqCst);
        assert_eq!(clock.now().as_nanoseconds(), 3_100);

        clock.set(100_000, 0);
        let from = clock.now();
        let shared = SharedClock(Arc::clone(&clock));
        shared.sleep_until(from + Duration::from_secs(11)).await;
        let real = hand.now().as_nanoseconds() - 3_000;
        assert!((9_999_999_000..10_000_100_000).contains(&real), "{real}");
        assert_eq!(clock.report().clock_changes, 3);
    }
}
