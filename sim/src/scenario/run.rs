//! Running a plan: form, break, heal, converge, judge.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_env::{HaltReason, Random};
use hedgerow_jepsen::check::BlockHistory;
use hedgerow_net::GroupClient;
use hedgerow_protocol::{RootCommand, RootOutcome, ShardReply, ShardRequest, ShardStatistics};
use serde::{Deserialize, Serialize};

use crate::oracles;
use crate::world::{
    Coverage, Crash, DiskFaults, FaultAction, NodeIndex, NodeStatus, Recording, Strike, TimedFault,
    World, WorldConfig, run_in_world,
};

use super::abandonment;
use super::additions;
use super::clients::{Agents, DISK, read_all};
use super::cluster::Cluster;
use super::images::{Image, Images};
use super::operating::{self, Operators};
use super::operations::{ClientOperation, Operations, identity_seed};
use super::other_disks;
use super::plan::{Move, Plan};
use super::restoration;
use super::script::Script;
use super::splits::Splitter;
use super::survival::{self, Survival};

/// A cluster forms within this time; faults may strike in its first twelve seconds.
const FORM_LIMIT: Duration = Duration::from_secs(60);
/// After the last fault is healed the cluster serves again within this time: an election, the wait
/// for a lease, back-offs, and the recovery of stores.
pub(super) const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// ... and every copy is where it belongs within this time.
const CONVERGE_LIMIT: Duration = Duration::from_secs(120);
/// The whole run, as a backstop against a scenario that never ends.
const RUN_LIMIT: Duration = Duration::from_secs(1_200);
/// More disk calls than any run makes.
const NEVER: u64 = 1 << 60;
/// Pause between two looks at the cluster.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// The operator starts a node that stopped itself so long after he sees it, at most.
const OPERATOR_WAIT_MAXIMUM_MS: u64 = 4_000;
/// One question to a group.
pub(super) const ASK_LIMIT: Duration = Duration::from_secs(3);

/// What kind of failure a run ended with; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Operations that clients drew; as a list they give the same run.
    pub drawn: Vec<ClientOperation>,
    /// Those of them that began.
    pub performed: Vec<ClientOperation>,
    /// The safety phase began so long after the run did, if it came to that.
    pub safety_began_ns: Option<u64>,
    /// Messages and disk calls that were struck; unknown after a panic.
    pub strikes: Vec<Strike>,
    /// Which faults struck during what; empty after a panic.
    pub coverage: Coverage,
    /// The trace's hash after each [`crate::world::CHECKPOINT_EVENTS`] events.
    pub checkpoints: Vec<u64>,
    /// The events that were kept.
    pub recorded: Vec<crate::world::TraceEvent>,
    /// What clients saw; empty after a panic.
    pub history: BlockHistory,
}

/// What outlives a run, also one that panics.
#[derive(Clone)]
struct Journal {
    operations: Arc<Mutex<Operations>>,
    safety_began_ns: Arc<Mutex<Option<u64>>>,
}

/// Runs `plan` in a new world.
#[must_use]
pub fn run_plan(plan: &Plan, recording: Recording, print: bool) -> Report {
    run_script(&Script::from(plan.clone()), recording, print)
}

/// Runs `script` in a new world.
#[must_use]
pub fn run_script(script: &Script, recording: Recording, print: bool) -> Report {
    let mut config = WorldConfig::new(script.plan.seed);
    config.time_limit = RUN_LIMIT;
    config.recording = recording;
    config.print = print;
    if print || config.recording != Recording::HashOnly {
        config.level = hedgerow_env::Level::Debug;
    }
    config.describe = Some(crate::timeline::describe);
    let operations = Operations::new(&script.plan, script.operations.as_deref());
    let journal = Journal {
        operations: Arc::new(Mutex::new(operations)),
        safety_began_ns: Arc::default(),
    };
    let (planned, kept) = (script.clone(), journal.clone());
    let run = run_in_world(config, move |world| async move {
        let operations = Arc::clone(&kept.operations);
        let agents = Agents::new(&world, &planned.plan, operations);
        for strike in &planned.strikes {
            world.script(strike.clone());
        }
        let verdict = scenario(&world, &planned, &agents, &kept).await;
        (
            verdict,
            agents.succeeded(),
            (world.take_strikes(), world.coverage()),
            agents.history(),
        )
    });
    let (outcome, trace) = match run {
        Ok(run) => (run.value, run.trace),
        Err(failure) => {
            let verdict = Err(Failure::crash("panic", failure.message));
            (
                (verdict, 0, Default::default(), BlockHistory::new()),
                *failure.trace,
            )
        }
    };
    let (verdict, succeeded, (strikes, coverage), history) = outcome;
    let all = u64::try_from(history.len()).expect("usize fits 64 bits");
    // A panic may have come while these were held; what they note is whole all the same.
    let began_ns = journal.safety_began_ns.lock();
    let operations = journal.operations.lock();
    let operations = operations.unwrap_or_else(std::sync::PoisonError::into_inner);
    Report {
        verdict,
        trace_hash: trace.hash,
        events: trace.events,
        virtual_time: Duration::from_nanos(trace.virtual_ns),
        operations: (all, succeeded),
        drawn: operations.drawn().to_vec(),
        performed: operations.performed(),
        safety_began_ns: *began_ns.unwrap_or_else(std::sync::PoisonError::into_inner),
        strikes,
        coverage,
        checkpoints: trace.checkpoints,
        recorded: trace.recorded,
        history,
    }
}

