//! [`Reserve`]: room taken in advance, given up when a verified file finds none.
//!
//! Invariants: what it holds is allocated; releasing it needs no room. Does not: decide when to
//! take the room again (its owner calls [`Reserve::hold`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hedgerow_env::{Disk, DiskError, Env, OpenMode};

/// A file that holds room. A cheap handle.
#[derive(Clone)]
pub struct Reserve(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    path: String,
    bytes: u64,
    held: AtomicBool,
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
            disk: env.disk_handle(),
            path,
            bytes,
            held: AtomicBool::new(false),
        }))
    }

    /// Whether it holds its room.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.held.load(Ordering::Acquire)
    }

    /// Takes the room, if it is not held.
    ///
    /// # Errors
    /// [`DiskError`]; `NoSpace` leaves nothing taken.
    pub async fn hold(&self) -> Result<(), DiskError> {
        if self.is_held() {
            return Ok(());
        }
        let file = self.0.disk.open(&self.0.path, OpenMode::Create).await?;
        if file.length().await? != self.0.bytes
            && let Err(error) = file.resize(self.0.bytes).await
        {
            // What it got of it is for others.
            file.resize(0).await?;
            return Err(error);
        }
        self.0.held.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives the room up. Blocks.
    pub(super) fn release(&self) {
        if !self.0.held.swap(false, Ordering::AcqRel) {
            return;
        }
        let file = self.0.disk.open_blocking(&self.0.path, OpenMode::Existing);
        // Whoever wanted the room finds out whether there is some.
        file.and_then(|file| file.resize(0)).ok();
    }
}
