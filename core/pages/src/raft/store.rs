//! One replica's state: redb's tables, with the last applied log id in the same transaction.
//!
//! Invariants: state and last applied log id and membership change in one transaction, an entry is
//! applied once and in order; what [`StateStore::durable`] says survives any crash; a snapshot is
//! installed in one durable transaction; once a call failed every later one fails.
//! Applied entries gather in one open transaction: a commit for each would cost more than applying it,
//! and nothing is lost with the transaction that a commit without a sync would keep. It is committed
//! when somebody wants to see the state, which followers are rarely asked for, and when it is made
//! durable: before purge, at each snapshot, and after [`UNSYNCED_BYTES_MAX`].
//! Does not: run on async threads: every call here blocks and belongs into [`Env::blocking`].

use std::sync::{Arc, Mutex, MutexGuard};

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
/// the bound keeps the file and a restart's replay short, and the open transaction in memory.
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

/// What redb's one writer is doing. Locked before [`Progress`].
#[derive(Default)]
struct Writer {
    /// Holds the entries applied since the last commit; none if there are none.
    open: Option<redb::WriteTransaction>,
    /// What a call failed with. The entries in the transaction that was open then are gone from
    /// here, though not from the log, and readers must not go back behind them.
    failed: Option<StateError>,
}

/// The state of one replica.
pub(crate) struct StateStore {
    // Dropped before the database.
    writer: Mutex<Writer>,
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
            writer: Mutex::default(),
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
        self.alone(Durability::Immediate, |transaction| {
            self.check(transaction.open_table(STATE))?;
            self.check(transaction.open_table(META))?;
            self.check(transaction.delete_table(INCOMING))?;
            Ok(())
        })?;
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

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic under this lock")
    }

    /// Does `act` as the only writer; once something failed, nothing.
    fn write<T>(
        &self,
        act: impl FnOnce(&mut Writer) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let mut writer = self.writer.lock().expect("no panic under this lock");
        if let Some(error) = &writer.failed {
            return Err(error.clone());
        }
        let outcome = act(&mut writer);
        if let Err(error) = &outcome {
            writer.failed = Some(error.clone());
            writer.open = None;
        }
        outcome
    }

    /// Commits what `act` does in a transaction of its own.
    pub(super) fn alone<T>(
        &self,
        durability: Durability,
        act: impl FnOnce(&redb::WriteTransaction) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.write(|writer| {
            self.commit_open(writer, Durability::None)?;
            let transaction = self.begin(durability)?;
            let value = act(&transaction)?;
            self.commit(transaction)?;
            Ok(value)
        })
    }

    /// For those who hold the writer, with no transaction open.
    fn begin(&self, durability: Durability) -> Result<redb::WriteTransaction, StateError> {
        let mut transaction = self.check(self.database.begin_write())?;
        self.set_durability(&mut transaction, durability)?;
        Ok(transaction)
    }

    fn set_durability(
        &self,
        transaction: &mut redb::WriteTransaction,
        durability: Durability,
    ) -> Result<(), StateError> {
        // A durable commit also records which pages are free: opening after a crash then need not
        // walk the file.
        transaction.set_quick_repair(matches!(durability, Durability::Immediate));
        self.check(transaction.set_durability(durability))
    }

    fn commit(&self, transaction: redb::WriteTransaction) -> Result<(), StateError> {
        self.check(transaction.commit())
    }

    /// Commits the open transaction, if there is one.
    fn commit_open(&self, writer: &mut Writer, durability: Durability) -> Result<(), StateError> {
        let Some(mut transaction) = writer.open.take() else {
            return Ok(());
        };
        self.set_durability(&mut transaction, durability)?;
        self.commit_applied(transaction, &self.applied())
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

    /// Applies `entries`, which follow what was applied; answers in order.
    pub(crate) fn apply(
        &self,
        entries: &[Entry],
        machine: &dyn Machine,
    ) -> Result<Vec<Outcomes>, StateError> {
        self.write(|writer| {
            let transaction = match writer.open.take() {
                Some(transaction) => transaction,
                None => self.begin(Durability::None)?,
            };
            let mut applied = self.applied();
            let outcomes = self.apply_in(&transaction, entries, &mut applied, machine)?;
            writer.open = Some(transaction);
            let bytes = entries.iter().map(payload_bytes).sum::<usize>();
            let unsynced_bytes = {
                let mut progress = self.progress();
                progress.applied = applied;
                progress.unsynced_bytes += bytes;
                progress.unsynced_bytes
            };
            if unsynced_bytes > UNSYNCED_BYTES_MAX {
                self.commit_durably(writer)?;
            }
            Ok(outcomes)
        })
    }

    fn apply_in(
        &self,
        transaction: &redb::WriteTransaction,
        entries: &[Entry],
        applied: &mut Applied,
        machine: &dyn Machine,
    ) -> Result<Vec<Outcomes>, StateError> {
        let mut update = Writing {
            table: self.check(transaction.open_table(STATE))?,
            health: &self.health,
        };
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            assert!(
                applied.log_id < Some(entry.log_id),
                "an entry is applied once, in order: {} after {:?}",
                entry.log_id,
                applied.log_id
            );
            outcomes.push(apply_entry(entry, applied, &mut update, machine)?);
        }
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
        self.write(|writer| {
            let applied = self.applied();
            if self.durable() != applied.log_id {
                self.commit_durably(writer)?;
            }
            Ok(applied)
        })
    }

    fn commit_durably(&self, writer: &mut Writer) -> Result<(), StateError> {
        if writer.open.is_none() {
            // What was committed without a sync becomes durable with the next that has one.
            writer.open = Some(self.begin(Durability::Immediate)?);
        }
        self.commit_open(writer, Durability::Immediate)?;
        let mut progress = self.progress();
        progress.durable = progress.applied.log_id;
        progress.unsynced_bytes = 0;
        Ok(())
    }

    /// A consistent view of the present.
    pub(crate) fn view(&self) -> Result<StateView, StateError> {
        self.write(|writer| {
            self.commit_open(writer, Durability::None)?;
            let transaction = self.check(self.database.begin_read())?;
            let table = self.check(transaction.open_table(STATE))?;
            let health = Arc::clone(&self.health);
            Ok(StateView {
                reading: Reading { table, health },
                applied: self.applied(),
            })
        })
    }

    /// Replaces the contents by those of the table `incoming`, durably, in one transaction.
    pub(super) fn replace(&self, applied: Applied) -> Result<(), StateError> {
        self.write(|writer| {
            // What is open concerns what is replaced.
            writer.open = None;
            let transaction = self.begin(Durability::Immediate)?;
            self.check(transaction.delete_table(STATE))?;
            self.check(transaction.rename_table(INCOMING, STATE))?;
            self.commit_applied(transaction, &applied)?;
            let mut progress = self.progress();
            progress.durable = applied.log_id;
            progress.unsynced_bytes = 0;
            progress.applied = applied;
            Ok(())
        })
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
