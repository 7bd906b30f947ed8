//! The simulated world: it implements every seam of `hedgerow_env` on madsim's executor and virtual
//! time, with its own timers, clocks, network and disks, and it can break all of them.
//!
//! Invariants: everything that happens is a function of the seed and of the scenario; every decision
//! of chance is drawn from the identity of the event that it concerns (see [`seeds`](self)); all of
//! it enters the [trace](TraceSummary). One world lives on one OS thread of its own.
//! Does not: know anything of Hedgerow beyond the seams.

mod cached_file;
mod clock;
mod connection;
mod coverage;
mod crash_loop;
mod device;
mod disk;
mod faults;
mod file_system;
mod lifecycle;
mod link;
mod network;
mod node;
mod rot;
mod run;
mod seeds;
mod tasks;
mod timers;
mod topology;
mod trace;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::Random;
use madsim::time::TimeHandle;

pub use clock::{RATE_BOUND_PPM, wall_time};
pub use coverage::{Coverage, FaultKind};
pub use crash_loop::CrashLoop;
pub use disk::{DiskArea, DiskFaults, DiskImage, DiskSpec, SECTOR_BYTES, Survival, SyncMode};
pub use faults::{
    DiskCall, DiskCallId, DiskFault, FaultAction, FaultNumber, ImagesGuard, MessageFault,
    MessageId, Strike, TimedFault,
};
pub use lifecycle::Crash;
pub use link::{LinkRules, LinkState, LinkTally};
pub use network::NetworkSpec;
pub use node::NodeStatus;
pub use run::{Run, RunFailure, WorldConfig, run_in_world};
pub use seeds::PPM;
pub use tasks::TaskLabel;
pub use topology::{Latency, LatencyMatrix, NodeIndex, NodeSpec};
pub use trace::{CHECKPOINT_EVENTS, EventKind, Left, Recording, TraceEvent, TraceSummary};

use node::Node;
use seeds::Dice;
use timers::{Action, TimerKey, Timers, TrueSleep};
use trace::Trace;

/// Polls between two looks at the limit of virtual time: a loop that never sleeps must end too.
const POLLS_BETWEEN_CHECKS: u64 = 4_096;

/// A handle on the whole world, for scenarios. Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    config: WorldConfig,
    time: TimeHandle,
    madsim: madsim::runtime::Handle,
    timers: Timers,
    trace: Arc<Trace>,
    nodes: Mutex<Vec<Arc<Node>>>,
    network: network::NetworkState,
    faults: faults::Faults,
    coverage: coverage::CoverageState,
    polls: AtomicU64,
    spawns: AtomicU64,
    streams: AtomicU64,
}

impl World {
    /// Builds the world; only inside a madsim runtime (see [`run_in_world`]).
    fn new(config: WorldConfig, trace: Arc<Trace>) -> Self {
        Self(Arc::new(Inner {
            network: network::NetworkState::new(config.network),
            config,
            time: TimeHandle::current(),
            madsim: madsim::runtime::Handle::current(),
            timers: Timers::default(),
            trace,
            nodes: Mutex::new(Vec::new()),
            faults: faults::Faults::default(),
            coverage: coverage::CoverageState::default(),
            polls: AtomicU64::new(0),
            spawns: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }))
    }

