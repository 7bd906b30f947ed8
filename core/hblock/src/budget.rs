//! A rate: how long background work waits after the bytes that it moved.
//!
//! Invariant: over any span the bytes spent exceed the rate by at most one spending.
//! Does not: wait.

use std::time::Duration;

use hedgerow_env::Instant;

/// A rate of background work.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    bytes_per_second: u64,
    free_at: Instant,
}

impl Budget {
    /// At most `bytes_per_second`; zero is taken as one.
    #[must_use]
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: now,
        }
    }

    /// Spends `bytes`; the next spending may begin at the answered instant.
    pub fn spend(&mut self, now: Instant, bytes: u64) -> Instant {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.free_at = self.free_at.max(now) + cost;
        self.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spending_is_spaced_by_the_rate_and_idle_time_is_not_saved_up() {
        let at = |ms: u64| Instant::from_nanoseconds(ms * 1_000_000);
        let mut budget = Budget::new(1000, at(0));
        assert_eq!(budget.spend(at(0), 100), at(100));
        assert_eq!(
            budget.spend(at(10), 100),
            at(200),
            "queued behind the first"
        );
        assert_eq!(
            budget.spend(at(9_000), 100),
            at(9_100),
            "no credit from idling"
        );
    }
}
