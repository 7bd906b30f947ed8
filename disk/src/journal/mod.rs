//! The journal of a pool: the commit log of its store and, in the system pool, of every Raft group.
//!
//! Records of many streams share frames and syncs. An idle journal writes at once; while writes are
//! in flight newcomers gather in the next frame, so batches form because the device is busy.
//!
//! Invariants: records lie in the order of the `append` calls; a receipt completes only when its
//! record and everything before it is on stable storage; a failed write or sync stops the journal
//! for good (it is never retried); data records cannot use the reserve of control records.
//! Does not: know what records mean, or release any by itself: owners do.
//! Layout and recovery rules: `docs/format/journal.md`.

mod core;
mod driver;
mod format;
mod open;
mod record;
mod recovery;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{AbortOnDrop, DiskError, Env, File, StoreId};
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use open::{JournalOpenError, JournalRecovery, Opening};
pub use record::{
    AppendError, Class, CopyForward, DamagedRange, HeaderCopy, JournalReadError, Position, Receipt,
    Record, RecoveredRecord, Stopped, StreamTag,
};

use self::core::Core;
use crate::superblock::JournalGeometry;

/// How much of each record's header is kept a second time, in the frame after the record's own.
pub const HEADER_COPY_BYTES: usize = 128;
/// The largest header of a record: its length is stored in 16 bits.
pub const RECORD_OWN_HEADER_BYTES_MAX: usize = 65_535;
/// Requests to copy forward that wait for one owner: it is asked again while it has not answered.
const COPY_FORWARD_REQUESTS_MAX: usize = 1;

/// How a journal is sized. `segment_bytes` and `alignment` hold from creation on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// How many segment files there are, all preallocated.
    pub segments: u64,
    /// Segments that data records leave to Raft and control records.
    pub reserve_segments: u64,
    /// Frames begin at multiples of this: 512 or 4096.
    pub alignment: u32,
    /// How many frames may be in flight at once.
    pub writes_in_flight: usize,
    /// A frame takes no further record once it has this many bytes.
    pub batch_bytes: usize,
    /// Data records are refused as busy while this many bytes wait; control records at twice that.
    pub queue_bytes: usize,
    /// Bytes of live records kept in memory for readers and the flush.
    pub memory_bytes: usize,
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segments: 16,
            reserve_segments: 4,
            alignment: 4096,
            // Enough to keep an SSD busy; more would only make batches smaller.
            writes_in_flight: 4,
            batch_bytes: 1 << 20,
            queue_bytes: 32 << 20,
            memory_bytes: 64 << 20,
        }
    }
}

impl JournalConfig {
    /// A small journal for tests and simulation: 16 segments of 128 KiB.
    #[must_use]
    pub fn small() -> Self {
        Self {
            segment_bytes: 128 << 10,
            segments: 16,
            reserve_segments: 4,
            alignment: 512,
            writes_in_flight: 4,
            batch_bytes: 32 << 10,
            queue_bytes: 256 << 10,
            memory_bytes: 128 << 10,
        }
    }

