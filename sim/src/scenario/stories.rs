//! Stories: seeds that tell one thing over and over, with nothing else to disturb it.
//!
//! A mix of faults seldom leaves a schedule of several steps the time that it takes: some other
//! fault heals what was cut, or stops whom it is about. Each story is such a schedule, known to break
//! a promise of its own if the code that keeps it were wrong; its times, places and repetitions are
//! drawn.
//!
//! Invariants: a story is within the fault model, as any other plan; a seed that tells none has the
//! plan that it would have without stories.

use std::num::NonZeroU64;
use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{Crash, DiskFaults, FaultAction, LinkRules, NodeIndex, Survival, TimedFault};

use super::nemesis::{Draw, Ground, Kind};
use super::operators::OperatorAction;
use super::plan::{Move, Plan};
use super::shape::Tunables;

/// The shortest safety phase of a story: two ambushes and the moves before them.
const SHORTEST_MS: u64 = 24_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 10_000;
/// The disk comes to its first holder within this time after its move.
pub(super) const SETTLED_NS: u64 = 2_000_000_000;
/// Between blackouts: a proxy that starts anew waits for the end of its own former lease before
/// anybody can write.
const BLACKOUT_GAP_NS: u64 = 7_500_000_000;
/// Machines come back so long after a blackout, at most.
const BLACKOUT_MAXIMUM_MS: u64 = 2_000;
/// The longest pause of clients in a hurry.
const HURRY: Duration = Duration::from_millis(2);
/// Clients in a hurry fill a small journal within this time.
const JOURNAL_ROUND_NS: u64 = 8_000_000_000;
/// Links that say things twice are drawn anew after this time.
const SAID_TWICE_NS: u64 = 6_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// A holder that lost the root goes on writing while the next one reads.
    HandOver,
    /// A holder whose renewals were answered late goes on answering from what it believes.
    LateRenewal,
    /// The power fails everywhere, or almost.
    Blackout,
    /// The holder is cut off for moments that are too short to lose the disk and long enough for
    /// others to be named in the place of members that it does not reach.
    ShutIn,
    /// What the holder says arrives once more, long after it was answered.
    SaidTwice,
}

const ALL: [Theme; 5] = [
    Theme::HandOver,
    Theme::LateRenewal,
    Theme::Blackout,
    Theme::ShutIn,
    Theme::SaidTwice,
];

/// What a story makes of a plan.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) moves: Vec<Move>,
    pub(super) faults: Vec<TimedFault>,
    /// How the clients' work differs from what the plan had.
    pub(super) work: Work,
    /// Where it takes place.
    pub(super) setting: Setting,
}

/// How the cluster, its disk and its operators differ from what the plan had.
#[derive(Debug, Default)]
pub(super) struct Setting {
    pub(super) shards: Option<u32>,
    pub(super) replication_factor: Option<u8>,
    pub(super) containers: Option<u32>,
    pub(super) tunables: Option<Tunables>,
    pub(super) operators: Vec<OperatorAction>,
}

impl Setting {
    fn tell(self, plan: &mut Plan) {
        plan.shards = self.shards.unwrap_or(plan.shards);
        plan.containers = self.containers.unwrap_or(plan.containers);
        plan.tunables = self.tunables.or(plan.tunables);
        plan.operators = self.operators;
        if let Some(factor) = self.replication_factor {
            plan.policy.replication_factor = factor;
            // A node that does not come back takes the only copy with it.
            plan.restoration = plan.restoration.filter(|_| factor > 1);
        }
    }
}

/// What clients do in a story; the plan says what is not said here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) clients: Option<u32>,
    pub(super) initiators: Option<u32>,
    pub(super) pause: Option<Duration>,
    pub(super) hot_blocks: Option<u64>,
    pub(super) one_cancels_of: Option<NonZeroU64>,
    pub(super) patience: Option<Duration>,
    pub(super) block_size: Option<u32>,
    pub(super) journal_segments: Option<u64>,
    /// Stores are compared with their shards as they open.
    pub(super) watches_openings: bool,
}

impl Story {
    /// The story of what was drawn, in the order of time.
    pub(super) fn of(draw: Draw<'_>, work: Work, setting: Setting) -> Self {
        let mut faults = draw.faults;
        let mut moves = std::mem::take(draw.moves);
        faults.sort_by_key(|fault| fault.at_ns);
        moves.sort_by_key(|one| one.at_ns);
        Self {
            moves,
            faults,
            work,
            setting,
        }
    }

    /// Puts the story in the place of the plan's own faults and moves. The cluster has formed and the
    /// disk is where it should be before it begins.
    pub(super) fn tell(self, plan: &mut Plan) {
        plan.formation = Vec::new();
        plan.moves = self.moves;
        plan.faults = self.faults;
        self.setting.tell(plan);
        let work = self.work;
        plan.clients = work.clients.unwrap_or(plan.clients);
        plan.initiators = work.initiators.unwrap_or(plan.initiators);
        plan.pause = work.pause.unwrap_or(plan.pause);
        plan.hot_blocks = work.hot_blocks.unwrap_or(plan.hot_blocks);
        plan.policy.block_size = work.block_size.unwrap_or(plan.policy.block_size);
        if let Some(segments) = work.journal_segments {
            let tunables = plan.tunables.get_or_insert(Tunables::USUAL);
            tunables.journal_segments = segments;
        }
        plan.watches_openings = work.watches_openings;
        if work.watches_openings {
            // While a shard is split two of them have the same rows.
            plan.splits = Vec::new();
        }
        plan.one_cancels_of = work.one_cancels_of.or(plan.one_cancels_of);
        plan.patience = work.patience;
    }
}

