//! Performs what the journal's core decides: several frames in flight, one recycling at a time.
//!
//! Invariants: a frame is reported written only after the sync that followed its write; the first
//! failure stops the journal; a closing mark follows within [`MARK_PAUSE`] of the last frame.
//! Does not: decide anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BoxFuture, DiskError, Instant, OpenMode, Phase};

use super::core::Action;
use super::format::segment_path;
use super::{Shared, UNPOISONED};

/// How long an idle journal waits before its closing mark. A few clients that make small writes leave
/// such gaps: the next frame says all that the mark would, without a sync of its own.
const MARK_PAUSE: Duration = Duration::from_millis(20);

/// Runs until the journal stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut running: FuturesUnordered<BoxFuture<'static, Result<(), DiskError>>> =
        FuturesUnordered::new();
    // When the closing mark is due, while one is wanted and nothing is in flight.
    let mut mark_at: Option<Instant> = None;
    loop {
        loop {
            let is_mark_due = mark_at.is_some_and(|at| shared.env.now() >= at);
            let action = shared.core().next_action(is_mark_due);
            let Some(action) = action else { break };
            mark_at = None;
            running.push(Box::pin(perform(Arc::clone(&shared), action)));
        }
        if shared.core().is_stopped() {
            return;
        }
        let outcome = if running.is_empty() {
            if shared.core().is_mark_awaited() {
                let at = *mark_at.get_or_insert_with(|| shared.env.now() + MARK_PAUSE);
                let work = std::pin::pin!(shared.work.notified());
                select(work, shared.env.sleep_until(at)).await;
            } else {
                shared.work.notified().await;
            }
            None
        } else {
            // Completions first: they make room for what is queued.
            let work = std::pin::pin!(shared.work.notified());
            match select(running.next(), work).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(((), _)) => None,
            }
        };
        if let Some(Err(error)) = outcome {
            shared.stop(error.to_string());
            return;
        }
    }
}

async fn perform(shared: Arc<Shared>, action: Action) -> Result<(), DiskError> {
    match action {
        Action::Write {
            sequence,
            segment,
            offset,
            parts,
        } => {
            write(&shared, segment, offset, parts, sequence).await?;
            shared.core().written(sequence);
        }
        Action::Recycle { from, to } => {
            recycle(&shared, from, to).await?;
            shared.core().recycled();
        }
    }
    shared.changed.notify_waiters();
    Ok(())
}

async fn write(
    shared: &Shared,
    segment: u64,
    offset: u64,
    parts: Vec<Bytes>,
    sequence: u64,
) -> Result<(), DiskError> {
    let _phase = shared.env.phase(Phase::JournalSync);
    let file = shared
        .file(segment)
        .expect("the core names available segments only");
    if active(Mutant::AcknowledgeBeforeSync) {
        file.write_at(offset, parts).await?;
        shared.core().written(sequence);
        shared.changed.notify_waiters();
        return file.sync().await;
    }
    let outcome = match file.write_durably(offset, parts) {
        Ok(written) => written.await,
        Err(parts) => {
            file.write_at(offset, parts).await?;
            file.sync().await
        }
    };
    match outcome {
        Err(_) if active(Mutant::FailedSyncRetried) => file.sync().await,
        outcome => outcome,
    }
}

/// Gives a freed file its next number. Its old frames are foreign there: they carry other
/// positions.
async fn recycle(shared: &Shared, from: u64, to: u64) -> Result<(), DiskError> {
    let disk = shared.env.disk();
    let (old, new) = (
        segment_path(&shared.directory, from),
        segment_path(&shared.directory, to),
    );
    disk.rename(&old, &new).await?;
    disk.sync_directory(&shared.directory).await?;
    let file = disk.open(&new, OpenMode::Existing).await?;
    let mut files = shared.files.lock().expect(UNPOISONED);
    files.remove(&from);
    files.insert(to, file);
    Ok(())
}
