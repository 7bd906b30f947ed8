//! One replica's state: redb's tables, with the last applied log id in the same transaction.
//!
//! Invariants: state and last applied log id and membership change in one transaction, an entry is
//! applied once and in order; what [`StateStore::durable_index`] says survives any crash; a
//! snapshot is installed in one durable transaction.
//! Commits of applied entries are not synced one by one: the log replays from the durable index.
//! A durable commit happens before purge, at each snapshot, and after [`UNSYNCED_BYTES_MAX`].
//! Does not: run on async threads: every call here blocks and belongs into [`Env::blocking`].

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_disk::VerifiedFile;
use hedgerow_env::Env;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_protocol::{decode, encode};
use openraft::EntryPayload;
use redb::{Database, Durability, ReadableDatabase, ReadableTableMetadata};

use super::backend::{Backend, Health};
use super::types::{Entry, LogId, Outcomes, StoredApplied, StoredMembership};
use super::views::{Definition, Reading, Writing, state_error};
use crate::{Machine, StateError};

pub(super) const STATE: Definition = Definition::new("state");
pub(super) const INCOMING: Definition = Definition::new("incoming");
const META: Definition = Definition::new("meta");
const APPLIED: &[u8] = b"applied";

/// Batches applied without a sync; redb keeps their pages apart until the next durable commit, so
/// the bound keeps the file and a restart's replay short.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;

/// What was applied last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Applied {
    /// The index of the last applied entry; 0 stands for none, too, as entry 0 only makes members.
    pub(crate) fn index(&self) -> u64 {
        self.log_id.map_or(0, |log_id| log_id.index)
    }
}

#[derive(Debug)]
struct Progress {
    applied: Applied,
    durable: Option<LogId>,
    unsynced_bytes: usize,
}

/// The state of one replica.
pub(crate) struct StateStore {
    database: Database,
    health: Arc<Health>,
    progress: Mutex<Progress>,
}

/// A consistent view and what it reflects.
pub(crate) struct StateView {
    pub(crate) reading: Reading,
    pub(crate) applied: Applied,
}

impl StateStore {
    /// Opens the state in `file`; an empty file becomes an empty, durable state.
    pub(crate) fn open(
        env: &Env,
        file: VerifiedFile,
        cache_bytes: usize,
    ) -> Result<Self, StateError> {
        let health = Arc::new(Health::default());
        let backend = Backend::new(env.clone(), file, Arc::clone(&health));
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
            .map_err(|error| state_error(&health, error))?;
        let store = Self {
            database,
            health,
            progress: Mutex::new(Progress {
                applied: Applied::default(),
                durable: None,
                unsynced_bytes: 0,
            }),
        };
        store.prepare()?;
        Ok(store)
    }

    /// Makes the tables, forgets a snapshot that was not installed, and reads what was applied.
    fn prepare(&self) -> Result<(), StateError> {
        let transaction = self.begin(Durability::Immediate)?;
        {
            self.check(transaction.open_table(STATE))?;
            self.check(transaction.open_table(META))?;
        }
        self.check(transaction.delete_table(INCOMING))?;
        self.commit(transaction)?;
        let applied = self.read_applied()?;
        let mut progress = self.progress();
        progress.durable = applied.log_id;
        progress.applied = applied;
        Ok(())
    }

    pub(super) fn check<T, E: Into<redb::Error>>(
        &self,
        result: Result<T, E>,
    ) -> Result<T, StateError> {
        result.map_err(|error| state_error(&self.health, error))
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic under this lock")
    }

    pub(super) fn begin(
        &self,
        durability: Durability,
    ) -> Result<redb::WriteTransaction, StateError> {
        let mut transaction = self.check(self.database.begin_write())?;
        // A durable commit also records which pages are free: opening after a crash then need not
        // walk the file.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        self.check(transaction.set_durability(durability))?;
        Ok(transaction)
    }

    pub(super) fn commit(&self, transaction: redb::WriteTransaction) -> Result<(), StateError> {
        self.check(transaction.commit())
    }

    fn read_applied(&self) -> Result<Applied, StateError> {
        let transaction = self.check(self.database.begin_read())?;
        let table = self.check(transaction.open_table(META))?;
        let Some(found) = self.check(table.get(APPLIED))? else {
            return Ok(Applied::default());
        };
        let StoredApplied((log_id, membership)) =
            decode(found.value()).map_err(|error| StateError::Damaged(error.to_string()))?;
        Ok(Applied { log_id, membership })
    }

    /// What was applied last.
    pub(crate) fn applied(&self) -> Applied {
        self.progress().applied.clone()
    }

    /// The index of what was applied last.
    pub(crate) fn applied_index(&self) -> u64 {
        self.progress().applied.index()
    }

    /// The last applied log id that survives any crash.
    pub(crate) fn durable(&self) -> Option<LogId> {
        self.progress().durable
    }

