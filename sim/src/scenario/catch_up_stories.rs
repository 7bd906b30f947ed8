//! Stories of stores that were away and catch up.
//!
//! In a mix a store that comes back has what it lacks within a fraction of a second. Here it cannot: it
//! reaches the shards and not the members that have the blobs, or all that it asks for takes long and the
//! power fails meanwhile. Blocks are many and writes few, so that what a store lacks for good is still wanted
//! in the end; and stores are compared with their shards all the time
//! ([`openings`](crate::oracles::openings)).
//!
//! Invariants: one node is struck at a time, never the one that holds the disk; no disk loses what it has
//! synced; a seed that tells no such story has the plan that it would have without.

use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{Crash, DiskFaults, FaultAction, LinkRules, NodeIndex};

use super::nemesis::{CUT, Draw, Ground};
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds one tells such a story.
const ONE_TELLS_OF: u64 = 24;
/// The shortest safety phase.
const SHORTEST_MS: u64 = 20_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// A round, at most.
const ROUND_NS: u64 = 5_000_000_000;
/// How many times slower than usual the disk of a store is that catches up.
const SLOW_FACTOR: u32 = 40;

/// Draws such a story for some seeds, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    if !random.chance(1, ONE_TELLS_OF) {
        return None;
    }
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    draw.catch_up();
    let work = Work {
        clients: Some(3),
        initiators: Some(0),
        pause: Some(Duration::from_millis(30)),
        hot_blocks: Some(250 + draw.random.below(150)),
        watches_openings: true,
        ..Work::default()
    };
    Some(Story::of(draw, work, Setting::default()))
}

impl Draw<'_> {
    fn catch_up(&mut self) {
        let holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(500, 1_500);
        while at + ROUND_NS < self.end {
            let victim = self.beside(holder);
            let back = at + self.milliseconds(600, 1_200);
            let others = self.all().into_iter().filter(|other| *other != victim);
            let others: Vec<NodeIndex> = others.collect();
            for other in &others {
                self.cut(at, back, victim, *other);
            }
            at = match self.random.chance(1, 2) {
                true => self.without_sources(back, victim, others),
                false => self.slowly(back, victim, &others),
            };
            at += self.milliseconds(300, 900);
        }
    }

    /// It reaches one or two of the others.
    fn without_sources(&mut self, at: u64, victim: NodeIndex, mut others: Vec<NodeIndex>) -> u64 {
        let until = at + self.milliseconds(1_500, 1_500);
        for _ in 0..=self.random.below(2) {
            if others.len() > 1 {
                others.swap_remove(self.random.index(others.len()));
            }
        }
        for other in others {
            self.link(at, until, victim, other, CUT);
            self.link(at, until, other, victim, CUT);
        }
        until
    }

    /// All that it asks for takes long, and the power fails before it has it.
    fn slowly(&mut self, at: u64, victim: NodeIndex, others: &[NodeIndex]) -> u64 {
        let dark = at + self.milliseconds(700, 1_800);
        let until = dark + self.milliseconds(50, 300);
        let slow = LinkRules {
            delay_ns: self.milliseconds(50, 250),
            ..LinkRules::default()
        };
        for other in others {
            self.link(at, dark, *other, victim, slow);
        }
        let slow = DiskFaults {
            slow_factor: SLOW_FACTOR,
            ..DiskFaults::default()
        };
        self.stand(at, dark, FaultAction::Disk(victim, slow));
        self.down(dark, until, victim, Crash::POWER);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn rounds_end_in_time_and_strike_nobody_who_holds_the_disk() {
        let all = told(0..600, draw);
        let count = all.len();
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(story.faults.iter().all(|fault| fault.at_ns <= end));
            let holder = story.moves[0].to;
            for fault in &story.faults {
                assert!(!matches!(fault.action, FaultAction::Crash(node, _) if node == holder));
            }
        }
        assert!((10..50).contains(&count), "{count} of 600");
    }
}
