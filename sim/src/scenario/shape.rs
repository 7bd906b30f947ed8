//! Clusters of unusual shapes, and nodes with figures at their extremes: each in some seeds, from
//! streams of their own.
//!
//! Invariants: every shape can hold the first disk's copies; large clusters are rare and their runs
//! shorter, so that a seed costs as much as another on the whole.

use std::time::Duration;

use hedgerow_env::Random;
use hedgerow_node::{Extremes, GroupTiming};
use serde::{Deserialize, Serialize};

use super::classes::Class;

/// Of so many seeds one has an unusual shape.
const ONE_UNUSUAL_OF: u64 = 8;
/// Of so many seeds one has tunables at their extremes.
const ONE_EXTREME_OF: u64 = 5;
/// Of so many seeds one has stores that sweep as rarely as on servers.
const ONE_RARELY_SWEPT_OF: u64 = 3;
/// Between two sweeps of a server's store.
const RARE_SWEEPS_S: u64 = 1_800;
/// The largest cluster that is drawn.
const NODES_MAXIMUM: u16 = 15;
/// A cluster of more nodes than this is large.
const LARGE: u16 = 8;

/// An unusual shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) nodes: u16,
    pub(super) racks: u16,
    pub(super) data_centres: u16,
}

impl Shape {
    /// How long faults strike at most.
    pub(super) fn longest(self) -> Duration {
        match self.nodes {
            ..=LARGE => Duration::from_secs(35),
            _ => Duration::from_secs(16),
        }
    }
}

/// Draws a shape for some seeds: 3 to 15 nodes over 1 to 8 racks and 1 to 5 data centres.
pub(super) fn draw(random: &mut Random, replication_factor: u8, wanted: &[Class]) -> Option<Shape> {
    if !Class::Shapes.is_due(random, ONE_UNUSUAL_OF, wanted) {
        return None;
    }
    let least = u16::from(replication_factor).max(3);
    // Half of them small: the fewer nodes, the less there is to choose from.
    let most = if random.chance(1, 2) {
        5
    } else {
        NODES_MAXIMUM
    };
    let more = u64::from(most.saturating_sub(least)) + 1;
    let mut upto = |most: u64| 1 + u16::try_from(random.below(most)).expect("small");
    let nodes = least + upto(more) - 1;
    let racks = upto(8).min(nodes);
    Some(Shape {
        nodes,
        racks,
        data_centres: upto(5).min(racks),
    })
}

/// Figures of every node that are not as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tunables {
    /// Segments of a journal, of 512 KiB each.
    pub journal_segments: u64,
    /// Bytes of records that a journal keeps in memory.
    pub journal_memory_bytes: usize,
    /// Entries after which a Raft replica makes a snapshot.
    pub snapshot_entries: u64,
    /// Entries that it keeps behind one.
    pub kept_entries: u64,
    /// Replicas of a group.
    pub group_replicas: usize,
    /// Between two heartbeats of a leader; an election takes three to six as long.
    pub heartbeat_ms: u64,
    /// Between two rounds of a leader's duty.
    pub round_ms: u64,
    /// A node that did not answer for so long is down.
    pub down_after_ms: u64,
    /// How long an attach or detach is tried.
    pub attach_limit_ms: u64,
    /// How long a renewal is tried.
    pub renew_limit_ms: u64,
    /// Between two sweeps of a store over its names. Servers sweep every 30 minutes: whatever is free is
    /// to be gone without.
    #[serde(default = "usual_sweep_s")]
    pub sweep_s: u64,
    /// Changes of a feed in one pull.
    #[serde(default = "usual_feed_page")]
    pub feed_page: u32,
}

fn usual_sweep_s() -> u64 {
    7
}

fn usual_feed_page() -> u32 {
    1_024
}

impl Tunables {
    /// As of `StoreScale::Simulation`.
    pub(super) const USUAL: Self = Self {
        journal_segments: 12,
        journal_memory_bytes: 512 << 10,
        snapshot_entries: 64,
        kept_entries: 16,
        group_replicas: 5,
        heartbeat_ms: 333,
        round_ms: 1_000,
        down_after_ms: 5_000,
        attach_limit_ms: 10_000,
        renew_limit_ms: 2_000,
        sweep_s: 7,
        feed_page: 1_024,
    };

    /// As usual, but for leaders that look five times as often at what they have to do.
    pub(super) fn of_hasty_leaders() -> Self {
        Self {
            round_ms: 200,
            ..Self::USUAL
        }
    }

    /// As usual, but for journals as small as they can be.
    pub(super) fn of_small_journals() -> Self {
        Self {
            journal_segments: 8,
            ..Self::USUAL
        }
    }

    /// Whether stores sweep over their names less often than a run takes: what is free must then be
    /// gone because its shard said so.
    #[must_use]
    pub fn sweeps_rarely(&self) -> bool {
        self.sweep_s >= RARE_SWEEPS_S
    }

