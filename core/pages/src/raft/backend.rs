//! redb's storage over a verified file of the disk crate.
//!
//! Invariants: a change that the device failed stops the node, and a failed sync is never retried: redb
//! takes no call after one that failed, and a node whose replica is mute would be taken for sound. What
//! cannot be read is damaged: this replica is mended or replaced, and the node lives on. A
//! call that found no space ends this backend alone, and no later call of it reaches the file, which
//! may be open anew by then; what a read found damaged is remembered, so that the store can tell
//! damage from failure.
//! Does not: cache, or verify (the file under it does both as far as needed).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hedgerow_disk::{VerifiedError, VerifiedFile};
use hedgerow_env::{DiskError, Env, HaltReason};
use tokio::sync::Notify;

/// What the store can learn of its backend after a call failed.
#[derive(Debug, Default)]
pub(crate) struct Health {
    damaged: AtomicBool,
    full: AtomicBool,
    found: Notify,
}

/// Why a state is given up while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A page is damaged.
    Damage,
    /// The disk had no space for it.
    NoRoom,
}

impl Health {
    /// Whether a call found no space.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    fn set_full(&self) {
        self.full.store(true, Ordering::Release);
        self.found.notify_one();
    }

    /// Whether a read met damage.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Damage was met.
    pub(crate) fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Release);
        self.found.notify_one();
    }

    /// Completes once the state cannot go on; for one waiter.
    pub(crate) async fn trouble(&self) -> Trouble {
        loop {
            if self.is_damaged() {
                return Trouble::Damage;
            }
            if self.is_full() {
                return Trouble::NoRoom;
            }
            self.found.notified().await;
        }
    }
}

/// The backend.
#[derive(Debug)]
pub(crate) struct Backend {
    env: EnvHandle,
    file: VerifiedFile,
    health: Arc<Health>,
}

struct EnvHandle(Env);

impl std::fmt::Debug for EnvHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Env")
    }
}

fn is_full(error: &VerifiedError) -> bool {
    matches!(error, VerifiedError::Disk(DiskError::NoSpace { .. }))
}

fn is_device(error: &VerifiedError) -> bool {
    matches!(error, VerifiedError::Disk(DiskError::Device { .. }))
}

impl Backend {
    /// A backend on `file`.
    pub(crate) fn new(env: Env, file: VerifiedFile, health: Arc<Health>) -> Self {
        Self {
            env: EnvHandle(env),
            file,
            health,
        }
    }

    fn failed(&self, error: VerifiedError) -> io::Error {
        if matches!(
            error,
            VerifiedError::Mismatch { .. } | VerifiedError::Damaged { .. }
        ) {
            self.health.set_damaged();
        }
        if is_full(&error) {
            self.health.set_full();
        }
        io::Error::other(error)
    }

    fn change_failed(&self, error: VerifiedError) -> io::Error {
        if is_device(&error) {
            let text = format!("Pages state: {error}");
            self.env.0.halt(HaltReason::DiskFailed(text));
        }
        self.failed(error)
    }

    fn check_running(&self) -> io::Result<()> {
        if self.health.is_full() {
            return Err(io::Error::other("stopped for want of space"));
        }
        Ok(())
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check_running()?;
        self.file.read(offset, out).map_err(|error| {
            if is_device(&error) {
                self.health.set_damaged();
            }
            self.failed(error)
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.check_running()?;
        self.file
            .set_len(length)
            .map_err(|error| self.change_failed(error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check_running()?;
        self.file.sync().map_err(|error| {
            // Nothing was promised on a sync that found no space: the log has it all.
            if !is_full(&error) {
                let text = format!("sync of Pages state: {error}");
                self.env.0.halt(HaltReason::DiskFailed(text));
            }
            self.failed(error)
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_running()?;
        self.file
            .write(offset, data)
            .map_err(|error| self.change_failed(error))
    }
}
