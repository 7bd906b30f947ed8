//! Stories of leases: a holder that comes back when its lease has ended, and words of attachment that come late.
//!
//! What the root refuses to a session whose lease it ended matters only to a holder that was cut off for longer
//! than a lease and its wait, and is used again while another one holds the disk. What it refuses of an attach
//! or a release that comes late matters only when the same session has attached the disk anew by then.
//!
//! Invariant: a seed that tells none of these has the plan that it would have without them.

use std::time::Duration;

use hedgerow_env::Random;

use crate::world::{LinkRules, NodeIndex};

use super::nemesis::{Draw, Ground};
use super::plan::Move;
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds one tells such a story.
const ONE_TELLS_OF: u64 = 10;
/// The shortest safety phase: two rounds.
const SHORTEST_MS: u64 = 30_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// A holder that comes back is used for so long beside the next one.
const BESIDE_NS: u64 = 4_000_000_000;
/// Of a round of late words: from the first of them to the last.
const LATE_NS: u64 = 9_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// The holder hears and is heard by nobody until its lease has ended and another one has written.
    LeftBehind,
    /// The holder releases the disk and attaches it again at once, while what it says comes out of order and
    /// seconds late. Then another one wants the disk.
    LateWords,
}

/// Draws such a story for one seed of ten, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    if !random.chance(1, ONE_TELLS_OF) {
        return None;
    }
    let theme = [Theme::LeftBehind, Theme::LateWords][random.index(2)];
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    match theme {
        Theme::LeftBehind => draw.leave_behind(),
        Theme::LateWords => draw.speak_late(),
    }
    // A release waits for what is under way.
    let (clients, pause) = match theme {
        Theme::LeftBehind => (6, Duration::from_millis(10)),
        Theme::LateWords => (2, Duration::from_millis(100)),
    };
    let work = Work {
        clients: Some(clients),
        // Sessions that are cut would release the disk.
        initiators: Some(0),
        pause: Some(pause),
        // Few enough that whoever comes back has read most of them.
        hot_blocks: Some(6 + draw.random.below(10)),
        // What is given up is under way all the same.
        patience: match theme {
            Theme::LeftBehind => None,
            Theme::LateWords => Some(Duration::from_millis(100 + draw.random.below(500))),
        },
        ..Work::default()
    };
    Some(Story::of(draw, work, Setting::default()))
}

impl Draw<'_> {
    fn leave_behind(&mut self) {
        let mut holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(0, 1_500);
        loop {
            let until = at + self.milliseconds(7_500, 3_000);
            if until + BESIDE_NS > self.end {
                return;
            }
            for other in self.all() {
                if other != holder {
                    self.cut(at, until, holder, other);
                }
            }
            let to = self.beside(holder);
            let at_ns = at + self.milliseconds(0, 1_500);
            self.moves.push(Move {
                at_ns,
                to,
                former_goes_on_ns: until - at + BESIDE_NS,
                recovery_ns: Some(0),
            });
            holder = to;
            at = until + BESIDE_NS + self.milliseconds(500, 1_500);
        }
    }

    fn speak_late(&mut self) {
        let mut holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(0, 1_500);
        while at + LATE_NS < self.end {
            let away = self.beside(holder);
            let released = at + self.milliseconds(100, 400);
            let back = released + self.milliseconds(50, 1_000);
            // Late are the release and, at times, the first attaches; a later attach is not.
            let until = back + self.milliseconds(0, 2_500);
            let often = 400 + self.random.below(500);
            let late = LinkRules {
                reorder_ppm: 1_000 * u32::try_from(often).expect("small"),
                reorder_ns: self.milliseconds(2_000, 4_000),
                ..LinkRules::default()
            };
            // The first node founded the root, and leads it in such a seed.
            self.link(at, until, holder, NodeIndex(0), late);
            self.moves.push(Move::of_released(released, away));
            self.moves.push(Move::of_released(back, holder));
            let mut next = self.beside(holder);
            while next == NodeIndex(0) {
                next = self.beside(holder);
            }
            let at_ns = back + self.milliseconds(2_500, 2_500);
            self.moves.push(Move {
                at_ns,
                to: next,
                former_goes_on_ns: SETTLED_NS,
                recovery_ns: None,
            });
            holder = next;
            at += LATE_NS + self.milliseconds(0, 1_500);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn stories_end_in_time_and_move_the_disk_in_order() {
        let all = told(0..400, draw);
        assert!((20..70).contains(&all.len()), "{} of 400", all.len());
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(story.moves.len() >= 2);
            assert!(story.faults.is_sorted_by_key(|fault| fault.at_ns));
            assert!(story.moves.is_sorted_by_key(|one| one.at_ns));
            assert!(story.moves.iter().all(|one| one.at_ns < end));
        }
    }
}
