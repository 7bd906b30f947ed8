//! The limits and times of RPC, each with its reason.

use std::time::Duration;

use crate::NetError;

/// Limits and times of one node's RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcConfig {
    /// Largest head and payload together that this node receives or sends, in bytes. 8 MiB takes
    /// the largest block request of an initiator and a snapshot chunk with room to spare.
    pub maximum_message_bytes: u64,
    /// Requests that may wait for their answer on one connection; the next caller waits. Also
    /// capped by what the peer serves at once.
    pub outstanding_requests: u32,
    /// Bytes of requests that may be queued, not yet written, on one connection.
    pub outstanding_bytes: u32,
    /// Requests of one connection that are served at once; beyond it the connection is not read.
    pub served_requests: u32,
    /// Bytes of requests of one connection that are served at once; beyond it it is not read.
    pub served_bytes: u32,
    /// Connections accepted; each costs buffers and three tasks. Beyond it they are closed at once.
    pub accepted_connections: u32,
    /// For opening a stream. A host that is up answers within one round trip.
    pub connect_timeout: Duration,
    /// For each attempt of the handshake; a lost hello is tried again on a new connection.
    pub handshake_timeout: Duration,
    /// The side that connected pings this often: that measures latency and proves life. The other
    /// side does so four times more rarely, as long as it reads.
    pub keep_alive_interval: Duration,
    /// A connection on which nothing arrived for so long is half-open and is closed.
    pub keep_alive_timeout: Duration,
    /// An outgoing connection without calls for so long is closed.
    pub idle_limit: Duration,
    /// First pause after a failed connection; doubles with each further failure.
    pub back_off_first: Duration,
    /// Longest such pause: a healed peer is found again within it.
    pub back_off_limit: Duration,
    /// How long [`crate::Rpc::shutdown`] lets running requests finish.
    pub drain_limit: Duration,
}

impl Default for RpcConfig {
    fn default() -> Self {
        Self {
            maximum_message_bytes: 8 << 20,
            outstanding_requests: 512,
            outstanding_bytes: 32 << 20,
            served_requests: 256,
            served_bytes: 64 << 20,
            accepted_connections: 1024,
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_millis(700),
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(4),
            idle_limit: Duration::from_secs(300),
            back_off_first: Duration::from_millis(20),
            back_off_limit: Duration::from_secs(1),
            drain_limit: Duration::from_millis(500),
        }
    }
}

impl RpcConfig {
    /// Refuses limits under which a call could wait for ever.
    ///
    /// # Errors
    /// [`NetError::Configuration`] names the limit.
    pub fn validate(&self) -> Result<(), NetError> {
        let wrong = |text: &str| Err(NetError::Configuration(text.to_owned()));
        let largest = self.maximum_message_bytes;
        if largest == 0 || largest > u64::from(u32::MAX) {
            return wrong("maximum_message_bytes must be from 1 to 4 GiB");
        }
        if u64::from(self.outstanding_bytes) < largest || u64::from(self.served_bytes) < largest {
            return wrong("outstanding_bytes and served_bytes must hold one largest message");
        }
        if self.outstanding_requests == 0 || self.served_requests == 0 {
            return wrong("outstanding_requests and served_requests must be at least 1");
        }
        if self.keep_alive_interval.is_zero()
            || self.keep_alive_timeout < self.keep_alive_interval * 2
        {
            return wrong("keep_alive_timeout must be at least twice keep_alive_interval");
        }
        if self.back_off_first.is_zero() || self.back_off_limit < self.back_off_first {
            return wrong("back_off_limit must be at least back_off_first, which is not zero");
        }
        Ok(())
    }
}
