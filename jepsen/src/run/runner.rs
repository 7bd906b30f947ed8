//! One test from its beginning to its verdict.
//!
//! Phases: set-up, preparation, faults under load, healing, final reads, judgement. Whatever fails,
//! the target is torn down and what is known is written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, join, join_all, select};
use hedgerow_env::{DiskError, Env, event};

use super::clients::{Shared, Slot, each_once, with};
use super::coverage;
use super::faults::FaultRecord;
use super::plan::{PlanError, TestPlan};
use super::recorder::Recorder;
use super::results::{Ended, OperationCounts, PLAN_FILE, RESULTS_FILE, Results};
use super::results::{write_faults, write_json};
use super::strikes::Strikes;
use super::target::{Incident, Target, TargetError};
use super::watch::until_decided;

/// What has to succeed before faults strike must do so within this time.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Correct the plan.
    #[error("the plan: {0}")]
    Plan(PlanError),
    /// The cluster did not start.
    #[error("the target: {0}")]
    Target(TargetError),
    /// The test's folder cannot be written.
    #[error("the test's folder: {0}")]
    Folder(DiskError),
}

// Not `#[from]`: the messages hold those of their causes, and whoever prints a chain of causes would
// say them twice.
impl From<PlanError> for RunError {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<TargetError> for RunError {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<DiskError> for RunError {
    fn from(error: DiskError) -> Self {
        Self::Folder(error)
    }
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
        rest: Duration::from_millis(plan.rest_ms),
        target: Arc::clone(&target),
        recorder: recorder.clone(),
        generator: Mutex::new(plan.workload.generator()),
        stopped: AtomicBool::new(false),
        script: Shared::script_of(plan),
    };
    let (records, not_recovered) = phases(&shared, plan).await;
    let recovered = not_recovered.is_none();
    let mut incidents = target.tear_down().await;
    incidents.extend(not_recovered.flatten());
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
/// the cluster served again. A test whose verdict is known before its end is cut short.
async fn phases(shared: &Shared, plan: &TestPlan) -> (Vec<FaultRecord>, Option<NotRecovered>) {
    let env = &shared.env;
    let prepare = with(&shared.generator, |generator| generator.prepare());
    let mut first = Slot::new(shared, plan, plan.clients.concurrency);
    if !first.all(prepare, PREPARE_LIMIT).await {
        event!(env, Error, "jepsen", "the preparation did not succeed");
        return (Vec::new(), Some(None));
    }
    // Its session would keep the disk where nobody uses it.
    drop(first);
    event!(env, Info, "jepsen", "clients begin");
    let strikes = Strikes::new(shared, &plan.faults);
    let whole = Box::pin(to_the_end(shared, plan, &strikes));
    let decided = Box::pin(until_decided(shared, plan));
    let not_recovered = match select(whole, decided).await {
        Either::Left((not_recovered, _)) => not_recovered,
        Either::Right((why, whole)) => {
            event!(env, Warn, "jepsen", "cut short: {why}");
            // Clients end, and whatever faults wait for is waited for no more.
            drop(whole);
            strikes.cut_short();
            heal(shared).await;
            Some(None)
        }
    };
    (strikes.records(), not_recovered)
}

/// The final reads did not succeed; what that shows of the cluster beyond that it does not serve.
type NotRecovered = Option<Incident>;

/// Faults under load, healing and final reads; whether these succeeded.
async fn to_the_end(
    shared: &Shared,
    plan: &TestPlan,
    strikes: &Strikes<'_>,
) -> Option<NotRecovered> {
    let env = &shared.env;
    let working =
        join_all((0..plan.clients.concurrency).map(|slot| Slot::new(shared, plan, slot).work()));
    let striking = async {
        let end = env.now() + Duration::from_millis(plan.duration_ms);
        strikes.all().await;
        env.sleep_until(end).await;
        shared.stopped.store(true, Ordering::Relaxed);
    };
    join(working, striking).await;
    event!(env, Info, "jepsen", "all faults have ended");
    heal(shared).await;
    let finale = with(&shared.generator, |generator| generator.finale());
    let mut last = Slot::new(shared, plan, plan.clients.concurrency + 1);
    let limit = Duration::from_millis(plan.recovery_ms);
    if last.all(finale.clone(), limit).await {
        return None;
    }
    // Each once more: is it the cluster that does not serve, or some of its data?
    let (failing, succeeded) = each_once(shared, plan, finale).await;
    let Some(first) = failing.first() else {
        return Some(None);
    };
    let why = if succeeded >= failing.len() {
        "lost"
    } else if shared.target.says_it_is_whole().await {
        "and the cluster says that nothing is amiss"
    } else {
        return Some(None);
    };
    Some(Some(Incident {
        node: "the final reads".to_owned(),
        text: format!(
            "{} of {} are not answered though all faults ended more than {} s ago, such as {} {}: \
             {why}",
            failing.len(),
            failing.len() + succeeded,
            limit.as_secs(),
            first.function,
            first.argument,
        ),
        defect: true,
    }))
}

async fn heal(shared: &Shared) {
    if let Err(error) = shared.target.heal().await {
        event!(shared.env, Error, "jepsen", "healing: {error}");
    }
}
