//! [`Reserve`]: room taken in advance, given up when a verified file finds none.
//!
//! Invariants: what it holds is allocated; releasing it needs no room; who finds it released may
//! use its room, for it is taken and released under one lock. Does not: decide when to take the
//! room again (its owner calls [`Reserve::hold`]).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use hedgerow_env::{Disk, DiskError, Env, OpenMode};

/// A file that holds room. A cheap handle.
#[derive(Clone)]
pub struct Reserve(Arc<Inner>);

struct Inner {
    env: Env,
    disk: Arc<dyn Disk>,
    path: String,
    bytes: u64,
    /// Whether the file holds the room; locked while the file changes.
    held: Mutex<bool>,
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, bool> {
        self.held.lock().expect("no panic under this lock")
    }

    fn hold(&self) -> Result<(), DiskError> {
        let mut held = self.held();
        if *held {
            return Ok(());
        }
        let file = self.disk.open_blocking(&self.path, OpenMode::Create)?;
        if file.length()? != self.bytes
            && let Err(error) = file.resize(self.bytes)
        {
            // What it got of it is for others.
            file.resize(0)?;
            return Err(error);
        }
        *held = true;
        Ok(())
    }

    fn release(&self) {
        let mut held = self.held();
        if !*held {
            return;
        }
        *held = false;
        let file = self.disk.open_blocking(&self.path, OpenMode::Existing);
        // Whoever wanted the room finds out whether there is some.
        file.and_then(|file| file.resize(0)).ok();
    }
}

impl fmt::Debug for Reserve {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Reserve")
            .field("path", &self.0.path)
            .finish_non_exhaustive()
    }
}

impl Reserve {
    /// A reserve of `bytes` at `path`, not held yet.
    #[must_use]
    pub fn new(env: &Env, path: String, bytes: u64) -> Self {
        Self(Arc::new(Inner {
            env: env.clone(),
            disk: env.disk_handle(),
            path,
            bytes,
            held: Mutex::new(false),
        }))
    }

    /// Whether it holds its room.
    ///
    /// # Panics
    /// Never: nobody panics under its lock.
    #[must_use]
    pub fn is_held(&self) -> bool {
        *self.0.held()
    }

    /// Takes the room, if it is not held.
    ///
    /// # Errors
    /// [`DiskError`]; `NoSpace` leaves nothing taken.
    pub async fn hold(&self) -> Result<(), DiskError> {
        let inner = Arc::clone(&self.0);
        let hold = move || inner.hold();
        self.0.env.blocking("pages-reserve", hold).await
    }

    /// Gives the room up; when it returns, nobody holds it any more. Blocks.
    pub(super) fn release(&self) {
        self.0.release();
    }
}
