//! One run: a world on an OS thread of its own, from a seed to a value and a trace.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::Level;

use super::disk::DiskSpec;
use super::lifecycle::Crash;
use super::network::NetworkSpec;
use super::topology::LatencyMatrix;
use super::trace::{Recording, Trace, TraceSummary};
use super::{World, timers};

/// The stack of a run's thread; futures of deep code are large in builds without optimisation.
const STACK_BYTES: usize = 16 << 20;

/// Polls granted to the tasks of a run that is over, so that they are dropped in order.
const LAST_YIELDS: u32 = 32;

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// Everything of chance comes from it.
    pub seed: u64,
    /// The run fails when virtual time passes this limit.
    pub time_limit: Duration,
    /// The latency matrix.
    pub latency: LatencyMatrix,
    /// The network's own figures.
    pub network: NetworkSpec,
    /// The disk that each node is born with.
    pub disk: DiskSpec,
    /// Which events are kept.
    pub recording: Recording,
    /// The lowest level of log lines kept or printed.
    pub level: Level,
    /// Print log lines to standard error as they come.
    pub print: bool,
    /// Says of a recorded message what it is. The world itself does not know.
    pub describe: Option<fn(&[Bytes]) -> String>,
}

impl WorldConfig {
    /// Plain figures for `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            time_limit: Duration::from_secs(24 * 3_600),
            latency: LatencyMatrix::default(),
            network: NetworkSpec::default(),
            disk: DiskSpec::default(),
            recording: Recording::HashOnly,
            level: Level::Info,
            print: false,
            describe: None,
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Run<T> {
    /// What the scenario returned.
    pub value: T,
    /// The trace until then.
    pub trace: TraceSummary,
}

/// A run panicked: a broken invariant, a deadlock or a limit.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed}: panic after {:.3} virtual s: {message}", trace.virtual_ns as f64 / 1e9)]
pub struct RunFailure {
    /// The seed.
    pub seed: u64,
    /// The panic's message.
    pub message: String,
    /// The trace until the panic.
    pub trace: Box<TraceSummary>,
}

/// Runs `scenario` in a new world on a new thread and waits for its end.
///
/// # Errors
/// [`RunFailure`] when the scenario or a node's code panicked.
pub fn run_in_world<T, F, S>(config: WorldConfig, scenario: S) -> Result<Run<T>, RunFailure>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
    S: FnOnce(World) -> F + Send + 'static,
{
    let seed = config.seed;
    let trace = Arc::new(Trace::new(
        config.recording.clone(),
        config.level,
        config.print,
    ));
    let recorder = Arc::clone(&trace);
    let thread = std::thread::Builder::new()
        .name(format!("seed {seed}"))
        .stack_size(STACK_BYTES)
        .spawn(move || run_here(config, recorder, scenario))
        .expect("the operating system grants a thread");
    match thread.join() {
        Ok(value) => Ok(Run {
            value,
            trace: trace.summary(),
        }),
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "a panic without a message".to_owned());
            Err(RunFailure {
                seed,
                message,
                trace: Box::new(trace.summary()),
            })
        }
    }
}

fn run_here<T, F, S>(config: WorldConfig, trace: Arc<Trace>, scenario: S) -> T
where
    F: Future<Output = T> + 'static,
    S: FnOnce(World) -> F,
{
    let mut runtime =
        madsim::runtime::Runtime::with_seed_and_config(config.seed, madsim::Config::default());
    runtime.set_time_limit(config.time_limit);
    runtime.block_on(World::live(config, trace, scenario))
}

impl World {
    /// A whole world within a madsim runtime that the caller made: for madsim's own check of
    /// determinism. Everything else uses [`run_in_world`].
    pub async fn within<T, F, S>(config: WorldConfig, scenario: S) -> T
    where
        F: Future<Output = T>,
        S: FnOnce(Self) -> F,
    {
        let trace = Trace::new(config.recording.clone(), config.level, config.print);
        Self::live(config, Arc::new(trace), scenario).await
    }

    async fn live<T, F, S>(config: WorldConfig, trace: Arc<Trace>, scenario: S) -> T
    where
        F: Future<Output = T>,
        S: FnOnce(Self) -> F,
    {
        let world = Self::new(config, trace);
        drop(madsim::task::spawn(timers::drive(world.clone())));
        let value = scenario(world.clone()).await;
        world.finish().await;
        value
    }

    /// Ends the world: every node stops, so that nothing keeps anything alive in a circle.
    async fn finish(&self) {
        self.trace().freeze();
        for node in self.node_indexes() {
            self.crash(node, Crash::KILL);
            self.node(node).lock().main = None;
        }
        for _ in 0..LAST_YIELDS {
            madsim::task::yield_now().await;
        }
        self.timers().close();
        // What still holds a node, somewhere in a library, holds no disk's contents.
        for node in self.node_indexes() {
            self.wipe_disk(node);
        }
        self.forget_images();
        self.nodes().clear();
    }
}
