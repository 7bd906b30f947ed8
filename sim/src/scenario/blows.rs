//! Single blows: one kind of fault each, all of those that the table of coverage has, as they fall when a
//! node begins a phase.
//!
//! Invariant: only what [`DAMAGING`] lists may damage a disk.

use hedgerow_env::Random;

use crate::world::{Crash, DiskArea, DiskFaults, FaultAction, LinkRules, NodeIndex, TimedFault};

use super::nemesis::{CUT, Ground, Numbers};

/// A blow falls so long after the phase began, at most: most phases are over soon.
const DELAYS_NS: [u64; 5] = [1, 1, 2_000, 50_000, 1_000_000];

/// What comes when the phase does: together they are every kind of fault that the table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    Kill,
    PowerLoss,
    Pause,
    Cut,
    SlowLinks,
    BadLinks,
    Reset,
    HalfOpen,
    SlowDisk,
    StuckDisk,
    FullDisk,
    WriteErrors,
    ReadErrors,
    Clock,
    /// The disk is gone for a while; a victim's.
    LostDisk,
    /// A bit rots; a victim's.
    Rot,
    /// Writes of blobs get lost, and reads of them are wrong; a victim's.
    LostBlobs,
    /// The same of the journal, which every phase writes to; a victim's.
    LostJournal,
}

/// What damages no disk.
pub(super) const HARMLESS: [Blow; 16] = [
    Blow::Kill,
    Blow::PowerLoss,
    Blow::Pause,
    Blow::Cut,
    Blow::SlowLinks,
    // Four columns of the table.
    Blow::BadLinks,
    Blow::BadLinks,
    Blow::BadLinks,
    Blow::Reset,
    Blow::HalfOpen,
    Blow::SlowDisk,
    Blow::StuckDisk,
    Blow::FullDisk,
    Blow::WriteErrors,
    Blow::ReadErrors,
    Blow::Clock,
];
/// What may: a victim's.
pub(super) const DAMAGING: [Blow; 5] = [
    Blow::LostDisk,
    Blow::Rot,
    Blow::LostBlobs,
    Blow::LostJournal,
    Blow::LostJournal,
];

/// What a blow at `node` is, from the beginning of a phase on; `deep` has rot reach its journal.
pub(super) fn strike(
    random: &mut Random,
    ground: Ground,
    numbers: &mut Numbers,
    (blow, deep): (Blow, bool),
    node: NodeIndex,
) -> Vec<TimedFault> {
    let delay_ns = DELAYS_NS[random.index(DELAYS_NS.len())];
    let at_ns = random.below(delay_ns);
    let until_ns = at_ns + 1_000_000 * (20 + random.below(1_500));
    let timed = |at_ns, action| TimedFault { at_ns, action };
    let others: Vec<NodeIndex> = (0..ground.nodes)
        .map(NodeIndex)
        .filter(|other| *other != node)
        .collect();
    let mut faults = match blow {
        Blow::Kill => vec![timed(at_ns, FaultAction::Crash(node, Crash::KILL))],
        Blow::PowerLoss => vec![timed(at_ns, FaultAction::Crash(node, Crash::POWER))],
        Blow::Pause => numbers
            .standing(at_ns, until_ns, FaultAction::Pause(node))
            .to_vec(),
        Blow::Cut | Blow::SlowLinks | Blow::BadLinks => {
            let deeds = link_deeds(node, &others, link_rules(blow)).into_iter();
            deeds
                .flat_map(|deed| numbers.standing(at_ns, until_ns, deed))
                .collect()
        }
        Blow::Reset | Blow::HalfOpen => {
            let broken = |other: &NodeIndex| match blow {
                Blow::Reset => FaultAction::BreakConnections(node, *other),
                _ => FaultAction::HalfOpen(node, *other),
            };
            others
                .iter()
                .map(|other| timed(at_ns, broken(other)))
                .collect()
        }
        Blow::Clock => {
            let drift = i32::try_from(random.below(198_000)).expect("small") - 99_000;
            let step = i64::try_from(random.below(7_200_000)).expect("small") - 3_600_000;
            vec![
                timed(at_ns, FaultAction::Drift(node, drift)),
                timed(at_ns, FaultAction::StepWall(node, step)),
            ]
        }
        Blow::Rot => {
            let deep = deep && random.chance(1, 2);
            let area = [DiskArea::Extents, DiskArea::Journal][usize::from(deep)];
            let choice = random.bits();
            vec![timed(at_ns, FaultAction::RotIn(node, area, choice))]
        }
        _ => {
            let deed = FaultAction::Disk(node, disk_rules(blow));
            numbers.standing(at_ns, until_ns, deed).to_vec()
        }
    };
    let may_be_down = !matches!(
        blow,
        Blow::Pause | Blow::Cut | Blow::SlowLinks | Blow::BadLinks | Blow::Clock
    );
    if may_be_down {
        faults.push(timed(until_ns + 1_000_000, FaultAction::Restart(node)));
    }
    faults
}

/// All links of a node, both ways.
fn link_deeds(node: NodeIndex, others: &[NodeIndex], rules: LinkRules) -> Vec<FaultAction> {
    let ends = others
        .iter()
        .flat_map(|other| [(node, *other), (*other, node)]);
    ends.map(|(from, to)| FaultAction::Link(from, to, rules))
        .collect()
}

fn link_rules(blow: Blow) -> LinkRules {
    match blow {
        Blow::Cut => CUT,
        Blow::SlowLinks => LinkRules {
            delay_ns: 40_000_000,
            jitter_ns: 10_000_000,
            ..LinkRules::default()
        },
        _ => LinkRules {
            loss_ppm: 250_000,
            duplicate_ppm: 400_000,
            reorder_ppm: 400_000,
            reorder_ns: 20_000_000,
            corrupt_ppm: 250_000,
            ..LinkRules::default()
        },
    }
}

fn disk_rules(blow: Blow) -> DiskFaults {
    let mut rules = DiskFaults::default();
    match blow {
        Blow::SlowDisk => rules.slow_factor = 50,
        Blow::StuckDisk => rules.stuck = true,
        Blow::FullDisk => rules.capacity_bytes = Some(1),
        Blow::WriteErrors => {
            rules.write_error_ppm = 500_000;
            rules.sync_error_ppm = 500_000;
        }
        Blow::LostDisk => rules.lost = true,
        Blow::ReadErrors => {
            rules.read_error_ppm = 200_000;
            rules.flip_on_read_ppm = 400_000;
            rules.area = DiskArea::Extents;
        }
        Blow::LostBlobs => {
            rules.phantom_write_ppm = 300_000;
            rules.misdirected_write_ppm = 300_000;
            rules.stale_read_ppm = 300_000;
            rules.area = DiskArea::Extents;
        }
        _ => {
            rules.phantom_write_ppm = 200_000;
            rules.misdirected_write_ppm = 200_000;
            rules.stale_read_ppm = 200_000;
            rules.area = DiskArea::Journal;
        }
    }
    rules
}
