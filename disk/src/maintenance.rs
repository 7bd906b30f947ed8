//! What a pool does in the background: flush, dead maps, compaction, removal, scrub.
//!
//! One worker does all of it, one thing after the other, so that extent appends never overlap.
//!
//! Invariants: bytes are verified before they are copied and carry their first checksums; an index
//! entry moves only if it is still where the copy was read; a deletion's record is released only
//! after a dead-map sync that began after its kill; a full disk pauses the flush, and what was moved
//! before it was met stays moved; an entry that
//! cannot be read is as damaged as one that reads wrong, any other disk failure stops the pool.
//! Does not: decide what is deleted, or rate-limit scrubbing (the caller gives the budget).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlobName, DiskError, Phase, event};
use tokio::sync::mpsc;

use crate::codec::narrow;
use crate::extent::{FetchError, Meta, Outgoing, Place, chunks_match};
use crate::index::Location;
use crate::journal::{CopyForward, JournalReadError, Position};
use crate::life::Tombstones;
use crate::store::{Inner, ScrubReport, StoreError};

/// Payload copied and synced at once by flush and compaction.
const COPY_BATCH_BYTES: u64 = 4 << 20;
/// Segments compacted in one round, so that a flush never waits long.
const COMPACTIONS_PER_ROUND: usize = 4;

/// Pause after a round that found no space. Whoever is refused asks for a round, which frees nothing
/// by itself: without a pause a full disk would be a busy one.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// What the worker remembers between rounds.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    scrub_segment: u64,
    scrub_ordinal: u32,
}

/// The background task.
pub(crate) async fn run(inner: Arc<Inner>, mut requests: mpsc::Receiver<CopyForward>) {
    loop {
        let sleep = inner.env.sleep(inner.config.flush_interval);
        let work = pin!(inner.work.notified());
        let asked = pin!(requests.recv());
        // Order is a decision: space first, then volume, then age.
        match select(asked, select(work, sleep)).await {
            Either::Left((Some(_), _)) | Either::Right(_) => {}
            Either::Left((None, _)) => return,
        }
        let mut worker = inner.worker.lock().await;
        if inner.journal.is_stopped().is_some() {
            return;
        }
        if let Err(error) = round(&inner, &mut worker).await {
            event!(inner.env, Error, "disk", "{}: {error}", inner.directory);
            inner.journal.stop(&error.to_string());
            return;
        }
        drop(worker);
        if inner.capacity().refused {
            inner.env.sleep(FULL_PAUSE).await;
        }
    }
}

/// One round now, for callers that want it done.
pub(crate) async fn flush_all(inner: &Inner) -> Result<(), StoreError> {
    inner.journal.flushed().await?;
    let mut worker = inner.worker.lock().await;
    if let Some(stopped) = inner.journal.is_stopped() {
        return Err(stopped.into());
    }
    if let Err(error) = round(inner, &mut worker).await {
        inner.journal.stop(&error.to_string());
        return Err(error.into());
    }
    if inner.capacity().refused {
        Err(StoreError::Full)
    } else {
        Ok(())
    }
}

/// Everything that is due. A full disk is no error here: the journal keeps what could not be moved.
async fn round(inner: &Inner, _worker: &mut Worker) -> Result<(), DiskError> {
    let flushed = tolerate_full(flush(inner).await)?;
    sync_deletions(inner).await?;
    // Whole dead segments first: they give space without needing any.
    inner.extents.remove_dead().await?;
    let compacted = tolerate_full(compact(inner).await)?;
    sync_deletions(inner).await?;
    inner.extents.remove_dead().await?;
    let free_bytes = inner.env.disk().free_bytes(&inner.directory).await?;
    inner.see_free(free_bytes);
    inner.capacity().refused = !(flushed && compacted);
    Ok(())
}

