//! Operators' requests: any node answers, by asking the groups.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hedgerow_env::{BoxFuture, Env, Instant};
use hedgerow_net::{Caller, GroupClient, GroupError, Message, Peer, Refusal, RefusalCode, Service};
use hedgerow_protocol::{
    AdminReply, AdminRequest, DEFAULT_CONTAINER_BYTES, DiskRecord, DiskView, Export, NodeReply,
    NodeRequest, NodeState, Roles, RootAnswer, RootCommand, RootOutcome, RootQuery, RootRefusal,
    ShardReply, ShardRequest, StatusView, decode, encode,
};
use hedgerow_proxy::{AttachError, OperationTag, Proxy, VirtualDisk};
use tokio::sync::oneshot;

use crate::exports::Catalog;

/// One question to a group on behalf of an operator.
const GROUP_LIMIT: Duration = Duration::from_secs(5);
/// A node that does not tell its counters in time is left out.
const HEALTH_LIMIT: Duration = Duration::from_millis(500);
/// How long a disk that was made smaller is waited for; an operator's command ends after 20 s.
const ATTACH_LIMIT: Duration = Duration::from_secs(8);
/// Pause between attempts to attach it.
const ATTACH_PAUSE: Duration = Duration::from_millis(250);
/// Largest size of a disk: container indices have 32 bits; 1 EiB leaves room.
const MAXIMUM_DISK_BYTES: u64 = 1 << 60;
/// Longest name of a disk; it becomes part of an iSCSI name (223 bytes).
const MAXIMUM_NAME_BYTES: usize = 128;

/// Serves [`AdminRequest`].
pub(crate) struct AdminService {
    /// The node's surroundings.
    pub(crate) env: Env,
    /// The groups.
    pub(crate) groups: GroupClient,
    /// This node's proxy, if it has one.
    pub(crate) proxy: Option<Proxy>,
    /// What its portal exports, if it has one.
    pub(crate) catalog: Option<Arc<Catalog>>,
}

enum AdminError {
    Refused(String),
    TryAgain(String),
}

impl From<GroupError> for AdminError {
    fn from(error: GroupError) -> Self {
        Self::TryAgain(format!("{error}; is a majority of the nodes up?"))
    }
}

/// The RPC service around it.
pub(crate) struct AdminEndpoint(pub(crate) Arc<AdminService>);

impl Service for AdminEndpoint {
    fn call(
        &self,
        _caller: Caller,
        request: Message,
        _deadline: Instant,
    ) -> BoxFuture<'static, Result<Message, Refusal>> {
        let this = Arc::clone(&self.0);
        Box::pin(async move {
            let request = decode::<AdminRequest>(&request.head)
                .map_err(|error| Refusal::new(RefusalCode::Malformed, error.to_string()))?;
            let (answer, answered) = oneshot::channel();
            let env = this.env.clone();
            // In a task of its own: whoever does not wait any more leaves nothing half-way, such as
            // a disk that stays attached.
            env.spawn("admin-request", async move {
                // An operator who went away does not want to know.
                answer.send(this.reply(request).await).ok();
            });
            let stopping = |_| Refusal::new(RefusalCode::Internal, "the node is stopping");
            let reply = answered.await.map_err(stopping)?;
            Ok(Message::new(encode(&reply), Bytes::new()))
        })
    }

    fn open_to_blank(&self) -> bool {
        true
    }
}

impl AdminService {
    /// Answers `request`.
    pub(crate) async fn reply(&self, request: AdminRequest) -> AdminReply {
        match self.answer(request).await {
            Ok(reply) => reply,
            Err(AdminError::Refused(text)) => AdminReply::Refused(text),
            Err(AdminError::TryAgain(text)) => AdminReply::TryAgain(text),
        }
    }

    async fn answer(&self, request: AdminRequest) -> Result<AdminReply, AdminError> {
        match request {
            AdminRequest::CreateDisk {
                nonce,
                name,
                size_bytes,
                policy,
                description,
            } => {
                check_name(&name)?;
                policy.check().map_err(AdminError::Refused)?;
                check_size(size_bytes, policy.block_size)?;
                let container_bytes = DEFAULT_CONTAINER_BYTES;
                let command = RootCommand::CreateDisk {
                    nonce,
                    name,
                    size_bytes,
                    container_bytes,
                    policy,
                    description,
                };
                self.disk_command(command).await
            }
            AdminRequest::ListDisks => {
                let records = self.disks().await?;
                let exports = self.exports().await;
                let views = records.into_iter().map(|disk| view(disk, &exports));
                Ok(AdminReply::Disks(views.collect()))
            }
            AdminRequest::ShowDisk { name } => {
                let record = self.find(&name).await?;
                Ok(AdminReply::Disk(view(record, &self.exports().await)))
            }
            AdminRequest::ResizeDisk { name, size_bytes } => self.resize(&name, size_bytes).await,
            AdminRequest::DeleteDisk { name } => {
                let record = self.find(&name).await?;
                self.disk_command(RootCommand::DeleteDisk { disk: record.disk })
                    .await
            }
            AdminRequest::Status => Ok(AdminReply::Status(self.status().await?)),
        }
    }

