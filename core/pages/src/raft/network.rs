//! openraft's network over RPC: one client for each replica that a replica talks to.
//!
//! Invariants: every call has a deadline of the node's clock; what was surely not sent is
//! *unreachable*, everything else that failed is a network error or time-out, of which openraft
//! concludes nothing; a message reaches the member that it names or nobody.
//! Snapshots go in chunks, one after the other, each answered with the key up to which pairs are
//! held, so that a transfer goes on where it broke.
//! Does not: retry single calls (openraft does), or look up addresses (the membership has them,
//! and the [`Addresses`] port the newest).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use hedgerow_env::{Env, GroupId, Phase};
use hedgerow_net::{CallError, CallOptions, Message, Peer, RefusalCode, Rpc, ServiceId};
use hedgerow_protocol::{GroupMember, MemberId, SERVICE_RAFT, decode, encode};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use super::machine::{SnapshotData, TypedSnapshot};
use super::store::StateView;
use super::types::{LogId, RaftMessage, RaftReply, RaftRequest, SnapshotMeta, Types, Vote};
use crate::View;
use crate::state::Pair;

/// Bytes of pairs in one chunk of a snapshot, as long as single pairs allow it.
const CHUNK_BYTES: usize = 256 << 10;
/// Pairs read from the view at once while a chunk is filled.
const CHUNK_PAIRS: usize = 1024;
/// For one chunk: the receiver writes it to its state.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last step: the receiver makes the whole snapshot durable. It is asked again and again
/// meanwhile, for an answer may be lost.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait while the receiver installs a snapshot.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// How long to wait with a replica that refused the same entries twice.
const STUCK_PAUSE: Duration = Duration::from_millis(200);
/// Times that a transfer begins again before the replica is given up as unreachable for now.
const TRANSFER_ATTEMPTS: usize = 5;

/// Where a member's node listens now; `None` means where its membership entry says.
pub type Addresses = Arc<dyn Fn(&GroupMember) -> Option<String> + Send + Sync>;

/// Makes the clients of one replica.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) env: Env,
    pub(crate) rpc: Rpc,
    pub(crate) addresses: Addresses,
    pub(crate) append_timeout: Duration,
    pub(crate) group: GroupId,
    pub(crate) member: MemberId,
}

/// The client of one replica for another.
pub(crate) struct Client {
    network: Network,
    target: GroupMember,
    /// The entry that the other lacked when it was last sent what follows that entry.
    lacking: Option<LogId>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: MemberId, node: &GroupMember) -> Client {
        debug_assert_eq!(target, node.member, "a membership maps a member to itself");
        Client {
            network: self.clone(),
            target: node.clone(),
            lacking: None,
        }
    }
}

/// Why a call to another replica gave no reply.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0}")]
    Reply(String),
}

impl Failure {
    fn into_rpc_error(self) -> RPCError<Types> {
        match &self {
            // Nobody there, or nobody who knows the group: openraft backs off.
            Self::Call(CallError::Unreachable { .. } | CallError::Foreign { .. }) => {
                RPCError::Unreachable(Unreachable::new(&self))
            }
            Self::Call(CallError::Refused(refusal)) if refusal.code != RefusalCode::Overloaded => {
                RPCError::Unreachable(Unreachable::new(&self))
            }
            _ => RPCError::Network(NetworkError::new(&self)),
        }
    }
}

impl Client {
    fn peer(&self) -> Peer {
        let address = (self.network.addresses)(&self.target);
        let address = address.unwrap_or_else(|| self.target.address.clone());
        Peer::new(address, self.target.node)
    }

    async fn call(&self, request: RaftRequest, options: CallOptions) -> Result<RaftReply, Failure> {
        let message = RaftMessage {
            group: self.network.group,
            from: self.network.member,
            to: self.target.member,
            request,
        };
        let request = Message::new(encode(&message), Bytes::new());
        let service = ServiceId(SERVICE_RAFT);
        let rpc = &self.network.rpc;
        let reply = rpc
            .call_with(&self.peer(), service, request, options)
            .await?;
        decode(&reply.head).map_err(|error| Failure::Reply(error.to_string()))
    }

    /// A small, urgent call within openraft's own time limit.
    async fn urgent(
        &self,
        action: RPCTypes,
        request: RaftRequest,
        option: &RPCOption,
    ) -> Result<RaftReply, RPCError<Types>> {
        self.within(action, request, CallOptions::urgent(option.soft_ttl()))
            .await
    }

