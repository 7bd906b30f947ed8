//! `hedgerow jepsen run`: draws a test, runs it, and says what came of it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use hedgerow_env::{Env, Level, Random, Seeds as _, event};
use hedgerow_jepsen::report;
use hedgerow_jepsen::run::workload::{BlockPlan, LifecyclePlan, RegisterPlan, WorkloadPlan};
use hedgerow_jepsen::run::{
    ClientPlan, Fault, LEAST_CUT_MS, NEMESES, Results, Target, TestPlan, TimedFault, VerdictName,
    kinds_named,
};

use super::etcd::{self, Etcd};
use super::namespaces::Namespaces;
use super::processes::{self, Place, Processes};
use super::sim;
use crate::out::say;
use crate::production::{Logging, SystemSeeds, production_env, wall};

const EXIT_INVALID: u8 = 1;
const EXIT_NOT_RUN: u8 = 2;
const EXIT_UNKNOWN: u8 = 3;

/// Keys or names, if nobody says how many.
const KEYS: u32 = 5;
/// Of a hundred operations, so many are reads if nobody says how many.
const READS_PERCENT: u32 = 50;
/// How unevenly things are chosen, if nobody says.
const SKEW: u32 = 30;

/// The options that a test is drawn by: they contradict a plan that is given.
const DRAWN_BY: [&str; 20] = [
    "workload",
    "nemesis",
    "nodes",
    "time",
    "rate",
    "concurrency",
    "client_crash_ppm",
    "timeout_ms",
    "skew",
    "keys",
    "blocks",
    "reads",
    "aim",
    "stray_one_in",
    "strays_read",
    "cuts",
    "bursts",
    "slow_disks",
    "small_stores",
    "block_size",
];
/// Runs that begin within one second; more is somebody's mistake.
const RUNS_A_SECOND_MAXIMUM: u32 = 1_000;

