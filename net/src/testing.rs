//! For tests: an [`Env`] on tokio's (paused) clock and a network in memory that can lose, double,
//! delay, reorder and corrupt whole writes, and go silent.
//!
//! Use it inside `#[tokio::test(start_paused = true)]`: time then passes only when every task
//! waits. There is no disk: each call of it answers an error.
//! Not built into anything that ships: `cfg(test)` or the feature `testing` only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hedgerow_env::{
    AbortHandle, BlockingFile, BoxFuture, Clock, Disk, DiskError, Env, EnvParts, Events, File,
    HaltReason, Instant, Level, Listener, Network, NetworkError, OpenMode, Random, Seeds, Stream,
    StreamKind, StreamReader, StreamWriter, TaskHandle, Tasks, WallTime,
};
use tokio::sync::{Notify, mpsc};

/// Bytes in flight in one direction before a write waits, as in a socket's buffers.
const WINDOW_BYTES: usize = 256 << 10;
/// The seed of a test's randomness; each stream adds its number.
const SEED: u64 = 0x6865_6467_6572_6f77;

/// What the network does to writes. A field `n` means: one in `n`; zero means never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Writes that vanish.
    pub lose_one_in: u64,
    /// Writes that arrive twice.
    pub double_one_in: u64,
    /// Writes that are held back, so that later ones overtake them.
    pub delay_one_in: u64,
    /// Writes of which one byte is changed.
    pub corrupt_one_in: u64,
    /// Everything written is lost, nothing is said: a half-open connection.
    pub silent: bool,
}

/// How many writes met which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fates {
    /// Writes in all.
    pub writes: u64,
    /// Lost ones.
    pub lost: u64,
    /// Doubled ones.
    pub doubled: u64,
    /// Delayed ones.
    pub delayed: u64,
    /// Corrupted ones.
    pub corrupted: u64,
}

/// A network in memory, shared by the nodes of a test.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Hub>);

struct Hub {
    listeners: Mutex<BTreeMap<String, mpsc::UnboundedSender<Stream>>>,
    faults: Mutex<Faults>,
    fates: Mutex<Fates>,
    random: Mutex<Random>,
    next_port: AtomicU64,
    pipes: Mutex<Vec<Arc<Pipe>>>,
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new(SEED)
    }
}

impl MemoryNetwork {
    /// A faultless network whose later faults follow `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Hub {
            listeners: Mutex::default(),
            faults: Mutex::default(),
            fates: Mutex::default(),
            random: Mutex::new(Random::from_seed(seed)),
            next_port: AtomicU64::new(1000),
            pipes: Mutex::default(),
        }))
    }

    /// Sets the faults of every stream from now on.
    pub fn set_faults(&self, faults: Faults) {
        *locked(&self.0.faults) = faults;
    }

    /// What happened so far.
    #[must_use]
    pub fn fates(&self) -> Fates {
        *locked(&self.0.fates)
    }

    /// Breaks every open stream, as a restart of a peer does.
    pub fn cut_all(&self) {
        for pipe in locked(&self.0.pipes).drain(..) {
            pipe.end(true);
        }
    }

    /// Nobody listens at `address` any more; open streams stay.
    pub fn unlisten(&self, address: &str) {
        locked(&self.0.listeners).remove(address);
    }

    /// An [`Env`] of one node on this network.
    #[must_use]
    pub fn env(&self) -> Env {
        Env::new(TestParts::with_network(Arc::new(self.clone())))
    }
}

/// The parts of an [`Env`] for tests.
pub struct TestParts;

