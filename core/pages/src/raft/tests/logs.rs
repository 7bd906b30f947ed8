//! The log's recovery: from any durable prefix of its records, with segments freed behind it and
//! records copied forward, a log is found as it was.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hedgerow_disk::journal::{
    Class, DamagedRange, HeaderCopy, Position, Record, RecoveredRecord, StreamTag,
};
use hedgerow_env::{GroupId, Random, ReplicaNumber};
use hedgerow_protocol::MemberId;
use openraft::EntryPayload;

use super::super::log_core::{Found, LogCore, Placed};
use super::super::log_record::{Body, Header, Kind};
use super::super::recovery::recover_log;
use super::super::types::{Batch, Entry, LogId, Vote};

const GROUP: GroupId = GroupId(9);
const REPLICA: ReplicaNumber = ReplicaNumber(4);
/// Records in one segment of the journal below.
const SEGMENT: u64 = 8;
/// Memory for a few entries, so that most are read from the journal.
const CACHE: usize = 200;

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Batch(Bytes::from(format!("{term}/{index}")))),
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(term.into(), index)
}

/// A journal that frees whole segments from the front, and a log on it.
struct Bench {
    random: Random,
    core: LogCore,
    records: BTreeMap<u64, Record>,
    live: BTreeSet<u64>,
    end: u64,
    term: u64,
    /// The log's contents after each record, by the journal's end then.
    history: BTreeMap<u64, Contents>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Contents {
    vote: Option<(u64, MemberId)>,
    purged: Option<LogId>,
    entries: Vec<LogId>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::from_seed(seed),
            core: LogCore::new(CACHE),
            records: BTreeMap::new(),
            live: BTreeSet::new(),
            end: 0,
            term: 1,
            history: BTreeMap::from([(0, Contents::default())]),
        }
    }

    fn write(&mut self, body: &Body, sequence: u64) -> (Placed, usize) {
        let position = self.end;
        let record = body.record(GROUP, REPLICA, sequence);
        let bytes = record.payload.len();
        self.records.insert(position, record);
        self.live.insert(position);
        self.end += 1;
        let placed = Placed {
            sequence,
            position: Position(position),
        };
        (placed, bytes)
    }

    fn release(&mut self, positions: impl IntoIterator<Item = Position>) {
        for position in positions {
            self.live.remove(&position.0);
        }
    }

    fn step(&mut self) {
        let last = self.core.last();
        let next = last.map_or(0, |last| last.index + 1);
        let purged = self.core.purged().map_or(0, |purged| purged.index + 1);
        let sequence = self.core.take_sequence();
        match self.random.below(10) {
            0 => {
                self.term += 1;
                let member = MemberId::default();
                let vote = Vote::new(self.term, member);
                let (placed, _) = self.write(&Body::Vote(vote), sequence);
                let old = self.core.set_vote(vote, placed);
                self.release(old);
            }
            1 if next > purged => {
                let keep = purged + self.random.below(next - purged);
                let kept = keep.checked_sub(1).map(|index| log_id(1, index));
                let (placed, _) = self.write(&Body::Truncation(kept), sequence);
                let old = self.core.truncate(kept, placed);
                self.release(old);
            }
            2 | 3 if next > purged => {
                // Sometimes beyond the end, as an installed snapshot does.
                let beyond = self.random.below(12) / 11 * 5;
                let upto = log_id(
                    self.term,
                    purged + self.random.below(next - purged) + beyond,
                );
                let (placed, _) = self.write(&Body::Purge(upto), sequence);
                let old = self.core.purge(upto, placed);
                self.release(old);
            }
            _ => {
                let entry = entry(self.term, next);
                let (placed, bytes) = self.write(&Body::Entry(entry.clone()), sequence);
                let old = self.core.append(entry, placed, bytes);
                self.release(old);
            }
        }
    }

    /// Copies forward what is live in the oldest segment, and frees it.
    fn free_segment(&mut self) {
        let Some((&oldest, _)) = self.records.first_key_value() else {
            return;
        };
        let segment_end = (oldest / SEGMENT + 1) * SEGMENT;
        if segment_end + SEGMENT > self.end {
            return;
        }
        let wanted: BTreeSet<Position> = self
            .live
            .range(..segment_end)
            .map(|at| Position(*at))
            .collect();
        let mut copies = BTreeMap::new();
        for (position, carried) in self.core.carried(&wanted) {
            let body = carried.body.unwrap_or_else(|| {
                let record = &self.records[&position.0];
                Body::decode(Kind::Entry, &record.payload).unwrap()
            });
            let (placed, _) = self.write(&body, carried.sequence);
            copies.insert(position, placed.position);
        }
        let superseded = self.core.moved(copies);
        self.release(superseded);
        assert_eq!(
            self.live.range(..segment_end).next(),
            None,
            "nothing live stays behind"
        );
        self.records = self.records.split_off(&segment_end);
    }

    fn contents(&self) -> Contents {
        contents_of(&self.core)
    }

    fn recovered(&self, end: u64) -> Vec<RecoveredRecord> {
        let records = self.records.range(..end);
        let recovered = records.map(|(position, record)| RecoveredRecord {
            position: Position(*position),
            record: record.clone(),
            class: Class::Control,
        });
        recovered.collect()
    }
}

fn contents_of(core: &LogCore) -> Contents {
    let found = core.read(0, u64::MAX, usize::MAX);
    Contents {
        vote: core
            .vote()
            .map(|vote| (vote.leader_id.term, vote.leader_id.voted_for)),
        purged: core.purged(),
        entries: found
            .into_iter()
            .map(|found| match found {
                Found::Entry(entry) => entry.log_id,
                Found::At(log_id, _) => log_id,
            })
            .collect(),
    }
}

