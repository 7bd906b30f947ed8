//! Running a plan: form, break, heal, converge, judge.

use std::time::Duration;

use hedgerow_net::GroupClient;
use hedgerow_protocol::{
    DiskRecord, RootCommand, RootOutcome, ShardReply, ShardRequest, ShardStatistics,
};

use crate::oracles;
use crate::world::{
    Crash, DiskFaults, NodeIndex, NodeStatus, Recording, TimedFault, World, WorldConfig,
    run_in_world,
};

use super::clients::{Agents, DISK, read_all};
use super::cluster::Cluster;
use super::plan::Plan;

/// A cluster without faults forms within this time.
const FORM_LIMIT: Duration = Duration::from_secs(60);
/// After the last fault is healed the cluster serves again within this time: an election, the wait
/// for a lease, back-offs, and the recovery of stores.
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// ... and every copy is where it belongs within this time.
const CONVERGE_LIMIT: Duration = Duration::from_secs(120);
/// The whole run, as a backstop against a scenario that never ends.
const RUN_LIMIT: Duration = Duration::from_secs(1_200);
/// More disk calls than any run makes.
const NEVER: u64 = 1 << 60;
/// Pause between two looks at the cluster.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// One question to a group.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// What kind of failure a run ended with; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// Wrong data, lost data, a policy not kept: exit 10.
    Correctness,
    /// No convergence or no service within the bound: exit 11.
    Liveness,
    /// A panic, or a node that stopped itself over a broken invariant: exit 12.
    Crash,
}

impl FailureKind {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Correctness => 10,
            Self::Liveness => 11,
            Self::Crash => 12,
        }
    }

    /// The word in the last line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Correctness => "correctness",
            Self::Liveness => "liveness",
            Self::Crash => "crash",
        }
    }
}

/// A failed run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// The oracle that fired.
    pub oracle: &'static str,
    /// What it saw.
    pub text: String,
}

impl Failure {
    /// A violation of correctness.
    #[must_use]
    pub fn correctness(oracle: &'static str, text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Correctness,
            oracle,
            text: text.into(),
        }
    }

    /// A bound that passed.
    #[must_use]
    pub fn liveness(oracle: &'static str, text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Liveness,
            oracle,
            text: text.into(),
        }
    }

    /// A node that stopped itself, or a panic.
    #[must_use]
    pub fn crash(oracle: &'static str, text: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Crash,
            oracle,
            text: text.into(),
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Result<(), Failure>,
    /// The trace's hash.
    pub trace_hash: u64,
    /// Events in the trace.
    pub events: u64,
    /// Virtual time of the run.
    pub virtual_time: Duration,
    /// Client operations, all and those that succeeded.
    pub operations: (u64, u64),
    /// The last events, when they were kept.
    pub recorded: Vec<crate::world::TraceEvent>,
}

/// Runs `plan` in a new world.
#[must_use]
pub fn run_plan(plan: &Plan, recording: Recording, print: bool) -> Report {
    let mut config = WorldConfig::new(plan.seed);
    config.time_limit = RUN_LIMIT;
    config.recording = recording;
    config.print = print;
    if print {
        config.level = hedgerow_env::Level::Debug;
    }
    let planned = plan.clone();
    let run = run_in_world(config, move |world| async move {
        let agents = Agents::new(&world, &planned);
        let verdict = scenario(&world, &planned, &agents).await;
        let all = u64::try_from(agents.history().len()).expect("usize fits 64 bits");
        (verdict, (all, agents.succeeded()))
    });
    match run {
        Ok(run) => Report {
            verdict: run.value.0,
            trace_hash: run.trace.hash,
            events: run.trace.events,
            virtual_time: Duration::from_nanos(run.trace.virtual_ns),
            operations: run.value.1,
            recorded: run.trace.recorded,
        },
        Err(failure) => Report {
            verdict: Err(Failure::crash("panic", failure.message.clone())),
            trace_hash: failure.trace.hash,
            events: failure.trace.events,
            virtual_time: Duration::from_nanos(failure.trace.virtual_ns),
            operations: (0, 0),
            recorded: failure.trace.recorded,
        },
    }
}

