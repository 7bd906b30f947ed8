//! The faults of a plan: drawn as data, ended in pairs, spread over the safety phase.
//!
//! Swarm testing: each seed draws its own mix, with some kinds absent and others frequent.

use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{
    Crash, DiskFaults, FaultAction, FaultNumber, LinkRules, LinkState, NodeIndex, TimedFault,
};

use super::plan::Move;

/// Faults while the cluster forms are over after this time.
const FORMATION_NS: u64 = 12_000_000_000;
/// The kinds, each with its weight in the mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Kill,
    PowerLoss,
    CrashBetweenCalls,
    Pause,
    Isolate,
    OneWay,
    Split,
    LossyLink,
    SlowDisk,
    StuckDisk,
    SyncError,
    Break,
    HalfOpen,
    Drift,
    StepWall,
    RackPower,
    PauseTwo,
    CutPairs,
    GrayLinks,
    LateMessages,
    Bridge,
    Ring,
    AmbushHolder,
    LateRenewal,
}

const KINDS: [Kind; 24] = [
    Kind::Kill,
    Kind::PowerLoss,
    Kind::CrashBetweenCalls,
    Kind::Pause,
    Kind::Isolate,
    Kind::OneWay,
    Kind::Split,
    Kind::LossyLink,
    Kind::SlowDisk,
    Kind::StuckDisk,
    Kind::SyncError,
    Kind::Break,
    Kind::HalfOpen,
    Kind::Drift,
    Kind::StepWall,
    Kind::RackPower,
    Kind::PauseTwo,
    Kind::CutPairs,
    Kind::GrayLinks,
    Kind::LateMessages,
    Kind::Bridge,
    Kind::Ring,
    Kind::AmbushHolder,
    Kind::LateRenewal,
];

/// What some seeds dwell on: kinds that break the same promise, and so are worth more together
/// than each among all others. Some seeds dwell on nothing.
const CONCERNS: [&[Kind]; 9] = [
    &[],
    &[],
    // Who may write and who may answer: another proxy takes the disk while the former goes on.
    &[Kind::AmbushHolder, Kind::LateRenewal],
    &[Kind::AmbushHolder, Kind::LateRenewal],
    &[Kind::AmbushHolder, Kind::LateRenewal],
    // What is said late, or twice.
    &[Kind::LateMessages],
    &[Kind::LateMessages],
    // What a disk remembers.
    &[Kind::PowerLoss, Kind::RackPower, Kind::CrashBetweenCalls],
    // Who is a member.
    &[Kind::Pause, Kind::StuckDisk, Kind::SlowDisk, Kind::CutPairs],
];
/// How often a kind that a seed dwells on stands in its mix; others do so up to three times.
const DWELLING_WEIGHT: usize = 24;

/// Where and how long faults strike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    pub(super) nodes: u16,
    pub(super) racks: u16,
    pub(super) safety: Duration,
}

/// Nothing passes.
pub(super) const CUT: LinkRules = LinkRules {
    state: LinkState::Cut,
    loss_ppm: 0,
    duplicate_ppm: 0,
    duplicate_ns: 0,
    reorder_ppm: 0,
    reorder_ns: 0,
    corrupt_ppm: 0,
    delay_ns: 0,
    jitter_ns: 0,
    bytes_per_second: 0,
};

/// What is drawn so far.
pub(super) struct Draw<'a> {
    pub(super) random: &'a mut Random,
    pub(super) nodes: u16,
    racks: u16,
    pub(super) moves: &'a mut Vec<Move>,
    pub(super) faults: Vec<TimedFault>,
    /// When faults end.
    pub(super) end: u64,
    /// Until when an ambush goes on: a second one would only spoil it.
    pub(super) ambushed_until: u64,
    numbers: Numbers,
}

/// Gives out the numbers of faults that stand until they are ended; each drawer has its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers(u32);

