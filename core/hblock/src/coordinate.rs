//! The chosen member's part in a write: append here, forward to the others, answer at W.
//!
//! Invariants: the own append and the forwards run at the same time and share one payload; the
//! answer is the verdict of [`Acknowledgements`]; what is still on its way then goes on, within
//! `late_bytes` and `forward_limit`, and is otherwise left to the shard's list of incomplete blobs.
//! The own append is never abandoned.
//! Does not: judge acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hedgerow_env::{BoxFuture, Generation, Instant, PlacementEpoch, StoreId, event};
use hedgerow_protocol::{
    BlobHeader, HBlockRefusal, HBlockReply, HBlockRequest, MemberState, WriteTarget,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::context::Context;
use crate::local::{Local, Storing};
use crate::ports::{Destination, MemberFault};
use crate::write::{Acknowledgements, TargetOutcome, Verdict};

/// Pauses between attempts at one member that was not reached: a broken connection is replaced
/// within milliseconds, and after the last one the feed takes over.
const FORWARD_PAUSES: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(200),
];

/// A write that this node's member was chosen for.
pub(crate) struct Write {
    pub(crate) header: BlobHeader,
    pub(crate) payload: Bytes,
    pub(crate) generation: Generation,
    pub(crate) epoch: PlacementEpoch,
    pub(crate) targets: Vec<WriteTarget>,
    pub(crate) write_quorum: u8,
    pub(crate) domains: Vec<u16>,
}

type Outcomes = FuturesUnordered<BoxFuture<'static, (usize, TargetOutcome)>>;

/// Begins a write; its answer arrives on the channel. Refuses at once what this member refuses.
pub(crate) fn begin(
    context: &Arc<Context>,
    local: &Arc<Local>,
    write: Write,
    answer_by: Instant,
    permit: OwnedSemaphorePermit,
) -> Result<oneshot::Receiver<HBlockReply>, HBlockRefusal> {
    let (own, counting) = check(local.id(), &write)?;
    let storing = local.begin_store(
        &write.header,
        &write.payload,
        write.generation,
        write.epoch,
        None,
    )?;
    let (sender, receiver) = oneshot::channel();
    let context = Arc::clone(context);
    let local = Arc::clone(local);
    let env = context.env.clone();
    env.spawn("hblock-write", async move {
        let bytes = write.header.payload_bytes();
        let outcomes = send(&context, &local, &write, own, storing);
        let (reply, outcomes) = decide(&context, counting, outcomes, answer_by).await;
        // The proxy may have gone; the copies are wanted all the same.
        let _gone = sender.send(reply);
        if outcomes.is_empty() {
            return;
        }
        let Some(_late) = context.late.take(bytes) else {
            let name = write.header.name;
            event!(
                context.env,
                Debug,
                "hblock",
                "late copies of {name} left to the feed"
            );
            return;
        };
        drop(permit);
        let rest: Vec<_> = outcomes.collect().await;
        drop(rest);
    });
    Ok(receiver)
}

/// The own target's index, and the count that begins.
fn check(own: StoreId, write: &Write) -> Result<(usize, Acknowledgements), HBlockRefusal> {
    let malformed = |reason: String| HBlockRefusal::Malformed { reason };
    let mut stores = Vec::with_capacity(write.targets.len());
    for target in &write.targets {
        if target.member.state == MemberState::Resting {
            let store = target.member.store;
            return Err(malformed(format!("{store} rests and takes no writes")));
        }
        stores.push(target.member.store);
    }
    let index = stores.iter().position(|store| *store == own);
    let index = index.ok_or_else(|| malformed(format!("{own} is no target")))?;
    let counting = Acknowledgements::new(&stores, &write.domains, write.write_quorum);
    Ok((index, counting.map_err(malformed)?))
}

/// Starts the own append and all forwards.
fn send(
    context: &Arc<Context>,
    local: &Arc<Local>,
    write: &Write,
    own: usize,
    storing: Storing,
) -> Outcomes {
    let outcomes = Outcomes::new();
    let local = Arc::clone(local);
    outcomes.push(Box::pin(async move {
        match local.finish_store(storing).await {
            Ok(()) => (own, TargetOutcome::Held),
            Err(refusal) => (own, TargetOutcome::Refused(refusal)),
        }
    }));
    for (index, target) in write.targets.iter().enumerate() {
        if index == own {
            continue;
        }
        let request = HBlockRequest::Store {
            store: target.member.store,
            header: write.header.clone(),
            generation: write.generation,
            epoch: write.epoch,
        };
        let forward = forward(
            Arc::clone(context),
            target.clone(),
            request,
            write.payload.clone(),
        );
        outcomes.push(Box::pin(async move { (index, forward.await) }));
    }
    outcomes
}

/// Offers the blob to one member until it answers or the limit passes.
async fn forward(
    context: Arc<Context>,
    target: WriteTarget,
    request: HBlockRequest,
    payload: Bytes,
) -> TargetOutcome {
    let deadline = context.env.now() + context.config.forward_limit;
    let mut pauses = FORWARD_PAUSES.iter();
    loop {
        let left = deadline.since(context.env.now());
        let to = Destination::Target(target.clone());
        let call = context
            .members
            .call(to, request.clone(), payload.clone(), left);
        let outcome = match call.await {
            Ok((HBlockReply::Stored, _)) => return TargetOutcome::Held,
            Ok((HBlockReply::Refused(refusal), _)) => TargetOutcome::Refused(refusal),
            Ok((reply, _)) => {
                let store = target.member.store;
                event!(
                    context.env,
                    Warn,
                    "hblock",
                    "{store}: unexpected answer {reply:?}"
                );
                return TargetOutcome::Unknown;
            }
            Err(MemberFault::Unreachable(_) | MemberFault::Unknown(_)) => TargetOutcome::Unknown,
        };
        let again = matches!(
            outcome,
            TargetOutcome::Unknown | TargetOutcome::Refused(HBlockRefusal::Busy { .. })
        );
        match pauses.next() {
            Some(pause) if again && context.env.now() + *pause < deadline => {
                context.env.sleep(*pause).await;
            }
            _ => return outcome,
        }
    }
}

/// Counts until there is a verdict; answers it with what is still under way.
async fn decide(
    context: &Context,
    mut counting: Acknowledgements,
    mut outcomes: Outcomes,
    answer_by: Instant,
) -> (HBlockReply, Outcomes) {
    let mut time_is_up = context.env.sleep_until(answer_by);
    loop {
        let verdict = match select(outcomes.next(), &mut time_is_up).await {
            Either::Left((Some((index, outcome)), _)) => counting.record(index, &outcome),
            Either::Left((None, _)) | Either::Right(((), _)) => counting.deadline(),
        };
        let reply = match verdict {
            None => continue,
            Some(Verdict::Written(acknowledged)) => HBlockReply::Written { acknowledged },
            Some(Verdict::TooFew(acknowledged)) => {
                HBlockReply::Refused(HBlockRefusal::TooFew { acknowledged })
            }
            Some(Verdict::NoRoom(acknowledged)) => {
                HBlockReply::Refused(HBlockRefusal::NoRoom { acknowledged })
            }
            Some(Verdict::Refused(refusal)) => HBlockReply::Refused(refusal),
        };
        return (reply, outcomes);
    }
}