async fn scenario(
    world: &World,
    plan: &Plan,
    agents: &std::sync::Arc<Agents>,
) -> Result<(), Failure> {
    let cluster = Cluster::start(world, plan, std::sync::Arc::clone(agents));
    let disk = form(world, plan, &cluster).await?;
    agents.run(true);
    strike(world, plan, &cluster, agents).await?;
    heal(world, plan, &cluster);
    serve(world, &cluster, agents).await?;
    agents.run(false);
    no_invariant_broke(world, &cluster)?;
    converge(world, &cluster).await?;
    final_reads(world, &cluster, agents).await?;
    oracles::linearizability::check(&agents.history())?;
    oracles::replicas::check_groups(&cluster).await?;
    oracles::copies::check(&cluster, &disk).await?;
    no_invariant_broke(world, &cluster)
}

/// Waits for the cluster, and makes the disk.
async fn form(world: &World, plan: &Plan, cluster: &Cluster) -> Result<DiskRecord, Failure> {
    let give_up = world.now_ns() + nanoseconds(FORM_LIMIT);
    let mut last = String::from("no node runs");
    while world.now_ns() < give_up {
        no_invariant_broke(world, cluster)?;
        for (_, node) in cluster.nodes() {
            if node.groups().directory().shards().is_empty() {
                "the shards are not there".clone_into(&mut last);
                continue;
            }
            let command = RootCommand::CreateDisk {
                nonce: plan.seed,
                name: DISK.into(),
                size_bytes: u64::from(plan.containers) * plan.container_bytes,
                container_bytes: plan.container_bytes,
                policy: plan.policy.clone(),
                description: String::new(),
            };
            match ask(world, &node, command).await {
                Some(RootOutcome::Disk(record)) => return Ok(record),
                other => last = format!("creating the disk: {other:?}"),
            }
        }
        world.sleep(LOOK_PAUSE).await;
    }
    Err(Failure::liveness(
        "formation",
        format!("no cluster after {FORM_LIMIT:?}: {last}"),
    ))
}

/// Asks the root through a node; on the node, so that its own clock and tasks are used.
async fn ask(
    world: &World,
    node: &hedgerow_node::Node,
    command: RootCommand,
) -> Option<RootOutcome> {
    let groups = node.groups().clone();
    on_node(world, node, async move {
        groups.root_command(command, ASK_LIMIT).await.ok()
    })
    .await
    .flatten()
}

/// Runs `work` as a task of `node`; none when it does not end in twice the usual time.
pub(crate) async fn on_node<T: Send + 'static>(
    world: &World,
    node: &hedgerow_node::Node,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (answer, result) = tokio::sync::oneshot::channel();
    node.env().spawn("scenario", async move {
        drop(answer.send(work.await));
    });
    let limit = std::pin::pin!(world.sleep(Duration::from_secs(45)));
    match futures_util::future::select(result, limit).await {
        futures_util::future::Either::Left((result, _)) => result.ok(),
        futures_util::future::Either::Right(((), _)) => None,
    }
}

/// The safety phase: the plan's faults strike while clients work and the disk moves about.
async fn strike(
    world: &World,
    plan: &Plan,
    cluster: &Cluster,
    agents: &Agents,
) -> Result<(), Failure> {
    let began = world.now_ns();
    let shifted = plan.faults.iter().map(|fault| TimedFault {
        at_ns: began + fault.at_ns,
        action: fault.action.clone(),
    });
    world.schedule(shifted.collect::<Vec<_>>());
    let mut random = world.random("designation");
    let end = began + nanoseconds(plan.safety);
    let mut move_at = began + nanoseconds(plan.move_every);
    while world.now_ns() < end {
        world.sleep(LOOK_PAUSE).await;
        no_invariant_broke(world, cluster)?;
        // A node that stopped itself over its disk is started again by its operator, now and then.
        for index in cluster.indexes() {
            if matches!(
                world.status(index),
                NodeStatus::Halted(_) | NodeStatus::Exited
            ) && random.chance(1, 8)
            {
                world.restart_if_down(index);
            }
        }
        if world.now_ns() >= move_at {
            let node =
                NodeIndex(u16::try_from(random.below(u64::from(plan.nodes))).expect("few nodes"));
            agents.designate(node, random.chance(1, 2));
            move_at += nanoseconds(plan.move_every) / 2
                + random.below(nanoseconds(plan.move_every).max(1));
        }
    }
    Ok(())
}

