//! Damage below the blobs: what journals, the state of Pages and superblocks lose, rot in them, syncs
//! that fail and then lie, disks that vanish, are wiped, or come to another node.
//!
//! Drawn from a stream of its own beside the other faults of a plan, for one node that no more than
//! [`survival`](super::survival) allows is damaged with.
//!
//! Invariants: writes are lost only where the node goes on for a while afterwards: a store that loses
//! the last thing it said, and dies before it says another, cannot know that there was one. No
//! consensus survives a voter that forgets so, and peers notice it only in a store that is older than
//! what they heard of it.

use hedgerow_env::Random;

use crate::world::{Crash, DiskArea, DiskFaults, FaultAction, NodeIndex, SyncMode, TimedFault};

use super::classes::Class;
use super::crash_loops::LOOP_MAXIMUM_NS;
use super::nemesis::{Ground, Numbers};

/// Bits that rot at once, at most.
const ROTTEN_BITS: u64 = 8;
/// Writes and reads that are lost or wrong, in parts per million.
const RATES_PPM: [u32; 3] = [2_000, 20_000, 100_000];
/// Of so many seeds without other damage below the blobs one has writes that land in other files.
const ONE_MISPLACES_OF: u64 = 12;
/// Writes that land in other files.
const MISPLACED_PPM: [u32; 3] = [10_000, 60_000, 300_000];
/// A node whose writes get lost goes on for so long afterwards: its journal marks what is durable.
const QUIET_NS: u64 = 2_000_000_000;

/// Peers hear every five seconds what a store has made durable, and keep it: an image that is younger
/// than that is not told from the store that it was taken of.
const IMAGE_AGE_NS: u64 = 8_000_000_000;

struct Draw<'a> {
    random: &'a mut Random,
    nodes: u16,
    node: NodeIndex,
    end_ns: u64,
    numbers: Numbers,
    faults: Vec<TimedFault>,
}

/// Draws damage to `victim`: in one seed of three, or in every seed that is to have some `wanted`.
pub(super) fn draw(
    random: &mut Random,
    ground: Ground,
    victim: Option<NodeIndex>,
    wanted: &[Class],
) -> Vec<TimedFault> {
    let damages = |classes: &[Class]| -> Vec<Class> {
        classes
            .iter()
            .copied()
            .filter(|class| class.is_damage())
            .collect()
    };
    let wanted = damages(wanted);
    let drawn = random.chance(1, 3);
    let Some(node) = victim.filter(|_| drawn || !wanted.is_empty()) else {
        return Vec::new();
    };
    // Misplaced writes have a stream of their own: a class more in this one would give every seed
    // another.
    let is_drawn_here = |class: &Class| *class != Class::MisplacedWrites;
    let classes = match wanted.is_empty() {
        true => damages(Class::DRAWN)
            .into_iter()
            .filter(is_drawn_here)
            .collect(),
        false => wanted,
    };
    strikes(random, ground, node, &classes)
}

/// Draws writes of `victim` that land in other files: in some seeds.
pub(super) fn draw_misplaced(
    random: &mut Random,
    ground: Ground,
    victim: Option<NodeIndex>,
) -> Vec<TimedFault> {
    match victim.filter(|_| random.chance(1, ONE_MISPLACES_OF)) {
        Some(node) => strikes(random, ground, node, &[Class::MisplacedWrites]),
        None => Vec::new(),
    }
}

/// One of these classes, up to three times.
fn strikes(
    random: &mut Random,
    ground: Ground,
    node: NodeIndex,
    classes: &[Class],
) -> Vec<TimedFault> {
    if classes.is_empty() {
        return Vec::new();
    }
    let mut draw = Draw {
        random,
        nodes: ground.nodes,
        node,
        end_ns: u64::try_from(ground.safety.as_nanos()).expect("a run is short"),
        numbers: Numbers::DEEP,
        faults: Vec::new(),
    };
    let class = classes[draw.random.index(classes.len())];
    let mut at_ns = draw.milliseconds(0, 12_000);
    // A disk is replaced once: what a second one would take is what the first one's loss left.
    let times = match class {
        Class::WipedDisk | Class::OldImage | Class::SwappedDisks | Class::RottenSuperblock => 1,
        _ => 1 + draw.random.below(3),
    };
    for _ in 0..times {
        if at_ns < draw.end_ns {
            draw.strike(class, at_ns);
        }
        at_ns += draw.milliseconds(4_000, 6_000);
    }
    draw.faults
}

