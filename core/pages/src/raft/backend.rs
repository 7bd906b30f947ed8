//! redb's storage over a verified file of the disk crate.
//!
//! Invariants: a failed sync stops the node and is never retried; what a read found damaged is
//! remembered, so that the store can tell damage from failure.
//! Does not: cache, or verify (the file under it does both as far as needed).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hedgerow_disk::{VerifiedError, VerifiedFile};
use hedgerow_env::{Env, HaltReason};
use tokio::sync::Notify;

/// What the store can learn of its backend after a call failed.
#[derive(Debug, Default)]
pub(crate) struct Health {
    damaged: AtomicBool,
    found: Notify,
}

impl Health {
    /// Whether a read met damage.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Damage was met.
    pub(crate) fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Release);
        self.found.notify_one();
    }

    /// Completes once damage was met; for one waiter.
    pub(crate) async fn damage(&self) {
        while !self.is_damaged() {
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
        io::Error::other(error)
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file
            .read(offset, out)
            .map_err(|error| self.failed(error))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file
            .set_len(length)
            .map_err(|error| self.failed(error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync().map_err(|error| {
            let text = format!("sync of Pages state: {error}");
            self.env.0.halt(HaltReason::DiskFailed(text));
            self.failed(error)
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file
            .write(offset, data)
            .map_err(|error| self.failed(error))
    }
}