/// Ends every fault and starts every node.
fn heal(world: &World, plan: &Plan, cluster: &Cluster) {
    world.reset_links();
    for index in cluster.indexes() {
        world.set_disk_faults(index, DiskFaults::default());
        // A crash that is still armed never comes.
        world.crash_after_calls(index, NEVER, Crash::KILL);
        world.set_drift(index, plan.drift_ppm[index.position()]);
        world.resume(index);
        world.restart_if_down(index);
    }
}

/// Waits until clients succeed again.
async fn serve(world: &World, cluster: &Cluster, agents: &Agents) -> Result<(), Failure> {
    let before = agents.succeeded();
    agents.designate(NodeIndex(0), true);
    let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
    while world.now_ns() < give_up {
        world.sleep(LOOK_PAUSE).await;
        no_invariant_broke(world, cluster)?;
        for index in cluster.indexes() {
            // Scheduled faults may have struck after the healing: their ends are scheduled too.
            world.restart_if_down(index);
        }
        if agents.succeeded() >= before + 20 {
            return Ok(());
        }
    }
    Err(Failure::liveness(
        "service",
        format!(
            "{} operations succeeded in {SERVE_LIMIT:?} after the faults were healed",
            agents.succeeded() - before
        ),
    ))
}

/// Waits until no copy is missing.
async fn converge(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    let give_up = world.now_ns() + nanoseconds(CONVERGE_LIMIT);
    let mut last = String::from("nothing was heard");
    while world.now_ns() < give_up {
        world.sleep(LOOK_PAUSE * 2).await;
        for index in cluster.indexes() {
            world.restart_if_down(index);
        }
        let nodes = cluster.nodes();
        if nodes.len() < cluster.indexes().len() {
            "some node is down".clone_into(&mut last);
            continue;
        }
        let Some((_, node)) = nodes.into_iter().next() else {
            continue;
        };
        let groups = node.groups().clone();
        match on_node(world, &node, async move { statistics(&groups).await })
            .await
            .flatten()
        {
            Some(statistics) if statistics.incomplete == 0 => return Ok(()),
            Some(statistics) => last = format!("{statistics:?}"),
            None => "some shard does not answer".clone_into(&mut last),
        }
    }
    Err(Failure::liveness(
        "convergence",
        format!("after {CONVERGE_LIMIT:?}: {last}"),
    ))
}

async fn statistics(groups: &GroupClient) -> Option<ShardStatistics> {
    let mut sum = ShardStatistics::default();
    for group in groups.directory().shards() {
        match groups
            .shard(group, ShardRequest::Statistics, ASK_LIMIT)
            .await
        {
            Ok(ShardReply::Statistics(one)) => {
                sum.containers += one.containers;
                sum.blobs += one.blobs;
                sum.incomplete += one.incomplete;
                sum.under_replicated_bytes += one.under_replicated_bytes;
            }
            _ => return None,
        }
    }
    Some(sum)
}

/// Reads every block through a proxy that never held the disk, so that no cache answers.
async fn final_reads(
    world: &World,
    cluster: &Cluster,
    agents: &std::sync::Arc<Agents>,
) -> Result<(), Failure> {
    let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
    let mut turn = 1;
    while world.now_ns() < give_up {
        world.sleep(LOOK_PAUSE).await;
        let nodes = cluster.nodes();
        let Some((_, node)) = nodes.get(turn % nodes.len().max(1)) else {
            continue;
        };
        turn += 1;
        let Some(proxy) = node.proxy() else { continue };
        let reading = std::sync::Arc::clone(agents);
        let work = async move {
            let Ok(disk) = proxy.attach(DISK).await else {
                return false;
            };
            let complete = read_all(&reading, &disk).await;
            drop(proxy.detach(&disk).await);
            complete
        };
        if on_node(world, node, work).await == Some(true) {
            return Ok(());
        }
    }
    Err(Failure::liveness(
        "final reads",
        format!("not possible within {SERVE_LIMIT:?}"),
    ))
}

/// No node may have stopped itself over a broken invariant, or believe itself rolled back.
fn no_invariant_broke(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    for index in cluster.indexes() {
        if let Some(reason) = world.halted(index)
            && !matches!(reason, hedgerow_env::HaltReason::DiskFailed(_))
        {
            return Err(Failure::crash("halt", format!("node {index}: {reason}")));
        }
    }
    Ok(())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than 584 years")
}
