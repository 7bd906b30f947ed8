//! Stories of answers that do not come, and of commands that come when all is over.
//!
//! A proxy tries a command for five seconds before it asks what became of it. What a shard must
//! remember of a name for that question, and for a copy of the command that arrives behind it, shows
//! only when nothing is answered for longer than that. In a mix of faults this is as good as never so
//! while a client has cancelled its write, the lease lives on, and the block is left alone afterwards.
//!
//! Invariant: a seed that tells none of these has the plan that it would have without them.

use std::num::NonZeroU64;
use std::time::Duration;

use hedgerow_env::{Phase, Random};

use crate::world::{FaultAction, LinkRules, NodeIndex};

use super::nemesis::{CUT, Draw, Ground};
use super::plan::Move;
use super::stories::{SETTLED_NS, Setting, Story, Work};

/// Of so many seeds one tells such a story.
const ONE_TELLS_OF: u64 = 6;
/// The shortest safety phase: three rounds.
const SHORTEST_MS: u64 = 30_000;
/// By how much it may be longer.
const LONGER_MS: u64 = 8_000;
/// A round of silence that another proxy ends ends this long before the phase, at least.
const LAST_ROUND_NS: u64 = 4_000_000_000;
/// Every write is cancelled, sooner or later; most are done by then.
const ONE_CANCELS_OF: NonZeroU64 = NonZeroU64::new(1).expect("not zero");
/// A COMMIT that begins is under way for so long, at least.
const COMMIT_NS: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    /// The holder is heard and hears nothing, for longer than a command is tried. In some rounds
    /// another proxy takes the disk meanwhile.
    Deaf,
    /// Most of what the holder says is held back for up to many seconds, and the disk moves on.
    HeldBack,
}

/// Draws such a story for one seed of six, and gives it the time that it takes.
pub(super) fn draw(random: &mut Random, ground: &mut Ground) -> Option<Story> {
    if !random.chance(1, ONE_TELLS_OF) {
        return None;
    }
    let theme = [Theme::Deaf, Theme::HeldBack][random.index(2)];
    ground.safety = Duration::from_millis(SHORTEST_MS + random.below(LONGER_MS));
    let mut moves = Vec::new();
    let mut draw = Draw::new(random, *ground, &mut moves);
    match theme {
        Theme::Deaf => draw.deafen(),
        Theme::HeldBack => draw.hold_back(),
    }
    // What comes late is refused for its name alone while its writer says nothing else: few operations
    // there, and many where as many as possible are to be under way when the silence begins.
    let (clients, pause) = match theme {
        Theme::Deaf => (10, Duration::from_millis(5)),
        Theme::HeldBack => (8, Duration::from_millis(1_500)),
    };
    let work = Work {
        clients: Some(clients),
        // Sessions that are cut would release the disk.
        initiators: Some(0),
        pause: Some(pause),
        // A block is left alone for long: what comes late is not soon overwritten.
        hot_blocks: Some(48 + draw.random.below(40)),
        one_cancels_of: Some(ONE_CANCELS_OF),
        ..Work::default()
    };
    Some(Story::of(draw, work, Setting::default()))
}

