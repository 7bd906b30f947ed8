//! The runner on targets in memory; the fault proxy and the server of runs on real connections.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, Level, Stream, StreamKind};
use hedgerow_jepsen::history::Value;
use hedgerow_jepsen::report::serve::{CONNECTIONS_MAXIMUM, Server};
use hedgerow_jepsen::run::fault_proxy::{FaultProxy, Links};
use hedgerow_jepsen::run::workload::{RegisterPlan, WorkloadPlan};
use hedgerow_jepsen::run::{
    Client, ClientPlan, Completion, Fault, Incident, LEAST_CUT_MS, Link, LinkRules, Operation,
    Results, Struck, Target, TargetError, TestPlan, VerdictName, kinds_named, run,
};

use crate::production::{Logging, production_env};

/// How the register in memory misbehaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Right,
    /// Every tenth write is acknowledged and forgotten.
    Forgets,
    /// Faults are told to have begun, and nothing happens.
    Unmoved,
    /// Nothing ever succeeds.
    Dead,
}

type Registers = Arc<Mutex<BTreeMap<i64, Value>>>;

struct Memory {
    /// Clients that live, and how many did when everything was made whole.
    live: Arc<AtomicUsize>,
    live_at_healing: Arc<AtomicUsize>,
    manner: Manner,
    registers: Registers,
    writes: Arc<Mutex<u32>>,
}

struct MemoryClient {
    live: Arc<AtomicUsize>,
    manner: Manner,
    registers: Registers,
    writes: Arc<Mutex<u32>>,
}