/// Draws a story for three seeds of ten, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    if !random.chance(3, 10) {
        return None;
    }
    let story = ALL[random.index(ALL.len())];
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    let mut work = Work::default();
    match story {
        Theme::HandOver => {
            draw.ambushes(Kind::AmbushHolder);
            // A portal whose last session was cut releases the disk, and nobody goes on.
            work.initiators = Some(0);
        }
        Theme::LateRenewal => draw.ambushes(Kind::LateRenewal),
        Theme::Blackout => {
            draw.blackouts();
            work.clients = Some(4);
            work.pause = Some(HURRY);
        }
        Theme::ShutIn => {
            draw.shut_in();
            work.clients = Some(4);
            work.pause = Some(HURRY);
        }
        Theme::SaidTwice => {
            draw.say_twice();
            // Many blocks and few operations: what comes again finds its block still zeroed.
            work.pause = Some(HURRY * 25);
            work.hot_blocks = Some(48 + draw.random.below(40));
        }
    }
    Some(Story::of(draw, work, Setting::default()))
}

impl Draw<'_> {
    pub(super) fn milliseconds(&mut self, least: u64, more: u64) -> u64 {
        1_000_000 * (least + self.random.below(more))
    }

    /// One ambush after the other.
    fn ambushes(&mut self, kind: Kind) {
        let mut at = self.milliseconds(300, 1_000);
        while at < self.end {
            self.ambush(kind, at);
            at = at.max(self.ambushed_until) + self.milliseconds(1_500, 1_000);
        }
    }

    /// The disk goes to some other node than the one that leads the root at first.
    pub(super) fn settle(&mut self) -> NodeIndex {
        let holder = self.beside(NodeIndex(0));
        let at = self.milliseconds(100, 500);
        self.moves.push(Move::of_released(at, holder));
        holder
    }

    /// In some seeds disks sync as slowly as hard disks do, and keep nothing else: what is answered
    /// before its sync is answered long before. In others they are quick, and their journals have
    /// gone round before the first blackout.
    fn blackouts(&mut self) {
        let mut at = SETTLED_NS + self.milliseconds(0, 2_000);
        if self.random.chance(1, 2) {
            for node in self.all() {
                let slow = DiskFaults {
                    slow_factor: [10, 20, 40][self.random.index(3)],
                    survival: Some(Survival::Nothing),
                    ..DiskFaults::default()
                };
                self.push(SETTLED_NS / 2, FaultAction::Disk(node, slow));
            }
        } else {
            at += JOURNAL_ROUND_NS;
        }
        while at + BLACKOUT_GAP_NS / 2 < self.end {
            let spared = self.random.chance(1, 3).then(|| self.beside(NodeIndex(0)));
            for node in self.all() {
                if Some(node) != spared {
                    let until = at + self.milliseconds(100, BLACKOUT_MAXIMUM_MS);
                    self.down(at, until, node, Crash::POWER);
                }
            }
            at += BLACKOUT_GAP_NS + self.milliseconds(0, 3_000);
        }
    }

    fn shut_in(&mut self) {
        let holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(0, 2_000);
        while at + SETTLED_NS < self.end {
            let until = at + self.milliseconds(1_000, 3_300);
            let spared = self.random.chance(1, 3).then(|| self.beside(holder));
            for other in self.all() {
                if other != holder && Some(other) != spared {
                    self.cut(at, until, holder, other);
                }
            }
            at = until + self.milliseconds(1_000, 3_000);
        }
    }

    fn say_twice(&mut self) {
        let holder = self.settle();
        let mut at = SETTLED_NS;
        while at + SETTLED_NS < self.end {
            let until = at + SAID_TWICE_NS;
            for other in self.all().into_iter().filter(|other| *other != holder) {
                let often = self.random.below(400_000);
                let rules = LinkRules {
                    duplicate_ppm: 100_000 + u32::try_from(often).expect("small"),
                    duplicate_ns: self.milliseconds(2_000, 4_000),
                    ..LinkRules::default()
                };
                self.link(at, until, holder, other, rules);
            }
            at = until;
        }
    }
}

/// The stories that these seeds tell on five nodes.
#[cfg(test)]
pub(super) fn told(
    seeds: std::ops::Range<u64>,
    draw: fn(&mut Random, &mut Ground) -> Option<Story>,
) -> Vec<(Story, Ground)> {
    let one = |seed| {
        let mut ground = Ground {
            nodes: 5,
            racks: 3,
            safety: std::time::Duration::from_secs(15),
        };
        let story = draw(&mut Random::from_seed(seed), &mut ground)?;
        Some((story, ground))
    };
    seeds.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_end_in_time_and_move_the_disk_in_order() {
        let all = told(0..200, draw);
        assert!((40..80).contains(&all.len()), "{} of 200", all.len());
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(!story.faults.is_empty());
            // What lasts beyond the phase is ended with it.
            let latest = end + SAID_TWICE_NS;
            assert!(story.faults.iter().all(|fault| fault.at_ns <= latest));
            assert!(story.moves.is_sorted_by_key(|one| one.at_ns));
        }
    }

    #[test]
    fn whoever_loses_power_in_a_blackout_comes_back() {
        for (story, _) in told(0..200, draw) {
            let count = |wanted: fn(&FaultAction) -> bool| {
                let faults = story.faults.iter();
                faults.filter(|fault| wanted(&fault.action)).count()
            };
            let crashes = count(|action| matches!(action, FaultAction::Crash(..)));
            let restarts = count(|action| matches!(action, FaultAction::Restart(_)));
            assert_eq!(crashes, restarts);
        }
    }
}
