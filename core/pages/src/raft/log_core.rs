//! What a replica's log holds and which journal records carry it. No I/O.
//!
//! Invariants: indexes are consecutive from just after the purge mark; exactly one journal record
//! is live for each entry, the vote, the purge mark and the last truncation; a record is given up
//! only for one that supersedes it, and the caller releases it only when that one is durable.
//! A truncation stays until an entry or purge mark that supersedes it: entries that it cut away may
//! still lie in the journal.
//! Does not: write, or wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hedgerow_disk::journal::Position;

use super::log_record::Body;
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
    /// How many of the newest slots hold their entry, and their bytes.
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
        if slot.entry.is_some() {
            self.cached -= 1;
            self.cached_bytes -= slot.bytes;
        }
        Some(slot)
    }

    fn pop_front(&mut self) -> Option<Slot> {
        let slot = self.slots.pop_front()?;
        self.first_index += 1;
        if slot.entry.is_some() {
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
    pub(crate) fn carried(&self, positions: &BTreeSet<Position>) -> Vec<(Position, Carried)> {
        let mut carried = Vec::new();
        let mut add = |placed: &Placed, body: Option<Body>| {
            if positions.contains(&placed.position) {
                carried.push((
                    placed.position,
                    Carried {
                        sequence: placed.sequence,
                        body,
                    },
                ));
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
            add(&slot.placed, slot.entry.clone().map(Body::Entry));
        }
        carried
    }

    /// Records were copied, from old to new positions. Answers the positions to release: the old
    /// ones, and the copies of records that were superseded meanwhile.
    pub(crate) fn moved(&mut self, mut copies: BTreeMap<Position, Position>) -> Vec<Position> {
        let vote = self.vote.iter_mut().map(|(_, placed)| placed);
        let purged = self.purged.iter_mut().map(|(_, placed)| placed);
        let slots = self.slots.iter_mut().map(|slot| &mut slot.placed);
        let mut released = Vec::with_capacity(copies.len());
        for placed in vote
            .chain(purged)
            .chain(self.truncation.iter_mut())
            .chain(slots)
        {
            if let Some(to) = copies.remove(&placed.position) {
                released.push(placed.position);
                placed.position = to;
            }
        }
        released.extend(copies.into_values());
        released
    }

    /// Whether an entry lies at any of `positions`.
    pub(crate) fn holds_entry_at(&self, positions: &BTreeSet<Position>) -> bool {
        self.slots
            .iter()
            .any(|slot| positions.contains(&slot.placed.position))
    }

    /// Whether a lost record of the entry at `index` leaves this log without it.
    pub(crate) fn needs_entry(&self, index: u64, sequence: u64) -> bool {
        if index < self.first_index {
            return false;
        }
        let held = self.slots.get(to_usize(index - self.first_index));
        held.is_none_or(|slot| slot.placed.sequence < sequence)
    }

    /// Whether a lost record of a vote was newer than the vote here.
    pub(crate) fn needs_vote(&self, sequence: u64) -> bool {
        self.vote
            .is_none_or(|(_, placed)| placed.sequence < sequence)
    }

    /// Whether a lost record of a purge mark was newer than the one here.
    pub(crate) fn needs_purge(&self, sequence: u64) -> bool {
        self.purged
            .is_none_or(|(_, placed)| placed.sequence < sequence)
    }

    /// Rebuilds a log from the records of one replica, in any order, copies included.
    pub(crate) fn recover(records: Vec<Recovered>, cache_bytes_max: usize) -> Recovery {
        let mut core = Self::new(cache_bytes_max);
        let mut dead = Vec::new();
        let mut by_sequence: BTreeMap<u64, Recovered> = BTreeMap::new();
        for record in records {
            core.next_sequence = core.next_sequence.max(record.placed.sequence + 1);
            // Of two copies either will do.
            if let Some(other) = by_sequence.insert(record.placed.sequence, record) {
                dead.push(other.placed.position);
            }
        }
        let mut entries: BTreeMap<u64, Slot> = BTreeMap::new();
        for record in by_sequence.into_values() {
            core.replay(record, &mut entries, &mut dead);
        }
        let purged = core.purged().map_or(0, |log_id| log_id.index + 1);
        let kept = entries.split_off(&purged);
        dead.extend(entries.into_values().map(|slot| slot.placed.position));
        let missing = core.adopt(purged, kept);
        dead.extend(core.drop_superseded_truncation());
        Recovery {
            core,
            dead,
            missing,
        }
    }

    fn replay(
        &mut self,
        record: Recovered,
        entries: &mut BTreeMap<u64, Slot>,
        dead: &mut Vec<Position>,
    ) {
        let placed = record.placed;
        match record.body {
            Body::Vote(vote) => dead.extend(self.set_vote(vote, placed)),
            Body::Purge(log_id) => {
                let old = self.purged.replace((log_id, placed));
                dead.extend(old.map(|(_, placed)| placed.position));
            }
            Body::Truncation(last) => {
                let cut = entries.split_off(&last.map_or(0, |log_id| log_id.index + 1));
                dead.extend(cut.into_values().map(|slot| slot.placed.position));
                let old = self.truncation.replace(placed);
                dead.extend(old.map(|placed| placed.position));
            }
            Body::Entry(entry) => {
                // An entry also cuts away what stood at its index and after it.
                let cut = entries.split_off(&entry.log_id.index);
                dead.extend(cut.into_values().map(|slot| slot.placed.position));
                dead.extend(self.truncation.take().map(|placed| placed.position));
                let slot = Slot {
                    log_id: entry.log_id,
                    placed,
                    bytes: record.bytes,
                    entry: Some(entry),
                };
                entries.insert(slot.log_id.index, slot);
            }
        }
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

/// What a live record carries.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) sequence: u64,
    /// None for an entry that must be read first.
    pub(crate) body: Option<Body>,
}

fn to_u64(number: usize) -> u64 {
    u64::try_from(number).expect("usize fits 64 bits here")
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("an offset within memory")
}
