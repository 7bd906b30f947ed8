//! Stories of groups: of what replicas and stores may not forget, of leaders that are deposed without knowing
//! it, of members that come and go, and of answers that operators do not hear.
//!
//! Drawn from a stream of their own for seeds that tell no other story.
//!
//! Invariant: no more than one disk is damaged, of three copies; a seed that tells none of these has the plan that it would
//! have without them.

use std::time::Duration;

use hedgerow_env::{Phase, Random};
use hedgerow_protocol::Policy;

use crate::world::{
    Crash, DiskArea, DiskFaults, FaultAction, LinkRules, NodeIndex, Survival, TimedFault,
};

use super::nemesis::{CUT, Draw, Ground};
use super::operators::{OperatorAction, OperatorDeed};
use super::plan::Move;
use super::shape::Tunables;
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds that tell no other story one tells such a one.
const ONE_TELLS_OF: u64 = 4;
/// The shortest safety phase.
const SHORTEST_MS: u64 = 28_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// Two nodes are left out of what the others agree on.
const FEWEST_NODES: u16 = 5;
/// A story's last round begins this long before the phase ends, at least.
const LAST_ROUND_NS: u64 = 4_000_000_000;
/// The longest pause of clients in a hurry.
const HURRY: Duration = Duration::from_millis(2);
/// A replica that was deposed hears of it within this time, about a heartbeat, once it is heard again.
const LEARNS_MS: u64 = 400;
/// A sync of the disks that are drawn, in nanoseconds.
const SYNC_NS: u64 = 400_000;
/// Bits that rot at once.
const ROTTEN_BITS: usize = 160;
/// Disks that operators make.
const DISKS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// Two nodes whose disks are slow, and to which all is said twice, lose power in the midst of syncs:
    /// one while the other is asked for its vote.
    Forgetful,
    /// The holder and another node are cut off from the majority; another proxy takes the disk, or the
    /// two come back and die while they learn what they missed.
    Deposed,
    /// Operators drain two nodes after the other two, and so on, while what nodes say arrives once more
    /// seconds later: stores leave containers and come back.
    Churn,
    /// Operators ask nodes that are heard and hear nobody.
    DeafDesk,
    /// One node's journal or state rots again and again, and what it is told arrives once more seconds
    /// later, when another replica of the group may run there.
    Rotten,
}

const ALL: [Theme; 5] = [
    Theme::Forgetful,
    Theme::Deposed,
    Theme::Churn,
    Theme::DeafDesk,
    Theme::Rotten,
];

/// Draws such a story for one seed of four, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    if !random.chance(1, ONE_TELLS_OF) || ground.nodes < FEWEST_NODES {
        return None;
    }
    let theme = ALL[random.index(ALL.len())];
    Some(tell(random, ground, theme))
}

fn tell(random: &mut Random, ground: &mut Ground, theme: Theme) -> Story {
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    let (work, setting) = match theme {
        Theme::Forgetful => draw.forget(),
        Theme::Deposed => draw.depose(),
        Theme::Churn => draw.churn(),
        Theme::DeafDesk => draw.ask_the_deaf(),
        Theme::Rotten => draw.rot(),
    };
    Story::of(draw, work, setting)
}

fn small(value: u64) -> u32 {
    u32::try_from(value).expect("small")
}