    /// The seed of this world.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.config.seed
    }

    /// True virtual nanoseconds since the world began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.0.time.elapsed().as_nanos()).expect("a run is shorter than 584 years")
    }

    /// Waits on the world's true clock.
    pub async fn sleep(&self, duration: Duration) {
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sleep_until_ns(self.now_ns().saturating_add(duration_ns))
            .await;
    }

    /// Waits until true time `at_ns`.
    pub async fn sleep_until_ns(&self, at_ns: u64) {
        TrueSleep::until(self, None, at_ns).await;
    }

    /// Spawns a task of the world itself: a client of its own, a nemesis, an observer.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(madsim::task::spawn(future));
    }

    /// A stream of random numbers for the scenario; each call gives a fresh one.
    #[must_use]
    pub fn random(&self, label: &str) -> Random {
        let count = self.0.streams.fetch_add(1, Ordering::Relaxed);
        Random::from_seed(seeds::stream_seed(self.seed(), "", 0, label, count))
    }

    /// Adds a node, down and with an empty disk of the configured size.
    ///
    /// # Panics
    /// When the name is taken.
    pub fn add_node(&self, spec: NodeSpec) -> NodeIndex {
        let mut nodes = self.nodes();
        assert!(
            nodes.iter().all(|node| node.spec.name != spec.name),
            "a second node called {}",
            spec.name
        );
        let index = NodeIndex(u16::try_from(nodes.len()).expect("fewer than 65,536 nodes"));
        let disk = disk::NodeDisk::new(self, &spec.name, self.0.config.disk);
        nodes.push(Arc::new(Node {
            index,
            madsim: self.0.madsim.create_node().name(&spec.name).build().id(),
            clock: clock::NodeClock::new(),
            disk,
            powered: std::sync::atomic::AtomicBool::new(true),
            state: Mutex::default(),
            standing: coverage::Standing::default(),
            spec,
        }));
        let specs: Vec<&NodeSpec> = nodes.iter().map(|node| &node.spec).collect();
        self.0
            .network
            .grow(&specs, &self.0.config.latency, self.dice("link"));
        index
    }

    /// Every node, in the order of their numbers.
    #[must_use]
    pub fn node_indexes(&self) -> Vec<NodeIndex> {
        self.nodes().iter().map(|node| node.index).collect()
    }

    /// Where a node stands.
    #[must_use]
    pub fn spec(&self, node: NodeIndex) -> NodeSpec {
        self.node(node).spec.clone()
    }

    /// The node called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.nodes()
            .iter()
            .find(|node| node.spec.name == name)
            .map(|node| node.index)
    }

    /// The trace's hash so far.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.0.trace.hash()
    }

    /// Notes something of the scenario in the trace.
    pub fn note(&self, node: Option<NodeIndex>, subject: u64, size: u64, checksum: u64) {
        self.record(EventKind::Note, node, subject, size, checksum);
    }

    /// Timers now armed in the whole world, for tests of leaks.
    #[must_use]
    pub fn armed_timers(&self) -> usize {
        self.0.timers.len()
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Node>>> {
        self.0
            .nodes
            .lock()
            .expect("no panic while the nodes are held")
    }

    fn node(&self, node: NodeIndex) -> Arc<Node> {
        Arc::clone(&self.nodes()[node.position()])
    }

    fn dice(&self, label: &str) -> Dice {
        Dice::new(self.seed(), label)
    }

    fn time(&self) -> &TimeHandle {
        &self.0.time
    }

    fn timers(&self) -> &Timers {
        &self.0.timers
    }

    fn trace(&self) -> &Trace {
        &self.0.trace
    }

    fn madsim(&self) -> &madsim::runtime::Handle {
        &self.0.madsim
    }

    fn insert_timer(&self, at_ns: u64, action: Action) -> TimerKey {
        self.0.timers.insert(&self.0.time, at_ns, action)
    }

    /// Has the world act at true time `at_ns`.
    fn call_at(&self, at_ns: u64, call: impl FnOnce(&Self) + Send + 'static) {
        self.insert_timer(at_ns, Action::Call(Box::new(call)));
    }

    fn record(
        &self,
        kind: EventKind,
        node: Option<NodeIndex>,
        subject: u64,
        size: u64,
        checksum: u64,
    ) {
        self.record_text(kind, node, [subject, size, checksum], String::new());
    }

    /// Records that a message of `parts`, sent at `sent_ns`, arrived or was lost.
    fn record_message(
        &self,
        kind: EventKind,
        (from, to): (NodeIndex, NodeIndex),
        sent_ns: u64,
        parts: &[Bytes],
    ) {
        let describe = self.0.config.describe.filter(|_| self.trace().records());
        let checksum = match kind {
            EventKind::Lose => 0,
            _ => connection::checksum_of(parts),
        };
        let size = parts.iter().map(Bytes::len).sum::<usize>();
        self.0.trace.record(TraceEvent {
            number: 0,
            at_ns: self.now_ns(),
            node: Some(to),
            kind,
            subject: u64::from(from.0),
            size: u64::try_from(size).expect("a length fits 64 bits"),
            checksum,
            since_ns: sent_ns,
            text: describe.map(|describe| describe(parts)).unwrap_or_default(),
            task: None,
        });
    }

    fn record_text(
        &self,
        kind: EventKind,
        node: Option<NodeIndex>,
        [subject, size, checksum]: [u64; 3],
        text: String,
    ) {
        let at_ns = self.now_ns();
        let number = 0;
        self.0.trace.record(TraceEvent {
            number,
            at_ns,
            node,
            kind,
            subject,
            size,
            checksum,
            since_ns: at_ns,
            text,
            task: None,
        });
    }

    fn count_poll(&self) {
        let polls = self.0.polls.fetch_add(1, Ordering::Relaxed);
        if polls.is_multiple_of(POLLS_BETWEEN_CHECKS) {
            let limit = self.0.config.time_limit;
            assert!(
                self.0.time.elapsed() < limit,
                "virtual time limit of {limit:?} exceeded"
            );
        }
    }

    /// The number of a task that is about to be spawned, from one.
    fn count_spawn(&self) -> u64 {
        let spawns = self.0.spawns.fetch_add(1, Ordering::Relaxed) + 1;
        if spawns.is_multiple_of(tasks::SPAWNS_BETWEEN_SWEEPS) {
            // Counting the tasks makes madsim drop its records of those that ended.
            let _ = self.0.madsim.metrics().num_tasks();
        }
        spawns
    }
}
