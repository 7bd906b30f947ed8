//! What a run follows: its plan, and whatever of its chances is written down instead of drawn.
//!
//! Invariant: a plan alone is a script, of which everything is drawn.

use crate::world::Strike;

use super::operations::ClientOperation;
use super::plan::Plan;

/// Operations that must succeed once the faults have ended, unless a script says otherwise.
pub const SERVICE_SUCCESSES: u64 = 20;

/// A plan and what is scripted of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Cluster, disk, faults, moves; and the seed of everything that is not scripted.
    pub plan: Plan,
    /// What clients do; drawn when there is no list.
    pub operations: Option<Vec<ClientOperation>>,
    /// Messages and disk calls that are struck besides what the plan's rates strike.
    pub strikes: Vec<Strike>,
    /// Operations that must succeed once the faults have ended. Zero: the listed ones alone run,
    /// and the final reads show whether the cluster serves.
    pub service: u64,
}

impl From<Plan> for Script {
    fn from(plan: Plan) -> Self {
        Self {
            plan,
            operations: None,
            strikes: Vec::new(),
            service: SERVICE_SUCCESSES,
        }
    }
}
