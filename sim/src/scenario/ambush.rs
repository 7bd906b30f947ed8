//! Ambushes: whoever holds the disk is cut off from the root, another proxy takes the disk, and the
//! former holder goes on as if it knew nothing of it.
//!
//! Invariant: ambushes never overlap, and the disk moves nowhere else during one.
//! Does not: know who leads the root or a shard when it strikes; it only draws who may.

use crate::world::{FaultAction, LinkRules, NodeIndex};

use super::nemesis::{CUT, Draw, Kind};
use super::plan::Move;

/// Longer than a lease and the wait for its end, so that another holder comes in.
const AMBUSH_NS: u64 = 9_000_000_000;
/// What may come before an ambush cuts the holder off.
const AMBUSH_PRELUDE_NS: u64 = 2_500_000_000;
/// The disk stays where it is for so long before an ambush: its holder must be one by then, also
/// when it had to wait for the end of another's lease.
const AMBUSH_CALM_NS: u64 = 5_000_000_000;
/// A holder that comes in reads for so long before it writes, as long as the ambush lasts: what it
/// remembers of its first reads is what the former holder's writes must not have made stale.
const LONG_RECOVERY_NS: u64 = 2_500_000_000;
/// How fast and slow the clocks of an ambush go; the bound is 100,000.
const EXTREME_DRIFT_PPM: i32 = 98_000;

impl Draw<'_> {
    /// Who the plan has hold the disk at `at`.
    pub(super) fn holder(&self, at: u64) -> NodeIndex {
        let before = self.moves.iter().filter(|one| one.at_ns <= at);
        before
            .max_by_key(|one| one.at_ns)
            .map_or(NodeIndex(0), |one| one.to)
    }

    /// A node other than `node`.
    pub(super) fn beside(&mut self, node: NodeIndex) -> NodeIndex {
        let step = 1 + u16::try_from(self.random.below(u64::from(self.nodes) - 1)).expect("small");
        NodeIndex((node.0 + step) % self.nodes)
    }

    /// Another node takes the disk at `at_ns` while the holder goes on.
    fn take_over(&mut self, at_ns: u64, to: NodeIndex, recovery_ns: u64) {
        self.moves.push(Move {
            at_ns,
            to,
            former_goes_on_ns: AMBUSH_NS,
            recovery_ns: Some(recovery_ns),
        });
    }

    pub(super) fn cut(&mut self, at: u64, until: u64, one: NodeIndex, other: NodeIndex) {
        self.link(at, until, one, other, CUT);
        self.link(at, until, other, one, CUT);
    }

    /// An ambush that has the time that it takes: from the end of a lease to work of the next
    /// holder. Until then the disk moves nowhere else.
    pub(super) fn ambush(&mut self, kind: Kind, mut at: u64) {
        let mut moved = None;
        if self.holder(at) == NodeIndex(0) {
            // A holder that leads the root, as the first node does at first, needs nobody's answer.
            moved = Some(Move::of_released(at, self.beside(NodeIndex(0))));
            at += AMBUSH_CALM_NS;
        }
        let until = at + AMBUSH_PRELUDE_NS + AMBUSH_NS;
        if at < self.ambushed_until || until > self.end {
            return;
        }
        self.ambushed_until = until;
        self.moves
            .retain(|one| one.at_ns + AMBUSH_CALM_NS < at || one.at_ns > until);
        self.moves.extend(moved);
        if kind == Kind::LateRenewal {
            self.late_renewal(at);
        } else {
            self.ambush_holder(at);
        }
    }

    /// The holder loses some nodes, perhaps the root's leader among them, but not all; the news of
    /// that spreads slowly or not everywhere; and another proxy, which everyone hears, takes the
    /// disk.
    fn ambush_holder(&mut self, at: u64) {
        let holder = self.holder(at);
        let until = at + AMBUSH_NS;
        // The first node founded the root, and leads it until something happens to it.
        let lost = if holder != NodeIndex(0) && self.random.chance(5, 6) {
            NodeIndex(0)
        } else {
            self.beside(holder)
        };
        let mut taker = self.beside(holder);
        while taker == lost {
            taker = self.beside(holder);
        }
        self.cut(at, until, holder, lost);
        let rest = self.all().into_iter();
        let rest: Vec<_> = rest
            .filter(|one| ![holder, taker, lost].contains(one))
            .collect();
        // One more is lost to it at most: it is to keep its majority, and to lead on if it leads.
        if !rest.is_empty() {
            let other = rest[self.random.index(rest.len())];
            self.cut(at, until, lost, other);
        }
        if self.random.chance(1, 3) {
            for other in rest {
                if self.random.chance(1, 2) {
                    self.cut(at, until, holder, other);
                }
            }
        }
        if self.random.chance(1, 4) {
            self.links(Kind::GrayLinks, at + 1, until);
        }
        let after = at + 1_000_000 * self.random.below(1_000);
        self.take_over(after, taker, LONG_RECOVERY_NS);
    }

    /// Answers reach the holder late, then nothing of its reaches anyone: its last renewal counts
    /// from long before it heard of it. Its clock is slow, the others' are fast.
    fn late_renewal(&mut self, at: u64) {
        let holder = self.holder(at);
        let silent = at + AMBUSH_PRELUDE_NS - 1_000_000 * self.random.below(1_000);
        let until = silent + AMBUSH_NS;
        let late = LinkRules {
            delay_ns: 1_000_000 * (300 + self.random.below(700)),
            ..LinkRules::default()
        };
        for other in self.all().into_iter().filter(|other| *other != holder) {
            self.push(at, FaultAction::Drift(other, EXTREME_DRIFT_PPM));
            self.link(at, until, other, holder, late);
            self.link(silent, until, holder, other, CUT);
        }
        self.push(at, FaultAction::Drift(holder, -EXTREME_DRIFT_PPM));
        let after = silent + 1_000_000 * self.random.below(500);
        let taker = self.beside(holder);
        // What the former holder still believes shows only against what the next one has written.
        self.take_over(after, taker, 0);
    }
}
