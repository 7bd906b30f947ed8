//! Faults aimed at single cells of the table of coverage: one kind of fault at the very beginning of one
//! phase, with what brings that phase about where it comes seldom by itself.
//!
//! [`phase_nemesis`](super::phase_nemesis) has several faults wait for a phase and strike somewhere in
//! its milliseconds; here every kind is drawn as often as the table has cells of it, phases that are
//! rare more often than others, and the blow falls at once, since most phases are over soon. Drawn
//! from a stream of its own.
//!
//! Invariants: what may damage a disk strikes the plan's victims alone; a victim whose journal may lose
//! writes is left alone for the rest of the safety phase, as
//! [`deep_damage`](super::deep_damage) has it.

use hedgerow_env::{Phase, Random};

use crate::world::{Crash, DiskArea, FaultAction, NodeIndex, TimedFault};

use super::blows::{self, Blow, DAMAGING, HARMLESS};
use super::classes::Class;
use super::deep_damage::leave_alone;
use super::nemesis::Numbers;
use super::operators::{OperatorAction, OperatorDeed};
use super::phase_nemesis::Waiting;
use super::splits::Split;

/// Of so many seeds one has aims.
const ONE_AIMS_OF: u64 = 2;
/// How many they are, at least and at most.
const AIMS: (u64, u64) = (4, 14);
/// Bits that rot to bring a phase about.
const ROTTEN_BITS: usize = 64;

/// Phases that few nodes are in, and nobody knows which: their faults wait everywhere.
const ANYWHERE: &[Phase] = &[
    Phase::Attach,
    Phase::Void,
    Phase::Placement,
    Phase::Retirement,
    Phase::SnapshotSend,
    Phase::SnapshotInstall,
    Phase::SplitCopy,
    Phase::SplitClear,
    Phase::Membership,
    Phase::RootWork,
];
/// Phases that come seldom; aimed at as often as all others together.
const RARE: &[Phase] = &[
    Phase::Recovery,
    Phase::Attach,
    Phase::Void,
    Phase::Placement,
    Phase::Replica,
    Phase::Retirement,
    Phase::Scrub,
    Phase::Compaction,
    Phase::SnapshotInstall,
    Phase::SplitCopy,
    Phase::SplitClear,
    Phase::Membership,
    Phase::RootWork,
];

/// What becomes of a victim below its blobs, one thing in a run: a store that is damaged so may be
/// refused and wiped, and what a second loss of it would take is what the first one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing, or what another stream has drawn.
    Other,
    /// Its journal and its state rot.
    Rots,
    /// Its journal loses writes, and it is left alone.
    LosesWrites,
    /// It comes back with an empty disk.
    Wiped,
}

impl Fate {
    /// Phases that only a damaged disk brings about.
    fn phases(self) -> &'static [Phase] {
        match self {
            Self::Rots => &[
                Phase::Refill,
                Phase::Refill,
                Phase::Repair,
                Phase::Membership,
                Phase::SnapshotInstall,
            ],
            Self::Wiped => &[Phase::Formation, Phase::Repair],
            Self::Other | Self::LosesWrites => &[Phase::Repair],
        }
    }
}

/// What a plan's aims come to.
#[derive(Debug, Default)]
pub(super) struct Aims {
    pub(super) faults: Vec<TimedFault>,
    /// What brings splits about.
    pub(super) splits: Vec<Split>,
    /// What moves containers about.
    pub(super) operators: Vec<OperatorAction>,
    /// A disk is lost with all that it holds.
    pub(super) wipes_disk: bool,
    /// Whose journal may lose writes, from when on.
    left_alone: Option<(NodeIndex, u64)>,
}

struct Draw<'a> {
    random: &'a mut Random,
    waiting: &'a Waiting<'a>,
    end_ns: u64,
    fate: Fate,
    numbers: Numbers,
    aims: Aims,
}

