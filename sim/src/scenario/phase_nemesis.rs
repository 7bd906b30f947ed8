//! Faults that wait for a phase: what strikes at a time alone seldom meets a snapshot, a change of
//! members or the refilling of a log, which take milliseconds and come once a minute.
//!
//! Drawn from a stream of its own, in some seeds; nothing here damages a disk.

use hedgerow_env::{Phase, Random};

use crate::world::{Crash, DiskFaults, FaultAction, LinkRules, NodeIndex, TimedFault};

use super::classes::Class;
use super::nemesis::{CUT, Ground, Numbers};

/// Of so many seeds one has faults that wait.
const ONE_WAITS_OF: u64 = 3;
/// How many they are, at most.
const WAITING_MAXIMUM: u64 = 8;
/// A fault comes so long after the phase began, at most: most phases are over soon.
const DELAYS_NS: [u64; 4] = [1_000, 100_000, 1_000_000, 20_000_000];

/// What comes when the phase does.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Down,
    Pause,
    Links,
    Connections,
    Disk,
    Clock,
}

const KINDS: [Kind; 8] = [
    Kind::Down,
    Kind::Down,
    Kind::Pause,
    Kind::Links,
    Kind::Links,
    Kind::Connections,
    Kind::Disk,
    Kind::Clock,
];

/// Draws what waits for phases from times in the safety phase on.
pub(super) fn draw(random: &mut Random, ground: Ground, wanted: &[Class]) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    if !Class::Phases.is_due(random, ONE_WAITS_OF, wanted) {
        return faults;
    }
    let end_ns = u64::try_from(ground.safety.as_nanos()).expect("a run is short");
    let mut numbers = Numbers::PHASES;
    for _ in 0..=random.below(WAITING_MAXIMUM) {
        let node = random.below(u64::from(ground.nodes));
        let node = NodeIndex(u16::try_from(node).expect("few nodes"));
        let phase = Phase::ALL[random.index(Phase::ALL.len())];
        let kind = KINDS[random.index(KINDS.len())];
        let then = strike(random, ground, &mut numbers, kind, node);
        faults.push(TimedFault {
            at_ns: random.below(end_ns),
            action: FaultAction::AtPhase(node, phase.name().to_owned(), then),
        });
    }
    faults
}

fn strike(
    random: &mut Random,
    ground: Ground,
    numbers: &mut Numbers,
    kind: Kind,
    node: NodeIndex,
) -> Vec<TimedFault> {
    let delay_ns = DELAYS_NS[random.index(DELAYS_NS.len())];
    let at_ns = random.below(delay_ns);
    let until_ns = at_ns + 1_000_000 * (20 + random.below(1_500));
    let timed = |at_ns, action| TimedFault { at_ns, action };
    let others = (0..ground.nodes)
        .map(NodeIndex)
        .filter(|other| *other != node);
    let mut faults = Vec::new();
    match kind {
        Kind::Down => {
            let crash = [Crash::KILL, Crash::POWER][random.index(2)];
            faults.push(timed(at_ns, FaultAction::Crash(node, crash)));
            faults.push(timed(until_ns, FaultAction::Restart(node)));
        }
        Kind::Pause => faults.extend(numbers.standing(at_ns, until_ns, FaultAction::Pause(node))),
        Kind::Links => {
            let rules = link_rules(random);
            for other in others {
                for (from, to) in [(node, other), (other, node)] {
                    let deed = FaultAction::Link(from, to, rules);
                    faults.extend(numbers.standing(at_ns, until_ns, deed));
                }
            }
        }
        Kind::Connections => {
            let half = random.chance(1, 2);
            for other in others {
                let action = match half {
                    true => FaultAction::HalfOpen(node, other),
                    false => FaultAction::BreakConnections(node, other),
                };
                faults.push(timed(at_ns, action));
            }
        }
        Kind::Disk => {
            let rules = disk_rules(random);
            let deed = FaultAction::Disk(node, rules);
            faults.extend(numbers.standing(at_ns, until_ns, deed));
            // A failed write has stopped the node.
            faults.push(timed(until_ns + 1_000_000, FaultAction::Restart(node)));
        }
        Kind::Clock => {
            let drift = i32::try_from(random.below(198_000)).expect("small") - 99_000;
            let step = i64::try_from(random.below(7_200_000)).expect("small") - 3_600_000;
            faults.push(timed(at_ns, FaultAction::Drift(node, drift)));
            faults.push(timed(at_ns, FaultAction::StepWall(node, step)));
        }
    }
    faults
}

/// Of a node's links: cut, bad or slow.
fn link_rules(random: &mut Random) -> LinkRules {
    let bad = LinkRules {
        loss_ppm: 300_000,
        duplicate_ppm: 300_000,
        reorder_ppm: 300_000,
        reorder_ns: 20_000_000,
        corrupt_ppm: 100_000,
        ..LinkRules::default()
    };
    let slow = LinkRules {
        delay_ns: 1_000_000 * random.below(200),
        jitter_ns: 10_000_000,
        ..LinkRules::default()
    };
    [CUT, bad, slow][random.index(3)]
}

fn disk_rules(random: &mut Random) -> DiskFaults {
    let mut rules = DiskFaults::default();
    match random.below(4) {
        0 => rules.slow_factor = 50,
        1 => rules.stuck = true,
        2 => rules.capacity_bytes = Some(1),
        _ => rules.write_error_ppm = 500_000,
    }
    rules
}
