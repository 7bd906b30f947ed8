//! [`VirtualDisk`]: one attachment of a disk, from attach until detach or loss.
//!
//! Invariant: an attachment lives under one generation and one writer id. When the shard or the
//! root says that it was fenced it is *lost* for good: outstanding writes end as
//! [`IoError::Fenced`], whose outcome is unknown, and a new attachment begins anew. Whoever has to
//! tell an outcome uses [`crate::Proxy::change`], which sees a write through beyond the loss.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{
    ContainerId, ContainerIndex, Env, Generation, GroupId, LayerId, Phase, Sequence, VirtualDiskId,
    WriterId, event,
};
use hedgerow_net::{GroupClient, Rpc};
use hedgerow_protocol::{
    DiskRecord, Grant, RootAnswer, RootQuery, ShardCommand, ShardOutcome, ShardRefusal, ShardReply,
    ShardRequest,
};
use tokio::sync::Notify;

use crate::change::Change;
use crate::claims::Sharing;
use crate::commit::Committers;
use crate::container::Container;
use crate::lasting::{Lasting, Operation, OperationTag};
use crate::lease::Lease;
use crate::pieces::{Piece, pieces};

/// Pause between attempts that failed for reasons which pass.
pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(20);
/// The pause doubles up to this.
pub(crate) const RETRY_LIMIT: Duration = Duration::from_millis(640);
/// How long a read is tried before it is answered [`IoError::Unavailable`]; initiators time out
/// after 30 s or more.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(25);
/// How long the background fencing of one container is tried before its shard is asked again.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

/// Containers cleared at once beyond the end of a disk.
const CLEARED_AT_ONCE: usize = 16;
/// Containers fenced at once in the background: they share entries of a shard's log.
const FENCES_AT_ONCE: usize = 64;

/// Why an operation did not succeed, by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The request is wrong: beyond the end of the disk.
    #[error("beyond the end of the disk")]
    OutOfRange,
    /// The request is wrong: not a multiple of the disk's block size.
    #[error("not aligned to the block size of {block_size} bytes")]
    Misaligned {
        /// The disk's block size.
        block_size: u32,
    },
    /// This attachment was fenced. The outcome of a write is unknown.
    #[error("the attachment was fenced")]
    Fenced,
    /// The operation was cancelled, and has no effect from here on. Of one that spans several
    /// pieces (of one container, 1 MiB at most) some may have been done before; none is in part.
    #[error("cancelled")]
    Cancelled,
    /// For [`crate::ROOM_LIMIT`] too few stores had room, and the write was withdrawn. It has no effect
    /// from here on; try again when there is space.
    #[error("no room in the cluster")]
    NoRoom {
        /// Some pieces of it (of one container, 1 MiB at most) were done; none is in part.
        in_part: bool,
    },
    /// A read found no usable copy in time: try again later.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// What the driver files share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) rpc: Rpc,
    pub(crate) groups: GroupClient,
    pub(crate) committers: Arc<Committers>,
    pub(crate) lease: Arc<Mutex<Lease>>,
    pub(crate) lasting: Arc<Lasting>,
    pub(crate) record: DiskRecord,
    pub(crate) generation: Generation,
    pub(crate) writer: WriterId,
    size_bytes: AtomicU64,
    containers: Mutex<BTreeMap<ContainerIndex, Arc<Container>>>,
    /// Every container that existed at the attach is fenced.
    fenced_all: AtomicBool,
    fenced_signal: Notify,
    /// A range of which some copy was missing is being looked up again.
    pub(crate) looking_again: AtomicBool,
    lost: AtomicBool,
    lost_signal: Notify,
    /// A newer map is being got.
    following: AtomicBool,
    under_way: AtomicU64,
    idle_signal: Notify,
}

/// One attachment of a disk.
#[derive(Clone)]
pub struct VirtualDisk(pub(crate) Arc<Shared>);

/// Counts an operation as under way until dropped.
pub(crate) struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle_signal.notify_waiters();
        }
    }
}