/// Draws aims for one seed of two.
pub(super) fn draw(random: &mut Random, waiting: &Waiting<'_>) -> Aims {
    if !Class::Phases.is_due(random, ONE_AIMS_OF, waiting.wanted) {
        return Aims::default();
    }
    let fates = [
        Fate::Rots,
        Fate::Rots,
        Fate::LosesWrites,
        Fate::LosesWrites,
        Fate::Wiped,
    ];
    let fate = match waiting.goes_deep || waiting.victims.is_empty() {
        true => Fate::Other,
        false => fates[random.index(fates.len())],
    };
    let mut draw = Draw {
        random,
        waiting,
        fate,
        end_ns: u64::try_from(waiting.ground.safety.as_nanos()).expect("a run is short"),
        numbers: Numbers::AIMS,
        aims: Aims::default(),
    };
    let (least, most) = AIMS;
    for _ in 0..least + draw.random.below(most - least) {
        draw.aim();
    }
    let mut aims = draw.aims;
    if let Some((node, from_ns)) = aims.left_alone {
        leave_alone(node, from_ns, &mut aims.faults);
    }
    aims.splits.sort_by_key(|split| split.at_ns);
    aims.operators.sort_by_key(|action| action.at_ns);
    aims
}

impl Aims {
    /// Takes out of a plan's other faults what might end the life of a node whose journal loses
    /// writes.
    pub(super) fn keep_quiet(&self, faults: &mut Vec<TimedFault>) {
        if let Some((node, from_ns)) = self.left_alone {
            leave_alone(node, from_ns, faults);
        }
    }
}

