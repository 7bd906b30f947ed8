//! RPC between Hedgerow processes: framed, checksummed, multiplexed, fenced by a handshake.
//!
//! One [`Rpc`] per node is both server and client. Requests are opaque to this crate: a
//! [`Message`] has a small encoded `head` and a bulk `payload` that is never copied on the way out.
//!
//! Invariants: every frame is one write of its stream; a request runs only on a connection whose
//! handshake proved cluster, node and stores; every queue is bounded; an outcome that was not seen
//! is [`CallError::Unknown`], never a failure. The stream may lose, double, delay, reorder or
//! corrupt frames: a request may then run twice (its names make that harmless), a response is
//! delivered at most once.
//!
//! Does not: encode messages (that is `core/protocol`'s), retry calls, or encrypt. Only `tcp.rs`
//! touches the operating system.

pub mod admin;
mod back_off;
mod config;
mod connect;
mod directory;
pub mod frame;
mod groups;
pub mod handshake;
pub mod hello;
mod identity;
mod inbound;
mod keep_alive;
mod link;
pub mod multiplexer;
mod node;
mod outbound;
mod pool;
mod refusal;
mod rpc;
mod service;
mod signal;
pub mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod wire;

pub use config::RpcConfig;
pub use directory::Directory;
pub use groups::{GroupClient, GroupError};
pub use identity::{Identity, Peer, PeerObserver, RoleSet, StoreStamp};
pub use rpc::Rpc;
pub use service::{
    CallError, CallOptions, Caller, Lane, Message, NetError, Refusal, RefusalCode, Service,
    ServiceId,
};
pub use wire::WireError;
