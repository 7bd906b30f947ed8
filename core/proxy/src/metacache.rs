//! The metacache of one container under one attachment: block -> blob without a network hop.
//!
//! Invariant (exact, not heuristic): an entry is put in only when no own commit of an overlapping
//! range began, was outstanding or ended while the information travelled. While a commit is
//! outstanding, look-ups of its range miss and fills of it are dropped: its outcome is unknown.
//! Nobody else changes the map while the fence and the lease hold; the driver checks the lease
//! after the look-up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hedgerow_env::StoreId;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{MapTarget, Version};

/// One known range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownExtent {
    /// First 512-byte block within the container.
    pub first_block: u32,
    /// How many blocks.
    pub blocks: u32,
    /// What they refer to.
    pub target: MapTarget,
    /// The version of the client write, where there was one.
    pub version: Option<Version>,
    /// Members that lacked the blob when this was learned.
    pub missing: Option<Arc<[StoreId]>>,
}

impl KnownExtent {
    fn range(&self) -> Range<u32> {
        self.first_block..self.first_block + self.blocks
    }

    /// The part of this extent within `range`, which it overlaps.
    #[must_use]
    pub fn clip(&self, range: &Range<u32>) -> Self {
        let start = self.first_block.max(range.start);
        let end = (self.first_block + self.blocks).min(range.end);
        assert!(start < end, "clipped to a range that it overlaps");
        let skipped = start - self.first_block;
        let target = match self.target {
            MapTarget::Data {
                blob,
                unit,
                unit_offset_blocks,
                digest,
            } => {
                let skipped = u16::try_from(skipped).expect("an extent lies within one unit");
                MapTarget::Data {
                    blob,
                    unit,
                    unit_offset_blocks: unit_offset_blocks + skipped,
                    digest,
                }
            }
            MapTarget::Hole => MapTarget::Hole,
        };
        Self {
            first_block: start,
            blocks: end - start,
            target,
            ..self.clone()
        }
    }
}

/// A fill that travels.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a fill is ended with end_fill or abandoned with drop_fill"]
pub struct FillToken(u64);

/// A commit that is outstanding.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a commit is ended with end_commit"]
pub struct CommitToken(u64);

#[derive(Debug)]
struct Travelling {
    range: Range<u32>,
    poisoned: bool,
}

/// The metacache of one container.
#[derive(Debug)]
pub struct Metacache {
    extents: BTreeMap<u32, KnownExtent>,
    fills: BTreeMap<u64, Travelling>,
    commits: BTreeMap<u64, Travelling>,
    next_token: u64,
    capacity: usize,
    /// Where eviction goes on: it walks round the addresses.
    hand: u32,
}

fn overlap(one: &Range<u32>, other: &Range<u32>) -> bool {
    one.start < other.end && other.start < one.end
}

