//! The faults of disks that need more than a restart: what they answer wrongly, what they refuse,
//! what rots on them, what does not fit. Drawn from streams of their own, beside the other faults of a
//! plan.
//!
//! Invariant: unless a seed goes beyond it on purpose, what may cost data strikes no more nodes than
//! [`survival`](super::survival) allows, one and the same set of them for the whole run.

use hedgerow_env::Random;

use crate::world::{DiskArea, DiskFaults, FaultAction, NodeIndex, TimedFault};

use super::nemesis::{Ground, Numbers};
use super::survival;

/// The kinds, each with its weight in the mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Blobs cannot be read, now and then.
    ReadErrors,
    /// Blobs read wrongly, now and then; the medium is as it was.
    Flips,
    /// Writes fail.
    WriteErrors,
    /// Bits of stored blobs rot.
    RottenBlobs,
    /// Writes of blobs get lost or land elsewhere, reads of them are stale.
    LostBlobs,
}

/// What strikes any node, and any number of them.
const PASSING: [Kind; 3] = [Kind::ReadErrors, Kind::Flips, Kind::WriteErrors];
/// What damages: the victims alone.
const DAMAGING: [Kind; 2] = [Kind::RottenBlobs, Kind::LostBlobs];

/// Rates in parts per million: now and then, often, most of the time.
const RATES_PPM: [u32; 3] = [3_000, 60_000, 600_000];
/// Bits that rot at once, at most.
const ROTTEN_BITS: u64 = 12;

/// Less than any disk holds: from now on it takes nothing more.
const FULL_BYTES: u64 = 1;
/// About what a node's disk holds in a run, and so much more: a disk that fills while it is used.
const SCARCE_BYTES: (u64, u64) = (4 << 20, 16 << 20);

/// Faults, and whom they may damage.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    pub(super) victims: Vec<NodeIndex>,
    pub(super) faults: Vec<TimedFault>,
}

struct Draw<'a> {
    random: &'a mut Random,
    nodes: u16,
    victims: Vec<NodeIndex>,
    faults: Vec<TimedFault>,
    numbers: Numbers,
}

/// Draws the faults of a safety phase: in two seeds of three. A seed of twelve goes beyond what
/// a disk with this replication factor survives.
pub(super) fn draw(random: &mut Random, ground: Ground, replication_factor: u8) -> Drawn {
    if !random.chance(2, 3) {
        return Drawn::default();
    }
    let budget = survival::budget(replication_factor, ground.nodes);
    let count = if random.chance(1, 8) {
        budget + 1 + random.index(usize::from(ground.nodes) - budget)
    } else {
        budget
    };
    let mut others: Vec<NodeIndex> = (0..ground.nodes).map(NodeIndex).collect();
    let mut victims = Vec::new();
    while victims.len() < count {
        victims.push(others.swap_remove(random.index(others.len())));
    }
    let mut weights = Vec::new();
    let damaging = if victims.is_empty() {
        &[][..]
    } else {
        &DAMAGING
    };
    for kind in PASSING.iter().chain(damaging) {
        for _ in 0..random.below(4) {
            weights.push(*kind);
        }
    }
    if weights.is_empty() {
        return Drawn {
            victims,
            faults: Vec::new(),
        };
    }
    let end = u64::try_from(ground.safety.as_nanos()).expect("a run is short");
    let gap = 1_000_000_000 * (1 + random.below(6));
    let mut at = random.below(2 * gap);
    let mut draw = Draw {
        random,
        nodes: ground.nodes,
        victims,
        faults: Vec::new(),
        numbers: Numbers::DISKS,
    };
    while at < end {
        let kind = weights[draw.random.index(weights.len())];
        draw.strike(kind, at);
        at += gap / 2 + draw.random.below(gap);
    }
    Drawn {
        victims: draw.victims,
        faults: draw.faults,
    }
}

/// Draws full disks: in one seed of four, one disk or all at once. They cost availability only, and
/// only while they are full; a node that starts meanwhile starts.
pub(super) fn draw_full(random: &mut Random, ground: Ground) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    let mut numbers = Numbers::FULL;
    if !random.chance(1, 4) {
        return faults;
    }
    let end = u64::try_from(ground.safety.as_nanos()).expect("a run is short");
    for _ in 0..=random.below(3) {
        let at_ns = random.below(end);
        let until_ns = at_ns + 1_000_000 * (500 + random.below(8_000));
        let all = random.chance(1, 3);
        let only = random.below(u64::from(ground.nodes));
        let (least, beyond) = SCARCE_BYTES;
        let scarce = least + random.below(beyond);
        let capacity = [FULL_BYTES, scarce][usize::from(random.chance(1, 2))];
        let full = DiskFaults {
            capacity_bytes: Some(capacity),
            ..DiskFaults::default()
        };
        for node in 0..ground.nodes {
            if all || u64::from(node) == only {
                let deed = FaultAction::Disk(NodeIndex(node), full);
                faults.extend(numbers.standing(at_ns, until_ns, deed));
            }
        }
    }
    faults
}

impl Draw<'_> {
    fn strike(&mut self, kind: Kind, at: u64) {
        let rate = RATES_PPM[self.random.index(RATES_PPM.len())];
        let node = if DAMAGING.contains(&kind) {
            self.victims[self.random.index(self.victims.len())]
        } else {
            let number = self.random.below(u64::from(self.nodes));
            NodeIndex(u16::try_from(number).expect("few nodes"))
        };
        let mut rules = DiskFaults {
            area: DiskArea::Extents,
            ..DiskFaults::default()
        };
        match kind {
            Kind::ReadErrors => rules.read_error_ppm = rate,
            Kind::Flips => rules.flip_on_read_ppm = rate,
            Kind::WriteErrors => {
                rules.write_error_ppm = rate / 10;
                rules.area = DiskArea::Everything;
            }
            Kind::LostBlobs => {
                rules.phantom_write_ppm = rate / 3;
                rules.misdirected_write_ppm = rate / 3;
                rules.stale_read_ppm = rate / 3;
            }
            Kind::RottenBlobs => return self.rot(DiskArea::Extents, at, node),
        }
        let until = at + 1_000_000 * (100 + self.random.below(6_000));
        let deed = FaultAction::Disk(node, rules);
        self.faults.extend(self.numbers.standing(at, until, deed));
        // A failed write has stopped the node: its operator starts it again.
        self.push(until + 1_000_000, FaultAction::Restart(node));
    }

    fn rot(&mut self, area: DiskArea, at: u64, node: NodeIndex) {
        for _ in 0..=self.random.below(ROTTEN_BITS) {
            let choice = self.random.bits();
            self.push(at, FaultAction::RotIn(node, area, choice));
        }
    }

    fn push(&mut self, at_ns: u64, action: FaultAction) {
        self.faults.push(TimedFault { at_ns, action });
    }
}