/// Beyond what is survivable the system may stop; what clients saw until then is judged all the same.
async fn scenario(
    world: &World,
    script: &Script,
    agents: &Arc<Agents>,
    journal: &Journal,
) -> Result<(), Failure> {
    let survival = Survival::of(script);
    match phases(world, script, agents, journal).await {
        Err(failure) if survival.excuses(&failure) => {
            oracles::linearizability::check(&agents.history())
        }
        outcome => outcome,
    }
}

async fn phases(
    world: &World,
    script: &Script,
    agents: &Arc<Agents>,
    journal: &Journal,
) -> Result<(), Failure> {
    let plan = &script.plan;
    let cluster = Cluster::start(world, plan, Arc::clone(agents));
    cluster.expect_damage(&Survival::of(script), survival::lost_disks(plan));
    world.schedule(shifted(&plan.formation, world.now_ns(), &cluster));
    form(world, plan, &cluster).await?;
    agents.begin_safety();
    let operators = Operators::start(world, plan, &cluster, agents);
    *journal.safety_began_ns.lock().expect("no panic under it") = Some(world.now_ns());
    let rarely = plan
        .tunables
        .is_some_and(|tunables| tunables.sweeps_rarely());
    let mut commits = oracles::commits::Commits::default();
    let image = strike(world, plan, &cluster, agents, &mut commits).await?;
    let seen = rarely.then(|| commits.names());
    heal(world, plan, &cluster);
    serve(world, &cluster, agents, script.service).await?;
    operators.finish().await?;
    cluster.openings().look(world, &cluster).await?;
    agents.run(false);
    no_invariant_broke(world, &cluster).await?;
    converge(world, &cluster).await?;
    oracles::shards::check(world, &cluster).await?;
    if let Some(abandonment) = &plan.abandonment {
        abandonment::abandon(world, &cluster, agents, abandonment).await?;
    }
    let disks = operating::disks(world, &cluster).await?;
    // Before anybody fences the disk anew: that would free what an earlier fence forgot.
    oracles::blobs::check(world, &cluster, &disks, seen).await?;
    final_reads(world, &cluster, agents).await?;
    other_disks::final_reads(world, &cluster, agents, &disks).await?;
    // A write that a client gave up may have ended until the last reader fenced it: it has its copies
    // made, too, before they are looked at.
    converge(world, &cluster).await?;
    oracles::linearizability::check(&agents.history())?;
    oracles::replicas::check_groups(world, &cluster, cluster.lost_disks()).await?;
    oracles::shards::check(world, &cluster).await?;
    let patience = match survival::touches_copies(script) {
        true => oracles::copies::PATIENCE,
        false => Duration::ZERO,
    };
    let lost_disks = cluster.lost_disks();
    oracles::copies::check(world, &cluster, &disks, lost_disks, patience).await?;
    oracles::blobs::check(world, &cluster, &disks, seen).await?;
    no_invariant_broke(world, &cluster).await?;
    oracles::members::check(world, &cluster, &plan.additions).await?;
    let Some(image) = image else {
        return Ok(());
    };
    restoration::restore(world, &cluster, &image).await?;
    final_reads(world, &cluster, agents).await?;
    oracles::linearizability::check(&agents.history())
}

