//! The Raft service: hands each message to the replica that it names. And the log service: hands
//! out entries by name, also of a replica that does not run because it waits for some itself.
//!
//! Invariants: a message for another member than the one that runs here is refused, so that neither
//! a wiped store nor a later replica of the group ever speaks for an earlier one.
//! Does not: decide anything about Raft.

use std::sync::Weak;

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BoxFuture, Instant, Phase};
use hedgerow_net::{Caller, Message, Refusal, RefusalCode, Service};
use hedgerow_protocol::{LOG_FETCH_ENTRIES_MAX, LogFetch, LogFetched, decode, encode};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;

use super::host::Shared;
use super::log::{Log, READ_BYTES_MAX};
use super::machine::SnapshotData;
use super::replica::Replica;
use super::staging::StagingError;
use super::types::{LogId, RaftMessage, RaftReply, RaftRequest, SnapshotMeta, Vote};

/// The service of one node.
pub(crate) struct RaftService(pub(crate) Weak<Shared>);

impl Service for RaftService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let host = self.0.clone();
        Box::pin(async move {
            let message = decode::<RaftMessage>(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            let host = host
                .upgrade()
                .ok_or_else(|| Refusal::new(RefusalCode::Stopping, "the node stops"))?;
            let (group, to) = (message.group, message.to);
            let replica = host.running(group).ok_or_else(|| {
                Refusal::new(RefusalCode::NotHere, format!("no replica of {group} here"))
            })?;
            if replica.me.member != to && !active(Mutant::MessageForFormerReplica) {
                let text = format!("{group} is {} here, not {to}", replica.me.member);
                return Err(Refusal::new(RefusalCode::NotMember, text));
            }
            drop(host);
            replica.quiet.stir(&replica.raft);
            let reply = answer(&replica, message.request).await?;
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }
}

/// The log stores of one node.
pub(crate) struct LogService(pub(crate) Weak<Shared>);

impl Service for LogService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let host = self.0.clone();
        Box::pin(async move {
            let request = decode::<LogFetch>(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            if request.wanted.len() > LOG_FETCH_ENTRIES_MAX {
                let text = format!("more than {LOG_FETCH_ENTRIES_MAX} entries");
                return Err(Refusal::new(RefusalCode::Malformed, text));
            }
            let host = host
                .upgrade()
                .ok_or_else(|| Refusal::new(RefusalCode::Stopping, "the node stops"))?;
            let group = request.group;
            let log = host.log(group).ok_or_else(|| {
                Refusal::new(RefusalCode::NotHere, format!("no log of {group} here"))
            })?;
            let runs = host.running(group).is_some();
            drop(host);
            let fetched = fetch(&log, runs, request).await;
            Ok(Message::new(encode(&fetched), Bytes::new()))
        })
    }
}

async fn fetch(log: &Log, runs: bool, request: LogFetch) -> LogFetched {
    let mut fetched = LogFetched {
        held: Vec::new(),
        complete: true,
        runs,
    };
    let mut bytes = 0;
    for name in request.wanted {
        if bytes >= READ_BYTES_MAX {
            fetched.complete = false;
            break;
        }
        if let Some(payload) = log.payload(&name).await {
            bytes += payload.len();
            fetched.held.push((name, payload));
        }
    }
    fetched
}

fn stopped(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Stopping, error.to_string())
}

async fn answer(replica: &Replica, request: RaftRequest) -> Result<RaftReply, Refusal> {
    let raft = &replica.raft;
    Ok(match request {
        RaftRequest::Append(request) => {
            RaftReply::Append(raft.append_entries(request).await.map_err(stopped)?)
        }
        RaftRequest::Vote(request) => RaftReply::Vote(raft.vote(request).await.map_err(stopped)?),
        RaftRequest::PreVote(request) => {
            RaftReply::Vote(raft.pre_vote(request).await.map_err(stopped)?)
        }
        RaftRequest::TransferLeader(request) => {
            let outcome = raft.handle_transfer_leader(request).await;
            RaftReply::Transferred(outcome.map_err(stopped)?)
        }
        RaftRequest::SnapshotBegin { snapshot } => {
            let staging = replica.state.staging.clone();
            let begun = replica
                .state
                .blocking(move |store| staging.begin(store, snapshot))
                .await;
            staged(begun.map(RaftReply::SnapshotHeld))?
        }
        RaftRequest::SnapshotChunk {
            snapshot,
            after,
            pairs,
        } => {
            let staging = replica.state.staging.clone();
            let added = replica
                .state
                .blocking(move |store| staging.add(store, snapshot, after.as_deref(), &pairs))
                .await;
            staged(added.map(RaftReply::SnapshotHeld))?
        }
        RaftRequest::SnapshotEnd { vote, meta, length } => {
            end_snapshot(replica, vote, *meta, length).await?
        }
    })
}

fn staged(outcome: Result<RaftReply, StagingError>) -> Result<RaftReply, Refusal> {
    match outcome {
        Ok(reply) => Ok(reply),
        Err(StagingError::Busy) => Ok(RaftReply::SnapshotBusy),
        Err(StagingError::OutOfStep) => Ok(RaftReply::SnapshotOutOfStep),
        Err(StagingError::State(error)) => {
            Err(Refusal::new(RefusalCode::Damaged, error.to_string()))
        }
    }
}

async fn end_snapshot(
    replica: &Replica,
    vote: Vote,
    meta: SnapshotMeta,
    length: u64,
) -> Result<RaftReply, Refusal> {
    let _phase = replica.state.env.phase(Phase::SnapshotInstall);
    let Some(snapshot): Option<LogId> = meta.last_log_id else {
        return Err(Refusal::new(
            RefusalCode::Malformed,
            "a snapshot of nothing",
        ));
    };
    // The end came again, for the first answer was lost; or the log brought all of it meanwhile.
    if replica.state.store.applied().log_id >= Some(snapshot) {
        let durable = replica.state.ensure_durable(snapshot).await;
        durable.map_err(stopped)?;
        let vote = replica.raft.metrics().borrow_watched().vote;
        return Ok(RaftReply::SnapshotEnded(SnapshotResponse::new(vote)));
    }
    let staging = replica.state.staging.clone();
    let sealed = replica
        .state
        .blocking(move |store| staging.seal(store, snapshot, length))
        .await;
    let staged_snapshot = match sealed {
        Ok(staged) => SnapshotData::Staged(staged),
        Err(error) => return staged(Err(error)),
    };
    let snapshot = Snapshot {
        meta,
        snapshot: staged_snapshot,
    };
    let installed = replica.raft.install_full_snapshot(vote, snapshot).await;
    Ok(RaftReply::SnapshotEnded(installed.map_err(stopped)?))
}
