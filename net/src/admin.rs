//! Asking a node as an administrator does, from outside the cluster: the command line and tests.
//!
//! Does not: try again, or choose a node; the caller knows whether asking twice is harmless.

use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, NodeId};
use hedgerow_protocol::{AdminReply, AdminRequest, CodecError, SERVICE_ADMIN, decode, encode};

use crate::{CallError, Identity, Message, NetError, Peer, RoleSet, Rpc, RpcConfig, ServiceId};

/// A node answers sooner, if only that it is still at work: it asks groups for 5 s at a time, and a
/// work for 8 s.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// There was no answer; unless the node was unreachable, the outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer is of another version, or damaged.
    #[error("the answer: {0}")]
    Answer(#[from] CodecError),
}

/// The RPC of a client that belongs to no cluster.
///
/// # Errors
/// The configuration of connections is out of bounds.
pub fn client(env: Env) -> Result<Rpc, NetError> {
    let identity = Identity {
        cluster: None,
        node: NodeId(env.random("client").bits()),
        stores: Vec::new(),
        roles: RoleSet::CLIENT,
        address: String::new(),
    };
    Rpc::start_client(env, identity, RpcConfig::default())
}

/// Asks one node.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(rpc: &Rpc, address: &str, request: &AdminRequest) -> Result<AdminReply, AskError> {
    let message = Message::new(encode(request), Bytes::new());
    let peer = Peer::anyone_at(address.to_owned());
    let service = ServiceId(SERVICE_ADMIN);
    let message = rpc.call(&peer, service, message, REQUEST_LIMIT).await?;
    Ok(decode::<AdminReply>(&message.head)?)
}
