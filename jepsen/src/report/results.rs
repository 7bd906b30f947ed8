//! What stands in a run's directory besides its history: `results.json` and `faults.json`.
//!
//! Invariants: a schema newer than ours is refused, not misread; anything absent is shown as absent
//! (a run that was cut off has no results yet). It interprets no coverage figures: they are shown
//! as they are.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The newest `results.json` that is understood.
pub const SCHEMA_VERSION: u32 = 1;

/// `results.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The test's name.
    pub test: String,
    /// `processes`, `sim`, `etcd`, ...
    pub target: String,
    /// What clients did.
    pub workload: String,
    /// What struck: a name, or a list of names.
    pub nemesis: Value,
    /// The seed of generators and nemesis.
    pub seed: Option<u64>,
    /// `valid`, `invalid` or `unknown`.
    pub verdict: String,
    /// Why, in a sentence.
    pub reason: Option<String>,
    /// How operations ended.
    pub operations: Counts,
    /// Which faults struck how often, and what else was to be covered.
    pub coverage: Value,
    /// The operations that cannot be explained: numbers, objects with `operation`, or text.
    pub witness: Vec<Value>,
    /// When it began: milliseconds since 1970, or RFC 3339 in UTC.
    pub started: Value,
    /// When the history's clock was at zero; older runs do not say.
    pub history_began: Option<String>,
    /// How long it took, seconds.
    pub duration_s: f64,
    /// Whatever else the runner says.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// How operations ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Succeeded.
    pub ok: u64,
    /// Certainly did not happen.
    pub fail: u64,
    /// Unknown.
    pub info: u64,
}

/// One entry of `faults.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FaultSpan {
    /// When it began, on the history's clock.
    pub at_ns: i64,
    /// When it was ended; none if never, or if it is a moment's.
    pub until_ns: Option<i64>,
    /// `kill`, `pause`, `partition`, ...
    pub kind: String,
    /// The nodes it concerns.
    pub nodes: Vec<String>,
    /// One line for people.
    pub text: String,
    /// Whether it had its effect.
    pub struck: bool,
}
