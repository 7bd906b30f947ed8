//! openraft's log storage over the journal.
//!
//! Invariants: a vote is durable before [`RaftLogStorage::save_vote`] returns; appended entries are
//! reported flushed only once the journal reports them durable, in order, and later appends go on
//! meanwhile;
//! a superseded record is released only when what supersedes it is durable; a record is in the core
//! from the moment at which it is in the journal, so a copy always lies before what supersedes it;
//! purge never passes what the state holds durably;
//! a copy is told to the core by the flusher, whatever became of whoever made it: a copy that nobody
//! knows of would keep its segment until the next start.
//! Does not: decide which records are live (`log_core` does).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use hedgerow_disk::journal::{
    AppendError, CopyForward, Journal, JournalReadError, Position, Receipt, StreamTag,
};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{Env, GroupId, ReplicaNumber, event};
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, LogState, RaftLogStorage};
use tokio::sync::{Notify, mpsc, oneshot};

use super::log_core::{Carried, Found, LogCore, Placed};
use super::log_record::{Body, Kind};
use super::machine::StateHandle;
use super::promises::Promises;
use super::types::{Entry, LeaderId, LogId, Types, Vote};

/// Appends that wait for durability at once; beyond it the next append waits. The journal's own
/// queue is bounded by bytes, this one only keeps order.
const FLUSH_QUEUE: usize = 1024;
/// Entries read at once for replication and apply: a few frames' worth, well below RPC's limit.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;
/// How often a full journal is asked again.
const FULL_RETRY: Duration = Duration::from_millis(50);
/// How long a request to free a segment waits for a snapshot and purge, before it copies.
const PURGE_PATIENCE: Duration = Duration::from_secs(2);
/// Entries of less than this share of the largest record are copied at once: that costs less than a
/// snapshot, and the segment is free in milliseconds.
const COPIED_AT_ONCE_SHARE: usize = 8;
/// A read that loses the race with purge or copying looks again; each look sees newer positions.
pub(super) const READ_ATTEMPTS: usize = 8;

/// A replica's log: what openraft's storage, its readers and the copy-forward task share.
pub(crate) struct Log {
    env: Env,
    pub(super) journal: Journal,
    pub(super) group: GroupId,
    pub(super) replica: ReplicaNumber,
    core: Arc<Mutex<LogCore>>,
    /// None while there was never room to open it: such a log is copied and read, not run.
    state: Mutex<Option<StateHandle>>,
    /// How many of the applied entries a purge leaves behind.
    kept_entries: u64,
    flushes: mpsc::Sender<Flush>,
    purged: Notify,
    promises: Arc<Promises>,
}

/// What the flusher is told.
enum Flush {
    /// What happens once a receipt says durable.
    Appended {
        receipt: Receipt,
        superseded: Vec<Position>,
        told: Option<Told>,
    },
    /// What happens once the copy of a record is durable.
    Copied { receipt: Receipt, from: Placed },
    /// Tell that all before this is durable, or will never be.
    Settled(oneshot::Sender<()>),
}

/// Whom to tell that entries are durable.
struct Told {
    callback: IOFlushed<Types>,
    /// The last of them, and how often the log had been cut before.
    last: (LogId, u64),
}

impl Told {
    fn tell(self, outcome: io::Result<()>, promises: &Promises) {
        if outcome.is_ok() {
            let (last, cuts) = self.last;
            promises.entry(&last, cuts);
        }
        self.callback.io_completed(outcome);
    }
}

impl Log {
    /// A log with the contents `core`, its flusher running; a state is put beside it before it runs.
    pub(crate) fn start(
        env: &Env,
        journal: Journal,
        group: GroupId,
        replica: ReplicaNumber,
        core: LogCore,
        state: Option<StateHandle>,
        kept_entries: u64,
    ) -> Arc<Self> {
        let (flushes, queue) = mpsc::channel(FLUSH_QUEUE);
        let promises = Arc::new(Promises::of(&core));
        let core = Arc::new(Mutex::new(core));
        let flusher = Flusher {
            journal: journal.clone(),
            core: Arc::clone(&core),
            promises: Arc::clone(&promises),
        };
        env.spawn("raft-flush", flusher.run(queue));
        Arc::new(Self {
            env: env.clone(),
            journal,
            group,
            replica,
            core,
            state: Mutex::new(state),
            kept_entries,
            flushes,
            purged: Notify::new(),
            promises,
        })
    }

