//! Stories of the journal: order, durability, torn tails, damage, space.

use std::sync::atomic::{AtomicU64, Ordering};

use hedgerow_env::DiskError;

use super::open::{JournalOpenError, JournalRecovery};
use super::*;
use crate::testing::World;

const STORE: StoreId = StoreId(42);
const RAFT: StreamTag = StreamTag::new(StreamTag::RAFT_KIND, 1);

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 16 << 10,
        segments: 8,
        reserve_segments: 2,
        alignment: 512,
        writes_in_flight: 4,
        batch_bytes: 2048,
        queue_bytes: 64 << 10,
        memory_bytes: 4096,
    }
}

async fn open(env: &Env) -> (Journal, JournalRecovery) {
    try_open(env).await.unwrap()
}

async fn try_open(env: &Env) -> Result<(Journal, JournalRecovery), JournalOpenError> {
    let opening = Opening::scan(env, "journal", config(), STORE).await?;
    let session = opening.highest_session() + 1;
    opening.begin(session).await
}

/// A record whose payload is told from every other's.
fn record(number: u64, bytes: usize) -> Record {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(bytes.max(8), 7);
    Record {
        stream: RAFT,
        kind: 1,
        header: Bytes::copy_from_slice(&number.to_le_bytes()),
        payload: payload.into(),
    }
}

fn number_of(record: &Record) -> u64 {
    u64::from_le_bytes(record.header[..8].try_into().unwrap())
}

fn numbers(recovery: &JournalRecovery) -> Vec<u64> {
    recovery
        .records
        .iter()
        .map(|found| number_of(&found.record))
        .collect()
}

/// Opens, appends `count` records one after the other, each awaited, and closes.
fn write_and_close(world: &World, count: u64, bytes: usize) -> Vec<Position> {
    let env = world.env();
    world.run(async move {
        let (journal, _) = open(&env).await;
        let mut positions = Vec::new();
        for number in 0..count {
            let receipt = journal.append(record(number, bytes)).unwrap();
            positions.push(receipt.position());
            receipt.durable().await.unwrap();
        }
        journal.close().await;
        positions
    })
}

fn recover(world: &World) -> JournalRecovery {
    let env = world.env();
    world.run(async move { open(&env).await.1 })
}

fn file_of(position: Position) -> (String, u64) {
    let (segment, offset) = format::locate(position.0, config().segment_bytes);
    (format::segment_path("journal", segment), offset)
}

#[test]
fn records_return_in_the_order_of_their_appends() {
    let world = World::new(1);
    write_and_close(&world, 50, 100);
    world.power_cut();
    let recovery = recover(&world);
    assert_eq!(numbers(&recovery), (0..50).collect::<Vec<_>>());
    assert!(recovery.damaged.is_empty());
}

#[test]
fn several_writes_are_in_flight_and_newcomers_share_frames() {
    let world = World::new(2);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (journal, _) = open(&env).await;
        let before = disk.operations();
        let receipts: Vec<_> = (0..200)
            .map(|number| journal.append(record(number, 40)).unwrap())
            .collect();
        for receipt in receipts {
            receipt.durable().await.unwrap();
        }
        assert_eq!(disk.most_writes_in_flight(), 4);
        assert!(disk.operations() - before < 100, "frames are shared");
    });
}

#[test]
fn nothing_is_durable_before_its_sync() {
    let world = World::new(3);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (journal, _) = open(&env).await;
        disk.hold_syncs(Some("journal"));
        let end = journal.durable();
        let receipt = journal.append(record(0, 40)).unwrap();
        for _ in 0..1000 {
            env.sleep(std::time::Duration::from_millis(1)).await;
            if journal.durable() != end {
                break;
            }
        }
        assert_eq!(
            journal.durable(),
            end,
            "the write alone makes nothing durable"
        );
        disk.hold_syncs(None);
        receipt.durable().await.unwrap();
    });
}

