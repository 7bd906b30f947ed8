//! The ordered key-value state of a group, as its machine sees it.
//!
//! Invariants: a machine reads and writes through these traits only, so that apply is a pure
//! function of (command, state); the state and the last applied index change in one transaction.
//! Keys begin with a table kind (one byte; the kinds stand in `root/` and `shard/`).

use std::collections::BTreeMap;
use std::ops::Bound;

/// Why the state could not be read or written. Either way this replica stops answering.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A page failed its check: repair it from a peer.
    #[error("state damaged: {0}")]
    Damaged(String),
    /// The disk under it has no space: it is opened again when there is some.
    #[error("state waits for space: {0}")]
    NoRoom(String),
    /// The disk under it failed, or the node is stopping.
    #[error("state stopped: {0}")]
    Stopped(String),
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A consistent view of the state.
pub trait View {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`StateError`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError>;

    /// Up to `limit` pairs with `from <= key < to`, in key order.
    ///
    /// # Errors
    /// [`StateError`].
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StateError>;

    /// The pair with the greatest key in `from <= key < to`.
    ///
    /// # Errors
    /// [`StateError`].
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StateError>;
}

/// A transaction on the state; sees its own writes.
pub trait Update: View {
    /// Sets `key`.
    ///
    /// # Errors
    /// [`StateError`].
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError>;

    /// Removes `key`, if it is there.
    ///
    /// # Errors
    /// [`StateError`].
    fn delete(&mut self, key: &[u8]) -> Result<(), StateError>;
}

/// A replicated state machine.
pub trait Machine: Send + Sync {
    /// Applies the batch of one log entry at `index` and answers its encoded outcomes. A pure
    /// function of `batch` and the state; a batch that does not decode is a broken invariant.
    ///
    /// # Errors
    /// [`StateError`] from the state alone: refusals are outcomes.
    fn apply(
        &self,
        state: &mut dyn Update,
        index: u64,
        batch: &[u8],
    ) -> Result<bytes::Bytes, StateError>;
}

/// A state in memory, for tests and models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryState(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl View for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StateError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self
            .0
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, StateError> {
        if from >= to {
            return Ok(None);
        }
        let mut range = self
            .0
            .range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range
            .next_back()
            .map(|(key, value)| (key.clone(), value.clone())))
    }
}

impl Update for MemoryState {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StateError> {
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.0.remove(key);
        Ok(())
    }
}
