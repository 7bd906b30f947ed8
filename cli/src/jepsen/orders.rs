//! What a tester tells a node of a build for tests, and what the node answers: two small files in a
//! folder of their own. Each replaces the former as a whole.

use serde::{Deserialize, Serialize};

/// The file that a tester replaces.
pub(crate) const ORDERS_FILE: &str = "orders.json";
/// The file that the node replaces.
pub(crate) const REPORT_FILE: &str = "report.json";
/// What a tester wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orders {
    /// Grows with every change.
    pub(crate) serial: u64,
    /// Added to the wall clock.
    pub(crate) wall_offset_ms: i64,
    /// Parts per million that the monotonic clock is too fast.
    pub(crate) rate_ppm: i32,
    /// The two are put on and taken off in turns of this length, if not zero.
    pub(crate) strobe_ms: u64,
    /// No file may grow or be written to.
    pub(crate) disk_full: bool,
    /// Lose what was not synced, then die of SIGKILL.
    pub(crate) lose_unsynced: bool,
}

/// What a node did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of the orders that it obeys.
    pub(crate) serial: u64,
    /// The wall clock as the node sees it.
    pub(crate) wall_ms: u64,
    /// The monotonic clock as the node sees it.
    pub(crate) now_ns: u64,
    /// How often the clock was changed.
    pub(crate) clock_changes: u64,
    /// Writes refused for want of space.
    pub(crate) refused_writes: u64,
    /// Bytes of unsynced writes at this moment.
    #[serde(default)]
    pub(crate) unsynced_bytes: u64,
    /// Bytes of unsynced writes that were lost at the end.
    pub(crate) lost_bytes: u64,
    /// Files that they belonged to.
    pub(crate) lost_files: u64,
}