    async fn within(
        &self,
        action: RPCTypes,
        request: RaftRequest,
        options: CallOptions,
    ) -> Result<RaftReply, RPCError<Types>> {
        let timeout = options.timeout;
        let call = self.call(request, options);
        // RPC keeps the deadline, too; this one holds even where RPC waits for a connection.
        match self.network.env.timeout(timeout, call).await {
            Ok(outcome) => outcome.map_err(Failure::into_rpc_error),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.network.member,
                target: self.target.member,
                timeout,
            })),
        }
    }
}

impl Client {
    /// A replica that lacks what it had confirmed (its store was rolled back, and nobody has told
    /// it yet) refuses the same entries for ever, and openraft sends them again at once.
    async fn pause_if_stuck(
        &mut self,
        after: Option<LogId>,
        response: &AppendEntriesResponse<Types>,
    ) {
        let refused = matches!(response, AppendEntriesResponse::Conflict);
        let lacking = if refused { after } else { None };
        if lacking.is_some() && lacking == self.lacking {
            self.network.env.sleep(STUCK_PAUSE).await;
        }
        self.lacking = lacking;
    }
}

fn unexpected(reply: &RaftReply) -> RPCError<Types> {
    let failure = Failure::Reply(format!("a reply to another question: {reply:?}"));
    RPCError::Network(NetworkError::new(&failure))
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // Entries take the data lane, so that they never delay anybody's heartbeats.
        let options = if request.entries.is_empty() {
            CallOptions::urgent(option.soft_ttl())
        } else {
            CallOptions::within(self.network.append_timeout)
        };
        let after = request.prev_log_id;
        let request = RaftRequest::Append(request);
        match self
            .within(RPCTypes::AppendEntries, request, options)
            .await?
        {
            RaftReply::Append(response) => {
                self.pause_if_stuck(after, &response).await;
                Ok(response)
            }
            reply => Err(unexpected(&reply)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self
            .urgent(RPCTypes::Vote, RaftRequest::Vote(request), &option)
            .await?
        {
            RaftReply::Vote(response) => Ok(response),
            reply => Err(unexpected(&reply)),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self
            .urgent(RPCTypes::Vote, RaftRequest::PreVote(request), &option)
            .await?
        {
            RaftReply::Vote(response) => Ok(response),
            reply => Err(unexpected(&reply)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<openraft::raft::TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = RaftRequest::TransferLeader(request);
        match self
            .urgent(RPCTypes::TransferLeader, request, &option)
            .await?
        {
            RaftReply::Transferred(response) => Ok(response),
            reply => Err(unexpected(&reply)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: TypedSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = std::pin::pin!(self.send_snapshot(vote, snapshot));
        let cancel = std::pin::pin!(cancel);
        match select(cancel, sending).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((outcome, _)) => outcome.map_err(StreamingError::from),
        }
    }
}

/// A snapshot that is being sent.
struct Sending {
    id: LogId,
    vote: Vote,
    meta: SnapshotMeta,
    view: Arc<StateView>,
    length: u64,
}

/// How one pass over a snapshot ended.
enum Pass {
    Done(SnapshotResponse<Types>),
    Again,
}

impl Client {
    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: TypedSnapshot,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let _phase = self.network.env.phase(Phase::SnapshotSend);
        let local = |text: String| RPCError::Network(NetworkError::from_string(text));
        let SnapshotData::View(view) = snapshot.snapshot else {
            return Err(local(
                "a received snapshot is installed, not sent".to_owned(),
            ));
        };
        let Some(id) = snapshot.meta.last_log_id else {
            return Err(local("a snapshot of nothing is never sent".to_owned()));
        };
        let view: Arc<StateView> = Arc::from(view);
        let counted = Arc::clone(&view);
        let length = self
            .network
            .env
            .blocking("pages-snapshot", move || counted.length())
            .await
            .map_err(|error| local(error.to_string()))?;
        let sending = Sending {
            id,
            vote,
            meta: snapshot.meta,
            view,
            length,
        };
        for _ in 0..TRANSFER_ATTEMPTS {
            if let Pass::Done(response) = self.pass(&sending).await? {
                return Ok(response);
            }
        }
        let text = format!(
            "{} refused {TRANSFER_ATTEMPTS} transfers",
            self.target.member
        );
        Err(RPCError::Unreachable(Unreachable::from_string(text)))
    }

    /// Sends what the receiver lacks, then the end.
    async fn pass(&self, sending: &Sending) -> Result<Pass, RPCError<Types>> {
        let snapshot = sending.id;
        let begin = RaftRequest::SnapshotBegin { snapshot };
        let mut held = match self.chunk_call(begin, CHUNK_TIMEOUT).await? {
            RaftReply::SnapshotHeld(held) => held,
            reply => return self.step_again(&reply).await,
        };
        loop {
            let pairs = self.next_pairs(sending, held.clone()).await?;
            if pairs.is_empty() {
                break;
            }
            let chunk = RaftRequest::SnapshotChunk {
                snapshot,
                after: held.clone(),
                pairs,
            };
            held = match self.chunk_call(chunk, CHUNK_TIMEOUT).await? {
                RaftReply::SnapshotHeld(now) if now > held => now,
                reply => return self.step_again(&reply).await,
            };
        }
        self.end(sending).await
    }

    /// Says that all was sent, until the receiver says that it has installed it.
    async fn end(&self, sending: &Sending) -> Result<Pass, RPCError<Types>> {
        let env = &self.network.env;
        let give_up = env.now() + INSTALL_TIMEOUT;
        loop {
            let end = RaftRequest::SnapshotEnd {
                vote: sending.vote,
                meta: Box::new(sending.meta.clone()),
                length: sending.length,
            };
            let reply = self.chunk_call(end, CHUNK_TIMEOUT).await;
            let may_go_on = env.now() < give_up;
            match reply {
                Ok(RaftReply::SnapshotEnded(response)) => return Ok(Pass::Done(response)),
                Ok(RaftReply::SnapshotBusy) | Err(RPCError::Network(_) | RPCError::Timeout(_))
                    if may_go_on =>
                {
                    env.sleep(BUSY_PAUSE).await;
                }
                Ok(reply) => return self.step_again(&reply).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn step_again(&self, reply: &RaftReply) -> Result<Pass, RPCError<Types>> {
        match reply {
            RaftReply::SnapshotBusy => {
                self.network.env.sleep(BUSY_PAUSE).await;
                Ok(Pass::Again)
            }
            RaftReply::SnapshotOutOfStep | RaftReply::SnapshotHeld(_) => Ok(Pass::Again),
            reply => Err(unexpected(reply)),
        }
    }

    async fn chunk_call(
        &self,
        request: RaftRequest,
        timeout: Duration,
    ) -> Result<RaftReply, RPCError<Types>> {
        let options = CallOptions::within(timeout);
        self.within(RPCTypes::InstallSnapshot, request, options)
            .await
    }

    /// The pairs after `held`, about [`CHUNK_BYTES`] of them.
    async fn next_pairs(
        &self,
        sending: &Sending,
        held: Option<Vec<u8>>,
    ) -> Result<Vec<Pair>, RPCError<Types>> {
        let view = Arc::clone(&sending.view);
        let read = move || pairs_after(&view.reading, held);
        let pairs = self.network.env.blocking("pages-snapshot", read).await;
        pairs.map_err(|error| RPCError::Network(NetworkError::new(&error)))
    }
}

/// Beyond every key: keys of the state are shorter than this and begin with a table kind.
const AFTER_ALL_KEYS: [u8; 64] = [0xff; 64];

fn pairs_after(view: &dyn View, held: Option<Vec<u8>>) -> Result<Vec<Pair>, crate::StateError> {
    let mut from = held.map_or_else(Vec::new, successor);
    let mut pairs: Vec<Pair> = Vec::new();
    let mut bytes = 0;
    loop {
        let some = view.scan(&from, &AFTER_ALL_KEYS, CHUNK_PAIRS)?;
        let finished = some.len() < CHUNK_PAIRS;
        for (key, value) in some {
            bytes += key.len() + value.len();
            pairs.push((key, value));
            if bytes >= CHUNK_BYTES {
                return Ok(pairs);
            }
        }
        match pairs.last() {
            Some((key, _)) if !finished => from = successor(key.clone()),
            _ => return Ok(pairs),
        }
    }
}

/// The least key above `key`.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
