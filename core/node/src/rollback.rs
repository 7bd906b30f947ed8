//! Whether a store was rolled back: the judgement of a store over itself (DESIGN section 6).
//!
//! Invariants: pure; a store whose own history holds everything that a peer knows of it is never
//! condemned. Does not: mark or halt anything (`peers` does).

use std::collections::BTreeMap;
use std::fmt;

use hedgerow_net::StoreStamp;

/// What a store knows of its own starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History<'a> {
    /// The present start's count.
    pub(crate) session: u64,
    /// The journal position at which it began.
    pub(crate) began_at: u64,
    /// The nonces of the newest starts, the present one included.
    pub(crate) starts: &'a BTreeMap<u64, u64>,
}

/// What proves that a peer met a later state of the store than the one that started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It met a start that has not come yet.
    LaterStart,
    /// It met another start of a count that this history used, too: both grew from one image.
    OtherStart,
    /// It saw records reported durable that were gone when this start began.
    LostRecords,
}

/// What a peer's knowledge of the store proves against it, if anything.
pub(crate) fn judge(own: History<'_>, known: &StoreStamp) -> Option<Proof> {
    if known.start_count > own.session {
        return Some(Proof::LaterStart);
    }
    let nonce = own.starts.get(&known.start_count);
    if nonce.is_some_and(|nonce| *nonce != known.start_nonce) {
        return Some(Proof::OtherStart);
    }
    // What is reported durable in this start may lie anywhere; what was in an earlier one must
    // have been found again.
    let earlier = known.start_count < own.session;
    (earlier && known.reported_durable > own.began_at).then_some(Proof::LostRecords)
}

impl fmt::Display for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::LaterStart => "a later start was seen",
            Self::OtherStart => "another start of the same count was seen",
            Self::LostRecords => "records that were reported durable are gone",
        })
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::StoreId;

    use super::*;

    /// Start 5 of a store began at position 1000; starts 3 to 5 are remembered.
    fn judged(start_count: u64, start_nonce: u64, reported_durable: u64) -> Option<Proof> {
        let starts = BTreeMap::from([(3, 33), (4, 44), (5, 55)]);
        let own = History {
            session: 5,
            began_at: 1000,
            starts: &starts,
        };
        let known = StoreStamp {
            store: StoreId(1),
            start_count,
            start_nonce,
            reported_durable,
        };
        judge(own, &known)
    }

    #[test]
    fn a_store_that_has_everything_that_was_seen_goes_on() {
        for (count, nonce, position) in [
            (5, 55, 0),
            (5, 55, 1000),
            // Written in this start, before the connection broke.
            (5, 55, 9000),
            (4, 44, 1000),
            (3, 33, 700),
            // Longer ago than nonces are kept.
            (1, 11, 1000),
            (0, 0, 0),
        ] {
            let verdict = judged(count, nonce, position);
            assert_eq!(verdict, None, "start {count} {nonce} position {position}");
        }
    }

    #[test]
    fn an_image_of_any_age_is_noticed() {
        for (count, nonce, position, proof) in [
            // Two starts old or older: the peer met a start that is still to come.
            (6, 66, 1000, Proof::LaterStart),
            (9, 99, 0, Proof::LaterStart),
            // One start old: the counts are equal, and so may the positions be.
            (5, 50, 1000, Proof::OtherStart),
            (5, 50, 0, Proof::OtherStart),
            // It started again before it met the peer that knows.
            (4, 40, 900, Proof::OtherStart),
            // Of the same start, taken while it ran or after it.
            (4, 44, 1001, Proof::LostRecords),
            (1, 11, 1001, Proof::LostRecords),
        ] {
            let verdict = judged(count, nonce, position);
            assert_eq!(
                verdict,
                Some(proof),
                "start {count} {nonce} position {position}"
            );
        }
    }
}
