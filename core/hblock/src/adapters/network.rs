//! RPC and groups behind the ports: encodes, decodes, finds addresses.
//!
//! Invariant: only a call of which no byte was sent is *unreachable*; everything else that brought
//! no answer is *unknown*.
//! Does not: retry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, ContainerId, GroupId, Instant};
use hedgerow_net::{
    CallError, Caller, Directory, GroupClient, Message, Peer, Refusal, RefusalCode, Rpc, Service,
    ServiceId,
};
use hedgerow_protocol::{
    HBlockReply, HBlockRequest, SERVICE_HBLOCK, ShardReply, ShardRequest, decode, encode,
};

use crate::HBlock;
use crate::hblock::WeakHBlock;
use crate::ports::{Destination, MemberFault, Members, ShardFault, Shards};

/// The other members, over RPC.
pub(crate) struct RpcMembers {
    rpc: Rpc,
    directory: Arc<Directory>,
}

impl RpcMembers {
    pub(crate) fn new(rpc: Rpc, directory: Arc<Directory>) -> Self {
        Self { rpc, directory }
    }

    fn peer(&self, to: Destination) -> Result<Peer, MemberFault> {
        match to {
            Destination::Store(store) => self
                .directory
                .peer_of_store(store)
                .ok_or_else(|| MemberFault::Unreachable(format!("{store} is not in the topology"))),
            Destination::Target(target) => {
                // The proxy's address, unless a newer one is known here.
                let node = target.member.node;
                let address = self.directory.address_of(node).unwrap_or(target.address);
                Ok(Peer::new(address, node))
            }
        }
    }
}

impl Members for RpcMembers {
    fn call(
        &self,
        to: Destination,
        request: HBlockRequest,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(HBlockReply, Bytes), MemberFault>> {
        let call = self.peer(to).map(|peer| {
            let message = Message::new(encode(&request), payload);
            self.rpc
                .call(&peer, ServiceId(SERVICE_HBLOCK), message, timeout)
        });
        Box::pin(async move {
            match call?.await {
                Ok(message) => match decode(&message.head) {
                    Ok(reply) => Ok((reply, message.payload)),
                    Err(error) => Err(MemberFault::Unknown(error.to_string())),
                },
                Err(error @ (CallError::Unreachable { .. } | CallError::Foreign { .. })) => {
                    Err(MemberFault::Unreachable(error.to_string()))
                }
                Err(error) => Err(MemberFault::Unknown(error.to_string())),
            }
        })
    }
}

/// The shards, through the group client.
pub(crate) struct GroupShards(GroupClient);

impl GroupShards {
    pub(crate) fn new(groups: GroupClient) -> Self {
        Self(groups)
    }
}

impl Shards for GroupShards {
    fn groups(&self) -> Vec<GroupId> {
        self.0.directory().shards()
    }

    fn shard_of(&self, container: ContainerId) -> Option<GroupId> {
        self.0.directory().shard_of(container)
    }

    fn ask(
        &self,
        group: GroupId,
        request: ShardRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ShardReply, ShardFault>> {
        let groups = self.0.clone();
        Box::pin(async move {
            let reply = groups.shard(group, request, timeout).await;
            reply.map_err(|error| ShardFault(error.to_string()))
        })
    }
}

/// Serves an HBlock. RPC keeps services for ever, so it holds the HBlock weakly.
pub(crate) struct HBlockService(WeakHBlock);

impl HBlockService {
    pub(crate) fn new(hblock: &HBlock) -> Self {
        Self(hblock.downgrade())
    }
}

impl Service for HBlockService {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let hblock = self.0.upgrade();
        Box::pin(async move {
            let Some(hblock) = hblock else {
                return Err(Refusal::new(RefusalCode::Stopping, "HBlock has ended"));
            };
            let decoded = decode::<HBlockRequest>(&request.head);
            let body =
                decoded.map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            let (reply, payload) = hblock.answer(body, request.payload, deadline).await;
            Ok(Message::new(encode(&reply), payload))
        })
    }
}
