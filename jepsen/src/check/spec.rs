//! Sequential specifications and timed calls: what the general search, the exhaustive search and
//! the fuzzer share.
//!
//! Invariants: `step` is a pure function; an operation carries the answer that was recorded, and
//! `step` refuses it in every state in which that answer would be wrong.

use core::hash::Hash;

/// An object that handles one operation at a time.
pub trait Spec {
    /// What the object holds.
    type State: Clone + Eq + Hash + Ord;
    /// An operation with its recorded answer; equal operations are interchangeable.
    type Op: Clone + Eq + Hash + Ord;

    /// The state before all operations.
    fn initial(&self) -> Self::State;

    /// The state after `op`, or nothing if its answer would be wrong in `state`.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether `op` never changes any state.
    fn is_pure(&self, op: &Self::Op) -> bool;
}

/// An operation in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<O> {
    /// Its number in the history.
    pub id: u64,
    /// When it was sent.
    pub invoke: u64,
    /// When its answer arrived; absent if nobody knows whether it happened.
    pub complete: Option<u64>,
    /// What was asked and answered.
    pub op: O,
}

impl<O> Call<O> {
    /// Whether this call was over before `other` was sent.
    pub fn precedes(&self, other: &Self) -> bool {
        self.complete
            .is_some_and(|complete| complete < other.invoke)
    }
}
