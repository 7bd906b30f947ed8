//! A bounded set of sequences, kept as ranges: what a member remembers of collected names.
//!
//! Invariants: ranges are sorted, disjoint and never touch; a sequence is contained only if it was
//! inserted. At most [`MAXIMUM_RANGES`] are kept: beyond that the lowest, which are the oldest, are
//! forgotten. Forgetting is safe, because the shard is the authority: a forgotten name that turns
//! up again is found by reconciliation.
//! Does not: know what the sequences stand for.

use hedgerow_env::Sequence;
use serde::{Deserialize, Serialize};

/// Most ranges kept for one writer and container. Late copies of a collected name arrive within
/// seconds, and a few hundred ranges cover what is collected in that time; the record stays small
/// enough to be written with each batch.
pub const MAXIMUM_RANGES: usize = 128;

/// A bounded set of sequences.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SequenceRanges {
    /// First and last sequence of each range, both included.
    ranges: Vec<(u64, u64)>,
}

impl SequenceRanges {
    /// Whether `sequence` was inserted and is still remembered.
    #[must_use]
    pub fn contains(&self, sequence: Sequence) -> bool {
        let after = self
            .ranges
            .partition_point(|(first, _)| *first <= sequence.0);
        after > 0 && self.ranges[after - 1].1 >= sequence.0
    }

    /// Inserts `sequence`; true when the set changed.
    pub fn insert(&mut self, sequence: Sequence) -> bool {
        let value = sequence.0;
        let after = self.ranges.partition_point(|(first, _)| *first <= value);
        if after > 0 && self.ranges[after - 1].1 >= value {
            return false;
        }
        let joins_before = after > 0 && self.ranges[after - 1].1.checked_add(1) == Some(value);
        let joins_after =
            after < self.ranges.len() && value.checked_add(1) == Some(self.ranges[after].0);
        match (joins_before, joins_after) {
            (true, true) => {
                self.ranges[after - 1].1 = self.ranges[after].1;
                self.ranges.remove(after);
            }
            (true, false) => self.ranges[after - 1].1 = value,
            (false, true) => self.ranges[after].0 = value,
            (false, false) => self.ranges.insert(after, (value, value)),
        }
        if self.ranges.len() > MAXIMUM_RANGES {
            self.ranges.remove(0);
        }
        debug_assert!(
            self.ranges.windows(2).all(|pair| pair[0]
                .1
                .checked_add(1)
                .is_some_and(|next| next < pair[1].0)),
            "ranges are sorted and do not touch"
        );
        true
    }

    /// How many ranges are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hedgerow_env::Random;

    use super::*;

    #[test]
    fn neighbours_join_into_one_range() {
        let mut set = SequenceRanges::default();
        for value in [5, 7, 6, 4, 10] {
            assert!(set.insert(Sequence(value)), "{value} is new");
        }
        assert!(!set.insert(Sequence(5)), "5 is there already");
        assert_eq!(set.ranges, vec![(4, 7), (10, 10)]);
    }

    #[test]
    fn the_largest_sequence_does_not_overflow() {
        let mut set = SequenceRanges::default();
        set.insert(Sequence(u64::MAX));
        set.insert(Sequence(u64::MAX - 1));
        assert_eq!(set.ranges, vec![(u64::MAX - 1, u64::MAX)]);
    }

    #[test]
    fn beyond_the_bound_the_oldest_are_forgotten_and_nothing_is_invented() {
        let mut random = Random::from_seed(7);
        let (mut set, mut model) = (SequenceRanges::default(), BTreeSet::new());
        for _ in 0..2_000 {
            let value = random.below(5_000);
            set.insert(Sequence(value));
            model.insert(value);
            assert!(set.len() <= MAXIMUM_RANGES);
        }
        let lowest = set.ranges[0].0;
        for value in 0..5_000 {
            let contained = set.contains(Sequence(value));
            assert!(!contained || model.contains(&value), "{value} was never in");
            if value >= lowest && model.contains(&value) && set.len() < MAXIMUM_RANGES {
                assert!(contained, "{value} was forgotten without need");
            }
        }
    }
}
