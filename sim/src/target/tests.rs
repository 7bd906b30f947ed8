//! Short tests of the block workload on a simulated cluster.

use hedgerow_env::Random;
use hedgerow_jepsen::run::workload::{BlockPlan, WorkloadPlan};
use hedgerow_jepsen::run::{ClientPlan, TestPlan, VerdictName, kinds_named};

use super::run_test;

fn plan(seed: u64, nemesis: &str, seconds: u64) -> TestPlan {
    let block = BlockPlan::draw(&mut Random::from_seed(seed), Some(4096), 30);
    let clients = ClientPlan {
        concurrency: 4,
        rate: 40,
        crash_ppm: 5_000,
        timeout_ms: 13_000,
    };
    let kinds = kinds_named(nemesis, 3).unwrap();
    let workload = WorkloadPlan::Block(block);
    TestPlan::draw(seed, (3, seconds), workload, clients, &kinds).unwrap()
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
    for file in ["history.bin", "faults.json", "plan.json"] {
        assert!(again.files[file] == run.files[file], "{file}");
    }
}
