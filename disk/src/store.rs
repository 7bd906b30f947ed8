//! [`Store`]: one pool of a node, whole by itself: superblock, journal, extent store, blob index.
//!
//! A blob is acknowledged from the journal; a background task flushes it to the extent store in
//! order and frees the journal. Names are the owner's business: a put replaces what had the name.
//!
//! Invariants: whatever a completed receipt promised is found by every later open, or reported
//! damaged; a deletion's record outlives every copy that it must hide; data is refused (retryable)
//! before it could take the room of control records, deletions, compaction, or of what the pool's
//! other users ([`Others`]) need next.
//! Does not: halt the node (await [`Store::stopped`]), or wait: [`Store::put_delay`] says how long
//! a writer should, before the room ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{AbortOnDrop, BlobName, ContainerId, Env};
use tokio::sync::Notify;

use crate::blob_record::{DELETE, PUT, encode_delete, encode_put};
use crate::extent::{CHUNK_BYTES, ExtentConfig, Extents, FetchError, Meta, Place, chunk_sums};
use crate::index::{Entry, Garbage, Index, Location};
use crate::journal::{
    AppendError, CopyForward, Journal, JournalConfig, JournalReadError, Position, Receipt, Record,
    Stopped, StreamTag,
};
use crate::life::Tombstones;
use crate::maintenance::{self, Worker};
use crate::superblock::{Superblock, SuperblockError};

/// Names returned by one [`Store::blobs`] call at most, so that a listing never holds the index
/// long.
pub const BLOBS_PAGE_MAX: usize = 4096;
/// How often a read follows a blob that moves while it is read.
const READ_ATTEMPTS_MAX: usize = 8;
/// The largest owner header: with its name and chunk sums it must fit a record's header.
pub const BLOB_HEADER_BYTES_MAX: usize = 48 * 1024;
/// How long a blob waits at the end of the room. Well below the 300 ms after which a writer looks for
/// another member: a store that slows down is not one that does not answer.
const PUT_DELAY_MAX: Duration = Duration::from_millis(150);
/// The largest blob.
pub const BLOB_BYTES_MAX: usize = 16 << 20;

/// How a pool is set up. Identity and journal sizes count only when the pool is blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The node; drawn when none is given and the pool is blank.
    pub node: Option<hedgerow_env::NodeId>,
    /// The pool's number in the node.
    pub pool: u16,
    /// Whether Raft logs live here.
    pub is_system: bool,
    /// The most that the pool may take of the disk; none for all that is free at open.
    pub capacity_bytes: Option<u64>,
    /// The journal.
    pub journal: JournalConfig,
    /// The extent store.
    pub extent: ExtentConfig,
    /// The flush begins when this many bytes of blobs are in the journal alone.
    pub flush_bytes: u64,
    /// ... or when some have been there this long.
    pub flush_interval: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            node: None,
            pool: 0,
            is_system: true,
            capacity_bytes: None,
            journal: JournalConfig::default(),
            extent: ExtentConfig::default(),
            // A quarter of the journal's room for data: flushes are long and sequential, and short
            // lived blobs are often deleted before they are ever copied.
            flush_bytes: 192 << 20,
            flush_interval: Duration::from_secs(10),
        }
    }
}

impl StoreConfig {
    /// Small files and an eager flush, for tests and simulation.
    #[must_use]
    pub fn small() -> Self {
        Self {
            journal: JournalConfig::small(),
            extent: ExtentConfig::small(),
            flush_bytes: 256 << 10,
            flush_interval: Duration::from_secs(1),
            ..Self::default()
        }
    }
}

