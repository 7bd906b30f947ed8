//! The Storage Proxy: turns ranges of a virtual disk into blobs, map commits and reads.
//!
//! Pure cores: `lease` (until when a cache may answer), `pieces` (cutting ranges), `unit` (encoding),
//! `metacache` (which cached map entries may be used), `sequences` (names and low-water marks),
//! `claims` (which changes wait for which), `gather` (when the acknowledgements of several members
//! are enough), `suspects` (which copies are silently missing).
//! Drivers: [`Proxy`] (attach, renew, detach; changes that outlast an attachment) and [`VirtualDisk`]
//! (read, write, zero).
//!
//! Invariants: a write is acknowledged only after its map commit; nothing of a container is read or
//! cached before it is fenced under this attachment; a cached entry answers only while the lease
//! holds, checked after the look-up; an outcome that is unknown stays so until the shard tells it.
//! Does not: decide placements or quorums (the shard and HBlock do), or speak a client protocol.

mod change;
mod claims;
mod commit;
mod container;
mod disk;
mod gather;
mod lasting;
mod lease;
mod loose_ends;
mod metacache;
mod pieces;
mod proxy;
mod read;
mod relocate;
mod sequences;
mod suspects;
mod unit;
mod write;

#[cfg(test)]
mod tests;

pub use change::{Change, ChangeError};
pub use disk::{IoError, VirtualDisk};
pub use lasting::OperationTag;
pub use lease::Lease;
pub use metacache::{CommitToken, FillToken, KnownExtent, Metacache};
pub use pieces::{Piece, pieces};
pub use proxy::{AttachError, Proxy, ProxyConfig};
pub use sequences::Sequences;
pub use unit::{UnitError, decode_unit, encode_units};
pub use write::ROOM_LIMIT;
