//! A shard group's state machine and the questions to it.
//!
//! `machine` takes one log entry apart; `place`, `fence`, `commit`, `relocate`, `blobs` and `drop`
//! hold one family of commands each, `attempt` what commits and relocations share; `split` and
//! `moving` make two shards of one; `query` answers;
//! `work` finds what the leader's driver has to propose.
//!
//! Invariants: docs/protocol/pages.md. Every command is a pure function of (command, state).
//! Does not: know of time, nodes' liveness, Raft or the network.

mod apply;
mod attempt;
mod blobs;
mod commit;
mod drop;
mod fence;
pub mod inspect;
mod keys;
mod machine;
mod map;
mod marks;
pub mod moving;
mod place;
pub mod query;
mod relocate;
mod rows;
pub mod split;
mod tables;
pub mod work;

pub use machine::ShardMachine;

#[cfg(test)]
mod tests;
