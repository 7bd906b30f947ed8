//! [`HBlock`]: the data service of one node, assembled from its parts.
//!
//! Invariants: every task that it starts ends with it; it answers nothing before every store's
//! records are recovered; a store that stops takes the node with it when it is the system pool.
//! Does not: open stores, or decide anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Env, GroupId, Instant, StoreId, TaskHandle, event};
use hedgerow_protocol::{CodecError, HBlockReply, HBlockRequest, decode};

use crate::context::Context;
use crate::local::Local;
use crate::member::{ContainerRecord, Member};
use crate::ports::{BlobStore, ControlKey, Members, Shards, StoreFault, StoreUsage};
use crate::promises::StorePromises;
use crate::pull::{FeedRecord, Reader};
use crate::service::{Front, Locals};
use crate::{HBlockConfig, repair, scrub, sweep};

/// How often the shard table is looked at for new shards.
const TABLE_INTERVAL: Duration = Duration::from_millis(500);

/// Why HBlock could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HBlockError {
    /// The store failed while its records were read.
    #[error("{store}: {fault}")]
    Store {
        /// The store.
        store: StoreId,
        /// What it said.
        fault: StoreFault,
    },
    /// A record does not decode: the store was written by a newer build.
    #[error("{store}: a control record is unreadable: {fault}")]
    Record {
        /// The store.
        store: StoreId,
        /// What the codec said.
        fault: CodecError,
    },
}

/// What one store tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The store.
    pub store: StoreId,
    /// Its room.
    pub usage: StoreUsage,
    /// Copies that are known to be damaged now.
    pub damaged: u64,
    /// Copies that were written anew since the start.
    pub repaired: u64,
    /// Blobs that their shards do not know.
    pub quarantined: u64,
    /// Why it stopped, if it did.
    pub stopped: Option<String>,
}

/// The data service of one node. Clones share everything.
#[derive(Clone)]
pub struct HBlock(Arc<Inner>);

struct Inner {
    context: Arc<Context>,
    front: Front,
    tasks: Mutex<Vec<TaskHandle>>,
}

/// An HBlock that this does not keep alive.
pub(crate) struct WeakHBlock(Weak<Inner>);

impl WeakHBlock {
    pub(crate) fn upgrade(&self) -> Option<HBlock> {
        self.0.upgrade().map(HBlock)
    }
}

impl HBlock {
    pub(crate) fn downgrade(&self) -> WeakHBlock {
        WeakHBlock(Arc::downgrade(&self.0))
    }

    /// Recovers the stores' records and starts the loops.
    ///
    /// # Errors
    /// [`HBlockError`]: nothing runs then.
    pub async fn with_ports(
        env: Env,
        stores: Vec<Arc<dyn BlobStore>>,
        members: Arc<dyn Members>,
        shards: Arc<dyn Shards>,
        config: HBlockConfig,
    ) -> Result<Self, HBlockError> {
        let context = Context::new(env.clone(), config, members, shards);
        let mut locals = Locals::new();
        let mut positions = BTreeMap::new();
        for store in stores {
            let id = store.id();
            let (member, handled) = recover(store.as_ref()).await?;
            let local = Local::new(env.clone(), store, member);
            for name in local.store().damaged() {
                local.wound(name);
            }
            positions.insert(id, handled);
            locals.insert(id, local);
        }
        let mut tasks = Vec::new();
        for (id, local) in &locals {
            let handled = positions.remove(id).unwrap_or_default();
            tasks.extend(start_store(&context, local, handled));
        }
        let front = Front {
            context: Arc::clone(&context),
            locals,
        };
        Ok(Self(Arc::new(Inner {
            context,
            front,
            tasks: Mutex::new(tasks),
        })))
    }

    /// Answers one request.
    pub async fn answer(
        &self,
        request: HBlockRequest,
        payload: Bytes,
        deadline: Instant,
    ) -> (HBlockReply, Bytes) {
        self.0.front.answer(request, payload, deadline).await
    }

    /// What each store tells of itself, by id.
    #[must_use]
    pub fn status(&self) -> Vec<StoreStatus> {
        let locals = self.0.front.locals.values();
        locals
            .map(|local| {
                let wounds = local.wound_counters();
                StoreStatus {
                    store: local.id(),
                    usage: local.store().usage(),
                    damaged: wounds.damaged,
                    repaired: wounds.repaired,
                    quarantined: local.quarantined(),
                    stopped: local.stopped(),
                }
            })
            .collect()
    }

