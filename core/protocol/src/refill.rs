//! Refilling a damaged Raft log: one log store asks another for entries by name.
//!
//! Invariants: an entry is named by index, term and the checksum of its stored bytes, so that what
//! comes back is what was lost, or is refused by whoever asked.

use bytes::Bytes;
use hedgerow_env::GroupId;
use serde::{Deserialize, Serialize};

use crate::codec::envelope;

/// Most entries asked for at once: their names fit one small message.
pub const LOG_FETCH_ENTRIES_MAX: usize = 1024;

/// An entry of a Raft log, as the second copy of its header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogEntryName {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// XXH3-64 of its stored bytes.
    pub checksum: u64,
}

/// Which of these entries does your log of this group hold?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFetch {
    /// The group.
    pub group: GroupId,
    /// At most [`LOG_FETCH_ENTRIES_MAX`].
    pub wanted: Vec<LogEntryName>,
}

/// What a log store holds of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFetched {
    /// Entries and their stored bytes, in the order asked.
    pub held: Vec<(LogEntryName, Bytes)>,
    /// Whether it looked for all of them; else ask again for those not held yet.
    pub complete: bool,
    /// Whether its replica runs; else it waits for entries itself.
    pub runs: bool,
}

envelope! { LogFetch = 78 v 1, LogFetched = 79 v 1 }
