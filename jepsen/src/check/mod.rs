//! Checkers: given a history, is there an order of its operations that explains every answer?
//!
//! Two engines check one another: near-linear ones where theory allows (this is exact, not a
//! heuristic) and a general search for everything else. A checker answers with a [`Verdict`].

mod append;
mod block;
pub mod brute;
mod graph;
pub(crate) mod judge;
pub mod lists;
mod minimise;
mod models;
mod objects;
mod queues;
mod registers;
mod repeatable;
pub mod search;
mod sets;
mod snapshot;
pub mod spec;
pub mod specs;
mod translate;
pub mod verify;
mod weaken;
mod zone_blocks;
mod zones;

#[cfg(test)]
mod agreement_tests;

pub use block::{BlockHistory, BlockHistoryError, BlockOp, OpId, Outcome, ZEROS};
pub use models::{Model, ModelError, Objects};
pub use zones::{ZoneAnswer, ZoneChecker};

/// What a checker found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Some order of the operations explains every answer.
    Valid,
    /// No order does; the witness says why.
    Invalid(Witness),
    /// The checker gave up; the text says at which limit.
    Unknown(String),
}

/// The operations that cannot be explained together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The independent part of the history they belong to, such as a key or a block.
    pub part: Option<String>,
    /// The operations by number, ascending, without repetition. For a parsed history the number
    /// is the position in its list of calls, for a [`BlockHistory`] it is the [`OpId`].
    pub operations: Vec<u64>,
    /// One sentence for people.
    pub explanation: String,
}

impl Witness {
    /// A witness of these operations, sorted and without repetition.
    pub(crate) fn new(mut operations: Vec<u64>, explanation: String) -> Self {
        operations.sort_unstable();
        operations.dedup();
        Self {
            part: None,
            operations,
            explanation,
        }
    }
}
