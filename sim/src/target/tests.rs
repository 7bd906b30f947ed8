//! Short tests of the block workload on a simulated cluster.

use hedgerow_env::Random;
use hedgerow_jepsen::run::workload::{BlockPlan, WorkloadPlan};
use hedgerow_jepsen::run::{ClientPlan, LEAST_CUT_MS, TestPlan, VerdictName, kinds_named};

use super::run_test;

fn plan(seed: u64, nemesis: &str, seconds: u64) -> TestPlan {
    plan_of(seed, 3, nemesis, seconds)
}

fn plan_of(seed: u64, nodes: u16, nemesis: &str, seconds: u64) -> TestPlan {
    let block = BlockPlan::draw(&mut Random::from_seed(seed), Some(4096), 30);
    let clients = ClientPlan {
        concurrency: 4,
        rate: 40,
        crash_ppm: 5_000,
        timeout_ms: 13_000,
    };
    let kinds = kinds_named(nemesis, nodes).unwrap();
    let workload = WorkloadPlan::Block(block);
    TestPlan::draw(
        seed,
        (nodes, seconds),
        workload,
        clients,
        (&kinds, LEAST_CUT_MS),
    )
    .unwrap()
}

#[test]
fn a_simulated_test_leaves_what_a_test_of_processes_leaves_and_is_the_same_again() {
    let plan = plan(3, "kill,isolate", 25);
    let run = run_test(&plan, false);
    let results = run.results.unwrap();
    assert_eq!(results.verdict, VerdictName::Valid, "{}", results.reason);
    assert_eq!(results.target, "sim");
    for file in [
        "plan.json",
        "history.bin",
        "faults.json",
        "results.json",
        "logs/node-1.log",
    ] {
        assert!(run.files.contains_key(file), "{file}");
    }
    let again = run_test(&plan, false);
    assert_eq!(again.trace_hash, run.trace_hash);
    assert!(again.files.keys().eq(run.files.keys()));
    for (file, contents) in &run.files {
        assert!(again.files[file] == *contents, "{file}");
    }
}

#[test]
fn a_blank_node_joins_and_another_is_drained_under_load() {
    let plan = plan_of(5, 4, "join,drain", 60);
    assert!(plan.spares > 0);
    let run = run_test(&plan, false);
    let results = run.results.unwrap();
    assert_eq!(results.verdict, VerdictName::Valid, "{}", results.reason);
    let faults = String::from_utf8(run.files["faults.json"].clone()).unwrap();
    assert!(faults.contains("drained: holds no data"), "{faults}");
    assert!(run.files.contains_key("logs/node-5.log"));
}
