//! [`VerifiedFile`]: the calls that the Pages store makes, over four blocking files.
//!
//! Invariants: writes, syncs and checkpoints are serialised by one lock, reads share another that
//! is held exclusively only to switch what they see; the log is not overwritten before the table of
//! the next generation is durable.
//! Does not: spawn or await; every call blocks its thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{BlockingFile, DiskError, Env, OpenMode, Phase};

use super::format::{
    FRAME_ALIGNMENT, FRAME_PAGES_MAX, Frame, PageEntry, Table, decode_frame, decode_table,
    encode_frame, encode_table, frame_bytes, frame_header_bytes, page_checksum, table_bytes,
};
use super::reserve::Reserve;
use super::state::{Source, State, UNCUT};
use super::{PAGE_BYTES, VerifiedConfig, VerifiedError};
use crate::codec::{align_up, narrow, wide};

/// The log is read this much at a time when it is searched for a later frame.
const SEARCH_BYTES: usize = 1 << 20;

/// A file of verified pages. All calls block.
pub struct VerifiedFile {
    env: Env,
    path: String,
    config: VerifiedConfig,
    reserve: Option<Reserve>,
    pages: Arc<dyn BlockingFile>,
    tables: [Arc<dyn BlockingFile>; 2],
    log: Arc<dyn BlockingFile>,
    state: RwLock<State>,
    /// Held over every change.
    writer: Mutex<LogWriter>,
    stopped: AtomicBool,
}

#[derive(Debug)]
struct LogWriter {
    /// Where the next frame goes.
    end: u64,
    sequence: u64,
    synced: u64,
}

impl LogWriter {
    fn new() -> Self {
        Self {
            end: 0,
            sequence: 1,
            synced: 0,
        }
    }
}

