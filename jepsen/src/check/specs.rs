//! The sequential objects histories are judged against.
//!
//! Values are interned to numbers before they come here: equality is all these objects need,
//! except the counter's sums.

use super::spec::Spec;

/// An operation on a register, with its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RegisterOp {
    /// It was written.
    Write(u64),
    /// It was read and held this.
    Read(u64),
    /// It held the first value and was given the second in one step.
    CompareAndSet(u64, u64),
}

/// A register, or one block of a block device.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// What it holds before all operations.
    pub initial: u64,
}

impl Spec for Register {
    type State = u64;
    type Op = RegisterOp;

    fn initial(&self) -> u64 {
        self.initial
    }

    fn step(&self, state: &u64, op: &RegisterOp) -> Option<u64> {
        match *op {
            RegisterOp::Write(value) => Some(value),
            RegisterOp::Read(value) => (*state == value).then_some(value),
            RegisterOp::CompareAndSet(from, to) => (*state == from).then_some(to),
        }
    }

    fn is_pure(&self, op: &RegisterOp) -> bool {
        matches!(op, RegisterOp::Read(_))
    }
}
