//! The journal after any crash, and after damage in its middle.
//!
//! Records of several streams are appended, released and awaited; the disk dies at any changing
//! call and keeps any subset of the sectors that were not synced. At the next open everything that
//! was reported durable is there, what is there is a prefix of what was appended, and nothing else
//! is. After rot, every acknowledged record is intact or lies in a range reported as damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_disk::journal::Class;
use hedgerow_disk::testing::World;
use hedgerow_disk::{
    AppendError, JournalConfig, Position, Record, RecoveredRecord, Recovery, Store, StoreConfig,
    StreamTag,
};
use hedgerow_env::{Env, NodeId, Random};
use hedgerow_proptests::config;
use proptest::prelude::*;

const SEGMENT_BYTES: u64 = 16 << 10;
const STREAMS: u64 = 3;

fn store_config() -> StoreConfig {
    StoreConfig {
        node: Some(NodeId(1)),
        journal: JournalConfig {
            segment_bytes: SEGMENT_BYTES,
            segments: 8,
            reserve_segments: 2,
            batch_bytes: 4096,
            memory_bytes: 4096,
            ..JournalConfig::small()
        },
        ..StoreConfig::small()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append {
        stream: u64,
        header: usize,
        payload: usize,
        is_data: bool,
    },
    /// Awaits everything appended so far.
    Flush,
    /// Lets others work.
    Pause,
    /// Releases one record, or everything up to it.
    Release { which: usize, is_all_before: bool },
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// At this changing call of the disk, counted from before the open.
    CrashAt(u64),
    PowerCut,
    Close,
}

#[derive(Debug, Clone)]
struct Session {
    steps: Vec<Step>,
    end: End,
}

fn step() -> impl Strategy<Value = Step> {
    let append = (
        0..STREAMS,
        prop_oneof![3 => 0..64_usize, 1 => 100..400_usize],
        prop_oneof![4 => 0..700_usize, 2 => 700..5000_usize],
        any::<bool>(),
    );
    prop_oneof![
        10 => append.prop_map(|(stream, header, payload, is_data)| {
            Step::Append { stream, header, payload, is_data }
        }),
        2 => Just(Step::Flush),
        3 => Just(Step::Pause),
        3 => (any::<usize>(), prop::bool::weighted(0.6))
            .prop_map(|(which, is_all_before)| Step::Release { which, is_all_before }),
    ]
}

fn session() -> impl Strategy<Value = Session> {
    let end = prop_oneof![
        6 => (0..160_u64).prop_map(End::CrashAt),
        1 => Just(End::PowerCut),
        2 => Just(End::Close),
    ];
    (prop::collection::vec(step(), 0..60), end).prop_map(|(steps, end)| Session { steps, end })
}

/// What was appended and may still be there.
#[derive(Debug, Clone)]
struct Entry {
    record: Record,
    class: Class,
    is_released: bool,
}

#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<Position, Entry>,
    durable: BTreeSet<Position>,
    next_number: u64,
}

type Shared = Arc<Mutex<Model>>;

fn locked(shared: &Shared) -> MutexGuard<'_, Model> {
    shared
        .lock()
        .expect("nobody panics while holding the model")
}

fn bytes_for(number: u64, salt: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    Random::from_seed(number << 1 | salt).fill(&mut bytes);
    bytes.into()
}

async fn open(env: &Env) -> (Store, Recovery) {
    Store::open(env, "pool", store_config())
        .await
        .expect("crashes and rot of records are borne")
}

fn append(env: &Env, store: &Store, shared: &Shared, record: Record, class: Class) {
    let journal = store.journal();
    let answer = match class {
        Class::Control => journal.append(record.clone()),
        Class::Data => journal.append_data(record.clone()),
    };
    let receipt = match answer {
        Ok(receipt) => receipt,
        Err(AppendError::Busy | AppendError::Full | AppendError::Stopped(_)) => return,
        Err(error @ AppendError::TooLarge { .. }) => panic!("{error}"),
    };
    let position = receipt.position();
    let entry = Entry {
        record,
        class,
        is_released: false,
    };
    let replaced = locked(shared).entries.insert(position, entry);
    assert!(replaced.is_none(), "{position} was given out twice");
    let shared = Arc::clone(shared);
    // Noted the moment that it is said, so that a crash right after it counts.
    env.spawn("receipt", async move {
        if receipt.durable().await.is_ok() {
            locked(&shared).durable.insert(position);
        }
    });
}

