//! Makes a replica's log from the journal's records, and judges what damage took of it.
//!
//! A lost *entry* keeps its place: its header's second copy says which it was, so that a peer's log
//! can give it back, unless the own durable state covers it. Lost *marks* are made again from their
//! headers. A lost *vote* condemns the replica, and so does damage of which not even the headers
//! are known, unless it surely took nothing of this log.
//!
//! Invariants: a log that may have lost an acknowledged entry or vote for good is never run.
//! The last of these rests on two rules of writing: sequences are given in the order of lying, save
//! for copies, which say so; and a copy always lies before the record that supersedes it.
//! Does not: write, or ask peers.

use std::collections::{BTreeMap, BTreeSet};

use hedgerow_disk::journal::{DamagedRange, HeaderCopy, Position, RecoveredRecord, StreamTag};
use hedgerow_env::mutants::{Mutant, active};
use hedgerow_env::{GroupId, ReplicaNumber};
use openraft::EntryPayload;

use super::log_core::{LogCore, Placed, Recovered, Recovery};
use super::log_record::{Body, Header, Kind, LostEntry};
use super::types::{LogId, Membership};

/// What is wrong with a log that cannot be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogDamage(pub(crate) String);

/// A record that is to be written before the log is used.
#[derive(Debug, Clone)]
pub(crate) struct Rewrite {
    pub(crate) sequence: u64,
    pub(crate) body: Body,
    /// Whether a record of this sequence was written before.
    pub(crate) copied: bool,
}

/// A log that can run once its rewrites are durable and its lost entries are filled.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) core: LogCore,
    /// Positions of records that it does not need.
    pub(crate) dead: Vec<Position>,
    pub(crate) rewrites: Vec<Rewrite>,
    /// The memberships among its entries, in their order.
    pub(crate) memberships: Vec<Membership>,
}

/// The log of `replica`, whose state is durable up to `applied`.
pub(crate) fn recover_log(
    group: GroupId,
    replica: ReplicaNumber,
    found: Vec<RecoveredRecord>,
    damaged: &[DamagedRange],
    cache_bytes: usize,
    applied: Option<LogId>,
) -> Result<Judged, LogDamage> {
    let mut gathered = Gathered::new(group, replica);
    for record in found {
        gathered.take(&record)?;
    }
    for range in damaged {
        gathered.take_damage(range)?;
    }
    let Gathered {
        records,
        strangers,
        remade,
        lost_votes,
        unknown,
        origins,
        memberships,
        ..
    } = gathered;
    for extent in &unknown {
        origins.check(*extent)?;
    }
    let Recovery {
        core,
        mut dead,
        missing,
        purge,
    } = LogCore::recover(records, cache_bytes, applied);
    if let Some(first) = missing.first() {
        let count = missing.len();
        let text = format!("{count} entries are missing from index {first} on");
        return Err(LogDamage(text));
    }
    if !active(Mutant::DamagedLogRuns)
        && lost_votes.iter().any(|sequence| core.needs_vote(*sequence))
    {
        return Err(LogDamage("the vote is lost".to_owned()));
    }
    if !unknown.is_empty() && (core.vote().is_none() || core.last().is_none()) {
        let text = "no vote, or neither entry nor purge mark is left".to_owned();
        return Err(LogDamage(text));
    }
    dead.extend(strangers);
    let purge = purge.map(|(sequence, log_id)| Rewrite {
        sequence,
        body: Body::Purge(log_id),
        copied: false,
    });
    let live = remade
        .into_iter()
        .filter(|(placed, _)| core.is_live(*placed));
    let remade = live.map(|(placed, body)| Rewrite {
        sequence: placed.sequence,
        body,
        copied: true,
    });
    let rewrites = purge.into_iter().chain(remade).collect();
    Ok(Judged {
        core,
        dead,
        rewrites,
        memberships: memberships.into_values().collect(),
    })
}

/// What the journal tells of one replica.
struct Gathered {
    group: GroupId,
    replica: ReplicaNumber,
    records: Vec<Recovered>,
    /// Records of other replicas of the group.
    strangers: Vec<Position>,
    /// Records that only their headers' second copies tell of.
    remade: Vec<(Placed, Body)>,
    /// Sequences of votes that are lost.
    lost_votes: Vec<u64>,
    /// From where to where records may be lost of which nothing is known.
    unknown: Vec<(Position, Position)>,
    origins: Origins,
    /// By sequence.
    memberships: BTreeMap<u64, Membership>,
}