/// Appends in bursts until the disk dies; returns the numbers acknowledged before.
fn burst_until_crash(world: &World, first: u64, burst: u64) -> u64 {
    let acknowledged = Arc::new(AtomicU64::new(first));
    let (env, count) = (world.env(), Arc::clone(&acknowledged));
    world.run_or_crash(async move {
        let (journal, _) = open(&env).await;
        for round in 0..20 {
            let base = first + round * burst;
            let size = |number: u64| crate::codec::narrow(number % 7 * 150 + 8);
            let receipts: Vec<_> = (base..base + burst)
                .map(|number| journal.append(record(number, size(number))).unwrap())
                .collect();
            for (number, receipt) in (base..).zip(receipts) {
                receipt.durable().await.unwrap();
                count.store(number + 1, Ordering::Relaxed);
            }
        }
    });
    acknowledged.load(Ordering::Relaxed)
}

#[test]
fn a_crash_at_any_call_keeps_what_was_acknowledged_and_invents_nothing() {
    for seed in 0..300 {
        let world = World::new(seed);
        world.disk().crash_in(20 + seed);
        let acknowledged = burst_until_crash(&world, 0, 5);
        world.power_cut();
        let first = recover(&world);
        let found = numbers(&first);
        assert!(
            first.damaged.is_empty(),
            "seed {seed}: a torn tail is not damage"
        );
        assert_eq!(
            found,
            (0..crate::codec::wide(found.len())).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert!(
            crate::codec::wide(found.len()) >= acknowledged,
            "seed {seed}"
        );

        // A second crash right away must find the same: what was recovered is durable.
        world.power_cut();
        assert_eq!(numbers(&recover(&world)), found, "seed {seed}");

        // And the next session goes on behind it, whatever the first left there.
        world.disk().crash_in(seed % 40 + 5);
        let next = crate::codec::wide(found.len());
        let acknowledged = burst_until_crash(&world, next, 3);
        world.power_cut();
        let again = recover(&world);
        assert!(again.damaged.is_empty(), "seed {seed}");
        let again = numbers(&again);
        assert_eq!(
            again,
            (0..crate::codec::wide(again.len())).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert!(
            crate::codec::wide(again.len()) >= acknowledged,
            "seed {seed}"
        );
    }
}

#[test]
fn a_damaged_frame_below_the_watermark_is_reported_with_its_record() {
    let world = World::new(5);
    let positions = write_and_close(&world, 10, 600);
    let (path, offset) = file_of(positions[4]);
    world.disk().rot(&path, offset - 60, 4);
    let recovery = recover(&world);
    assert_eq!(numbers(&recovery), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let [range] = &recovery.damaged[..] else {
        panic!("{:?}", recovery.damaged)
    };
    assert!(
        range.complete,
        "one frame is missing and the next one tells its records"
    );
    let [lost] = &range.records[..] else {
        panic!("{range:?}")
    };
    assert_eq!(
        (lost.position, lost.stream, lost.kind),
        (positions[4], RAFT, 1)
    );
    assert_eq!(
        lost.header[..],
        4_u64.to_le_bytes(),
        "its header is known from the copy"
    );
    assert_eq!(
        lost.content,
        format::content_hash(&4_u64.to_le_bytes(), &record(4, 600).payload)
    );
}

#[test]
fn a_damaged_payload_costs_only_its_own_record() {
    let world = World::new(6);
    let env = world.env();
    let positions = world.run(async move {
        let (journal, _) = open(&env).await;
        let receipts: Vec<_> = (0..3)
            .map(|number| journal.append(record(number, 300)).unwrap())
            .collect();
        journal.flushed().await.unwrap();
        journal.close().await;
        receipts.iter().map(Receipt::position).collect::<Vec<_>>()
    });
    let (path, offset) = file_of(positions[1]);
    world.disk().rot(&path, offset + 100, 1);
    let recovery = recover(&world);
    assert_eq!(numbers(&recovery), [0, 2]);
    assert_eq!(recovery.damaged.len(), 1);
    assert_eq!(recovery.damaged[0].start, positions[1]);
}

#[test]
fn the_last_acknowledged_record_of_an_idle_journal_is_covered_by_the_closing_mark() {
    let world = World::new(7);
    let positions = write_and_close(&world, 3, 600);
    let (path, offset) = file_of(positions[2]);
    world.disk().rot(&path, offset + 50, 1);
    let recovery = recover(&world);
    assert_eq!(numbers(&recovery), [0, 1]);
    assert_eq!(recovery.damaged.len(), 1, "not taken for a torn tail");
    assert_eq!(
        recovery.damaged[0].records[0].header[..],
        2_u64.to_le_bytes()
    );
}

#[test]
fn writes_that_follow_each_other_need_no_marks_between_them() {
    let world = World::new(31);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (journal, _) = open(&env).await;
        journal
            .append(record(0, 100))
            .unwrap()
            .durable()
            .await
            .unwrap();
        let before = disk.operations();
        for number in 1..=20 {
            let receipt = journal.append(record(number, 100)).unwrap();
            receipt.durable().await.unwrap();
        }
        assert_eq!(disk.operations() - before, 40, "a write and a sync each");
        // Idle for longer than a gap between writes: the mark, once.
        env.sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(disk.operations() - before, 42);
        journal.close().await;
        assert_eq!(disk.operations() - before, 42);
    });
}

#[test]
fn a_lost_segment_file_is_damage_not_silence() {
    let world = World::new(8);
    let positions = write_and_close(&world, 60, 600);
    let (path, _) = file_of(positions[30]);
    let size = crate::codec::narrow(config().segment_bytes);
    world.disk().overwrite(&path, 0, &vec![0; size]);
    let recovery = recover(&world);
    assert_eq!(recovery.damaged.len(), 1);
    let range = &recovery.damaged[0];
    assert!(!range.complete, "too much is missing to name every record");
    assert!(range.start <= positions[30] && positions[30] < range.end);
    let outside = positions
        .iter()
        .filter(|position| **position < range.start || **position >= range.end);
    assert_eq!(recovery.records.len(), outside.count());
}

#[test]
fn frames_of_another_store_are_foreign() {
    let world = World::new(9);
    write_and_close(&world, 3, 100);
    let env = world.env();
    world.run(async move {
        let opening = Opening::scan(&env, "journal", config(), StoreId(43))
            .await
            .unwrap();
        assert!(!opening.found());
    });
}

#[test]
fn reads_verify_and_released_records_are_gone() {
    let world = World::new(10);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (journal, _) = open(&env).await;
        let mut positions = Vec::new();
        for number in 0..20 {
            positions.push(journal.append(record(number, 500)).unwrap().position());
        }
        journal.flushed().await.unwrap();
        // Only the newest 4 KiB are in memory: the first come from the disk.
        assert_eq!(journal.read(positions[0]).await.unwrap(), record(0, 500));
        assert_eq!(journal.read(positions[19]).await.unwrap(), record(19, 500));
        let (path, offset) = file_of(positions[1]);
        disk.rot(&path, offset + 40, 1);
        assert_eq!(
            journal.read(positions[1]).await,
            Err(JournalReadError::Damaged(positions[1]))
        );
        journal.release(positions[0]);
        assert_eq!(
            journal.read(positions[0]).await,
            Err(JournalReadError::Missing(positions[0]))
        );
    });
}

