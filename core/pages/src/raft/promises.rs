//! What a replica has promised: the vote and the log that openraft was told are durable, beside what
//! its log held when it started.
//!
//! Openraft answers others as soon as it is told so. A later life of the same member that remembers
//! less has broken its word, whether or not anybody comes to harm: a judge who keeps the promises of one
//! life and sees the beginning of the next one knows at once ([`Promises::broken_by`]).
//!
//! Invariants: a promise is noted before openraft is told of what it is about; what is about to be cut
//! off the log is promised no more.
//! Does not: decide anything, or outlive the process.

use std::sync::{Mutex, MutexGuard};

use hedgerow_protocol::MemberId;

use super::log_core::LogCore;
use super::types::{LogId, Vote, term_of};

/// Term and index of an entry.
type Place = (u64, u64);

fn place(log_id: &LogId) -> Place {
    (term_of(log_id), log_id.index)
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Standing {
    /// The term of the vote, and for whom it was.
    vote: Option<(u64, MemberId)>,
    /// The last entry.
    last: Option<Place>,
    /// The entry that was the last one when the log was cut, unless another took its place since.
    cut: Option<Place>,
    /// How often the log was cut.
    cuts: u64,
}

/// The promises of one life of a replica. Whoever holds them may ask when that life is over.
#[derive(Debug)]
pub struct Promises {
    found: Standing,
    given: Mutex<Standing>,
}

fn vote_of(vote: &Vote) -> (u64, MemberId) {
    (vote.leader_id.term, vote.leader_id.voted_for)
}

impl Promises {
    pub(crate) fn of(core: &LogCore) -> Self {
        let found = Standing {
            vote: core.vote().as_ref().map(vote_of),
            last: core.last().as_ref().map(place),
            ..Standing::default()
        };
        Self {
            given: Mutex::new(found.clone()),
            found,
        }
    }

    fn given(&self) -> MutexGuard<'_, Standing> {
        self.given.lock().expect("no panic under this lock")
    }

    /// The vote is about to be called durable.
    pub(crate) fn vote(&self, vote: &Vote) {
        self.given().vote = Some(vote_of(vote));
    }

    /// The entry was appended. Answers what [`Promises::entry`] needs to know.
    pub(crate) fn appended(&self, entry: &LogId) -> u64 {
        let mut given = self.given();
        given.cut = given.cut.filter(|(_, index)| *index > entry.index);
        given.cuts
    }

    /// All up to an entry that was appended after `cuts` cuts is about to be called durable.
    pub(crate) fn entry(&self, entry: &LogId, cuts: u64) {
        let mut given = self.given();
        if given.cuts == cuts {
            given.last = given.last.max(Some(place(entry)));
        }
    }

    /// The entries after `last` are about to be cut.
    pub(crate) fn cut_begins(&self, last: Option<LogId>) {
        let mut given = self.given();
        given.cuts += 1;
        given.last = given.last.min(last.as_ref().map(place));
    }

    /// What followed is about to be called gone for good; `end` was the last entry.
    pub(crate) fn cut_ends(&self, end: Option<LogId>) {
        self.given().cut = end.as_ref().map(place);
    }

    /// How a `later` life of the same member began without what this one had promised. Of a store that
    /// `may_lose` the very last that it wrote no more is asked than that it lost nothing else.
    #[must_use]
    pub fn broken_by(&self, later: &Self, may_lose: bool) -> Option<String> {
        let given = self.given();
        let found = &later.found;
        if may_lose && found.last < given.last {
            return None;
        }
        let is_kept = match (given.vote, found.vote) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((term, _)), Some((found_term, _))) if term != found_term => found_term > term,
            (given, found) => given == found,
        };
        if !is_kept {
            return Some(format!("voted {:?}, has {:?}", given.vote, found.vote));
        }
        if found.last < given.last {
            let (promised, has) = (given.last, found.last);
            return Some(format!("had entries up to {promised:?}, has {has:?}"));
        }
        if given.cut.is_some() && found.last == given.cut {
            return Some(format!("{:?} was cut off and is back", given.cut));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedgerow_env::{ReplicaNumber, StoreId};

    fn member(store: u64) -> MemberId {
        MemberId {
            store: StoreId(store),
            replica: ReplicaNumber(1),
        }
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(term.into(), index)
    }

    /// A life that begins with this vote and last entry.
    fn life(vote: Option<(u64, u64)>, last: Option<(u64, u64)>) -> Promises {
        let found = Standing {
            vote: vote.map(|(term, store)| (term, member(store))),
            last,
            ..Standing::default()
        };
        Promises {
            given: Mutex::new(found.clone()),
            found,
        }
    }

    #[test]
    fn a_vote_is_kept_by_itself_or_a_later_term() {
        let life_of = |vote| life(vote, None);
        let before = life_of(Some((5, 1)));
        for kept in [(5, 1), (6, 1), (6, 2)] {
            assert_eq!(
                before.broken_by(&life_of(Some(kept)), false),
                None,
                "{kept:?}"
            );
        }
        for broken in [None, Some((4, 1)), Some((5, 2))] {
            assert!(
                before.broken_by(&life_of(broken), false).is_some(),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn entries_are_kept_unless_they_were_cut_off() {
        let life_of = |last| life(None, Some(last));
        let before = life_of((2, 7));
        before.entry(&log_id(2, 9), before.appended(&log_id(2, 9)));
        assert!(before.broken_by(&life_of((2, 8)), false).is_some());
        assert_eq!(before.broken_by(&life_of((3, 8)), false), None);
        before.cut_begins(Some(log_id(2, 5)));
        assert_eq!(
            before.broken_by(&life_of((2, 9)), false),
            None,
            "it may have begun"
        );
        assert_eq!(before.broken_by(&life_of((2, 5)), false), None, "and ended");
        before.cut_ends(Some(log_id(2, 9)));
        assert!(before.broken_by(&life_of((2, 9)), false).is_some());
        before.appended(&log_id(3, 6));
        assert!(
            before.broken_by(&life_of((2, 9)), false).is_some(),
            "behind (3, 6)"
        );
        before.appended(&log_id(3, 9));
        assert_eq!(before.broken_by(&life_of((3, 9)), false), None);
    }

    #[test]
    fn what_becomes_durable_when_it_was_cut_off_is_no_promise() {
        let before = life(None, Some((1, 3)));
        let cuts = before.appended(&log_id(1, 4));
        before.cut_begins(Some(log_id(1, 2)));
        before.entry(&log_id(1, 4), cuts);
        assert_eq!(before.broken_by(&life(None, Some((1, 2))), false), None);
    }
}
