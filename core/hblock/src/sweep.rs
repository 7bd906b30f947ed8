//! Name reconciliation: asks the shards what became of the blobs that a store holds.
//!
//! A blob whose write was given up may never be named by its shard's feed. A slow sweep over all
//! names finds it.
//!
//! Invariants: a sweep proposes, the shard decides: only what it calls collected is deleted; what
//! it does not know is kept, counted, and named in the log.
//! Does not: hurry.

use std::sync::Arc;

use futures_util::future::{Either, select};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, event};
use hedgerow_protocol::{MAXIMUM_NAMES, NameState};

use crate::context::Context;
use crate::local::Local;

/// What to do with a name after its shard answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays.
    Keep,
    /// It is freed.
    Delete,
    /// It stays, and is counted as unexplained.
    Quarantine,
}

/// The fate of a name, by what its shard said of it.
pub(crate) fn fate(state: NameState) -> Fate {
    match state {
        // A pending name may yet be committed: a later sweep asks again.
        NameState::Pending if active(Mutant::PendingNameDeleted) => Fate::Delete,
        NameState::Live | NameState::Pending => Fate::Keep,
        NameState::Collected => Fate::Delete,
        NameState::Unknown => Fate::Quarantine,
    }
}

/// The first names of the list that share a container: one question to one shard.
pub(crate) fn same_container(names: &[BlobName]) -> &[BlobName] {
    let first = names.first().map(|name| name.container);
    let end = names
        .iter()
        .position(|name| Some(name.container) != first)
        .unwrap_or(names.len());
    &names[..end]
}

/// Sweeps over one store again and again, for as long as the task lives.
pub(crate) async fn run(context: Arc<Context>, local: Arc<Local>) {
    loop {
        let wanted = std::pin::pin!(local.sweep_wanted());
        let due = context.env.sleep(context.config.sweep_interval);
        match select(wanted, due).await {
            Either::Left(_) | Either::Right(_) => {}
        }
        sweep(&context, &local).await;
    }
}

async fn sweep(context: &Context, local: &Local) {
    let mut after = None;
    let mut freed = 0_usize;
    loop {
        let names = local.store().names(after, MAXIMUM_NAMES);
        let asked = same_container(&names);
        let Some(last) = asked.last() else { break };
        after = Some(*last);
        if let Some(states) = context.name_states(local.id(), asked).await {
            freed += settle(local, asked, &states).await;
        }
        context.env.sleep(context.config.sweep_pause).await;
    }
    if freed > 0 {
        let store = local.id();
        event!(
            context.env,
            Info,
            "hblock",
            "{store}: a sweep freed {freed} blobs"
        );
    }
}

/// Acts on the answers; how many blobs were freed.
pub(crate) async fn settle(local: &Local, names: &[BlobName], states: &[NameState]) -> usize {
    let mut free = Vec::new();
    for (name, state) in names.iter().zip(states) {
        match fate(*state) {
            Fate::Keep => local.release(*name),
            Fate::Delete => free.push(*name),
            Fate::Quarantine => local.quarantine(*name),
        }
    }
    let count = free.len();
    if free.is_empty() || local.delete(free).await.is_err() {
        return 0;
    }
    count
}
