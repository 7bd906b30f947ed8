//! Stories of reads that outlast a lease.
//!
//! A holder that knows where a block's bytes are asks no shard, only members; while they answer, its lease
//! may end, and another proxy may have written the block. In a mix members answer within milliseconds, or
//! not at all. Here the holder loses the root alone, then what it asks of anybody travels for most of a
//! second, and another proxy takes the disk and writes at once. Clocks go as far apart as is promised, so that
//! there is hardly a pause between the two leases.
//!
//! Invariant: a seed that tells no such story has the plan that it would have without.

use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{FaultAction, LinkRules, NodeIndex};

use super::nemesis::{CUT, Draw, Ground};
use super::plan::Move;
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds one tells such a story.
const ONE_TELLS_OF: u64 = 24;
/// The shortest safety phase: two rounds.
const SHORTEST_MS: u64 = 26_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// A round: longer than a lease, the wait for its end, and the longest read.
const ROUND_NS: u64 = 8_500_000_000;
/// What gets lost on the way besides.
const LOSS_PPM: [u32; 3] = [0, 350_000, 500_000];
/// How fast and slow clocks go; the bound is 100,000.
const EXTREME_DRIFT_PPM: i32 = 98_000;

/// Draws such a story for some seeds, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    // Holder, taker, and the one that leads the root.
    if !random.chance(1, ONE_TELLS_OF) || ground.nodes < 3 {
        return None;
    }
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    draw.slow_reads();
    let work = Work {
        // Most of them come to hang in writes; some are to read all the same.
        clients: Some(14),
        // Sessions that are cut would release the disk.
        initiators: Some(0),
        pause: Some(Duration::from_millis(2)),
        // What hangs keeps blocks out of the cache; the next holder is to overwrite the others soon.
        hot_blocks: Some(30 + draw.random.below(30)),
        ..Work::default()
    };
    Some(Story::of(draw, work, Setting::default()))
}

impl Draw<'_> {
    fn slow_reads(&mut self) {
        let mut holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(500, 1_500);
        while at + ROUND_NS < self.end {
            let taker = self.next_holder(holder);
            self.slow_round(at, holder, taker);
            holder = taker;
            at += ROUND_NS + self.milliseconds(1_500, 1_500);
        }
    }

    /// Some node but the holder and the one that leads the root at first.
    fn next_holder(&mut self, holder: NodeIndex) -> NodeIndex {
        loop {
            let taker = self.beside(holder);
            if taker != NodeIndex(0) {
                return taker;
            }
        }
    }

    fn slow_round(&mut self, at: u64, holder: NodeIndex, taker: NodeIndex) {
        let until = at + ROUND_NS;
        let lost = NodeIndex(0);
        self.push(at, FaultAction::Drift(holder, -EXTREME_DRIFT_PPM));
        self.cut(at, until, holder, lost);
        let some_are_silent = self.random.chance(1, 3);
        for other in self.all().into_iter().filter(|other| *other != holder) {
            self.push(at, FaultAction::Drift(other, EXTREME_DRIFT_PPM));
            if other == lost {
                continue;
            }
            let slow = LinkRules {
                // Another member is asked instead, or the same once more.
                loss_ppm: LOSS_PPM[self.random.index(LOSS_PPM.len())],
                delay_ns: self.milliseconds(550, 200),
                jitter_ns: self.milliseconds(1, 40),
                ..LinkRules::default()
            };
            let is_silent = some_are_silent && self.random.chance(1, 2);
            let rules = if is_silent { CUT } else { slow };
            let since = at + self.milliseconds(1_500, 1_200);
            self.link(since, until, holder, other, rules);
        }
        // Whoever reads when the disk moves is not disturbed by that.
        let at_ns = at + self.milliseconds(3_200, 1_200);
        self.moves.push(Move {
            at_ns,
            to: taker,
            former_goes_on_ns: ROUND_NS / 2,
            recovery_ns: Some(0),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn rounds_end_in_time_and_the_disk_never_moves_to_who_leads_the_root() {
        let all = told(0..600, draw);
        let count = all.len();
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(story.faults.iter().all(|fault| fault.at_ns <= end));
            assert!(story.moves.is_sorted_by_key(|one| one.at_ns));
            assert!(story.moves.len() >= 3);
            assert!(story.moves.iter().all(|one| one.to != NodeIndex(0)));
        }
        assert!((10..50).contains(&count), "{count} of 600");
    }
}
