//! The root group's state machine and the questions to it.
//!
//! `machine` takes one log entry apart; `cluster`, `disks`, `leases` and `split` hold one family of
//! commands each; `query` answers.
//!
//! Invariants: docs/protocol/pages.md. Every command is a pure function of (command, state).
//! Does not: know of time, Raft or the network; hold the authority over placements.

mod cluster;
mod disks;
mod keys;
mod leases;
mod machine;
pub mod query;
mod split;
mod tables;

pub use disks::{CONTAINER_BYTES, MAXIMUM_DESCRIPTION_BYTES};
pub use machine::RootMachine;

#[cfg(test)]
mod tests;
