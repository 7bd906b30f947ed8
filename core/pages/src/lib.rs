//! Pages, the metadata service: the root group and the shard groups.
//!
//! `root/` and `shard/` hold the state machines: pure functions of (command, state). `placement`
//! holds the placement rules. `service` and the drivers answer requests and keep the cluster's
//! promises in time; they see a group only through [`GroupReplica`]. `raft/` alone names openraft
//! and redb, and implements [`GroupReplica`].

mod fields;
mod replica;
mod state;

pub mod drivers;
pub mod placement;
pub mod raft;
pub mod root;
pub mod service;
pub mod shard;

pub use replica::{GroupReplica, Leadership, ProposeError, Proposed, ReadJob};
pub use state::{Machine, MemoryState, Pair, StateError, Update, View};
