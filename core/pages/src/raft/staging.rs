//! A snapshot on its way in: pairs gather in a table of their own until the last has come, then
//! take the place of the state in one durable transaction.
//!
//! Invariants: pairs arrive in key order without gaps, each chunk naming the key that it follows; a
//! chunk that came twice changes nothing; while a complete snapshot waits to be installed no other
//! is taken; nothing of an unfinished snapshot is ever seen by readers.
//! A snapshot is known by its last log id: replicas at the same log id hold equal pairs, so a
//! transfer is resumed even from another sender.
//! Does not: keep an unfinished snapshot over a restart.

use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Durability, ReadableTableMetadata};

use super::store::{Applied, INCOMING, StateStore};
use super::types::{LogId, SnapshotMeta};
use crate::StateError;
use crate::state::Pair;

/// Why a chunk or an end was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StagingError {
    /// A complete snapshot is being installed: ask again later.
    #[error("another snapshot is being installed")]
    Busy,
    /// It is not the snapshot that was begun, or pairs before it are missing: begin again.
    #[error("not the next part of the snapshot begun here")]
    OutOfStep,
    /// The state failed.
    #[error(transparent)]
    State(#[from] StateError),
}

#[derive(Debug, Default)]
struct Stage {
    snapshot: Option<LogId>,
    last_key: Option<Vec<u8>>,
    sealed: bool,
}

/// The staging place of one replica.
#[derive(Debug, Default)]
pub(crate) struct Staging(Mutex<Stage>);

/// A complete snapshot that waits to be installed; gives the place free when dropped.
pub(crate) struct Staged {
    staging: Arc<Staging>,
    snapshot: LogId,
}

impl Drop for Staged {
    fn drop(&mut self) {
        *self.staging.stage() = Stage::default();
    }
}

impl Staging {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().expect("no panic under this lock")
    }

    /// Begins `snapshot`, or resumes it: answers the key after which to go on.
    pub(crate) fn begin(
        &self,
        store: &StateStore,
        snapshot: LogId,
    ) -> Result<Option<Vec<u8>>, StagingError> {
        let mut stage = self.stage();
        if stage.sealed {
            return Err(StagingError::Busy);
        }
        if stage.snapshot != Some(snapshot) {
            store.clear_incoming()?;
            *stage = Stage {
                snapshot: Some(snapshot),
                ..Stage::default()
            };
        }
        Ok(stage.last_key.clone())
    }

    /// Takes the pairs that follow `after`; answers the last key held.
    pub(crate) fn add(
        &self,
        store: &StateStore,
        snapshot: LogId,
        after: Option<&[u8]>,
        pairs: &[Pair],
    ) -> Result<Option<Vec<u8>>, StagingError> {
        let mut stage = self.stage();
        if stage.sealed || stage.snapshot != Some(snapshot) {
            return Err(StagingError::OutOfStep);
        }
        let Some((last, _)) = pairs.last() else {
            return Ok(stage.last_key.clone());
        };
        if stage.last_key.as_ref() >= Some(last) {
            return Ok(stage.last_key.clone());
        }
        if stage.last_key.as_deref() != after || !is_ascending(after, pairs) {
            return Err(StagingError::OutOfStep);
        }
        store.add_incoming(pairs)?;
        stage.last_key = Some(last.clone());
        Ok(stage.last_key.clone())
    }

    /// The last pair came: `length` of them make up the snapshot.
    pub(crate) fn seal(
        self: &Arc<Self>,
        store: &StateStore,
        snapshot: LogId,
        length: u64,
    ) -> Result<Staged, StagingError> {
        let mut stage = self.stage();
        if stage.sealed {
            return Err(StagingError::Busy);
        }
        if stage.snapshot != Some(snapshot) {
            return Err(StagingError::OutOfStep);
        }
        if store.incoming_length()? != length {
            // Begin from nothing next time: what is here does not fit what was sent.
            *stage = Stage::default();
            return Err(StagingError::OutOfStep);
        }
        stage.sealed = true;
        Ok(Staged {
            staging: Arc::clone(self),
            snapshot,
        })
    }
}

fn is_ascending(after: Option<&[u8]>, pairs: &[Pair]) -> bool {
    let mut previous = after;
    pairs.iter().all(|(key, _)| {
        let ascends = previous.is_none_or(|previous| previous < key.as_slice());
        previous = Some(key);
        ascends
    })
}

impl Staged {
    /// Replaces the state by it, durably.
    pub(crate) fn install(self, store: &StateStore, meta: &SnapshotMeta) -> Result<(), StateError> {
        assert_eq!(
            meta.last_log_id,
            Some(self.snapshot),
            "the snapshot that was sealed"
        );
        store.replace(Applied {
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
        })
    }
}

impl StateStore {
    fn clear_incoming(&self) -> Result<(), StateError> {
        self.alone(Durability::None, |transaction| {
            self.check(transaction.delete_table(INCOMING))?;
            self.check(transaction.open_table(INCOMING))?;
            Ok(())
        })
    }

    fn add_incoming(&self, pairs: &[Pair]) -> Result<(), StateError> {
        self.alone(Durability::None, |transaction| {
            let mut table = self.check(transaction.open_table(INCOMING))?;
            for (key, value) in pairs {
                self.check(table.insert(key.as_slice(), value.as_slice()))?;
            }
            Ok(())
        })
    }

    fn incoming_length(&self) -> Result<u64, StateError> {
        self.alone(Durability::None, |transaction| {
            let table = self.check(transaction.open_table(INCOMING))?;
            self.check(table.len())
        })
    }
}
