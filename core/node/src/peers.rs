//! Roll-back detection (DESIGN section 6): what this node knows, durably, of its peers' stores, and
//! the judgement of its own stores by what peers know of them.
//!
//! Invariants: what is shown to a peer as known is durable here; a store that a peer knows better
//! than itself is marked *rolled back* before the node halts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_disk::superblock::PeerKnowledge;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{Env, HaltReason, NodeId, StoreId, event};
use hedgerow_net::{Directory, PeerObserver, StoreStamp};
use tokio::sync::Notify;

use crate::halting;
use crate::rollback::{History, judge};
use crate::stores::Stores;

/// The node's memory of stores.
pub(crate) struct Peers {
    env: Env,
    stores: Arc<Stores>,
    directory: Arc<Directory>,
    pending: Mutex<BTreeMap<StoreId, PeerKnowledge>>,
    wake: Notify,
}

impl Peers {
    pub(crate) fn start(env: Env, stores: Arc<Stores>, directory: Arc<Directory>) -> Arc<Self> {
        let peers = Arc::new(Self {
            env: env.clone(),
            stores,
            directory,
            pending: Mutex::default(),
            wake: Notify::new(),
        });
        let keeping = Arc::clone(&peers);
        env.spawn("peer-knowledge", async move { keeping.keep().await });
        peers
    }

    /// Makes what was learned durable; many handshakes may share one update.
    async fn keep(&self) {
        loop {
            self.wake.notified().await;
            let learned =
                std::mem::take(&mut *self.pending.lock().expect("no panic under this lock"));
            if learned.is_empty() {
                continue;
            }
            let superblock = self.stores.system().superblock();
            let update = superblock.update(move |content| {
                for (store, knowledge) in learned {
                    content.peers.entry(store).or_default().learn(knowledge);
                }
            });
            if let Err(error) = update.await {
                self.env.halt(halting::of_superblock(&error));
                return;
            }
        }
    }
}

impl PeerObserver for Peers {
    fn met(&self, node: NodeId, address: &str) {
        self.directory.told(node, address);
    }

    fn knowledge(&self, store: StoreId) -> Option<StoreStamp> {
        let content = self.stores.system().superblock().content();
        content.peers.get(&store).map(|known| StoreStamp {
            store,
            start_count: known.start_count,
            start_nonce: known.start_nonce,
            reported_durable: known.position,
        })
    }

    fn learned(&self, _node: NodeId, stamps: &[StoreStamp]) {
        let content = self.stores.system().superblock().content();
        let mut pending = self.pending.lock().expect("no panic under this lock");
        let mut news = false;
        for stamp in stamps {
            let known = content.peers.get(&stamp.store).copied().unwrap_or_default();
            if stamp.start_count > known.start_count || stamp.reported_durable > known.position {
                pending
                    .entry(stamp.store)
                    .or_default()
                    .learn(PeerKnowledge {
                        start_count: stamp.start_count,
                        start_nonce: stamp.start_nonce,
                        position: stamp.reported_durable,
                    });
                news = true;
            }
        }
        if news {
            self.wake.notify_one();
        }
    }

    fn judged(&self, by: NodeId, known: &[StoreStamp]) {
        if active(Mutant::RollBackUnjudged) {
            return;
        }
        for stamp in known {
            let own = self
                .stores
                .all
                .iter()
                .find(|store| store.id() == stamp.store);
            let Some(store) = own else { continue };
            let began_at = store.began_at().0;
            let content = store.superblock().content();
            let own = History {
                session: store.session(),
                began_at,
                starts: &content.starts,
            };
            let Some(proof) = judge(own, stamp) else {
                continue;
            };
            let text = format!(
                "store {}: {by} knows start {} ({:016x}) and position {}, this is start {} from \
                 position {began_at}: {proof}, so an old image was restored. Remove the pool's \
                 folder and let the node join with a blank store",
                stamp.store,
                stamp.start_count,
                stamp.start_nonce,
                stamp.reported_durable,
                store.session()
            );
            event!(self.env, Error, "node", "{text}");
            let (env, store) = (self.env.clone(), store.clone());
            self.env.spawn("rolled-back", async move {
                let marked = store
                    .superblock()
                    .update(|content| content.rolled_back = true)
                    .await;
                let text = match marked {
                    Ok(()) => text,
                    Err(error) => format!("{text} (not marked: {error})"),
                };
                env.halt(HaltReason::RolledBack(text));
            });
        }
    }
}
