//! Shrinking: from a tape that fails to the smallest one found that fails in the same way.
//!
//! [`Search`] is the pure core: it says which scripts to run next and learns what came of them.
//! Invariants: the best script so far has failed in the wanted way, as a run has shown; each later
//! best is an edit of the one before that left something out or made it plainer.
//! Does not: run anything; `hedgerow-sim shrink` runs each candidate in a process of its own.

mod deletion;
mod edit;
mod episodes;
mod nodes;
mod outcome;
mod plan;
mod rules;
mod search;
mod size;
mod times;

pub use deletion::Deletion;
pub use edit::{DeedKind, Edit, Feature};
pub use episodes::{Episode, episodes};
pub use outcome::Outcome;
pub use search::{Judgement, Search};
pub use size::Size;