/// `hedgerow jepsen run`
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// What clients do
    #[arg(long, value_enum, default_value = "block")]
    workload: WorkloadName,
    /// What breaks: a list such as kill,partition; all; none. `help` tells them
    #[arg(long, default_value = "none")]
    nemesis: String,
    /// How many nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=15))]
    nodes: u16,
    /// How long clients act and faults strike, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=86_400))]
    time: u64,
    /// What is tested
    #[arg(long, value_enum, default_value = "processes")]
    target: TargetName,
    /// What cuts links: auto is namespaces where that can be and suffices [default: auto]
    #[arg(long, value_enum)]
    network: Option<NetworkName>,
    /// What the test is drawn from [default: a new one]
    #[arg(long)]
    seed: Option<u64>,
    /// Operations a second, of all clients together
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Clients that act at the same time
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=256))]
    concurrency: u32,
    /// Of a million operations, how many have their client crash in the middle
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    client_crash_ppm: u32,
    /// An operation that takes longer is of unknown outcome
    #[arg(long, default_value_t = 13_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// How unevenly keys and blocks are chosen, 0 to 95 [default: 30]
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=95))]
    skew: Option<u32>,
    /// Keys or names of the workloads cas-register and disk-lifecycle [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    keys: Option<u32>,
    /// Blocks that are read and written without a hurry beside the few that all want [default: 7]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    blocks: Option<u64>,
    /// Of a hundred operations on blocks or keys, how many are reads [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    reads: Option<u32>,
    /// Of the faults that are about one node, so many percent are about the one that clients use
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    aim: u32,
    /// One client in so many keeps to a portal of its own and waits there for the disk; 0: none
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    stray_one_in: u64,
    /// Those clients read and nothing else, as a backup does
    #[arg(long, requires = "stray_one_in")]
    strays_read: bool,
    /// Cut links stay cut for so many seconds at least, and for up to six more
    #[arg(long, default_value_t = LEAST_CUT_MS / 1000, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    cuts: u64,
    /// Clients act for so long, then all rest for as long, in turns; 0: they never rest
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=10_000))]
    bursts: u64,
    /// Disks take so long to sync at most, and half as long to write; 0: as long as they take
    #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=1_000))]
    slow_disks: u64,
    /// Small stores, and chores every few seconds: what takes hours elsewhere happens in a test
    #[arg(long)]
    small_stores: bool,
    /// Bytes of a block: 512, 4096 or 65536 [default: drawn]
    #[arg(long)]
    block_size: Option<u32>,
    /// Run this plan (a plan.json) again instead of drawing one; --seed has its clients draw otherwise
    #[arg(long, value_name = "FILE", conflicts_with_all = DRAWN_BY)]
    plan: Option<PathBuf>,
    /// Do again what this run did (a folder of the store): its operations, and its faults from when
    /// until when they struck; mostly with --target sim
    #[arg(long, value_name = "DIR", conflicts_with = "plan", conflicts_with_all = DRAWN_BY)]
    replay: Option<PathBuf>,
    /// With --replay: other interleavings, one seed after the other, until a run is invalid
    #[arg(long, default_value_t = 1, value_name = "COUNT", requires = "replay")]
    tries: u64,
    /// Where runs are kept
    #[arg(long, default_value = "store", value_name = "DIR")]
    store: PathBuf,
    /// Keep the nodes' data even when the verdict is valid
    #[arg(long)]
    keep_data: bool,
    /// The program to test [default: this one; for sim, the hedgerow-sim beside it]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// etcd: read without asking a majority, which is not linearizable
    #[arg(long)]
    serializable_reads: bool,
    /// Plant this bug in the nodes: tests the test (builds with the feature `mutants`)
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Answer with results.json
    #[arg(long)]
    json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum WorkloadName {
    Block,
    CasRegister,
    DiskLifecycle,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum TargetName {
    /// Processes of this program
    Processes,
    /// A simulated cluster, in virtual time: the same plan gives the same run
    Sim,
    /// Processes of etcd, for the workload cas-register
    Etcd,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum NetworkName {
    /// Namespaces for plans that do nothing to links but cut them, as root; else proxies
    Auto,
    /// A proxy before each node
    Proxy,
    /// Network namespaces and nftables, which drop packets
    Namespaces,
}

/// Runs the command.
pub(super) fn run(options: Run) -> ExitCode {
    if options.nemesis == "help" {
        for (_, name, text) in NEMESES {
            say!("{name:<10} {text}");
        }
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime needs threads, and the machine refused them");
    let outcome = runtime.block_on(tests(&options));
    runtime.shutdown_background();
    match outcome {
        Ok((results, folder)) => {
            tell(&options, &results, &folder);
            match results.verdict {
                VerdictName::Valid => ExitCode::SUCCESS,
                VerdictName::Invalid => ExitCode::from(EXIT_INVALID),
                VerdictName::Unknown => ExitCode::from(EXIT_UNKNOWN),
            }
        }
        Err(error) => {
            eprintln!("hedgerow: not run: {error:#}");
            ExitCode::from(EXIT_NOT_RUN)
        }
    }
}

/// The test, or a replay in one interleaving after the other until one is not valid.
async fn tests(options: &Run) -> anyhow::Result<(Results, PathBuf)> {
    let mut plan = plan(options)?;
    check_possible(options, &plan)?;
    for left in (0..options.tries.max(1)).rev() {
        let tested = test(options, plan.clone()).await?;
        if left == 0 || tested.0.verdict == VerdictName::Invalid {
            return Ok(tested);
        }
        plan.seed = plan.seed.wrapping_add(1);
    }
    unreachable!("the last try returns")
}

/// Whether the target can be tested so, before anything is begun.
fn check_possible(options: &Run, plan: &TestPlan) -> anyhow::Result<()> {
    match options.target {
        TargetName::Etcd => {
            if options.mutant.is_some() {
                bail!("--mutant: no bug is planted in etcd; its own is --serializable-reads");
            }
            etcd::check(plan)
        }
        _ if options.serializable_reads => bail!("--serializable-reads is for --target etcd"),
        TargetName::Processes => {
            has_workload(plan)?;
            processes::check_build(plan)?;
            let program = options.program.clone();
            let program = program.map_or_else(std::env::current_exe, Ok)?;
            let asked = options.mutant.as_deref();
            asked.map_or(Ok(()), |name| processes::check_mutant(&program, name))
        }
        TargetName::Sim => {
            if options.network.is_some() {
                bail!(
                    "--network means nothing for --target sim, whose links are its own: leave it out"
                );
            }
            has_workload(plan)?;
            let asked = options.mutant.as_deref();
            asked.map_or(Ok(()), |name| {
                sim::check_mutant(options.program.as_deref(), name)
            })
        }
    }
}

/// Whether Hedgerow has what the workload is about.
fn has_workload(plan: &TestPlan) -> anyhow::Result<()> {
    if matches!(plan.workload, WorkloadPlan::CasRegister(_)) {
        bail!("the cluster has no registers: use --workload block or disk-lifecycle");
    }
    Ok(())
}

async fn test(options: &Run, plan: TestPlan) -> anyhow::Result<(Results, PathBuf)> {
    let folder = folder(&options.store, &plan)?;
    let results = if options.target == TargetName::Sim {
        let mutant = options.mutant.as_deref();
        sim::run(&plan, &folder, options.program.as_deref(), mutant)?
    } else {
        on_processes(options, &plan, &folder).await?
    };
    if let Err(error) = report::write_page(&folder) {
        eprintln!("hedgerow: the page of the run: {error}");
    }
    let data = folder.join("data");
    if results.verdict == VerdictName::Valid && !options.keep_data && data.exists() {
        std::fs::remove_dir_all(data)?;
    }
    Ok((results, folder))
}

/// Runs the plan on processes of this machine, Hedgerow's or others'.
async fn on_processes(options: &Run, plan: &TestPlan, folder: &Path) -> anyhow::Result<Results> {
    let logging = Logging { level: Level::Info };
    let env = production_env("jepsen", folder, logging)?;
    let target = target(options, &env, plan, folder)?;
    tokio::select! {
        biased;
        results = hedgerow_jepsen::run::run(&env, plan, Arc::clone(&target)) => Ok(results?),
        () = crate::stop_signal() => {
            target.tear_down().await;
            bail!("interrupted; the history so far is in {}", folder.display());
        }
    }
}

/// The network of namespaces, if it is to be used.
fn network(options: &Run, env: &Env, plan: &TestPlan) -> anyhow::Result<Option<Namespaces>> {
    let cuts =
        |timed: &TimedFault| matches!(timed.fault, Fault::Partition { .. } | Fault::Links { .. });
    let fit = Namespaces::fit(plan);
    match options.network.unwrap_or(NetworkName::Auto) {
        NetworkName::Proxy => Ok(None),
        NetworkName::Namespaces if !fit => bail!(
            "between namespaces links are cut and nothing else: ask for other nemeses, or for \
             --network proxy"
        ),
        NetworkName::Namespaces => Namespaces::create(plan.all_nodes()).map(Some),
        NetworkName::Auto if fit && plan.faults.iter().any(cuts) => {
            match Namespaces::create(plan.all_nodes()) {
                Ok(network) => Ok(Some(network)),
                Err(error) => {
                    event!(env, Info, "jepsen", "proxies, not namespaces: {error:#}");
                    Ok(None)
                }
            }
        }
        NetworkName::Auto => Ok(None),
    }
}

fn target(
    options: &Run,
    env: &Env,
    plan: &TestPlan,
    folder: &Path,
) -> anyhow::Result<Arc<dyn Target>> {
    let network = network(options, env, plan)?;
    let program = options
        .program
        .as_ref()
        .map(std::path::absolute)
        .transpose()?;
    let (env, folder) = (env.clone(), folder.to_owned());
    Ok(match options.target {
        TargetName::Processes => {
            let place = Place {
                program: program.map_or_else(std::env::current_exe, Ok)?,
                folder,
                mutant: options.mutant.clone(),
            };
            Arc::new(Processes::new(env, network, place)?)
        }
        TargetName::Sim => unreachable!("another program runs it"),
        TargetName::Etcd => {
            let weak = options.serializable_reads;
            Arc::new(Etcd::new(env, network, program, folder, weak))
        }
    })
}

fn plan(options: &Run) -> anyhow::Result<TestPlan> {
    if let Some(path) = &options.plan {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut plan: TestPlan =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        plan.check().with_context(|| path.display().to_string())?;
        plan.seed = options.seed.unwrap_or(plan.seed);
        return Ok(plan);
    }
    if let Some(run) = &options.replay {
        let (mut again, left_out) = report::read_again(run).map_err(|error| {
            let remedy = "; --replay takes the folder of a run, such as store/<test>/<time>";
            let remedy = if error.is_missing() { remedy } else { "" };
            anyhow::anyhow!("{error}{remedy}")
        })?;
        for what in left_out {
            eprintln!("hedgerow: not carried over: {what}");
        }
        again.seed = options.seed.unwrap_or(again.seed);
        return Ok(again);
    }
    check_workload(options)?;
    let seed = options.seed.unwrap_or_else(new_seed);
    let mut random = Random::from_seed(seed);
    let workload = workload(options, &mut random);
    let clients = ClientPlan {
        concurrency: options.concurrency,
        rate: options.rate,
        crash_ppm: options.client_crash_ppm,
        timeout_ms: options.timeout_ms,
    };
    let kinds = kinds_named(&options.nemesis, options.nodes)?;
    let size = (options.nodes, options.time);
    let asked = (kinds.as_slice(), options.cuts * 1000);
    let mut plan = TestPlan::draw(seed, size, workload, clients, asked)?.aimed(options.aim);
    plan.small_stores = options.small_stores;
    (plan.slow_disks_ms, plan.rest_ms) = (options.slow_disks, options.bursts);
    plan.check()?;
    Ok(plan)
}

fn workload(options: &Run, random: &mut Random) -> WorkloadPlan {
    let reads_percent = options.reads.unwrap_or(READS_PERCENT);
    let skew = options.skew.unwrap_or(SKEW);
    match options.workload {
        WorkloadName::Block => {
            let mut block = BlockPlan::draw(random, options.block_size, skew);
            if let (Some(blocks), Some(last)) = (options.blocks, block.hot.last_mut()) {
                last.count = blocks;
            }
            block.stray_one_in = options.stray_one_in;
            block.strays_read = options.strays_read;
            block.reads_percent = reads_percent;
            WorkloadPlan::Block(block)
        }
        WorkloadName::CasRegister => WorkloadPlan::CasRegister(RegisterPlan {
            keys: options.keys.unwrap_or(KEYS),
            reads_percent,
            skew,
        }),
        WorkloadName::DiskLifecycle => WorkloadPlan::DiskLifecycle(LifecyclePlan {
            names: options.keys.unwrap_or(KEYS),
        }),
    }
}

/// Whether every option means something for the workload.
fn check_workload(options: &Run) -> anyhow::Result<()> {
    let about_choice = [
        ("--reads", options.reads.is_some()),
        ("--skew", options.skew.is_some()),
    ];
    let about_blocks = [
        ("--blocks", options.blocks.is_some()),
        ("--block-size", options.block_size.is_some()),
        ("--stray-one-in", options.stray_one_in > 0),
    ];
    let about_keys = [("--keys", options.keys.is_some())];
    let (foreign, workload) = match options.workload {
        WorkloadName::Block => (about_keys.to_vec(), "block"),
        WorkloadName::CasRegister => (about_blocks.to_vec(), "cas-register"),
        WorkloadName::DiskLifecycle => {
            let foreign = [&about_blocks[..], &about_choice[..]];
            (foreign.concat(), "disk-lifecycle")
        }
    };
    match foreign.iter().find(|(_, given)| *given) {
        Some((option, _)) => {
            bail!("{option} means nothing for --workload {workload}: leave it out")
        }
        None => Ok(()),
    }
}

/// Short enough to be typed again.
fn new_seed() -> u64 {
    SystemSeeds.stream("seed").below(1_000_000)
}

/// Makes `store/<test>/<time>/`, or `<time>-2` and so on where other runs began in the same second.
fn folder(store: &Path, plan: &TestPlan) -> anyhow::Result<PathBuf> {
    let stamp: String = wall()
        .to_string()
        .chars()
        .filter(|c| !"-:".contains(*c))
        .collect();
    let (seconds, _) = stamp.split_once('.').context("a time has milliseconds")?;
    let test = std::path::absolute(store)?.join(&plan.test);
    let refused = |path: &Path| format!("{} (--store names another folder)", path.display());
    std::fs::create_dir_all(&test).with_context(|| refused(&test))?;
    for number in 1..=RUNS_A_SECOND_MAXIMUM {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let folder = test.join(format!("{seconds}Z{suffix}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| refused(&folder)),
        }
    }
    bail!("{}: too many runs began just now", test.display())
}

fn tell(options: &Run, results: &Results, folder: &Path) {
    if options.json {
        let text = serde_json::to_string_pretty(results).expect("results have a JSON form");
        say!("{text}");
        return;
    }
    let verdict = match results.verdict {
        VerdictName::Valid => "valid",
        VerdictName::Invalid => "invalid",
        VerdictName::Unknown => "unknown",
    };
    say!("{verdict}: {}", results.reason);
    for operation in &results.witness {
        let key = operation.key.as_ref().map(|key| format!(" key {key}"));
        say!(
            "  operation {}: process {},{} :{} {} -> {} {}",
            operation.operation,
            operation.process,
            key.unwrap_or_default(),
            operation.function,
            operation.argument,
            operation.ending,
            operation.answer,
        );
    }
    let counts = results.operations;
    say!(
        "operations  {} ok, {} failed, {} unknown; {} ok under faults",
        counts.ok,
        counts.fail,
        counts.info,
        results.coverage.succeeded_under_faults
    );
    for (name, tally) in &results.coverage.faults {
        say!(
            "faults      {name}: {} of {} struck",
            tally.struck,
            tally.asked
        );
    }
    for incident in &results.incidents {
        say!("incident    {incident}");
    }
    say!("seed        {}, {:.0} s", results.seed, results.duration_s);
    say!("folder      {}", folder.display());
}
