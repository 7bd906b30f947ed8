//! Comparing a store with what a shard counts it for: finds the copies that are silently missing.
//!
//! A store that reads a feed from its beginning is new there, or lost records whose names it does
//! not know. In the second case it lacks blobs that every other member takes it to hold, and nobody
//! would send them again.
//!
//! Invariants: a blob is listed for repair only when the shard counted this store as a holder and
//! it is not held; the list of wounds is never filled by this alone; the feed's position does not
//! become durable before the comparison is over, so that a restart begins it again.
//! Does not: fetch anything (the repair does, after it asked the shard).

use std::sync::Arc;
use std::time::Duration;

use hedgerow_env::{BlobName, GroupId, event};
use hedgerow_protocol::{HBlockRefusal, ShardReply, ShardRequest};

use crate::context::Context;
use crate::local::Local;
use crate::wounds::MAXIMUM_WOUNDS;

/// Pause after a question that was not answered, and while many wounds wait for their repair.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// With so many wounds listed the comparison waits: others need room in the list too.
const ENOUGH_WOUNDS: usize = MAXIMUM_WOUNDS / 2;

/// Compares all; returns when every blob was looked for, or the store has stopped.
pub(crate) async fn compare(context: Arc<Context>, local: Arc<Local>, group: GroupId) {
    let mut after: Option<BlobName> = None;
    let mut missing = 0_u64;
    while local.stopped().is_none() {
        let listed = local.wound_counters().damaged;
        let request = ShardRequest::Holdings {
            store: local.id(),
            after,
        };
        let timeout = context.config.shard_timeout;
        let page = if usize::try_from(listed).is_ok_and(|listed| listed < ENOUGH_WOUNDS) {
            context.shards.ask(group, request, timeout).await
        } else {
            context.env.sleep(RETRY_PAUSE).await;
            continue;
        };
        let Ok(ShardReply::Holdings { names, next }) = page else {
            context.env.sleep(RETRY_PAUSE).await;
            continue;
        };
        match look_for(&local, &names).await {
            Ok(count) => missing += count,
            // The store itself cannot tell now: the same page again.
            Err(_) => {
                context.env.sleep(RETRY_PAUSE).await;
                continue;
            }
        }
        let Some(next) = next else { break };
        after = Some(next);
        context.env.sleep(context.config.sweep_pause).await;
    }
    if missing > 0 {
        let store = local.id();
        event!(
            context.env,
            Warn,
            "hblock",
            "{store}: {missing} blobs that {group} counts it for were missing"
        );
    }
}

/// Lists what is not held for repair; how many.
async fn look_for(local: &Local, names: &[BlobName]) -> Result<u64, HBlockRefusal> {
    let mut missing = 0;
    for name in names {
        let known = local.is_wounded(*name) || !local.with_member(|member| member.wants(*name));
        if !known && !local.holds(*name).await? {
            local.wound(*name);
            missing += 1;
        }
    }
    Ok(missing)
}
