//! [`Node`]: one node from its start to its stop.

use std::sync::Arc;

use futures_util::future::{Either, select};
use hedgerow_disk::journal::CLOSED;
use hedgerow_disk::superblock::SuperblockError;
use hedgerow_disk::{Recovery, StoreError};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ClusterId, Env, HaltReason, NodeId, Phase, StoreId, event};
use hedgerow_hblock::DiskStore;
use hedgerow_net::{
    Directory, GroupClient, Identity, NetError, RoleSet, Rpc, RpcConfig, ServiceId,
};
use hedgerow_protocol::{
    AdminReply, AdminRequest, NodeRecord, NodeState, SERVICE_ADMIN, SERVICE_NODE,
};
use hedgerow_proxy::Proxy;
use tokio::sync::Notify;

use crate::acquaintance;
use crate::config::NodeConfig;
use crate::config_check::ConfigError;
use crate::desk::{AdminEndpoint, Desk};
use crate::founding;
use crate::halting;
use crate::peers::Peers;
use crate::refresh;
use crate::roles::{PAGES_DIRECTORY, RolesError, Running};
use crate::room;
use crate::service::{NodeEndpoint, NodeService};
use crate::stores::Stores;

/// Why a node did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Correct the configuration.
    #[error("configuration: {0}")]
    Configuration(#[from] ConfigError),
    /// A pool cannot be opened.
    #[error("pool: {0}")]
    Store(#[from] StoreError),
    /// The store was rolled back, and must not serve.
    #[error(
        "{0}: an old image of this store was restored. Remove the pool's folder and let the node \
         join with a blank store"
    )]
    RolledBack(String),
    /// The address cannot be listened at.
    #[error("rpc: {0}")]
    Rpc(#[from] NetError),
    /// A role cannot start.
    #[error(transparent)]
    Roles(#[from] RolesError),
}

impl NodeError {
    /// Why a node that did not start for this stays down.
    #[must_use]
    pub fn halt_reason(&self) -> HaltReason {
        halting::of_start(self)
    }
}

/// A running node. Clones share it.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    env: Env,
    config: NodeConfig,
    rpc: Rpc,
    groups: GroupClient,
    stores: Arc<Stores>,
    running: Arc<Running>,
    own: NodeRecord,
    claimed: Arc<Notify>,
    /// What it waits for while it gets into a cluster; none once it serves.
    desk: Arc<Desk>,
}

