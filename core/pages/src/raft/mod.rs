//! openraft over Env, RPC, the journal and redb. This folder alone names openraft and redb.
//!
//! [`PagesHost`] runs every replica of a node. A replica is openraft's core with a log in the
//! journal (`log`), a state in redb (`store`), a network over RPC (`network`) and a runtime over
//! Env (`runtime`). What is durable when: `docs/protocol/raft.md`.

mod backend;
mod channels;
mod departure;
mod describe;
mod heal;
mod host;
mod host_config;
mod log;
mod log_core;
mod log_mending;
mod log_record;
mod machine;
mod network;
mod promises;
mod quiet;
mod recovery;
mod registry;
mod replica;
mod room;
mod runtime;
mod serve;
mod staging;
mod store;
mod timing;
mod types;
mod views;
mod watch;

pub use describe::describe;
pub use host::PagesHost;
pub use host_config::{DamagedReplica, HostConfig, HostError, Machines};
pub use network::Addresses;
pub use promises::Promises;
pub use room::RESERVE_NAME;
pub use timing::RaftTiming;

#[cfg(test)]
mod tests;