async fn perform(env: &Env, store: &Store, shared: &Shared, step: Step) {
    match step {
        Step::Append {
            stream,
            header,
            payload,
            is_data,
        } => {
            let number = {
                let mut model = locked(shared);
                model.next_number += 1;
                model.next_number
            };
            let record = Record {
                stream: StreamTag::new(StreamTag::RAFT_KIND, stream),
                kind: u8::try_from(number % 200).expect("below 200"),
                header: bytes_for(number, 0, header),
                payload: bytes_for(number, 1, payload),
            };
            let class = if is_data { Class::Data } else { Class::Control };
            append(env, store, shared, record, class);
        }
        Step::Flush => {
            let _ = store.journal().flushed().await;
        }
        Step::Pause => env.sleep(Duration::from_millis(1)).await,
        Step::Release {
            which,
            is_all_before,
        } => {
            let mut released = Vec::new();
            let mut model = locked(shared);
            let count = model.entries.len().max(1);
            for (at, (position, entry)) in model.entries.iter_mut().enumerate() {
                let is_it = at == which % count || (is_all_before && at < which % count);
                if is_it && !entry.is_released {
                    entry.is_released = true;
                    released.push(*position);
                }
            }
            drop(model);
            store.journal().release_all(released);
        }
    }
}

/// Runs a session until its end; what the open found is judged by `check`.
fn run_session(
    world: &World,
    shared: &Shared,
    session: Session,
    check: impl Fn(&Store, &Recovery, &Shared) + Send + 'static,
) {
    if let End::CrashAt(call) = session.end {
        world.disk().crash_in(call);
    }
    let env = world.env();
    let is_closed = matches!(session.end, End::Close);
    let model = Arc::clone(shared);
    world.run_or_crash(async move {
        let (store, recovery) = open(&env).await;
        check(&store, &recovery, &model);
        check_payloads(&store, &model).await;
        for step in session.steps {
            perform(&env, &store, &model, step).await;
        }
        if is_closed {
            store.close().await;
            // What was queued is durable now; the watchers of the receipts say so in their turn.
            env.sleep(Duration::from_millis(1)).await;
        }
    });
    world.power_cut();
}

fn recovered(recovery: &Recovery) -> BTreeMap<Position, RecoveredRecord> {
    let all = recovery.control.values();
    for stream in all.clone() {
        assert!(
            stream.is_sorted_by_key(|found| found.position),
            "the journal's order"
        );
    }
    all.flatten()
        .map(|found| (found.position, found.clone()))
        .collect()
}

/// Only what was appended is there; data records keep their payload on disk.
fn check_known(found: &BTreeMap<Position, RecoveredRecord>, model: &Model) {
    for (position, found) in found {
        let entry = model.entries.get(position);
        let entry = entry.unwrap_or_else(|| panic!("{position} was never appended: {found:?}"));
        assert_eq!(found.class, entry.class);
        let mut expected = entry.record.clone();
        if found.class == Class::Data {
            expected.payload = found.record.payload.clone();
        }
        assert_eq!(found.record, expected, "at {position}");
    }
}

fn check_after_crash(store: &Store, recovery: &Recovery, shared: &Shared) {
    let mut model = locked(shared);
    let found = recovered(recovery);
    check_known(&found, &model);
    assert_eq!(
        recovery.damaged,
        [],
        "a crash damages nothing that was acknowledged"
    );
    let last = found.keys().next_back().copied();
    for (position, entry) in &model.entries {
        let is_missing = !found.contains_key(position) && !entry.is_released;
        let is_durable = model.durable.contains(position);
        assert!(
            !(is_missing && is_durable),
            "{position} was durable and is gone"
        );
        let is_hole = is_missing && last.is_some_and(|last| *position < last);
        assert!(!is_hole, "{position} is gone and {last:?} is not");
    }
    let highest = model.durable.last().copied().unwrap_or_default();
    assert!(recovery.began_at > highest || highest == Position(0));
    // What is gone must stay so: the model forgets it. What was released may have come back.
    model
        .entries
        .retain(|position, _| found.contains_key(position));
    model.durable = found.keys().copied().collect();
    assert!(
        store.journal().durable() > recovery.began_at,
        "the opening mark is durable"
    );
}