/// Waits for the cluster, every node of it, and makes the disk.
async fn form(world: &World, plan: &Plan, cluster: &Cluster) -> Result<(), Failure> {
    let give_up = world.now_ns() + nanoseconds(FORM_LIMIT);
    let last_fault = plan.formation.iter().map(|fault| fault.at_ns).max();
    let over_ns = world.now_ns() + last_fault.unwrap_or_default();
    let mut last = String::from("no node runs");
    let mut operator = Operator::default();
    while world.now_ns() < give_up {
        no_invariant_broke(world, cluster).await?;
        operator.look(world, cluster);
        if world.now_ns() > over_ns {
            // A crash between disk calls may strike after the restart that was planned for it.
            for index in cluster.indexes() {
                world.restart_if_down(index);
            }
        }
        for (_, node) in cluster.nodes() {
            if node.groups().directory().shards().is_empty() {
                "the shards are not there".clone_into(&mut last);
                continue;
            }
            let joined = node.groups().directory().topology().nodes.len();
            if joined < usize::from(plan.founders()) {
                last = format!("{joined} of {} nodes have joined", plan.founders());
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
                Some(RootOutcome::Disk(_)) => return Ok(()),
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
pub(super) async fn ask(
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

/// The safety phase: the plan's faults strike while clients work and the disk moves about. Answers
/// the image of a disk that is to be restored in the end.
async fn strike(
    world: &World,
    plan: &Plan,
    cluster: &Cluster,
    agents: &Agents,
    commits: &mut oracles::commits::Commits,
) -> Result<Option<Image>, Failure> {
    let began = world.now_ns();
    let mut image = None;
    let images = Images::new(cluster.clone());
    world.guard_images(Some(Arc::new(move |action| images.permits(action))));
    world.schedule(shifted(&plan.faults, began, cluster));
    let end = began + nanoseconds(plan.safety);
    let mut moves = plan.moves.iter().peekable();
    let mut operator = Operator::default();
    let mut splitter = Splitter::new(&plan.splits);
    while world.now_ns() < end {
        world.sleep(LOOK_PAUSE).await;
        no_invariant_broke(world, cluster).await?;
        operator.look(world, cluster);
        commits.look(world, cluster, plan.policy.placement).await?;
        if plan.watches_openings {
            cluster.openings().look_around(world, cluster).await;
        }
        cluster.openings().look(world, cluster).await?;
        splitter.look(world, cluster, began);
        additions::start_due(cluster, &plan.additions, world.now_ns() - began);
        if let (None, Some(due)) = (&image, &plan.restoration)
            && began + due.image_at_ns <= world.now_ns()
        {
            image = Some(Image::of(world, cluster, due.node));
        }
        while let Some(due) = moves.next_if(|due| began + due.at_ns <= world.now_ns()) {
            agents.designate(due);
        }
    }
    Ok(image)
}

/// The faults at their true times. The initiators' machine is on every side of a partition: what
/// comes between an initiator and a portal is the sessions' business, not the cluster's.
fn shifted(faults: &[TimedFault], began_ns: u64, cluster: &Cluster) -> Vec<TimedFault> {
    let shift = |fault: &TimedFault| {
        let mut action = fault.action.clone();
        if let FaultAction::Partition(groups) = action.deed_mut() {
            for group in groups {
                group.push(cluster.machine());
            }
        }
        TimedFault {
            at_ns: began_ns + fault.at_ns,
            action,
        }
    };
    faults.iter().map(shift).collect()
}

/// Starts nodes that stopped themselves, over their disks as a rule, a while later.
#[derive(Default)]
struct Operator {
    restart_at_ns: BTreeMap<(NodeIndex, u32), u64>,
}

impl Operator {
    fn look(&mut self, world: &World, cluster: &Cluster) {
        for index in cluster.indexes() {
            if !matches!(
                world.status(index),
                NodeStatus::Halted(_) | NodeStatus::Exited
            ) {
                continue;
            }
            let incarnation = world.incarnation(index);
            let at_ns = self
                .restart_at_ns
                .entry((index, incarnation))
                .or_insert_with(|| {
                    let identity = [u64::from(index.0), u64::from(incarnation)];
                    let seed = identity_seed(world.seed(), "operator", identity);
                    let wait_ms = Random::from_seed(seed).below(OPERATOR_WAIT_MAXIMUM_MS);
                    world.now_ns() + wait_ms * 1_000_000
                });
            if *at_ns <= world.now_ns() {
                cluster.start_again(index);
            }
        }
    }
}

/// Ends every fault and starts every node.
fn heal(world: &World, plan: &Plan, cluster: &Cluster) {
    additions::start_due(cluster, &plan.additions, u64::MAX);
    world.end_all_standing();
    world.guard_images(Some(Arc::new(|_| false)));
    world.reset_links();
    for index in cluster.indexes() {
        world.set_disk_faults(index, DiskFaults::default());
        // A crash that is still armed never comes.
        world.crash_after_calls(index, NEVER, Crash::KILL);
        world.set_drift(index, plan.drift(index));
        world.resume(index);
        cluster.start_again(index);
    }
}

/// Waits until clients succeed again, `wanted` times; for zero, until the listed operations ended.
async fn serve(
    world: &World,
    cluster: &Cluster,
    agents: &Agents,
    wanted: u64,
) -> Result<(), Failure> {
    let before = agents.succeeded();
    agents.designate(&Move::of_released(0, NodeIndex(0)));
    if wanted > 0 {
        agents.go_on_after_list();
    }
    let give_up = world.now_ns() + nanoseconds(SERVE_LIMIT);
    while world.now_ns() < give_up {
        world.sleep(LOOK_PAUSE).await;
        no_invariant_broke(world, cluster).await?;
        for index in cluster.indexes() {
            // Scheduled faults may have struck after the healing: their ends are scheduled too.
            cluster.start_again(index);
        }
        if agents.succeeded() >= before + wanted && (wanted > 0 || !agents.awaits_listed()) {
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

/// Waits until no copy is missing but on disks that are lost.
pub(crate) async fn converge(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    let give_up = world.now_ns() + nanoseconds(CONVERGE_LIMIT);
    let mut last = String::from("nothing was heard");
    while world.now_ns() < give_up {
        world.sleep(LOOK_PAUSE * 2).await;
        for index in cluster.indexes() {
            cluster.start_again(index);
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
            Some(statistics) if statistics.incomplete == 0 => match outsider(cluster) {
                None => return Ok(()),
                Some((index, other)) => last = format!("node {index} is not known to node {other}"),
            },
            Some(statistics) => {
                last = format!("{statistics:?}");
                if cluster.lost_disks() > 0
                    && outsider(cluster).is_none()
                    && lacks_only_what_is_lost(world, cluster).await
                {
                    return Ok(());
                }
            }
            None => "some shard does not answer".clone_into(&mut last),
        }
    }
    Err(Failure::liveness(
        "convergence",
        format!("after {CONVERGE_LIMIT:?}: {last}"),
    ))
}

/// A node that runs and another that does not know of it.
fn outsider(cluster: &Cluster) -> Option<(NodeIndex, NodeIndex)> {
    let nodes = cluster.nodes();
    let known_to = |other: &hedgerow_node::Node, node: &hedgerow_node::Node| {
        let topology = other.groups().directory().topology();
        topology.nodes.iter().any(|record| record.node == node.id())
    };
    nodes.iter().find_map(|(index, node)| {
        let ignorant = nodes.iter().find(|(_, other)| !known_to(other, node));
        ignorant.map(|(other, _)| (*index, *other))
    })
}

async fn lacks_only_what_is_lost(world: &World, cluster: &Cluster) -> bool {
    let Ok(disks) = operating::disks(world, cluster).await else {
        return false;
    };
    let lacking = oracles::copies::lacking_elsewhere(cluster, &disks, cluster.lost_disks());
    lacking.await.is_ok()
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
    agents: &Arc<Agents>,
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
        let reading = Arc::clone(agents);
        let env = node.env().clone();
        let work = async move {
            let Ok(disk) = proxy.attach(DISK).await else {
                return false;
            };
            let complete = read_all(&reading, &env, &disk).await;
            drop(proxy.detach(&disk).await);
            complete
        };
        if on_node(world, node, work).await == Some(true) {
            return Ok(());
        }
    }
    Err(Failure::liveness(
        "final-reads",
        format!("not possible within {SERVE_LIMIT:?}"),
    ))
}

/// No node may have stopped itself but over a disk, and that only where its disk failed it, or holds
/// something else than it was given.
async fn no_invariant_broke(world: &World, cluster: &Cluster) -> Result<(), Failure> {
    for index in cluster.indexes() {
        if let Some(reason) = world.halted(index)
            && !is_excused(&reason, world.disk_failed(index), cluster.is_damaged(index))
        {
            return Err(Failure::crash("halt", format!("node {index}: {reason}")));
        }
    }
    cluster.lives().look(world, cluster)?;
    oracles::errors::check(world, cluster)
}

/// Whether a node may halt for `reason`, given whether a call of its disk failed in that life, and
/// whether the disk may be damaged.
fn is_excused(reason: &HaltReason, disk_failed: bool, damaged: bool) -> bool {
    match reason {
        HaltReason::DiskFailed(_) => disk_failed || damaged,
        HaltReason::CannotServe(_) | HaltReason::RolledBack(_) => damaged,
        HaltReason::Invariant(_) => false,
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than 584 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_that_failed_excuses_a_halt() {
        let text = || String::from("why");
        assert!(is_excused(&HaltReason::DiskFailed(text()), true, false));
        assert!(!is_excused(&HaltReason::DiskFailed(text()), false, false));
        for reason in [
            HaltReason::RolledBack(text()),
            HaltReason::CannotServe(text()),
        ] {
            assert!(!is_excused(&reason, true, false), "{reason}");
            assert!(is_excused(&reason, false, true), "{reason}");
        }
        assert!(!is_excused(&HaltReason::Invariant(text()), true, true));
    }
}
