//! Stories of one disk that is damaged or lost, and of what its node must know by itself.
//!
//! Where a mix rots bits, many rot, also the last ones that were written, of which nothing tells. Here one bit
//! rots at a time, of something that a journal has written much behind: so the next start has to know of every
//! loss, to the last vote ([`promises`](crate::oracles::promises)). Or many bits rot, and all of them in pages that
//! metadata replicas have written back, so that some of it is read. And a founder that has lost its disk cannot
//! reach the others: it may not found once more.
//!
//! Drawn from a stream of its own.
//! Invariant: one node is struck, and its disk alone; a seed that tells none of these has the plan that it
//! would have without them.

use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{Crash, DiskArea, FaultAction, NodeIndex};

use super::nemesis::{Draw, Ground};
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds one tells such a story.
const ONE_TELLS_OF: u64 = 16;
/// The shortest safety phase.
const SHORTEST_MS: u64 = 22_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// The others can do without one.
const FEWEST_NODES: u16 = 4;
/// Bits that rot at a time in the state of Pages, most of which is not read soon.
const SMUDGES: usize = 32;
/// A round of bits that rot, at most.
const ROUND_NS: u64 = 6_200_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// A node is cut off. Before it asks for votes, or when it is back and all have voted and gone on, a bit
    /// rots in its journal, and it starts.
    Spotted,
    /// Bits rot in what a node's replicas of Pages have written back, and it starts.
    Smudged,
    /// The first of the seeds comes back with an empty disk and is cut off from all.
    Refounded,
}

const ALL: [Theme; 3] = [Theme::Spotted, Theme::Smudged, Theme::Refounded];

/// Draws such a story for one seed of sixteen, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    if !random.chance(1, ONE_TELLS_OF) || ground.nodes < FEWEST_NODES {
        return None;
    }
    let theme = ALL[random.index(ALL.len())];
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    let mut work = Work::default();
    match theme {
        Theme::Spotted => {
            draw.spot();
            // Few writes: a vote is not long behind when it rots.
            work.clients = Some(1);
            work.initiators = Some(0);
            work.pause = Some(Duration::from_millis(80 + draw.random.below(120)));
            work.hot_blocks = Some(48 + draw.random.below(40));
        }
        Theme::Smudged => {
            draw.smudge();
            work.initiators = Some(0);
        }
        Theme::Refounded => draw.found_again(),
    }
    let setting = Setting {
        replication_factor: Some(3),
        ..Setting::default()
    };
    Some(Story::of(draw, work, setting))
}

impl Draw<'_> {
    fn cut_off(&mut self, at: u64, until: u64, node: NodeIndex) {
        let others = self.all().into_iter().filter(|other| *other != node);
        let parts = vec![vec![node], others.collect()];
        self.stand(at, until, FaultAction::Partition(parts));
    }

    fn spot(&mut self) {
        let holder = self.settle();
        let victim = self.beside(holder);
        let mut at = SETTLED_NS + self.milliseconds(0, 1_000);
        while at + ROUND_NS < self.end {
            let back = at + self.milliseconds(900, 1_500);
            self.cut_off(at, back, victim);
            let dies = match self.random.chance(1, 2) {
                // Time for an election, and for what is written behind it.
                true => back + self.milliseconds(900, 1_500),
                // Time for nothing but the mark of a journal that is at rest.
                false => at + self.milliseconds(450, 400),
            };
            let choice = self.random.bits();
            self.push(dies, FaultAction::RotSettled(victim, choice));
            let starts = dies + self.milliseconds(20, 200);
            self.down(dies + 1, starts, victim, Crash::KILL);
            at = starts.max(back) + self.milliseconds(500, 700);
        }
    }

    fn smudge(&mut self) {
        let holder = self.settle();
        let victim = self.beside(holder);
        let mut at = SETTLED_NS + self.milliseconds(0, 1_000);
        while at + ROUND_NS < self.end {
            self.push(at, FaultAction::Crash(victim, Crash::KILL));
            for _ in 0..SMUDGES {
                let choice = self.random.bits();
                self.push(
                    at + 1,
                    FaultAction::RotIn(victim, DiskArea::PageState, choice),
                );
            }
            let starts = at + self.milliseconds(20, 200);
            self.push(starts, FaultAction::Restart(victim));
            at = starts + self.milliseconds(2_000, 2_000);
        }
    }

    fn found_again(&mut self) {
        let founder = NodeIndex(0);
        let at = SETTLED_NS + self.milliseconds(0, 6_000);
        self.push(at, FaultAction::Crash(founder, Crash::KILL));
        self.push(at + 1, FaultAction::WipeDisk(founder));
        let starts = at + self.milliseconds(50, 1_000);
        self.push(starts, FaultAction::Restart(founder));
        let until = starts + self.milliseconds(1_500, 4_000);
        self.cut_off(at, until, founder);
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn one_node_is_struck_and_knows_what_settled_in_its_journal() {
        let all = told(0..600, draw);
        let count = all.len();
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(story.faults.iter().all(|fault| fault.at_ns <= end));
            let rots = |fault: &&crate::world::TimedFault| {
                matches!(fault.action, FaultAction::RotSettled(..))
            };
            let rotten = story.faults.iter().filter(rots).count();
            let mut plan = super::super::Plan::plain();
            plan.faults = story.faults;
            let script = super::super::Script::from(plan);
            let survival = super::super::survival::Survival::of(&script);
            assert_eq!(survival.damaged().len(), 1);
            assert_eq!(survival.forgetful().is_empty(), rotten > 0);
        }
        assert!((15..60).contains(&count), "{count} of 600");
    }
}