    /// What this replica promises in this life.
    pub(crate) fn promises(&self) -> Arc<Promises> {
        Arc::clone(&self.promises)
    }

    /// The group.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    pub(super) fn core(&self) -> MutexGuard<'_, LogCore> {
        self.core.lock().expect("no panic under this lock")
    }

    /// Appends a record for the first time and tells the core, both at once.
    async fn write<T>(
        &self,
        body: &Body,
        tell: impl FnOnce(&mut LogCore, Placed, usize) -> T,
    ) -> io::Result<(T, Receipt)> {
        let sequence = self.core().take_sequence();
        let record = body.record(self.group, self.replica, sequence);
        let bytes = record.payload.len();
        let mut tell = Some(tell);
        self.when_room(move || {
            let mut core = self.core();
            let receipt = self.journal.append(record.clone())?;
            let placed = Placed {
                sequence,
                position: receipt.position(),
            };
            let tell = tell.take().expect("it is appended once");
            Ok((tell(&mut core, placed, bytes), receipt))
        })
        .await
    }

    /// Writes the record at `placed` again, unless it has been superseded meanwhile; whether it was.
    ///
    /// May be aborted at any moment: from the append on the flusher has it.
    async fn copy(&self, placed: Placed, body: &Body) -> io::Result<bool> {
        let record = body.record_as(self.group, self.replica, placed.sequence, true);
        // Before the append: nothing is awaited between that and telling the flusher.
        let place = self.flushes.reserve().await.map_err(|_| gone())?;
        let appended = self.when_room(|| {
            let core = self.core();
            if !core.is_live(placed) {
                return Ok(None);
            }
            self.journal.append(record.clone()).map(Some)
        });
        let Some(receipt) = appended.await? else {
            return Ok(false);
        };
        if active(Mutant::CopyForwardNotAwaited) {
            let superseded = self.core().moved(placed, receipt.position());
            self.journal.release(superseded);
            return Ok(true);
        }
        let from = placed;
        place.send(Flush::Copied { receipt, from });
        Ok(true)
    }

    /// Waits as long as the journal is busy or full: a full one blocks this replica alone, others
    /// take over, and what frees space needs nothing of it but copying.
    pub(super) async fn when_room<T>(
        &self,
        mut append: impl FnMut() -> Result<T, AppendError>,
    ) -> io::Result<T> {
        let mut was_full = false;
        loop {
            match append() {
                Ok(appended) => return Ok(appended),
                Err(AppendError::Busy) => self.journal.ready().await,
                Err(AppendError::Full) => {
                    if !was_full {
                        let group = self.group;
                        event!(self.env, Warn, "raft", "{group} waits for journal space");
                    }
                    was_full = true;
                    self.env.sleep(FULL_RETRY).await;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// The state beside this log, which runs or ran.
    pub(crate) fn state(&self) -> StateHandle {
        self.state_slot().clone().expect("a log runs on a state")
    }

    fn state_slot(&self) -> MutexGuard<'_, Option<StateHandle>> {
        self.state.lock().expect("no panic under this lock")
    }

    /// Puts a state beside this log that was opened anew; answers the one before. Nothing may use
    /// the log meanwhile but copying and reading.
    pub(crate) fn replace_state(&self, state: StateHandle) -> Option<StateHandle> {
        self.state_slot().replace(state)
    }

    /// Returns once every entry that was appended is durable: whoever starts on this log may take
    /// all of it for durable.
    pub(crate) async fn settled(&self) -> io::Result<()> {
        let (sender, settled) = oneshot::channel();
        self.when_durable(Flush::Settled(sender)).await?;
        settled.await.map_err(|_| gone())
    }

    async fn when_durable(&self, flush: Flush) -> io::Result<()> {
        self.flushes.send(flush).await.map_err(|_| gone())
    }

    /// The entries of `from..to`, up to `limit_bytes` but at least one that exists.
    async fn entries(&self, from: u64, to: u64, limit_bytes: usize) -> io::Result<Vec<Entry>> {
        for _ in 0..READ_ATTEMPTS {
            let found = self.core().read(from, to, limit_bytes);
            if let Some(entries) = self.fetch(found).await? {
                return Ok(entries);
            }
        }
        Err(io::Error::other(format!(
            "entries {from}..{to} of {} moved during each of {READ_ATTEMPTS} reads",
            self.group
        )))
    }

    /// Reads what is not in memory; `None` when a record went elsewhere meanwhile.
    pub(super) async fn fetch(&self, found: Vec<Found>) -> io::Result<Option<Vec<Entry>>> {
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Found::Entry(entry) => entries.push(entry),
                Found::At(log_id, position) => match self.read_entry(position).await? {
                    Some(entry) if entry.log_id == log_id => entries.push(entry),
                    Some(_) | None => return Ok(None),
                },
            }
        }
        Ok(Some(entries))
    }

    async fn read_entry(&self, position: Position) -> io::Result<Option<Entry>> {
        let record = match self.journal.read(position).await {
            Ok(record) => record,
            Err(JournalReadError::Missing(_)) => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        };
        if record.stream != StreamTag::raft(self.group) || record.kind != Kind::Entry.number() {
            return Ok(None);
        }
        Body::decode_entry(&record.payload)
            .map(Some)
            .map_err(io::Error::other)
    }

    /// Answers one request to free a segment: gives `make_snapshot`'s purge a chance where it can
    /// save much copying, then copies what is still live. May be aborted, and begun again, at any
    /// moment.
    pub(crate) async fn free_segment(
        &self,
        request: CopyForward,
        make_snapshot: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let positions: BTreeSet<Position> = request.positions.iter().copied().collect();
        // What a snapshot now would let go. The newest entries stay in any case: they are copied.
        let applied = |state: &StateHandle| state.store.applied_index() + 1;
        let end = self.state_slot().as_ref().map_or(0, applied);
        let end = end.saturating_sub(self.kept_entries);
        let at_once = self.journal.record_bytes_max() / COPIED_AT_ONCE_SHARE;
        let purgeable = || self.core().entry_bytes_at(&positions, end);
        if purgeable() > at_once {
            make_snapshot.await;
            let give_up = self.env.now() + PURGE_PATIENCE;
            loop {
                let purged = self.purged.notified();
                if purgeable() <= at_once {
                    break;
                }
                if self.env.deadline(give_up, purged).await.is_err() {
                    break;
                }
            }
        }
        let carried = self.core().carried(&positions);
        let mut count = 0;
        for Carried { placed, body } in carried {
            let body = match body {
                Some(body) => body,
                None => match self.read_entry(placed.position).await? {
                    Some(entry) => Body::Entry(entry),
                    None => continue,
                },
            };
            count += u32::from(self.copy(placed, &body).await?);
        }
        let group = self.group;
        event!(self.env, Debug, "raft", "{group} copied {count} records");
        if count > 0 {
            self.settled().await?;
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the journal stopped")
}

/// Does what follows of durability, in order, for as long as the log lives.
struct Flusher {
    journal: Journal,
    core: Arc<Mutex<LogCore>>,
    promises: Arc<Promises>,
}

impl Flusher {
    async fn run(self, mut queue: mpsc::Receiver<Flush>) {
        while let Some(flush) = queue.recv().await {
            match flush {
                Flush::Appended {
                    receipt,
                    superseded,
                    told,
                } => {
                    let outcome = receipt.durable().await;
                    if outcome.is_ok() {
                        self.journal.release_all(superseded);
                    }
                    if let Some(told) = told {
                        told.tell(outcome.map_err(io::Error::other), &self.promises);
                    }
                }
                Flush::Copied { receipt, from } => {
                    let to = receipt.position();
                    if receipt.durable().await.is_ok() {
                        let mut core = self.core.lock().expect("no panic under this lock");
                        let superseded = core.moved(from, to);
                        drop(core);
                        self.journal.release(superseded);
                    }
                }
                // Whoever asked may have gone.
                Flush::Settled(settled) => drop(settled.send(())),
            }
        }
    }
}

/// openraft's handle on a [`Log`], as storage and as reader.
#[derive(Clone)]
pub(crate) struct LogHandle(pub(crate) Arc<Log>);

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<Types> for LogHandle {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.0.entries(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.core().vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0.entries(start, end, READ_BYTES_MAX).await
    }

    /// In steps of [`READ_BYTES_MAX`], so that a long catch-up does not fill the memory.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = bounds(&range);
        let log = Arc::clone(&self.0);
        let steps = stream::unfold(Some((log, from, to)), |place| async move {
            let (log, from, to) = place?;
            match log.entries(from, to, READ_BYTES_MAX).await {
                Ok(entries) => {
                    let next = entries.last()?.log_id.index + 1;
                    let step: Vec<io::Result<Entry>> = entries.into_iter().map(Ok).collect();
                    Some((step, (next < to).then_some((log, next, to))))
                }
                Err(error) => Some((vec![Err(error)], None)),
            }
        });
        let flat = futures_util::StreamExt::flat_map(steps, stream::iter);
        Box::pin(flat) as futures_util::stream::BoxStream<'static, io::Result<Entry>>
    }

    async fn leader_bounded_stream<R>(
        &mut self,
        leader: LeaderId,
        range: R,
    ) -> impl Stream<Item = Result<Entry, LeaderBoundedStreamError<Types>>> + Send
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let changed = |vote: Option<Vote>| {
            let error = openraft::errors::LeaderChanged::new(leader, vote);
            vec![Err(LeaderBoundedStreamError::LeaderChanged(error))]
        };
        let leads = |vote: &Option<Vote>| {
            vote.as_ref()
                .is_some_and(|vote| vote.leader_id() == &leader && vote.is_committed())
        };
        let (from, to) = bounds(&range);
        let before = self.0.core().vote();
        if !leads(&before) {
            return stream::iter(changed(before));
        }
        let entries = self.0.entries(from, to, usize::MAX).await;
        let after = self.0.core().vote();
        stream::iter(match entries {
            Ok(_) if after != before => changed(after),
            Ok(entries) => entries.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(LeaderBoundedStreamError::IoError(error))],
        })
    }
}

