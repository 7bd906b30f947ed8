//! One test from its beginning to its verdict.
//!
//! Phases: set-up, preparation, faults under load, healing, final reads, judgement. Whatever fails,
//! the target is torn down and what is known is written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join, join_all};
use hedgerow_env::{DiskError, Env, event};

use super::clients::{Shared, Slot};
use super::coverage;
use super::faults::{FaultRecord, TimedFault, node_name};
use super::plan::{PlanError, TestPlan};
use super::recorder::Recorder;
use super::results::{Ended, OperationCounts, PLAN_FILE, RESULTS_FILE, Results};
use super::results::{write_faults, write_json};
use super::target::{Struck, Target, TargetError};

/// What has to succeed before faults strike must do so within this time.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Correct the plan.
    #[error("the plan: {0}")]
    Plan(#[from] PlanError),
    /// The cluster did not start.
    #[error("the target: {0}")]
    Target(#[from] TargetError),
    /// The test's folder cannot be written.
    #[error("the test's folder: {0}")]
    Folder(#[from] DiskError),
}

/// Runs `plan` against `target`, with the test's folder as the disk of `env`.
///
/// # Errors
/// See [`RunError`]; the target is torn down then, too.
pub async fn run(env: &Env, plan: &TestPlan, target: Arc<dyn Target>) -> Result<Results, RunError> {
    plan.check()?;
    let started = env.wall();
    let began = env.now();
    write_json(env, PLAN_FILE, plan).await?;
    if let Err(error) = target.set_up(plan).await {
        target.tear_down().await;
        return Err(error.into());
    }
    let recorder = Recorder::begin(env).await?;
    let history_began = env.wall();
    let shared = Shared {
        env: env.clone(),
        plan: plan.clients,
        target: Arc::clone(&target),
        recorder: recorder.clone(),
        generator: Mutex::new(plan.workload.generator()),
        stopped: AtomicBool::new(false),
        script: Shared::script_of(plan),
    };
    let (records, recovered) = phases(&shared, plan).await;
    let incidents = target.tear_down().await;
    let history = recorder.finish().await?;
    write_faults(env, &records).await?;
    let counts = recorder.counts();
    let succeeded = counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), count.ok))
        .collect();
    let times = recorder.succeeded_ns();
    let functions: BTreeMap<String, OperationCounts> = counts
        .into_iter()
        .map(|(name, count)| {
            let (ok, fail, info) = (count.ok, count.fail, count.info);
            (name.to_owned(), OperationCounts { ok, fail, info })
        })
        .collect();
    let ended = Ended {
        plan,
        target: target.name(),
        functions,
        coverage: coverage::weigh(plan, &records, succeeded, &times, recovered),
        incidents,
        started,
        history_began,
        duration_s: env.now().since(began).as_secs_f64(),
    };
    let results = ended.judge(&history);
    write_json(env, RESULTS_FILE, &results).await?;
    Ok(results)
}

/// Preparation, faults under load, healing and final reads; what became of the faults, and whether
/// the cluster served again.
async fn phases(shared: &Shared, plan: &TestPlan) -> (Vec<FaultRecord>, bool) {
    let env = &shared.env;
    let generator = &shared.generator;
    let prepare = generator
        .lock()
        .expect("no panic under this lock")
        .prepare();
    let mut first = Slot::new(shared, plan, plan.clients.concurrency);
    if !first.all(prepare, PREPARE_LIMIT).await {
        event!(env, Error, "jepsen", "the preparation did not succeed");
        return (Vec::new(), false);
    }
    // Its session would keep the disk where nobody uses it.
    drop(first);
    event!(env, Info, "jepsen", "clients begin");
    let working =
        join_all((0..plan.clients.concurrency).map(|slot| Slot::new(shared, plan, slot).work()));
    let striking = async {
        let end = env.now() + Duration::from_millis(plan.duration_ms);
        let records = strike_all(shared, &plan.faults).await;
        env.sleep_until(end).await;
        shared.stopped.store(true, Ordering::Relaxed);
        records
    };
    let (_, records) = join(working, striking).await;
    event!(env, Info, "jepsen", "all faults have ended");
    if let Err(error) = shared.target.heal().await {
        event!(env, Error, "jepsen", "healing: {error}");
    }
    let finale = generator.lock().expect("no panic under this lock").finale();
    let mut last = Slot::new(shared, plan, plan.clients.concurrency + 1);
    let limit = Duration::from_millis(plan.recovery_ms);
    let recovered = last.all(finale, limit).await;
    (records, recovered)
}

/// Each fault at its time.
async fn strike_all(shared: &Shared, faults: &[TimedFault]) -> Vec<FaultRecord> {
    let zero = shared.env.now();
    let strikes = faults.iter().map(|timed| async move {
        let at = |ms: u64| zero + Duration::from_millis(ms);
        shared.env.sleep_until(at(timed.at_ms)).await;
        let text = timed.fault.text();
        event!(shared.env, Info, "nemesis", "begin {text}");
        let mut record = FaultRecord {
            at_ns: shared.recorder.now_ns(),
            until_ns: None,
            kind: timed.kind.clone(),
            nodes: timed.fault.nodes().into_iter().map(node_name).collect(),
            text,
            struck: false,
        };
        if let Err(error) = shared.target.begin(&timed.fault).await {
            event!(shared.env, Warn, "nemesis", "not begun: {error}");
            record.text = format!("{}; not begun: {error}", record.text);
            return record;
        }
        shared.env.sleep_until(at(timed.until_ms)).await;
        let struck = shared.target.end(&timed.fault).await;
        record.until_ns = Some(shared.recorder.now_ns());
        let evidence = match struck {
            Struck::Yes(evidence) => {
                record.struck = true;
                evidence
            }
            Struck::No(why) => format!("did not strike: {why}"),
        };
        event!(
            shared.env,
            Info,
            "nemesis",
            "ended {}: {evidence}",
            record.text
        );
        record.text = format!("{}; {evidence}", record.text);
        record
    });
    join_all(strikes).await
}