impl Draw<'_> {
    fn aim(&mut self) {
        let after_damage = self.fate.phases();
        let lists = [Phase::ALL, RARE, after_damage];
        let victims = self.waiting.victims;
        let lists = &lists[..2 + usize::from(!victims.is_empty())];
        let list = lists[self.random.index(lists.len())];
        let phase = list[self.random.index(list.len())];
        let at_ns = self.random.below(self.end_ns * 9 / 10);
        let damages = !victims.is_empty() && self.random.chance(2, 5);
        let blow = match damages {
            true => DAMAGING[self.random.index(DAMAGING.len())],
            false => HARMLESS[self.random.index(HARMLESS.len())],
        };
        let any = self.random.below(u64::from(self.waiting.ground.nodes));
        let any = NodeIndex(u16::try_from(any).expect("few nodes"));
        let victim = victims.first().copied();
        let struck: Vec<NodeIndex> = match victim {
            Some(victim) if damages || after_damage.contains(&phase) => vec![victim],
            _ if ANYWHERE.contains(&phase) => self.nodes().collect(),
            _ => vec![any],
        };
        let blow = self.as_fated(blow, struck[0], at_ns);
        for node in &struck {
            let deep = self.fate == Fate::Rots;
            let ground = self.waiting.ground;
            let then = blows::strike(self.random, ground, &mut self.numbers, (blow, deep), *node);
            self.push(
                at_ns,
                FaultAction::AtPhase(*node, phase.name().to_owned(), then),
            );
        }
        // Whoever waits is there before what it waits for.
        self.bring_about(phase, at_ns + 1, struck[0], victim);
    }

    /// The blow, or a lighter one where the victim's fate is another.
    fn as_fated(&mut self, blow: Blow, victim: NodeIndex, at_ns: u64) -> Blow {
        if blow != Blow::LostJournal {
            return blow;
        }
        if self.fate != Fate::LosesWrites {
            return Blow::LostBlobs;
        }
        let before = self.aims.left_alone;
        let since_ns = before.map_or(at_ns, |(_, since_ns)| since_ns.min(at_ns));
        self.aims.left_alone = Some((victim, since_ns));
        blow
    }

    fn nodes(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..self.waiting.ground.nodes).map(NodeIndex)
    }

    fn milliseconds(&mut self, least: u64, more: u64) -> u64 {
        1_000_000 * (least + self.random.below(more))
    }

    fn push(&mut self, at_ns: u64, action: FaultAction) {
        self.aims.faults.push(TimedFault { at_ns, action });
    }

    /// Has happen what the phase comes of, if it is one that hardly comes otherwise.
    fn bring_about(
        &mut self,
        phase: Phase,
        at_ns: u64,
        node: NodeIndex,
        victim: Option<NodeIndex>,
    ) {
        match (phase, victim) {
            (Phase::Recovery, _) => self.restart(at_ns, node),
            (Phase::Retirement | Phase::Placement, _) => self.drain(at_ns, node),
            (Phase::SplitCopy | Phase::SplitClear, _) => {
                let which = u32::try_from(self.random.below(8)).expect("small");
                self.aims.splits.push(Split { at_ns, which });
            }
            (Phase::Refill, Some(victim)) => self.rot(DiskArea::Journal, at_ns, victim),
            // A state that cannot be read is given up, and the replica joins anew.
            (Phase::Membership, Some(victim)) => self.rot(DiskArea::Pages, at_ns, victim),
            (Phase::Repair, Some(victim)) => self.rot(DiskArea::Extents, at_ns, victim),
            (Phase::Formation, Some(victim)) => self.wipe(at_ns, victim),
            (Phase::SnapshotInstall, _) => {
                let until_ns = at_ns + self.milliseconds(1_500, 2_500);
                let pause = FaultAction::Pause(node);
                let paused = self.numbers.standing(at_ns, until_ns, pause);
                self.aims.faults.extend(paused);
            }
            _ => {}
        }
    }

    fn restart(&mut self, at_ns: u64, node: NodeIndex) {
        let crash = [Crash::KILL, Crash::POWER][self.random.index(2)];
        let until_ns = at_ns + self.milliseconds(50, 1_500);
        self.push(at_ns, FaultAction::Crash(node, crash));
        self.push(until_ns, FaultAction::Restart(node));
    }

    fn drain(&mut self, at_ns: u64, node: NodeIndex) {
        let until_ns = (at_ns + self.milliseconds(2_000, 5_000)).min(self.end_ns);
        let deed = OperatorDeed::Drain { node, until_ns };
        self.aims.operators.push(OperatorAction { at_ns, deed });
    }

    /// Bits that are read at the next start, or by the next reader.
    fn rot(&mut self, area: DiskArea, at_ns: u64, victim: NodeIndex) {
        if self.fate != Fate::Rots && area != DiskArea::Extents {
            return;
        }
        for _ in 0..ROTTEN_BITS {
            let choice = self.random.bits();
            self.push(at_ns, FaultAction::RotIn(victim, area, choice));
        }
        if area != DiskArea::Extents {
            self.restart(at_ns + 1, victim);
        }
    }

    /// An empty disk, once in a run: what a second one would take is what the first one's loss left.
    fn wipe(&mut self, at_ns: u64, victim: NodeIndex) {
        if self.fate != Fate::Wiped || self.aims.wipes_disk {
            return;
        }
        self.aims.wipes_disk = true;
        let until_ns = at_ns + self.milliseconds(100, 2_000);
        self.push(at_ns, FaultAction::Crash(victim, Crash::KILL));
        self.push(at_ns + 1, FaultAction::WipeDisk(victim));
        self.push(until_ns, FaultAction::Restart(victim));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use super::super::nemesis::Ground;

    const VICTIM: NodeIndex = NodeIndex(3);

    fn aims(seed: u64, victims: &[NodeIndex]) -> Aims {
        let ground = Ground {
            nodes: 5,
            racks: 3,
            safety: Duration::from_secs(25),
        };
        let waiting = Waiting {
            ground,
            victims,
            goes_deep: false,
            wanted: &[Class::Phases],
        };
        draw(&mut Random::from_seed(seed), &waiting)
    }

    fn damaged(faults: &[TimedFault]) -> Vec<NodeIndex> {
        let mut plan = super::super::Plan::plain();
        plan.faults = faults.to_vec();
        let script = super::super::Script::from(plan);
        let survival = super::super::survival::Survival::of(&script);
        survival.damaged().iter().copied().collect()
    }

    #[test]
    fn only_victims_are_damaged() {
        let mut some = 0;
        for seed in 0..200 {
            assert_eq!(damaged(&aims(seed, &[]).faults), []);
            let damaged = damaged(&aims(seed, &[VICTIM]).faults);
            some += damaged.len();
            assert!(damaged.iter().all(|node| *node == VICTIM));
        }
        assert!(some > 100);
    }

    #[test]
    fn nothing_ends_the_life_of_a_node_whose_journal_loses_writes() {
        let mut some = 0;
        for seed in 0..200 {
            let aims = aims(seed, &[VICTIM]);
            let Some((node, from_ns)) = aims.left_alone else {
                continue;
            };
            some += 1;
            let crash = |at_ns| TimedFault {
                at_ns,
                action: FaultAction::Crash(node, Crash::POWER),
            };
            let mut faults = vec![crash(from_ns), crash(u64::MAX)];
            aims.keep_quiet(&mut faults);
            assert_eq!(faults, []);
            assert!(!aims.wipes_disk);
        }
        assert!(some > 20);
    }
}
