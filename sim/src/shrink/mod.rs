//! Shrinking: from a tape that fails to the smallest one found that fails in the same way.
//!
//! Does not: run tapes itself; each runs in a process of its own.

mod outcome;

pub use outcome::Outcome;
