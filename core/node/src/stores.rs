//! The stores of a node and what their superblocks say of it.

use hedgerow_disk::superblock::SuperblockError;
use hedgerow_disk::{Recovery, Store, StoreError};
use hedgerow_env::{ClusterId, Env, NodeId, event};
use hedgerow_net::StoreStamp;
use hedgerow_protocol::{Roles, StoreRecord};

use crate::config::NodeConfig;

/// The open stores of a node; the first is the system store.
pub(crate) struct Stores {
    pub(crate) node: NodeId,
    pub(crate) all: Vec<Store>,
    records: Vec<StoreRecord>,
}

impl Stores {
    /// Opens every pool. Answers what the recovery of each found, in the same order.
    pub(crate) async fn open(
        env: &Env,
        config: &NodeConfig,
    ) -> Result<(Self, Vec<Recovery>), StoreError> {
        let mut node = None;
        let mut all = Vec::new();
        let mut records = Vec::new();
        let mut recoveries = Vec::new();
        for (position, pool) in config.pools.iter().enumerate() {
            let mut store_config = config.scale.store();
            store_config.node = node;
            store_config.pool = u16::try_from(position).expect("a node has few pools");
            store_config.is_system = position == 0;
            store_config.capacity_bytes = Some(pool.capacity_bytes);
            let (store, recovery) = Store::open(env, &pool.directory, store_config).await?;
            let content = store.superblock().content();
            node = Some(content.node);
            event!(
                env,
                Info,
                "node",
                "store {} in {}: {} blobs, start {}",
                store.id(),
                pool.directory,
                recovery.blobs,
                recovery.session
            );
            records.push(StoreRecord {
                store: store.id(),
                capacity_bytes: pool.capacity_bytes,
                residence: pool.residence,
                system: position == 0,
            });
            all.push(store);
            recoveries.push(recovery);
        }
        let node = node.expect("a configuration has a pool");
        Ok((Self { node, all, records }, recoveries))
    }

    pub(crate) fn system(&self) -> &Store {
        &self.all[0]
    }

    /// What the root is told of the stores; a node without the role keeps its blobs to itself.
    pub(crate) fn records(&self, roles: Roles) -> Vec<StoreRecord> {
        let serves = roles.contains(Roles::HBLOCK);
        self.records
            .iter()
            .filter(|record| serves || record.system)
            .cloned()
            .collect()
    }

    /// The cluster that the system store belongs to.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.system().superblock().content().cluster
    }

    /// Makes every store belong to `cluster`, durably; the system store last, since it decides.
    pub(crate) async fn belong_to(&self, cluster: ClusterId) -> Result<(), SuperblockError> {
        for store in self.all.iter().rev() {
            if store.superblock().content().cluster != Some(cluster) {
                store
                    .superblock()
                    .update(|content| content.cluster = Some(cluster))
                    .await?;
            }
        }
        Ok(())
    }

    /// The stamps that handshakes show.
    pub(crate) fn stamps(&self) -> Vec<StoreStamp> {
        let stamp = |store: &Store| StoreStamp {
            store: store.id(),
            start_count: store.session(),
            start_nonce: store.start_nonce(),
            reported_durable: store.journal().reported().0,
        };
        self.all.iter().map(stamp).collect()
    }

    /// A value that the node keeps in the system store's superblock.
    pub(crate) fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.system()
            .superblock()
            .content()
            .values
            .get(key)
            .cloned()
    }

    /// Sets or removes such a value, durably.
    pub(crate) async fn set_value(
        &self,
        key: &[u8],
        value: Option<Vec<u8>>,
    ) -> Result<(), SuperblockError> {
        let key = key.to_vec();
        self.system()
            .superblock()
            .update(move |content| {
                match value {
                    Some(value) => content.values.insert(key, value),
                    None => content.values.remove(&key),
                };
            })
            .await
    }
}
