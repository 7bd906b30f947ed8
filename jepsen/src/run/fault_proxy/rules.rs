//! What a link does to what passes. Pure.

use hedgerow_env::Random;
use serde::{Deserialize, Serialize};

/// The rules of a directed link. The default is a whole link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkRules {
    /// Nothing passes.
    pub cut: bool,
    /// Each piece is so late.
    pub delay_ms: u64,
    /// And up to so much later.
    pub jitter_ms: u64,
    /// Of a million pieces, how many stall.
    pub stall_ppm: u32,
    /// For how long.
    pub stall_ms: u64,
    /// Of a million pieces, how many end the connection.
    pub reset_ppm: u32,
    /// Of a million pieces, how many have one bit turned over.
    pub corrupt_ppm: u32,
    /// Of a million connections, how many are opened twice.
    pub duplicate_ppm: u32,
}

/// What becomes of one piece of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) delay_ms: u64,
    pub(super) stall_ms: u64,
    pub(super) reset: bool,
    /// The bit to turn over, modulo the piece's bits.
    pub(super) corrupt: Option<u64>,
}

/// What the rules of a link have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Connections opened over it.
    pub connections: u64,
    /// Pieces passed on.
    pub passed: u64,
    /// Pieces that met a cut.
    pub held: u64,
    /// Pieces that were late.
    pub delayed: u64,
    /// Pieces that stalled.
    pub stalled: u64,
    /// Connections that were ended.
    pub resets: u64,
    /// Pieces with a bit turned over.
    pub corrupted: u64,
    /// Connections opened twice.
    pub duplicated: u64,
}

impl LinkRules {
    /// A link that passes nothing.
    #[must_use]
    pub fn cut() -> Self {
        Self {
            cut: true,
            ..Self::default()
        }
    }

    pub(super) fn fate(&self, random: &mut Random) -> Fate {
        let chance = |random: &mut Random, ppm: u32| random.chance(u64::from(ppm), 1_000_000);
        let reset = chance(random, self.reset_ppm);
        let stall = chance(random, self.stall_ppm);
        let corrupt = chance(random, self.corrupt_ppm);
        Fate {
            delay_ms: self.delay_ms + random.below(self.jitter_ms + 1),
            stall_ms: if stall { self.stall_ms } else { 0 },
            reset,
            corrupt: corrupt.then(|| random.bits()),
        }
    }
}

impl LinkCounters {
    /// Sums.
    pub(super) fn plus(mut self, other: &Self) -> Self {
        self.connections += other.connections;
        self.passed += other.passed;
        self.held += other.held;
        self.delayed += other.delayed;
        self.stalled += other.stalled;
        self.resets += other.resets;
        self.corrupted += other.corrupted;
        self.duplicated += other.duplicated;
        self
    }

    /// What happened since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            connections: self.connections - earlier.connections,
            passed: self.passed - earlier.passed,
            held: self.held - earlier.held,
            delayed: self.delayed - earlier.delayed,
            stalled: self.stalled - earlier.stalled,
            resets: self.resets - earlier.resets,
            corrupted: self.corrupted - earlier.corrupted,
            duplicated: self.duplicated - earlier.duplicated,
        }
    }

    /// Whether any rule did something.
    #[must_use]
    pub fn any(&self) -> bool {
        let done = [
            self.held,
            self.delayed,
            self.stalled,
            self.resets,
            self.corrupted,
            self.duplicated,
        ];
        done.iter().any(|count| *count > 0)
    }
}

impl std::fmt::Display for LinkCounters {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            (self.held, "held"),
            (self.delayed, "delayed"),
            (self.stalled, "stalled"),
            (self.resets, "connections broken"),
            (self.corrupted, "damaged"),
            (self.duplicated, "connections doubled"),
        ];
        let mut first = true;
        for (count, what) in rows.into_iter().filter(|(count, _)| *count > 0) {
            let comma = if first { "" } else { ", " };
            write!(formatter, "{comma}{count} {what}")?;
            first = false;
        }
        if first {
            write!(formatter, "nothing done to {} pieces", self.passed)?;
        }
        Ok(())
    }
}
