//! Stories of power that fails, one node at a time, under disks that keep little of what they were given.
//!
//! A mix takes the power from a node now and then, with quick disks: what was answered before its sync is
//! nearly always synced by then. Here disks are slow, as a rule keep nothing but what was synced, and the
//! power fails at what the journal, the extents and the superblock are afraid of: behind a sync that has
//! failed, in the life after a crash, in the midst of a start. Each store is compared with its shards in
//! the moment in which it opens ([`openings`](crate::oracles::openings)). In some the power fails, over and over,
//! while one and the same thing is finished: a segment of an extent, or the pages of a metadata replica.
//!
//! Invariants: one node is struck at a time, never the one that holds the disk, so that clients go on; no
//! disk loses what it has synced; a seed that tells no such story has the plan that it would have without.

use std::time::Duration;

use hedgerow_env::{Phase, Random};

use crate::world::{Crash, DiskArea, DiskFaults, FaultAction, NodeIndex, Survival};

use super::nemesis::{Draw, Ground};
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds one tells such a story.
const ONE_TELLS_OF: u64 = 8;
/// Of so many others one tells of what is torn in the midst.
const ONE_TEARS_OF: u64 = 20;
/// The shortest safety phase.
const SHORTEST_MS: u64 = 24_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// From the beginning of one round to that of the next, at most.
const ROUND_NS: u64 = 5_500_000_000;
/// The longest pause of clients in a hurry.
const HURRY: Duration = Duration::from_millis(2);
/// Syncs that fail, in parts per million, while they do.
const FAILED_SYNCS_PPM: u32 = 150_000;
/// Disk calls until the power fails at one, at most: of a second or two.
const CALLS: u64 = 600;
/// Starts that are struck, one after the other, have disks so many times slower than usual, and take this
/// long until the superblock is written.
const START_SLOW_FACTOR: u32 = 10;
const START_NS: u64 = 110_000_000;
/// A superblock with so many starts is longer than one sector, which is never torn.
const WEARING_STARTS: u32 = 16;
/// Each of these lives lasts so long.
const WEARING_NS: u64 = 90_000_000;
/// What compaction moves is without a sync of its own for this long, at most.
const COMPACTION_NS: u64 = 600_000_000;
/// A process that dies in a flush dies at one of so many calls of its disk, and a seal takes so many.
const FLUSH_CALLS: u64 = 3;
const SEAL_CALLS: u64 = 5;
/// By then it has died.
const FLUSH_NS: u64 = 150_000_000;
/// The states of some replicas are written back in so many calls.
const WRITE_BACK_CALLS: u64 = 100;
/// Containers of the disk.
const CONTAINERS: u32 = 6;
/// Between two blows that wait for a phase.
const ROUND_AT_PHASE_NS: u64 = 900_000_000;
/// A disk that stalls is so many times slower than usual: a sync takes 0.3 to 1.2 s.
const STALLED_FACTORS: [u32; 3] = [800, 1_500, 3_000];
/// Blobs of this size fill a segment of the journal in few frames.
const LARGE_BLOCK_BYTES: u32 = 65_536;
/// The smallest journal, in segments: it goes round every few seconds.
const SMALL_JOURNAL: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// The power fails, at any time.
    Dark,
    /// The power fails at one disk call or another, three times.
    BetweenCalls,
    /// Syncs of the journal fail, and soon the power.
    FailedSync,
    /// The process dies and begins anew; what it then found in the cache is gone with the power.
    TwoCrashes,
    /// The power fails in the midst of a start, several times; in stories of their own.
    AtStart,
    /// The power fails when compaction has moved something.
    Compaction,
    /// The process dies while it moves blobs into extents, and the power fails when the next start finishes what
    /// it finds; in stories of their own.
    AtSeal,
    /// The power fails while a replica of Pages writes its state back; in stories of their own.
    AtWriteBack,
    /// All disks take a second for a sync, so that requests come again while they are carried out.
    Stall,
}