impl Node {
    /// Opens the stores, listens, and begins to get into a cluster; the roles follow by themselves.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(env: Env, config: NodeConfig) -> Result<Self, NodeError> {
        config.check()?;
        let _phase = env.phase(Phase::Recovery);
        let (stores, recoveries) = Stores::open(&env, &config).await?;
        let stores = Arc::new(stores);
        for store in &stores.all {
            let barred = store.superblock().content().rolled_back;
            if barred && !active(Mutant::RolledBackStarts) {
                return Err(NodeError::RolledBack(store.directory().to_owned()));
            }
        }
        let identity = Identity {
            cluster: stores.cluster(),
            node: stores.node,
            stores: stores.stamps(),
            roles: RoleSet(config.roles.0),
            address: config.advertise.clone(),
        };
        let rpc = Rpc::start(env.clone(), identity, RpcConfig::default(), &config.listen).await?;
        let directory = Arc::new(Directory::new(config.seeds.clone()));
        let peers = Peers::start(env.clone(), Arc::clone(&stores), Arc::clone(&directory));
        rpc.on_peer(peers);
        if let Some(root) = founding::kept_root(&stores) {
            directory.bootstrap_root(root);
        }
        let groups = GroupClient::new(env.clone(), rpc.clone(), Arc::clone(&directory));
        let own = NodeRecord {
            node: stores.node,
            name: config.name.clone(),
            address: config.advertise.clone(),
            roles: config.roles,
            location: config.location.clone(),
            stores: stores.records(config.roles),
            state: NodeState::Up,
            reason: String::new(),
        };
        let desk = Desk::new(env.clone(), config.name.clone(), "opening the metadata");
        let desk = Arc::new(desk);
        let node = Self(Arc::new(Inner {
            running: Running::new(env.clone(), rpc.clone(), groups.clone()),
            env,
            config,
            rpc,
            groups,
            stores,
            own,
            claimed: Arc::default(),
            desk,
        }));
        node.serve();
        node.spawn_main(recoveries);
        Ok(node)
    }

    fn serve(&self) {
        let inner = &self.0;
        let service = Arc::new(NodeService {
            env: inner.env.clone(),
            record: inner.own.clone(),
            stores: Arc::clone(&inner.stores),
            directory: Arc::clone(inner.groups.directory()),
            running: Arc::clone(&inner.running),
            claimed: Arc::clone(&inner.claimed),
        });
        inner
            .rpc
            .serve(ServiceId(SERVICE_NODE), Arc::new(NodeEndpoint(service)));
        let desk = AdminEndpoint(Arc::clone(&inner.desk));
        inner.rpc.serve(ServiceId(SERVICE_ADMIN), Arc::new(desk));
        let waiting = Arc::clone(&inner.desk).warn_while_closed();
        inner.env.spawn("waiting", waiting);
    }

    fn spawn_main(&self, recoveries: Vec<Recovery>) {
        let node = self.clone();
        self.0.env.spawn("node-main", async move {
            if let Err(error) = node.main(recoveries).await {
                node.halt_over(&error);
            }
        });
        let system = self.0.stores.system().clone();
        let pages = format!("{}/{PAGES_DIRECTORY}", system.directory());
        let room = room::keep(self.0.env.clone(), system, pages);
        self.0.env.spawn("room", room);
        for store in &self.0.stores.all {
            let (env, store) = (self.0.env.clone(), store.clone());
            let system = store.id() == self.0.stores.system().id();
            self.0.env.spawn("store-watch", async move {
                let stopped = store.stopped().await;
                if stopped.reason == CLOSED {
                    return;
                }
                event!(
                    env,
                    Error,
                    "node",
                    "store {} stopped: {stopped}",
                    store.id()
                );
                if system {
                    env.halt(HaltReason::DiskFailed(stopped.to_string()));
                }
            });
        }
    }

    fn spawn_refreshers(&self) {
        let inner = &self.0;
        let fresh = refresh::keep_fresh(
            inner.env.clone(),
            inner.groups.clone(),
            inner.running.root_finder(),
        );
        inner.env.spawn("directory", fresh);
        let replicas = refresh::keep_replicas(
            inner.env.clone(),
            Arc::clone(inner.groups.directory()),
            Arc::clone(&inner.running),
        );
        inner.env.spawn("replicas", replicas);
    }

    async fn main(&self, mut recoveries: Vec<Recovery>) -> Result<(), RolesError> {
        let inner = &self.0;
        let stores = inner.stores.all.iter().zip(&mut recoveries);
        let pools = stores
            .map(|(store, found)| DiskStore::new(&inner.env, store.clone(), found))
            .collect();
        let system = recoveries.remove(0);
        let recovery = inner.env.phase(Phase::Recovery);
        inner
            .running
            .open_pages(&inner.config, &inner.stores, system)
            .await?;
        drop(recovery);
        let cluster = self.enter_or_be_claimed().await?;
        inner.desk.wait_for("waiting for the cluster's majority");
        self.show_identity();
        if let Some(nodes) = founding::founding_nodes(&inner.stores) {
            founding::claim_seeds(&inner.env, &inner.groups, &inner.own, cluster, &nodes).await;
        }
        if founding::kept_root(&inner.stores).is_some() {
            self.run_root().await?;
        } else {
            self.await_late_claim();
        }
        self.spawn_refreshers();
        if let Some(nodes) = founding::founding_nodes(&inner.stores) {
            let members = founding::root_members(&nodes);
            inner
                .running
                .initialise_cluster(cluster, nodes, members)
                .await;
            inner.stores.forget_value(founding::FOUNDING_KEY).await?;
        }
        let start = inner.stores.system().session();
        inner.running.join(&inner.own, start).await;
        let admin = inner
            .running
            .start_data(&inner.config, &inner.stores, pools)
            .await?;
        inner.desk.open(Arc::new(admin));
        event!(
            inner.env,
            Info,
            "node",
            "{} serves in cluster {cluster}",
            inner.config.name
        );
        acquaintance::keep_known(
            inner.env.clone(),
            inner.rpc.clone(),
            inner.own.node,
            Arc::clone(inner.groups.directory()),
            || self.show_identity(),
        )
        .await;
        Ok(())
    }

    /// Gets into a cluster, by asking seeds or by being claimed.
    async fn enter_or_be_claimed(&self) -> Result<ClusterId, SuperblockError> {
        let _phase = self.0.env.phase(Phase::Formation);
        let inner = &self.0;
        let tell = |reason: &str| self.0.desk.wait_for(reason);
        let entering = founding::enter_cluster(
            &inner.env,
            &inner.stores,
            &inner.groups,
            &inner.own,
            &inner.config.seeds,
            &tell,
        );
        let entering = std::pin::pin!(entering);
        // A claim may come while seeds are being asked. What waits for it here must end with this
        // function: it would swallow the news of a late claim.
        let claimed = std::pin::pin!(inner.claimed.notified());
        match select(entering, claimed).await {
            Either::Left((cluster, _)) => cluster,
            Either::Right(((), _)) => Ok(inner
                .stores
                .cluster()
                .expect("a claim is durable before it is told")),
        }
    }

    /// Stops the node over a role that cannot start.
    fn halt_over(&self, error: &RolesError) {
        let env = &self.0.env;
        event!(env, Error, "node", "{error}");
        env.halt(match self.0.stores.system().journal().is_stopped() {
            // Whatever the role says of it: it is the consequence of a store that stopped.
            Some(stopped) if stopped.reason != CLOSED => {
                HaltReason::DiskFailed(format!("{stopped}; {error}"))
            }
            _ => halting::of_roles(error),
        });
    }

    /// Starts this node's replica of the root, if it is one of the root's first members.
    async fn run_root(&self) -> Result<(), RolesError> {
        let inner = &self.0;
        if let Some(root) = founding::kept_root(&inner.stores) {
            inner.groups.directory().bootstrap_root(root.clone());
            inner.running.start_root(&inner.stores, &root).await?;
        }
        Ok(())
    }

    /// A seed that heard of the cluster from another before the founder's claim reached it has
    /// joined without knowing the root. The claim still comes, and the root may need this very
    /// member for its majority.
    fn await_late_claim(&self) {
        let node = self.clone();
        self.0.env.spawn("late-claim", async move {
            node.0.claimed.notified().await;
            if let Err(error) = node.run_root().await {
                node.halt_over(&error);
            }
        });
    }

    /// Shows the cluster and the newest stamps in handshakes.
    fn show_identity(&self) {
        let mut identity = (*self.0.rpc.identity()).clone();
        identity.cluster = self.0.stores.cluster();
        identity.stores = self.0.stores.stamps();
        self.0.rpc.set_identity(identity);
    }

    /// The node's seams.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.0.env
    }

    /// The node's identity.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.own.node
    }

    /// What it waits for before it can serve, for people; none once it serves.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        self.0.desk.waits_for()
    }

    /// Where its RPC server really listens.
    #[must_use]
    pub fn rpc_address(&self) -> String {
        self.0.rpc.local_address().to_owned()
    }

    /// Where its iSCSI portal listens, once it does.
    #[must_use]
    pub fn portal_address(&self) -> Option<String> {
        self.0.running.portal_address()
    }

    /// Its proxy, once it runs.
    #[must_use]
    pub fn proxy(&self) -> Option<Proxy> {
        self.0.running.proxy()
    }

    /// What it knows of the cluster.
    #[must_use]
    pub fn groups(&self) -> &GroupClient {
        &self.0.groups
    }

    /// Its stores, for oracles and status.
    #[must_use]
    pub fn stores(&self) -> Vec<hedgerow_disk::Store> {
        self.0.stores.all.clone()
    }

    /// What its stores promise in this life, for oracles.
    #[must_use]
    pub fn promises(&self) -> Vec<(StoreId, Arc<hedgerow_hblock::StorePromises>)> {
        self.0.running.promises()
    }

    /// Its replicas, for oracles and status.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<dyn hedgerow_pages::GroupReplica>> {
        self.0.running.replicas()
    }

    /// Answers an operator's request as the RPC service would.
    pub async fn admin(&self, request: AdminRequest) -> AdminReply {
        self.0.desk.reply(request).await
    }

    /// Stops in order: clients first, then the data service, then the groups, then the stores.
    pub async fn shutdown(&self) {
        self.0.running.shutdown().await;
        self.0.rpc.shutdown().await;
        for store in self.0.stores.all.iter().rev() {
            store.close().await;
        }
    }
}
