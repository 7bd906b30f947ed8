//! redb's storage over a blocking file of the disk seam.
//!
//! Invariants: a failed sync stops the node and is never retried; after any failure of the device
//! nothing more is written through this backend, so that a later success cannot hide it.
//! Does not: cache, or verify (the file under it does).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hedgerow_env::{BlockingFile, DiskError, Env, HaltReason};

/// What the store can learn of its backend after a call failed.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// A read found bytes that are not what was written.
    damaged: AtomicBool,
    failure: Mutex<Option<DiskError>>,
}

impl Health {
    /// Whether a read met damage.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Remembers that a read met damage.
    pub(crate) fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    /// The first failure of the device.
    pub(crate) fn failure(&self) -> Option<DiskError> {
        self.failure
            .lock()
            .expect("no panic under this lock")
            .clone()
    }

    fn fail(&self, error: &DiskError) {
        let mut failure = self.failure.lock().expect("no panic under this lock");
        failure.get_or_insert_with(|| error.clone());
    }
}

/// The backend.
pub(crate) struct Backend {
    env: Env,
    file: Arc<dyn BlockingFile>,
    health: Arc<Health>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Backend").field(&self.file).finish()
    }
}

impl Backend {
    /// A backend on `file`.
    pub(crate) fn new(env: Env, file: Arc<dyn BlockingFile>, health: Arc<Health>) -> Self {
        Self { env, file, health }
    }

    fn check(&self) -> io::Result<()> {
        match self.health.failure() {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(()),
        }
    }

    fn failed(&self, error: DiskError) -> io::Error {
        self.health.fail(&error);
        io::Error::other(error)
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.length().map_err(|error| self.failed(error))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // A failed read says nothing of later writes: it fails this call alone.
        self.file.read_at(offset, out).map_err(io::Error::other)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.check()?;
        self.file.resize(length).map_err(|error| self.failed(error))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.file.sync().map_err(|error| {
            let error_text = format!("sync of Pages state: {error}");
            self.env.halt(HaltReason::DiskFailed(error_text));
            self.failed(error)
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.file
            .write_at(offset, data)
            .map_err(|error| self.failed(error))
    }
}