    pub(super) fn timing(&self) -> GroupTiming {
        GroupTiming {
            heartbeat: Duration::from_millis(self.heartbeat_ms),
            election: Duration::from_millis(3 * self.heartbeat_ms + 1),
        }
    }

    pub(super) fn extremes(&self) -> Extremes {
        Extremes {
            journal_segments: self.journal_segments,
            journal_memory_bytes: self.journal_memory_bytes,
            snapshot_entries: self.snapshot_entries,
            kept_entries: self.kept_entries,
            group_replicas: self.group_replicas,
            round: Duration::from_millis(self.round_ms),
            down_after: Duration::from_millis(self.down_after_ms),
            attach_limit: Duration::from_millis(self.attach_limit_ms),
            renew_limit: Duration::from_millis(self.renew_limit_ms),
            sweep_interval: Duration::from_secs(self.sweep_s),
            feed_page: self.feed_page,
        }
    }

    /// Whether nodes can run with these figures.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let figures = [
            ("journal_segments", self.journal_segments, 8, 256),
            ("snapshot_entries", self.snapshot_entries, 8, 1 << 20),
            ("kept_entries", self.kept_entries, 0, 1 << 20),
            ("heartbeat_ms", self.heartbeat_ms, 50, 5_000),
            ("round_ms", self.round_ms, 50, 10_000),
            ("down_after_ms", self.down_after_ms, 500, 60_000),
            ("attach_limit_ms", self.attach_limit_ms, 500, 60_000),
            ("renew_limit_ms", self.renew_limit_ms, 200, 10_000),
            ("sweep_s", self.sweep_s, 1, 3_600),
            ("feed_page", u64::from(self.feed_page), 1, 1_024),
        ];
        for (name, value, least, most) in figures {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: {value} is not within {least} to {most}"));
            }
        }
        if ![3, 5].contains(&self.group_replicas) {
            return Err(format!(
                "group_replicas: 3 or 5, not {}",
                self.group_replicas
            ));
        }
        if !(64 << 10..=64 << 20).contains(&self.journal_memory_bytes) {
            return Err("journal_memory_bytes: 64 KiB to 64 MiB".into());
        }
        Ok(())
    }
}

/// Draws figures for some seeds: extremes, and sweeps as rare as on servers.
pub(super) fn draw_tunables(random: &mut Random, wanted: &[Class]) -> Option<Tunables> {
    let mut tunables = draw_extremes(random, wanted);
    if random.chance(1, ONE_RARELY_SWEPT_OF) {
        tunables.get_or_insert(Tunables::USUAL).sweep_s = RARE_SWEEPS_S;
    }
    tunables
}

/// Each figure is at its least, as usual, or at its most.
fn draw_extremes(random: &mut Random, wanted: &[Class]) -> Option<Tunables> {
    if !Class::Extremes.is_due(random, ONE_EXTREME_OF, wanted) {
        return None;
    }
    let mut of = |values: [u64; 3]| values[random.index(3)];
    Some(Tunables {
        journal_segments: of([8, 12, 32]),
        journal_memory_bytes: [128 << 10, 512 << 10, 4 << 20]
            [usize::try_from(of([0, 1, 2])).expect("small")],
        snapshot_entries: of([16, 64, 600]),
        kept_entries: of([0, 16, 200]),
        group_replicas: [3, 5, 5][usize::try_from(of([0, 1, 2])).expect("small")],
        heartbeat_ms: of([120, 333, 800]),
        round_ms: of([200, 1_000, 3_000]),
        down_after_ms: of([2_000, 5_000, 12_000]),
        attach_limit_ms: of([2_000, 10_000, 20_000]),
        renew_limit_ms: of([700, 2_000, 2_000]),
        sweep_s: usual_sweep_s(),
        feed_page: u32::try_from(of([1, 16, 1_024])).expect("small"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_holds_the_copies_and_every_extreme_can_run() {
        // In one seed of eight, as they would be drawn.
        let wanted = |seed: u64| match seed % 8 {
            0 => vec![Class::Shapes, Class::Extremes],
            _ => Vec::new(),
        };
        let mut shapes = Vec::new();
        for seed in 0..2_000 {
            let factor = 1 + u8::try_from(seed % 6).expect("small");
            if let Some(shape) = draw(&mut Random::from_seed(seed), factor, &wanted(seed)) {
                assert!(shape.nodes >= u16::from(factor).max(3) && shape.nodes <= NODES_MAXIMUM);
                assert!((1..=8).contains(&shape.racks) && shape.racks <= shape.nodes);
                assert!((1..=5).contains(&shape.data_centres));
                shapes.push(shape.nodes);
            }
            if let Some(tunables) = draw_tunables(&mut Random::from_seed(seed), &wanted(seed)) {
                assert_eq!(tunables.check(), Ok(()));
            }
        }
        assert!(shapes.contains(&3) && shapes.contains(&15));
        assert!(shapes.len() >= 250, "{}", shapes.len());
    }
}