#[test]
fn a_log_is_recovered_from_any_durable_prefix_as_it_was_then() {
    for seed in 0..300 {
        let mut bench = Bench::new(seed);
        for _ in 0..120 {
            let before = bench.end;
            bench.step();
            bench.history.insert(bench.end, bench.contents());
            assert!(bench.end > before);
            if bench.random.chance(1, 6) {
                bench.free_segment();
                // Copying changes nothing: any prefix of the copies shows the same contents.
                for end in bench.history.last_key_value().map_or(0, |(end, _)| *end)..=bench.end {
                    bench.history.insert(end, bench.contents());
                }
            }
        }
        // What was freed is gone for good: prefixes before the last freeing cannot happen.
        let first = bench
            .records
            .first_key_value()
            .map_or(0, |(position, _)| *position);
        let live_at_end: BTreeSet<Position> = bench.live.iter().map(|at| Position(*at)).collect();
        let (core, dead) =
            recover_log(GROUP, REPLICA, bench.recovered(bench.end), &[], CACHE).unwrap();
        assert_eq!(contents_of(&core), bench.contents(), "seed {seed}");
        let all: BTreeSet<Position> = bench.records.keys().map(|at| Position(*at)).collect();
        let dead: BTreeSet<Position> = dead.into_iter().collect();
        let kept: BTreeSet<Position> = all.difference(&dead).copied().collect();
        assert_eq!(
            kept, live_at_end,
            "seed {seed}: exactly the superseded are released"
        );
        if first == 0 {
            for (end, expected) in &bench.history {
                let (core, _) =
                    recover_log(GROUP, REPLICA, bench.recovered(*end), &[], CACHE).unwrap();
                assert_eq!(&contents_of(&core), expected, "seed {seed}, end {end}");
            }
        }
    }
}

#[test]
fn a_recovered_log_goes_on_with_new_sequences() {
    let mut bench = Bench::new(1);
    for _ in 0..40 {
        bench.step();
    }
    let highest = bench
        .records
        .values()
        .filter_map(|record| Header::decode(&record.header));
    let highest = highest.map(|header| header.sequence).max().unwrap();
    let (mut core, _) =
        recover_log(GROUP, REPLICA, bench.recovered(bench.end), &[], CACHE).unwrap();
    assert!(core.take_sequence() > highest);
}

#[test]
fn records_of_another_replica_of_the_group_are_given_up() {
    let vote = Body::Vote(Vote::new(3, MemberId::default()));
    let found = RecoveredRecord {
        position: Position(5),
        record: vote.record(GROUP, ReplicaNumber(3), 1),
        class: Class::Control,
    };
    let (core, dead) = recover_log(GROUP, REPLICA, vec![found], &[], CACHE).unwrap();
    assert_eq!((core.vote(), dead), (None, vec![Position(5)]));
}

/// A log of entries 0 to 4 and a vote, of which the records in `lost` are damaged.
fn with_damage(lost: &[u64]) -> Result<Contents, String> {
    let mut bodies = vec![Body::Vote(Vote::new(1, MemberId::default()))];
    bodies.extend((0..5).map(|index| Body::Entry(entry(1, index))));
    let mut found = Vec::new();
    let mut copies = Vec::new();
    for (at, body) in (0_u64..).zip(&bodies) {
        let record = body.record(GROUP, REPLICA, at + 1);
        if lost.contains(&at) {
            copies.push(HeaderCopy {
                position: Position(at),
                stream: StreamTag::raft(GROUP),
                kind: record.kind,
                class: Class::Control,
                header: record.header.clone(),
                content: 0,
            });
        } else {
            found.push(RecoveredRecord {
                position: Position(at),
                record,
                class: Class::Control,
            });
        }
    }
    let range = DamagedRange {
        start: Position(0),
        end: Position(9),
        records: copies,
        complete: true,
    };
    recover_log(GROUP, REPLICA, found, &[range], CACHE)
        .map(|(core, _)| contents_of(&core))
        .map_err(|damage| damage.0)
}

#[test]
fn a_log_that_may_have_lost_something_acknowledged_is_refused() {
    assert_eq!(
        with_damage(&[]).map(|contents| contents.entries.len()),
        Ok(5)
    );
    let vote_lost = with_damage(&[0]).unwrap_err();
    assert!(vote_lost.contains("kind 2"), "{vote_lost}");
    let middle_lost = with_damage(&[3]).unwrap_err();
    assert!(
        middle_lost.contains("missing from index 2"),
        "{middle_lost}"
    );
    let last_lost = with_damage(&[5]).unwrap_err();
    assert!(last_lost.contains("index 4"), "{last_lost}");
}

#[test]
fn damage_of_unknown_extent_condemns_every_log() {
    let range = DamagedRange {
        start: Position(10),
        end: Position(20),
        records: Vec::new(),
        complete: false,
    };
    let refused = recover_log(GROUP, REPLICA, Vec::new(), &[range], CACHE);
    assert!(refused.is_err());
}

#[test]
fn headers_round_trip_and_foreign_bytes_are_none() {
    let header = Header {
        replica: ReplicaNumber(7),
        sequence: 1 << 40,
        index: 99,
        term: 3,
        checksum: u64::MAX,
    };
    let bytes = header.encode();
    assert_eq!(bytes.len(), Header::BYTES);
    assert_eq!(Header::decode(&bytes), Some(header));
    assert_eq!(Header::decode(&bytes[1..]), None);
    assert_eq!(Header::decode(&[0; Header::BYTES]), None);
    // docs/format/raft-log.md
    let golden = [
        1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0,
        0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
    ];
    assert_eq!(bytes[..], golden);
}
