//! What a replica's log holds and which journal records carry it. No I/O.
//!
//! Invariants: indexes are consecutive from just after the purge mark; exactly one journal record
//! is live for each entry, the vote, the purge mark and the last truncation; a record is given up
//! only for one that supersedes it, and the caller releases it only when that one is durable.
//! A truncation stays until an entry or purge mark that supersedes it: entries that it cut away may
//! still lie in the journal.
//! An entry whose record is damaged keeps its place by its log id until it is filled again; a log
//! with such holes is never run.
//! Does not: write, or wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hedgerow_disk::journal::Position;

use super::log_record::{Body, LostEntry};
use super::types::{Entry, LogId, Vote};

/// Where a record lies and which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Placed {
    pub(crate) sequence: u64,
    pub(crate) position: Position,
}

#[derive(Debug, Clone)]
struct Slot {
    log_id: LogId,
    placed: Placed,
    bytes: usize,
    /// In memory, for the newest.
    entry: Option<Entry>,
    /// Its record is damaged; what stands at its position is a note of that, if anything.
    lost: Option<LostEntry>,
}

/// An entry in memory, or where to read it.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Entry(Entry),
    At(LogId, Position),
}

/// The log of one replica.
#[derive(Debug)]
pub(crate) struct LogCore {
    next_sequence: u64,
    vote: Option<(Vote, Placed)>,
    purged: Option<(LogId, Placed)>,
    truncation: Option<Placed>,
    first_index: u64,
    slots: VecDeque<Slot>,
    /// How many of the newest slots hold their entry (unless it is lost), and their bytes.
    cached: usize,
    cached_bytes: usize,
    cache_bytes_max: usize,
}

/// A record found in the journal, for [`LogCore::recover`].
#[derive(Debug, Clone)]
pub(crate) struct Recovered {
    pub(crate) placed: Placed,
    pub(crate) body: Body,
    pub(crate) bytes: usize,
}

/// What recovery made of the records.
pub(crate) struct Recovery {
    pub(crate) core: LogCore,
    /// Records that are superseded.
    pub(crate) dead: Vec<Position>,
    /// Indexes between the purge mark and the last entry for which no record was found.
    pub(crate) missing: Vec<u64>,
    /// A purge mark that is to be written, before anything else, under this sequence: the state
    /// covers what the log lacks up to there.
    pub(crate) purge: Option<(u64, LogId)>,
}

impl LogCore {
    /// An empty log that keeps up to `cache_bytes_max` of its newest entries in memory.
    pub(crate) fn new(cache_bytes_max: usize) -> Self {
        Self {
            next_sequence: 1,
            vote: None,
            purged: None,
            truncation: None,
            first_index: 0,
            slots: VecDeque::new(),
            cached: 0,
            cached_bytes: 0,
            cache_bytes_max,
        }
    }