impl Numbers {
    /// Of the faults while the cluster forms.
    pub(super) const FORMATION: Self = Self(10_000);
    /// Of the mix, or the story in its place.
    pub(super) const MIX: Self = Self(20_000);
    /// Of disks.
    pub(super) const DISKS: Self = Self(30_000);
    /// Of full disks.
    pub(super) const FULL: Self = Self(40_000);
    /// Of damage below the blobs.
    pub(super) const DEEP: Self = Self(50_000);
    /// Of what waits for phases.
    pub(super) const PHASES: Self = Self(60_000);
    /// Of what waits for phases while the cluster forms.
    pub(super) const FORMATION_PHASES: Self = Self(70_000);
    /// Of what is aimed at single phases.
    pub(super) const AIMS: Self = Self(80_000);
    /// Of crash loops.
    pub(super) const CRASH_LOOPS: Self = Self(90_000);
    /// Of what strikes nodes that join.
    pub(super) const ADDITIONS: Self = Self(100_000);

    /// The next one.
    pub(super) fn next(&mut self) -> FaultNumber {
        self.0 += 1;
        FaultNumber(self.0)
    }

    /// `deed` that stands from `at_ns` until `until_ns`, whatever else there is meanwhile.
    pub(super) fn standing(
        &mut self,
        at_ns: u64,
        until_ns: u64,
        deed: FaultAction,
    ) -> [TimedFault; 2] {
        let number = self.next();
        let timed = |at_ns, action| TimedFault { at_ns, action };
        let begin = FaultAction::Begin(number, Box::new(deed));
        [
            timed(at_ns, begin),
            timed(until_ns, FaultAction::End(number)),
        ]
    }
}

/// Draws what strikes while the cluster forms: in one seed of three, and over soon.
pub(super) fn draw_formation(random: &mut Random, nodes: u16) -> Vec<TimedFault> {
    if !random.chance(1, 3) {
        return Vec::new();
    }
    let count = 1 + random.below(4);
    let mut moves = Vec::new();
    let ground = Ground {
        nodes,
        racks: 1,
        safety: Duration::from_nanos(FORMATION_NS),
    };
    let mut draw = Draw::new(random, ground, &mut moves);
    draw.numbers = Numbers::FORMATION;
    const SHORT: [Kind; 6] = [
        Kind::Kill,
        Kind::PowerLoss,
        Kind::CrashBetweenCalls,
        Kind::Pause,
        Kind::Isolate,
        Kind::CutPairs,
    ];
    for _ in 0..count {
        let kind = SHORT[draw.random.index(SHORT.len())];
        let at = 1 + draw.random.below(FORMATION_NS / 2);
        draw.strike(kind, at);
    }
    let mut faults = draw.faults;
    for fault in &mut faults {
        fault.at_ns = fault.at_ns.min(FORMATION_NS);
    }
    faults.sort_by_key(|fault| fault.at_ns);
    faults
}

/// Draws the faults of a safety phase; an ambush moves the disk, too.
pub(super) fn draw(random: &mut Random, ground: Ground, moves: &mut Vec<Move>) -> Vec<TimedFault> {
    let mut weights = Vec::new();
    for kind in KINDS {
        for _ in 0..random.below(4) {
            weights.push(kind);
        }
    }
    let concern = CONCERNS[random.index(CONCERNS.len())];
    for kind in concern {
        weights.extend([*kind; DWELLING_WEIGHT]);
    }
    if weights.is_empty() || random.chance(1, 20) {
        return Vec::new();
    }
    let mut draw = Draw::new(random, ground, moves);
    let end = draw.end;
    let gap = 500_000_000 * (1 + draw.random.below(8));
    let mut at = draw.random.below(2_000_000_000);
    while at < end {
        let kind = weights[draw.random.index(weights.len())];
        draw.strike(kind, at);
        at += gap / 2 + draw.random.below(gap);
    }
    let mut faults = draw.faults;
    faults.sort_by_key(|fault| fault.at_ns);
    moves.sort_by_key(|one| one.at_ns);
    faults
}

impl<'a> Draw<'a> {
    pub(super) fn new(random: &'a mut Random, ground: Ground, moves: &'a mut Vec<Move>) -> Self {
        Self {
            random,
            nodes: ground.nodes,
            racks: ground.racks,
            moves,
            faults: Vec::new(),
            end: u64::try_from(ground.safety.as_nanos()).expect("a run is short"),
            ambushed_until: 0,
            numbers: Numbers::MIX,
        }
    }
}