impl RaftLogStorage<Types> for LogHandle {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let core = self.0.core();
        Ok(LogState {
            last_purged_log_id: core.purged(),
            last_log_id: core.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let tell = |core: &mut LogCore, placed, _| core.set_vote(*vote, placed);
        let (superseded, receipt) = self.0.write(&Body::Vote(*vote), tell).await?;
        if !active(Mutant::VoteBeforeSync) {
            receipt.durable().await.map_err(io::Error::other)?;
        }
        self.0.journal.release_all(superseded);
        self.0.promises.vote(vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut superseded = Vec::new();
        let mut last = None;
        for entry in entries {
            let log_id = entry.log_id;
            let body = Body::Entry(entry.clone());
            let tell = |core: &mut LogCore, placed, bytes| core.append(entry, placed, bytes);
            let (old, receipt) = self.0.write(&body, tell).await?;
            superseded.extend(old);
            last = Some((receipt, (log_id, self.0.promises.appended(&log_id))));
        }
        let Some((receipt, last)) = last else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        // The last one's durability is that of all: the journal reports in order.
        let mut told = Some(Told { callback, last });
        if active(Mutant::LogBeforeSync)
            && let Some(told) = told.take()
        {
            told.tell(Ok(()), &self.0.promises);
        }
        let flush = Flush::Appended {
            receipt,
            superseded,
            told,
        };
        self.0.when_durable(flush).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let end = self.0.core().last();
        self.0.promises.cut_begins(last);
        if active(Mutant::TruncationNotRecorded) {
            self.0.core().cut(last);
            self.0.promises.cut_ends(end);
            return Ok(());
        }
        let tell = |core: &mut LogCore, placed, _| core.truncate(last, placed);
        let (superseded, receipt) = self.0.write(&Body::Truncation(last), tell).await?;
        // A snapshot may be installed next: its state must never stand beside the entries cut here.
        receipt.durable().await.map_err(io::Error::other)?;
        self.0.journal.release_all(superseded);
        self.0.promises.cut_ends(end);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if !active(Mutant::PurgePastDurable) {
            self.0.state().ensure_durable(upto).await?;
        }
        let tell = |core: &mut LogCore, placed, _| core.purge(upto, placed);
        let (superseded, receipt) = self.0.write(&Body::Purge(upto), tell).await?;
        self.0.purged.notify_waiters();
        let flush = Flush::Appended {
            receipt,
            superseded,
            told: None,
        };
        self.0.when_durable(flush).await
    }
}