impl Draw<'_> {
    fn others(&self, nodes: &[NodeIndex]) -> Vec<NodeIndex> {
        let all = self.all().into_iter();
        all.filter(|node| !nodes.contains(node)).collect()
    }

    /// Two nodes.
    fn pair(&mut self) -> [NodeIndex; 2] {
        let one = NodeIndex(u16::try_from(self.random.below(u64::from(self.nodes))).expect("few"));
        [one, self.beside(one)]
    }

    fn forget(&mut self) -> (Work, Setting) {
        let pair = self.pair();
        let slow_factor = [40, 100, 200][self.random.index(3)];
        let twice = LinkRules {
            duplicate_ppm: 300_000 + small(self.random.below(400_000)),
            ..LinkRules::default()
        };
        for node in pair {
            let slow = DiskFaults {
                slow_factor,
                survival: Some(Survival::Nothing),
                ..DiskFaults::default()
            };
            self.push(SETTLED_NS / 2, FaultAction::Disk(node, slow));
            for other in self.others(&[node]) {
                self.link(SETTLED_NS / 2, self.end, other, node, twice);
            }
        }
        let mut at = SETTLED_NS + self.milliseconds(0, 2_000);
        while at + LAST_ROUND_NS < self.end {
            let first = self.random.index(2);
            let between_ns = match self.random.chance(1, 3) {
                true => 0,
                // An election: so long after the leader was heard last somebody asks for votes.
                false => self.milliseconds(900, 1_500),
            };
            for (node, at) in [(pair[first], at), (pair[1 - first], at + between_ns)] {
                let during = self.random.below(SYNC_NS * u64::from(slow_factor));
                let crash = TimedFault {
                    at_ns: during,
                    action: FaultAction::Crash(node, Crash::POWER),
                };
                let sync = Phase::JournalSync.name().to_owned();
                self.push(at, FaultAction::AtPhase(node, sync, vec![crash]));
                let up = at + 1_000_000_000 + self.milliseconds(0, 1_500);
                self.push(up, FaultAction::Restart(node));
            }
            at += 3_500_000_000 + self.milliseconds(0, 2_000);
        }
        let work = Work {
            clients: Some(4),
            pause: Some(HURRY),
            watches_openings: true,
            ..Work::default()
        };
        let setting = Setting {
            replication_factor: Some([1, 3][self.random.index(2)]),
            containers: Some(4),
            tunables: Some(Tunables::of_small_journals()),
            ..Setting::default()
        };
        (work, setting)
    }

    fn rot(&mut self) -> (Work, Setting) {
        let [victim, _] = self.pair();
        let twice = LinkRules {
            duplicate_ppm: 500_000,
            duplicate_ns: self.milliseconds(5_000, 5_000),
            ..LinkRules::default()
        };
        for other in self.others(&[victim]) {
            self.link(SETTLED_NS / 2, self.end, other, victim, twice);
        }
        let mut at = SETTLED_NS + self.milliseconds(0, 2_000);
        while at + LAST_ROUND_NS < self.end {
            // A state that cannot be read is given up for another replica; a log is filled again, if it can.
            let area = [DiskArea::Pages, DiskArea::Pages, DiskArea::Journal][self.random.index(3)];
            for _ in 0..ROTTEN_BITS {
                let choice = self.random.bits();
                self.push(at, FaultAction::RotIn(victim, area, choice));
            }
            // What was written last is followed by something else before the next start reads it.
            let dies = at + self.milliseconds(100, 200);
            let back = dies + self.milliseconds(50, 400);
            self.down(dies, back, victim, Crash::KILL);
            at += self.milliseconds(3_000, 3_000);
        }
        let work = Work {
            pause: Some(HURRY * 5),
            ..Work::default()
        };
        let setting = Setting {
            replication_factor: Some(3),
            tunables: Some(Tunables::of_hasty_leaders()),
            ..Setting::default()
        };
        (work, setting)
    }

    fn depose(&mut self) -> (Work, Setting) {
        let mut holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(500, 2_000);
        loop {
            let mate = self.beside(holder);
            let rest = self.others(&[holder, mate]);
            let is_taken = self.random.chance(1, 2);
            let length_ns = match is_taken {
                // Longer than the lease and the wait for its end.
                true => self.milliseconds(8_500, 1_500),
                false => self.milliseconds(2_200, 1_500),
            };
            let until = at + length_ns;
            if until + LAST_ROUND_NS > self.end {
                break;
            }
            let parts = vec![vec![holder, mate], rest.clone()];
            self.stand(at, until, FaultAction::Partition(parts));
            if is_taken {
                let taker = rest[self.random.index(rest.len())];
                let at_ns = at + self.milliseconds(0, 500);
                self.moves.push(Move {
                    at_ns,
                    to: taker,
                    former_goes_on_ns: length_ns + SETTLED_NS / 2,
                    recovery_ns: Some(0),
                });
                holder = taker;
            } else {
                for node in [holder, mate] {
                    self.die_while_it_learns(at, until, node);
                }
            }
            at = until + self.milliseconds(2_500, 1_500);
        }
        let work = Work {
            clients: Some(6),
            // Sessions that are cut would release the disk.
            initiators: Some(0),
            pause: Some(HURRY * 5),
            ..Work::default()
        };
        let setting = Setting {
            shards: Some(4),
            containers: Some(4),
            replication_factor: Some(3),
            ..Setting::default()
        };
        (work, setting)
    }

    /// The node, whose disk syncs slowly, loses power in one of the syncs by which it cuts off what the
    /// majority does not have, and takes over what that has.
    fn die_while_it_learns(&mut self, at: u64, until: u64, node: NodeIndex) {
        let slow_factor = 100;
        let slow = DiskFaults {
            slow_factor,
            survival: Some(Survival::Nothing),
            ..DiskFaults::default()
        };
        let learns = until + self.milliseconds(0, LEARNS_MS);
        self.stand(at, learns + SETTLED_NS, FaultAction::Disk(node, slow));
        let crash = TimedFault {
            at_ns: self.random.below(SYNC_NS * u64::from(slow_factor)),
            action: FaultAction::Crash(node, Crash::POWER),
        };
        let sync = Phase::JournalSync.name().to_owned();
        self.push(learns, FaultAction::AtPhase(node, sync, vec![crash]));
        let up = learns + self.milliseconds(800, 1_000);
        self.push(up, FaultAction::Restart(node));
    }

    fn churn(&mut self) -> (Work, Setting) {
        let twice = LinkRules {
            duplicate_ppm: 150_000 + small(self.random.below(250_000)),
            duplicate_ns: self.milliseconds(4_000, 5_000),
            delay_ns: self.milliseconds(1, 40),
            ..LinkRules::default()
        };
        for from in self.all() {
            for to in self.others(&[from]) {
                self.link(SETTLED_NS / 2, self.end, from, to, twice);
            }
        }
        // Who comes in has what it lacks at once, or takes seconds to fetch it.
        let slow_factor = [1, 30, 80][self.random.index(3)];
        for node in self.all() {
            let slow = DiskFaults {
                slow_factor,
                ..DiskFaults::default()
            };
            self.push(SETTLED_NS / 2, FaultAction::Disk(node, slow));
        }
        let mut operators = Vec::new();
        let mut at = SETTLED_NS;
        let mut next = self.pair()[0];
        while at + LAST_ROUND_NS < self.end {
            let until = at + self.milliseconds(2_500, 2_500);
            for _ in 0..2 {
                let node = next;
                next = NodeIndex((node.0 + 1) % self.nodes);
                let until_ns = until - self.milliseconds(1, 400);
                operators.push(OperatorAction {
                    at_ns: at,
                    deed: OperatorDeed::Drain { node, until_ns },
                });
                if self.random.chance(1, 3) {
                    let dies = at + self.milliseconds(500, 800);
                    let back = dies + self.milliseconds(50, 300);
                    self.down(dies, back, node, Crash::KILL);
                }
            }
            at = until;
        }
        let work = Work {
            clients: Some(3),
            pause: Some(HURRY * 10),
            // Each is left alone for long: what is told late of a copy still concerns one.
            hot_blocks: Some(60 + self.random.below(60)),
            watches_openings: true,
            ..Work::default()
        };
        // Stores that hear of one change after the other come back to a container before they have heard that
        // they left it.
        let tunables = Tunables {
            feed_page: [2, 16, 1_024][self.random.index(3)],
            ..Tunables::of_hasty_leaders()
        };
        let setting = Setting {
            replication_factor: Some(3),
            containers: Some(4),
            tunables: Some(tunables),
            operators,
            ..Setting::default()
        };
        (work, setting)
    }

    fn ask_the_deaf(&mut self) -> (Work, Setting) {
        let mut operators = Vec::new();
        let mut at = SETTLED_NS + self.milliseconds(0, 1_000);
        let step = (self.end - at - LAST_ROUND_NS) / u64::from(DISKS);
        for disk in 1..=DISKS {
            let deaf = self.pair();
            for node in deaf {
                let until = at + self.milliseconds(1_500, 1_500);
                for other in self.others(&[node]) {
                    self.link(at - 1, until, other, node, CUT);
                }
            }
            let policy = Policy {
                replication_factor: [1, 2, 3][self.random.index(3)],
                ..Policy::default()
            };
            let halves = 3 + small(self.random.below(3));
            let client = self.pair()[0];
            let fewer = 1 + small(self.random.below(2));
            let deeds = [
                OperatorDeed::Create {
                    disk,
                    client,
                    policy,
                    halves,
                },
                OperatorDeed::Resize {
                    disk,
                    halves: fewer,
                },
                OperatorDeed::Resize { disk, halves },
            ];
            let mut at_ns = at;
            for deed in deeds {
                operators.push(OperatorAction { at_ns, deed });
                at_ns += self.milliseconds(2_500, 2_000);
            }
            at += step;
        }
        operators.sort_by_key(|action| action.at_ns);
        let setting = Setting {
            operators,
            ..Setting::default()
        };
        (Work::default(), setting)
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn stories_end_in_time_and_are_survivable() {
        let all = told(0..300, draw);
        assert!((50..100).contains(&all.len()), "{} of 300", all.len());
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            let faults = &story.faults;
            assert!(!faults.is_empty());
            assert!(faults.is_sorted_by_key(|fault| fault.at_ns));
            assert!(faults.iter().all(|fault| fault.at_ns <= end));
            assert!(story.moves.iter().all(|one| one.at_ns < end));
            let operators = &story.setting.operators;
            assert!(operators.is_sorted_by_key(|action| action.at_ns));
            assert!(operators.iter().all(|action| action.at_ns < end));
            let mut plan = super::super::Plan::plain();
            plan.faults = story.faults;
            let script = super::super::Script::from(plan);
            let survival = super::super::survival::Survival::of(&script);
            assert!(survival.damaged().len() <= 1);
        }
    }
}
