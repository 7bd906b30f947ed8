//! Whether a test tested anything: did every fault kind that was asked for strike, and did enough
//! succeed? Pure.
//!
//! A history in which nothing happened has no contradictions; without these demands it would pass.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::faults::FaultRecord;
use super::plan::TestPlan;

/// Of the operations that the rate allows, so many percent have to succeed. Faults cost time: a
/// cluster that is half the time without a leader still clears it.
const LEAST_PERCENT: u64 = 10;
/// However short the test, fewer successes than this say nothing.
const LEAST_SUCCESSES: u64 = 20;

/// How a nemesis fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Faults in the plan.
    pub asked: u64,
    /// Those of which there is evidence.
    pub struck: u64,
}

/// What a test covered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// By nemesis.
    pub faults: BTreeMap<String, Tally>,
    /// Successes by function.
    pub succeeded: BTreeMap<String, u64>,
    /// Successes that were needed in all.
    pub needed: u64,
    /// Successes while at least one fault was on.
    pub succeeded_under_faults: u64,
    /// Whether the final reads all succeeded.
    pub recovered: bool,
    /// What is missing; empty when the test may pass.
    pub missing: Vec<String>,
}

/// Weighs what happened against the plan.
pub(super) fn weigh(
    plan: &TestPlan,
    records: &[FaultRecord],
    succeeded: BTreeMap<String, u64>,
    succeeded_ns: &[u64],
    recovered: bool,
) -> Coverage {
    let mut faults: BTreeMap<String, Tally> = BTreeMap::new();
    for name in &plan.nemesis {
        faults.insert(name.clone(), Tally::default());
    }
    for record in records {
        let tally = faults.entry(record.kind.clone()).or_default();
        tally.asked += 1;
        tally.struck += u64::from(record.struck);
    }
    let possible = u64::from(plan.clients.rate) * plan.duration_ms / 1000;
    let needed = (possible * LEAST_PERCENT / 100).max(LEAST_SUCCESSES);
    let under = |at: &&u64| {
        records.iter().any(|record| {
            record.struck && record.at_ns <= **at && record.until_ns.is_some_and(|end| **at <= end)
        })
    };
    let mut coverage = Coverage {
        faults,
        needed,
        succeeded_under_faults: succeeded_ns.iter().filter(under).count() as u64,
        succeeded,
        recovered,
        missing: Vec::new(),
    };
    coverage.missing = missing(&coverage);
    coverage
}

fn missing(coverage: &Coverage) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, tally) in &coverage.faults {
        if tally.struck == 0 {
            missing.push(format!("no fault of {name} struck ({} asked)", tally.asked));
        }
    }
    let all: u64 = coverage.succeeded.values().sum();
    if all < coverage.needed {
        let needed = coverage.needed;
        missing.push(format!("{all} operations succeeded, {needed} were needed"));
    }
    for (function, count) in &coverage.succeeded {
        if *count == 0 {
            missing.push(format!("no {function} succeeded"));
        }
    }
    if !coverage.recovered {
        missing.push("the final reads did not succeed: the cluster did not recover".to_owned());
    }
    missing
}
