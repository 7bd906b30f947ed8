//! openraft's own conformance suite, run on our runtime.

use futures_util::FutureExt as _;
use openraft_rt::testing::Suite;

use super::super::runtime::EnvRuntime;
use hedgerow_env::with_current_env;
use hedgerow_net::testing::MemoryNetwork;

/// Real threads and real time: the suite blocks the thread that it runs on.
#[test]
fn the_runtime_passes_the_conformance_suite() {
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    // Not inside the executor's own `block_on`: its budget for one poll would run out.
    let _entered = executor.enter();
    let env = MemoryNetwork::new(1).env();
    let suite = async { Suite::<EnvRuntime>::test_all_on(&mut EnvRuntime) };
    let ran = with_current_env(env, Box::pin(suite)).now_or_never();
    assert_eq!(ran, Some(()));
}
