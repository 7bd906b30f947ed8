//! The limits and times of HBlock, each with its reason.

use std::time::Duration;

use crate::FeedConfig;

/// Limits and times of one node's HBlock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HBlockConfig {
    /// Bytes of writes that this node coordinates at a time; beyond it writers wait, then get
    /// *busy*.
    pub write_bytes: u32,
    /// Bytes of forwarded blobs that are being appended at a time. Apart from `write_bytes`, so
    /// that nodes which coordinate for each other never wait for each other.
    pub store_bytes: u32,
    /// Bytes of blobs that were answered and are still on their way to slower members. Beyond it
    /// such a copy is left to the shard's list of incomplete blobs.
    pub late_bytes: u32,
    /// Reads served at a time.
    pub reads: u32,
    /// How long a request waits for room before it is answered *busy*.
    pub room_wait: Duration,
    /// After this a write without its quorum is answered *too few*: the proxy asks for a
    /// substitute.
    pub quorum_wait: Duration,
    /// How long a blob is offered to a slow member. Longer absences are the feed's matter.
    pub forward_limit: Duration,
    /// One question to a shard.
    pub shard_timeout: Duration,
    /// One fetch of a blob from another member.
    pub fetch_timeout: Duration,
    /// Blobs being fetched at a time, by the whole node.
    pub fetches: u32,
    /// Rate of fetching for catch-up and repair, by the whole node.
    pub fetch_bytes_per_second: u64,
    /// The reading of feeds.
    pub feed: FeedConfig,
    /// From the start to the first sweep over names, and from the end of one to the next.
    pub sweep_interval: Duration,
    /// Pause between two questions of a sweep.
    pub sweep_pause: Duration,
    /// From the start to the first scrub: a node that just started has better things to do.
    pub scrub_delay: Duration,
    /// Rate of scrubbing, for each store.
    pub scrub_bytes_per_second: u64,
    /// From the end of one scrub of a store to the next.
    pub scrub_interval: Duration,
    /// How long [`crate::HBlock::shutdown`] lets writes finish.
    pub drain_limit: Duration,
}

impl Default for HBlockConfig {
    fn default() -> Self {
        Self {
            write_bytes: 64 << 20,
            store_bytes: 64 << 20,
            late_bytes: 32 << 20,
            reads: 256,
            room_wait: Duration::from_millis(200),
            quorum_wait: Duration::from_millis(300),
            forward_limit: Duration::from_secs(2),
            shard_timeout: Duration::from_secs(3),
            fetch_timeout: Duration::from_secs(2),
            fetches: 4,
            fetch_bytes_per_second: 64 << 20,
            feed: FeedConfig::default(),
            sweep_interval: Duration::from_secs(1800),
            sweep_pause: Duration::from_millis(100),
            scrub_delay: Duration::from_secs(600),
            scrub_bytes_per_second: 4 << 20,
            scrub_interval: Duration::from_secs(7 * 24 * 3600),
            drain_limit: Duration::from_millis(500),
        }
    }
}

/// The unit in which room for bytes is counted: half of the smallest blob with its header.
const ROOM_GRAIN: u32 = 512;

/// Permits that `bytes` take from a semaphore of `limit` bytes; never more than there are.
pub(crate) fn room_for(bytes: u64, limit: u32) -> u32 {
    let grains = bytes.div_ceil(u64::from(ROOM_GRAIN)).max(1);
    u32::try_from(grains)
        .unwrap_or(u32::MAX)
        .min(room_of(limit))
}

/// Permits of a semaphore of `limit` bytes.
pub(crate) fn room_of(limit: u32) -> u32 {
    (limit / ROOM_GRAIN).max(1)
}
