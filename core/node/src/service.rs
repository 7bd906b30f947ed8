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
        caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let this = Arc::clone(&self.0);
        Box::pin(async move {
            let request = decode::<NodeRequest>(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            if caller.cluster.is_none() && !is_for_blanks(&request) {
                return Err(Refusal::new(
                    RefusalCode::NotMember,
                    "only nodes of this cluster may ask for this",
                ));
            }
            let reply = this.answer(request).await;
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }

    fn open_to_blank(&self) -> bool {
        true
    }
}

/// Whether a node without a cluster, or a tool, may ask: it forms a cluster by this, or looks.
fn is_for_blanks(request: &NodeRequest) -> bool {
    !matches!(request, NodeRequest::StartReplica { .. })
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

#[cfg(test)]
mod tests {
    use hedgerow_env::{GroupId, NodeId};
    use hedgerow_protocol::{MemberId, NodeRequest};

    use super::is_for_blanks;

    #[test]
    fn a_stranger_starts_no_replica() {
        let start = NodeRequest::StartReplica {
            group: GroupId(1),
            member: MemberId::default(),
            members: Vec::new(),
            initialise: true,
        };
        assert!(!is_for_blanks(&start));
        assert!(is_for_blanks(&NodeRequest::Describe));
        assert!(is_for_blanks(&NodeRequest::Heartbeat { from: NodeId(3) }));
    }
}
