//! Byte streams between processes.
//!
//! On [`StreamKind::Rpc`] streams each [`StreamWriter::write`] carries exactly one frame, and the
//! simulator may lose, double, delay or reorder whole writes; RPC must bear it. On
//! [`StreamKind::Client`] streams both worlds keep TCP's promise: bytes arrive in order or the
//! stream ends.

use bytes::Bytes;

use crate::BoxFuture;

/// Why a network call failed. None of them tells whether the peer acted on what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Nobody listens there, or the address is wrong; try another or later.
    #[error("{address}: connection refused")]
    Refused {
        /// The address that was tried.
        address: String,
    },
    /// The address is taken; choose another.
    #[error("{address}: address in use")]
    AddressInUse {
        /// The address to listen at.
        address: String,
    },
    /// The stream ended or broke; open a new one.
    #[error("connection closed: {reason}")]
    Closed {
        /// What the operating system said.
        reason: String,
    },
    /// The address does not parse or resolve.
    #[error("{address}: {reason}")]
    BadAddress {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a stream is for; it selects the promises that the simulator keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    /// Between Hedgerow processes: framed, checksummed, names make every step idempotent.
    Rpc,
    /// To a client that we did not write.
    Client,
}

/// The network seam of one node. Addresses are `host:port`.
pub trait Network: Send + Sync {
    /// Listens at `address`; port 0 chooses one.
    fn listen(
        &self,
        address: &str,
        kind: StreamKind,
    ) -> BoxFuture<'static, Result<Box<dyn Listener>, NetworkError>>;
    /// Opens a stream to `address`. May take for ever: use a deadline.
    fn connect(
        &self,
        address: &str,
        kind: StreamKind,
    ) -> BoxFuture<'static, Result<Stream, NetworkError>>;
}

/// Accepts streams.
pub trait Listener: Send {
    /// The next incoming stream.
    fn accept(&mut self) -> BoxFuture<'_, Result<Stream, NetworkError>>;
    /// The address that it really listens at.
    fn local_address(&self) -> String;
}

/// One open stream, in two halves that different tasks may own.
pub struct Stream {
    /// The receiving half.
    pub reader: Box<dyn StreamReader>,
    /// The sending half.
    pub writer: Box<dyn StreamWriter>,
    /// Our address of this stream.
    pub local_address: String,
    /// The peer's address, for logs and access lists; not an identity.
    pub peer_address: String,
}

/// The receiving half of a stream. Dropping it while the writer lives keeps the stream open.
pub trait StreamReader: Send {
    /// Up to `maximum` bytes as they arrive; empty when the peer ended the stream in order.
    /// Cancel-safe: a dropped call has consumed nothing.
    fn read(&mut self, maximum: usize) -> BoxFuture<'_, Result<Bytes, NetworkError>>;
}

/// The sending half of a stream. Dropping both halves closes it.
pub trait StreamWriter: Send {
    /// Sends all parts as one write. Not cancel-safe: after a dropped call, drop the stream.
    fn write(&mut self, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), NetworkError>>;
    /// Tells the peer that no more will come.
    fn shutdown(&mut self) -> BoxFuture<'_, Result<(), NetworkError>>;
}
