//! The production side of the seams: one [`Env`] per node on a tokio runtime, TCP and real files.
//!
//! Invariant: a panic anywhere ends the process (no panic is caught on the data path); a halted
//! node ends its process too, so that nothing of it acts afterwards.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hedgerow_disk::os::OsDisk;
use hedgerow_env::{
    AbortHandle, BlockingFile, BoxFuture, Clock, Disk, DiskError, Env, EnvParts, Events, File,
    HaltReason, Instant, Level, OpenMode, Random, Seeds, TaskHandle, Tasks, WallTime,
};
use hedgerow_net::tcp::TcpNetwork;
use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::runtime::Handle;

/// Exit code of a node that stopped itself (EX_SOFTWARE).
pub(crate) const EXIT_HALTED: i32 = 70;

/// How much is logged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logging {
    pub(crate) level: Level,
}

/// The production [`Env`] of the node called `name`, with its files below `root`.
///
/// # Errors
/// The root directory cannot be created or is in use by another process.
pub(crate) fn production_env(name: &str, root: &Path, logging: Logging) -> anyhow::Result<Env> {
    Ok(node_env(
        name,
        logging,
        Arc::new(BootClock),
        Arc::new(open_disk(root)?),
    ))
}

fn open_disk(root: &Path) -> anyhow::Result<OsDisk> {
    OsDisk::open(root).with_context(|| root.display().to_string())
}

/// The [`Env`] of a node under test: as in production, but for a clock and a disk that obey.
#[cfg(feature = "testing")]
pub(crate) fn testing_env(
    name: &str,
    root: &Path,
    logging: Logging,
    test: &crate::testing::TestSection,
) -> anyhow::Result<Env> {
    use crate::testing::{SharedClock, SharedDisk, TestClock, TestDisk, obey};

    let clock = Arc::new(TestClock::new(Arc::new(BootClock)));
    let real = Arc::new(open_disk(root)?);
    let disk = Arc::new(TestDisk::new(real, test.manner()));
    obey(test.control.clone(), Arc::clone(&clock), Arc::clone(&disk));
    let clock = Arc::new(SharedClock(clock));
    let disk = Arc::new(SharedDisk(disk));
    Ok(node_env(name, logging, clock, disk))
}

fn node_env(name: &str, logging: Logging, clock: Arc<dyn Clock>, disk: Arc<dyn Disk>) -> Env {
    let runtime = Handle::current();
    Env::new(EnvParts {
        clock,
        tasks: Arc::new(TokioTasks {
            runtime: runtime.clone(),
            name: name.to_owned(),
        }),
        seeds: Arc::new(SystemSeeds),
        network: Arc::new(TcpNetwork::new(runtime)),
        disk,
        events: Arc::new(Stderr {
            name: name.to_owned(),
            logging,
        }),
    })
}

/// An [`Env`] for commands that only talk to nodes.
pub(crate) fn client_env(logging: Logging) -> Env {
    let runtime = Handle::current();
    Env::new(EnvParts {
        clock: Arc::new(BootClock),
        tasks: Arc::new(TokioTasks {
            runtime: runtime.clone(),
            name: "client".into(),
        }),
        seeds: Arc::new(SystemSeeds),
        network: Arc::new(TcpNetwork::new(runtime)),
        disk: Arc::new(NoDisk),
        events: Arc::new(Stderr {
            name: "client".into(),
            logging,
        }),
    })
}

/// The wall time of the machine.
pub(crate) fn wall() -> WallTime {
    BootClock.wall()
}

/// Makes every panic end the process, after its message.
pub(crate) fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}

struct BootClock;

