//! The lease as its holder counts it: from *before* the request or renewal was sent.
//!
//! Invariant: on clocks within 10 % of true time, [`Lease::holds`] turns false before any grantor
//! that waits `LEASE_WAIT_MS` from applying the same renewal can admit another writer.

use std::time::Duration;

use hedgerow_env::Instant;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::LEASE_MS;

/// A proxy's lease.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    until: Option<Instant>,
}

impl Lease {
    /// A request that was sent at `sent` and answered at `received` has renewed the lease.
    pub fn renewed(&mut self, sent: Instant, received: Instant) {
        let late = active(Mutant::LeaseCountedFromReceipt);
        let from = if late { received } else { sent };
        let until = from + Duration::from_millis(LEASE_MS);
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
    }

    /// The grantor said that it has ended.
    pub fn ended(&mut self) {
        self.until = None;
    }

    /// Whether caches may answer at `now`.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_before_the_request_and_never_shrinks() {
        let at = |ms: u64| Instant::from_nanoseconds(ms * 1_000_000);
        let mut lease = Lease::default();
        assert!(!lease.holds(at(0)));
        lease.renewed(at(100), at(900));
        assert!(lease.holds(at(100 + LEASE_MS - 1)));
        assert!(!lease.holds(at(100 + LEASE_MS)));
        lease.renewed(at(50), at(2_000));
        assert!(
            lease.holds(at(100 + LEASE_MS - 1)),
            "a late answer takes nothing away"
        );
        lease.ended();
        assert!(!lease.holds(at(100)));
    }
}