impl Gathered {
    fn new(group: GroupId, replica: ReplicaNumber) -> Self {
        Self {
            group,
            replica,
            records: Vec::new(),
            strangers: Vec::new(),
            remade: Vec::new(),
            lost_votes: Vec::new(),
            unknown: Vec::new(),
            origins: Origins::default(),
            memberships: BTreeMap::new(),
        }
    }

    /// An intact record of the group.
    fn take(&mut self, found: &RecoveredRecord) -> Result<(), LogDamage> {
        let (record, position) = (&found.record, found.position);
        let Some(header) = Header::decode(&record.header) else {
            let text = format!("the record at {position} has a foreign header");
            return Err(LogDamage(text));
        };
        if header.replica != self.replica {
            self.strangers.push(position);
            return Ok(());
        }
        let Some(kind) = Kind::from_number(record.kind) else {
            let text = format!("the record at {position} is of kind {}", record.kind);
            return Err(LogDamage(text));
        };
        let body = Body::decode(kind, &header, &record.payload)
            .map_err(|error| LogDamage(format!("the record at {position}: {error}")))?;
        self.origins.note(&header, position);
        if let Body::Entry(entry) = &body
            && let EntryPayload::Membership(membership) = &entry.payload
        {
            let membership = membership.clone();
            self.memberships.insert(header.sequence, membership);
        }
        self.records.push(Recovered {
            placed: Placed {
                sequence: header.sequence,
                position,
            },
            body,
            bytes: record.payload.len(),
        });
        Ok(())
    }

    fn take_damage(&mut self, range: &DamagedRange) -> Result<(), LogDamage> {
        if !range.complete {
            self.unknown.push((range.start, range.end));
        }
        let ours = StreamTag::raft(self.group);
        let mut copies = range.records.iter().filter(|copy| copy.stream == ours);
        copies.try_for_each(|copy| self.take_copy(copy))
    }

    /// A lost record of the group.
    fn take_copy(&mut self, copy: &HeaderCopy) -> Result<(), LogDamage> {
        let position = copy.position;
        let Some(header) = Header::decode(&copy.header) else {
            self.unknown.push((position, Position(position.0 + 1)));
            return Ok(());
        };
        if header.replica != self.replica {
            return Ok(());
        }
        let is_found = self.origins.known.contains(&header.sequence);
        self.origins.note(&header, position);
        if is_found {
            // It was copied in time, or written again after an earlier start found it lost.
            return Ok(());
        }
        let placed = Placed {
            sequence: header.sequence,
            position,
        };
        let body = match Kind::from_number(copy.kind) {
            Some(Kind::Vote) => {
                self.lost_votes.push(header.sequence);
                return Ok(());
            }
            Some(Kind::Entry) => Some(Body::Lost(LostEntry::of(&header))),
            Some(kind) => Body::of_header(kind, &header),
            None => None,
        };
        let Some(body) = body else {
            let text = format!("a record of kind {} is lost at {position}", copy.kind);
            return Err(LogDamage(text));
        };
        self.remade.push((placed, body.clone()));
        self.records.push(Recovered {
            placed,
            body,
            bytes: 0,
        });
        Ok(())
    }
}

/// Where the records of a replica lie that are no copies, and all sequences that are known.
#[derive(Default)]
struct Origins {
    first_written: BTreeMap<u64, Position>,
    known: BTreeSet<u64>,
}

impl Origins {
    fn note(&mut self, header: &Header, position: Position) {
        self.known.insert(header.sequence);
        if !header.copied {
            self.first_written.insert(header.sequence, position);
        }
    }

    /// Whether damage from `start` to `end` surely took no record of this replica that matters.
    ///
    /// Records stand before and after it, and no sequence is missing from the first to the last:
    /// then none was lost that was written there for the first time. A lost copy leaves an index,
    /// the vote or the purge mark missing, and nothing older in its place: whatever it had
    /// superseded was written before it, and freed before it.
    fn check(&self, (start, end): (Position, Position)) -> Result<(), LogDamage> {
        let refused = |why: &str| {
            let text = format!("unknown records are lost between {start} and {end}: {why}");
            Err(LogDamage(text))
        };
        let (Some((first, begin)), Some((last, latest))) = (
            self.first_written.first_key_value(),
            self.first_written.last_key_value(),
        ) else {
            return refused("no record of this log is left");
        };
        if *first > 1 && *begin >= start {
            return refused("no record of this log stands before them");
        }
        if *latest < end {
            return refused("no record of this log stands after them");
        }
        match (*first..=*last).find(|sequence| !self.known.contains(sequence)) {
            None => Ok(()),
            Some(sequence) => refused(&format!("this log lacks its record {sequence}")),
        }
    }
}
