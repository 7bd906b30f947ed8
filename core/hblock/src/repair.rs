//! Repair of damaged copies: fetch a sound one from another member, write it in place.
//!
//! Invariants: a copy is replaced only by bytes whose every unit has its digest, and whose header
//! is that of the damaged copy where that can still be read; nothing is fetched for a name that its
//! shard does not call live; nothing is deleted but what its shard calls collected.
//! Does not: find damage (readers and the scrub do).

use std::sync::Arc;

use futures_util::future::{Either, select};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, Phase, StoreId, event};
use hedgerow_protocol::{HBlockRefusal, NameState};

use crate::context::Context;
use crate::local::Local;

/// Repairs the copies of one store, one at a time, for as long as the task lives.
pub(crate) async fn run(context: Arc<Context>, local: Arc<Local>) {
    loop {
        let now = context.env.now();
        if let Some(name) = local.with_wounds(|wounds| wounds.next(now)) {
            repair(&context, &local, name).await;
            continue;
        }
        let wounded = std::pin::pin!(local.wounded());
        match local.with_wounds(|wounds| wounds.wake_at()) {
            Some(wake_at) => match select(wounded, context.env.sleep_until(wake_at)).await {
                Either::Left(_) | Either::Right(_) => {}
            },
            None => wounded.await,
        }
    }
}

/// Settles one damaged copy, or leaves it listed for a later attempt.
async fn repair(context: &Context, local: &Arc<Local>, name: BlobName) {
    let _phase = context.env.phase(Phase::Repair);
    let missing = match local.read_blob(name).await {
        Ok(_) => {
            local.with_wounds(|wounds| wounds.settled(name));
            return;
        }
        Err(HBlockRefusal::Damaged) => false,
        Err(HBlockRefusal::Missing) if !local.with_member(|member| member.wants(name)) => {
            // Collected, or its container was retired here since: nothing is missing.
            local.with_wounds(|wounds| wounds.settled(name));
            return;
        }
        Err(HBlockRefusal::Missing) => true,
        Err(_) => return,
    };
    let states = context.name_states(local.id(), &[name]).await;
    match states.as_deref() {
        Some([NameState::Collected]) => {
            // The feed tells of it too; whichever comes first frees the space.
            let _later = local.delete(vec![name]).await;
            return;
        }
        Some([NameState::Live]) => {}
        Some([NameState::Pending]) if !missing => {}
        Some([NameState::Unknown]) if missing => {
            local.with_wounds(|wounds| wounds.settled(name));
            return;
        }
        // Pending and missing: if it is committed it is wanted, and if not it is collected. Without
        // an answer nothing is known. Either way it stays listed.
        _ => return,
    }
    let sources = sources(local, name);
    let Some((header, payload)) = context.fetch(name, &sources).await else {
        event!(
            context.env,
            Debug,
            "hblock",
            "no sound copy of {name} found yet"
        );
        return;
    };
    if active(Mutant::RepairSettlesUnwritten) {
        local.with_wounds(|wounds| wounds.repaired(name));
        return;
    }
    let bytes = header.payload_bytes();
    match local.store_copy(header, payload).await {
        Ok(true) => {
            local.with_wounds(|wounds| wounds.settled(name));
            let store = local.id();
            event!(
                context.env,
                Info,
                "hblock",
                "{store}: repaired {name}, {bytes} bytes"
            );
        }
        // Under way by another hand, or not wanted any more.
        Ok(false) => {}
        Err(refusal) => {
            event!(context.env, Warn, "hblock", "repair of {name}: {refusal}");
        }
    }
}

/// The other members of the blob's container, as the shard last told.
fn sources(local: &Local, name: BlobName) -> Vec<StoreId> {
    let own = local.id();
    let mut members = local.with_member(|member| {
        member
            .record(name.container)
            .map(|record| record.members.clone())
            .unwrap_or_default()
    });
    members.retain(|store| *store != own);
    members
}
