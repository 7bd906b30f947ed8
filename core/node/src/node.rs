//! [`Node`]: one node from its start to its stop.

use std::sync::Arc;

use futures_util::future::{Either, select};
use hedgerow_disk::journal::CLOSED;
use hedgerow_disk::{Recovery, StoreError};
use hedgerow_env::{Env, HaltReason, NodeId, event};
use hedgerow_hblock::DiskStore;
use hedgerow_net::{
    Directory, GroupClient, Identity, NetError, RoleSet, Rpc, RpcConfig, ServiceId,
};
use hedgerow_protocol::{
    AdminReply, AdminRequest, NodeRecord, NodeState, SERVICE_ADMIN, SERVICE_NODE,
};
use hedgerow_proxy::Proxy;
use tokio::sync::Notify;

use crate::admin::{AdminEndpoint, AdminService};
use crate::config::NodeConfig;
use crate::founding;
use crate::peers::Peers;
use crate::refresh;
use crate::roles::{RolesError, Running};
use crate::service::{NodeEndpoint, NodeService};
use crate::stores::Stores;

/// Why a node did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Correct the configuration.
    #[error("configuration: {0}")]
    Configuration(String),
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
    admin: std::sync::Mutex<Option<Arc<AdminService>>>,
}

impl Node {
    /// Opens the stores, listens, and begins to get into a cluster; the roles follow by themselves.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(env: Env, config: NodeConfig) -> Result<Self, NodeError> {
        config.check().map_err(NodeError::Configuration)?;
        let (stores, recoveries) = Stores::open(&env, &config).await?;
        let stores = Arc::new(stores);
        for store in &stores.all {
            if store.superblock().content().rolled_back {
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
        rpc.on_peer(Peers::start(env.clone(), Arc::clone(&stores)));
        let directory = Arc::new(Directory::new(config.seeds.clone()));
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
        let node = Self(Arc::new(Inner {
            running: Running::new(env.clone(), rpc.clone(), groups.clone()),
            env,
            config,
            rpc,
            groups,
            stores,
            own,
            claimed: Arc::default(),
            admin: std::sync::Mutex::default(),
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
            claiming: tokio::sync::Mutex::new(()),
        });
        inner
            .rpc
            .serve(ServiceId(SERVICE_NODE), Arc::new(NodeEndpoint(service)));
    }

    fn spawn_main(&self, recoveries: Vec<Recovery>) {
        let node = self.clone();
        self.0.env.spawn("node-main", async move {
            if let Err(error) = node.main(recoveries).await {
                event!(node.0.env, Error, "node", "{error}");
                node.0.env.halt(HaltReason::DiskFailed(error.to_string()));
            }
        });
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

    async fn main(&self, mut recoveries: Vec<Recovery>) -> Result<(), RolesError> {
        let inner = &self.0;
        let stores = inner.stores.all.iter().zip(&mut recoveries);
        let pools = stores
            .map(|(store, found)| DiskStore::new(&inner.env, store.clone(), found))
            .collect();
        let system = recoveries.remove(0);
        inner
            .running
            .open_pages(&inner.config, &inner.stores, system)
            .await?;
        let entering = founding::enter_cluster(
            &inner.env,
            &inner.stores,
            &inner.groups,
            &inner.own,
            &inner.config.seeds,
        );
        let entering = std::pin::pin!(entering);
        // A claim may come while seeds are being asked.
        let claimed = std::pin::pin!(inner.claimed.notified());
        let cluster = match select(entering, claimed).await {
            Either::Left((cluster, _)) => cluster?,
            Either::Right(((), _)) => inner
                .stores
                .cluster()
                .expect("a claim is durable before it is told"),
        };
        self.show_identity();
        if let Some(nodes) = founding::founding_nodes(&inner.stores) {
            founding::claim_seeds(&inner.env, &inner.groups, &inner.own, cluster, &nodes).await;
        }
        if let Some(root) = founding::kept_root(&inner.stores) {
            inner.groups.directory().bootstrap_root(root.clone());
            inner.running.start_root(&inner.stores, &root).await?;
        }
        let fresh = refresh::keep_fresh(
            inner.env.clone(),
            inner.groups.clone(),
            inner.running.root_finder(),
        );
        inner.env.spawn("directory", fresh);
        if let Some(nodes) = founding::founding_nodes(&inner.stores) {
            let members = founding::root_members(&nodes);
            inner
                .running
                .initialise_cluster(cluster, nodes, members)
                .await;
            inner.stores.set_value(founding::FOUNDING_KEY, None).await?;
        }
        let start = inner.stores.system().session();
        inner.running.join(&inner.own, start).await;
        let admin = inner
            .running
            .start_data(&inner.config, &inner.stores, pools)
            .await?;
        let admin = Arc::new(admin);
        inner.rpc.serve(
            ServiceId(SERVICE_ADMIN),
            Arc::new(AdminEndpoint(Arc::clone(&admin))),
        );
        *inner.admin.lock().expect("no panic under this lock") = Some(admin);
        event!(
            inner.env,
            Info,
            "node",
            "{} serves in cluster {cluster}",
            inner.config.name
        );
        self.keep_stamps().await;
        Ok(())
    }

    /// Shows the cluster and the newest stamps in handshakes.
    fn show_identity(&self) {
        let mut identity = (*self.0.rpc.identity()).clone();
        identity.cluster = self.0.stores.cluster();
        identity.stores = self.0.stores.stamps();
        self.0.rpc.set_identity(identity);
    }

    async fn keep_stamps(&self) {
        loop {
            self.0.env.sleep(std::time::Duration::from_secs(5)).await;
            self.show_identity();
        }
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

    /// Its replicas, for oracles and status.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<dyn hedgerow_pages::GroupReplica>> {
        self.0.running.replicas()
    }

    /// Answers an operator's request as the RPC service would.
    pub async fn admin(&self, request: AdminRequest) -> AdminReply {
        let admin = self
            .0
            .admin
            .lock()
            .expect("no panic under this lock")
            .clone();
        match admin {
            Some(admin) => admin.reply(request).await,
            None => AdminReply::TryAgain("the node is not in a cluster yet".into()),
        }
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
