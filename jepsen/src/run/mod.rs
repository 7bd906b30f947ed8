//! Tests of a running cluster: a workload's operations against a target, while faults strike.
//!
//! A test is data, a [`TestPlan`], drawn from a seed: what clients do, and which faults strike
//! when. A [`Target`] is a cluster that can be started, talked to and hurt. [`run`] brings the two
//! together and leaves a folder behind: plan, history, faults, results.
//!
//! Invariants: everything outside enters through `Env`, so the same workloads, schedules and judges
//! run against real processes and in a simulator; an operation that was not answered is of unknown
//! outcome; a test in which faults that were asked for did not strike, or too little succeeded, is
//! never a pass.
//!
//! Does not: start processes or simulated nodes; targets do.

mod bounds;
mod clients;
mod coverage;
pub mod etcd;
pub mod fault_proxy;
mod faults;
mod nemesis;
mod plan;
mod recorder;
mod results;
mod runner;
mod script;
mod strikes;
mod target;
mod watch;
pub mod workload;

pub use coverage::{Coverage, Tally};
pub use fault_proxy::LinkRules;
pub use faults::{DamageKind, Fault, FaultRecord, Link, TimedFault, apart, node_name};
pub use nemesis::{Kind, LEAST_CUT_MS, NEMESES, data_centre_of, kinds_named};
pub use plan::{ClientPlan, PLAN_VERSION, PlanError, TestPlan};
pub use recorder::Recorder;
pub use results::{
    FAULTS_FILE, HISTORY_FILE, PLAN_FILE, RESULTS_FILE, Results, VerdictName, cut_short,
};
pub use runner::{RunError, run};
pub use script::{ScriptedOperation, again};
pub use target::{Client, Completion, Incident, Operation, Struck, Target, TargetError};