impl fmt::Debug for VerifiedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("VerifiedFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

const UNPOISONED: &str = "nobody panics while holding the verified file's locks";

fn table_path(path: &str, copy: usize) -> String {
    format!("{path}.table{copy}")
}

impl VerifiedFile {
    /// Opens the file at `path`, creating it empty when it is absent. Recovers it to its last sync.
    ///
    /// # Errors
    /// See [`VerifiedError`].
    pub async fn open(
        env: &Env,
        path: &str,
        config: VerifiedConfig,
    ) -> Result<Self, VerifiedError> {
        Self::open_with(env, path, config, None).await
    }

    /// As [`VerifiedFile::open`]; a call that finds no space has `reserve` released and tries again
    /// before it says so.
    ///
    /// # Errors
    /// See [`VerifiedError`].
    pub async fn open_with(
        env: &Env,
        path: &str,
        config: VerifiedConfig,
        reserve: Option<Reserve>,
    ) -> Result<Self, VerifiedError> {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let names = [
            path.to_owned(),
            table_path(path, 0),
            table_path(path, 1),
            log_path(path),
        ];
        for name in &names {
            env.disk().open(name, OpenMode::Create).await?;
        }
        env.disk().sync_directory(directory).await?;
        let (own, path) = (env.clone(), path.to_owned());
        env.blocking("verified-open", move || {
            Self::open_blocking(own, path, config, reserve)
        })
        .await
    }

    fn open_blocking(
        env: Env,
        path: String,
        config: VerifiedConfig,
        reserve: Option<Reserve>,
    ) -> Result<Self, VerifiedError> {
        let open = |name: &str| env.disk().open_blocking(name, OpenMode::Existing);
        let pages = open(&path)?;
        let tables = [open(&table_path(&path, 0))?, open(&table_path(&path, 1))?];
        let log = open(&log_path(&path))?;
        let table = match read_best_table(&tables)? {
            Some(table) => table,
            // Pages are written only after a table was durable once.
            None if pages.length()? == 0 => Table::default(),
            None => {
                return Err(VerifiedError::Damaged {
                    path,
                    what: "the table of page checksums",
                });
            }
        };
        let mut state = State::new(table);
        replay_log(&path, &*log, &mut state)?;
        let file = Self {
            env,
            path,
            config,
            reserve,
            pages,
            tables,
            log,
            state: RwLock::new(state),
            writer: Mutex::new(LogWriter::new()),
            stopped: AtomicBool::new(false),
        };
        // What was replayed may have been read from a cache, and the log may hold frames of the
        // same generation that never committed: a new generation settles both.
        let mut writer = file.writer.lock().expect(UNPOISONED);
        file.checkpoint(&mut writer)?;
        drop(writer);
        Ok(file)
    }

    /// The length in bytes.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.state.read().expect(UNPOISONED).length
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset` with verified bytes.
    ///
    /// # Errors
    /// See [`VerifiedError`].
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), VerifiedError> {
        self.check_running()?;
        let state = self.state.read().expect(UNPOISONED);
        self.check_range(&state, offset, buffer.len())?;
        let mut page_bytes = vec![0; PAGE_BYTES];
        let mut done = 0;
        while done < buffer.len() {
            let (page, within, length) = piece(offset + wide(done), buffer.len() - done);
            let target = &mut buffer[done..done + length];
            if length == PAGE_BYTES {
                self.read_page(&state, page, target)?;
            } else {
                self.read_page(&state, page, &mut page_bytes)?;
                target.copy_from_slice(&page_bytes[within..within + length]);
            }
            done += length;
        }
        Ok(())
    }

    fn read_page(&self, state: &State, page: u64, target: &mut [u8]) -> Result<(), VerifiedError> {
        let entry = match state.source(page) {
            Source::Zeros => {
                target.fill(0);
                return Ok(());
            }
            Source::Memory(bytes) => {
                target.copy_from_slice(bytes);
                return Ok(());
            }
            Source::Log(logged) => {
                self.log.read_at(logged.offset, target)?;
                logged.entry
            }
            Source::Pages(entry) => {
                self.pages.read_at(page * wide(PAGE_BYTES), target)?;
                entry
            }
        };
        if page_checksum(page, target) == entry.checksum || active(Mutant::PageUnverified) {
            return Ok(());
        }
        Err(VerifiedError::Mismatch {
            path: self.path.clone(),
            page,
        })
    }

    /// Writes `data` at `offset`; durable with the next sync.
    ///
    /// # Errors
    /// See [`VerifiedError`].
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), VerifiedError> {
        self.check_running()?;
        let mut writer = self.writer.lock().expect(UNPOISONED);
        let mut done = 0;
        while done < data.len() {
            let (page, within, length) = piece(offset + wide(done), data.len() - done);
            let source = &data[done..done + length];
            let bytes: Box<[u8]> = if length == PAGE_BYTES {
                source.into()
            } else {
                let mut bytes = vec![0; PAGE_BYTES];
                self.read_page(&self.state.read().expect(UNPOISONED), page, &mut bytes)?;
                bytes[within..within + length].copy_from_slice(source);
                bytes.into()
            };
            let mut state = self.state.write().expect(UNPOISONED);
            self.check_range(&state, offset, data.len())?;
            state.put(page, bytes);
            let is_large = state.dirty_bytes() >= self.config.dirty_bytes;
            drop(state);
            if is_large {
                self.spill(&mut writer, false)?;
            }
            done += length;
        }
        Ok(())
    }

    /// Sets the length; new bytes are zeros. Room for them is taken at once.
    ///
    /// # Errors
    /// See [`VerifiedError`]; `NoSpace` leaves the file as it was.
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn set_len(&self, length: u64) -> Result<(), VerifiedError> {
        self.check_running()?;
        let _writer = self.writer.lock().expect(UNPOISONED);
        // Taken here, so that neither a sync nor a checkpoint can run out of space.
        self.grow_pages(length)?;
        for table in &self.tables {
            if table.length()? < table_bytes(length) {
                self.with_room(|| table.resize(table_bytes(length)))?;
            }
        }
        let (page, within, _) = piece(length, PAGE_BYTES);
        let shrinks_within_page = length < self.len() && within > 0;
        let mut bytes = vec![0; PAGE_BYTES];
        if shrinks_within_page {
            self.read_page(&self.state.read().expect(UNPOISONED), page, &mut bytes)?;
            bytes[within..].fill(0);
        }
        let mut state = self.state.write().expect(UNPOISONED);
        state.set_length(length);
        if shrinks_within_page {
            state.put(page, bytes.into());
        }
        Ok(())
    }

    /// Makes everything written so far durable, all or nothing.
    ///
    /// # Errors
    /// See [`VerifiedError`]; after a failure every later call fails.
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn sync(&self) -> Result<(), VerifiedError> {
        self.check_running()?;
        let mut writer = self.writer.lock().expect(UNPOISONED);
        if self.state.read().expect(UNPOISONED).is_clean() {
            return Ok(());
        }
        self.spill(&mut writer, true)?;
        let table = table_bytes(self.len());
        if writer.end >= self.config.log_bytes.max(4 * table) {
            self.checkpoint(&mut writer)?;
        }
        Ok(())
    }

    /// Moves all dirty pages to the log; with `commit`, syncs it and lets them take effect.
    fn spill(&self, writer: &mut LogWriter, commit: bool) -> Result<(), VerifiedError> {
        self.stop_on_error(self.try_spill(writer, commit))
    }

    fn try_spill(&self, writer: &mut LogWriter, commit: bool) -> Result<(), VerifiedError> {
        loop {
            let mut state = self.state.write().expect(UNPOISONED);
            let (pages, cut) = state.take_dirty(FRAME_PAGES_MAX);
            let is_last = !state.has_dirty();
            let (generation, length) = (state.table.generation, state.length);
            drop(state);
            let mut frame = Frame {
                generation,
                sequence: writer.sequence,
                synced: writer.synced,
                length,
                cut,
                commit: commit && is_last,
                pages: Vec::with_capacity(pages.len()),
            };
            let mut body = Vec::with_capacity(pages.len() * PAGE_BYTES);
            for (page, counter, bytes) in pages {
                let checksum = page_checksum(page, &bytes);
                frame.pages.push((page, PageEntry { checksum, counter }));
                body.extend_from_slice(&bytes);
            }
            self.append(writer, &frame, &body)?;
            if is_last {
                break;
            }
        }
        if !commit {
            return Ok(());
        }
        if !active(Mutant::PageLogUnsynced) {
            self.log.sync()?;
        }
        writer.synced = writer.sequence - 1;
        self.state.write().expect(UNPOISONED).commit();
        self.write_mark(writer)
    }

    fn append(
        &self,
        writer: &mut LogWriter,
        frame: &Frame,
        body: &[u8],
    ) -> Result<(), VerifiedError> {
        let mut bytes = encode_frame(frame);
        let pages_at = writer.end + wide(bytes.len());
        bytes.extend_from_slice(body);
        self.with_room(|| self.log.write_at(writer.end, &bytes))?;
        writer.end += wide(bytes.len());
        writer.sequence += 1;
        // Readers find the pages in the log only now that they are there.
        self.state.write().expect(UNPOISONED).spill(frame, pages_at);
        Ok(())
    }

    /// Says that what precedes was synced, so that damage to it can be told from a torn tail. Not
    /// synced itself: nothing depends on it but this distinction.
    fn write_mark(&self, writer: &mut LogWriter) -> Result<(), VerifiedError> {
        let state = self.state.read().expect(UNPOISONED);
        let mark = Frame {
            generation: state.table.generation,
            sequence: writer.sequence,
            synced: writer.synced,
            length: state.length,
            cut: UNCUT,
            commit: true,
            pages: Vec::new(),
        };
        drop(state);
        self.append(writer, &mark, &[])
    }

    /// Moves committed pages from the log into the pages file and begins the next generation.
    fn checkpoint(&self, writer: &mut LogWriter) -> Result<(), VerifiedError> {
        self.stop_on_error(self.try_checkpoint(writer))
    }

    fn try_checkpoint(&self, writer: &mut LogWriter) -> Result<(), VerifiedError> {
        let _phase = self.env.phase(Phase::WriteBack);
        let state = self.state.read().expect(UNPOISONED);
        let (logged, table) = (state.logged(), state.next_table());
        drop(state);
        self.grow_pages(table.length)?;
        let mut bytes = vec![0; PAGE_BYTES];
        for (page, logged) in logged {
            self.log.read_at(logged.offset, &mut bytes)?;
            if page_checksum(page, &bytes) != logged.entry.checksum {
                return Err(VerifiedError::Mismatch {
                    path: self.path.clone(),
                    page,
                });
            }
            self.with_room(|| self.pages.write_at(page * wide(PAGE_BYTES), &bytes))?;
        }
        let late = active(Mutant::TableBeforePages);
        if !late {
            self.pages.sync()?;
        }
        let target = &self.tables[narrow(table.generation % 2)];
        let encoded = encode_table(&table);
        self.with_room(|| target.write_at(0, &encoded))?;
        target.sync()?;
        if late {
            self.pages.sync()?;
        }
        let length = whole_pages(table.length);
        self.state.write().expect(UNPOISONED).checkpointed(table);
        *writer = LogWriter::new();
        if self.pages.length()? > length {
            self.pages.resize(length)?;
        }
        Ok(())
    }

    /// The pages file holds whole pages only.
    fn grow_pages(&self, length: u64) -> Result<(), DiskError> {
        let length = whole_pages(length);
        if self.pages.length()? < length {
            self.with_room(|| self.pages.resize(length))?;
        }
        Ok(())
    }

    /// What `act` answers; when it finds no space, what it answers once the reserve is given up.
    /// Nothing that it did may be relied upon before, so doing it again is right.
    fn with_room(&self, act: impl Fn() -> Result<(), DiskError>) -> Result<(), DiskError> {
        match (act(), &self.reserve) {
            (Err(DiskError::NoSpace { .. }), Some(reserve)) => {
                reserve.release();
                act()
            }
            (outcome, _) => outcome,
        }
    }

    fn check_running(&self) -> Result<(), VerifiedError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(VerifiedError::Stopped {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    fn stop_on_error<T>(&self, outcome: Result<T, VerifiedError>) -> Result<T, VerifiedError> {
        if outcome.is_err() {
            self.stopped.store(true, Ordering::Release);
        }
        outcome
    }

    fn check_range(&self, state: &State, offset: u64, length: usize) -> Result<(), VerifiedError> {
        let length = wide(length);
        if offset
            .checked_add(length)
            .is_some_and(|end| end <= state.length)
        {
            return Ok(());
        }
        Err(VerifiedError::OutOfRange {
            path: self.path.clone(),
            offset,
            length,
            end: state.length,
        })
    }
}

fn whole_pages(length: u64) -> u64 {
    align_up(length, wide(PAGE_BYTES))
}

fn log_path(path: &str) -> String {
    format!("{path}.log")
}

/// The page that `offset` lies in, the offset there, and how much of `length` it takes.
fn piece(offset: u64, length: usize) -> (u64, usize, usize) {
    let within = narrow(offset % wide(PAGE_BYTES));
    (
        offset / wide(PAGE_BYTES),
        within,
        length.min(PAGE_BYTES - within),
    )
}

fn read_best_table(tables: &[Arc<dyn BlockingFile>; 2]) -> Result<Option<Table>, DiskError> {
    let mut best: Option<Table> = None;
    for file in tables {
        let mut bytes = vec![0; narrow(file.length()?)];
        file.read_at(0, &mut bytes)?;
        let table = decode_table(&bytes);
        let is_newer = |table: &Table| {
            best.as_ref()
                .is_none_or(|best| table.generation > best.generation)
        };
        if table.as_ref().is_some_and(is_newer) {
            best = table;
        }
    }
    Ok(best)
}

/// Applies every committed frame of the table's generation.
fn replay_log(path: &str, log: &dyn BlockingFile, state: &mut State) -> Result<(), VerifiedError> {
    let end = log.length()?;
    let generation = state.table.generation;
    let (mut at, mut sequence) = (0, 1);
    while let Some(frame) = read_frame(log, at, end)? {
        if (frame.generation, frame.sequence) != (generation, sequence)
            || !pages_are_intact(log, at, end, &frame)?
        {
            break;
        }
        state.replay(&frame, at + wide(frame_header_bytes(frame.pages.len())));
        if frame.commit {
            state.commit();
        }
        at += wide(frame_bytes(frame.pages.len()));
        sequence += 1;
    }
    state.roll_back();
    if is_contradicted(log, at, end, generation, sequence)? {
        return Err(VerifiedError::Damaged {
            path: path.to_owned(),
            what: "the newest table or a synced frame of the page log",
        });
    }
    Ok(())
}

fn read_frame(log: &dyn BlockingFile, at: u64, end: u64) -> Result<Option<Frame>, DiskError> {
    let longest = frame_header_bytes(FRAME_PAGES_MAX);
    let mut bytes = vec![0; longest.min(narrow(end.saturating_sub(at)))];
    log.read_at(at, &mut bytes)?;
    Ok(decode_frame(&bytes))
}

fn pages_are_intact(
    log: &dyn BlockingFile,
    at: u64,
    end: u64,
    frame: &Frame,
) -> Result<bool, DiskError> {
    let mut offset = at + wide(frame_header_bytes(frame.pages.len()));
    let mut bytes = vec![0; PAGE_BYTES];
    for (page, entry) in &frame.pages {
        if offset + wide(PAGE_BYTES) > end {
            return Ok(false);
        }
        log.read_at(offset, &mut bytes)?;
        if page_checksum(*page, &bytes) != entry.checksum {
            return Ok(false);
        }
        offset += wide(PAGE_BYTES);
    }
    Ok(true)
}

/// Whether a frame after `at` knows the frame numbered `sequence` to have been synced, or belongs
/// to a generation whose table was not found.
fn is_contradicted(
    log: &dyn BlockingFile,
    at: u64,
    end: u64,
    generation: u64,
    sequence: u64,
) -> Result<bool, DiskError> {
    let overlap = frame_header_bytes(FRAME_PAGES_MAX);
    let mut from = at;
    while from < end {
        let mut bytes = vec![0; (SEARCH_BYTES + overlap).min(narrow(end - from))];
        log.read_at(from, &mut bytes)?;
        let starts = (0..bytes.len().min(SEARCH_BYTES)).step_by(FRAME_ALIGNMENT);
        for frame in starts.filter_map(|start| decode_frame(&bytes[start..])) {
            // A newer generation begins only after its table was durable: that table is lost.
            let is_later = frame.generation == generation && frame.synced >= sequence;
            if is_later || frame.generation > generation {
                return Ok(true);
            }
        }
        from += wide(SEARCH_BYTES);
    }
    Ok(false)
}