    async fn disk_command(&self, command: RootCommand) -> Result<AdminReply, AdminError> {
        match self.groups.root_command(command, GROUP_LIMIT).await? {
            RootOutcome::Disk(record) => Ok(AdminReply::Disk(view(record, &self.exports().await))),
            RootOutcome::Refused(refusal) => Err(AdminError::Refused(refusal.to_string())),
            _ => Ok(AdminReply::Done),
        }
    }

    async fn disks(&self) -> Result<Vec<DiskRecord>, AdminError> {
        match self
            .groups
            .root_query(RootQuery::Disks, GROUP_LIMIT)
            .await?
        {
            RootAnswer::Disks(records) => Ok(records),
            _ => Err(AdminError::TryAgain("unexpected answer of the root".into())),
        }
    }

    async fn find(&self, name: &str) -> Result<DiskRecord, AdminError> {
        let query = RootQuery::DiskByName(name.to_owned());
        match self.groups.root_query(query, GROUP_LIMIT).await? {
            RootAnswer::Disk(Some(record)) => Ok(record),
            RootAnswer::Disk(None) => Err(AdminError::Refused(format!(
                "no virtual disk is called {name:?}; `hedgerow disk list` shows them"
            ))),
            _ => Err(AdminError::TryAgain("unexpected answer of the root".into())),
        }
    }

