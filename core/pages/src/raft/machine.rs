//! openraft's state machine over a replica's [`StateStore`] and its group's [`Machine`].
//!
//! The state is its own snapshot: building one is a durable commit, sending one reads a consistent
//! view of the present.
//!
//! Invariants: responders answer after their entry was applied, which the Raft log of a quorum holds
//! by then; whoever reads the state sees it, for a view commits first. A snapshot is reported built
//! only when what it covers is durable.
//! Does not: touch redb outside [`Env::blocking`].

use std::io;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{Env, Phase, event};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::staging::{Staged, Staging};
use super::store::{Applied, StateStore, StateView};
use super::types::{Entry, LogId, SnapshotMeta, StoredMembership, Types};
use crate::{Machine, StateError};

/// Entries applied in one call: enough to spread its cost, few enough that answers do not
/// wait long for their neighbours.
const APPLY_ENTRIES_MAX: usize = 256;
/// Bytes of batches applied in one call.
const APPLY_BYTES_MAX: usize = 1 << 20;

/// A snapshot's contents.
pub(crate) enum SnapshotData {
    /// A view to send from.
    View(Box<StateView>),
    /// Received completely, to be installed.
    Staged(Staged),
}

pub(crate) type TypedSnapshot = openraft::alias::SnapshotOf<Types, SnapshotData>;

/// A replica's state as async code sees it; a cheap handle.
#[derive(Clone)]
pub(crate) struct StateHandle {
    pub(crate) env: Env,
    pub(crate) store: Arc<StateStore>,
    pub(crate) staging: Arc<Staging>,
    machine: Arc<dyn Machine>,
}

impl StateHandle {
    /// A handle on `store`, whose entries `machine` applies.
    pub(crate) fn new(env: Env, store: StateStore, machine: Arc<dyn Machine>) -> Self {
        Self {
            env,
            store: Arc::new(store),
            staging: Arc::default(),
            machine,
        }
    }

    /// What applies the group's entries.
    pub(crate) fn machine(&self) -> Arc<dyn Machine> {
        Arc::clone(&self.machine)
    }

    /// Runs a blocking job on the store.
    pub(crate) async fn blocking<T, J>(&self, job: J) -> T
    where
        T: Send + 'static,
        J: FnOnce(&StateStore) -> T + Send + 'static,
    {
        let store = Arc::clone(&self.store);
        self.env.blocking("pages-state", move || job(&store)).await
    }

    /// Returns once everything up to `upto` survives any crash.
    pub(crate) async fn ensure_durable(&self, upto: LogId) -> io::Result<()> {
        let _phase = self.env.phase(Phase::Checkpoint);
        if self.store.durable() >= Some(upto) {
            return Ok(());
        }
        let applied = self.blocking(StateStore::make_durable).await;
        let applied = applied.map_err(|error| self.failed(error))?;
        if applied.log_id < Some(upto) {
            let text = format!("purge to {upto} ahead of the state at {:?}", applied.log_id);
            return Err(io::Error::other(text));
        }
        Ok(())
    }

    fn failed(&self, error: StateError) -> io::Error {
        event!(self.env, Error, "raft", "{error}");
        io::Error::other(error)
    }

    async fn apply_some(
        &self,
        mut entries: Vec<Entry>,
        responders: Vec<Option<ApplyResponder<Types>>>,
    ) -> io::Result<()> {
        let follows = responders.iter().all(Option::is_none);
        if active(Mutant::CatchUpDropsAnEntry)
            && follows
            && let [_, .., last] = &mut entries[..]
            && matches!(last.payload, EntryPayload::Normal(_))
        {
            last.payload = EntryPayload::Blank;
        }
        let machine = Arc::clone(&self.machine);
        let applied = self
            .blocking(move |store| store.apply(&entries, &*machine))
            .await
            .map_err(|error| self.failed(error))?;
        for (responder, outcomes) in responders.into_iter().zip(applied) {
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        Ok(())
    }

    async fn snapshot_of_present(&self) -> io::Result<Option<TypedSnapshot>> {
        let view = self.blocking(StateStore::view).await;
        let view = view.map_err(|error| self.failed(error))?;
        if view.applied.log_id.is_none() {
            return Ok(None);
        }
        Ok(Some(Snapshot {
            meta: meta_of(&view.applied),
            snapshot: SnapshotData::View(Box::new(view)),
        }))
    }
}

fn meta_of(applied: &Applied) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: applied.log_id,
        last_membership: applied.membership.clone(),
    }
}

fn bytes_of(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl RaftStateMachine<Types> for StateHandle {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.store.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut pending = Vec::new();
        let mut responders = Vec::new();
        let mut bytes = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            bytes += bytes_of(&entry);
            pending.push(entry);
            responders.push(responder);
            if pending.len() >= APPLY_ENTRIES_MAX || bytes >= APPLY_BYTES_MAX {
                let (full, answered) = (
                    std::mem::take(&mut pending),
                    std::mem::take(&mut responders),
                );
                self.apply_some(full, answered).await?;
                bytes = 0;
            }
        }
        if pending.is_empty() {
            return Ok(());
        }
        self.apply_some(pending, responders).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let SnapshotData::Staged(staged) = snapshot else {
            return Err(io::Error::other(
                "a view of a state is not installed anywhere",
            ));
        };
        let meta = meta.clone();
        self.blocking(move |store| staged.install(store, &meta))
            .await
            .map_err(|error| self.failed(error))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<TypedSnapshot>> {
        self.snapshot_of_present().await
    }
}

impl RaftSnapshotBuilder<Types> for StateHandle {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<TypedSnapshot> {
        let _phase = self.env.phase(Phase::Checkpoint);
        let built = self
            .blocking(|store| {
                if active(Mutant::PurgePastDurable) {
                    return Ok((store.applied(), store.view()?));
                }
                let applied = store.make_durable()?;
                Ok((applied, store.view()?))
            })
            .await
            .map_err(|error| self.failed(error))?;
        let (applied, view) = built;
        Ok(Snapshot {
            // The view may be newer; what is durable decides what may be purged.
            meta: meta_of(&applied),
            snapshot: SnapshotData::View(Box::new(view)),
        })
    }
}