impl VirtualDisk {
    pub(crate) fn new(
        env: Env,
        rpc: Rpc,
        groups: GroupClient,
        committers: Arc<Committers>,
        lease: Arc<Mutex<Lease>>,
        lasting: Arc<Lasting>,
        grant: Grant,
    ) -> Self {
        let size_bytes = AtomicU64::new(grant.disk.size_bytes);
        let disk = Self(Arc::new(Shared {
            env,
            rpc,
            groups,
            committers,
            lease,
            generation: grant.disk.generation,
            writer: grant.writer,
            record: grant.disk,
            size_bytes,
            containers: Mutex::default(),
            lasting,
            fenced_all: AtomicBool::new(false),
            fenced_signal: Notify::new(),
            looking_again: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            lost_signal: Notify::new(),
            following: AtomicBool::new(false),
            under_way: AtomicU64::new(0),
            idle_signal: Notify::new(),
        }));
        let shared = Arc::clone(&disk.0);
        disk.0
            .env
            .spawn("proxy-fence", async move { shared.fence_existing().await });
        let shared = Arc::clone(&disk.0);
        disk.0.env.spawn("proxy-relocate", shared.relocate());
        disk
    }

    /// The disk as it stood when it was attached.
    #[must_use]
    pub fn record(&self) -> &DiskRecord {
        &self.0.record
    }

    /// The disk.
    #[must_use]
    pub fn id(&self) -> VirtualDiskId {
        self.0.record.disk
    }

    /// The writer id of this attachment.
    #[must_use]
    pub fn writer(&self) -> WriterId {
        self.0.writer
    }

