//! One run: a cluster of production nodes in the simulated world, clients, faults, and judgement.
//!
//! Invariants: everything is a function of the [`Plan`], which is a function of the seed; a run ends
//! with a verdict, never *unknown*: safety under faults first, then convergence and service within
//! a bound once the faults are healed.

mod clients;
mod cluster;
mod nemesis;
mod plan;
mod run;

pub use cluster::Cluster;
pub use plan::Plan;
pub use run::{Failure, FailureKind, Report, run_plan};
