//! What a node answers as such: who it is, claims, the table, replicas, heartbeats.

use std::sync::Arc;

use bytes::Bytes;
use hedgerow_env::{BoxFuture, Env, Instant};
use hedgerow_net::{Caller, Directory, Message, Refusal, RefusalCode, Service};
use hedgerow_protocol::{NodeRecord, NodeReply, NodeRequest, ShardTable, decode, encode};
use tokio::sync::Notify;

use crate::founding::accept_claim;
use crate::halting;
use crate::roles::Running;
use crate::stores::Stores;

/// Serves [`NodeRequest`].
pub(crate) struct NodeService {
    pub(crate) env: Env,
    pub(crate) record: NodeRecord,
    pub(crate) stores: Arc<Stores>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) running: Arc<Running>,
    /// Rung when the node was claimed.
    pub(crate) claimed: Arc<Notify>,
}

/// The RPC service around it.
pub(crate) struct NodeEndpoint(pub(crate) Arc<NodeService>);

impl Service for NodeEndpoint {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let this = Arc::clone(&self.0);
        Box::pin(async move {
            let request = decode::<NodeRequest>(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            let reply = this.answer(request).await;
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }

    fn open_to_blank(&self) -> bool {
        true
    }
}

impl NodeService {
    async fn answer(&self, request: NodeRequest) -> NodeReply {
        match request {
            NodeRequest::Describe => NodeReply::Described {
                record: self.record.clone(),
                cluster: self.stores.cluster(),
                table: Some(self.directory.table()).filter(|table| *table != ShardTable::default()),
            },
            NodeRequest::Claim { cluster, root, .. } => self.claim(cluster, root).await,
            NodeRequest::Table { known } => {
                NodeReply::Table(Some(self.directory.table()).filter(|table| table.epoch > known))
            }
            NodeRequest::Topology { known } => {
                let topology = self.directory.topology();
                NodeReply::Topology((topology.index > known).then(|| (*topology).clone()))
            }
            NodeRequest::StartReplica {
                group,
                member,
                members,
                initialise,
            } => {
                self.running
                    .start_replica(group, member, members, initialise)
                    .await
            }
            NodeRequest::Heartbeat { .. } => NodeReply::Alive,
            NodeRequest::Health => NodeReply::Healthy {
                damaged: self.running.damaged(),
            },
            NodeRequest::Exports => NodeReply::Exports(self.running.exports()),
        }
    }

    async fn claim(
        &self,
        cluster: hedgerow_env::ClusterId,
        root: Vec<hedgerow_protocol::GroupMember>,
    ) -> NodeReply {
        match accept_claim(&self.stores, cluster, root).await {
            Ok(own) if own != cluster => NodeReply::ClaimedElsewhere { cluster: own },
            Ok(_) => {
                self.claimed.notify_one();
                NodeReply::Claimed
            }
            Err(error) => {
                self.env.halt(halting::of_superblock(&error));
                NodeReply::Refused(error.to_string())
            }
        }
    }
}
