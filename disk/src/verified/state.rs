//! What a verified file knows in memory: where the newest bytes of each page are.
//!
//! Invariants: a page is looked for among the dirty, then the spilled, then the logged, then in the
//! pages file, and nowhere past a cut; a commit takes effect whole.
//! Does not: read or write files.

use std::collections::BTreeMap;

use super::PAGE_BYTES;
use super::format::{Frame, PageEntry, Table};
use crate::codec::{narrow, wide};

/// A page of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Logged {
    /// Where its bytes lie in the log.
    pub(super) offset: u64,
    pub(super) entry: PageEntry,
}

/// Where a page's newest bytes are.
pub(super) enum Source<'a> {
    Memory(&'a [u8]),
    Log(Logged),
    Pages(PageEntry),
    Zeros,
}

/// A page's number, its new write counter, its bytes.
pub(super) type DirtyPage = (u64, u64, Box<[u8]>);

/// No cut.
pub(super) const UNCUT: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct State {
    /// The table as of the last checkpoint.
    pub(super) table: Table,
    /// Committed since then.
    logged: BTreeMap<u64, Logged>,
    /// Committed cuts since then, as the lowest length.
    logged_cut: u64,
    /// The committed length.
    committed_length: u64,
    /// In the log, not committed.
    spilled: BTreeMap<u64, Logged>,
    /// Not in the log yet.
    dirty: BTreeMap<u64, Box<[u8]>>,
    /// The lowest length since the last commit: what lies beyond in table and log is gone.
    cut: u64,
    /// The lowest length since the last frame.
    frame_cut: u64,
    /// The present length.
    pub(super) length: u64,
    /// The write counter of the next page write.
    next_counter: u64,
}

impl State {
    pub(super) fn new(table: Table) -> Self {
        let highest = table
            .entries
            .iter()
            .map(|entry| entry.counter)
            .max()
            .unwrap_or(0);
        Self {
            length: table.length,
            committed_length: table.length,
            logged: BTreeMap::new(),
            logged_cut: UNCUT,
            spilled: BTreeMap::new(),
            dirty: BTreeMap::new(),
            cut: UNCUT,
            frame_cut: UNCUT,
            next_counter: highest + 1,
            table,
        }
    }

    pub(super) fn source(&self, page: u64) -> Source<'_> {
        if let Some(bytes) = self.dirty.get(&page) {
            return Source::Memory(bytes);
        }
        if let Some(logged) = self.spilled.get(&page) {
            return Source::Log(*logged);
        }
        if page * wide(PAGE_BYTES) >= self.cut {
            return Source::Zeros;
        }
        if let Some(logged) = self.logged.get(&page) {
            return Source::Log(*logged);
        }
        if page * wide(PAGE_BYTES) >= self.logged_cut {
            return Source::Zeros;
        }
        match self.table.entries.get(narrow(page)) {
            Some(entry) if entry.counter > 0 => Source::Pages(*entry),
            _ => Source::Zeros,
        }
    }

    pub(super) fn put(&mut self, page: u64, bytes: Box<[u8]>) {
        debug_assert_eq!(bytes.len(), PAGE_BYTES, "pages are written whole");
        self.dirty.insert(page, bytes);
    }

    pub(super) fn dirty_bytes(&self) -> usize {
        self.dirty.len() * PAGE_BYTES
    }

    /// Whether a sync would have anything to say.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
            && self.spilled.is_empty()
            && self.cut == UNCUT
            && self.length == self.committed_length
    }

    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            // A page that the new end divides was rewritten by the caller with zeros behind it.
            let first_gone = length.div_ceil(wide(PAGE_BYTES));
            self.dirty.split_off(&first_gone);
            self.spilled.split_off(&first_gone);
            self.cut = self.cut.min(first_gone * wide(PAGE_BYTES));
            self.frame_cut = self.frame_cut.min(first_gone * wide(PAGE_BYTES));
        }
        self.length = length;
    }

    /// Takes up to `limit` dirty pages for a frame, with the cut that came before them.
    pub(super) fn take_dirty(&mut self, limit: usize) -> (Vec<DirtyPage>, u64) {
        let mut pages = Vec::new();
        while pages.len() < limit {
            let Some((page, bytes)) = self.dirty.pop_first() else {
                break;
            };
            pages.push((page, self.next_counter, bytes));
            self.next_counter += 1;
        }
        (pages, std::mem::replace(&mut self.frame_cut, UNCUT))
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A frame is in the log, its pages at `pages_at`.
    pub(super) fn spill(&mut self, frame: &Frame, pages_at: u64) {
        for (index, (page, entry)) in frame.pages.iter().enumerate() {
            let offset = pages_at + wide(index * PAGE_BYTES);
            let logged = Logged {
                offset,
                entry: *entry,
            };
            self.spilled.insert(*page, logged);
            self.next_counter = self.next_counter.max(entry.counter + 1);
        }
    }

    /// As [`State::spill`] while replaying: the frame's cut and length come with it.
    pub(super) fn replay(&mut self, frame: &Frame, pages_at: u64) {
        if frame.cut != UNCUT {
            self.set_length(frame.cut.min(self.length));
        }
        self.length = frame.length;
        self.frame_cut = UNCUT;
        self.spill(frame, pages_at);
    }

    /// Everything since the last commit takes effect.
    pub(super) fn commit(&mut self) {
        if self.cut != UNCUT {
            self.logged.split_off(&(self.cut / wide(PAGE_BYTES)));
            self.logged_cut = self.logged_cut.min(self.cut);
        }
        self.logged.append(&mut self.spilled);
        self.cut = UNCUT;
        self.frame_cut = UNCUT;
        self.committed_length = self.length;
    }

    /// Forgets everything since the last commit.
    pub(super) fn roll_back(&mut self) {
        self.spilled.clear();
        self.dirty.clear();
        self.cut = UNCUT;
        self.frame_cut = UNCUT;
        self.length = self.committed_length;
    }

    /// Every committed page of the log.
    pub(super) fn logged(&self) -> Vec<(u64, Logged)> {
        self.logged
            .iter()
            .map(|(page, logged)| (*page, *logged))
            .collect()
    }

    /// The table that a checkpoint of the committed state writes.
    pub(super) fn next_table(&self) -> Table {
        let mut entries = self.table.entries.clone();
        if self.logged_cut != UNCUT {
            entries.truncate(narrow(self.logged_cut / wide(PAGE_BYTES)));
        }
        let pages = self.committed_length.div_ceil(wide(PAGE_BYTES));
        entries.resize(narrow(pages), PageEntry::default());
        for (page, logged) in &self.logged {
            if let Some(entry) = entries.get_mut(narrow(*page)) {
                *entry = logged.entry;
            }
        }
        Table {
            generation: self.table.generation + 1,
            length: self.committed_length,
            entries,
        }
    }

    /// The checkpoint is durable.
    pub(super) fn checkpointed(&mut self, table: Table) {
        self.table = table;
        self.logged.clear();
        self.logged_cut = UNCUT;
    }
}