    /// Whether a page of it was found damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.health.is_damaged()
    }

    /// Whether it found no room, and stopped.
    pub(crate) fn is_full(&self) -> bool {
        self.health.is_full()
    }

    /// What learns of damage.
    pub(crate) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Applies `entries`, which follow what was applied, in one transaction; answers in order.
    pub(crate) fn apply(
        &self,
        entries: &[Entry],
        machine: &dyn Machine,
    ) -> Result<Vec<Outcomes>, StateError> {
        let (mut applied, unsynced) = {
            let progress = self.progress();
            (progress.applied.clone(), progress.unsynced_bytes)
        };
        let bytes = entries.iter().map(payload_bytes).sum::<usize>();
        let durable = unsynced + bytes > UNSYNCED_BYTES_MAX;
        let transaction = self.begin(if durable {
            Durability::Immediate
        } else {
            Durability::None
        })?;
        let mut outcomes = Vec::with_capacity(entries.len());
        {
            let mut update = Writing {
                table: self.check(transaction.open_table(STATE))?,
                health: &self.health,
            };
            for entry in entries {
                assert!(
                    applied.log_id < Some(entry.log_id),
                    "an entry is applied once, in order: {} after {:?}",
                    entry.log_id,
                    applied.log_id
                );
                outcomes.push(apply_entry(entry, &mut applied, &mut update, machine)?);
            }
        }
        self.commit_applied(transaction, &applied)?;
        let mut progress = self.progress();
        progress.unsynced_bytes = if durable { 0 } else { unsynced + bytes };
        if durable {
            progress.durable = applied.log_id;
        }
        progress.applied = applied;
        Ok(outcomes)
    }

    fn commit_applied(
        &self,
        transaction: redb::WriteTransaction,
        applied: &Applied,
    ) -> Result<(), StateError> {
        if active(Mutant::AppliedIndexApart) {
            self.commit(transaction)?;
            let later = self.begin(Durability::None)?;
            self.write_applied(&later, applied)?;
            return self.commit(later);
        }
        self.write_applied(&transaction, applied)?;
        self.commit(transaction)
    }

    fn write_applied(
        &self,
        transaction: &redb::WriteTransaction,
        applied: &Applied,
    ) -> Result<(), StateError> {
        let stored = encode(&StoredApplied((applied.log_id, applied.membership.clone())));
        let mut table = self.check(transaction.open_table(META))?;
        self.check(table.insert(APPLIED, &stored[..]))?;
        Ok(())
    }

    /// Makes everything applied so far durable and answers what that is.
    pub(crate) fn make_durable(&self) -> Result<Applied, StateError> {
        let transaction = self.begin(Durability::Immediate)?;
        // No apply can commit between here and the commit below: redb has one writer.
        let applied = self.applied();
        if self.durable() == applied.log_id {
            self.check(transaction.abort())?;
            return Ok(applied);
        }
        self.commit(transaction)?;
        let mut progress = self.progress();
        if progress.durable < applied.log_id {
            progress.durable = applied.log_id;
            progress.unsynced_bytes = 0;
        }
        Ok(applied)
    }

    /// A consistent view of the present.
    pub(crate) fn view(&self) -> Result<StateView, StateError> {
        let transaction = self.check(self.database.begin_read())?;
        let table = self.check(transaction.open_table(STATE))?;
        let meta = self.check(transaction.open_table(META))?;
        let applied = match self.check(meta.get(APPLIED))? {
            None => Applied::default(),
            Some(found) => {
                let StoredApplied((log_id, membership)) = decode(found.value())
                    .map_err(|error| StateError::Damaged(error.to_string()))?;
                Applied { log_id, membership }
            }
        };
        let health = Arc::clone(&self.health);
        Ok(StateView {
            reading: Reading { table, health },
            applied,
        })
    }

    /// Replaces the contents by those of the table `incoming`, durably, in one transaction.
    pub(super) fn replace(&self, applied: Applied) -> Result<(), StateError> {
        let transaction = self.begin(Durability::Immediate)?;
        self.check(transaction.delete_table(STATE))?;
        self.check(transaction.rename_table(INCOMING, STATE))?;
        self.commit_applied(transaction, &applied)?;
        let mut progress = self.progress();
        progress.durable = applied.log_id;
        progress.unsynced_bytes = 0;
        progress.applied = applied;
        Ok(())
    }
}

impl StateView {
    /// How many pairs it holds.
    pub(crate) fn length(&self) -> Result<u64, StateError> {
        self.reading
            .table
            .len()
            .map_err(|error| state_error(&self.reading.health, error))
    }
}

fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn apply_entry(
    entry: &Entry,
    applied: &mut Applied,
    update: &mut Writing<'_>,
    machine: &dyn Machine,
) -> Result<Outcomes, StateError> {
    let outcomes = match &entry.payload {
        EntryPayload::Blank => Bytes::new(),
        EntryPayload::Normal(batch) => machine.apply(update, entry.log_id.index, &batch.0)?,
        EntryPayload::Membership(membership) => {
            if active(Mutant::MembershipNotStored) {
                applied.log_id = Some(entry.log_id);
                return Ok(Outcomes(Bytes::new()));
            }
            applied.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            Bytes::new()
        }
    };
    applied.log_id = Some(entry.log_id);
    Ok(Outcomes(outcomes))
}
