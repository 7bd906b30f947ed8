//! A tape: everything that a run depends on, written down.
//!
//! It holds the plan (cluster, disk, faults by their times), the clients' operations by their
//! identities and times, and the struck messages and disk calls by theirs. None of it is a position
//! in a stream of random numbers, so that a tape still says the same after an unrelated change of
//! the code; what it leaves open (latencies, the order of ready tasks) comes from its seed.
//!
//! Does not: run anything (`scenario` does), or choose what to leave out (`shrink` does).

mod check;
mod format;
mod layout;
mod listing;

use serde::{Deserialize, Serialize};

use crate::scenario::{Failure, FailureKind, Report, Script};

pub(crate) use check::check;
pub use check::{BLOCKS_MAXIMUM, CLIENTS_MAXIMUM, NODES_MAXIMUM, OPERATIONS_MAXIMUM};
pub use format::TapeError;
pub use listing::describe;

/// How a failed run ended. Shrinking keeps kind and oracle; the text may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The kind.
    pub kind: FailureKind,
    /// The oracle that fired.
    pub oracle: String,
    /// What it saw.
    pub text: String,
}

impl Verdict {
    /// Whether both are failures of the same class.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.kind, &self.oracle) == (other.kind, &other.oracle)
    }
}

impl From<&Failure> for Verdict {
    fn from(failure: &Failure) -> Self {
        Self {
            kind: failure.kind,
            oracle: failure.oracle.to_owned(),
            text: failure.text.clone(),
        }
    }
}

/// A run, written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tape {
    /// The commit of the simulator that ran it.
    pub commit: String,
    /// The planted bug that it shows, if it is not one of the code as it stands.
    pub mutant: Option<String>,
    /// How the run failed, if it did.
    pub failure: Option<Verdict>,
    /// The hash of its trace.
    pub trace: u64,
    /// What it follows.
    pub script: Script,
}

impl Tape {
    /// The tape of a run of `script`: with the operations that its clients drew as a list.
    #[must_use]
    pub fn of_run(script: &Script, report: &Report, commit: &str, mutant: Option<&str>) -> Self {
        Self {
            commit: commit.to_owned(),
            mutant: mutant.map(str::to_owned),
            failure: report.verdict.as_ref().err().map(Verdict::from),
            trace: report.trace_hash,
            script: Script {
                operations: Some(report.drawn.clone()),
                ..script.clone()
            },
        }
    }
}