    /// The largest record, with its header: half a segment, so that it fits any empty one.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX)
    }

    /// Owners are asked to free space when fewer segments than this are left.
    fn copy_forward_segments(&self) -> u64 {
        (self.segments / 2).max(self.reserve_segments)
    }

    /// A frame is closed once the copies of its headers reach this size.
    fn copied_bytes_max(&self) -> usize {
        const LARGE: u64 = 64 << 10;
        usize::try_from((self.segment_bytes / 8).min(LARGE)).unwrap_or(usize::MAX)
    }

    pub(crate) fn geometry(&self) -> JournalGeometry {
        JournalGeometry {
            segment_bytes: self.segment_bytes,
            alignment: self.alignment,
        }
    }

    /// Refuses sizes that cannot work, by name.
    pub(crate) fn check(&self) -> Result<(), String> {
        const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (16 << 10)..=(1 << 30);
        let aligned = [512, 4096].contains(&self.alignment)
            && self.segment_bytes.is_multiple_of(u64::from(self.alignment));
        if !SEGMENT_BYTES.contains(&self.segment_bytes) {
            return Err("segment_bytes must lie between 16 KiB and 1 GiB".to_owned());
        }
        if !aligned {
            return Err("alignment must be 512 or 4096 and divide segment_bytes".to_owned());
        }
        if self.segments < self.reserve_segments + 3 || self.reserve_segments == 0 {
            return Err("segments must exceed reserve_segments (at least 1) by 3".to_owned());
        }
        if self.writes_in_flight == 0 {
            return Err("writes_in_flight must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// How full a journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JournalUsage {
    /// Bytes of all segment files.
    pub capacity_bytes: u64,
    /// Bytes between the oldest live record's segment and the end.
    pub used_bytes: u64,
    /// Bytes of live data records.
    pub live_data_bytes: u64,
    /// Whether segments are short, so that owners should flush, snapshot or copy forward.
    pub pressure: bool,
}

struct Shared {
    env: Env,
    directory: String,
    store: StoreId,
    config: JournalConfig,
    core: Mutex<Core>,
    files: Mutex<BTreeMap<u64, Arc<dyn File>>>,
    /// Wakes the driver.
    work: Notify,
    /// Wakes whoever waits for room, the end, or a stop.
    changed: Notify,
    stopped: Arc<Mutex<Option<Stopped>>>,
}

const UNPOISONED: &str = "nobody panics while holding the journal's locks";

impl Shared {
    fn core(&self) -> std::sync::MutexGuard<'_, Core> {
        self.core.lock().expect(UNPOISONED)
    }

    fn file(&self, segment: u64) -> Option<Arc<dyn File>> {
        self.files.lock().expect(UNPOISONED).get(&segment).cloned()
    }

    fn stop(&self, reason: String) {
        let stopped = Stopped { reason };
        self.stopped
            .lock()
            .expect(UNPOISONED)
            .get_or_insert_with(|| stopped.clone());
        self.core().stop(stopped);
        self.changed.notify_waiters();
        self.work.notify_one();
    }

    /// Waits until `condition` holds; it is asked again after every change.
    async fn until(&self, condition: impl Fn(&Core) -> bool) {
        loop {
            let mut notified = pin!(self.changed.notified());
            notified.as_mut().enable();
            if condition(&self.core()) {
                return;
            }
            notified.await;
        }
    }
}

/// The open journal of one pool; a cheap handle. Dropping the last handle stops its driver at once.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    _driver: Arc<AbortOnDrop>,
}

impl Journal {
    /// Appends a Raft or control record; it may use the reserve.
    ///
    /// The order of the calls is the order in the journal.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the record is in the journal then.
    pub fn append(&self, record: Record) -> Result<Receipt, AppendError> {
        self.append_as(record, Class::Control)
    }

    /// Appends a data record; refused first when the journal fills.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing of the record is in the journal then.
    pub fn append_data(&self, record: Record) -> Result<Receipt, AppendError> {
        self.append_as(record, Class::Data)
    }

    fn append_as(&self, record: Record, class: Class) -> Result<Receipt, AppendError> {
        let (sender, done) = oneshot::channel();
        let position = self.shared.core().append(record, class, sender)?;
        self.shared.work.notify_one();
        Ok(Receipt {
            position,
            done,
            stopped: Arc::clone(&self.shared.stopped),
        })
    }

    /// As [`Journal::append`], waiting while the queue is full.
    ///
    /// # Errors
    /// See [`AppendError`]; never `Busy`.
    pub async fn append_when_ready(&self, record: Record) -> Result<Receipt, AppendError> {
        loop {
            match self.append(record.clone()) {
                Err(AppendError::Busy) => self.ready().await,
                answer => return answer,
            }
        }
    }

    /// Completes when the queue has room (or the journal stopped).
    pub async fn ready(&self) {
        self.shared.until(Core::is_ready).await;
    }

    /// Completes once data records have a free segment again beyond the one being filled (or the
    /// journal stopped). A journal that is full asks its owners for space by itself.
    pub async fn data_room(&self) {
        self.shared.until(Core::has_data_room).await;
    }

    /// Completes once everything appended so far is durable.
    ///
    /// # Errors
    /// [`Stopped`]: what was not durable yet is unknown.
    pub async fn flushed(&self) -> Result<(), Stopped> {
        let end = self.end();
        self.shared
            .until(|core| core.is_stopped() || core.durable() >= end)
            .await;
        if self.durable() >= end {
            return Ok(());
        }
        Err(self.stop_reason())
    }

    /// Reads a live record and verifies it.
    ///
    /// # Errors
    /// See [`JournalReadError`].
    pub async fn read(&self, position: Position) -> Result<Record, JournalReadError> {
        let live = {
            let core = self.shared.core();
            if let Some(record) = core.in_memory(position) {
                return Ok(Record::clone(&record));
            }
            core.live(position)
                .ok_or(JournalReadError::Missing(position))?
        };
        let (segment, offset) = format::locate(position.0, self.shared.config.segment_bytes);
        let file = self
            .shared
            .file(segment)
            .ok_or(JournalReadError::Missing(position))?;
        let bytes = file.read_at(offset, live.length).await?;
        if let Some((record, _)) = format::decode_record(self.shared.store, position, &bytes)
            && (record.intact || active(Mutant::DigestUnchecked))
        {
            return Ok(Record {
                stream: record.summary.stream,
                kind: record.summary.kind,
                header: record.header,
                payload: record.payload,
            });
        }
        // It may have been released, and its segment recycled, during the read.
        match self.shared.core().live(position) {
            Some(_) => Err(JournalReadError::Damaged(position)),
            None => Err(JournalReadError::Missing(position)),
        }
    }

