//! The same seed gives the same trace: in new threads, in other processes, whatever is recorded.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, OpenMode, Random, Stream, StreamKind, event};
use hedgerow_sim::world::{
    Crash, DiskFaults, FaultAction, LinkRules, NodeIndex, NodeSpec, Recording, TimedFault,
    TraceSummary, World, WorldConfig, run_in_world,
};

const NODES: u16 = 4;

/// A little protocol that uses every seam: each node journals what it hears and gossips on.
fn gossip(env: Env) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut listener = env
            .network()
            .listen("0.0.0.0:1", StreamKind::Rpc)
            .await
            .expect("a new life");
        let journal = env
            .disk()
            .open("journal", OpenMode::Create)
            .await
            .expect("no faults here");
        let length = journal.length().await.expect("no faults here");
        let tail = Arc::new(std::sync::atomic::AtomicU64::new(length));
        let talker = env.clone();
        env.spawn("talk", async move { talk(talker).await });
        while let Ok(stream) = listener.accept().await {
            let (hearer, journal, tail) = (env.clone(), Arc::clone(&journal), Arc::clone(&tail));
            env.spawn("hear", async move {
                let Stream { mut reader, .. } = stream;
                while let Ok(bytes) = reader.read(256).await {
                    if bytes.is_empty() {
                        break;
                    }
                    let size = u64::try_from(bytes.len()).expect("short");
                    let at = tail.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
                    if journal.write_at(at, vec![bytes]).await.is_err() {
                        event!(hearer, Warn, "gossip", "a write failed at {at}");
                    }
                    let _ = journal.sync().await;
                }
            });
        }
    })
}

async fn talk(env: Env) {
    let mut random = env.random("talk");
    loop {
        let peer = char::from(b'a' + u8::try_from(random.below(u64::from(NODES))).expect("few"));
        let opening = env.network().connect(&format!("{peer}:1"), StreamKind::Rpc);
        let Ok(Ok(mut stream)) = env.timeout(Duration::from_millis(50), opening).await else {
            env.sleep(Duration::from_millis(1 + random.below(5))).await;
            continue;
        };
        for _ in 0..random.below(20) {
            let mut words = vec![0; 1 + random.index(200)];
            random.fill(&mut words);
            if stream.writer.write(vec![Bytes::from(words)]).await.is_err() {
                break;
            }
            env.sleep(Duration::from_micros(random.below(900))).await;
        }
    }
}

/// One fault in each of ten seconds, and its end.
fn plan(random: &mut Random, all: &[NodeIndex]) -> Vec<TimedFault> {
    let mut faults = Vec::new();
    for second in 0..10 {
        let at_ns = second * 1_000_000_000 + random.below(900_000_000);
        let node = all[random.index(all.len())];
        let other = all[random.index(all.len())];
        let (strike, heal) = match random.below(6) {
            0 => (
                FaultAction::Crash(node, Crash::POWER),
                FaultAction::Restart(node),
            ),
            1 => (
                FaultAction::CrashAfterCalls(node, 7, Crash::RESET),
                FaultAction::Restart(node),
            ),
            2 => (FaultAction::Pause(node), FaultAction::Resume(node)),
            3 => (
                FaultAction::Partition(vec![vec![node, other]]),
                FaultAction::HealLinks,
            ),
            4 => (
                FaultAction::Drift(node, 90_000),
                FaultAction::BreakConnections(node, other),
            ),
            _ => {
                let faults = DiskFaults {
                    write_error_ppm: 50_000,
                    slow_factor: 3,
                    ..DiskFaults::default()
                };
                (
                    FaultAction::Disk(node, faults),
                    FaultAction::Rot(node, second),
                )
            }
        };
        let after_ns = at_ns + random.below(400_000_000);
        faults.push(TimedFault {
            at_ns,
            action: strike,
        });
        faults.push(TimedFault {
            at_ns: after_ns,
            action: heal,
        });
    }
    faults
}

/// Ten seconds of gossip under faults of every kind.
async fn scenario(world: World) -> u64 {
    let racks = ["r0", "r1"];
    let all: Vec<NodeIndex> = (0..NODES)
        .map(|number| {
            let name = char::from(b'a' + u8::try_from(number).expect("few")).to_string();
            world.add_node(NodeSpec::new(&name, racks[usize::from(number % 2)], "dc"))
        })
        .collect();
    for node in &all {
        world.start(*node, gossip);
    }
    world.update_links(|_, _, rules| {
        *rules = LinkRules {
            loss_ppm: 20_000,
            duplicate_ppm: 20_000,
            reorder_ppm: 20_000,
            reorder_ns: 3_000_000,
            corrupt_ppm: 5_000,
            jitter_ns: 400_000,
            ..LinkRules::default()
        };
    });
    let faults = plan(&mut world.random("nemesis"), &all);
    world.schedule(faults);
    world.sleep(Duration::from_secs(10)).await;
    world.trace_hash()
}

fn trace(seed: u64, recording: Recording) -> TraceSummary {
    let config = WorldConfig {
        recording,
        ..WorldConfig::new(seed)
    };
    run_in_world(config, scenario)
        .unwrap_or_else(|failure| panic!("{failure}"))
        .trace
}

#[test]
fn a_seed_repeats_itself_in_new_threads_and_another_seed_does_not() {
    for seed in 0..4 {
        let first = trace(seed, Recording::HashOnly);
        assert!(first.events > 10_000, "{} events", first.events);
        assert_eq!(first, trace(seed, Recording::HashOnly), "seed {seed}");
        let recorded = trace(seed, Recording::Last(100));
        assert_eq!(first.hash, recorded.hash, "recording changes nothing");
        assert_eq!(recorded.recorded.len(), 100);
        assert_ne!(first.hash, trace(seed + 1_000, Recording::HashOnly).hash);
    }
}

#[test]
fn the_first_difference_of_two_runs_is_located() {
    let [one, other] = [1, 2].map(|seed| trace(seed, Recording::HashOnly));
    let range = one.first_difference(&other).expect("they differ");
    assert!(one.first_difference(&one.clone()).is_none());
    let [one, other] = [1, 2].map(|seed| trace(seed, Recording::Range(range.clone())).recorded);
    let different = one.iter().zip(&other).find(|(left, right)| left != right);
    assert!(different.is_some(), "the range holds a difference");
}

/// The seed that the child process runs.
const CHILD_SEED: &str = "HEDGEROW_SIM_TEST_SEED";

#[test]
fn a_seed_repeats_itself_in_another_process() {
    let name = "determinism::a_seed_repeats_itself_in_another_process";
    if let Ok(seed) = std::env::var(CHILD_SEED) {
        let seed = seed.parse().expect("the parent gives a number");
        println!("\ntrace={:016x}", trace(seed, Recording::HashOnly).hash);
        return;
    }
    for seed in [5, 6] {
        let here = format!("trace={:016x}", trace(seed, Recording::HashOnly).hash);
        let child = Command::new(std::env::current_exe().expect("this test has a file"))
            .args([name, "--exact", "--nocapture"])
            .env(CHILD_SEED, seed.to_string())
            .output()
            .expect("the test starts itself");
        let there = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(there.contains(&here), "here {here}, there: {there}");
    }
}

#[test]
fn madsim_finds_no_difference_either() {
    // Compares every draw of madsim's own generator, and the time of each.
    madsim::runtime::Runtime::check_determinism(7, madsim::Config::default(), || {
        World::within(WorldConfig::new(7), scenario)
    });
}
