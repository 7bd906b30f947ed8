//! Every message, command and stored envelope of Hedgerow, and the one codec that writes them.
//!
//! Invariants: this crate alone names bincode; every encoded value begins with its kind and version
//! (bincode is not self-describing); decoding is bounded and never panics.
//! Does not: decide anything, or perform I/O.

mod admin;
mod blob;
mod codec;
mod digest;
mod disk_name;
mod hblock;
mod node;
mod placement;
mod policy;
mod quiet;
mod quorum;
mod refill;
mod root;
mod services;
mod shard;
mod topology;

pub use admin::*;
pub use blob::*;
pub use codec::{CodecError, Envelope, FEATURE_LEVEL, MAXIMUM_ENCODED_BYTES, decode, encode};
pub use digest::{Digest, digest};
pub use disk_name::*;
pub use hblock::*;
pub use node::*;
pub use placement::*;
pub use policy::*;
pub use quiet::*;
pub use quorum::Quorum;
pub use refill::*;
pub use root::*;
pub use services::*;
pub use shard::*;
pub use topology::*;
