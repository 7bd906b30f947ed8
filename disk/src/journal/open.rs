//! Opens a journal: reads every segment, secures the tail, and begins the next session.
//!
//! Invariants: nothing is written before the owner has chosen the session (it must exceed every
//! session found); when `begin` returns, everything recovered and the session's opening mark is
//! durable, so that a second crash finds the same.
//! Does not: judge the bytes (`recovery` does).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{DiskError, Env, File, OpenMode, StoreId};
use tokio::sync::Notify;

use super::core::{Core, Start};
use super::format::{in_memory, locate, segment_number, segment_path};
use super::recovery::{Scan, Scanner};
use super::{
    DamagedRange, Journal, JournalConfig, Position, RecoveredRecord, Shared, Stopped,
    create_segment, driver, rewrite,
};
use crate::codec::narrow;

/// Why a journal did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JournalOpenError {
    /// The disk failed a call.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The opening mark could not be written.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What recovery found.
#[derive(Debug)]
pub(crate) struct JournalRecovery {
    /// Every record in a segment not yet freed, in the journal's order; some are superseded.
    pub(crate) records: Vec<RecoveredRecord>,
    /// What is damaged.
    pub(crate) damaged: Vec<DamagedRange>,
    /// Where this session begins.
    pub(crate) began_at: Position,
}

/// A journal that was read but not yet written.
pub(crate) struct Opening {
    env: Env,
    directory: String,
    config: JournalConfig,
    store: StoreId,
    files: BTreeMap<u64, Arc<dyn File>>,
    scan: Scan,
}

impl Opening {
    /// Reads the journal in `directory`.
    pub(crate) async fn scan(
        env: &Env,
        directory: &str,
        config: JournalConfig,
        store: StoreId,
    ) -> Result<Self, JournalOpenError> {
        let mut files = BTreeMap::new();
        let mut scanner = Scanner::new(store, config.segment_bytes, config.alignment);
        let mut numbers: Vec<u64> = Vec::new();
        for name in env.disk().list(directory).await? {
            numbers.extend(segment_number(&name));
        }
        numbers.sort_unstable();
        for number in numbers {
            let path = segment_path(directory, number);
            let file = env.disk().open(&path, OpenMode::Existing).await?;
            let bytes = file.read_at(0, narrow(config.segment_bytes)).await?;
            scanner.segment(number, &bytes);
            files.insert(number, file);
        }
        Ok(Self {
            env: env.clone(),
            directory: directory.to_owned(),
            config,
            store,
            files,
            scan: scanner.finish(),
        })
    }

    /// The highest session of any frame.
    pub(crate) fn highest_session(&self) -> u64 {
        self.scan.highest_session
    }

    /// Whether any frame of this store was found.
    pub(crate) fn found(&self) -> bool {
        self.scan.found
    }

    /// Begins `session`, which must exceed every session found.
    pub(crate) async fn begin(
        mut self,
        session: u64,
    ) -> Result<(Journal, JournalRecovery), JournalOpenError> {
        assert!(
            session > self.scan.highest_session,
            "a session is used once"
        );
        let available_end = self.complete_files().await?;
        self.secure_tail().await?;
        let scan = self.scan;
        let start = Start {
            store: self.store,
            session,
            end: scan.end,
            reported: scan.reported,
            next_sequence: scan.next_sequence,
            head: scan.head,
            available_end,
            last_headers: scan.last_headers,
            live: scan.live,
        };
        let shared = Arc::new(Shared {
            core: Mutex::new(Core::new(self.config.clone(), start)),
            env: self.env.clone(),
            directory: self.directory,
            store: self.store,
            config: self.config,
            files: Mutex::new(self.files),
            work: Notify::new(),
            changed: Notify::new(),
            stopped: Arc::new(Mutex::new(None)),
        });
        let task = self.env.spawn("journal", driver::run(Arc::clone(&shared)));
        let journal = Journal {
            shared,
            _driver: Arc::new(task.abort_on_drop()),
        };
        let began_at = Position(scan.end);
        let shared = &journal.shared;
        shared
            .until(|core| core.is_stopped() || core.durable() > began_at)
            .await;
        if let Some(stopped) = journal.is_stopped() {
            return Err(stopped.into());
        }
        let recovery = JournalRecovery {
            records: scan.records,
            damaged: scan.damaged,
            began_at,
        };
        Ok((journal, recovery))
    }

    /// Makes one file stand for each segment from the head on; freed ones are used first.
    async fn complete_files(&mut self) -> Result<u64, DiskError> {
        let head = self.scan.head;
        let (end_segment, _) = locate(self.scan.end, self.config.segment_bytes);
        let highest = self
            .files
            .last_key_value()
            .map_or(0, |(number, _)| number + 1);
        let wanted_end = (head + self.config.segments)
            .max(end_segment + 2)
            .max(highest);
        for number in head..wanted_end {
            let path = segment_path(&self.directory, number);
            if let Some(file) = self.files.get(&number) {
                if file.length().await? != self.config.segment_bytes {
                    file.resize(self.config.segment_bytes).await?;
                    file.sync().await?;
                }
                continue;
            }
            if let Some(freed) = self.first_freed() {
                self.env
                    .disk()
                    .rename(&segment_path(&self.directory, freed), &path)
                    .await?;
                self.files.remove(&freed);
            }
            let file = create_segment(&self.env, &path, self.config.segment_bytes).await?;
            file.sync().await?;
            self.files.insert(number, file);
        }
        while let Some(freed) = self.first_freed() {
            self.env
                .disk()
                .remove(&segment_path(&self.directory, freed))
                .await?;
            self.files.remove(&freed);
        }
        self.env.disk().sync_directory(&self.directory).await?;
        Ok(wanted_end)
    }

    fn first_freed(&self) -> Option<u64> {
        let (number, _) = self.files.first_key_value()?;
        (*number < self.scan.head).then_some(*number)
    }

    /// Frames above the watermark were read, but perhaps from a cache: write them again and sync.
    async fn secure_tail(&mut self) -> Result<(), DiskError> {
        let segment_bytes = self.config.segment_bytes;
        if active(Mutant::TailNotSecured) {
            return Ok(());
        }
        let mut position = self.scan.watermark.max(self.scan.head * segment_bytes);
        while position < self.scan.end {
            let (segment, offset) = locate(position, segment_bytes);
            let end = self.scan.end.min((segment + 1) * segment_bytes);
            let file = self
                .files
                .get(&segment)
                .expect("every segment up to the end has a file");
            let bytes = file.read_at(offset, in_memory(end - position)).await?;
            rewrite(&**file, offset, bytes).await?;
            position = end;
        }
        Ok(())
    }
}
