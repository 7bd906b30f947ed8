//! The roles of a node as they start and stop: Pages' replicas and services, HBlock, the proxy and
//! its portals.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hedgerow_disk::Recovery;
use hedgerow_disk::superblock::SuperblockError;
use hedgerow_env::{ClusterId, Env, GroupId, StoreId, event};
use hedgerow_hblock::{DiskStore, HBlock, HBlockError, StorePromises};
use hedgerow_iscsi::{IscsiServer, ServerError};
use hedgerow_net::{GroupClient, Rpc, ServiceId};
use hedgerow_pages::drivers::Drivers;
use hedgerow_pages::raft::{HostConfig, HostError, PagesHost};
use hedgerow_pages::root::RootMachine;
use hedgerow_pages::service::{GroupService, Replicas};
use hedgerow_pages::shard::ShardMachine;
use hedgerow_pages::{GroupReplica, Machine};
use hedgerow_protocol::{
    Export, GroupMember, GroupRecord, MemberId, NodeRecord, NodeReply, ROOT_GROUP, Roles,
    RootCommand, RootOutcome, SERVICE_GROUP,
};
use hedgerow_proxy::Proxy;

use crate::admin::AdminService;
use crate::config::NodeConfig;
use crate::exports::Catalog;
use crate::refresh::RootReplica;
use crate::resize::Clearing;
use crate::stores::Stores;

/// One try of a command to the root while the cluster forms.
const FORMING_LIMIT: Duration = Duration::from_secs(3);
/// Pause between such tries.
const FORMING_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the root's replica is tried again that found no room: room comes back by deletions.
const ROOM_PAUSE: Duration = Duration::from_secs(2);