#[test]
fn segments_are_reused_while_their_records_are_released() {
    let world = World::new(11);
    let env = world.env();
    let last = world.run(async move {
        let (journal, _) = open(&env).await;
        let mut window = std::collections::VecDeque::new();
        // Twenty times the journal's size.
        for number in 0..4000 {
            let receipt = loop {
                match journal.append_when_ready(record(number, 500)).await {
                    Err(AppendError::Full) => journal.flushed().await.unwrap(),
                    answer => break answer.unwrap(),
                }
                env.sleep(std::time::Duration::from_millis(1)).await;
            };
            window.push_back(receipt.position());
            if window.len() > 20 {
                journal.release(window.pop_front().unwrap());
            }
        }
        journal.flushed().await.unwrap();
        journal.close().await;
        window[0]
    });
    assert_eq!(
        world.disk().paths("journal/").len(),
        8,
        "the same eight files"
    );
    world.power_cut();
    let recovery = recover(&world);
    assert!(recovery.damaged.is_empty());
    let found = numbers(&recovery);
    assert_eq!(*found.last().unwrap(), 3999);
    assert!(
        recovery.records[0].position <= last,
        "nothing live was freed"
    );
    assert!(found.len() < 200, "what was released long ago is gone");
}

#[test]
fn a_crash_while_segments_are_reused_loses_nothing_live() {
    for seed in 0..60 {
        let world = World::new(seed);
        let env = world.env();
        world.disk().crash_in(200 + seed * 13);
        let state = Arc::new(Mutex::new((0_u64, 0_u64)));
        let shared = Arc::clone(&state);
        world.run_or_crash(async move {
            let (journal, _) = open(&env).await;
            let mut window = std::collections::VecDeque::new();
            for number in 0..1000 {
                let receipt = loop {
                    match journal.append(record(number, 700)) {
                        Err(AppendError::Full | AppendError::Busy) => {
                            env.sleep(std::time::Duration::from_millis(1)).await;
                        }
                        answer => break answer.unwrap(),
                    }
                };
                window.push_back(receipt.position());
                receipt.durable().await.unwrap();
                shared.lock().unwrap().1 = number + 1;
                if window.len() > 10 {
                    journal.release(window.pop_front().unwrap());
                    shared.lock().unwrap().0 += 1;
                }
            }
        });
        world.power_cut();
        let recovery = recover(&world);
        let (released, acknowledged) = *state.lock().unwrap();
        assert!(
            recovery.damaged.is_empty(),
            "seed {seed}: {:?}",
            recovery.damaged
        );
        let found = numbers(&recovery);
        for number in released..acknowledged {
            assert!(
                found.contains(&number),
                "seed {seed}: {number} was live and durable"
            );
        }
    }
}