/// Every record can be read, whole.
async fn check_payloads(store: &Store, shared: &Shared) {
    let entries: Vec<(Position, Record)> = {
        let model = locked(shared);
        let entries = model.entries.iter();
        entries
            .map(|(position, entry)| (*position, entry.record.clone()))
            .collect()
    };
    for (position, record) in entries {
        let read = store.journal().read(position).await;
        assert_eq!(read.as_ref(), Ok(&record), "at {position}");
    }
}

/// Every record that was durable is intact, or lies in a range that is reported; a range that
/// claims to name all that it lost names it.
fn check_after_rot(_store: &Store, recovery: &Recovery, shared: &Shared) {
    let mut model = locked(shared);
    let found = recovered(recovery);
    check_known(&found, &model);
    for (position, entry) in &model.entries {
        if found.contains_key(position) || entry.is_released {
            continue;
        }
        let range = recovery
            .damaged
            .iter()
            .find(|range| range.start <= *position && *position < range.end)
            .unwrap_or_else(|| panic!("{position} vanished: {:?}", recovery.damaged));
        let is_named = range
            .records
            .iter()
            .any(|copy| copy.position == *position && copy.stream == entry.record.stream);
        assert!(
            is_named || !range.complete,
            "{position} is not named in {range:?}"
        );
    }
    model
        .entries
        .retain(|position, _| found.contains_key(position));
}

proptest! {
    #![proptest_config(config(250))]

    #[test]
    fn after_any_crash_what_was_durable_is_there_and_nothing_else(
        seed in any::<u64>(),
        sessions in prop::collection::vec(session(), 1..6),
    ) {
        let world = World::new(seed);
        let shared = Shared::default();
        for session in sessions {
            run_session(&world, &shared, session, check_after_crash);
        }
        let last = Session { steps: Vec::new(), end: End::Close };
        run_session(&world, &shared, last, check_after_crash);
    }

    #[test]
    fn a_damaged_middle_is_reported(
        seed in any::<u64>(),
        mut sessions in prop::collection::vec(session(), 1..4),
        rots in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..6000_u64, 1..3000_usize),
            1..4,
        ),
    ) {
        let world = World::new(seed);
        let shared = Shared::default();
        // Closed in order: then the mark behind everything tells damage from a torn tail.
        sessions.last_mut().expect("one at least").end = End::Close;
        for session in sessions {
            run_session(&world, &shared, session, check_after_crash);
        }
        let durable: Vec<Position> = {
            let model = locked(&shared);
            let live = model.entries.iter().filter(|(_, entry)| !entry.is_released);
            live.map(|(position, _)| *position).collect()
        };
        if durable.is_empty() {
            return Ok(());
        }
        let end = durable.last().expect("not empty").0;
        for (at, skip, length) in rots {
            let position = durable[at.index(durable.len())].0;
            // Nothing behind the last record: that the mark there is whole is the premise.
            let from = (position + skip).min(end);
            let length = length.min(usize::try_from(end + 32 - from).expect("small"));
            let segment = from / SEGMENT_BYTES;
            let path = format!("pool/journal/{segment:016x}.journal");
            if world.disk().paths("pool/journal").contains(&path) {
                world.disk().rot(&path, from % SEGMENT_BYTES, length);
            }
        }
        let again = |end| Session { steps: Vec::new(), end };
        run_session(&world, &shared, again(End::Close), check_after_rot);
        // Found once, the damage is found at every start.
        run_session(&world, &shared, again(End::Close), check_after_rot);
    }
}