impl TestParts {
    /// Tokio's clock and tasks, fixed seeds, no disk, and `network`.
    #[must_use]
    pub fn with_network(network: Arc<dyn Network>) -> EnvParts {
        EnvParts {
            clock: Arc::new(TestClock {
                zero: tokio::time::Instant::now(),
            }),
            tasks: Arc::new(TestTasks),
            seeds: Arc::new(TestSeeds(AtomicU64::new(SEED))),
            network,
            disk: Arc::new(NoDisk),
            events: Arc::new(Printed),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under this lock")
}

impl Network for MemoryNetwork {
    fn listen(
        &self,
        address: &str,
        _kind: StreamKind,
    ) -> BoxFuture<'static, Result<Box<dyn Listener>, NetworkError>> {
        let hub = Arc::clone(&self.0);
        let mut address = address.to_owned();
        Box::pin(async move {
            if let Some(host) = address.strip_suffix(":0") {
                let port = hub.next_port.fetch_add(1, Ordering::Relaxed);
                address = format!("{host}:{port}");
            }
            let (sender, streams) = mpsc::unbounded_channel();
            let mut listeners = locked(&hub.listeners);
            if listeners
                .get(&address)
                .is_some_and(|listener| !listener.is_closed())
            {
                return Err(NetworkError::AddressInUse { address });
            }
            listeners.insert(address.clone(), sender);
            drop(listeners);
            Ok(Box::new(MemoryListener { streams, address }) as Box<dyn Listener>)
        })
    }

    fn connect(
        &self,
        address: &str,
        kind: StreamKind,
    ) -> BoxFuture<'static, Result<Stream, NetworkError>> {
        let hub = Arc::clone(&self.0);
        let address = address.to_owned();
        Box::pin(async move {
            let own = format!("caller:{}", hub.next_port.fetch_add(1, Ordering::Relaxed));
            let (there, back) = (hub.pipe(kind), hub.pipe(kind));
            let called = stream(&hub, &there, &back, (address.clone(), own.clone()));
            let calling = stream(&hub, &back, &there, (own, address.clone()));
            let listener = locked(&hub.listeners).get(&address).cloned();
            let reached = listener.is_some_and(|listener| listener.send(called).is_ok());
            if reached {
                Ok(calling)
            } else {
                Err(NetworkError::Refused { address })
            }
        })
    }
}

fn stream(
    hub: &Arc<Hub>,
    incoming: &Arc<Pipe>,
    outgoing: &Arc<Pipe>,
    (local_address, peer_address): (String, String),
) -> Stream {
    Stream {
        reader: Box::new(PipeReader(Arc::clone(incoming))),
        writer: Box::new(PipeWriter {
            hub: Arc::clone(hub),
            pipe: Arc::clone(outgoing),
        }),
        local_address,
        peer_address,
    }
}