    /// The present size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes.load(Ordering::SeqCst)
    }

    /// The root said that the disk has this size now.
    pub fn set_size_bytes(&self, size_bytes: u64) {
        self.0.size_bytes.store(size_bytes, Ordering::SeqCst);
    }

    /// Whether this attachment was fenced.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    /// Completes when this attachment is fenced.
    pub async fn lost(&self) {
        self.0.wait_lost().await;
    }

    /// Ends this attachment here: nothing more is read or written under it.
    pub fn lose(&self, reason: &str) {
        self.0.lose(reason);
    }

    /// The same, when it was released.
    pub(crate) fn detached(&self) {
        self.0.detached();
    }

    fn check_alignment(&self, bytes: u64) -> Result<(), IoError> {
        let block_size = self.0.record.policy.block_size;
        if bytes.is_multiple_of(u64::from(block_size)) {
            Ok(())
        } else {
            Err(IoError::Misaligned { block_size })
        }
    }

    pub(crate) fn check(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.check_alignment(offset | length)?;
        match offset.checked_add(length) {
            Some(end) if end <= self.size_bytes() => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }

    /// Reads `length` bytes at `offset`, both multiples of the block size.
    ///
    /// # Errors
    /// [`IoError`].
    pub async fn read(&self, offset: u64, length: u64) -> Result<Bytes, IoError> {
        self.check(offset, length)?;
        let _under_way = self.0.begin();
        let container_bytes = self.0.record.container_bytes;
        let cut = pieces(offset, length, container_bytes, container_bytes);
        let parts = cut.iter().map(|piece| self.0.read_piece(piece));
        let parts: Result<Vec<Bytes>, IoError> = join_all(parts).await.into_iter().collect();
        let mut parts = parts?;
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        Ok(parts.concat().into())
    }

    /// Writes `data` at `offset`; durable and visible when it returns.
    ///
    /// # Errors
    /// [`IoError`]; after [`IoError::Fenced`] the outcome is unknown.
    pub async fn write(&self, offset: u64, data: Bytes, tag: OperationTag) -> Result<(), IoError> {
        self.once(Change::write(offset, data), tag).await
    }

    /// Makes `[offset, offset + length)` read as zeros and gives its space back.
    ///
    /// # Errors
    /// [`IoError`]; after [`IoError::Fenced`] the outcome is unknown.
    pub async fn zero(&self, offset: u64, length: u64, tag: OperationTag) -> Result<(), IoError> {
        self.once(Change::zero(offset, length), tag).await
    }

    /// Waits until every container that existed when this disk was attached is fenced under this
    /// attachment: from then on nothing that an earlier holder began can take effect any more.
    /// Detach, resets and the reinstatement of a session wait for it.
    ///
    /// # Errors
    /// [`IoError::Fenced`].
    pub async fn settled(&self) -> Result<(), IoError> {
        loop {
            let fenced = self.0.fenced_signal.notified();
            let lost = self.0.lost_signal.notified();
            if self.is_lost() {
                return Err(IoError::Fenced);
            }
            if self.0.fenced_all.load(Ordering::SeqCst) {
                return Ok(());
            }
            futures_util::future::select(std::pin::pin!(fenced), std::pin::pin!(lost)).await;
        }
    }

    /// Makes everything in `range` (bytes, whole blocks; also beyond the end) read as zeros, should
    /// the disk ever reach there. Only containers that exist are touched, a few at a time: a cut
    /// through a disk that is almost all thin air costs next to nothing.
    ///
    /// # Errors
    /// [`IoError`]; after [`IoError::Fenced`] the outcome is unknown.
    pub async fn clear(&self, range: Range<u64>, tag: OperationTag) -> Result<(), IoError> {
        self.check_alignment(range.start | range.end)?;
        // Every container that existed is known from then on, and an older one cannot be filled.
        self.settled().await?;
        let container_bytes = self.0.record.container_bytes;
        let existing = self.0.known_containers();
        let cut: Vec<Piece> = existing
            .iter()
            .filter_map(|container| Piece::within(container.id.index, &range, container_bytes))
            .collect();
        self.operation(tag, (range, Sharing::Shared), |operation| {
            let shared = Arc::clone(&self.0);
            async move {
                let _under_way = shared.begin();
                for some in cut.chunks(CLEARED_AT_ONCE) {
                    let parts = some
                        .iter()
                        .map(|piece| shared.write_piece(piece, None, &operation));
                    let parts: Result<(), IoError> = join_all(parts).await.into_iter().collect();
                    parts?;
                }
                Ok(())
            }
        })
        .await
    }

    /// Everything acknowledged is durable already; this only tells whether the attachment stands.
    ///
    /// # Errors
    /// [`IoError::Fenced`].
    pub fn flush(&self) -> Result<(), IoError> {
        if self.is_lost() {
            Err(IoError::Fenced)
        } else {
            Ok(())
        }
    }

    /// Runs an operation under this attachment, in a task of its own.
    pub(crate) async fn operation<F, W>(
        &self,
        tag: OperationTag,
        claim: (Range<u64>, Sharing),
        work: F,
    ) -> Result<(), IoError>
    where
        F: FnOnce(Arc<Operation>) -> W,
        W: Future<Output = Result<(), IoError>> + Send + 'static,
    {
        if self.is_lost() {
            return Err(IoError::Fenced);
        }
        let done = self.0.lasting.run(&self.0.env, tag, claim, work).await;
        done.unwrap_or(Err(IoError::Fenced))
    }

    /// Asks for the end of an operation, whichever attachment it was begun under, and returns when
    /// its outcome is settled: from then on it changes nothing.
    pub async fn cancel(&self, tag: OperationTag) {
        self.0.lasting.cancel(tag).await;
    }

    /// Waits until no operation is under way.
    pub async fn idle(&self) {
        loop {
            let idle = self.0.idle_signal.notified();
            if self.0.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// Tells shards low-water marks that no commit has carried, once per mark.
    pub(crate) async fn tell_low_water(&self) {
        if self.is_lost() {
            return;
        }
        for container in self.0.known_containers() {
            let due = container.with(|state| {
                let mark = state.sequences.low_water();
                (state.sequences.is_idle() && mark > state.told_low_water).then_some(mark)
            });
            if let Some(low_water) = due {
                self.0.tell_mark(&container, low_water).await;
            }
        }
    }
}

impl Shared {
    /// Tells the shard of `container` a low-water mark; where the container moves, its new shard. Any
    /// other answer is left to a later round.
    async fn tell_mark(&self, container: &Container, low_water: Sequence) {
        let mut pause = RETRY_FIRST;
        while let Some(group) = self.group_of(container) {
            let command = ShardCommand::Void {
                container: container.id,
                writer: self.writer,
                sequences: Vec::new(),
                low_water,
            };
            match self.committers.propose(group, command).await {
                Ok(ShardOutcome::Ended(_) | ShardOutcome::Done) => {
                    container.with(|state| {
                        state.told_low_water = state.told_low_water.max(low_water);
                    });
                    return;
                }
                Ok(ShardOutcome::Refused(
                    refusal @ (ShardRefusal::Moved { .. } | ShardRefusal::NotServing),
                )) if !self.is_lost() => {
                    self.follow(&refusal).await;
                    self.pause(&mut pause, None).await;
                }
                _ => return,
            }
        }
    }

    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self)
    }

    /// Whether no client's operation is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) == 0
    }

    /// The layer that is written.
    pub(crate) fn layer(&self) -> LayerId {
        *self.record.layers.first().expect("a disk has a layer")
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    pub(crate) fn lose(&self, reason: &str) {
        let name = &self.record.name;
        if self.end() {
            event!(self.env, Warn, "proxy", "{name} lost: {reason}");
        }
    }

    /// The same, since somebody else is fenced in. While the lease stands nobody can be: the disk was
    /// deleted, or the root gave it away too soon.
    pub(crate) fn lose_fenced(&self, reason: &str) {
        if !self.lease_holds() {
            self.lose(reason);
            return;
        }
        let name = &self.record.name;
        if self.end() {
            event!(
                self.env,
                Error,
                "proxy",
                "{name} lost while its lease stood: {reason}"
            );
        }
    }

    /// Ends the attachment as its holder wished.
    fn detached(&self) {
        let name = &self.record.name;
        if self.end() {
            event!(self.env, Info, "proxy", "{name} detached");
        }
    }

    /// True when it had not ended before.
    fn end(&self) -> bool {
        let ends = !self.lost.swap(true, Ordering::SeqCst);
        if ends {
            self.lost_signal.notify_waiters();
        }
        ends
    }

    pub(crate) async fn wait_lost(&self) {
        loop {
            let signal = self.lost_signal.notified();
            if self.is_lost() {
                return;
            }
            signal.await;
        }
    }

    pub(crate) fn lease_holds(&self) -> bool {
        self.lease
            .lock()
            .expect("no panic under this lock")
            .holds(self.env.now())
    }

    pub(crate) fn container(&self, index: ContainerIndex) -> Arc<Container> {
        let id = ContainerId {
            family: self.record.family,
            disk: self.record.disk,
            index,
        };
        let mut containers = self.containers.lock().expect("no panic under this lock");
        Arc::clone(
            containers
                .entry(index)
                .or_insert_with(|| Arc::new(Container::new(id))),
        )
    }

    pub(crate) fn known_containers(&self) -> Vec<Arc<Container>> {
        let containers = self.containers.lock().expect("no panic under this lock");
        containers.values().cloned().collect()
    }

    pub(crate) fn group_of(&self, container: &Container) -> Option<GroupId> {
        self.groups.directory().shard_of(container.id)
    }

    /// Pauses, or returns early when the attachment is lost or the operation cancelled.
    pub(crate) async fn pause(&self, pause: &mut Duration, operation: Option<&Operation>) {
        let sleep = self.env.sleep(*pause);
        *pause = (*pause * 2).min(RETRY_LIMIT);
        let lost = self.lost_signal.notified();
        match operation {
            Some(operation) if !operation.is_cancelled() => {
                let woken = operation.wake.notified();
                futures_util::future::select(
                    std::pin::pin!(futures_util::future::select(sleep, std::pin::pin!(woken))),
                    std::pin::pin!(lost),
                )
                .await;
            }
            _ => {
                futures_util::future::select(sleep, std::pin::pin!(lost)).await;
            }
        }
    }

    /// Makes sure that the fence of this attachment stands on `container`.
    pub(crate) async fn ensure_fenced(&self, container: &Container) -> Result<(), IoError> {
        if container.with(|state| state.fenced) {
            return Ok(());
        }
        let _phase = self.env.phase(Phase::Fence);
        let _one = container.fencing.lock().await;
        let mut pause = RETRY_FIRST;
        while !container.with(|state| state.fenced) {
            if self.is_lost() {
                return Err(IoError::Fenced);
            }
            let Some(group) = self.group_of(container) else {
                self.refresh_directory().await;
                self.pause(&mut pause, None).await;
                continue;
            };
            let command = ShardCommand::Fence {
                container: container.id,
                generation: self.generation,
                writers: vec![self.writer],
                layer: self.layer(),
            };
            match self.committers.propose(group, command).await {
                Ok(ShardOutcome::Fenced { placement, .. }) => {
                    if let Some(placement) = placement {
                        container.learn(container.id, placement);
                    }
                    container.with(|state| state.fenced = true);
                }
                Ok(ShardOutcome::Refused(refusal)) => {
                    self.refused(&refusal)?;
                    self.follow(&refusal).await;
                }
                Ok(_) | Err(_) => {}
            }
            if !container.with(|state| state.fenced) {
                self.pause(&mut pause, None).await;
            }
        }
        Ok(())
    }

    /// What a shard's refusal means for the attachment; `Ok` when it may pass.
    pub(crate) fn refused(&self, refusal: &ShardRefusal) -> Result<(), IoError> {
        match refusal {
            ShardRefusal::StaleGeneration { .. }
            | ShardRefusal::NotAdmitted
            | ShardRefusal::FrozenLayer
            | ShardRefusal::Deleted => {
                self.lose_fenced(&refusal.to_string());
                Err(IoError::Fenced)
            }
            _ => Ok(()),
        }
    }

    /// Gets a newer map where a refusal says that there is one: the container has moved. Until the
    /// new shard serves no map shows it, and the old one still refuses.
    pub(crate) async fn follow(&self, refusal: &ShardRefusal) {
        let ShardRefusal::Moved { epoch } = refusal else {
            return;
        };
        let is_known = self.groups.directory().epoch() >= *epoch;
        if is_known || self.following.swap(true, Ordering::SeqCst) {
            return;
        }
        self.refresh_directory().await;
        self.following.store(false, Ordering::SeqCst);
    }

    pub(crate) async fn refresh_directory(&self) {
        self.groups
            .refresh(self.env.now() + Duration::from_secs(1))
            .await;
    }

    /// Fences every container of the disk that exists, also those with holes only, in the
    /// background.
    async fn fence_existing(&self) {
        if active(Mutant::FenceSkippedOnRead) {
            self.fenced_all.store(true, Ordering::SeqCst);
            return;
        }
        let mut pause = RETRY_FIRST;
        while self.groups.directory().shards().is_empty() && !self.is_lost() {
            self.refresh_directory().await;
            self.pause(&mut pause, None).await;
        }
        let mut walked = BTreeSet::new();
        let mut groups = self.groups.directory().shards();
        while !groups.is_empty() {
            for group in groups {
                if self.fence_existing_in(group).await.is_err() {
                    return;
                }
                walked.insert(group);
            }
            let Some(shards) = self.present_shards().await else {
                return;
            };
            groups = shards;
            groups.retain(|group| !walked.contains(group));
        }
        self.fenced_all.store(true, Ordering::SeqCst);
        self.fenced_signal.notify_waiters();
        event!(
            self.env,
            Debug,
            "proxy",
            "{}: every container fenced",
            self.record.name
        );
    }

    /// The shards by the root's own word. A container that a walk over an old shard did not find
    /// because it was moved and cleared is in a shard that the root has shown since before that.
    /// None: the attachment is lost.
    async fn present_shards(&self) -> Option<Vec<GroupId>> {
        let mut pause = RETRY_FIRST;
        while !self.is_lost() {
            let asked = self.groups.root_query(RootQuery::Table, FENCE_LIMIT).await;
            if let Ok(RootAnswer::Table(table)) = asked {
                let shards = table.distinct().into_iter();
                let shards = shards.map(|shard| shard.group).collect();
                self.groups.directory().learn_table(table);
                return Some(shards);
            }
            self.pause(&mut pause, None).await;
        }
        None
    }

    async fn fence_existing_in(&self, group: GroupId) -> Result<(), IoError> {
        let mut pause = RETRY_FIRST;
        let mut after = None;
        while !self.is_lost() {
            let request = ShardRequest::ContainersAfter {
                family: self.record.family,
                disk: self.record.disk,
                after,
            };
            let Ok(ShardReply::ContainersAfter { found, more }) =
                self.groups.shard(group, request, FENCE_LIMIT).await
            else {
                self.pause(&mut pause, None).await;
                continue;
            };
            after = found.last().map(|(id, _)| id.index);
            for chunk in found.chunks(FENCES_AT_ONCE) {
                let fences = chunk.iter().map(|(id, placement)| async move {
                    let container = self.container(id.index);
                    if let Some(placement) = placement {
                        container.learn(*id, placement.clone());
                    }
                    self.ensure_fenced(&container).await
                });
                try_join_all(fences).await?;
            }
            if !more {
                return Ok(());
            }
        }
        Err(IoError::Fenced)
    }
}