impl Clock for BootClock {
    #[expect(
        unsafe_code,
        reason = "std offers no CLOCK_BOOTTIME, which counts suspended time"
    )]
    fn now(&self) -> Instant {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is a valid timespec for the call to fill.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        assert_eq!(result, 0, "CLOCK_BOOTTIME exists since Linux 2.6.39");
        let seconds = u64::try_from(time.tv_sec).expect("boot time is not negative");
        let nanoseconds = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
        Instant::from_nanoseconds(seconds * 1_000_000_000 + nanoseconds)
    }

    #[expect(
        clippy::disallowed_types,
        clippy::disallowed_methods,
        reason = "this is the seam"
    )]
    fn wall(&self) -> WallTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // tokio's timer runs on CLOCK_MONOTONIC, which stands still while the machine sleeps:
            // it may wake late, never early.
            loop {
                let left = deadline.since(BootClock.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.max(Duration::from_micros(50))).await;
            }
        })
    }
}

struct TokioTasks {
    runtime: Handle,
    name: String,
}

struct Abort(tokio::task::AbortHandle);

impl AbortHandle for Abort {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Tasks for TokioTasks {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> TaskHandle {
        TaskHandle::new(Arc::new(Abort(self.runtime.spawn(future).abort_handle())))
    }

    fn blocking(
        &self,
        _name: &'static str,
        job: Box<dyn FnOnce() + Send>,
    ) -> BoxFuture<'static, ()> {
        let running = self.runtime.spawn_blocking(job);
        Box::pin(async move {
            // It fails only when the runtime stops; nobody waits then.
            drop(running.await);
        })
    }

    fn halt(&self, reason: HaltReason) {
        eprintln!("{}: stopped itself: {reason}", self.name);
        std::process::exit(EXIT_HALTED);
    }
}

/// Commands that only talk to nodes keep nothing.
struct NoDisk;

fn no_disk<T: Send + 'static>(path: &str) -> BoxFuture<'static, Result<T, DiskError>> {
    let path = path.to_owned();
    Box::pin(async move { Err(no_disk_error(&path)) })
}

fn no_disk_error(path: &str) -> DiskError {
    let reason = "a client command has no disk".to_owned();
    DiskError::Device {
        path: path.to_owned(),
        operation: "open",
        reason,
    }
}

impl Disk for NoDisk {
    fn open(
        &self,
        path: &str,
        _mode: OpenMode,
    ) -> BoxFuture<'static, Result<Arc<dyn File>, DiskError>> {
        no_disk(path)
    }

    fn rename(&self, from: &str, _to: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        no_disk(from)
    }

    fn remove(&self, path: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        no_disk(path)
    }

    fn list(&self, directory: &str) -> BoxFuture<'static, Result<Vec<String>, DiskError>> {
        no_disk(directory)
    }

    fn sync_directory(&self, directory: &str) -> BoxFuture<'static, Result<(), DiskError>> {
        no_disk(directory)
    }

    fn free_bytes(&self, directory: &str) -> BoxFuture<'static, Result<u64, DiskError>> {
        no_disk(directory)
    }

    fn open_blocking(
        &self,
        path: &str,
        _mode: OpenMode,
    ) -> Result<Arc<dyn BlockingFile>, DiskError> {
        Err(no_disk_error(path))
    }
}

/// Randomness from the operating system.
pub(crate) struct SystemSeeds;

impl Seeds for SystemSeeds {
    fn stream(&self, _label: &str) -> Random {
        let secret = self.secret(8);
        let mut seed = [0; 8];
        seed.copy_from_slice(&secret);
        Random::from_seed(u64::from_le_bytes(seed))
    }

    fn secret(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        SysRng
            .try_fill_bytes(&mut bytes)
            .expect("the operating system gives random bytes");
        bytes
    }
}

struct Stderr {
    name: String,
    logging: Logging,
}

impl Events for Stderr {
    fn enabled(&self, level: Level) -> bool {
        level >= self.logging.level
    }

    fn emit(&self, level: Level, component: &'static str, message: std::fmt::Arguments<'_>) {
        let level = match level {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let time = BootClock.wall();
        let line = format!("{time} {level:5} {} {component}: {message}\n", self.name);
        // A log that cannot be written is no reason to stop serving.
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }
}