impl Hub {
    fn pipe(&self, kind: StreamKind) -> Arc<Pipe> {
        let pipe = Arc::new(Pipe {
            kind,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        locked(&self.pipes).push(Arc::clone(&pipe));
        pipe
    }

    /// What becomes of one write: its copies, each with its delay.
    fn fate(&self, bytes: Bytes) -> Vec<(Duration, Bytes)> {
        let faults = *locked(&self.faults);
        let mut fates = locked(&self.fates);
        let mut random = locked(&self.random);
        let mut strikes = |one_in: u64| one_in > 0 && random.chance(1, one_in);
        let (lost, doubled) = (strikes(faults.lose_one_in), strikes(faults.double_one_in));
        let (delayed, corrupted) = (strikes(faults.delay_one_in), strikes(faults.corrupt_one_in));
        fates.writes += 1;
        if lost || faults.silent {
            fates.lost += 1;
            return Vec::new();
        }
        let mut bytes = bytes;
        if corrupted && !bytes.is_empty() {
            fates.corrupted += 1;
            let mut changed = BytesMut::from(&bytes[..]);
            let index = random.index(changed.len());
            changed[index] ^= 1 << random.below(8);
            bytes = changed.freeze();
        }
        let delay = if delayed {
            fates.delayed += 1;
            Duration::from_millis(1 + random.below(20))
        } else {
            Duration::ZERO
        };
        let mut copies = vec![(delay, bytes.clone())];
        if doubled {
            fates.doubled += 1;
            copies.push((delay + Duration::from_millis(random.below(5)), bytes));
        }
        copies
    }
}

struct MemoryListener {
    streams: mpsc::UnboundedReceiver<Stream>,
    address: String,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Stream, NetworkError>> {
        Box::pin(async {
            let closed = || NetworkError::Closed {
                reason: "listener removed".to_owned(),
            };
            match self.streams.recv().await {
                Some(stream) => Ok(stream),
                None => Err(closed()),
            }
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

/// One direction of a stream.
struct Pipe {
    kind: StreamKind,
    state: Mutex<PipeState>,
    changed: Notify,
}

#[derive(Default)]
struct PipeState {
    arrived: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    broken: bool,
}

impl Pipe {
    fn arrive(&self, bytes: Bytes) {
        let mut state = locked(&self.state);
        state.bytes += bytes.len();
        state.arrived.push_back(bytes);
        drop(state);
        self.changed.notify_waiters();
    }

    fn end(&self, broken: bool) {
        let mut state = locked(&self.state);
        state.ended = true;
        state.broken |= broken;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until `look` answers.
    async fn until<T>(&self, mut look: impl FnMut(&mut PipeState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(value) = look(&mut locked(&self.state)) {
                return value;
            }
            changed.await;
        }
    }
}

struct PipeReader(Arc<Pipe>);

impl StreamReader for PipeReader {
    fn read(&mut self, maximum: usize) -> BoxFuture<'_, Result<Bytes, NetworkError>> {
        Box::pin(async move {
            let result = self.0.until(|state| {
                if state.broken {
                    return Some(Err(NetworkError::Closed {
                        reason: "cut".to_owned(),
                    }));
                }
                let Some(front) = state.arrived.front_mut() else {
                    return state.ended.then(|| Ok(Bytes::new()));
                };
                let bytes = front.split_to(front.len().min(maximum));
                if front.is_empty() {
                    state.arrived.pop_front();
                }
                state.bytes -= bytes.len();
                Some(Ok(bytes))
            });
            let result = result.await;
            self.0.changed.notify_waiters();
            result
        })
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.0.end(true);
    }
}

struct PipeWriter {
    hub: Arc<Hub>,
    pipe: Arc<Pipe>,
}

impl StreamWriter for PipeWriter {
    fn write(&mut self, parts: Vec<Bytes>) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move {
            let closed = || NetworkError::Closed {
                reason: "broken pipe".to_owned(),
            };
            let room = self.pipe.until(|state| {
                if state.ended {
                    Some(false)
                } else {
                    (state.bytes < WINDOW_BYTES).then_some(true)
                }
            });
            if !room.await {
                return Err(closed());
            }
            let bytes = Bytes::from(parts.concat());
            if self.pipe.kind == StreamKind::Client {
                self.pipe.arrive(bytes);
                return Ok(());
            }
            for (delay, copy) in self.hub.fate(bytes) {
                if delay.is_zero() {
                    self.pipe.arrive(copy);
                } else {
                    let pipe = Arc::clone(&self.pipe);
                    tokio::runtime::Handle::current().spawn(async move {
                        tokio::time::sleep_until(tokio::time::Instant::now() + delay).await;
                        pipe.arrive(copy);
                    });
                }
            }
            Ok(())
        })
    }

    fn shutdown(&mut self) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async {
            self.pipe.end(false);
            Ok(())
        })
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        // A silent network hides even the end of a stream.
        if !locked(&self.hub.faults).silent {
            self.pipe.end(false);
        }
    }
}

struct TestClock {
    zero: tokio::time::Instant,
}

impl Clock for TestClock {
    fn now(&self) -> Instant {
        let nanoseconds = self.zero.elapsed().as_nanos();
        Instant::from_nanoseconds(u64::try_from(nanoseconds).expect("tests end within 584 years"))
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let at = self.zero + Duration::from_nanos(deadline.as_nanoseconds());
        Box::pin(tokio::time::sleep_until(at))
    }
}

struct TestTasks;

impl Tasks for TestTasks {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        let task = tokio::runtime::Handle::current().spawn(future);
        TaskHandle::new(Arc::new(TestTask(task.abort_handle())))
    }

    fn blocking(
        &self,
        _name: &'static str,
        job: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move { job() })
    }

    fn halt(&self, reason: HaltReason) {
        panic!("the node under test halted: {reason}");
    }
}

struct TestTask(tokio::task::AbortHandle);

impl AbortHandle for TestTask {
    fn abort(&self) {
        self.0.abort();
    }
}

struct TestSeeds(AtomicU64);

impl Seeds for TestSeeds {
    fn stream(&self, _label: &str) -> Random {
        Random::from_seed(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn secret(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream("secret").fill(&mut bytes);
        bytes
    }
}

/// Prints events when `HEDGEROW_TEST_EVENTS` is set.
struct Printed;

impl Events for Printed {
    fn enabled(&self, _level: Level) -> bool {
        std::env::var_os("HEDGEROW_TEST_EVENTS").is_some()
    }

    fn emit(&self, level: Level, component: &'static str, message: std::fmt::Arguments<'_>) {
        eprintln!("{level:?} {component}: {message}");
    }
}

struct NoDisk;

fn absent<T: Send + 'static>(path: &str) -> BoxFuture<'static, Result<T, DiskError>> {
    let path = path.to_owned();
    Box::pin(async move { Err(DiskError::NotFound { path }) })
}

impl Disk for NoDisk {
    fn open(
        &self,
        path: &str,
        _mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        absent(path)
    }

    fn rename(&self, from: &str, _to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        absent(from)
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        absent(path)
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        absent(directory)
    }

    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        absent(directory)
    }

    fn free_bytes(&self, directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        absent(directory)
    }

    fn open_blocking(
        &self,
        path: &str,
        _mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        Err(DiskError::NotFound {
            path: path.to_owned(),
        })
    }
}
