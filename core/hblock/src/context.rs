//! What every driver of one HBlock shares: ports, limits, budgets.
//!
//! Does not: decide anything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{BlobName, Env, Instant, StoreId, event};
use hedgerow_protocol::{
    BlobHeader, HBlockRefusal, HBlockReply, HBlockRequest, NameState, ShardReply, ShardRequest,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::HBlockConfig;
use crate::budget::Budget;
use crate::config::{room_for, room_of};
use crate::ports::{Destination, Members, Shards};
use crate::verify::verify_blob;

/// How long a source that gave no answer is asked last.
const SILENCE: Duration = Duration::from_secs(5);

/// Room for one kind of work, counted in bytes.
pub(crate) struct Room {
    limit: u32,
    permits: Arc<Semaphore>,
}

impl Room {
    fn new(limit: u32) -> Self {
        let permits = usize::try_from(room_of(limit)).expect("32 bits fit usize here");
        Self {
            limit,
            permits: Arc::new(Semaphore::new(permits)),
        }
    }

    /// Room for `bytes` at once, or none.
    pub(crate) fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let room = room_for(bytes, self.limit);
        Arc::clone(&self.permits).try_acquire_many_owned(room).ok()
    }

    async fn wait(&self, bytes: u64) -> OwnedSemaphorePermit {
        let room = room_for(bytes, self.limit);
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_many_owned(room).await;
        permit.expect("the semaphore is never closed")
    }

    /// Waits until nothing is under way.
    pub(crate) async fn drained(&self) {
        drop(self.wait(u64::from(self.limit)).await);
    }
}

/// What every driver of one HBlock shares.
pub(crate) struct Context {
    pub(crate) env: Env,
    pub(crate) config: HBlockConfig,
    pub(crate) members: Arc<dyn Members>,
    pub(crate) shards: Arc<dyn Shards>,
    pub(crate) writes: Room,
    pub(crate) stores: Room,
    pub(crate) late: Room,
    pub(crate) reads: Arc<Semaphore>,
    fetches: Semaphore,
    fetch_budget: Mutex<Budget>,
    /// Sources that gave no answer, and until when they are asked last. As many as there are
    /// stores.
    silent: Mutex<BTreeMap<StoreId, Instant>>,
    stopping: AtomicBool,
}

impl Context {
    pub(crate) fn new(
        env: Env,
        config: HBlockConfig,
        members: Arc<dyn Members>,
        shards: Arc<dyn Shards>,
    ) -> Arc<Self> {
        let permits = |count: u32| usize::try_from(count.max(1)).expect("32 bits fit usize here");
        let budget = Budget::new(config.fetch_bytes_per_second, env.now());
        Arc::new(Self {
            members,
            shards,
            writes: Room::new(config.write_bytes),
            stores: Room::new(config.store_bytes),
            late: Room::new(config.late_bytes),
            reads: Arc::new(Semaphore::new(permits(config.reads))),
            fetches: Semaphore::new(permits(config.fetches)),
            fetch_budget: Mutex::new(budget),
            silent: Mutex::default(),
            stopping: AtomicBool::new(false),
            env,
            config,
        })
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits for room, for as long as a request may.
    pub(crate) async fn room(
        &self,
        room: &Room,
        bytes: u64,
    ) -> Result<OwnedSemaphorePermit, HBlockRefusal> {
        let waited = self
            .env
            .timeout(self.config.room_wait, room.wait(bytes))
            .await;
        waited.map_err(|_| HBlockRefusal::Busy {
            reason: "too many bytes in flight".to_owned(),
        })
    }

    /// Fetches a blob from one of `sources`, within the node's budget. Only a copy whose every unit
    /// has its digest is answered.
    pub(crate) async fn fetch(
        &self,
        name: BlobName,
        sources: &[StoreId],
    ) -> Option<(BlobHeader, Bytes)> {
        let permit = self.fetches.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        for source in self.in_turn(name, sources) {
            let Some((header, payload)) = self.fetch_from(name, source).await else {
                continue;
            };
            let bytes = u64::try_from(payload.len()).expect("usize fits 64 bits");
            let now = self.env.now();
            let free_at = {
                let mut budget = self.fetch_budget.lock().expect("no panic under this lock");
                budget.spend(now, bytes)
            };
            self.env.sleep_until(free_at).await;
            return Some((header, payload));
        }
        None
    }

    /// The sources, spread over by name, those that lately gave no answer last.
    fn in_turn(&self, name: BlobName, sources: &[StoreId]) -> Vec<StoreId> {
        let mut sources = sources.to_vec();
        let count = u64::try_from(sources.len().max(1)).expect("usize fits 64 bits");
        let first = usize::try_from(name.sequence.0 % count).expect("less than a usize");
        sources.rotate_left(first);
        let now = self.env.now();
        let silent = self.silent.lock().expect("no panic under this lock");
        sources.sort_by_key(|source| silent.get(source).is_some_and(|until| *until > now));
        sources
    }

    async fn fetch_from(&self, name: BlobName, source: StoreId) -> Option<(BlobHeader, Bytes)> {
        let request = HBlockRequest::Fetch {
            store: source,
            name,
        };
        let timeout = self.config.fetch_timeout;
        let to = Destination::Store(source);
        match self.members.call(to, request, Bytes::new(), timeout).await {
            Ok((HBlockReply::Blob(header), payload)) => {
                let sound = header.name == name && verify_blob(&header, &payload).is_ok();
                if !sound {
                    event!(self.env, Warn, "hblock", "{source} sent a damaged {name}");
                }
                sound.then_some((header, payload))
            }
            Ok((reply, _)) => {
                event!(
                    self.env,
                    Debug,
                    "hblock",
                    "fetch of {name} from {source}: {reply:?}"
                );
                None
            }
            Err(fault) => {
                event!(
                    self.env,
                    Debug,
                    "hblock",
                    "fetch of {name} from {source}: {fault}"
                );
                let until = self.env.now() + SILENCE;
                let mut silent = self.silent.lock().expect("no panic under this lock");
                silent.insert(source, until);
                None
            }
        }
    }

    /// What the shard of `names`, all of one container, knows of them; `None` without an answer.
    pub(crate) async fn name_states(
        &self,
        store: StoreId,
        names: &[BlobName],
    ) -> Option<Vec<NameState>> {
        let group = self.shards.shard_of(names.first()?.container)?;
        let request = ShardRequest::Names {
            store,
            names: names.to_vec(),
        };
        let asked = self
            .shards
            .ask(group, request, self.config.shard_timeout)
            .await;
        match asked {
            Ok(ShardReply::Names(states)) if states.len() == names.len() => Some(states),
            Ok(reply) => {
                event!(
                    self.env,
                    Warn,
                    "hblock",
                    "{group}: unexpected answer {reply:?}"
                );
                None
            }
            Err(fault) => {
                event!(self.env, Debug, "hblock", "{group}: names: {fault}");
                None
            }
        }
    }
}
