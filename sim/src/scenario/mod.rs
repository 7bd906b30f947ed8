//! One run: a cluster of production nodes in the simulated world, clients, faults, and judgement.
//!
//! Invariants: everything is a function of the [`Plan`], which is a function of the seed; a run ends
//! with a verdict, never *unknown*: safety under faults first, then convergence and service within
//! a bound once the faults are healed.

mod abandonment;
mod additions;
mod ambush;
mod blows;
mod catch_up_stories;
mod classes;
mod clients;
mod cluster;
mod crash_loops;
mod damage_stories;
mod deep_damage;
mod disk_nemesis;
mod group_stories;
mod images;
mod initiators;
mod late_stories;
mod lease_stories;
mod nemesis;
mod operating;
mod operations;
mod operators;
mod other_disks;
mod phase_aims;
mod phase_nemesis;
mod plan;
mod power_stories;
mod restoration;
mod run;
mod script;
mod shape;
mod splits;
mod stories;
pub mod survival;

pub use additions::Addition;
pub use classes::Class;
pub(crate) use clients::DISK;
pub use cluster::Cluster;
pub use operations::{ClientId, ClientOperation, Deed, Operations};
pub use operators::{HALVES_MAXIMUM, OTHER_DISKS_MAXIMUM, OperatorAction, OperatorDeed};
pub use plan::{Abandonment, Move, Plan, Restoration};
pub use run::{Failure, FailureKind, Report, run_plan, run_script};
pub(crate) use run::{converge, on_node};
pub use script::{SERVICE_SUCCESSES, Script};
pub use shape::Tunables;
pub use splits::Split;