const BLOWS: [Blow; 7] = [
    Blow::Stall,
    Blow::Dark,
    Blow::Compaction,
    Blow::BetweenCalls,
    Blow::BetweenCalls,
    Blow::FailedSync,
    Blow::TwoCrashes,
];

/// What a story is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// One blow after the other, each another one.
    Mixed,
    /// The same one each time, on the same node.
    Each(Blow),
}

/// What is torn in the midst.
const TORN: [Blow; 2] = [Blow::AtSeal, Blow::AtWriteBack];

/// Draws such a story for one seed of eight, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    random
        .chance(1, ONE_TELLS_OF)
        .then(|| tell(random, ground, None))
}

/// Draws a story of segments and pages that are torn while they are finished, for one seed of twenty.
pub(super) fn draw_torn(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    random.chance(1, ONE_TEARS_OF).then(|| {
        let blow = TORN[random.index(TORN.len())];
        tell(random, ground, Some(blow))
    })
}

/// A story of one blow, or of one kind of story or another.
fn tell(random: &mut Random, ground: &mut Ground, each: Option<Blow>) -> Story {
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    let is_slow = draw.fail_power(each);
    // Small journals that small commits go round in sooner than their blobs fill an extent; large ones
    // whose frames differ in size.
    let goes_round = draw.random.chance(1, 2);
    let work = Work {
        // Slow disks have several frames in flight only where many write.
        clients: Some(if is_slow { 12 } else { 4 }),
        // Sessions that are cut would release the disk.
        initiators: Some(0),
        pause: Some(HURRY),
        // What is lost is not soon overwritten.
        hot_blocks: Some(48 + draw.random.below(40)),
        block_size: match (goes_round, draw.random.chance(1, 2)) {
            (true, _) => Some(512),
            (false, true) => Some(LARGE_BLOCK_BYTES),
            (false, false) => None,
        },
        journal_segments: goes_round.then_some(SMALL_JOURNAL),
        watches_openings: true,
        ..Work::default()
    };
    let setting = Setting {
        // Whoever is struck is a member of some.
        containers: (each == Some(Blow::AtSeal)).then_some(CONTAINERS),
        ..Setting::default()
    };
    Story::of(draw, work, setting)
}

