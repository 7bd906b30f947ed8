//! The target `sim` of `hedgerow jepsen run`: the tests of real processes, on a simulated cluster.
//!
//! Plan, workload, clients, nemesis, recorder, coverage and judge are the very code that tests
//! processes; beneath `Env` stand a [`World`] and the production nodes in it. The tester runs on a
//! machine of its own, which no fault strikes; its folder outlives the world.
//!
//! Invariant: the same plan gives the same run.

mod cluster;
mod evidence;
mod faults;
mod folder;
mod repeated;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{Env, Level};
use hedgerow_jepsen::run::{
    Incident, RESULTS_FILE, Results, RunError, Target, TestPlan, VerdictName, cut_short, node_name,
    run,
};

use crate::world::{
    EventKind, NodeIndex, Recording, TraceEvent, World, WorldConfig, run_in_world, wall_time,
};

use cluster::SimCluster;
use folder::Folder;

/// What a run may take beside its faults and its recovery: forming, healing, the oracles.
const BESIDE: Duration = Duration::from_secs(900);

/// What came of a test.
#[derive(Debug)]
pub struct TestRun {
    /// The verdict; none when the test was not run.
    pub results: Result<Results, RunError>,
    /// Every file of the test's folder, by its path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The hash of its trace.
    pub trace_hash: u64,
    /// How long it took in the world.
    pub virtual_time: Duration,
}

/// Runs `plan` in a new world.
#[must_use]
pub fn run_test(plan: &TestPlan, print: bool) -> TestRun {
    let mut config = WorldConfig::new(plan.seed);
    let recovery = Duration::from_millis(plan.recovery_ms);
    config.time_limit = Duration::from_millis(plan.duration_ms) + recovery + BESIDE;
    config.recording = Recording::Logs;
    config.level = Level::Info;
    config.print = print;
    let folder = Folder::default();
    let (planned, kept) = (plan.clone(), folder.clone());
    let ended = run_in_world(config, move |world| async move {
        test(world, planned, kept).await
    });
    let (results, trace) = match ended {
        Ok(run) => (run.value, run.trace),
        Err(failure) => {
            let panic = Incident {
                node: "the simulated cluster".to_owned(),
                text: failure.message.clone(),
                defect: true,
            };
            let history = folder.read(hedgerow_jepsen::run::HISTORY_FILE);
            let results = cut_short(plan, "sim", panic, &history.unwrap_or_default());
            folder.write(RESULTS_FILE, json(&results));
            (Ok(results), *failure.trace)
        }
    };
    for (path, text) in logs(plan.all_nodes(), &trace.recorded) {
        folder.write(&path, text.into_bytes());
    }
    TestRun {
        results,
        files: folder.files(),
        trace_hash: trace.hash,
        virtual_time: Duration::from_nanos(trace.virtual_ns),
    }
}

fn json(results: &Results) -> Vec<u8> {
    serde_json::to_vec_pretty(results).expect("results have a JSON form")
}

/// The test, as a task of the tester's machine.
async fn test(world: World, plan: TestPlan, folder: Folder) -> Result<Results, RunError> {
    let cluster = Arc::new(SimCluster::start(&world, &plan));
    let env = tester(&world, cluster.machine(), folder);
    cluster.attend(env.clone());
    let target: Arc<dyn Target> = cluster;
    let (answer, results) = tokio::sync::oneshot::channel();
    let inner = env.clone();
    env.spawn("tester", async move {
        drop(answer.send(run(&inner, &plan, target).await));
    });
    results.await.expect("nothing ends the tester")
}

fn tester(world: &World, machine: NodeIndex, folder: Folder) -> Env {
    let env = world.env(machine).expect("its program never ends");
    env.with_disk(Arc::new(folder))
}

/// The nodes' logs, each line as a process writes it.
fn logs(nodes: u16, recorded: &[TraceEvent]) -> BTreeMap<String, String> {
    let path = |name: &str| format!("logs/{name}.log");
    let mut logs: BTreeMap<String, String> = (0..nodes)
        .map(|node| (path(&node_name(node)), String::new()))
        .collect();
    for event in recorded {
        let Some(node) = event.node.filter(|_| event.kind == EventKind::Log) else {
            continue;
        };
        let name = if node.0 < nodes {
            node_name(node.0)
        } else {
            "tester".to_owned()
        };
        let time = wall_time(event.at_ns);
        let (level, rest) = event.text.split_once(' ').unwrap_or(("", &event.text));
        let level = level.to_lowercase();
        let line = format!("{time} {level:5} {name} {rest}\n");
        logs.entry(path(&name)).or_default().push_str(&line);
    }
    logs
}

/// The exit code of a verdict, as `hedgerow jepsen run` has it.
#[must_use]
pub fn exit_code(verdict: VerdictName) -> u8 {
    match verdict {
        VerdictName::Valid => 0,
        VerdictName::Invalid => 1,
        VerdictName::Unknown => 3,
    }
}

#[cfg(test)]
mod tests;
