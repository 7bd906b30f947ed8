//! One run: a cluster of production nodes in the simulated world, clients, faults, and judgement.
//!
//! Invariants: everything is a function of the [`Plan`], which is a function of the seed; a run ends
//! with a verdict, never *unknown*: safety under faults first, then convergence and service within
//! a bound once the faults are healed.

mod abandonment;
mod ambush;
mod clients;
mod cluster;
mod disk_nemesis;
mod initiators;
mod nemesis;
mod operations;
mod plan;
mod restoration;
mod run;
mod script;
mod splits;
mod stories;
pub mod survival;

pub use cluster::Cluster;
pub use operations::{ClientId, ClientOperation, Deed, Operations};
pub use plan::{Abandonment, Move, Plan, Restoration};
pub use run::{Failure, FailureKind, Report, run_plan, run_script};
pub(crate) use run::{converge, on_node};
pub use script::{SERVICE_SUCCESSES, Script};
pub use splits::Split;
