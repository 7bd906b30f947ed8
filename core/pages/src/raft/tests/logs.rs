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
use super::super::recovery::{Judged, LogDamage, recover_log};
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
        let record = body.record(GROUP, REPLICA, sequence);
        let bytes = record.payload.len();
        let placed = Placed {
            sequence,
            position: Position(self.lay(record)),
        };
        (placed, bytes)
    }

    fn lay(&mut self, record: Record) -> u64 {
        let position = self.end;
        self.records.insert(position, record);
        self.live.insert(position);
        self.end += 1;
        position
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
        for carried in self.core.carried(&wanted) {
            let (from, sequence) = (carried.placed.position, carried.placed.sequence);
            let body = carried.body.unwrap_or_else(|| {
                let record = &self.records[&from.0];
                Body::Entry(Body::decode_entry(&record.payload).unwrap())
            });
            let record = body.record_as(GROUP, REPLICA, sequence, true);
            let copy = Position(self.lay(record));
            let superseded = self.core.moved(carried.placed, copy);
            assert_eq!(superseded, from);
            // A second copy, of somebody who did not wait for the first, is of no use.
            let late = Position(self.end);
            assert_eq!(self.core.moved(carried.placed, late), late);
            self.release([superseded]);
        }
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

/// A log after some work, in a journal of which some was freed.
fn worked(seed: u64) -> Bench {
    let mut bench = Bench::new(seed);
    for _ in 0..80 {
        bench.step();
        if bench.random.chance(1, 6) {
            bench.free_segment();
        }
    }
    bench
}

fn index_below(random: &mut Random, length: usize) -> usize {
    let length = u64::try_from(length).unwrap();
    usize::try_from(random.below(length)).unwrap()
}

fn recover(found: Vec<RecoveredRecord>, damaged: &[DamagedRange]) -> Result<Judged, LogDamage> {
    recover_log(GROUP, REPLICA, found, damaged, CACHE, None)
}

fn found_at(position: u64, record: &Record) -> RecoveredRecord {
    RecoveredRecord {
        position: Position(position),
        record: record.clone(),
        class: Class::Control,
    }
}

fn copy_of(position: u64, record: &Record) -> HeaderCopy {
    HeaderCopy {
        position: Position(position),
        stream: StreamTag::raft(GROUP),
        kind: record.kind,
        class: Class::Control,
        header: record.header.clone(),
        content: 0,
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
        let Judged { core, dead, .. } = recover(bench.recovered(bench.end), &[]).unwrap();
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
                let judged = recover(bench.recovered(*end), &[]).unwrap();
                assert_eq!(
                    &contents_of(&judged.core),
                    expected,
                    "seed {seed}, end {end}"
                );
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
    let mut core = recover(bench.recovered(bench.end), &[]).unwrap().core;
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
    let Judged { core, dead, .. } = recover(vec![found], &[]).unwrap();
    assert_eq!((core.vote(), dead), (None, vec![Position(5)]));
}

/// A log of a vote, entries 0 to 4 and a purge mark at 0, of which the records in `lost` are
/// damaged, beside a state that is durable up to `applied`.
fn with_damage(lost: &[u64], applied: Option<LogId>) -> Result<Judged, LogDamage> {
    let mut bodies = vec![Body::Vote(Vote::new(1, MemberId::default()))];
    bodies.extend((0..5).map(|index| Body::Entry(entry(1, index))));
    bodies.push(Body::Purge(log_id(1, 0)));
    let mut found = Vec::new();
    let mut copies = Vec::new();
    for (at, body) in (0_u64..).zip(&bodies) {
        let record = body.record(GROUP, REPLICA, at + 1);
        if lost.contains(&at) {
            copies.push(copy_of(at, &record));
        } else {
            found.push(found_at(at, &record));
        }
    }
    let range = DamagedRange {
        start: Position(0),
        end: Position(9),
        records: copies,
        complete: true,
    };
    recover_log(GROUP, REPLICA, found, &[range], CACHE, applied)
}

#[test]
fn a_damaged_entry_is_known_by_its_header_and_keeps_its_place() {
    for lost in [vec![3], vec![5], vec![2, 3, 5]] {
        let judged = with_damage(&lost, None).unwrap();
        let indexes: Vec<u64> = judged.core.lost().iter().map(|lost| lost.index).collect();
        let expected: Vec<u64> = lost.iter().map(|at| at - 1).collect();
        assert_eq!(indexes, expected);
        assert_eq!(contents_of(&judged.core).entries.len(), 4);
        assert_eq!(judged.rewrites.len(), lost.len(), "each is noted");
        // It is filled with itself, and then the log is whole.
        let mut core = judged.core;
        for lost in core.lost() {
            let (payload, _) = Body::entry_payload(&entry(1, lost.index));
            assert!(Body::refill(&lost, &payload[1..]).is_none());
            let refilled = Body::refill(&lost, &payload).unwrap();
            let placed = Placed {
                sequence: lost.sequence,
                position: Position(100 + lost.index),
            };
            assert!(core.fill(refilled, placed, payload.len()).is_some());
        }
        assert!(core.lost().is_empty());
        assert!(core.find(log_id(1, 4)).is_some());
    }
}

#[test]
fn what_the_durable_state_covers_needs_no_peer() {
    let judged = with_damage(&[2, 3], Some(log_id(1, 3))).unwrap();
    assert!(judged.core.lost().is_empty());
    assert_eq!(judged.core.purged(), Some(log_id(1, 3)));
    assert_eq!(contents_of(&judged.core).entries, [log_id(1, 4)]);
    let written: Vec<Kind> = judged.rewrites.iter().map(|one| one.body.kind()).collect();
    assert_eq!(written, [Kind::Purge]);
    // A whole log keeps its entries, for followers that are late.
    let whole = with_damage(&[], Some(log_id(1, 3))).unwrap();
    assert_eq!(whole.core.purged(), Some(log_id(1, 0)));
}

#[test]
fn a_damaged_mark_is_made_again_and_a_damaged_vote_condemns() {
    let judged = with_damage(&[6], None).unwrap();
    assert_eq!(judged.core.purged(), Some(log_id(1, 0)));
    assert_eq!(judged.rewrites.len(), 1);
    assert!(judged.rewrites[0].copied);
    let condemned = with_damage(&[0], None).unwrap_err();
    assert!(condemned.0.contains("vote"), "{condemned:?}");
}

#[test]
fn any_records_damaged_by_name_leave_the_log_as_it_was_or_condemn_it_for_its_vote() {
    let mut condemned = 0;
    for seed in 0..300 {
        let mut bench = worked(seed);
        let positions: Vec<u64> = bench.records.keys().copied().collect();
        let hit: BTreeSet<u64> = (0..1 + bench.random.below(4))
            .map(|_| positions[index_below(&mut bench.random, positions.len())])
            .collect();
        let (found, copies): (Vec<_>, Vec<_>) = bench
            .recovered(bench.end)
            .into_iter()
            .partition(|found| !hit.contains(&found.position.0));
        let range = DamagedRange {
            start: Position(0),
            end: Position(bench.end),
            records: copies
                .iter()
                .map(|lost| copy_of(lost.position.0, &lost.record))
                .collect(),
            complete: true,
        };
        let vote_hit = copies.iter().any(|lost| {
            lost.record.kind == Kind::Vote.number() && bench.live.contains(&lost.position.0)
        });
        match recover(found, &[range]) {
            Ok(judged) => {
                assert_eq!(contents_of(&judged.core), bench.contents(), "seed {seed}");
                let lost: BTreeSet<u64> =
                    judged.core.lost().iter().map(|lost| lost.index).collect();
                let expected = copies.iter().filter(|lost| {
                    lost.record.kind == Kind::Entry.number()
                        && bench.live.contains(&lost.position.0)
                });
                let expected: BTreeSet<u64> = expected
                    .map(|lost| Header::decode(&lost.record.header).unwrap().index)
                    .collect();
                assert!(
                    lost.is_subset(&expected),
                    "seed {seed}: {lost:?} {expected:?}"
                );
            }
            Err(damage) => {
                assert!(vote_hit, "seed {seed}: {damage:?}");
                condemned += 1;
            }
        }
    }
    assert!((10..200).contains(&condemned), "{condemned} of 300");
}

#[test]
fn damage_of_unknown_extent_is_borne_only_where_it_took_nothing_that_matters() {
    let mut borne = 0;
    for seed in 0..3000 {
        let mut bench = worked(seed);
        let first = bench.records.first_key_value().map_or(0, |(at, _)| *at);
        let start = first + bench.random.below(bench.end - first);
        let end = start + 1 + bench.random.below(4);
        let mut found = bench.recovered(bench.end);
        found.retain(|found| !(start..end).contains(&found.position.0));
        let range = DamagedRange {
            start: Position(start),
            end: Position(end),
            records: Vec::new(),
            complete: false,
        };
        if let Ok(judged) = recover(found, &[range]) {
            assert_eq!(contents_of(&judged.core), bench.contents(), "seed {seed}");
            assert!(judged.core.lost().is_empty());
            borne += 1;
        }
    }
    assert!(borne > 20, "{borne} of 3000 were borne");
}

#[test]
fn damage_of_unknown_extent_elsewhere_does_not_concern_a_log_that_went_on() {
    let bench = worked(5);
    let found: Vec<RecoveredRecord> = bench.recovered(bench.end);
    // Between any two records of this log lies room for those of others.
    let spread = |position: Position| Position(position.0 * 10);
    let found: Vec<RecoveredRecord> = found
        .into_iter()
        .map(|found| RecoveredRecord {
            position: spread(found.position),
            ..found
        })
        .collect();
    let unknown = |start: u64| DamagedRange {
        start: Position(start),
        end: Position(start + 5),
        records: Vec::new(),
        complete: false,
    };
    let middle = found[found.len() * 3 / 4].position.0 + 2;
    let judged = recover(found.clone(), &[unknown(middle)]).unwrap();
    assert_eq!(contents_of(&judged.core), bench.contents());
    // After the last record nobody knows whether there was another.
    let tail = recover(found, &[unknown(bench.end * 10)]);
    assert!(tail.is_err());
    assert!(recover(Vec::new(), &[unknown(10)]).is_err());
}

#[test]
fn headers_round_trip_and_foreign_bytes_are_none() {
    let header = Header {
        copied: false,
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
    let copied = Header {
        copied: true,
        ..header
    };
    assert_eq!(copied.encode()[..4], [1, 0, 1, 0]);
    assert_eq!(Header::decode(&copied.encode()), Some(copied));
}