/// Why a store call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The configuration cannot work.
    #[error("store configuration: {0}")]
    Configuration(String),
    /// The superblock could not be read or written.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// The pool belongs to another node or has another number.
    #[error("{directory}: this store belongs to {found}, not to {expected}")]
    Foreign {
        /// The pool's directory.
        directory: String,
        /// Whose it is.
        found: String,
        /// Whose it was taken for.
        expected: String,
    },
    /// The journal was written before and none of it is left.
    #[error(
        "{directory}: the journal's files are gone or wholly damaged; acknowledged writes are \
         missing. Remove the pool's folder and let the node join with a blank store: the cluster \
         rebuilds its contents"
    )]
    JournalLost {
        /// The pool's directory.
        directory: String,
    },
    /// Too much is queued: wait for [`Store::ready`] and try again.
    #[error("store is busy")]
    Busy,
    /// Free space, then try again; nothing of the call took effect.
    #[error("store is full")]
    Full,
    /// The blob or record can never fit.
    #[error("{bytes} bytes exceed the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The pool stopped after a disk failure or was closed; outcomes not yet reported are unknown.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The disk failed a call while the store was opened.
    #[error(transparent)]
    Disk(#[from] hedgerow_env::DiskError),
}

impl From<AppendError> for StoreError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Self::Busy,
            AppendError::Full => Self::Full,
            AppendError::TooLarge { bytes, limit } => Self::TooLarge { bytes, limit },
            AppendError::Stopped(stopped) => Self::Stopped(stopped),
        }
    }
}

/// Why a blob could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such blob here.
    #[error("{0} is not here")]
    Missing(BlobName),
    /// The range does not lie within the blob.
    #[error("{name} has {bytes} bytes only")]
    OutOfRange {
        /// The blob.
        name: BlobName,
        /// Its payload's length.
        bytes: u32,
    },
    /// The bytes fail their checksum: read another copy, and put this blob again.
    #[error("{0} is damaged")]
    Damaged(BlobName),
    /// The device failed the read.
    #[error(transparent)]
    Device(hedgerow_env::DiskError),
}

/// How full a store is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The most that the pool may take.
    pub capacity: u64,
    /// What its files take now.
    pub used: u64,
    /// Payload of live blobs.
    pub live: u64,
    /// Extent data that nothing refers to.
    pub dead: u64,
    /// Blobs in the journal alone.
    pub unflushed: u64,
    /// The journal's files.
    pub journal_capacity: u64,
    /// The part of the journal that is not free.
    pub journal_used: u64,
    /// How many blobs there are.
    pub blobs: u64,
    /// Whether a put would be refused now.
    pub is_full: bool,
}

/// What one scrub step found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Bytes read.
    pub bytes: u64,
    /// Blobs whose copy here is damaged; they read as damaged until they are put again.
    pub bad: Vec<BlobName>,
    /// The step ended at the last blob: the next one begins anew.
    pub wrapped: bool,
}

pub(crate) struct Inner {
    pub(crate) env: Env,
    pub(crate) directory: String,
    pub(crate) superblock: Superblock,
    pub(crate) journal: Journal,
    pub(crate) extents: Extents,
    pub(crate) config: StoreConfig,
    pub(crate) index: Arc<Mutex<Index>>,
    pub(crate) capacity: Mutex<Capacity>,
    pub(crate) worker: tokio::sync::Mutex<Worker>,
    /// Wakes the background task before its time.
    pub(crate) work: Notify,
    /// Extent entries to be killed once the record that replaces or deletes them is durable: a dead
    /// map on disk must never be ahead of the journal.
    pub(crate) doomed: Mutex<Vec<(Position, Place)>>,
    /// Deletions whose records must stay until the dead maps are durable.
    pub(crate) tombstones: Arc<Mutex<Tombstones>>,
    /// How often a blob was found damaged.
    pub(crate) damage: Arc<AtomicU64>,
    pub(crate) session: u64,
    pub(crate) start_nonce: u64,
    pub(crate) began_at: Position,
}

/// What others than the store keep in its pool: Pages, in the system pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// Bytes of their files.
    pub used_bytes: u64,
    /// Bytes that they may want at once, and must not be refused. No blob takes that room.
    pub growth_bytes: u64,
}

/// What the disk has left, as last seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Capacity {
    pub(crate) capacity_bytes: u64,
    /// Bytes that the file system could still give.
    pub(crate) free_bytes: u64,
    /// The last extent segment did not fit.
    pub(crate) refused: bool,
    /// The other users of the pool.
    pub(crate) others: Others,
}

/// The room of a pool, in bytes.
#[derive(Debug, Clone, Copy)]
struct Room {
    refused: bool,
    /// Free, the reserve included.
    left_bytes: u64,
    /// What no blob takes.
    reserve_bytes: u64,
}

