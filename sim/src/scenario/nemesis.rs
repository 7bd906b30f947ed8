//! The faults of a plan: drawn as data, ended in pairs, spread over the safety phase.
//!
//! Swarm testing: each seed draws its own mix, with some kinds absent and others frequent.

use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{Crash, DiskFaults, FaultAction, LinkRules, NodeIndex, TimedFault};

/// The kinds, each with its weight in the mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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
}

const KINDS: [Kind; 16] = [
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
];

struct Draw<'a> {
    random: &'a mut Random,
    nodes: u16,
    faults: Vec<TimedFault>,
}

/// Draws the faults of a safety phase of length `safety`.
pub(super) fn draw(random: &mut Random, nodes: u16, safety: Duration) -> Vec<TimedFault> {
    let mut weights = Vec::new();
    for kind in KINDS {
        for _ in 0..random.below(4) {
            weights.push(kind);
        }
    }
    if weights.is_empty() || random.chance(1, 20) {
        return Vec::new();
    }
    let mut draw = Draw {
        random,
        nodes,
        faults: Vec::new(),
    };
    let end = u64::try_from(safety.as_nanos()).expect("a run is short");
    let gap = 500_000_000 * (1 + draw.random.below(8));
    let mut at = draw.random.below(2_000_000_000);
    while at < end {
        let kind = weights[draw.random.index(weights.len())];
        draw.strike(kind, at);
        at += gap / 2 + draw.random.below(gap);
    }
    let mut faults = draw.faults;
    faults.sort_by_key(|fault| fault.at_ns);
    faults
}

impl Draw<'_> {
    fn push(&mut self, at_ns: u64, action: FaultAction) {
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

    fn all(&self) -> Vec<NodeIndex> {
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
            Kind::Pause => {
                self.push(at, FaultAction::Pause(node));
                self.push(until, FaultAction::Resume(node));
            }
            Kind::Isolate => {
                let rest = self
                    .all()
                    .into_iter()
                    .filter(|other| *other != node)
                    .collect();
                self.push(at, FaultAction::Partition(vec![vec![node], rest]));
                self.push(until, FaultAction::HealLinks);
            }
            Kind::Split => self.split(at, until),
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

    /// Nodes stand in racks by their number modulo the racks: the plan has three.
    fn rack_power(&mut self, at: u64, until: u64, node: NodeIndex) {
        let rack = node.0 % 3;
        for node in self.all().into_iter().filter(|node| node.0 % 3 == rack) {
            self.down(at, until, node, Crash::POWER);
        }
    }

    fn split(&mut self, at: u64, until: u64) {
        let mut left = Vec::new();
        let mut right = Vec::new();
        for node in self.all() {
            if self.random.chance(1, 2) {
                left.push(node)
            } else {
                right.push(node)
            }
        }
        self.push(at, FaultAction::Partition(vec![left, right]));
        self.push(until, FaultAction::HealLinks);
    }

    fn down(&mut self, at: u64, until: u64, node: NodeIndex, crash: Crash) {
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
        self.push(at, FaultAction::Disk(node, faults));
        self.push(until, FaultAction::Disk(node, DiskFaults::default()));
        // A failed sync has stopped the node: its operator starts it again.
        self.push(until + 1_000_000, FaultAction::Restart(node));
    }

    fn one_way(&mut self, at: u64, until: u64, node: NodeIndex) {
        let cut = LinkRules {
            state: crate::world::LinkState::Cut,
            ..LinkRules::default()
        };
        let inward = self.random.chance(1, 2);
        for other in self.all().into_iter().filter(|other| *other != node) {
            let (from, to) = if inward { (other, node) } else { (node, other) };
            self.push(at, FaultAction::Link(from, to, cut));
        }
        self.push(until, FaultAction::HealLinks);
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
            self.push(at, FaultAction::Link(node, other, rules));
            self.push(at, FaultAction::Link(other, node, rules));
            self.push(until, FaultAction::Link(node, other, LinkRules::default()));
            self.push(until, FaultAction::Link(other, node, LinkRules::default()));
        }
    }
}