    /// Room of all stores together.
    #[must_use]
    pub fn usage(&self) -> StoreUsage {
        let mut total = StoreUsage::default();
        for status in self.status() {
            total.capacity_bytes += status.usage.capacity_bytes;
            total.used_bytes += status.usage.used_bytes;
            total.blobs += status.usage.blobs;
        }
        total
    }

    /// What each store promises in this life.
    #[must_use]
    pub fn promises(&self) -> Vec<(StoreId, Arc<StorePromises>)> {
        let locals = self.0.front.locals.values();
        locals.map(|local| (local.id(), local.promises())).collect()
    }

    /// Copies that are known to be damaged now, in all stores.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.status().iter().map(|status| status.damaged).sum()
    }

    /// Stops: new requests are refused at once, running writes may finish for the configured time,
    /// then every loop ends. The stores stay open.
    pub async fn shutdown(&self) {
        let context = &self.0.context;
        context.stop();
        let drained = async {
            context.writes.drained().await;
            context.stores.drained().await;
        };
        let limit = context.config.drain_limit;
        if context.env.timeout(limit, drained).await.is_err() {
            event!(
                context.env,
                Info,
                "hblock",
                "stopping with writes under way"
            );
        }
        self.0.end_tasks();
    }
}

impl Inner {
    fn end_tasks(&self) {
        let mut tasks = self.tasks.lock().expect("no panic under this lock");
        for task in tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_tasks();
    }
}

/// What a store's records say: its member core, and how far each feed was handled.
async fn recover(store: &dyn BlobStore) -> Result<(Member, BTreeMap<GroupId, u64>), HBlockError> {
    let id = store.id();
    let records = store.records().await;
    let records = records.map_err(|fault| HBlockError::Store { store: id, fault })?;
    let unreadable = |fault| HBlockError::Record { store: id, fault };
    let mut containers = Vec::new();
    let mut handled = BTreeMap::new();
    for (key, value) in records {
        match key {
            ControlKey::Container(_) => {
                let record: ContainerRecord = decode(&value).map_err(unreadable)?;
                containers.push(record);
            }
            ControlKey::Feed(_) => {
                let record: FeedRecord = decode(&value).map_err(unreadable)?;
                handled.insert(record.group, record.handled);
            }
        }
    }
    Ok((Member::recovered(containers), handled))
}

/// Starts the loops of one store.
fn start_store(
    context: &Arc<Context>,
    local: &Arc<Local>,
    handled: BTreeMap<GroupId, u64>,
) -> Vec<TaskHandle> {
    let env = &context.env;
    let pair = || (Arc::clone(context), Arc::clone(local));
    let mut tasks = Vec::new();
    let (loop_context, loop_local) = pair();
    tasks.push(env.spawn("hblock-repair", repair::run(loop_context, loop_local)));
    let (loop_context, loop_local) = pair();
    tasks.push(env.spawn("hblock-sweep", sweep::run(loop_context, loop_local)));
    let (loop_context, loop_local) = pair();
    tasks.push(env.spawn("hblock-scrub", scrub::run(loop_context, loop_local)));
    let watched = Arc::clone(local);
    tasks.push(env.spawn("hblock-store-watch", async move {
        let fault = watched.store().stopped().await;
        watched.refusal(fault);
    }));
    let (loop_context, loop_local) = pair();
    let feeds = read_feeds(loop_context, loop_local, handled);
    tasks.push(env.spawn("hblock-feeds", feeds));
    tasks
}

/// Runs one reader for each shard of the table, as shards come and go.
async fn read_feeds(context: Arc<Context>, local: Arc<Local>, mut handled: BTreeMap<GroupId, u64>) {
    let mut readers = BTreeMap::new();
    while local.stopped().is_none() {
        let groups = context.shards.groups();
        for group in &groups {
            readers.entry(*group).or_insert_with(|| {
                let reader = Reader::new(
                    Arc::clone(&context),
                    Arc::clone(&local),
                    *group,
                    handled.remove(group).unwrap_or(0),
                );
                let task = context.env.spawn("hblock-feed", reader.run());
                task.abort_on_drop()
            });
        }
        // Dropping a reader ends it. A shard that comes back is read from its beginning.
        readers.retain(|group, _| groups.contains(group));
        context.env.sleep(TABLE_INTERVAL).await;
    }
}