/// Takes out what ends a node's life within the quiet time after its writes may have got lost.
pub(super) fn keep_quiet(deep: &[TimedFault], faults: &mut Vec<TimedFault>) {
    let loses = |fault: &&TimedFault| match fault.action.deed() {
        FaultAction::Disk(_, rules) => {
            rules.phantom_write_ppm + rules.misplaced_write_ppm > 0
                || rules.sync != SyncMode::Honest
        }
        _ => false,
    };
    let windows: Vec<(NodeIndex, u64, u64)> = deep
        .iter()
        .filter(loses)
        .filter_map(|fault| {
            let FaultAction::Begin(number, begun) = &fault.action else {
                return None;
            };
            let FaultAction::Disk(node, _) = **begun else {
                return None;
            };
            let end = deep
                .iter()
                .find(|end| end.action == FaultAction::End(*number))?;
            Some((node, fault.at_ns, end.at_ns + QUIET_NS))
        })
        .collect();
    faults.retain(|fault| {
        let crashed = match fault.action {
            FaultAction::Crash(node, _) => Some((node, 0)),
            // It may strike long after it was armed.
            FaultAction::CrashAfterCalls(node, ..) => Some((node, QUIET_NS)),
            // What waits for a phase may come at any time.
            FaultAction::AtPhase(node, ..) => Some((node, u64::MAX)),
            FaultAction::Begin(_, ref begun) => match **begun {
                // So may a call that fails, and stops the node.
                FaultAction::Disk(node, _) => Some((node, QUIET_NS)),
                FaultAction::CrashLoop(node, _) => Some((node, LOOP_MAXIMUM_NS)),
                _ => None,
            },
            _ => None,
        };
        let hit = |(node, early): (NodeIndex, u64)| {
            let mut windows = windows.iter();
            windows.any(|(of, from, until)| {
                let from = from.saturating_sub(early);
                *of == node && (from..*until).contains(&fault.at_ns)
            })
        };
        !crashed.is_some_and(hit)
    });
}

/// Takes out what may end a node's life from `from_ns` on: also what comes at no fixed time.
pub(super) fn leave_alone(node: NodeIndex, from_ns: u64, faults: &mut Vec<TimedFault>) {
    faults.retain(|fault| {
        let is_timed = match fault.action {
            FaultAction::CrashAfterCalls(..) | FaultAction::AtPhase(..) => false,
            FaultAction::Begin(_, ref begun) if matches!(**begun, FaultAction::CrashLoop(..)) => {
                fault.at_ns < from_ns.saturating_sub(QUIET_NS + LOOP_MAXIMUM_NS)
            }
            _ => fault.at_ns < from_ns.saturating_sub(QUIET_NS),
        };
        is_timed || !may_end(&fault.action, node)
    });
}

/// Whether an action may end the life of `node`, at once or by a call of its disk that fails. Lost
/// writes of the journal do not by themselves: they are what it is left alone for.
fn may_end(action: &FaultAction, node: NodeIndex) -> bool {
    match action.deed() {
        FaultAction::Crash(of, _)
        | FaultAction::CrashAfterCalls(of, ..)
        | FaultAction::CrashLoop(of, _)
        | FaultAction::WipeDisk(of)
        | FaultAction::RestoreImage(of) => *of == node,
        FaultAction::RotIn(of, area, _) => *of == node && *area != DiskArea::Extents,
        FaultAction::RotSettled(of, _) => *of == node,
        FaultAction::SwapDisks(one, other) => [*one, *other].contains(&node),
        FaultAction::Disk(of, rules) => {
            let loses = rules.phantom_write_ppm > 0 && rules.area == DiskArea::Journal;
            *of == node && !loses
        }
        FaultAction::AtPhase(.., faults) => faults.iter().any(|one| may_end(&one.action, node)),
        _ => false,
    }
}