impl Draw<'_> {
    /// Answers whether disks are slow.
    fn fail_power(&mut self, each: Option<Blow>) -> bool {
        let holder = self.settle();
        let theme = match each {
            Some(blow) => Theme::Each(blow),
            None if self.random.chance(1, 4) => Theme::Each(Blow::AtStart),
            None => Theme::Mixed,
        };
        let slow_factor = match theme {
            Theme::Each(_) => 1,
            Theme::Mixed => [1, 10, 40, 40][self.random.index(4)],
        };
        for node in self.all() {
            let slow = DiskFaults {
                slow_factor,
                ..DiskFaults::default()
            };
            self.push(SETTLED_NS / 2, FaultAction::Disk(node, slow));
        }
        let mut at = SETTLED_NS + self.milliseconds(500, 2_000);
        let worn = self.beside(holder);
        if theme == Theme::Each(Blow::AtStart) {
            at = self.wear(at, worn);
        }
        while at + ROUND_NS < self.end {
            let (victim, blow) = match theme {
                Theme::Each(blow) => (worn, blow),
                Theme::Mixed => (self.beside(holder), BLOWS[self.random.index(BLOWS.len())]),
            };
            let over = self.strike_power(blow, victim, at);
            at = over + self.milliseconds(400, 1_200);
        }
        slow_factor > 1
    }

    /// Strikes; answers when the node has been started for good.
    fn strike_power(&mut self, blow: Blow, victim: NodeIndex, at: u64) -> u64 {
        let kept = match blow {
            // Both copies of a superblock are torn only sector by sector.
            Blow::AtStart | Blow::AtWriteBack => Some(Survival::Sectors),
            // A footer as a whole, and not what it speaks of.
            Blow::AtSeal => Some([Survival::Changes, Survival::Sectors][self.random.index(2)]),
            Blow::Compaction | Blow::Stall => Some(Survival::Nothing),
            _ if self.random.chance(1, 2) => Some(Survival::Nothing),
            // Any, drawn for each loss.
            _ => None,
        };
        let slow_factor = match blow {
            Blow::AtStart => START_SLOW_FACTOR,
            _ => 0,
        };
        let forgets = DiskFaults {
            survival: kept,
            slow_factor,
            ..DiskFaults::default()
        };
        let over = match blow {
            Blow::Dark => self.darken(at, victim),
            Blow::FailedSync => self.fail_sync(at, victim),
            Blow::TwoCrashes => {
                let back = at + self.milliseconds(1, 40);
                self.down(at, back, victim, Crash::KILL);
                self.darken(back + 200_000_000, victim)
            }
            Blow::AtStart => self.crash_at_starts(at, victim),
            Blow::AtSeal => self.crash_at_seal(at, victim),
            Blow::AtWriteBack => self.crash_at_write_back(at, victim),
            Blow::BetweenCalls => self.crash_at_calls(at, victim),
            Blow::Compaction => self.crash_behind_compaction(at, victim),
            Blow::Stall => self.stall(at, victim),
        };
        // What waits for a phase may come late.
        let until = match TORN.contains(&blow) {
            true => over + ROUND_AT_PHASE_NS,
            false => over,
        };
        self.stand(at, until, FaultAction::Disk(victim, forgets));
        over
    }

    fn darken(&mut self, at: u64, victim: NodeIndex) -> u64 {
        let dark = at + self.milliseconds(200, 900);
        let over = dark + self.milliseconds(60, 800);
        self.down(dark, over, victim, Crash::POWER);
        over
    }

    fn stall(&mut self, at: u64, victim: NodeIndex) -> u64 {
        let until = at + self.milliseconds(2_000, 2_000);
        for node in self.all() {
            let stalls = DiskFaults {
                slow_factor: STALLED_FACTORS[self.random.index(STALLED_FACTORS.len())],
                ..DiskFaults::default()
            };
            self.stand(at, until, FaultAction::Disk(node, stalls));
        }
        let from = at + self.milliseconds(300, 1_400);
        self.darken(from, victim).max(until)
    }

    fn fail_sync(&mut self, at: u64, victim: NodeIndex) -> u64 {
        let fails = DiskFaults {
            sync_error_ppm: FAILED_SYNCS_PPM,
            area: DiskArea::Journal,
            ..DiskFaults::default()
        };
        let until = at + self.milliseconds(50, 150);
        self.stand(at, until, FaultAction::Disk(victim, fails));
        // It has stopped over its disk, as it should.
        self.push(until + 1_000_000, FaultAction::Restart(victim));
        self.darken(at, victim)
    }

    /// Has a node start many times.
    fn wear(&mut self, mut at: u64, node: NodeIndex) -> u64 {
        for _ in 0..WEARING_STARTS {
            self.down(at, at + 1_000_000, node, Crash::KILL);
            at += WEARING_NS;
        }
        at
    }

    fn crash_at_starts(&mut self, mut at: u64, victim: NodeIndex) -> u64 {
        self.push(at, FaultAction::Crash(victim, Crash::POWER));
        for _ in 0..6 {
            at += 1_000_000;
            self.push(at, FaultAction::Restart(victim));
            at += 1 + self.random.below(START_NS);
            self.push(at, FaultAction::Crash(victim, Crash::POWER));
        }
        at += self.milliseconds(1, 100);
        self.push(at, FaultAction::Restart(victim));
        at + START_NS
    }

    /// Some lives that end at a disk call.
    fn crash_at_calls(&mut self, mut at: u64, victim: NodeIndex) -> u64 {
        for _ in 0..3 {
            self.push(at, FaultAction::Restart(victim));
            let calls = 20 + self.random.below(CALLS);
            let crash = FaultAction::CrashAfterCalls(victim, calls, Crash::POWER);
            self.push(at + 1, crash);
            at += self.milliseconds(900, 300);
        }
        self.push(at, FaultAction::Restart(victim));
        at
    }

    /// Dies behind a call of a flush, and loses power behind one of the next seal.
    fn crash_at_seal(&mut self, at: u64, victim: NodeIndex) -> u64 {
        let dies = 1 + self.random.below(FLUSH_CALLS);
        let dark = 1 + self.random.below(SEAL_CALLS);
        let back = self.milliseconds(1, 40);
        self.at_phase(at, victim, Phase::Flush, |draw| {
            draw.push(1, FaultAction::CrashAfterCalls(victim, dies, Crash::KILL));
            draw.push(back + FLUSH_NS, FaultAction::Restart(victim));
        });
        self.at_phase(at, victim, Phase::Seal, |draw| {
            draw.push(1, FaultAction::CrashAfterCalls(victim, dark, Crash::POWER));
            draw.push(back + FLUSH_NS, FaultAction::Restart(victim));
        });
        at + ROUND_AT_PHASE_NS
    }

    fn crash_at_write_back(&mut self, at: u64, victim: NodeIndex) -> u64 {
        let dark = 1 + self.random.below(WRITE_BACK_CALLS);
        self.at_phase(at, victim, Phase::WriteBack, |draw| {
            draw.push(1, FaultAction::CrashAfterCalls(victim, dark, Crash::POWER));
            draw.push(FLUSH_NS, FaultAction::Restart(victim));
        });
        // Whoever starts writes back what its log holds.
        let back = at + self.milliseconds(2, 40);
        self.down(at + 1, back, victim, Crash::KILL);
        at + ROUND_AT_PHASE_NS
    }

    /// What comes so long after the victim's next phase of this kind.
    fn at_phase(&mut self, at: u64, victim: NodeIndex, phase: Phase, what: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.faults);
        what(self);
        let then = std::mem::replace(&mut self.faults, before);
        let phase = phase.name().to_owned();
        self.push(at, FaultAction::AtPhase(victim, phase, then));
    }

    fn crash_behind_compaction(&mut self, at: u64, victim: NodeIndex) -> u64 {
        let over = at + self.milliseconds(2_000, 1_000);
        let dark = 1 + self.random.below(COMPACTION_NS);
        self.at_phase(at, victim, Phase::Compaction, |draw| {
            draw.down(dark, dark + 100_000_000, victim, Crash::POWER);
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn whoever_loses_power_comes_back_in_time_and_no_disk_is_damaged() {
        let torn = told(0..400, draw_torn);
        assert!((8..40).contains(&torn.len()), "{} of 400", torn.len());
        let all = told(0..400, draw);
        let count = all.len();
        for (story, ground) in all.into_iter().chain(torn) {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(story.faults.iter().all(|fault| fault.at_ns < end));
            let all = story.faults.iter().flat_map(|fault| match &fault.action {
                FaultAction::AtPhase(_, _, then) => {
                    then.iter().map(|fault| &fault.action).collect()
                }
                action => vec![action],
            });
            let all: Vec<&FaultAction> = all.collect();
            let count = |wanted: fn(&FaultAction) -> bool| {
                all.iter().filter(|action| wanted(action)).count()
            };
            let crashes = count(|action| matches!(action, FaultAction::Crash(..)));
            let restarts = count(|action| matches!(action, FaultAction::Restart(_)));
            assert!(restarts >= 3 && restarts >= crashes);
            let mut plan = super::super::Plan::plain();
            plan.faults = story.faults;
            let script = super::super::Script::from(plan);
            let survival = super::super::survival::Survival::of(&script);
            assert!(survival.damaged().is_empty());
        }
        assert!((25..80).contains(&count), "{count} of 400");
    }
}