impl Room {
    fn is_full(self) -> bool {
        self.refused || self.left_bytes < self.reserve_bytes
    }

    /// None while twice the reserve is free; from there it grows evenly, and is longest where blobs
    /// are refused. Writers then come no faster than deletions, if there are any, make room.
    fn put_delay(self) -> Duration {
        let into = (2 * self.reserve_bytes).saturating_sub(self.left_bytes);
        let thousandths = into.min(self.reserve_bytes).saturating_mul(1000) / self.reserve_bytes;
        let thousandths = u32::try_from(thousandths).expect("at most a thousand");
        PUT_DELAY_MAX * thousandths / 1000
    }
}

impl Inner {
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index
            .lock()
            .expect("nobody panics while holding the index")
    }

    pub(crate) fn capacity(&self) -> MutexGuard<'_, Capacity> {
        self.capacity
            .lock()
            .expect("nobody panics while holding the capacity")
    }

    pub(crate) fn tombstones(&self) -> MutexGuard<'_, Tombstones> {
        self.tombstones
            .lock()
            .expect("nobody panics while holding the tombstones")
    }

    pub(crate) fn discard(&self, garbage: Option<Garbage>) {
        match garbage {
            None => {}
            Some(Garbage::Journal(position)) => self.journal.release(position),
            Some(Garbage::Extent(place)) => self.extents.kill(place),
        }
    }

    /// Discards what the record at `position` replaced or deleted, in its time.
    fn discard_after(&self, position: Position, garbage: Option<Garbage>) {
        match garbage {
            // The replaced record's segment may be freed before the newer record is durable: until
            // its receipt completes, a crash may leave neither of them.
            None | Some(Garbage::Journal(_)) => self.discard(garbage),
            Some(Garbage::Extent(_)) if active(Mutant::DeadMapAheadOfJournal) => {
                self.discard(garbage);
            }
            Some(Garbage::Extent(place)) => self.doomed().push((position, place)),
        }
    }

    pub(crate) fn doomed(&self) -> MutexGuard<'_, Vec<(Position, Place)>> {
        self.doomed
            .lock()
            .expect("nobody panics while holding the doomed")
    }

    /// Takes in what the file system could still give. A pool that may take all that is free may take
    /// what has become free since it was opened.
    pub(crate) fn see_free(&self, free_bytes: u64) {
        let own = self.extents.usage().file_bytes + self.journal.usage().capacity_bytes;
        let mut capacity = self.capacity();
        capacity.free_bytes = free_bytes;
        if self.config.capacity_bytes.is_none() {
            let present = own + capacity.others.used_bytes + free_bytes;
            capacity.capacity_bytes = capacity.capacity_bytes.max(present);
        }
    }

    /// Whether blobs of `bytes` more would leave too little for deletions, flush and compaction.
    pub(crate) fn is_full(&self, bytes: u64) -> bool {
        self.room_after(bytes).is_full()
    }

    fn room_after(&self, bytes: u64) -> Room {
        let unflushed = self.index().unflushed_bytes();
        let extents = self.extents.usage().file_bytes;
        let journal = self.journal.usage().capacity_bytes;
        let capacity = self.capacity();
        let others = capacity.others;
        let reserve_bytes = 2 * self.config.extent.segment_bytes + others.growth_bytes;
        let wanted = unflushed + bytes;
        let used = extents + journal + others.used_bytes;
        let within_capacity = capacity.capacity_bytes.saturating_sub(used + wanted);
        let left_bytes = within_capacity.min(capacity.free_bytes.saturating_sub(wanted));
        Room {
            refused: capacity.refused,
            left_bytes,
            reserve_bytes,
        }
    }
}

/// One pool of a node; a cheap handle. Dropping the last handle stops its tasks at once.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    pub(crate) _task: Arc<AbortOnDrop>,
}

