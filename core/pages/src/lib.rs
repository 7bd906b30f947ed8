//! Pages, the metadata service: the root group and the shard groups.
//!
//! `root/` and `shard/` hold the state machines: pure functions of (command, state). `placement`
//! holds the placement rules. `service` and the drivers answer requests and keep the cluster's
//! promises in time; they see a group only through [`GroupReplica`]. `raft/` alone names openraft
//! and redb, and implements [`GroupReplica`].

mod replica;
mod state;

pub mod raft;

pub use replica::{GroupReplica, Leadership, ProposeError, Proposed};
pub use state::{Machine, MemoryState, StateError, Update, View};
