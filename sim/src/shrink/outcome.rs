//! What one replay came to, as the process that ran it tells the one that asked.

use serde::{Deserialize, Serialize};

use crate::scenario::{ClientOperation, Report};
use crate::tape::Verdict;
use crate::world::Strike;

/// One line of JSON on the standard output of `hedgerow-sim replay --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it failed, if it did.
    pub failure: Option<Verdict>,
    /// The trace's hash.
    pub trace: u64,
    /// Virtual time of the run.
    pub virtual_ns: u64,
    /// Processor time of the run.
    pub cpu_ns: u64,
    /// When the safety phase began, if it came to that.
    pub safety_began_ns: Option<u64>,
    /// Operations that clients drew.
    pub drawn: Vec<ClientOperation>,
    /// Those that began.
    pub performed: Vec<ClientOperation>,
    /// What was struck.
    pub strikes: Vec<Strike>,
}

impl Outcome {
    /// The outcome of a run that took so much processor time.
    #[must_use]
    pub fn new(report: Report, cpu_ns: u64) -> Self {
        Self {
            failure: report.verdict.as_ref().err().map(Verdict::from),
            trace: report.trace_hash,
            virtual_ns: u64::try_from(report.virtual_time.as_nanos()).unwrap_or(u64::MAX),
            cpu_ns,
            safety_began_ns: report.safety_began_ns,
            drawn: report.drawn,
            performed: report.performed,
            strikes: report.strikes,
        }
    }
}
