//! What a shard remembers of one writer's sequences in one container.
//!
//! Invariants: every sequence ends at most once, as applied or as void; L only rises; nothing below
//! L is kept; at most [`MAXIMUM_MARKS`] sequences are kept above it.

use std::collections::BTreeMap;

use hedgerow_env::Sequence;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{AttemptEnd, MAXIMUM_MARKS};

use crate::StateError;
use crate::fields::{Put, Take};

/// L, and how the sequences above it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Marks {
    /// The lowest sequence that is neither applied nor void, as its writer said.
    low_water: u64,
    /// First sequence of a run -> (one past its last, how all of it ended). Runs do not touch
    /// another of the same end.
    runs: BTreeMap<u64, (u64, AttemptEnd)>,
    /// Sequences in all runs.
    count: u64,
}

impl Marks {
    /// The low-water mark L.
    pub(super) fn low_water(&self) -> Sequence {
        Sequence(self.low_water)
    }

    /// Whether `sequence` lies below L: its outcome is no longer kept.
    pub(super) fn is_below(&self, sequence: Sequence) -> bool {
        sequence.0 < self.low_water
    }

    /// How `sequence`, at or above L, ended.
    pub(super) fn end_of(&self, sequence: Sequence) -> Option<AttemptEnd> {
        let (_, (end, how)) = self.runs.range(..=sequence.0).next_back()?;
        (sequence.0 < *end).then_some(*how)
    }

    /// Whether `more` further sequences can be kept once L stands at `low_water`.
    pub(super) fn has_room(&self, low_water: Sequence, more: usize) -> bool {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        let limit = u64::try_from(MAXIMUM_MARKS).unwrap_or(u64::MAX);
        if self.count.saturating_add(more) <= limit {
            return true;
        }
        let mut raised = self.clone();
        raised.raise(low_water);
        raised.count.saturating_add(more) <= limit
    }

    /// Records how `sequence` ended.
    pub(super) fn record(&mut self, sequence: Sequence, how: AttemptEnd) {
        let at = sequence.0;
        assert!(self.end_of(sequence).is_none(), "a sequence ends once");
        if at < self.low_water {
            return;
        }
        self.count += 1;
        let mut first = at;
        let mut end = at + 1;
        if let Some((&before, &(before_end, before_how))) = self.runs.range(..at).next_back()
            && before_end == at
            && before_how == how
        {
            first = before;
        }
        if let Some(&(after_end, after_how)) = self.runs.get(&end)
            && after_how == how
        {
            self.runs.remove(&end);
            end = after_end;
        }
        self.runs.insert(first, (end, how));
    }

    /// Raises L and forgets what lies below it; a lower L changes nothing.
    pub(super) fn raise(&mut self, low_water: Sequence) {
        let low = low_water.0;
        if low <= self.low_water || active(Mutant::LowWaterForgotten) {
            return;
        }
        self.low_water = low;
        while let Some(entry) = self.runs.first_entry() {
            let first = *entry.key();
            if first >= low {
                break;
            }
            let (end, how) = entry.remove();
            self.count -= end.min(low) - first;
            if end > low {
                self.runs.insert(low, (end, how));
            }
        }
    }

    /// The row's bytes: L, then each run as first, length, end.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut put = Put::value().u64(self.low_water);
        for (first, (end, how)) in &self.runs {
            let tag = match how {
                AttemptEnd::Applied => 0,
                AttemptEnd::Void => 1,
            };
            put = put.u64(*first).u64(end - first).u8(tag);
        }
        put.done()
    }

    /// Reads a row.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut take = Take::new(bytes, "marks");
        let mut marks = Self {
            low_water: take.u64()?,
            ..Self::default()
        };
        while !take.clone().rest().is_empty() {
            let first = take.u64()?;
            let length = take.u64()?;
            let how = match take.u8()? {
                0 => AttemptEnd::Applied,
                1 => AttemptEnd::Void,
                _ => return Err(take.damaged("names no end")),
            };
            let end = first
                .checked_add(length)
                .ok_or_else(|| take.damaged("ends past the last sequence"))?;
            marks.runs.insert(first, (end, how));
            marks.count += length;
        }
        Ok(marks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_split_at_l_and_survive_their_encoding() {
        let mut marks = Marks::default();
        for sequence in [1, 3, 2, 7, 5] {
            marks.record(Sequence(sequence), AttemptEnd::Applied);
        }
        marks.record(Sequence(4), AttemptEnd::Void);
        assert_eq!(marks.runs.len(), 4, "1..=3, 4 void, 5, 7");
        assert_eq!(marks.count, 6);
        marks.raise(Sequence(3));
        assert_eq!(marks.count, 4);
        assert!(marks.is_below(Sequence(2)));
        assert_eq!(marks.end_of(Sequence(3)), Some(AttemptEnd::Applied));
        assert_eq!(marks.end_of(Sequence(4)), Some(AttemptEnd::Void));
        assert_eq!(marks.end_of(Sequence(6)), None);
        marks.raise(Sequence(2));
        assert_eq!(marks.low_water(), Sequence(3), "L never falls");
        assert_eq!(Marks::decode(&marks.encode()), Ok(marks));
    }

    #[test]
    fn room_ends_at_the_limit_and_returns_with_l() {
        let mut marks = Marks::default();
        for sequence in 0..u64::try_from(MAXIMUM_MARKS).expect("small") {
            marks.record(Sequence(2 * sequence + 1), AttemptEnd::Applied);
        }
        assert!(!marks.has_room(Sequence(0), 1));
        assert!(marks.has_room(Sequence(2), 1));
    }
}
