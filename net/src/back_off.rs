//! When to try an unreachable peer again: exponential pauses with jitter.
//!
//! Invariants: a pause is never longer than the limit and never shorter than half of what the
//! exponent says; every end of a connection is followed by a pause, and one that lived shorter than
//! the limit without a single answer counts as a failure: a peer that accepts and hangs up is not
//! called in a tight loop.
//! Does not: wait or draw randomness.

use std::time::Duration;

use hedgerow_env::Instant;

/// The pauses for one peer.
#[derive(Debug)]
pub(crate) struct BackOff {
    first: Duration,
    limit: Duration,
    failures: u32,
    until: Instant,
}

impl BackOff {
    /// Nothing failed yet.
    #[must_use]
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failures: 0,
            until: Instant::default(),
        }
    }

    /// An attempt failed at `now`; `jitter` is 64 uniform bits.
    pub(crate) fn failed(&mut self, now: Instant, jitter: u64) {
        // 16 doublings exceed every sensible limit; the shift must not.
        let whole = self
            .first
            .saturating_mul(1 << self.failures.min(16))
            .min(self.limit);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        let half_ns = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        let part = (u128::from(jitter) * u128::from(half_ns)) >> 64;
        let part = u64::try_from(part).expect("less than half_ns");
        self.until = now + half + Duration::from_nanos(part);
    }

    /// A connection that began at `began` ended at `now`; `useful` when it brought an answer.
    pub(crate) fn ended(&mut self, began: Instant, now: Instant, useful: bool, jitter: u64) {
        if useful || now.since(began) >= self.limit {
            self.failures = 0;
        }
        self.failed(now, jitter);
    }

    /// The instant until which the peer is left alone, if that is after `now`.
    #[must_use]
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        (self.until > now).then_some(self.until)
    }
}
