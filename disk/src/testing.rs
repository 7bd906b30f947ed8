//! A disk in memory with faults, and a one-thread world with virtual time, for tests.
//!
//! Invariants: everything is a function of the seed; after a crash a file holds what was synced
//! plus any subset of the unsynced sectors; a call after the crash never completes. Does not: model
//! networks, or more than one node. The simulator's disk is richer.

mod disk;
mod world;

pub use disk::FaultDisk;
pub use world::World;
