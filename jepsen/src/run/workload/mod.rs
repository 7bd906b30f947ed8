//! Workloads: which operations clients perform, and which model judges them.
//!
//! A workload is data ([`WorkloadPlan`]); a [`Generator`] made of it hands out operations. It is
//! synchronous and draws from the stream it is given, so the same test asks the same questions.

pub mod block;
mod lifecycle;
mod registers;

use hedgerow_env::Random;
use serde::{Deserialize, Serialize};

use super::plan::PlanError;
use super::target::{Completion, Operation};
use crate::check::Model;
use crate::history::Value;

pub use block::BlockPlan;
pub use lifecycle::{DiskRequest, LifecyclePlan};
pub use registers::RegisterPlan;

/// What clients do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "workload", rename_all = "kebab-case")]
pub enum WorkloadPlan {
    /// Requests to a block device.
    Block(BlockPlan),
    /// Reads, writes and compare-and-sets of keys.
    CasRegister(RegisterPlan),
    /// Disks are created, resized, listed and deleted.
    DiskLifecycle(LifecyclePlan),
}

/// Hands out a test's operations.
pub trait Generator: Send {
    /// What has to succeed before faults strike, in order.
    fn prepare(&mut self) -> Vec<Operation>;
    /// The next operation of the client with this process.
    fn next(&mut self, random: &mut Random, process: u64) -> Operation;
    /// Learns how an operation ended.
    fn learn(&mut self, operation: &Operation, completion: &Completion);
    /// What has to succeed when all faults have ended: reads of everything.
    fn finale(&mut self) -> Vec<Operation>;
}

impl WorkloadPlan {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Block(_) => "block",
            Self::CasRegister(_) => "cas-register",
            Self::DiskLifecycle(_) => "disk-lifecycle",
        }
    }

    /// The model that judges its history, and the state before it.
    #[must_use]
    pub fn model(&self) -> (Model, Option<Value>) {
        match self {
            Self::Block(_) => (Model::Block, None),
            Self::CasRegister(_) | Self::DiskLifecycle(_) => (Model::CasRegister, None),
        }
    }

    /// Whether it can be performed.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check(&self) -> Result<(), PlanError> {
        match self {
            Self::Block(plan) => plan.check(),
            Self::CasRegister(plan) => plan.check(),
            Self::DiskLifecycle(plan) => plan.check(),
        }
    }

    /// Whether `operation`, which somebody wrote down, is one of this workload: of its functions, on
    /// what it has.
    pub(super) fn takes(&self, operation: &Operation) -> Result<(), PlanError> {
        match self {
            Self::Block(plan) => plan.takes(operation),
            Self::CasRegister(plan) => plan.takes(operation),
            Self::DiskLifecycle(plan) => plan.takes(operation),
        }
    }

    /// Its operations.
    #[must_use]
    pub fn generator(&self) -> Box<dyn Generator> {
        match self {
            Self::Block(plan) => Box::new(block::BlockGenerator::new(plan.clone())),
            Self::CasRegister(plan) => Box::new(registers::Registers::new(*plan)),
            Self::DiskLifecycle(plan) => Box::new(lifecycle::Lifecycle::new(*plan)),
        }
    }
}

/// Refuses an operation that is none of the workload's.
fn strange(workload: &str, operation: &Operation) -> PlanError {
    PlanError(format!(
        "the workload {workload} has no {} {}",
        operation.function, operation.argument
    ))
}

/// Refuses a key that is none of `count`.
fn key_below(count: u32, key: Option<i64>) -> Result<(), PlanError> {
    match key {
        Some(key) if (0..i64::from(count)).contains(&key) => Ok(()),
        Some(key) => Err(PlanError(format!("key is {key}: they are below {count}"))),
        None => Err(PlanError("key is missing".to_owned())),
    }
}

/// Draws from `0..count` with a skew: with `skew` percent chance the choice is among the lower half
/// of what is left, again and again.
fn skewed(random: &mut Random, count: u64, skew: u32) -> u64 {
    let mut left = count;
    while left > 1 && random.chance(u64::from(skew), 100) {
        left = left.div_ceil(2);
    }
    random.below(left)
}
