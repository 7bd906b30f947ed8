//! Sequences of one writer in one container, and the low-water mark.
//!
//! Invariant: the mark is the lowest sequence that is neither applied nor void; it never falls.

use std::collections::BTreeSet;

use hedgerow_env::Sequence;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::MAXIMUM_MARKS;

/// Hands out sequences and knows which are unsettled.
#[derive(Debug)]
pub struct Sequences {
    next: u64,
    unsettled: BTreeSet<u64>,
}

impl Default for Sequences {
    fn default() -> Self {
        Self {
            next: 1,
            unsettled: BTreeSet::new(),
        }
    }
}

impl Sequences {
    /// The next sequence; none while the shard could not remember one more above the mark.
    pub fn begin(&mut self) -> Option<Sequence> {
        let span = self.next - self.low_water().0;
        if span >= MAXIMUM_MARKS as u64 / 2 {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.unsettled.insert(sequence);
        Some(Sequence(sequence))
    }

    /// The shard told that `sequence` is applied or void.
    ///
    /// # Panics
    /// When it was not outstanding.
    pub fn settle(&mut self, sequence: Sequence) {
        assert!(
            self.unsettled.remove(&sequence.0),
            "{sequence} settles once"
        );
    }

    /// The lowest sequence that is neither applied nor void.
    #[must_use]
    pub fn low_water(&self) -> Sequence {
        if active(Mutant::LowWaterPassesUnsettled) {
            return Sequence(self.unsettled.last().copied().unwrap_or(self.next));
        }
        Sequence(self.unsettled.first().copied().unwrap_or(self.next))
    }

    /// Whether nothing is outstanding.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.unsettled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_waits_for_the_lowest_unsettled_sequence() {
        let mut sequences = Sequences::default();
        assert_eq!(sequences.low_water(), Sequence(1));
        let first = sequences.begin().unwrap();
        let second = sequences.begin().unwrap();
        sequences.settle(second);
        assert_eq!(sequences.low_water(), first);
        sequences.settle(first);
        assert_eq!(sequences.low_water(), Sequence(3));
        assert!(sequences.is_idle());
    }

    #[test]
    fn a_stuck_sequence_bounds_those_above_it() {
        let mut sequences = Sequences::default();
        let stuck = sequences.begin().unwrap();
        while let Some(sequence) = sequences.begin() {
            sequences.settle(sequence);
        }
        assert_eq!(sequences.low_water(), stuck);
        sequences.settle(stuck);
        assert!(sequences.begin().is_some());
    }
}