impl Draw<'_> {
    fn milliseconds(&mut self, least: u64, more: u64) -> u64 {
        1_000_000 * (least + self.random.below(more))
    }

    fn push(&mut self, at_ns: u64, action: FaultAction) {
        self.faults.push(TimedFault { at_ns, action });
    }

    fn strike(&mut self, class: Class, at_ns: u64) {
        match class {
            Class::RottenJournal => self.rot(DiskArea::Journal, at_ns),
            Class::RottenPages => self.rot(DiskArea::Pages, at_ns),
            Class::RottenSuperblock => {
                let choice = self.random.bits();
                let rot = FaultAction::RotIn(self.node, DiskArea::Superblock, choice);
                self.push(at_ns, rot);
                self.restart(at_ns + 1, Crash::KILL);
            }
            Class::LostJournal => self.lose(DiskArea::Journal, at_ns),
            Class::LostPages => self.lose(DiskArea::Pages, at_ns),
            Class::LostSuperblock => self.lose(DiskArea::Superblock, at_ns),
            Class::LyingSyncs => {
                let rules = DiskFaults {
                    sync: SyncMode::FailThenLie,
                    ..DiskFaults::default()
                };
                let length = self.milliseconds(100, 2_000);
                self.stand(at_ns, at_ns + length, rules);
            }
            Class::LostDisk => {
                let rules = DiskFaults {
                    lost: true,
                    ..DiskFaults::default()
                };
                let until_ns = at_ns + self.milliseconds(300, 8_000);
                self.stand(at_ns, until_ns, rules);
                self.push(until_ns + 1, FaultAction::Restart(self.node));
            }
            Class::WipedDisk => {
                let until_ns = at_ns + self.milliseconds(100, 4_000);
                self.push(at_ns, FaultAction::Crash(self.node, Crash::KILL));
                self.push(at_ns + 1, FaultAction::WipeDisk(self.node));
                self.push(until_ns, FaultAction::Restart(self.node));
            }
            Class::OldImage => {
                let crash_ns = at_ns + IMAGE_AGE_NS + self.milliseconds(0, 4_000);
                let until_ns = crash_ns + self.milliseconds(100, 3_000);
                if until_ns >= self.end_ns {
                    return;
                }
                self.push(at_ns, FaultAction::KeepImage(self.node));
                self.push(crash_ns, FaultAction::Crash(self.node, Crash::KILL));
                self.push(crash_ns + 1, FaultAction::RestoreImage(self.node));
                self.push(until_ns, FaultAction::Restart(self.node));
            }
            Class::SwappedDisks => self.swap(at_ns),
            Class::MisplacedWrites => self.misplace(at_ns),
            Class::Operators
            | Class::Phases
            | Class::Shapes
            | Class::Extremes
            | Class::CrashLoops
            | Class::Additions => {
                debug_assert!(!class.is_damage(), "only damage is drawn here");
            }
        }
    }

    fn stand(&mut self, at_ns: u64, until_ns: u64, rules: DiskFaults) {
        let deed = FaultAction::Disk(self.node, rules);
        self.faults
            .extend(self.numbers.standing(at_ns, until_ns, deed));
    }

    /// Most damage shows when a node reads what it wrote before: at its start.
    fn restart(&mut self, at_ns: u64, crash: Crash) {
        let until_ns = at_ns + self.milliseconds(50, 3_000);
        self.push(at_ns, FaultAction::Crash(self.node, crash));
        self.push(until_ns, FaultAction::Restart(self.node));
    }

    fn rot(&mut self, area: DiskArea, at_ns: u64) {
        for _ in 0..=self.random.below(ROTTEN_BITS) {
            let choice = self.random.bits();
            self.push(at_ns, FaultAction::RotIn(self.node, area, choice));
        }
        if self.random.chance(2, 3) {
            let crash = [Crash::KILL, Crash::POWER][self.random.index(2)];
            let after = self.milliseconds(0, 1_500);
            self.restart(at_ns + after, crash);
        }
    }

    fn lose(&mut self, area: DiskArea, at_ns: u64) {
        let rate = RATES_PPM[self.random.index(RATES_PPM.len())];
        let rules = DiskFaults {
            phantom_write_ppm: rate,
            misdirected_write_ppm: u32::from(area != DiskArea::Superblock) * rate,
            stale_read_ppm: rate,
            area,
            ..DiskFaults::default()
        };
        let until_ns = at_ns + self.milliseconds(100, 1_500);
        self.stand(at_ns, until_ns, rules);
        if self.random.chance(2, 3) {
            self.restart(until_ns + QUIET_NS, Crash::KILL);
        }
    }

    /// Whatever is written, or only blobs, entries of the journal, the state of Pages: it is missing
    /// where it should be and destroys something where it lands.
    fn misplace(&mut self, at_ns: u64) {
        let areas = [
            DiskArea::Everything,
            DiskArea::Extents,
            DiskArea::Journal,
            DiskArea::Pages,
        ];
        let rules = DiskFaults {
            misplaced_write_ppm: MISPLACED_PPM[self.random.index(MISPLACED_PPM.len())],
            area: areas[self.random.index(areas.len())],
            ..DiskFaults::default()
        };
        let until_ns = at_ns + self.milliseconds(100, 1_500);
        self.stand(at_ns, until_ns, rules);
        if self.random.chance(2, 3) {
            self.restart(until_ns + QUIET_NS, Crash::KILL);
        }
    }

    fn swap(&mut self, at_ns: u64) {
        let step = 1 + self.random.below(u64::from(self.nodes) - 1);
        let step = u16::try_from(step).expect("few nodes");
        let other = NodeIndex((self.node.0 + step) % self.nodes);
        let until_ns = at_ns + self.milliseconds(100, 3_000);
        for node in [self.node, other] {
            self.push(at_ns, FaultAction::Crash(node, Crash::KILL));
            self.push(until_ns, FaultAction::Restart(node));
        }
        self.push(at_ns + 1, FaultAction::SwapDisks(self.node, other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    const A: NodeIndex = NodeIndex(0);

    #[test]
    fn a_node_that_lost_writes_is_left_alone_until_it_has_said_more() {
        let ground = Ground {
            nodes: 5,
            racks: 3,
            safety: Duration::from_secs(30),
        };
        for seed in 0..100 {
            let mut random = Random::from_seed(seed);
            let deep = draw(&mut random, ground, Some(A), &[Class::LostJournal]);
            assert!(!deep.is_empty());
            let crash = |at_ns| TimedFault {
                at_ns,
                action: FaultAction::Crash(A, Crash::POWER),
            };
            let begins = deep
                .iter()
                .find(|fault| matches!(fault.action, FaultAction::Begin(..)));
            let begins_ns = begins.expect("it begins").at_ns;
            let mut faults = vec![crash(0), crash(begins_ns + 1), crash(u64::MAX)];
            keep_quiet(&deep, &mut faults);
            assert_eq!(faults, [crash(0), crash(u64::MAX)]);
        }
    }
}
