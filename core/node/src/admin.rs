//! Operators' requests: any node answers, by asking the groups.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hedgerow_env::{Env, VirtualDiskId};
use hedgerow_net::{GroupClient, GroupError, Peer};
use hedgerow_protocol::{
    AdminReply, AdminRequest, DEFAULT_CONTAINER_BYTES, DiskRecord, DiskView, Export, NodeRecord,
    NodeReply, NodeRequest, NodeState, Roles, RootAnswer, RootCommand, RootOutcome, RootQuery,
    RootRefusal, check_disk_name,
};
use hedgerow_proxy::Proxy;

use crate::exports::Catalog;
use crate::resize::Clearing;

/// One question to a group on behalf of an operator.
pub(crate) const GROUP_LIMIT: Duration = Duration::from_secs(5);
/// A node that does not tell its counters or exports in time is left out, and is named.
pub(crate) const HEALTH_LIMIT: Duration = Duration::from_millis(500);
/// Largest size of a disk: container indices have 32 bits; 1 EiB leaves room.
const MAXIMUM_DISK_BYTES: u64 = 1 << 60;

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
    /// What is being cleared here.
    pub(crate) clearing: Clearing,
}

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(crate) enum AdminError {
    /// Nothing was changed.
    Refused(String),
    /// Not at present.
    TryAgain(String),
    /// It may have been done, or be done yet.
    Unknown(String),
}

/// An answer of the root that does not fit the command.
pub(crate) fn unexpected(outcome: &RootOutcome) -> AdminError {
    AdminError::Unknown(format!("unexpected answer of the root: {outcome:?}"))
}

impl From<GroupError> for AdminError {
    fn from(error: GroupError) -> Self {
        Self::TryAgain(format!("{error}; is a majority of the nodes up?"))
    }
}

impl AdminService {
    /// Answers `request`.
    pub(crate) async fn reply(self: &Arc<Self>, request: AdminRequest) -> AdminReply {
        match self.answer(request).await {
            Ok(reply) => reply,
            Err(AdminError::Refused(text)) => AdminReply::Refused(text),
            Err(AdminError::TryAgain(text)) => AdminReply::TryAgain(text),
            Err(AdminError::Unknown(text)) => AdminReply::Unknown(text),
        }
    }

    async fn answer(self: &Arc<Self>, request: AdminRequest) -> Result<AdminReply, AdminError> {
        match request {
            AdminRequest::CreateDisk {
                nonce,
                name,
                size_bytes,
                policy,
                description,
            } => {
                check_disk_name(&name).map_err(AdminError::Refused)?;
                policy.check().map_err(AdminError::Refused)?;
                check_size(size_bytes, policy.block_size)?;
                self.check_copies(policy.replication_factor)?;
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
            AdminRequest::ResizeDisk { name, size_bytes } => {
                let record = self.find(&name).await?;
                check_size(size_bytes, record.policy.block_size)?;
                let (disk, seen) = (record.disk, (record.size_bytes, record.generation));
                self.resize(disk, seen, size_bytes).await
            }
            AdminRequest::ResizeSeenDisk {
                disk,
                from_bytes,
                generation,
                size_bytes,
            } => {
                // The root knows its block size, and looks.
                check_size(size_bytes, 1)?;
                let seen = (from_bytes, generation);
                self.resize(disk, seen, size_bytes).await
            }
            AdminRequest::DeleteDisk { name } => self.delete(self.find(&name).await?.disk).await,
            AdminRequest::DeleteDiskById { disk } => self.delete(disk).await,
            AdminRequest::Status => Ok(AdminReply::Status(self.status().await?.view)),
            AdminRequest::SetDraining { node, draining } => {
                self.set_draining(&node, draining).await
            }
            AdminRequest::ShowSplit => Ok(AdminReply::Split(self.split_under_way().await?)),
            AdminRequest::ListShards => self.list_shards().await,
            AdminRequest::SplitShard { group, epoch } => self.split_shard(group, epoch).await,
            AdminRequest::StatusInFull => Ok(AdminReply::StatusInFull(self.status().await?)),
        }
    }

    /// A disk of more copies than there are nodes for would be created, and its writes would wait
    /// for nodes that nobody knows are wanted.
    fn check_copies(&self, copies: u8) -> Result<(), AdminError> {
        let topology = self.groups.directory().topology();
        let keepers = topology.nodes.iter().filter(|node| node.keeps_data());
        let (draining, nodes): (Vec<&NodeRecord>, Vec<_>) =
            keepers.partition(|node| node.state == NodeState::Draining);
        if nodes.len() >= usize::from(copies) {
            return Ok(());
        }
        let mut has = nodes.len().to_string();
        if !draining.is_empty() {
            let names: Vec<&str> = draining.iter().map(|node| node.name.as_str()).collect();
            has.push_str(&format!(" beside those that drain ({})", names.join(", ")));
        }
        Err(AdminError::TryAgain(format!(
            "replication factor {copies} needs {copies} nodes that keep data (role hblock), the \
             cluster has {has}: add nodes, or choose a smaller --replication-factor"
        )))
    }

    async fn delete(&self, disk: VirtualDiskId) -> Result<AdminReply, AdminError> {
        match self.command(RootCommand::DeleteDisk { disk }).await? {
            RootOutcome::Disk(record) => Ok(AdminReply::Disk(view(record, &self.exports().await))),
            // It was there when its identity was learnt, and identities are never used again: an
            // earlier request, of which no answer was seen, has deleted it, or somebody else has.
            RootOutcome::Refused(RootRefusal::NoSuchDisk { .. }) => Ok(AdminReply::Done),
            RootOutcome::Refused(refusal) => Err(AdminError::Refused(refusal.to_string())),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the root's leader apply `command`. Its outcome may be unknown, unlike a question's.
    pub(crate) async fn command(&self, command: RootCommand) -> Result<RootOutcome, AdminError> {
        let outcome = self.groups.root_command(command, GROUP_LIMIT).await;
        outcome.map_err(|error| match error {
            GroupError::Unavailable { .. } => error.into(),
            GroupError::Unknown { .. } | GroupError::Unexpected { .. } => {
                AdminError::Unknown(error.to_string())
            }
        })
    }

    pub(crate) async fn disk_command(
        &self,
        command: RootCommand,
    ) -> Result<AdminReply, AdminError> {
        match self.command(command).await? {
            RootOutcome::Disk(record) => Ok(AdminReply::Disk(view(record, &self.exports().await))),
            RootOutcome::Refused(refusal) => Err(AdminError::Refused(refusal.to_string())),
            _ => Ok(AdminReply::Done),
        }
    }

    pub(crate) async fn disks(&self) -> Result<Vec<DiskRecord>, AdminError> {
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
    pub(crate) async fn exports(&self) -> Vec<Export> {
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
}

/// A disk with the URLs at which nodes export it.
pub(crate) fn view(record: DiskRecord, exports: &[Export]) -> DiskView {
    let urls = exports
        .iter()
        .filter(|export| export.disk == record.disk)
        .map(|export| export.url.clone())
        .collect();
    DiskView { record, urls }
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
