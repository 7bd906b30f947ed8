//! When a lease has ended: the grantor's wait, on the leader's clock.
//!
//! Invariant: a lease ends at the earliest [`LEASE_WAIT_MS`] after this leader first saw its newest
//! renewal applied, in its own term; seeing late only makes the wait longer. A renewal is known by
//! its log index: a lease that ended and began again unseen between two looks is another one.

use std::collections::BTreeMap;
use std::time::Duration;

use hedgerow_env::Instant;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{LEASE_MS, LEASE_WAIT_MS, ProxySession};

/// The waits of one term.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    term: u64,
    waits: BTreeMap<ProxySession, (u64, Instant)>,
}

impl LeaseWatch {
    /// Takes in the leases as they stand, and answers those that have ended, each with the
    /// renewal at which its wait began.
    pub(super) fn ended(
        &mut self,
        now: Instant,
        term: u64,
        leases: &[(ProxySession, u64)],
    ) -> Vec<(ProxySession, u64)> {
        if term != self.term && !active(Mutant::NewLeaderEndsLeases) {
            *self = Self {
                term,
                waits: BTreeMap::new(),
            };
        }
        self.waits
            .retain(|session, _| leases.iter().any(|(standing, _)| standing == session));
        let wait_ms = if active(Mutant::LeaseEndsTooSoon) {
            LEASE_MS
        } else {
            LEASE_WAIT_MS
        };
        let mut ended = Vec::new();
        for (session, renewed_at) in leases {
            let wait = self.waits.entry(*session).or_insert((*renewed_at, now));
            if wait.0 != *renewed_at {
                *wait = (*renewed_at, now);
            }
            if now.since(wait.1) >= Duration::from_millis(wait_ms) {
                ended.push((*session, *renewed_at));
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::NodeId;

    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_nanoseconds(milliseconds * 1_000_000)
    }

    fn session(node: u64) -> ProxySession {
        ProxySession {
            node: NodeId(node),
            incarnation: 7,
        }
    }

    #[test]
    fn a_lease_ends_five_seconds_after_its_last_renewal_was_seen() {
        let mut watch = LeaseWatch::default();
        let both = |a, b| [(session(1), a), (session(2), b)];
        assert!(watch.ended(at(0), 1, &both(1, 1)).is_empty());
        assert!(watch.ended(at(3000), 1, &both(1, 2)).is_empty());
        assert!(watch.ended(at(4999), 1, &both(1, 2)).is_empty());
        assert_eq!(watch.ended(at(5000), 1, &both(1, 2)), vec![(session(1), 1)]);
        assert!(
            watch.ended(at(7999), 1, &both(2, 2)).is_empty(),
            "renewed after all"
        );
        assert_eq!(watch.ended(at(8000), 1, &both(2, 2)), vec![(session(2), 2)]);
    }

    #[test]
    fn a_new_term_and_a_new_lease_wait_from_their_beginning() {
        let mut watch = LeaseWatch::default();
        watch.ended(at(0), 1, &[(session(1), 1)]);
        assert!(watch.ended(at(9000), 2, &[(session(1), 1)]).is_empty());
        assert_eq!(watch.ended(at(14_000), 2, &[(session(1), 1)]).len(), 1);
        watch.ended(at(15_000), 2, &[]);
        assert!(watch.ended(at(30_000), 2, &[(session(1), 1)]).is_empty());
        // Ended and begun again, and no look in between saw it gone.
        assert!(watch.ended(at(34_999), 2, &[(session(1), 9)]).is_empty());
        assert!(watch.ended(at(39_998), 2, &[(session(1), 9)]).is_empty());
    }
}