/// Why a role could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// The disk failed.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// A replica cannot start.
    #[error("pages: {0}")]
    Pages(#[from] HostError),
    /// The data service cannot start.
    #[error("hblock: {0}")]
    HBlock(#[from] HBlockError),
    /// The portal cannot listen.
    #[error("iscsi: {0}")]
    Iscsi(String),
}

impl From<ServerError> for RolesError {
    fn from(error: ServerError) -> Self {
        Self::Iscsi(error.to_string())
    }
}

#[derive(Default)]
struct Parts {
    pages: Option<Arc<PagesHost>>,
    hblock: Option<HBlock>,
    proxy: Option<Proxy>,
    portal: Option<Arc<IscsiServer>>,
    portal_address: Option<String>,
    catalog: Option<Arc<Catalog>>,
}

/// What runs at this node now.
pub(crate) struct Running {
    env: Env,
    rpc: Rpc,
    groups: GroupClient,
    parts: Mutex<Parts>,
}

/// The directory of the system pool that holds Pages' state.
pub(crate) const PAGES_DIRECTORY: &str = "pages";

impl Running {
    pub(crate) fn new(env: Env, rpc: Rpc, groups: GroupClient) -> Arc<Self> {
        Arc::new(Self {
            env,
            rpc,
            groups,
            parts: Mutex::default(),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Parts) -> T) -> T {
        act(&mut self.parts.lock().expect("no panic under this lock"))
    }

    fn pages(&self) -> Option<Arc<PagesHost>> {
        self.with(|parts| parts.pages.clone())
    }

    /// Opens Pages with every replica that the system store holds.
    pub(crate) async fn open_pages(
        &self,
        config: &NodeConfig,
        stores: &Stores,
        recovery: Recovery,
    ) -> Result<(), RolesError> {
        let directory = Arc::clone(self.groups.directory());
        let system = stores.system();
        let host = PagesHost::start(HostConfig {
            env: self.env.clone(),
            rpc: self.rpc.clone(),
            store: system.id(),
            node: stores.node,
            journal: system.journal().clone(),
            recovered: recovery.control,
            damaged: recovery.damaged,
            directory: format!("{}/{PAGES_DIRECTORY}", system.directory()),
            timing: config.scale.raft(config.timing),
            verified: config.scale.verified(),
            machines: Arc::new(machine_of),
            addresses: Arc::new(move |member| directory.address_of(member.node)),
        })
        .await?;
        let host = Arc::new(host);
        self.with(|parts| parts.pages = Some(Arc::clone(&host)));
        let replicas: Arc<dyn Replicas> = host;
        let directory = Arc::clone(self.groups.directory());
        let service = GroupService::new(self.env.clone(), Arc::clone(&replicas), directory);
        self.rpc
            .serve(ServiceId(SERVICE_GROUP), Arc::new(service.clone()));
        let shards = usize::try_from(config.shards).expect("checked: at most 1024");
        let drivers = config.scale.drivers(shards);
        Drivers::start(
            self.env.clone(),
            replicas,
            service,
            self.groups.clone(),
            drivers,
        );
        Ok(())
    }

    /// Runs the root's replica of this node, if it is one of the first members. Where there is no
    /// room for one, the node starts without, and goes on trying.
    pub(crate) async fn start_root(
        &self,
        stores: &Stores,
        root: &GroupRecord,
    ) -> Result<(), RolesError> {
        let own = root
            .members
            .iter()
            .find(|member| member.node == stores.node);
        let (Some(own), Some(host)) = (own, self.pages()) else {
            return Ok(());
        };
        if host.replica(ROOT_GROUP).is_some() {
            return Ok(());
        }
        match started_root(&host, own).await {
            Err(error) if error.is_no_room() => {
                event!(self.env, Warn, "node", "the root's replica: {error}");
                let (env, own) = (self.env.clone(), own.clone());
                self.env.spawn("start-root", async move {
                    loop {
                        env.sleep(ROOM_PAUSE).await;
                        match started_root(&host, &own).await {
                            Ok(_) => return,
                            Err(error) if error.is_no_room() => {}
                            Err(error) => {
                                event!(env, Warn, "node", "the root's replica: {error}");
                                return;
                            }
                        }
                    }
                });
                Ok(())
            }
            started => Ok(started?),
        }
    }

    /// Completes a founding at the first seed: the root group is initialised, and told who it is.
    pub(crate) async fn initialise_cluster(
        &self,
        cluster: ClusterId,
        nodes: Vec<NodeRecord>,
        members: Vec<GroupMember>,
    ) {
        loop {
            if let Some(host) = self.pages()
                && let Some(own) = members.first()
            {
                let machine = machine_of(ROOT_GROUP);
                let first = Some(members.clone());
                if let Err(error) = host
                    .start_replica(ROOT_GROUP, own.clone(), machine, first)
                    .await
                {
                    event!(self.env, Info, "node", "initialising the root: {error}");
                }
            }
            let command = RootCommand::Initialise {
                cluster,
                nodes: nodes.clone(),
                members: members.clone(),
            };
            match self.groups.root_command(command, FORMING_LIMIT).await {
                Ok(RootOutcome::Done) => return,
                Ok(other) => event!(self.env, Warn, "node", "initialising: {other:?}"),
                Err(error) => event!(self.env, Info, "node", "initialising: {error}"),
            }
            self.env.sleep(FORMING_PAUSE).await;
        }
    }

    /// Tells the root that this node is here, in this start of its system store, under which address
    /// and with which stores.
    pub(crate) async fn join(&self, own: &NodeRecord, start: u64) {
        loop {
            let command = RootCommand::JoinAtStart {
                record: own.clone(),
                start,
            };
            match self.groups.root_command(command, FORMING_LIMIT).await {
                Ok(RootOutcome::Refused(refusal)) => {
                    event!(self.env, Info, "node", "joining: {refusal}");
                }
                Ok(_) => return,
                Err(error) => event!(self.env, Info, "node", "joining: {error}"),
            }
            self.env.sleep(FORMING_PAUSE).await;
        }
    }

    /// Starts the data service, the proxy and the portal, as far as the roles ask for them.
    pub(crate) async fn start_data(
        &self,
        config: &NodeConfig,
        stores: &Stores,
        pools: Vec<DiskStore>,
    ) -> Result<AdminService, RolesError> {
        if config.roles.contains(Roles::HBLOCK) {
            let hblock = HBlock::start(
                self.env.clone(),
                self.rpc.clone(),
                pools,
                self.groups.clone(),
                config.scale.hblock(),
            )
            .await?;
            self.with(|parts| parts.hblock = Some(hblock));
        }
        let mut admin = AdminService {
            env: self.env.clone(),
            groups: self.groups.clone(),
            proxy: None,
            catalog: None,
            clearing: Clearing::default(),
        };
        if config.roles.contains(Roles::PROXY) {
            let proxy = Proxy::start(
                self.env.clone(),
                self.rpc.clone(),
                self.groups.clone(),
                stores.node,
                config.scale.proxy(),
            );
            self.with(|parts| parts.proxy = Some(proxy.clone()));
            admin.proxy = Some(proxy.clone());
            if let Some(iscsi) = &config.iscsi {
                let catalog = Catalog::new(self.env.clone(), proxy, iscsi.clone());
                admin.catalog = Some(Arc::clone(&catalog));
                let targets = Arc::clone(&catalog);
                let server = IscsiServer::start(&self.env, &iscsi.listen, targets).await?;
                let server = Arc::new(server);
                catalog.keep_following(self.groups.clone(), Arc::downgrade(&server));
                let address = reachable(server.address(), &config.advertise);
                self.with(|parts| {
                    parts.portal_address = Some(address);
                    parts.portal = Some(server);
                    parts.catalog = Some(catalog);
                });
            }
        }
        Ok(admin)
    }

    /// The store whose replicas run here; none before Pages is open.
    pub(crate) fn pages_store(&self) -> Option<StoreId> {
        self.pages().map(|host| host.store())
    }

    /// Whether a replica of `group` runs here.
    pub(crate) fn runs(&self, group: GroupId) -> bool {
        self.pages()
            .is_some_and(|host| host.replica(group).is_some())
    }

    pub(crate) async fn start_replica(
        &self,
        group: GroupId,
        member: MemberId,
        members: Vec<GroupMember>,
        initialise: bool,
    ) -> NodeReply {
        let Some(host) = self.pages() else {
            return NodeReply::Refused("the node is starting".into());
        };
        let Some(own) = members.iter().find(|known| known.member == member).cloned() else {
            return NodeReply::Refused(format!("{member} is not among the members"));
        };
        let first = initialise.then_some(members);
        // A task of its own: the asker's deadline drops the request, never a start half-way.
        let (answer, result) = tokio::sync::oneshot::channel();
        self.env.spawn("start-replica", async move {
            let started = host
                .start_replica(group, own, machine_of(group), first)
                .await;
            drop(answer.send(started.map(|_| ())));
        });
        match result.await {
            Ok(Ok(())) => NodeReply::Started,
            Ok(Err(HostError::Exists { running, .. })) if self.runs_as(group, running) => {
                NodeReply::RunsAs(running)
            }
            Ok(Err(error)) => NodeReply::Refused(error.to_string()),
            Err(_) => NodeReply::Refused("the node is stopping".into()),
        }
    }

    /// Whether that replica runs whole, not damaged and waiting for entries.
    fn runs_as(&self, group: GroupId, member: MemberId) -> bool {
        let replica = self.pages().and_then(|host| host.replica(group));
        replica.is_some_and(|replica| replica.member() == member)
    }

    /// Finds this node's root replica.
    pub(crate) fn root_finder(self: &Arc<Self>) -> RootReplica {
        let this = Arc::clone(self);
        Arc::new(move || this.pages()?.replica(ROOT_GROUP))
    }

    pub(crate) fn replicas(&self) -> Vec<Arc<dyn GroupReplica>> {
        let Some(host) = self.pages() else {
            return Vec::new();
        };
        host.groups()
            .into_iter()
            .filter_map(|group| host.replica(group))
            .collect()
    }

    pub(crate) fn promises(&self) -> Vec<(StoreId, Arc<StorePromises>)> {
        self.with(|parts| {
            parts
                .hblock
                .as_ref()
                .map_or_else(Vec::new, HBlock::promises)
        })
    }

    pub(crate) fn damaged(&self) -> u64 {
        self.with(|parts| parts.hblock.as_ref().map_or(0, HBlock::damaged))
    }

    pub(crate) fn proxy(&self) -> Option<Proxy> {
        self.with(|parts| parts.proxy.clone())
    }

    /// The disks that this node exports.
    pub(crate) fn exports(&self) -> Vec<Export> {
        let portal = self.with(|parts| parts.catalog.clone().zip(parts.portal_address.clone()));
        portal.map_or_else(Vec::new, |(catalog, address)| catalog.urls(&address))
    }

    pub(crate) fn portal_address(&self) -> Option<String> {
        self.with(|parts| parts.portal_address.clone())
    }

    /// Stops what runs, clients first.
    pub(crate) async fn shutdown(&self) {
        let portal = self.with(|parts| parts.portal.take());
        if let Some(portal) = portal {
            portal.stop().await;
        }
        if let Some(proxy) = self.proxy() {
            proxy.shutdown().await;
        }
        let hblock = self.with(|parts| parts.hblock.take());
        if let Some(hblock) = hblock {
            hblock.shutdown().await;
        }
        if let Some(host) = self.pages() {
            host.shutdown().await;
        }
    }
}

/// Where others reach a portal that listens at `portal`: one that listens at every address is at the
/// host that the node advertises.
fn reachable(portal: &str, advertised: &str) -> String {
    let host = advertised.rsplit_once(':').map(|(host, _)| host);
    match (portal.parse::<std::net::SocketAddr>(), host) {
        (Ok(address), Some(host)) if address.ip().is_unspecified() => {
            format!("{host}:{}", address.port())
        }
        _ => portal.to_owned(),
    }
}

/// Has the root's replica `own` run, unless it runs, waits, or is retired since: the group has handed
/// out another number then, or none.
async fn started_root(host: &PagesHost, own: &GroupMember) -> Result<(), HostError> {
    let machine = machine_of(ROOT_GROUP);
    match host
        .start_replica(ROOT_GROUP, own.clone(), machine, None)
        .await
    {
        Ok(_) | Err(HostError::Retired { .. } | HostError::Exists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The machine of a group: the root's, or a shard's.
fn machine_of(group: GroupId) -> Arc<dyn Machine> {
    if group == ROOT_GROUP {
        Arc::new(RootMachine)
    } else {
        Arc::new(ShardMachine)
    }
}