impl Drop for MemoryClient {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client for MemoryClient {
    fn perform<'a>(&'a mut self, operation: &'a Operation) -> BoxFuture<'a, Completion> {
        Box::pin(async move {
            if self.manner == Manner::Dead {
                return Completion::Fail("dead".to_owned());
            }
            let mut registers = self.registers.lock().unwrap();
            let key = operation.key.unwrap();
            let value = registers.get(&key).cloned().unwrap_or(Value::Nil);
            let argument = operation.argument.clone();
            match operation.function {
                "read" => Completion::Ok(value),
                "cas" => {
                    let (from, to) = argument.pair().unwrap();
                    if *from != value {
                        return Completion::Fail("another value".to_owned());
                    }
                    registers.insert(key, to.clone());
                    Completion::Ok(argument)
                }
                _ => {
                    let mut writes = self.writes.lock().unwrap();
                    *writes += 1;
                    let forgotten = self.manner == Manner::Forgets && writes.is_multiple_of(10);
                    if !forgotten {
                        registers.insert(key, argument.clone());
                    }
                    Completion::Ok(argument)
                }
            }
        })
    }
}

impl Target for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn set_up<'a>(&'a self, _plan: &'a TestPlan) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async { Ok(()) })
    }

    fn client(&self, _process: u64) -> Box<dyn Client> {
        self.live.fetch_add(1, Ordering::Relaxed);
        Box::new(MemoryClient {
            live: Arc::clone(&self.live),
            manner: self.manner,
            registers: Arc::clone(&self.registers),
            writes: Arc::clone(&self.writes),
        })
    }

    fn begin<'a>(&'a self, _fault: &'a Fault) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async { Ok(()) })
    }

    fn end<'a>(&'a self, _fault: &'a Fault) -> BoxFuture<'a, Struck> {
        let struck = match self.manner {
            Manner::Unmoved => Struck::No("nothing died".to_owned()),
            _ => Struck::Yes("as if".to_owned()),
        };
        Box::pin(async { struck })
    }

    fn has_defect(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    fn heal(&self) -> BoxFuture<'_, Result<(), TargetError>> {
        let live = self.live.load(Ordering::Relaxed);
        self.live_at_healing.store(live, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<Incident>> {
        Box::pin(async { Vec::new() })
    }
}

fn folder(name: &str) -> PathBuf {
    let name = format!("hedgerow-jepsen-{name}-{}", std::process::id());
    std::env::temp_dir().join(name)
}

fn env(name: &str) -> Env {
    let logging = Logging {
        level: Level::Error,
    };
    production_env(name, &folder(name), logging).unwrap()
}

async fn tested(name: &str, manner: Manner) -> Results {
    let workload = WorkloadPlan::CasRegister(RegisterPlan {
        keys: 3,
        reads_percent: 50,
        skew: 0,
    });
    let clients = ClientPlan {
        concurrency: 5,
        rate: 200,
        crash_ppm: 10_000,
        timeout_ms: 1_000,
    };
    let kinds = kinds_named("kill", 3).unwrap();
    let mut plan = TestPlan::draw(7, (3, 10), workload, clients, (&kinds, LEAST_CUT_MS)).unwrap();
    plan.recovery_ms = 2_000;
    let live_at_healing = Arc::new(AtomicUsize::new(usize::MAX));
    let target = Arc::new(Memory {
        live: Arc::default(),
        live_at_healing: Arc::clone(&live_at_healing),
        manner,
        registers: Registers::default(),
        writes: Arc::default(),
    });
    let env = env(name);
    let results = run(&env, &plan, target).await.unwrap();
    for file in ["plan.json", "history.bin", "faults.json", "results.json"] {
        assert!(folder(name).join(file).exists(), "{file}");
    }
    std::fs::remove_dir_all(folder(name)).unwrap();
    let live = live_at_healing.load(Ordering::Relaxed);
    assert_eq!(
        live, 0,
        "no client is left that could hold what the last reads need"
    );
    results
}

#[tokio::test]
async fn a_register_that_keeps_its_word_is_valid() {
    let results = tested("right", Manner::Right).await;
    assert_eq!(results.verdict, VerdictName::Valid, "{}", results.reason);
    assert!(results.coverage.faults["kill"].struck > 0);
    assert!(results.coverage.succeeded_under_faults > 0);
}

#[tokio::test]
async fn a_register_that_forgets_is_invalid_with_a_witness() {
    let results = tested("forgets", Manner::Forgets).await;
    assert_eq!(results.verdict, VerdictName::Invalid, "{}", results.reason);
    assert!(!results.witness.is_empty());
    assert!(
        results.duration_s < 9.0,
        "cut short: {}",
        results.duration_s
    );
}

#[tokio::test]
async fn a_test_whose_faults_did_not_strike_is_no_pass() {
    let results = tested("unmoved", Manner::Unmoved).await;
    assert_eq!(results.verdict, VerdictName::Unknown);
    assert!(
        results.reason.contains("no fault of kill struck"),
        "{}",
        results.reason
    );
}

#[tokio::test]
async fn a_test_in_which_nothing_succeeded_is_no_pass() {
    let results = tested("dead", Manner::Dead).await;
    assert_eq!(results.verdict, VerdictName::Unknown);
    assert!(
        results.reason.contains("0 operations succeeded"),
        "{}",
        results.reason
    );
    assert!(
        results.reason.contains("did not recover"),
        "{}",
        results.reason
    );
}

const FORTH: Link = Link { from: 0, to: 1 };
const BACK: Link = Link { from: 1, to: 0 };

/// A proxied connection: the caller's end and the called one's.
async fn proxied(env: &Env, links: &Links) -> (FaultProxy, Stream, Stream) {
    let network = env.network();
    let mut listener = network
        .listen("127.0.0.1:0", StreamKind::Rpc)
        .await
        .unwrap();
    let before = (1, listener.local_address());
    let identify = Arc::new(|_: &str, _: &str| Some(0));
    let links = links.clone();
    let proxy = FaultProxy::start(env, "127.0.0.1:0", before, links, identify);
    let proxy = proxy.await.unwrap();
    let caller = network
        .connect(proxy.address(), StreamKind::Rpc)
        .await
        .unwrap();
    let called = listener.accept().await.unwrap();
    (proxy, caller, called)
}

async fn arrives(env: &Env, stream: &mut Stream) -> Option<Bytes> {
    let reading = stream.reader.read(100);
    let read = env.timeout(Duration::from_millis(300), reading).await;
    read.ok().map(|bytes| bytes.unwrap_or_default())
}

#[tokio::test]
async fn a_cut_link_holds_what_is_sent_over_it_and_nothing_else() {
    let (env, links) = (env("cut"), Links::default());
    let (_proxy, mut caller, mut called) = proxied(&env, &links).await;
    links.set(&[FORTH], LinkRules::cut());
    caller.writer.write(vec!["there".into()]).await.unwrap();
    called.writer.write(vec!["back".into()]).await.unwrap();
    assert_eq!(
        arrives(&env, &mut caller).await.as_deref(),
        Some(&b"back"[..])
    );
    assert_eq!(arrives(&env, &mut called).await, None);
    assert_eq!(links.counters(&[FORTH]).held, 1);
    links.heal(&[FORTH]);
    assert_eq!(
        arrives(&env, &mut called).await.as_deref(),
        Some(&b"there"[..])
    );
    assert!(!links.counters(&[BACK]).any());
}

#[tokio::test]
async fn damage_turns_one_bit_and_a_reset_ends_both_sides() {
    let (env, links) = (env("damage"), Links::default());
    let (_proxy, mut caller, mut called) = proxied(&env, &links).await;
    let always = LinkRules {
        corrupt_ppm: 1_000_000,
        ..LinkRules::default()
    };
    links.set(&[FORTH], always);
    caller
        .writer
        .write(vec![Bytes::from_static(&[0; 8])])
        .await
        .unwrap();
    let bytes = arrives(&env, &mut called).await.unwrap();
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!((bytes.len(), ones), (8, 1));
    let always = LinkRules {
        reset_ppm: 1_000_000,
        ..LinkRules::default()
    };
    links.set(&[BACK], always);
    called.writer.write(vec!["last".into()]).await.unwrap();
    assert_eq!(arrives(&env, &mut caller).await, Some(Bytes::new()));
    assert_eq!(arrives(&env, &mut called).await, Some(Bytes::new()));
    assert_eq!(links.counters(&[BACK]).resets, 1);
}

#[tokio::test]
async fn a_doubled_connection_says_everything_twice() {
    let (env, links) = (env("double"), Links::default());
    let always = LinkRules {
        duplicate_ppm: 1_000_000,
        ..LinkRules::default()
    };
    links.set(&[FORTH], always);
    let network = env.network();
    let mut listener = network
        .listen("127.0.0.1:0", StreamKind::Rpc)
        .await
        .unwrap();
    let before = (1, listener.local_address());
    let identify = Arc::new(|_: &str, _: &str| Some(0));
    let proxy = FaultProxy::start(&env, "127.0.0.1:0", before, links, identify);
    let proxy = proxy.await.unwrap();
    let mut caller = network
        .connect(proxy.address(), StreamKind::Rpc)
        .await
        .unwrap();
    caller.writer.write(vec!["once".into()]).await.unwrap();
    for _ in 0..2 {
        let mut called = listener.accept().await.unwrap();
        assert_eq!(
            arrives(&env, &mut called).await.as_deref(),
            Some(&b"once"[..])
        );
    }
}

/// A connection on which the list of runs was asked for.
async fn asked(env: &Env, address: &str) -> Stream {
    let network = env.network();
    let mut stream = network.connect(address, StreamKind::Client).await.unwrap();
    let request = "GET /runs.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.writer.write(vec![request.into()]).await.unwrap();
    stream
}

#[tokio::test]
async fn peers_that_keep_answered_connections_open_shut_nobody_out() {
    let env = env("serve");
    let store = folder("serve");
    let server = Server::listen(env.clone(), "127.0.0.1:0", &store);
    let server = server.await.unwrap();
    let address = server.address();
    drop(env.spawn("serve", server.run()));
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAXIMUM {
        open.push(asked(&env, &address).await);
    }
    for stream in &mut open {
        let answer = stream.reader.read(100).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{answer:?}");
    }
    let mut one_more = asked(&env, &address).await;
    let answer = env.timeout(Duration::from_secs(8), one_more.reader.read(100));
    let answer = answer.await.expect("a place is free soon").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{answer:?}");
    std::fs::remove_dir_all(store).unwrap();
}
