//! Processes that die again and again shortly after each of their starts, for some seconds: in some seeds,
//! drawn from a stream of their own.
//!
//! Such a node is never through with what it begins at a start (its log, its replicas, its announcement,
//! what it lacks), and its peers hear of one start after the other. It costs availability only.

use hedgerow_env::Random;

use crate::world::{Crash, CrashLoop, FaultAction, NodeIndex, TimedFault};

use super::classes::Class;
use super::nemesis::{Ground, Numbers};

/// Of so many seeds one has crash loops.
const ONE_LOOPS_OF: u64 = 8;
/// The longest.
pub(super) const LOOP_MAXIMUM_NS: u64 = 8_000_000_000;
/// Lives end before anything was read, in the midst of recovery, or some time after it.
const LIVES_NS: [u64; 4] = [3_000_000, 40_000_000, 300_000_000, 1_200_000_000];
/// Between two lives, in milliseconds.
const DOWN_MS: [u64; 3] = [100, 250, 900];

/// Draws one loop or two.
pub(super) fn draw(random: &mut Random, ground: Ground, wanted: &[Class]) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    if !Class::CrashLoops.is_due(random, ONE_LOOPS_OF, wanted) {
        return faults;
    }
    let end_ns = u64::try_from(ground.safety.as_nanos()).expect("a run is short");
    let mut numbers = Numbers::CRASH_LOOPS;
    for _ in 0..=random.below(2) {
        let node = random.below(u64::from(ground.nodes));
        let node = NodeIndex(u16::try_from(node).expect("few nodes"));
        let rule = CrashLoop {
            crash: [Crash::KILL, Crash::POWER, Crash::RESET][random.index(3)],
            life_ns: LIVES_NS[random.index(LIVES_NS.len())],
            down_ns: 1_000_000 * DOWN_MS[random.index(DOWN_MS.len())],
        };
        let at_ns = random.below(end_ns);
        let length_ns = LOOP_MAXIMUM_NS / 4 + random.below(LOOP_MAXIMUM_NS * 3 / 4);
        let until_ns = at_ns + length_ns;
        faults.extend(numbers.standing(at_ns, until_ns, FaultAction::CrashLoop(node, rule)));
        // It may be between two lives.
        faults.push(TimedFault {
            at_ns: until_ns + 1,
            action: FaultAction::Restart(node),
        });
    }
    faults
}