#[test]
fn owners_are_asked_to_copy_forward_what_keeps_the_oldest_segment() {
    let world = World::new(12);
    let env = world.env();
    let votes = StreamTag::raft(hedgerow_env::GroupId(9));
    world.run(async move {
        let (journal, _) = open(&env).await;
        let mut requests = journal.copy_forward_requests(votes);
        let vote = Record::new(votes, 9, Bytes::from_static(b"vote"));
        let old = journal.append(vote.clone()).unwrap().position();
        for number in 0..150 {
            let receipt = journal
                .append_when_ready(record(number, 500))
                .await
                .unwrap();
            journal.release(receipt.position());
        }
        let request = requests.recv().await.unwrap();
        assert_eq!((request.stream, request.positions), (votes, vec![old]));
        let copy = journal.append(vote).unwrap();
        journal.release(old);
        copy.durable().await.unwrap();
        // The vote no longer holds anything up.
        for number in 0..400 {
            let receipt = loop {
                match journal.append_when_ready(record(number, 500)).await {
                    Err(AppendError::Full) => {}
                    answer => break answer.unwrap(),
                }
                if let Ok(request) = requests.try_recv() {
                    let again = Record::new(votes, 9, Bytes::from_static(b"vote"));
                    journal.append(again).unwrap();
                    journal.release_all(request.positions);
                }
                env.sleep(std::time::Duration::from_millis(1)).await;
            };
            journal.release(receipt.position());
            if let Ok(request) = requests.try_recv() {
                let again = Record::new(votes, 9, Bytes::from_static(b"vote"));
                journal.append(again).unwrap();
                journal.release_all(request.positions);
            }
        }
        journal.flushed().await.unwrap();
        journal.close().await;
    });
    world.power_cut();
    let recovery = recover(&world);
    assert!(
        recovery
            .records
            .iter()
            .any(|found| found.record.stream == votes)
    );
}

#[test]
fn data_is_refused_before_control_records_are() {
    let world = World::new(13);
    let env = world.env();
    world.run(async move {
        let (journal, _) = open(&env).await;
        let mut data = 0;
        while let Ok(receipt) = journal.append_data(record(data, 1000)) {
            receipt.durable().await.unwrap();
            data += 1;
        }
        assert_eq!(
            journal.append_data(record(0, 1000)).err(),
            Some(AppendError::Full)
        );
        let mut control = 0;
        while let Ok(receipt) = journal.append(record(control, 1000)) {
            receipt.durable().await.unwrap();
            control += 1;
        }
        assert!(
            control >= 16,
            "two segments of 16 KiB are kept for them, not {control} records"
        );
        assert_eq!(
            journal.append(record(0, 1000)).err(),
            Some(AppendError::Full)
        );
        // Even now space can be given back and used.
        for position in journal.live_positions(RAFT) {
            journal.release(position);
        }
        for _ in 0..100 {
            env.sleep(std::time::Duration::from_millis(1)).await;
        }
        journal
            .append_data(record(0, 1000))
            .unwrap()
            .durable()
            .await
            .unwrap();
    });
}

