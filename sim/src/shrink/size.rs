//! How large a script is, in the things that a reader has to follow.

use std::fmt;

use crate::scenario::Script;

use super::episodes::episodes;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Fault episodes (see [`episodes`]) and struck messages and disk calls.
    pub faults: usize,
    /// Listed client operations, and those that must succeed in the end; none if drawn from a seed.
    pub operations: Option<usize>,
    /// Nodes.
    pub nodes: u16,
    /// Moves of the disk.
    pub moves: usize,
}

impl Size {
    /// The size of a script.
    #[must_use]
    pub fn of(script: &Script) -> Self {
        let service = usize::try_from(script.service).unwrap_or(usize::MAX);
        Self {
            faults: episodes(&script.plan.formation).len()
                + episodes(&script.plan.faults).len()
                + script.strikes.len(),
            operations: script.operations.as_ref().map(|list| list.len() + service),
            nodes: script.plan.nodes,
            moves: script.plan.moves.len(),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "faults={} operations=", self.faults)?;
        match self.operations {
            Some(count) => write!(formatter, "{count}")?,
            None => write!(formatter, "drawn")?,
        }
        write!(formatter, " nodes={} moves={}", self.nodes, self.moves)
    }
}
