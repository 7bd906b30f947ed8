//! The stores of a node and what their superblocks say of it.
//!
//! Invariants: a node enters one cluster, once; what it needs to know of the cluster is durable
//! together with that, in one update of the system store; entering goes on to its end, whoever
//! stops waiting for it. Does not: decide which cluster to enter.

use std::sync::Arc;

use hedgerow_disk::superblock::SuperblockError;
use hedgerow_disk::{Recovery, Store, StoreError};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{ClusterId, Env, NodeId, event};
use hedgerow_net::StoreStamp;
use hedgerow_protocol::{Roles, StoreRecord};

use crate::config::NodeConfig;

/// Values to be kept in the system store's superblock.
pub(crate) type Values = Vec<(Vec<u8>, Vec<u8>)>;

/// The open stores of a node; the first is the system store.
pub(crate) struct Stores {
    env: Env,
    /// Held while the node enters a cluster.
    entering: tokio::sync::Mutex<()>,
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
        let stores = Self {
            env: env.clone(),
            entering: tokio::sync::Mutex::default(),
            node,
            all,
            records,
        };
        Ok((stores, recoveries))
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

    /// Makes every store belong to `cluster`, durably, and keeps `values`, unless the node belongs
    /// to another cluster. Answers the cluster that it belongs to.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        cluster: ClusterId,
        values: Values,
    ) -> Result<ClusterId, SuperblockError> {
        let this = Arc::clone(self);
        let entering = async move { this.enter_now(cluster, values).await };
        self.env.to_the_end("enter-cluster", entering).await
    }

    async fn enter_now(
        &self,
        cluster: ClusterId,
        mut values: Values,
    ) -> Result<ClusterId, SuperblockError> {
        let _one = self.entering.lock().await;
        let own = self.cluster();
        let foreign = own.filter(|own| *own != cluster);
        if let Some(other) = foreign.filter(|_| !active(Mutant::ClaimOverwrites)) {
            return Ok(other);
        }
        if own.is_some() {
            // Claimed again, or claimed after it joined: what it keeps stays.
            values.retain(|(key, _)| self.value(key).is_none());
            if values.is_empty() {
                return Ok(cluster);
            }
        }
        // The system store last, since it decides.
        for store in self.all[1..].iter().rev() {
            if store.superblock().content().cluster != Some(cluster) {
                let change = store.superblock();
                change
                    .update(move |content| content.cluster = Some(cluster))
                    .await?;
            }
        }
        self.system()
            .superblock()
            .update(move |content| {
                content.cluster = Some(cluster);
                content.values.extend(values);
            })
            .await?;
        Ok(cluster)
    }

    /// The stamps that handshakes show.
    pub(crate) fn stamps(&self) -> Vec<StoreStamp> {
        let stamp = |store: &Store| StoreStamp {
            store: store.id(),
            start_count: store.session(),
            start_nonce: store.start_nonce(),
            reported_durable: if active(Mutant::StampsShowUndurable) {
                store.journal().end().0
            } else {
                store.journal().reported().0
            },
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

    /// Removes such a value, durably.
    pub(crate) async fn forget_value(&self, key: &'static [u8]) -> Result<(), SuperblockError> {
        self.system()
            .superblock()
            .update(move |content| {
                content.values.remove(key);
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::future::join;
    use hedgerow_disk::testing::World;
    use hedgerow_protocol::{Location, Residence};

    use super::*;
    use crate::config::{GroupTiming, PoolConfig, StoreScale};

    const KEY: &[u8] = b"cluster.root";

    async fn open(env: &Env) -> Arc<Stores> {
        let pool = |number: u32| PoolConfig {
            directory: format!("pool-{number}"),
            residence: Residence::Hdd,
            capacity_bytes: 64 << 20,
        };
        let config = NodeConfig {
            name: "node".into(),
            listen: "node:1".into(),
            advertise: "node:1".into(),
            seeds: vec!["node:1".into()],
            roles: Roles::ALL,
            location: Location::default(),
            pools: vec![pool(0), pool(1)],
            iscsi: None,
            shards: 1,
            timing: GroupTiming::default(),
            scale: StoreScale::Simulation,
        };
        Arc::new(Stores::open(env, &config).await.unwrap().0)
    }

    fn clusters(stores: &Stores) -> Vec<Option<ClusterId>> {
        let of = |store: &Store| store.superblock().content().cluster;
        stores.all.iter().map(of).collect()
    }

    #[test]
    fn an_entry_that_nobody_awaits_any_more_goes_on_to_its_end() {
        let world = World::new(1);
        let env = world.env();
        world.run(async move {
            let stores = open(&env).await;
            let value = vec![(KEY.to_vec(), b"root".to_vec())];
            {
                let mut entering = std::pin::pin!(stores.enter(ClusterId(7), value));
                std::future::poll_fn(|context| {
                    assert!(entering.as_mut().poll(context).is_pending());
                    Poll::Ready(())
                })
                .await;
            }
            env.sleep(std::time::Duration::from_secs(1)).await;
            assert_eq!(clusters(&stores), [Some(ClusterId(7)); 2]);
            assert_eq!(stores.value(KEY), Some(b"root".to_vec()));
        });
    }

    #[test]
    fn of_two_clusters_one_is_entered_with_its_own_values() {
        let world = World::new(2);
        let env = world.env();
        world.run(async move {
            let stores = open(&env).await;
            let value = |text: &[u8]| vec![(KEY.to_vec(), text.to_vec())];
            let (one, two) = join(
                stores.enter(ClusterId(1), value(b"one")),
                stores.enter(ClusterId(2), value(b"two")),
            )
            .await;
            let entered = one.unwrap();
            assert_eq!(two, Ok(entered));
            assert_eq!(clusters(&stores), [Some(entered); 2]);
            let expected: &[u8] = if entered == ClusterId(1) {
                b"one"
            } else {
                b"two"
            };
            assert_eq!(stores.value(KEY).as_deref(), Some(expected));
            // Claimed again by the same cluster: what it keeps stays.
            let again = stores.enter(entered, value(b"other")).await;
            assert_eq!(again, Ok(entered));
            assert_eq!(stores.value(KEY).as_deref(), Some(expected));
        });
    }
}
