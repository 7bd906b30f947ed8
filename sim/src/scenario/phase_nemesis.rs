//! Faults that wait for a phase: what strikes at a time alone seldom meets a snapshot, a change of
//! members or the refilling of a log, which take milliseconds and come once a minute.
//!
//! Drawn from streams of their own, in some seeds. Phases that are rare come more often than others, and
//! their faults wait on every node, since nobody knows who will begin them.
//!
//! Invariant: nothing here damages a disk but those of the plan's victims, and there blobs alone.

use hedgerow_env::{Phase, Random};

use crate::world::{Crash, DiskArea, DiskFaults, FaultAction, LinkRules, NodeIndex, TimedFault};

use super::classes::Class;
use super::nemesis::{CUT, Ground, Numbers};

/// Of so many seeds one has faults that wait.
const ONE_WAITS_OF: u64 = 3;
/// Of so many seeds one has faults that wait while the cluster forms.
const ONE_FORMS_OF: u64 = 6;
/// How many they are, at most.
const WAITING_MAXIMUM: u64 = 8;
/// A fault comes so long after the phase began, at most: most phases are over soon.
const DELAYS_NS: [u64; 4] = [1_000, 100_000, 1_000_000, 20_000_000];

/// Phases that come seldom, or on one node of a run.
const RARE: &[Phase] = &[
    Phase::Formation,
    Phase::Attach,
    Phase::Void,
    Phase::Placement,
    Phase::Repair,
    Phase::Retirement,
    Phase::Compaction,
    Phase::Checkpoint,
    Phase::SnapshotInstall,
    Phase::SplitCopy,
    Phase::SplitClear,
    Phase::Refill,
    Phase::Membership,
    Phase::RootWork,
];
/// What comes after damage below the blobs.
const AFTER_DAMAGE: &[Phase] = &[Phase::Refill, Phase::Recovery, Phase::Formation];

/// What comes when the phase does.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Down,
    Pause,
    Links,
    Connections,
    Disk,
    Clock,
    Damage,
}

const KINDS: [Kind; 10] = [
    Kind::Down,
    Kind::Down,
    Kind::Pause,
    Kind::Links,
    Kind::Links,
    Kind::Connections,
    Kind::Disk,
    Kind::Disk,
    Kind::Clock,
    Kind::Damage,
];

/// What faults that wait depend on.
pub(super) struct Waiting<'a> {
    pub(super) ground: Ground,
    /// Whose disks may be damaged.
    pub(super) victims: &'a [NodeIndex],
    /// Whether a disk is damaged below its blobs.
    pub(super) goes_deep: bool,
    pub(super) wanted: &'a [Class],
}

/// Draws what waits for phases from times in the safety phase on.
pub(super) fn draw(random: &mut Random, waiting: &Waiting<'_>) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    if !Class::Phases.is_due(random, ONE_WAITS_OF, waiting.wanted) {
        return faults;
    }
    let end_ns = u64::try_from(waiting.ground.safety.as_nanos()).expect("a run is short");
    let mut numbers = Numbers::PHASES;
    for _ in 0..=random.below(WAITING_MAXIMUM) {
        let lists = [Phase::ALL, RARE, RARE, AFTER_DAMAGE];
        let lists = &lists[..3 + usize::from(waiting.goes_deep)];
        let list = lists[random.index(lists.len())];
        let phase = list[random.index(list.len())];
        let at_ns = random.below(end_ns);
        arm(random, waiting, &mut numbers, phase, at_ns, &mut faults);
    }
    faults
}

/// Draws what waits for nodes to get into the cluster, from the beginning of the run on.
pub(super) fn draw_formation(random: &mut Random, ground: Ground) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    if !random.chance(1, ONE_FORMS_OF) {
        return faults;
    }
    let waiting = Waiting {
        ground,
        victims: &[],
        goes_deep: false,
        wanted: &[],
    };
    let mut numbers = Numbers::FORMATION_PHASES;
    arm(
        random,
        &waiting,
        &mut numbers,
        Phase::Formation,
        0,
        &mut faults,
    );
    faults
}

/// Has faults of one kind wait for a phase, on some node or on each.
fn arm(
    random: &mut Random,
    waiting: &Waiting<'_>,
    numbers: &mut Numbers,
    phase: Phase,
    at_ns: u64,
    faults: &mut Vec<TimedFault>,
) {
    let nodes = waiting.ground.nodes;
    let some = NodeIndex(u16::try_from(random.below(u64::from(nodes))).expect("few nodes"));
    let kind = KINDS[random.index(KINDS.len())];
    let everywhere = RARE.contains(&phase);
    for node in (0..nodes).map(NodeIndex) {
        let may_be_damaged = waiting.victims.contains(&node);
        if (node != some && !everywhere) || (matches!(kind, Kind::Damage) && !may_be_damaged) {
            continue;
        }
        let then = strike(random, waiting.ground, numbers, kind, node);
        faults.push(TimedFault {
            at_ns,
            action: FaultAction::AtPhase(node, phase.name().to_owned(), then),
        });
    }
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
            let crash = [Crash::KILL, Crash::POWER, Crash::RESET][random.index(3)];
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
        Kind::Damage if random.chance(1, 2) => {
            let rot = FaultAction::RotIn(node, DiskArea::Extents, random.bits());
            faults.push(timed(at_ns, rot));
        }
        Kind::Damage => {
            let rules = DiskFaults {
                phantom_write_ppm: 200_000,
                misdirected_write_ppm: 200_000,
                stale_read_ppm: 200_000,
                area: DiskArea::Extents,
                ..DiskFaults::default()
            };
            let deed = FaultAction::Disk(node, rules);
            faults.extend(numbers.standing(at_ns, until_ns, deed));
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

/// Of a node's disk; it loses nothing by it.
fn disk_rules(random: &mut Random) -> DiskFaults {
    let mut rules = DiskFaults::default();
    match random.below(6) {
        0 => rules.slow_factor = 50,
        1 => rules.stuck = true,
        2 => rules.capacity_bytes = Some(1),
        3 => rules.write_error_ppm = 500_000,
        4 => rules.lost = true,
        _ => {
            rules.read_error_ppm = 200_000;
            rules.flip_on_read_ppm = 200_000;
            rules.area = DiskArea::Extents;
        }
    }
    rules
}