    /// The sequence for the next record.
    pub(crate) fn take_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// The vote.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.vote.map(|(vote, _)| vote)
    }

    /// The purge mark.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged.map(|(log_id, _)| log_id)
    }

    /// The last log id, be it of an entry or of the purge mark.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.purged())
    }

    fn next_index(&self) -> u64 {
        self.first_index + to_u64(self.slots.len())
    }

    /// The entry `entry` now stands at `placed`. Answers the truncation that it supersedes.
    pub(crate) fn append(
        &mut self,
        entry: Entry,
        placed: Placed,
        bytes: usize,
    ) -> Option<Position> {
        assert_eq!(entry.log_id.index, self.next_index(), "a log has no holes");
        self.slots.push_back(Slot {
            log_id: entry.log_id,
            placed,
            bytes,
            entry: Some(entry),
            lost: None,
        });
        self.cached += 1;
        self.cached_bytes += bytes;
        self.trim();
        self.truncation.take().map(|placed| placed.position)
    }

    fn trim(&mut self) {
        // The newest entry stays even if it alone exceeds the bound: it is about to be sent.
        while self.cached > 1 && self.cached_bytes > self.cache_bytes_max {
            let oldest = self.slots.len() - self.cached;
            self.slots[oldest].entry = None;
            self.cached -= 1;
            self.cached_bytes -= self.slots[oldest].bytes;
        }
    }

    /// The vote now stands at `placed`. Answers the one that it supersedes.
    pub(crate) fn set_vote(&mut self, vote: Vote, placed: Placed) -> Option<Position> {
        let old = self.vote.replace((vote, placed));
        old.map(|(_, placed)| placed.position)
    }

    /// Removes the entries after `last`; the record of that stands at `placed`. Answers what it
    /// supersedes.
    pub(crate) fn truncate(&mut self, last: Option<LogId>, placed: Placed) -> Vec<Position> {
        let mut superseded = self.cut(last);
        let old = self.truncation.replace(placed);
        superseded.extend(old.map(|placed| placed.position));
        superseded
    }

    /// Removes the entries after `last` and answers where their records stand.
    pub(crate) fn cut(&mut self, last: Option<LogId>) -> Vec<Position> {
        let keep_until = last.map_or(0, |log_id| log_id.index + 1);
        let mut cut = Vec::new();
        while self.next_index() > keep_until {
            let Some(slot) = self.pop_back() else { break };
            cut.push(slot.placed.position);
        }
        cut
    }

    fn pop_back(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_back()?;
        if self.cached > 0 {
            self.cached -= 1;
            self.cached_bytes -= slot.bytes;
        }
        Some(slot)
    }

    fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.first_index += 1;
        if self.cached > self.slots.len() {
            self.cached -= 1;
            self.cached_bytes -= slot.bytes;
        }
        Some(slot)
    }

    /// Removes the entries up to `upto`; the record of that stands at `placed`. Answers what it
    /// supersedes.
    pub(crate) fn purge(&mut self, upto: LogId, placed: Placed) -> Vec<Position> {
        assert!(self.purged() <= Some(upto), "the purge mark only rises");
        let mut superseded = Vec::new();
        while self.first_index <= upto.index {
            let Some(slot) = self.pop_front() else { break };
            superseded.push(slot.placed.position);
        }
        if self.slots.is_empty() {
            self.first_index = upto.index + 1;
            superseded.extend(self.truncation.take().map(|placed| placed.position));
        }
        let old = self.purged.replace((upto, placed));
        superseded.extend(old.map(|(_, placed)| placed.position));
        superseded
    }

    /// The entries that are lost, in order.
    pub(crate) fn lost(&self) -> Vec<LostEntry> {
        self.slots.iter().filter_map(|slot| slot.lost).collect()
    }

    /// The lost entry `entry` now stands at `placed`. Answers the note of its loss.
    pub(crate) fn fill(&mut self, entry: Entry, placed: Placed, bytes: usize) -> Option<Position> {
        let at = entry.log_id.index.checked_sub(self.first_index)?;
        let in_memory = self.slots.len() - self.cached;
        let slot = self.slots.get_mut(to_usize(at))?;
        slot.lost.take()?;
        assert_eq!(
            slot.log_id, entry.log_id,
            "a lost entry is filled with itself"
        );
        let note = std::mem::replace(&mut slot.placed, placed).position;
        slot.bytes = bytes;
        if to_usize(at) >= in_memory {
            slot.entry = Some(entry);
            self.cached_bytes += bytes;
            self.trim();
        }
        Some(note)
    }

    /// Where the entry `log_id` is, if this log has it.
    pub(crate) fn find(&self, log_id: LogId) -> Option<Found> {
        let at = log_id.index.checked_sub(self.first_index)?;
        let slot = self.slots.get(to_usize(at))?;
        if slot.log_id != log_id || slot.lost.is_some() {
            return None;
        }
        Some(match &slot.entry {
            Some(entry) => Found::Entry(entry.clone()),
            None => Found::At(slot.log_id, slot.placed.position),
        })
    }

    /// The live record of this sequence now lies at `position`: it was written again.
    pub(crate) fn rewritten(&mut self, sequence: u64, position: Position) {
        let vote = self.vote.iter_mut().map(|(_, placed)| placed);
        let purged = self.purged.iter_mut().map(|(_, placed)| placed);
        let slots = self.slots.iter_mut().map(|slot| &mut slot.placed);
        let all = vote.chain(purged).chain(self.truncation.iter_mut());
        for placed in all
            .chain(slots)
            .filter(|placed| placed.sequence == sequence)
        {
            placed.position = position;
        }
    }

    /// Whether this record is live.
    pub(crate) fn is_live(&self, placed: Placed) -> bool {
        let marks = [
            self.vote.map(|(_, placed)| placed),
            self.purged.map(|(_, placed)| placed),
            self.truncation,
        ];
        let by_sequence = |slot: &Slot| slot.placed.sequence;
        // Entries were made in the order of their indexes.
        let slot = self
            .slots
            .binary_search_by_key(&placed.sequence, by_sequence);
        let entry = slot.ok().and_then(|at| self.slots.get(at));
        marks.contains(&Some(placed)) || entry.is_some_and(|slot| slot.placed == placed)
    }

    /// The entries of `from..to` that the log holds, up to `limit_bytes` but at least one.
    pub(crate) fn read(&self, from: u64, to: u64, limit_bytes: usize) -> Vec<Found> {
        let from = from.max(self.first_index);
        let to = to.min(self.next_index());
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in from..to {
            let slot = &self.slots[to_usize(index - self.first_index)];
            bytes += slot.bytes;
            if bytes > limit_bytes && !found.is_empty() {
                break;
            }
            found.push(match &slot.entry {
                Some(entry) => Found::Entry(entry.clone()),
                None => Found::At(slot.log_id, slot.placed.position),
            });
        }
        found
    }

    /// What the live ones among the records at `positions` carry.
    pub(crate) fn carried(&self, positions: &BTreeSet<Position>) -> Vec<Carried> {
        let mut carried = Vec::new();
        let mut add = |placed: &Placed, body: Option<Body>| {
            if positions.contains(&placed.position) {
                let placed = *placed;
                carried.push(Carried { placed, body });
            }
        };
        if let Some((vote, placed)) = &self.vote {
            add(placed, Some(Body::Vote(*vote)));
        }
        if let Some((log_id, placed)) = &self.purged {
            add(placed, Some(Body::Purge(*log_id)));
        }
        if let Some(placed) = &self.truncation {
            add(placed, Some(Body::Truncation(self.last())));
        }
        for slot in &self.slots {
            let lost = slot.lost.map(Body::Lost);
            add(&slot.placed, lost.or(slot.entry.clone().map(Body::Entry)));
        }
        carried
    }

    /// The record `copied` was copied to `to`. Answers the position to release: the old one, or that
    /// of the copy, if the record was superseded meanwhile or another copy stands for it.
    pub(crate) fn moved(&mut self, copied: Placed, to: Position) -> Position {
        let by_sequence = |slot: &Slot| slot.placed.sequence;
        // Entries were made in the order of their indexes.
        let slot = self
            .slots
            .binary_search_by_key(&copied.sequence, by_sequence);
        let slot = slot.ok().and_then(|at| self.slots.get_mut(at));
        let vote = self.vote.iter_mut().map(|(_, placed)| placed);
        let purged = self.purged.iter_mut().map(|(_, placed)| placed);
        let live = vote
            .chain(purged)
            .chain(self.truncation.iter_mut())
            .chain(slot.map(|slot| &mut slot.placed))
            .find(|placed| **placed == copied);
        match live {
            Some(placed) => std::mem::replace(&mut placed.position, to),
            None => to,
        }
    }

    /// Bytes of the entries below index `end` that lie at any of `positions`.
    pub(crate) fn entry_bytes_at(&self, positions: &BTreeSet<Position>, end: u64) -> usize {
        self.slots
            .iter()
            .take_while(|slot| slot.log_id.index < end)
            .filter(|slot| positions.contains(&slot.placed.position))
            .map(|slot| slot.bytes)
            .sum()
    }

    /// Whether a lost record of a vote was newer than the vote here.
    pub(crate) fn needs_vote(&self, sequence: u64) -> bool {
        self.vote
            .is_none_or(|(_, placed)| placed.sequence < sequence)
    }

    /// Rebuilds a log from the records of one replica, in any order, copies included. Where entries
    /// are lost that the state, durable up to `applied`, covers, the log begins after it.
    pub(crate) fn recover(
        records: Vec<Recovered>,
        cache_bytes_max: usize,
        applied: Option<LogId>,
    ) -> Recovery {
        let mut core = Self::new(cache_bytes_max);
        let mut dead = Vec::new();
        let mut by_sequence: BTreeMap<u64, Recovered> = BTreeMap::new();
        for record in records {
            core.next_sequence = core.next_sequence.max(record.placed.sequence + 1);
            match by_sequence.get(&record.placed.sequence) {
                // Of two copies either will do, but not the note of a loss that was made good.
                Some(known) if record.is_note() && !known.is_note() => {
                    dead.push(record.placed.position);
                }
                _ => {
                    let known = by_sequence.insert(record.placed.sequence, record);
                    dead.extend(known.map(|known| known.placed.position));
                }
            }
        }
        let mut entries: BTreeMap<u64, Slot> = BTreeMap::new();
        for record in by_sequence.into_values() {
            core.replay(record, &mut entries, &mut dead);
        }
        let purge = core.cover(&entries, applied, &mut dead);
        let purged = core.purged().map_or(0, |log_id| log_id.index + 1);
        let kept = entries.split_off(&purged);
        dead.extend(entries.into_values().map(|slot| slot.placed.position));
        let missing = core.adopt(purged, kept);
        dead.extend(core.drop_superseded_truncation());
        Recovery {
            core,
            dead,
            missing,
            purge,
        }
    }

    /// Moves the purge mark to `applied`, if entries up to there are lost. The mark's position is
    /// known when it is written.
    fn cover(
        &mut self,
        entries: &BTreeMap<u64, Slot>,
        applied: Option<LogId>,
        dead: &mut Vec<Position>,
    ) -> Option<(u64, LogId)> {
        let applied = applied?;
        let first = self.purged().map_or(0, |log_id| log_id.index + 1);
        let last = entries.keys().next_back().copied();
        let covered = first..=applied.index.min(last?);
        let whole = |index: u64| entries.get(&index).is_some_and(|slot| slot.lost.is_none());
        if covered.clone().all(whole) {
            return None;
        }
        let placed = Placed {
            sequence: self.take_sequence(),
            position: Position(0),
        };
        let old = self.purged.replace((applied, placed));
        dead.extend(old.map(|(_, placed)| placed.position));
        Some((placed.sequence, applied))
    }

    fn replay(
        &mut self,
        record: Recovered,
        entries: &mut BTreeMap<u64, Slot>,
        dead: &mut Vec<Position>,
    ) {
        let placed = record.placed;
        let slot = match record.body {
            Body::Vote(vote) => {
                dead.extend(self.set_vote(vote, placed));
                return;
            }
            Body::Purge(log_id) => {
                let old = self.purged.replace((log_id, placed));
                dead.extend(old.map(|(_, placed)| placed.position));
                return;
            }
            Body::Truncation(last) => {
                let cut = entries.split_off(&last.map_or(0, |log_id| log_id.index + 1));
                dead.extend(cut.into_values().map(|slot| slot.placed.position));
                let old = self.truncation.replace(placed);
                dead.extend(old.map(|placed| placed.position));
                return;
            }
            Body::Lost(lost) => Slot {
                log_id: lost.log_id(),
                placed,
                bytes: 0,
                entry: None,
                lost: Some(lost),
            },
            Body::Entry(entry) => Slot {
                log_id: entry.log_id,
                placed,
                bytes: record.bytes,
                entry: Some(entry),
                lost: None,
            },
        };
        // An entry also cuts away what stood at its index and after it.
        let cut = entries.split_off(&slot.log_id.index);
        dead.extend(cut.into_values().map(|slot| slot.placed.position));
        dead.extend(self.truncation.take().map(|placed| placed.position));
        entries.insert(slot.log_id.index, slot);
    }

    /// A purge mark that emptied the log superseded the truncation before it.
    fn drop_superseded_truncation(&mut self) -> Option<Position> {
        let (_, purged) = self.purged?;
        let is_superseded = |truncation: &mut Placed| truncation.sequence < purged.sequence;
        let superseded = self
            .slots
            .is_empty()
            .then(|| self.truncation.take_if(is_superseded));
        superseded?.map(|placed| placed.position)
    }

    /// Takes the recovered entries and answers the indexes that are missing among them. With
    /// missing ones this is no log: the caller refuses it.
    fn adopt(&mut self, first: u64, kept: BTreeMap<u64, Slot>) -> Vec<u64> {
        self.first_index = first;
        let mut missing = Vec::new();
        let mut next = first;
        for (index, slot) in kept {
            missing.extend(next..index);
            next = index + 1;
            self.cached += 1;
            self.cached_bytes += slot.bytes;
            self.slots.push_back(slot);
        }
        if missing.is_empty() {
            self.trim();
        }
        missing
    }
}

impl Recovered {
    fn is_note(&self) -> bool {
        matches!(self.body, Body::Lost(_))
    }
}

/// What a live record carries.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) placed: Placed,
    /// None for an entry that must be read first.
    pub(crate) body: Option<Body>,
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).expect("usize fits 64 bits here")
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("an offset within memory")
}