impl Metacache {
    /// A cache of at most `capacity` extents.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            extents: BTreeMap::new(),
            fills: BTreeMap::new(),
            commits: BTreeMap::new(),
            next_token: 0,
            capacity,
            hand: 0,
        }
    }

    /// All of `range`, clipped to it and in order; none when a part is not known or not settled.
    #[must_use]
    pub fn look_up(&self, range: &Range<u32>) -> Option<Vec<KnownExtent>> {
        let outstanding = self
            .commits
            .values()
            .any(|commit| overlap(&commit.range, range));
        if outstanding && !active(Mutant::CacheAnswersDuringCommit) {
            return None;
        }
        let mut found = Vec::new();
        let mut at = range.start;
        for extent in self.overlapping(range) {
            if extent.first_block > at {
                return None;
            }
            found.push(extent.clip(range));
            at = extent.first_block + extent.blocks;
        }
        (at >= range.end).then_some(found)
    }

    fn overlapping(&self, range: &Range<u32>) -> impl Iterator<Item = &KnownExtent> {
        let before = self.extents.range(..range.start).next_back();
        let first = before.map_or(range.start, |(start, extent)| {
            if start + extent.blocks > range.start {
                *start
            } else {
                range.start
            }
        });
        self.extents
            .range(first..range.end)
            .map(|(_, extent)| extent)
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// A look-up at the shard begins.
    pub fn begin_fill(&mut self, range: Range<u32>) -> FillToken {
        let poisoned = self
            .commits
            .values()
            .any(|commit| overlap(&commit.range, &range));
        let token = self.token();
        self.fills.insert(token, Travelling { range, poisoned });
        FillToken(token)
    }

    /// The look-up came back with all of its range.
    pub fn end_fill(&mut self, token: FillToken, extents: Vec<KnownExtent>) {
        let Some(fill) = self.fills.remove(&token.0) else {
            return;
        };
        if fill.poisoned && !active(Mutant::LateMetacacheFill) {
            return;
        }
        self.insert(&fill.range, extents);
    }

    /// The look-up failed.
    pub fn drop_fill(&mut self, token: FillToken) {
        self.fills.remove(&token.0);
    }

    /// A commit of `range` is about to be proposed.
    pub fn begin_commit(&mut self, range: Range<u32>) -> CommitToken {
        if !active(Mutant::CacheAnswersDuringCommit) {
            self.forget(&range);
        }
        self.poison_fills(&range);
        let mut poisoned = false;
        for other in self.commits.values_mut() {
            if overlap(&other.range, &range) {
                other.poisoned = true;
                poisoned = true;
            }
        }
        let token = self.token();
        self.commits.insert(token, Travelling { range, poisoned });
        CommitToken(token)
    }

    /// The outcome is known: `extents` when it was applied, nothing when it is void.
    pub fn end_commit(&mut self, token: CommitToken, extents: Vec<KnownExtent>) {
        let Some(commit) = self.commits.remove(&token.0) else {
            return;
        };
        self.poison_fills(&commit.range);
        let poisoned = commit.poisoned && !active(Mutant::CommitsFillInAnyOrder);
        if !poisoned && !extents.is_empty() {
            self.insert(&commit.range, extents);
        }
    }

    fn poison_fills(&mut self, range: &Range<u32>) {
        for fill in self.fills.values_mut() {
            fill.poisoned |= overlap(&fill.range, range);
        }
    }

    /// Drops what is known of `range`, keeping what lies outside of it.
    pub fn forget(&mut self, range: &Range<u32>) {
        let hit: Vec<KnownExtent> = self.overlapping(range).cloned().collect();
        for extent in hit {
            self.extents.remove(&extent.first_block);
            let whole = extent.range();
            for rest in [whole.start..range.start, range.end..whole.end] {
                if rest.start < rest.end {
                    let kept = extent.clip(&rest);
                    self.extents.insert(kept.first_block, kept);
                }
            }
        }
        self.evict();
    }

    fn insert(&mut self, range: &Range<u32>, extents: Vec<KnownExtent>) {
        self.forget(range);
        for extent in extents {
            debug_assert!(
                overlap(&extent.range(), range),
                "a fill stays within its range"
            );
            self.extents.insert(extent.first_block, extent);
        }
        self.evict();
    }

    /// Back to the capacity: also what splits an extent makes one more of them.
    fn evict(&mut self) {
        while self.extents.len() > self.capacity {
            let next = self
                .extents
                .range(self.hand..)
                .next()
                .map(|(start, _)| *start);
            match next {
                Some(start) => {
                    self.extents.remove(&start);
                    self.hand = start;
                }
                None => self.hand = 0,
            }
        }
    }

    /// How many extents are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(first_block: u32, blocks: u32) -> KnownExtent {
        KnownExtent {
            first_block,
            blocks,
            target: MapTarget::Hole,
            version: None,
            missing: None,
        }
    }

    #[test]
    fn a_fill_answers_for_its_range_and_parts_of_it() {
        let mut cache = Metacache::new(100);
        let fill = cache.begin_fill(0..64);
        cache.end_fill(fill, vec![hole(0, 32), hole(32, 32)]);
        assert_eq!(
            cache.look_up(&(8..40)),
            Some(vec![hole(8, 24), hole(32, 8)])
        );
        assert_eq!(cache.look_up(&(60..65)), None);
    }

    #[test]
    fn a_fill_that_crossed_a_commit_is_dropped() {
        let mut cache = Metacache::new(100);
        let fill = cache.begin_fill(0..64);
        let commit = cache.begin_commit(8..16);
        cache.end_commit(commit, vec![hole(8, 8)]);
        cache.end_fill(fill, vec![hole(0, 64)]);
        assert_eq!(
            cache.look_up(&(0..8)),
            None,
            "the fill may predate the commit"
        );
        assert_eq!(cache.look_up(&(8..16)), Some(vec![hole(8, 8)]));
    }

    #[test]
    fn while_a_commit_is_outstanding_its_range_misses_and_is_not_filled() {
        let mut cache = Metacache::new(100);
        let fill = cache.begin_fill(0..64);
        cache.end_fill(fill, vec![hole(0, 64)]);
        let commit = cache.begin_commit(8..16);
        assert_eq!(cache.look_up(&(0..16)), None);
        assert!(cache.look_up(&(0..8)).is_some());
        let late = cache.begin_fill(8..16);
        cache.end_fill(late, vec![hole(8, 8)]);
        assert_eq!(cache.look_up(&(8..16)), None);
        cache.end_commit(commit, Vec::new());
        assert_eq!(
            cache.look_up(&(8..16)),
            None,
            "a void commit leaves nothing behind"
        );
    }

    #[test]
    fn commits_that_overlap_in_time_leave_their_order_to_the_shard() {
        let mut cache = Metacache::new(100);
        let first = cache.begin_commit(0..16);
        let second = cache.begin_commit(8..24);
        cache.end_commit(second, vec![hole(8, 16)]);
        cache.end_commit(first, vec![hole(0, 16)]);
        assert_eq!(cache.look_up(&(0..24)), None);
        assert_eq!(cache.look_up(&(8..16)), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = Metacache::new(4);
        for block in 0..100 {
            let fill = cache.begin_fill(block..block + 1);
            cache.end_fill(fill, vec![hole(block, 1)]);
            assert!(cache.len() <= 4);
        }
        let fill = cache.begin_fill(0..400);
        let known = (0..4).map(|at| hole(at * 100, 100)).collect();
        cache.end_fill(fill, known);
        cache.forget(&(50..51));
        assert!(cache.len() <= 4, "an extent that is split counts twice");
    }
}