impl Draw<'_> {
    pub(super) fn push(&mut self, at_ns: u64, action: FaultAction) {
        self.faults.push(TimedFault { at_ns, action });
    }

    fn node(&mut self) -> NodeIndex {
        NodeIndex(u16::try_from(self.random.below(u64::from(self.nodes))).expect("few nodes"))
    }

    /// From a blink to longer than a lease and its wait.
    fn length(&mut self) -> u64 {
        let scale = [50, 500, 3_000, 9_000][self.random.index(4)];
        1_000_000 * (scale / 2 + self.random.below(scale))
    }

    pub(super) fn all(&self) -> Vec<NodeIndex> {
        (0..self.nodes).map(NodeIndex).collect()
    }

    fn strike(&mut self, kind: Kind, at: u64) {
        let node = self.node();
        let until = at + self.length();
        match kind {
            Kind::Kill => self.down(at, until, node, Crash::KILL),
            Kind::PowerLoss => self.down(at, until, node, Crash::POWER),
            Kind::RackPower => self.rack_power(at, until, node),
            Kind::CrashBetweenCalls => {
                let calls = 1 + self.random.below(200);
                self.push(at, FaultAction::CrashAfterCalls(node, calls, Crash::RESET));
                self.push(until, FaultAction::Restart(node));
            }
            Kind::Pause => self.stand(at, until, FaultAction::Pause(node)),
            Kind::PauseTwo => {
                for node in [node, self.node()] {
                    self.stand(at, until, FaultAction::Pause(node));
                }
            }
            Kind::Isolate | Kind::Split | Kind::Bridge | Kind::Ring => {
                let groups = self.groups(kind, node);
                self.stand(at, until, FaultAction::Partition(groups));
            }
            Kind::CutPairs | Kind::GrayLinks | Kind::LateMessages => self.links(kind, at, until),
            Kind::AmbushHolder | Kind::LateRenewal => self.ambush(kind, at),
            Kind::OneWay => self.one_way(at, until, node),
            Kind::LossyLink => self.lossy(at, until, node),
            Kind::SlowDisk | Kind::StuckDisk | Kind::SyncError => {
                self.disk(kind, at, until, node);
            }
            Kind::Break | Kind::HalfOpen => {
                let other = self.node();
                self.push(
                    at,
                    if kind == Kind::Break {
                        FaultAction::BreakConnections(node, other)
                    } else {
                        FaultAction::HalfOpen(node, other)
                    },
                );
            }
            Kind::Drift => {
                let drift = i32::try_from(self.random.below(198_000)).expect("small") - 99_000;
                self.push(at, FaultAction::Drift(node, drift));
            }
            Kind::StepWall => {
                let step = i64::try_from(self.random.below(7_200_000)).expect("small") - 3_600_000;
                self.push(at, FaultAction::StepWall(node, step));
            }
        }
    }

    /// Nodes stand in racks by their number modulo the racks.
    fn rack_power(&mut self, at: u64, until: u64, node: NodeIndex) {
        let racks = self.racks;
        let rack = node.0 % racks;
        for node in self.all().into_iter().filter(|node| node.0 % racks == rack) {
            self.down(at, until, node, Crash::POWER);
        }
    }

    /// Groups whose members talk; whoever stands in two groups is a bridge.
    fn groups(&mut self, kind: Kind, node: NodeIndex) -> Vec<Vec<NodeIndex>> {
        let others: Vec<NodeIndex> = self.all().into_iter().filter(|one| *one != node).collect();
        let mut left = vec![node];
        let mut right = Vec::new();
        match kind {
            Kind::Isolate => right = others,
            Kind::Ring => {
                let all = self.all();
                let next = |at: usize| all[(at + 1) % all.len()];
                let pair = |(at, one): (usize, &NodeIndex)| vec![*one, next(at)];
                return all.iter().enumerate().map(pair).collect();
            }
            _ => {
                if kind == Kind::Bridge {
                    right.push(node);
                }
                for other in others {
                    let side = if self.random.chance(1, 2) {
                        &mut left
                    } else {
                        &mut right
                    };
                    side.push(other);
                }
            }
        }
        vec![left, right]
    }

    /// Rules for some links from now `until`, each way by itself unless the links are cut.
    pub(super) fn links(&mut self, kind: Kind, at: u64, until: u64) {
        let all = self.all();
        for from in &all {
            for to in all.iter().filter(|to| *to != from) {
                let share = if kind == Kind::LateMessages { 2 } else { 3 };
                if (kind == Kind::CutPairs && to < from) || !self.random.chance(1, share) {
                    continue;
                }
                let rules = self.link_rules(kind);
                self.link(at, until, *from, *to, rules);
                if kind == Kind::CutPairs {
                    self.link(at, until, *to, *from, rules);
                }
            }
        }
    }

    fn link_rules(&mut self, kind: Kind) -> LinkRules {
        match kind {
            Kind::CutPairs => CUT,
            Kind::GrayLinks => LinkRules {
                delay_ns: 1_000_000 * self.random.below(1_500),
                jitter_ns: 1_000_000 * self.random.below(500),
                ..LinkRules::default()
            },
            _ => LinkRules {
                duplicate_ppm: 5_000 + u32::try_from(self.random.below(150_000)).expect("small"),
                duplicate_ns: 1_000_000 * (200 + self.random.below(6_000)),
                reorder_ppm: 5_000 + u32::try_from(self.random.below(60_000)).expect("small"),
                reorder_ns: 1_000_000 * (200 + self.random.below(6_000)),
                ..LinkRules::default()
            },
        }
    }

    pub(super) fn link(
        &mut self,
        at: u64,
        until: u64,
        from: NodeIndex,
        to: NodeIndex,
        rules: LinkRules,
    ) {
        self.stand(at, until, FaultAction::Link(from, to, rules));
    }

    /// Something that lasts, beside whatever else there is meanwhile.
    pub(super) fn stand(&mut self, at: u64, until: u64, deed: FaultAction) {
        self.faults.extend(self.numbers.standing(at, until, deed));
    }

    pub(super) fn down(&mut self, at: u64, until: u64, node: NodeIndex, crash: Crash) {
        self.push(at, FaultAction::Crash(node, crash));
        self.push(until, FaultAction::Restart(node));
    }

    fn disk(&mut self, kind: Kind, at: u64, until: u64, node: NodeIndex) {
        let mut faults = DiskFaults::default();
        match kind {
            Kind::SlowDisk => faults.slow_factor = [5, 50, 400][self.random.index(3)],
            Kind::StuckDisk => faults.stuck = true,
            _ => faults.sync_error_ppm = 200_000,
        }
        self.stand(at, until, FaultAction::Disk(node, faults));
        // A failed sync has stopped the node: its operator starts it again.
        self.push(until + 1_000_000, FaultAction::Restart(node));
    }

    fn one_way(&mut self, at: u64, until: u64, node: NodeIndex) {
        let inward = self.random.chance(1, 2);
        for other in self.all().into_iter().filter(|other| *other != node) {
            let (from, to) = if inward { (other, node) } else { (node, other) };
            self.link(at, until, from, to, CUT);
        }
    }

    fn lossy(&mut self, at: u64, until: u64, node: NodeIndex) {
        let mut ppm = |most: u64| u32::try_from(self.random.below(most)).expect("small");
        let rules = LinkRules {
            loss_ppm: ppm(200_000),
            duplicate_ppm: ppm(200_000),
            reorder_ppm: ppm(300_000),
            reorder_ns: 20_000_000,
            corrupt_ppm: ppm(20_000),
            delay_ns: u64::from(ppm(20_000)) * 1_000,
            jitter_ns: u64::from(ppm(20_000)) * 1_000,
            ..LinkRules::default()
        };
        for other in self.all().into_iter().filter(|other| *other != node) {
            self.link(at, until, node, other, rules);
            self.link(at, until, other, node, rules);
        }
    }
}