impl Store {
    /// The journal, for Raft logs.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.inner.superblock
    }

    /// This store's identity.
    #[must_use]
    pub fn id(&self) -> hedgerow_env::StoreId {
        self.inner.superblock.content().store
    }

    /// The pool's directory, below which Pages keeps its files too.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.inner.directory
    }

    /// The start count of this start: the journal's session.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.inner.session
    }

    /// The nonce that was drawn for this start.
    #[must_use]
    pub fn start_nonce(&self) -> u64 {
        self.inner.start_nonce
    }

    /// The journal position at which this start began (a peer that knows more saw a later state).
    #[must_use]
    pub fn began_at(&self) -> Position {
        self.inner.began_at
    }

    /// Stores a blob under `name`, replacing what had that name. It can be read at once.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing of the blob is kept then.
    pub fn put_blob(
        &self,
        name: BlobName,
        header: Bytes,
        payload: Bytes,
    ) -> Result<Receipt, StoreError> {
        let inner = &self.inner;
        inner.check_blob_size(header.len(), payload.len())?;
        if inner.is_full(crate::codec::wide(payload.len())) {
            inner.work.notify_one();
            return Err(StoreError::Full);
        }
        let mut meta = Meta {
            name,
            origin: Position(0),
            header,
            sums: chunk_sums(&payload),
            payload_bytes: crate::codec::word(payload.len()),
        };
        let record = Record {
            stream: StreamTag::BLOBS,
            kind: PUT,
            header: encode_put(&meta),
            payload,
        };
        // The index is locked over the append: the order of one name's records is its history.
        let mut index = inner.index();
        let receipt = match inner.journal.append_data(record) {
            Ok(receipt) => receipt,
            Err(error) => {
                inner.work.notify_one();
                return Err(error.into());
            }
        };
        meta.origin = receipt.position();
        let garbage = index.insert(Arc::new(meta), Location::Journal);
        let flush_now = index.unflushed_bytes() >= inner.config.flush_bytes;
        drop(index);
        inner.discard_after(receipt.position(), garbage);
        if flush_now {
            inner.work.notify_one();
        }
        Ok(receipt)
    }

    /// How long the next blob should wait before it is put, so that writers slow down before they
    /// are refused.
    #[must_use]
    pub fn put_delay(&self) -> Duration {
        self.inner.room_after(0).put_delay()
    }

    /// Waits for the journal to have room for blobs again, for `limit` at most: the flush frees it
    /// all the time. False when there is no use in waiting: the disk itself is full.
    pub async fn journal_room(&self, limit: Duration) -> bool {
        let inner = &self.inner;
        if inner.is_full(0) {
            return false;
        }
        inner.work.notify_one();
        let room = inner.journal.data_room();
        inner.env.timeout(limit, room).await.is_ok()
    }

    /// Forgets a blob at once; the receipt says when that is durable. Deleting nothing is recorded
    /// too.
    ///
    /// # Errors
    /// See [`StoreError`]; the blob is still there then.
    pub fn delete_blob(&self, name: BlobName) -> Result<Receipt, StoreError> {
        let inner = &self.inner;
        let record = Record {
            stream: StreamTag::BLOBS,
            kind: DELETE,
            header: encode_delete(name),
            payload: Bytes::new(),
        };
        let mut index = inner.index();
        let receipt = inner.journal.append(record)?;
        let garbage = index.remove(name);
        drop(index);
        // Doomed first: whoever takes the tombstone from its list kills the entry before.
        inner.discard_after(receipt.position(), garbage);
        inner.tombstones().push((receipt.position(), name));
        Ok(receipt)
    }

    /// Whether the blob is here (perhaps damaged).
    #[must_use]
    pub fn contains(&self, name: BlobName) -> bool {
        self.inner.index().contains(name)
    }

    /// The owner's header of a blob, from memory.
    #[must_use]
    pub fn blob_header(&self, name: BlobName) -> Option<Bytes> {
        self.inner
            .index()
            .get(name)
            .map(|entry| entry.meta.header.clone())
    }

    /// The payload's length of a blob, from memory.
    #[must_use]
    pub fn blob_length(&self, name: BlobName) -> Option<u32> {
        self.inner
            .index()
            .get(name)
            .map(|entry| entry.meta.payload_bytes)
    }

    /// Reads and verifies a range of a blob's payload.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_blob(
        &self,
        name: BlobName,
        offset: usize,
        length: usize,
    ) -> Result<Bytes, ReadError> {
        let mut last = ReadError::Missing(name);
        for _ in 0..READ_ATTEMPTS_MAX {
            let entry = self
                .inner
                .index()
                .get(name)
                .ok_or(ReadError::Missing(name))?;
            if self.inner.reads_sound_again(&entry).await {
                continue;
            }
            let bytes = entry.meta.payload_bytes;
            let end = offset.checked_add(length);
            if end.is_none_or(|end| end > crate::codec::narrow(u64::from(bytes))) {
                return Err(ReadError::OutOfRange { name, bytes });
            }
            match self.inner.fetch(&entry, offset, length).await {
                Ok(bytes) => return Ok(bytes),
                Err(FetchError::Moved) => {}
                Err(FetchError::Damaged) => last = ReadError::Damaged(name),
                Err(FetchError::Disk(error)) => last = ReadError::Device(error),
            }
            // Flush or compaction may have moved it meanwhile: then the new place is tried.
            let now = self.inner.index().get(name);
            let same = |now: &Entry| {
                now.location == entry.location && now.meta.origin == entry.meta.origin
            };
            if now.as_ref().is_some_and(same) && !matches!(last, ReadError::Missing(_)) {
                if matches!(last, ReadError::Damaged(_)) {
                    self.inner.damage.fetch_add(1, Ordering::Relaxed);
                }
                return Err(last);
            }
        }
        Err(last)
    }

    /// Every blob of a container, in name order.
    #[must_use]
    pub fn blobs_of(&self, container: ContainerId) -> Vec<BlobName> {
        self.inner.index().of_container(container)
    }

    /// The next blobs after `after`, in name order, at most [`BLOBS_PAGE_MAX`].
    #[must_use]
    pub fn blobs(&self, after: Option<BlobName>, limit: usize) -> Vec<BlobName> {
        self.inner.index().page(after, limit.min(BLOBS_PAGE_MAX))
    }

    /// Every container with a blob here.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerId> {
        self.inner.index().containers()
    }

    /// Blobs whose copy here is damaged: put them again or delete them.
    #[must_use]
    pub fn damaged_blobs(&self) -> Vec<BlobName> {
        self.inner.index().lost()
    }

    /// Appends a control record of `stream`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn append_control(
        &self,
        stream: StreamTag,
        kind: u8,
        bytes: Bytes,
    ) -> Result<Receipt, StoreError> {
        Ok(self
            .inner
            .journal
            .append(Record::new(stream, kind, bytes))?)
    }

    /// Control records that are superseded.
    pub fn release_control(&self, positions: impl IntoIterator<Item = Position>) {
        self.inner.journal.release_all(positions);
    }

    /// See [`Journal::copy_forward_requests`].
    #[must_use]
    pub fn copy_forward_requests(
        &self,
        stream: StreamTag,
    ) -> tokio::sync::mpsc::Receiver<CopyForward> {
        self.inner.journal.copy_forward_requests(stream)
    }

    /// Completes when the queue has room.
    pub async fn ready(&self) {
        self.inner.journal.ready().await;
    }

    /// Completes when the pool has stopped after a disk failure: halt the node.
    pub async fn stopped(&self) -> Stopped {
        self.inner.journal.stopped().await
    }

    /// How full the store is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let inner = &self.inner;
        let journal = inner.journal.usage();
        let extents = inner.extents.usage();
        let is_full = inner.is_full(0);
        let index = inner.index();
        Usage {
            capacity: inner.capacity().capacity_bytes,
            used: extents.file_bytes + journal.capacity_bytes,
            live: index.live_bytes(),
            dead: extents.dead_bytes,
            unflushed: index.unflushed_bytes(),
            journal_capacity: journal.capacity_bytes,
            journal_used: journal.used_bytes,
            blobs: crate::codec::wide(index.count()),
            is_full,
        }
    }

    /// Tells what the pool's other users keep and need, and looks how much space is left. Whoever
    /// knows them calls this every few seconds.
    ///
    /// # Errors
    /// The disk's; nothing changed then.
    pub async fn observe_room(&self, others: Others) -> Result<(), hedgerow_env::DiskError> {
        let inner = &self.inner;
        let free_bytes = inner.env.disk().free_bytes(&inner.directory).await?;
        inner.capacity().others = others;
        inner.see_free(free_bytes);
        Ok(())
    }

    /// Flushes everything that is durable, makes deletions durable in the extents, compacts what is
    /// worth it. The background task does the same when it is due.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the extent store has no room; else the pool stopped.
    pub async fn flush(&self) -> Result<(), StoreError> {
        maintenance::flush_all(&self.inner).await
    }

    /// Verifies up to about `budget_bytes` of stored blobs, going on where the last call ended.
    ///
    /// # Errors
    /// [`StoreError::Disk`] when the device fails a read.
    pub async fn scrub(&self, budget_bytes: u64) -> Result<ScrubReport, StoreError> {
        maintenance::scrub(&self.inner, budget_bytes).await
    }

    /// Stops in order: everything queued is durable and the journal's closing mark is written.
    pub async fn close(&self) {
        // A flush or compaction that is under way ends first; none begins afterwards.
        let _worker = self.inner.worker.lock().await;
        self.inner.journal.close().await;
    }
}