    /// What every node with a proxy exports, as far as they tell in time.
    async fn exports(&self) -> Vec<Export> {
        let topology = self.groups.directory().topology();
        let nodes = topology.nodes.iter();
        let asked = nodes
            .filter(|node| node.state == NodeState::Up && node.roles.contains(Roles::PROXY))
            .map(|node| async {
                let peer = Peer::new(node.address.clone(), node.node);
                let request = NodeRequest::Exports;
                let reply = self.groups.node_request(&peer, &request, HEALTH_LIMIT);
                match reply.await {
                    Some(NodeReply::Exports(exports)) => exports,
                    _ => Vec::new(),
                }
            });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn resize(&self, name: &str, size_bytes: u64) -> Result<AdminReply, AdminError> {
        let record = self.find(name).await?;
        check_size(size_bytes, record.policy.block_size)?;
        if size_bytes < record.size_bytes && self.proxy.is_none() {
            return Err(AdminError::Refused(
                "to shrink a disk, ask a node with the role proxy".into(),
            ));
        }
        let command = RootCommand::Resize {
            disk: record.disk,
            from_bytes: record.size_bytes,
            generation: record.generation,
            size_bytes,
        };
        match self.groups.root_command(command, GROUP_LIMIT).await? {
            RootOutcome::Resized {
                disk,
                cut_from_bytes: None,
            } => Ok(AdminReply::Disk(view(disk, &self.exports().await))),
            RootOutcome::Resized {
                disk,
                cut_from_bytes: Some(end),
            } => self.clear(&disk, end).await,
            RootOutcome::Refused(RootRefusal::Held { .. }) => Err(AdminError::Refused(format!(
                "{name:?} is in use: stop its initiators before it is made smaller"
            ))),
            // An answer that was lost may have been another: the command could have been applied
            // before others changed the disk. So it is not tried again here, and not called refused.
            RootOutcome::Refused(RootRefusal::Changed { .. } | RootRefusal::NoSuchDisk { .. }) => {
                Err(AdminError::TryAgain(format!(
                    "{name:?} was attached, released, resized or deleted at the same time"
                )))
            }
            RootOutcome::Refused(refusal) => Err(AdminError::Refused(refusal.to_string())),
            other => Err(AdminError::TryAgain(format!("unexpected: {other:?}"))),
        }
    }

    /// Zeroes what lies beyond the end of a disk that was made smaller: it is not to be seen again
    /// should the disk grow. Nobody can write there any more. What is interrupted goes on when the
    /// same size is asked for again.
    async fn clear(&self, record: &DiskRecord, end: u64) -> Result<AdminReply, AdminError> {
        let Some(proxy) = &self.proxy else {
            return Err(AdminError::TryAgain(
                "the disk is smaller now; repeat this at a node with the role proxy".into(),
            ));
        };
        let disk = self.attach(proxy, &record.name).await?;
        let tag = OperationTag(disk.writer().0 | 1 << 63);
        // From the end as it was when it was attached: another may have made it smaller still.
        let cleared = disk.clear(disk.record().size_bytes..end, tag).await;
        let result = match cleared {
            Ok(()) => {
                let done = RootCommand::CutDone {
                    disk: record.disk,
                    generation: disk.record().generation,
                    end_bytes: end,
                };
                match self.disk_command(done).await {
                    // The disk has its new size all the same.
                    Err(AdminError::Refused(text)) => Err(AdminError::TryAgain(text)),
                    other => other,
                }
            }
            Err(error) => Err(AdminError::TryAgain(error.to_string())),
        };
        let exported = self.catalog.as_ref();
        if !exported.is_some_and(|catalog| catalog.uses(&disk))
            && let Err(error) = proxy.detach(&disk).await
        {
            return Err(AdminError::TryAgain(error.to_string()));
        }
        result
    }

    /// Attaches a disk that was just made smaller: its shards hear of that within a second or two.
    async fn attach(&self, proxy: &Proxy, name: &str) -> Result<VirtualDisk, AdminError> {
        let give_up = self.env.now() + ATTACH_LIMIT;
        loop {
            let error = match proxy.attach(name).await {
                Ok(disk) => return Ok(disk),
                Err(error) => error,
            };
            if !matches!(error, AttachError::TryAgain(_)) || self.env.now() >= give_up {
                return Err(AdminError::TryAgain(format!("{error}; repeat this then")));
            }
            self.env.sleep(ATTACH_PAUSE).await;
        }
    }

    async fn status(&self) -> Result<StatusView, AdminError> {
        let RootAnswer::Cluster(cluster) = self
            .groups
            .root_query(RootQuery::Cluster, GROUP_LIMIT)
            .await?
        else {
            return Err(AdminError::TryAgain("unexpected answer of the root".into()));
        };
        let RootAnswer::Topology(topology) = self
            .groups
            .root_query(RootQuery::Topology, GROUP_LIMIT)
            .await?
        else {
            return Err(AdminError::TryAgain("unexpected answer of the root".into()));
        };
        let disks = self.disks().await?.len();
        let mut view = StatusView {
            cluster: cluster
                .map(|cluster| cluster.to_string())
                .unwrap_or_default(),
            nodes: topology.nodes,
            disks: u64::try_from(disks).expect("usize fits 64 bits"),
            under_replicated_bytes: 0,
            damaged: 0,
            silent_groups: Vec::new(),
        };
        for group in self.groups.directory().shards() {
            match self
                .groups
                .shard(group, ShardRequest::Statistics, GROUP_LIMIT)
                .await
            {
                Ok(ShardReply::Statistics(statistics)) => {
                    view.under_replicated_bytes += statistics.under_replicated_bytes;
                }
                Ok(_) | Err(_) => view.silent_groups.push(group.0),
            }
        }
        let up = view.nodes.iter().filter(|node| node.state == NodeState::Up);
        let asked = up.map(|node| async {
            let peer = Peer::new(node.address.clone(), node.node);
            self.groups
                .node_request(&peer, &NodeRequest::Health, HEALTH_LIMIT)
                .await
        });
        for reply in join_all(asked).await {
            if let Some(NodeReply::Healthy { damaged }) = reply {
                view.damaged += damaged;
            }
        }
        Ok(view)
    }
}

/// A disk with the URLs at which nodes export it.
fn view(record: DiskRecord, exports: &[Export]) -> DiskView {
    let urls = exports
        .iter()
        .filter(|export| export.disk == record.disk)
        .map(|export| export.url.clone())
        .collect();
    DiskView { record, urls }
}

fn check_name(name: &str) -> Result<(), AdminError> {
    if name.len() > MAXIMUM_NAME_BYTES {
        return Err(AdminError::Refused(format!(
            "the name has {} characters; {MAXIMUM_NAME_BYTES} are allowed",
            name.len()
        )));
    }
    hedgerow_iscsi::target_name(name)
        .map(|_| ())
        .map_err(|error| AdminError::Refused(format!("name {name:?}: {error}")))
}

fn check_size(size_bytes: u64, block_size: u32) -> Result<(), AdminError> {
    if size_bytes == 0 || size_bytes > MAXIMUM_DISK_BYTES {
        return Err(AdminError::Refused(
            "size: more than 0 and at most 1 EiB".into(),
        ));
    }
    if !size_bytes.is_multiple_of(u64::from(block_size)) {
        return Err(AdminError::Refused(format!(
            "size: {size_bytes} bytes is not a multiple of the block size, {block_size}"
        )));
    }
    Ok(())
}
