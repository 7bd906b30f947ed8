//! What a test leaves behind: `plan.json`, `history.bin`, `faults.json`, `results.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use hedgerow_env::{DiskError, Env, OpenMode, WallTime};
use serde::{Deserialize, Serialize};

use super::coverage::Coverage;
use super::faults::FaultRecord;
use super::plan::TestPlan;
use super::target::Incident;
use crate::check::{Verdict, Witness};
use crate::history::{Call, Ending, History};

/// The plan.
pub const PLAN_FILE: &str = "plan.json";
/// The history, in the binary form.
pub const HISTORY_FILE: &str = "history.bin";
/// What became of the faults.
pub const FAULTS_FILE: &str = "faults.json";
/// The verdict.
pub const RESULTS_FILE: &str = "results.json";

/// The verdict on a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictName {
    /// The history has an explanation, and the test tested what it should.
    Valid,
    /// It has none, or a node broke an invariant.
    Invalid,
    /// The test does not say: a checker gave up, faults did not strike, too little succeeded.
    Unknown,
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCounts {
    /// Succeeded.
    pub ok: u64,
    /// Certainly did not happen.
    pub fail: u64,
    /// Nobody knows.
    pub info: u64,
}

/// One operation of a witness; its values are EDN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessOperation {
    /// Its number in the history.
    pub operation: u64,
    /// Who called.
    pub process: u64,
    /// What.
    pub function: String,
    /// The independent object.
    pub key: Option<String>,
    /// The argument.
    pub argument: String,
    /// The answer.
    pub answer: String,
    /// `ok`, `fail` or `info`.
    pub ending: String,
    /// The record of the history in which it was sent.
    pub invoke_line: u64,
    /// The record in which it ended.
    pub complete_line: Option<u64>,
}

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// 1.
    pub schema_version: u32,
    /// The test's name.
    pub test: String,
    /// The target's name.
    pub target: String,
    /// The workload's name.
    pub workload: String,
    /// The nemeses, with commas between them.
    pub nemesis: String,
    /// The seed.
    pub seed: u64,
    /// The verdict.
    pub verdict: VerdictName,
    /// Why.
    pub reason: String,
    /// How many operations ended how.
    pub operations: OperationCounts,
    /// The same by function.
    pub functions: BTreeMap<String, OperationCounts>,
    /// What was covered.
    pub coverage: Coverage,
    /// What happened to nodes that nobody asked for.
    pub incidents: Vec<String>,
    /// The operations that cannot be explained together.
    pub witness: Vec<WitnessOperation>,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// When the history's clock was at zero, once the cluster was set up: logs are aligned by it.
    #[serde(default)]
    pub history_began: String,
    /// How long it took, set-up and judgement included.
    pub duration_s: f64,
}

/// What is known when a test has ended.
pub(super) struct Ended<'a> {
    pub(super) plan: &'a TestPlan,
    pub(super) target: &'static str,
    pub(super) functions: BTreeMap<String, OperationCounts>,
    pub(super) coverage: Coverage,
    pub(super) incidents: Vec<Incident>,
    pub(super) started: WallTime,
    pub(super) history_began: WallTime,
    pub(super) duration_s: f64,
}

impl Ended<'_> {
    /// Judges the history and puts everything together.
    pub(super) fn judge(self, history: &[u8]) -> Results {
        let (verdict, reason, witness) = self.verdict(history);
        let mut operations = OperationCounts::default();
        for count in self.functions.values() {
            operations.ok += count.ok;
            operations.fail += count.fail;
            operations.info += count.info;
        }
        let incidents = self.incidents.iter();
        Results {
            schema_version: 1,
            test: self.plan.test.clone(),
            target: self.target.to_owned(),
            workload: self.plan.workload.name().to_owned(),
            nemesis: self.plan.nemesis.join(","),
            seed: self.plan.seed,
            verdict,
            reason,
            operations,
            functions: self.functions,
            incidents: incidents
                .map(|incident| format!("{}: {}", incident.node, incident.text))
                .collect(),
            coverage: self.coverage,
            witness,
            started: self.started.to_string(),
            history_began: self.history_began.to_string(),
            duration_s: self.duration_s,
        }
    }

    /// What the history says comes first, then defects of nodes, then what was not tested.
    fn verdict(&self, history: &[u8]) -> (VerdictName, String, Vec<WitnessOperation>) {
        let none = Vec::new();
        let calls = match History::parse(history).and_then(|history| history.calls()) {
            Ok(calls) => calls,
            Err(error) => return (VerdictName::Unknown, format!("the history: {error}"), none),
        };
        let (model, initial) = self.plan.workload.model();
        match model.check(initial.as_ref(), &calls) {
            Err(error) => return (VerdictName::Unknown, format!("the history: {error}"), none),
            Ok(Verdict::Unknown(why)) => return (VerdictName::Unknown, why, none),
            Ok(Verdict::Invalid(witness)) => {
                let part = witness.part.as_ref().map(|part| format!("{part}: "));
                let reason = format!("{}{}", part.unwrap_or_default(), witness.explanation);
                return (VerdictName::Invalid, reason, operations(&witness, &calls));
            }
            Ok(Verdict::Valid) => {}
        }
        if let Some(defect) = self.incidents.iter().find(|incident| incident.defect) {
            let reason = format!("{}: {}", defect.node, defect.text);
            return (VerdictName::Invalid, reason, none);
        }
        if !self.coverage.missing.is_empty() {
            let reason = self.coverage.missing.join("; ");
            return (VerdictName::Unknown, reason, none);
        }
        let reason = format!("some order explains all {} operations", calls.len());
        (VerdictName::Valid, reason, none)
    }
}

/// The results of a test that `why` cut short: the history so far is judged, nothing is known of
/// faults.
#[must_use]
pub fn cut_short(plan: &TestPlan, target: &'static str, why: Incident, history: &[u8]) -> Results {
    let ended = Ended {
        plan,
        target,
        functions: BTreeMap::new(),
        coverage: Coverage::default(),
        incidents: vec![why],
        started: WallTime(0),
        history_began: WallTime(0),
        duration_s: 0.0,
    };
    ended.judge(history)
}

fn operations(witness: &Witness, calls: &[Call]) -> Vec<WitnessOperation> {
    let described = |number: &u64| {
        let call = calls.get(usize::try_from(*number).ok()?)?;
        Some(WitnessOperation {
            operation: *number,
            process: call.process,
            function: call.function.clone(),
            key: call.key.as_ref().map(ToString::to_string),
            argument: call.argument.to_string(),
            answer: call.answer.to_string(),
            ending: match call.ending {
                Ending::Ok => "ok",
                Ending::Fail => "fail",
                Ending::Unknown => "info",
            }
            .to_owned(),
            invoke_line: call.invoke_line,
            complete_line: call.complete_line,
        })
    };
    witness.operations.iter().filter_map(described).collect()
}

/// Writes `value` as one file of the test's folder.
pub(super) async fn write_json<T: Serialize>(
    env: &Env,
    name: &str,
    value: &T,
) -> Result<(), DiskError> {
    let mut text = serde_json::to_vec_pretty(value).expect("plans and results have JSON forms");
    text.push(b'\n');
    let file = env.disk().open(name, OpenMode::Create).await?;
    file.resize(0).await?;
    file.write_at(0, vec![Bytes::from(text)]).await?;
    file.sync().await
}

/// Writes `faults.json`.
pub(super) async fn write_faults(env: &Env, records: &[FaultRecord]) -> Result<(), DiskError> {
    write_json(env, FAULTS_FILE, &records).await
}