/// Room for a blob's name, chunk sums and framing beside its header and payload in a record.
const BLOB_OVERHEAD_BYTES: usize = 256;

impl Inner {
    fn check_blob_size(&self, header: usize, payload: usize) -> Result<(), StoreError> {
        let too_large = |bytes, limit| Err(StoreError::TooLarge { bytes, limit });
        if header > BLOB_HEADER_BYTES_MAX {
            return too_large(header, BLOB_HEADER_BYTES_MAX);
        }
        let sums = payload.div_ceil(CHUNK_BYTES) * 8;
        let record_limit = self.journal.record_bytes_max() - BLOB_OVERHEAD_BYTES;
        let limit = BLOB_BYTES_MAX.min(record_limit.saturating_sub(header + sums));
        if payload > limit {
            return too_large(payload, limit);
        }
        Ok(())
    }

    /// Looks again at an entry that was found damaged: what a device failed to read once, or read
    /// wrongly, may be as it was. True when it is; it counts as any other from then on.
    async fn reads_sound_again(&self, entry: &Entry) -> bool {
        let Location::Lost(Some(place)) = entry.location else {
            return false;
        };
        if self.extents.verify(place, &entry.meta).await.is_err() {
            return false;
        }
        let Meta { name, origin, .. } = *entry.meta;
        let (from, to) = (entry.location, Location::Extent(place));
        // Nothing became garbage: if the blob was replaced meanwhile, that has seen to the entry.
        let _kept = self.index().relocate(name, origin, from, to);
        true
    }