/// Whether there was space; other failures pass through.
fn tolerate_full(outcome: Result<(), DiskError>) -> Result<bool, DiskError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(DiskError::NoSpace { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves every blob that is durable in the journal to the extents, oldest first.
async fn flush(inner: &Inner) -> Result<(), DiskError> {
    let _phase = inner.env.phase(Phase::Flush);
    loop {
        let durable = inner.journal.durable();
        let metas = inner.index().oldest_unflushed(COPY_BATCH_BYTES, durable);
        if metas.is_empty() {
            return Ok(());
        }
        let mut batch = Vec::with_capacity(metas.len());
        for meta in metas {
            let mut read = inner.journal.read(meta.origin).await;
            if read.as_ref().map_or_else(is_damage, |record| {
                !chunks_match(&record.payload, &meta.sums)
            }) {
                // A device may read wrong once what it holds well.
                read = inner.journal.read(meta.origin).await;
            }
            match read {
                Ok(record) if chunks_match(&record.payload, &meta.sums) => batch.push(Outgoing {
                    meta: Meta::clone(&meta),
                    payload: record.payload,
                }),
                Ok(_) | Err(JournalReadError::Damaged(_)) => lose(inner, &meta, Location::Journal),
                // Deleted or replaced meanwhile.
                Err(JournalReadError::Missing(_)) => {}
                Err(JournalReadError::Disk(error)) => return Err(error),
            }
        }
        let (places, appended) = inner.extents.append(&batch).await;
        for (outgoing, place) in batch.iter().zip(places) {
            let Meta { name, origin, .. } = outgoing.meta;
            let to = Location::Extent(place);
            let garbage = inner.index().relocate(name, origin, Location::Journal, to);
            inner.discard(garbage);
        }
        appended?;
    }
}

fn is_damage(error: &JournalReadError) -> bool {
    matches!(error, JournalReadError::Damaged(_))
}

/// Remembers that a blob's only copy here is damaged.
fn lose(inner: &Inner, meta: &Meta, from: Location) {
    let kept = match from {
        Location::Extent(place) => Some(place),
        Location::Journal | Location::Lost(_) => None,
    };
    event!(
        inner.env,
        Warn,
        "disk",
        "{}: {} is damaged",
        inner.directory,
        meta.name
    );
    inner.damage.fetch_add(1, Ordering::Relaxed);
    let lost = Location::Lost(kept);
    let garbage = inner.index().relocate(meta.name, meta.origin, from, lost);
    inner.discard(garbage);
}

/// Makes deletions and replacements durable in the extents, then lets the deletions' records go.
async fn sync_deletions(inner: &Inner) -> Result<(), DiskError> {
    let durable = inner.journal.durable();
    let is_due = |position: &Position| *position < durable;
    // The tombstones first: what they doomed is on the other list by then.
    let tombstones: Vec<_> = inner
        .tombstones()
        .extract_if(.., |(at, _)| is_due(at))
        .collect();
    let doomed: Vec<_> = inner
        .doomed()
        .extract_if(.., |(at, _)| is_due(at))
        .collect();
    for (_, place) in doomed {
        inner.extents.kill(place);
    }
    if active(Mutant::DeletionForgotten) {
        inner.journal.release_all(positions(tombstones));
        return Ok(());
    }
    let synced = inner.extents.sync_dead().await;
    if synced.is_err() {
        inner.tombstones().extend(tombstones);
        return synced;
    }
    inner.journal.release_all(positions(tombstones));
    Ok(())
}

fn positions(tombstones: Tombstones) -> impl Iterator<Item = Position> {
    tombstones.into_iter().map(|(position, _)| position)
}

/// Moves what lives out of mostly dead segments.
async fn compact(inner: &Inner) -> Result<(), DiskError> {
    let mut last = None;
    for _ in 0..COMPACTIONS_PER_ROUND {
        let Some((segment, live)) = inner.extents.to_compact(inner.is_full(0)) else {
            return Ok(());
        };
        // What lives there is not referred to and not dead yet: that takes a later round.
        if last.replace(segment) == Some(segment) {
            return Ok(());
        }
        if !compact_segment(inner, segment, &live).await? {
            // Damaged entries keep it: trying again would change nothing until they are repaired.
            return Ok(());
        }
    }
    inner.work.notify_one();
    Ok(())
}

/// Returns whether the segment is now without live entries.
async fn compact_segment(
    inner: &Inner,
    segment: u64,
    live: &[(u32, BlobName)],
) -> Result<bool, DiskError> {
    let _phase = inner.env.phase(Phase::Compaction);
    let mut batch: Vec<(Location, Outgoing)> = Vec::new();
    let mut bytes = 0;
    let mut emptied = true;
    for (ordinal, name) in live {
        let Some((from, place, meta)) = referenced(inner, segment, *ordinal, *name) else {
            continue;
        };
        let length = narrow(u64::from(meta.payload_bytes));
        match inner.extents.read(place, &meta, 0, length).await {
            Ok(payload) => {
                bytes += meta.entry_bytes();
                let meta = Meta::clone(&meta);
                batch.push((from, Outgoing { meta, payload }));
            }
            Err(FetchError::Moved) => {}
            // A sector that cannot be read must not stop the pool, at every start anew: other
            // members have the blob.
            Err(FetchError::Damaged | FetchError::Disk(_)) => {
                emptied = false;
                lose(inner, &meta, Location::Extent(place));
            }
        }
        if bytes >= COPY_BATCH_BYTES {
            move_batch(inner, std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
    }
    move_batch(inner, batch).await?;
    Ok(emptied)
}

/// The blob, if the index still names this entry, and how it names it: an entry that was found
/// damaged may read sound again. An entry that nothing names dies in its time.
fn referenced(
    inner: &Inner,
    segment: u64,
    ordinal: u32,
    name: BlobName,
) -> Option<(Location, Place, Arc<Meta>)> {
    let entry = inner.index().get(name);
    let place = entry.as_ref().and_then(|entry| match entry.location {
        Location::Extent(place) | Location::Lost(Some(place)) => Some(place),
        Location::Journal | Location::Lost(None) => None,
    });
    match (entry, place) {
        (Some(entry), Some(place)) if (place.segment, place.ordinal) == (segment, ordinal) => {
            Some((entry.location, place, entry.meta))
        }
        _ => None,
    }
}

async fn move_batch(inner: &Inner, batch: Vec<(Location, Outgoing)>) -> Result<(), DiskError> {
    let (from, outgoing): (Vec<Location>, Vec<Outgoing>) = batch.into_iter().unzip();
    let (to, appended) = inner.extents.append(&outgoing).await;
    for ((from, to), outgoing) in from.into_iter().zip(to).zip(&outgoing) {
        let Meta { name, origin, .. } = outgoing.meta;
        let garbage = inner
            .index()
            .relocate(name, origin, from, Location::Extent(to));
        inner.discard(garbage);
    }
    appended
}

/// Verifies stored blobs in disk order until the budget is used.
pub(crate) async fn scrub(inner: &Inner, budget_bytes: u64) -> Result<ScrubReport, StoreError> {
    let _phase = inner.env.phase(Phase::Scrub);
    let mut worker = inner.worker.lock().await;
    if let Some(stopped) = inner.journal.is_stopped() {
        return Err(stopped.into());
    }
    let mut report = ScrubReport::default();
    while report.bytes < budget_bytes {
        let next = inner
            .extents
            .next_live(worker.scrub_segment, worker.scrub_ordinal);
        let Some((segment, ordinal, name)) = next else {
            *worker = Worker::default();
            report.wrapped = true;
            return Ok(report);
        };
        (worker.scrub_segment, worker.scrub_ordinal) = (segment, ordinal + 1);
        let Some((_, place, meta)) = referenced(inner, segment, ordinal, name) else {
            continue;
        };
        report.bytes += meta.entry_bytes();
        match inner.extents.verify(place, &meta).await {
            Ok(()) | Err(FetchError::Moved) => {}
            // A sector that cannot be read is as bad as one that reads wrong.
            Err(FetchError::Damaged | FetchError::Disk(_)) => {
                lose(inner, &meta, Location::Extent(place));
                report.bad.push(name);
            }
        }
    }
    Ok(report)
}