impl Draw<'_> {
    /// Everybody but one node.
    fn all_beside(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let all = self.all().into_iter();
        all.filter(|other| *other != node).collect()
    }

    fn deafen(&mut self) {
        let mut holder = self.settle();
        let mut at = SETTLED_NS + self.milliseconds(0, 1_500);
        loop {
            let is_taken = holder != NodeIndex(0) && self.random.chance(2, 3);
            let length = match is_taken {
                // Longer than a command is tried, and no longer than the lease lives on by renewals
                // that are heard.
                false => self.milliseconds(5_200, 1_600),
                // Longer than the lease, too.
                true => self.milliseconds(9_000, 2_000),
            };
            if at + length + LAST_ROUND_NS > self.end {
                return;
            }
            self.deafen_at_commit(at, length, holder);
            if is_taken {
                let taker = self.beside(holder);
                let at_ns = at + self.milliseconds(0, 1_000);
                let recovery_ns = self.milliseconds(0, 2_500);
                self.moves.push(Move {
                    at_ns,
                    to: taker,
                    former_goes_on_ns: length + SETTLED_NS,
                    recovery_ns: Some(recovery_ns),
                });
                holder = taker;
            }
            at += length + self.milliseconds(2_000, 1_500);
        }
    }

    /// From the holder's next COMMIT on it hears nobody for `length_ns`. The first node, which leads
    /// the root at first, is heard again last: what has become of the lease, too.
    fn deafen_at_commit(&mut self, at: u64, length_ns: u64, holder: NodeIndex) {
        let before = std::mem::take(&mut self.faults);
        let begin = self.random.below(COMMIT_NS);
        for other in self.all_beside(holder) {
            let longer_ns = match other {
                NodeIndex(0) => self.milliseconds(0, 1_500),
                _ => self.milliseconds(0, 300),
            };
            self.link(begin, length_ns + longer_ns, other, holder, CUT);
        }
        let then = std::mem::replace(&mut self.faults, before);
        let commit = Phase::Commit.name().to_owned();
        self.push(at, FaultAction::AtPhase(holder, commit, then));
    }

    /// Each round a holder comes in whose words are held back at times, and another one takes its place soon.
    /// From a COMMIT on nearly all that this one says is held back, for as long as a command is tried;
    /// what it says behind that overtakes it.
    fn hold_back(&mut self) {
        let mut holder = NodeIndex(0);
        let mut at = self.milliseconds(100, 500);
        while at + 2 * LAST_ROUND_NS < self.end {
            let settled = at + self.milliseconds(2_500, 1_500);
            let at_times = self.held_back(200, 400);
            holder = self.move_on(at, holder);
            for other in self.all_beside(holder) {
                self.link(at, settled, holder, other, at_times);
            }
            holder = self.move_on(settled, holder);
            let length_ns = self.milliseconds(5_000, 1_000);
            let nearly_all = self.held_back(850, 100);
            let before = std::mem::take(&mut self.faults);
            for other in self.all_beside(holder) {
                self.link(0, length_ns, holder, other, nearly_all);
            }
            let then = std::mem::replace(&mut self.faults, before);
            let commit = Phase::Commit.name().to_owned();
            let used = settled + self.milliseconds(1_500, 1_500);
            self.push(used, FaultAction::AtPhase(holder, commit, then));
            at = used + length_ns + self.milliseconds(1_500, 2_000);
        }
    }

    /// The disk is released and goes to some other node.
    fn move_on(&mut self, at: u64, holder: NodeIndex) -> NodeIndex {
        let next = self.beside(holder);
        let at_ns = at + self.milliseconds(0, 500);
        self.moves.push(Move::of_released(at_ns, next));
        next
    }

    /// Rules that hold back so many messages of a thousand.
    fn held_back(&mut self, least: u64, more: u64) -> LinkRules {
        let often = least + self.random.below(more);
        LinkRules {
            reorder_ppm: 1_000 * u32::try_from(often).expect("small"),
            reorder_ns: self.milliseconds(8_000, 6_000),
            ..LinkRules::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stories::told;
    use super::*;

    #[test]
    fn stories_end_in_time_and_move_the_disk_in_order() {
        let all = told(0..300, draw);
        assert!((30..80).contains(&all.len()), "{} of 300", all.len());
        for (story, ground) in all {
            let end = u64::try_from(ground.safety.as_nanos()).expect("short");
            assert!(!story.faults.is_empty());
            assert!(story.faults.is_sorted_by_key(|fault| fault.at_ns));
            assert!(story.moves.is_sorted_by_key(|one| one.at_ns));
            assert!(story.moves.iter().all(|one| one.at_ns < end));
        }
    }
}