    /// Reads and verifies a range of a blob at its location.
    pub(crate) async fn fetch(
        &self,
        entry: &Entry,
        offset: usize,
        length: usize,
    ) -> Result<Bytes, FetchError> {
        match entry.location {
            Location::Lost(_) => Err(FetchError::Damaged),
            Location::Extent(place) => self.extents.read(place, &entry.meta, offset, length).await,
            Location::Journal => match self.journal.read(entry.meta.origin).await {
                Ok(record) if record.payload.len() >= offset + length => {
                    Ok(record.payload.slice(offset..offset + length))
                }
                Ok(_) | Err(JournalReadError::Damaged(_)) => Err(FetchError::Damaged),
                Err(JournalReadError::Missing(_)) => Err(FetchError::Moved),
                Err(JournalReadError::Disk(error)) => Err(FetchError::Disk(error)),
            },
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "store_damage_tests.rs"]
mod damage_tests;

#[cfg(test)]
mod room_tests {
    use super::*;

    #[test]
    fn writers_slow_down_over_one_reserve_and_are_refused_behind_it() {
        let room = |left_bytes| Room {
            refused: false,
            left_bytes,
            reserve_bytes: 1000,
        };
        for (left_bytes, delay_ms, full) in [
            (5000, 0, false),
            (2000, 0, false),
            (1500, 75, false),
            (1000, 150, false),
            (999, 150, true),
            (0, 150, true),
        ] {
            let room = room(left_bytes);
            assert_eq!(room.put_delay(), Duration::from_millis(delay_ms));
            assert_eq!(room.is_full(), full, "{left_bytes}");
        }
    }
}
