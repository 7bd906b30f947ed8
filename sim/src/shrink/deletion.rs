//! Deleting from a list: ever smaller pieces, from the whole list down to single members, each
//! tried in turn.
//!
//! Invariants: every range offered lies within what is left; once it ends, each member that is left
//! was tried alone since something was last deleted behind it, or in front of it in a longer piece.

use std::ops::Range;

/// Where the deletion stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    length: usize,
    piece: usize,
    least: usize,
    at: usize,
}

impl Deletion {
    /// A deletion from a list of so many members. It begins with the last ones: what happens late
    /// is needed least often.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self::coarse(length, 1)
    }

    /// A deletion that tries no piece shorter than `least`.
    #[must_use]
    pub fn coarse(length: usize, least: usize) -> Self {
        let mut deletion = Self {
            length,
            piece: length,
            least: least.max(1),
            at: length,
        };
        deletion.end_if_fine();
        deletion
    }

    fn end_if_fine(&mut self) {
        if self.piece < self.least {
            self.piece = 0;
        }
    }

    fn finer(&mut self) {
        self.piece /= 2;
        self.at = self.length;
        self.end_if_fine();
    }

    /// The next ranges to try, at most `most`, none when the deletion is over. They are
    /// alternatives: after [`Deletion::deleted`] they have to be asked for anew.
    #[must_use]
    pub fn ranges(&self, most: usize) -> Vec<Range<usize>> {
        let mut ahead = self.clone();
        let mut ranges = Vec::new();
        while ranges.len() < most {
            let Some(range) = ahead.range() else { break };
            ahead.kept(1);
            ranges.push(range);
        }
        ranges
    }

    fn range(&self) -> Option<Range<usize>> {
        (self.piece > 0).then(|| self.at.saturating_sub(self.piece)..self.at)
    }

    /// The first `count` of the ranges offered are needed.
    pub fn kept(&mut self, count: usize) {
        for _ in 0..count {
            self.at = self.at.saturating_sub(self.piece);
            if self.at == 0 {
                self.finer();
            }
        }
    }

    /// The first range offered is gone.
    pub fn deleted(&mut self) {
        let range = self.range().expect("a range that was offered");
        self.length -= range.len();
        self.at = range.start;
        self.piece = self.piece.min(self.length);
        if self.at == 0 {
            self.finer();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deletes from 0..length whatever is not needed; the tests that it took.
    fn minimise(length: usize, needed: &[usize]) -> (Vec<usize>, usize) {
        let mut list: Vec<usize> = (0..length).collect();
        let mut deletion = Deletion::new(length);
        let mut tests = 0;
        while let Some(range) = deletion.ranges(1).pop() {
            tests += 1;
            if list[range.clone()].iter().any(|one| needed.contains(one)) {
                deletion.kept(1);
            } else {
                list.drain(range);
                deletion.deleted();
            }
        }
        (list, tests)
    }

    #[test]
    fn exactly_what_is_needed_stays() {
        for needed in [&[][..], &[0], &[999], &[500], &[3, 4, 700], &[0, 999]] {
            let (left, tests) = minimise(1_000, needed);
            assert_eq!(left, needed);
            assert!(tests < 70, "{needed:?} took {tests} tests");
        }
        assert_eq!(minimise(0, &[]), (vec![], 0));
        assert_eq!(minimise(1, &[0]), (vec![0], 1));
    }

    #[test]
    fn a_coarse_deletion_ends_early() {
        let mut deletion = Deletion::coarse(16, 8);
        assert_eq!(deletion.ranges(9), [0..16, 8..16, 0..8]);
        deletion.kept(3);
        assert_eq!(deletion.ranges(9), []);
    }

    #[test]
    fn several_ranges_are_offered_at_once() {
        let mut deletion = Deletion::new(8);
        assert_eq!(deletion.ranges(4), [0..8, 4..8, 0..4, 6..8]);
        deletion.kept(2);
        assert_eq!(deletion.ranges(2), [0..4, 6..8]);
        deletion.deleted();
        assert_eq!(deletion.ranges(2), [2..4, 0..2]);
    }
}
