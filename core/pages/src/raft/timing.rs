//! The times and sizes of Raft, each with its reason.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// How a node's replicas time their elections and bound their logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftTiming {
    /// A leader says that it lives this often. A node has many groups, most of them idle, and each
    /// costs these messages, and a look at its clock about five times as often.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between these two stands for election.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
    /// For one message with entries; a lost one is sent again after it.
    pub append: Duration,
    /// A snapshot (a durable commit of the state) after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot for followers that are a little late: a full snapshot costs
    /// them far more.
    pub kept_entries: u64,
    /// Entries in one message at most; bytes bound it, too.
    pub append_entries_max: u64,
    /// Bytes of the newest entries that each log keeps in memory.
    pub log_cache_bytes: usize,
    /// Bytes of pages that each state keeps in memory.
    pub state_cache_bytes: usize,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
            append: Duration::from_millis(500),
            snapshot_entries: 4096,
            kept_entries: 512,
            append_entries_max: 256,
            log_cache_bytes: 2 << 20,
            state_cache_bytes: 8 << 20,
        }
    }
}

impl RaftTiming {
    /// openraft's form of it, or what is wrong with it.
    pub(crate) fn config(&self, name: String) -> Result<Config, String> {
        let config = Config {
            cluster_name: name,
            heartbeat_interval: milliseconds(self.heartbeat),
            // A follower that acknowledged entries just now has heard that its leader lives.
            heartbeat_min_interval: Some(milliseconds(self.heartbeat / 2)),
            election_timeout_min: milliseconds(self.election_min),
            election_timeout_max: milliseconds(self.election_max),
            max_payload_entries: self.append_entries_max,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.kept_entries,
            // Each purge is a journal record: in batches.
            purge_batch_size: (self.kept_entries / 4).max(1),
            // A follower gets entries as long as they exist: a snapshot is for those who need it.
            replication_lag_threshold: u64::MAX / 2,
            // A burst of proposals waits in the callers instead.
            api_channel_size: Some(4096),
            // A leader that restarts must be elected again: its state may be older than its log.
            enable_leader_restore: Some(false),
            // A replica that cannot win must not depose a leader that works.
            enable_pre_vote: Some(true),
            backoff: "50ms 100ms 200ms ...1s".to_owned(),
            ..Config::default()
        };
        config.validate().map_err(|error| error.to_string())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