    /// The record is superseded: its space may be freed. Releasing twice is harmless.
    pub fn release(&self, position: Position) {
        self.release_all([position]);
    }

    /// As [`Journal::release`], for many.
    pub fn release_all(&self, positions: impl IntoIterator<Item = Position>) {
        let mut core = self.shared.core();
        for position in positions {
            core.release(position);
        }
        drop(core);
        self.shared.work.notify_one();
    }

    /// Releases every record of a stream that is no more.
    pub fn release_stream(&self, stream: StreamTag) {
        let positions = self.shared.core().positions_of(stream);
        self.release_all(positions);
    }

    /// Positions of all live records of `stream`, ascending.
    #[must_use]
    pub fn live_positions(&self, stream: StreamTag) -> Vec<Position> {
        self.shared.core().positions_of(stream)
    }

    /// From now on the receiver is asked to copy forward the records of `stream` that keep the
    /// oldest segment from being freed. Each stream with long-lived records needs such an owner.
    #[must_use]
    pub fn copy_forward_requests(&self, stream: StreamTag) -> mpsc::Receiver<CopyForward> {
        let (sender, receiver) = mpsc::channel(COPY_FORWARD_REQUESTS_MAX);
        self.shared.core().register(stream, sender);
        receiver
    }

    /// Everything below is durable, marks included.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.shared.core().durable()
    }

    /// Where what is durable ends, also when this journal is gone.
    pub(crate) fn durable_end(&self) -> Arc<AtomicU64> {
        self.shared.core().durable_end()
    }

    /// The end of the last durable frame with records: the position that may be reported to peers,
    /// since no start to come may find less. A mark is left out, which may be lost unnoticed.
    #[must_use]
    pub fn reported(&self) -> Position {
        self.shared.core().reported()
    }

    /// Where everything appended so far ends.
    #[must_use]
    pub fn end(&self) -> Position {
        self.shared.core().end()
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> JournalUsage {
        let core = self.shared.core();
        JournalUsage {
            capacity_bytes: self.shared.config.segments * self.shared.config.segment_bytes,
            used_bytes: core.used_bytes(),
            live_data_bytes: core.live_data_bytes(),
            pressure: core.is_short_of_space(),
        }
    }

    /// The largest record, with its header.
    #[must_use]
    pub fn record_bytes_max(&self) -> usize {
        self.shared.config.record_bytes_max()
    }

    /// Completes when the journal has stopped, with the reason: halt the node.
    pub async fn stopped(&self) -> Stopped {
        self.shared.until(Core::is_stopped).await;
        self.stop_reason()
    }

    /// Why it stopped, if it has.
    #[must_use]
    pub fn is_stopped(&self) -> Option<Stopped> {
        self.shared.core().is_stopped().then(|| self.stop_reason())
    }

    fn stop_reason(&self) -> Stopped {
        let stopped = self.shared.stopped.lock().expect(UNPOISONED);
        stopped
            .clone()
            .expect("the reason is set before the core stops")
    }

    /// Stops it because something else of the pool failed (a sync of the extent store).
    pub fn stop(&self, reason: &str) {
        self.shared.stop(reason.to_owned());
    }

    /// Waits for everything queued and the closing mark, then refuses further records.
    pub async fn close(&self) {
        self.shared
            .until(|core| core.is_stopped() || core.is_idle())
            .await;
        self.shared.stop(CLOSED.to_owned());
    }
}

/// The reason of a clean stop.
pub const CLOSED: &str = "closed";

/// Allocates one empty segment file.
async fn create_segment(
    env: &Env,
    path: &str,
    segment_bytes: u64,
) -> Result<Arc<dyn File>, DiskError> {
    let file = env
        .disk()
        .open(path, hedgerow_env::OpenMode::Create)
        .await?;
    if file.length().await? != segment_bytes {
        file.resize(segment_bytes).await?;
    }
    Ok(file)
}

/// Writes `bytes` again where they were read, so that a sync makes them durable even if an earlier
/// sync failed and left them in the page cache alone.
async fn rewrite(file: &dyn File, offset: u64, bytes: Bytes) -> Result<(), DiskError> {
    file.write_at(offset, vec![bytes]).await?;
    file.sync().await
}

#[cfg(test)]
mod tests;