#[test]
fn too_much_at_once_is_busy_and_ready_says_when_to_go_on() {
    let world = World::new(14);
    let env = world.env();
    world.run(async move {
        let (journal, _) = open(&env).await;
        let busy = (0..200).find_map(|n| journal.append_data(record(n, 1000)).err());
        assert_eq!(busy, Some(AppendError::Busy));
        journal.ready().await;
        journal.append_data(record(0, 1000)).unwrap();
        let large = journal.append(record(0, 8192)).err();
        assert!(matches!(large, Some(AppendError::TooLarge { .. })));
    });
}

#[test]
fn a_failed_sync_stops_the_journal_for_good() {
    let world = World::new(15);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (journal, _) = open(&env).await;
        disk.fail_syncs(Some("journal"));
        let pending: Vec<_> = (0..30)
            .map(|number| journal.append(record(number, 300)).unwrap())
            .collect();
        let reason = journal.stopped().await;
        assert!(reason.reason.contains("injected"), "{reason}");
        for receipt in pending {
            assert_eq!(receipt.durable().await, Err(reason.clone()));
        }
        disk.fail_syncs(None);
        let later = journal.append(record(0, 8)).err();
        assert_eq!(later, Some(AppendError::Stopped(reason)));
    });
}

#[test]
fn a_full_disk_at_creation_is_a_typed_error() {
    let world = World::new(16);
    world.disk().limit(40 << 10);
    let env = world.env();
    let error = world.run(async move { try_open(&env).await.err() });
    assert!(matches!(
        error,
        Some(JournalOpenError::Disk(DiskError::NoSpace { .. }))
    ));
}

#[test]
fn golden_frame() {
    let world = World::new(17);
    let env = world.env();
    let position = world.run(async move {
        let (journal, _) = open(&env).await;
        let position = journal.append(record(1, 16)).unwrap().position();
        journal.flushed().await.unwrap();
        position
    });
    let (path, offset) = file_of(position);
    let start = crate::codec::narrow(offset) - format::FRAME_HEADER_BYTES;
    let bytes = &world.disk().content(&path)[start..start + 128];
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // Frame header, record header, the record's own header and payload: docs/format/journal.md.
    let golden = [
        "48474a46010000002a0000000000000001000000000000000200000000000000",
        "0002000000000000000200000000000000000000000000003800000001000000",
        "e295b8b2b97a57a1",
        "35070a4f0001080010000000030000000100000000000000ceb21295cf820c1e",
        "0100000000000000",
        "01000000000000000707070707070707",
    ];
    assert_eq!(hex, golden.concat());
}

#[test]
fn a_lost_mark_takes_nothing_with_it_that_was_reported() {
    let world = World::new(40);
    let env = world.env();
    let (reported, end) = world.run(async move {
        let (journal, _) = open(&env).await;
        for number in 0..3 {
            let receipt = journal.append(record(number, 100)).unwrap();
            receipt.durable().await.unwrap();
        }
        journal.close().await;
        (journal.reported(), journal.durable())
    });
    let mark = Position(end.0 - 512);
    assert_eq!(reported, mark, "the closing mark is the last frame");
    let (path, offset) = file_of(mark);
    world.disk().rot(&path, offset + 8, 1);
    let recovery = recover(&world);
    assert_eq!(recovery.began_at, mark, "it looks like a torn tail");
    assert!(recovery.damaged.is_empty());
    assert_eq!(numbers(&recovery), [0, 1, 2]);
    assert!(
        recovery.began_at >= reported,
        "no peer knows more of this store than it still has"
    );
}

#[test]
fn what_was_reported_never_falls() {
    let world = World::new(41);
    let mut before = Position(0);
    for round in 0..12 {
        let env = world.env();
        let reported = world.run(async move {
            let (journal, _) = open(&env).await;
            let at_start = journal.reported();
            if round % 3 == 2 {
                // Starts without any record, and starts that free most of the journal.
                journal.close().await;
                return (at_start, journal.reported());
            }
            for number in 0..20 {
                let receipt = journal.append(record(number, 3000)).unwrap();
                let position = receipt.position();
                receipt.durable().await.unwrap();
                assert!(journal.reported() > position);
                journal.release(position);
            }
            journal.release_stream(RAFT);
            journal.close().await;
            (at_start, journal.reported())
        });
        assert!(
            reported.0 >= before && reported.1 >= reported.0,
            "round {round}: {reported:?} after {before:?}"
        );
        before = reported.1;
        world.power_cut();
    }
}
