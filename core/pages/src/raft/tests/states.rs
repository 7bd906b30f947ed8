//! The state: what a crash at any disk call leaves, and snapshots on their way in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hedgerow_disk::testing::World;
use hedgerow_disk::{VerifiedConfig, VerifiedFile};
use hedgerow_env::Env;
use openraft::EntryPayload;

use super::super::staging::{Staging, StagingError};
use super::super::store::StateStore;
use super::super::types::{Batch, Entry, LogId, SnapshotMeta};
use super::world::Registers;
use crate::state::Pair;
use crate::{Machine, StateError, Update, View};

const CACHE: usize = 64 << 10;

fn log_id(index: u64) -> LogId {
    LogId::new(1.into(), index)
}

/// Sets one of ten keys.
fn entry(index: u64) -> Entry {
    let batch = format!("key{}=value{index}", index % 10);
    Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(Batch(Bytes::from(batch))),
    }
}

fn model(last: u64) -> Vec<Pair> {
    let mut model = BTreeMap::new();
    for index in 1..=last {
        model.insert(format!("key{}", index % 10), format!("value{index}"));
    }
    let bytes = |(key, value): (String, String)| (key.into_bytes(), value.into_bytes());
    model.into_iter().map(bytes).collect()
}

async fn open(env: &Env) -> Result<StateStore, String> {
    let file = VerifiedFile::open(env, "pages/state", VerifiedConfig::small())
        .await
        .map_err(|error| error.to_string())?;
    StateStore::open(env, file, CACHE).map_err(|error| error.to_string())
}

fn contents(store: &StateStore) -> (u64, Vec<Pair>) {
    let view = store.view().unwrap();
    let pairs = view.reading.scan(&[0], &[0xff], usize::MAX).unwrap();
    (view.applied.index(), pairs)
}

#[test]
fn a_crash_at_any_call_leaves_the_state_of_one_index_not_below_the_durable_one() {
    let mut crash_at = 0;
    loop {
        let world = World::new(crash_at);
        let env = world.env();
        // A replica is registered only once its state was made.
        world.run(async move { drop(open(&env).await.unwrap()) });
        world.disk().crash_in(crash_at);
        let reported = Arc::new(Mutex::new(0_u64));
        let (env, durable) = (world.env(), Arc::clone(&reported));
        let finished = world.run_or_crash(async move {
            let Ok(store) = open(&env).await else { return };
            for index in 1..=60 {
                if store.apply(&[entry(index)], &Registers).is_err() {
                    return;
                }
                // Whoever looks has it committed, without a sync.
                if index % 3 == 0 && store.view().is_err() {
                    return;
                }
                if index % 20 == 0 {
                    let Ok(applied) = store.make_durable() else {
                        return;
                    };
                    *durable.lock().unwrap() = applied.index();
                }
            }
        });
        let crashed = world.disk().is_crashed();
        world.power_cut();
        let env = world.env();
        let (applied, pairs) = world.run(async move {
            let store = open(&env).await.expect("it opens after any crash");
            assert_eq!(
                store.durable(),
                store.applied().log_id,
                "what was read is durable"
            );
            contents(&store)
        });
        let durable = *reported.lock().unwrap();
        assert!(
            applied >= durable,
            "crash at {crash_at}: {applied} of {durable} survive"
        );
        assert_eq!(pairs, model(applied), "crash at {crash_at}");
        if !crashed {
            assert_eq!((finished, durable), (Some(()), 60));
            return;
        }
        crash_at += 1;
    }
}

/// Fails at the second entry that it is given.
struct Breaks;

impl Machine for Breaks {
    fn apply(&self, state: &mut dyn Update, index: u64, batch: &[u8]) -> Result<Bytes, StateError> {
        let broken = || StateError::Stopped("broken".to_owned());
        let done = Registers.apply(state, index, batch)?;
        (index % 2 == 1).then_some(done).ok_or_else(broken)
    }
}

#[test]
fn a_state_that_failed_shows_nothing_older_than_it_had_shown() {
    let world = World::new(1);
    let env = world.env();
    world.run(async move {
        let store = open(&env).await.unwrap();
        store.apply(&[entry(1)], &Registers).unwrap();
        assert_eq!(contents(&store), (1, model(1)));
        store.apply(&[entry(2)], &Registers).unwrap();
        let broken = Err(StateError::Stopped("broken".to_owned()));
        let outcome = store.apply(&[entry(3), entry(4)], &Breaks);
        assert_eq!(outcome.map(drop), broken);
        // Entry 2 was answered and has gone from here: no view may say so.
        assert_eq!(store.view().map(drop), broken);
        assert_eq!(store.make_durable().map(drop), broken);
        assert_eq!(store.apply(&[entry(5)], &Registers).map(drop), broken);
        drop(store);
        // The log has it: nothing after the durable index is counted on.
        let store = open(&env).await.unwrap();
        assert!(store.applied_index() <= 2);
        assert_eq!(contents(&store).1, model(store.applied_index()));
    });
}

fn chunk(range: std::ops::Range<u64>) -> Vec<Pair> {
    let pair = |number| (format!("k{number:03}").into_bytes(), b"new".to_vec());
    range.map(pair).collect()
}

fn key(number: u64) -> Vec<u8> {
    format!("k{number:03}").into_bytes()
}

#[test]
fn a_snapshot_is_resumed_sealed_and_replaces_the_state_at_once() {
    let world = World::new(1);
    let env = world.env();
    world.run(async move {
        let store = open(&env).await.unwrap();
        store.apply(&[entry(1), entry(2)], &Registers).unwrap();
        let staging = Arc::new(Staging::default());
        let snapshot = log_id(50);

        assert_eq!(staging.begin(&store, snapshot), Ok(None));
        assert_eq!(
            staging.add(&store, snapshot, None, &chunk(0..5)),
            Ok(Some(key(4)))
        );
        // A chunk that came twice changes nothing; one after a gap is refused.
        assert_eq!(
            staging.add(&store, snapshot, None, &chunk(0..5)),
            Ok(Some(key(4)))
        );
        let gap = staging.add(&store, snapshot, Some(&key(6)), &chunk(7..9));
        assert_eq!(gap, Err(StagingError::OutOfStep));
        let unordered: Vec<Pair> = chunk(5..7).into_iter().rev().collect();
        let unordered = staging.add(&store, snapshot, Some(&key(4)), &unordered);
        assert_eq!(unordered, Err(StagingError::OutOfStep));
        // Resumed where it broke.
        assert_eq!(staging.begin(&store, snapshot), Ok(Some(key(4))));
        assert!(
            staging
                .add(&store, snapshot, Some(&key(4)), &chunk(5..9))
                .is_ok()
        );

        // Readers see nothing of it yet, and a wrong length is not taken.
        assert_eq!(contents(&store), (2, model(2)));
        assert_eq!(
            staging.seal(&store, snapshot, 10).err(),
            Some(StagingError::OutOfStep)
        );
        assert_eq!(staging.begin(&store, snapshot), Ok(None));
        assert!(staging.add(&store, snapshot, None, &chunk(0..9)).is_ok());
        let staged = staging.seal(&store, snapshot, 9).unwrap();
        assert_eq!(staging.begin(&store, log_id(60)), Err(StagingError::Busy));
        // An end that came twice: the first one is being installed.
        let again = staging.seal(&store, snapshot, 9).err();
        assert_eq!(again, Some(StagingError::Busy));

        let meta = SnapshotMeta {
            last_log_id: Some(snapshot),
            ..SnapshotMeta::default()
        };
        staged.install(&store, &meta).unwrap();
        assert_eq!(contents(&store), (50, chunk(0..9)));
        assert_eq!(
            store.durable(),
            Some(snapshot),
            "durable before it is reported installed"
        );
        assert_eq!(
            staging.begin(&store, log_id(60)),
            Ok(None),
            "the place is free again"
        );
    });
}

#[test]
fn a_crash_during_a_transfer_leaves_the_old_state_or_the_new_one() {
    let mut crash_at = 0;
    loop {
        let world = World::new(crash_at);
        let env = world.env();
        world.run(async move {
            let store = open(&env).await.unwrap();
            store.apply(&[entry(1), entry(2)], &Registers).unwrap();
            store.make_durable().unwrap();
        });
        world.disk().crash_in(crash_at);
        let installed = Arc::new(Mutex::new(false));
        let (env, done) = (world.env(), Arc::clone(&installed));
        world.run_or_crash(async move {
            let Ok(store) = open(&env).await else { return };
            let staging = Arc::new(Staging::default());
            let snapshot = log_id(50);
            let Ok(_) = staging.begin(&store, snapshot) else {
                return;
            };
            let Ok(_) = staging.add(&store, snapshot, None, &chunk(0..40)) else {
                return;
            };
            let Ok(staged) = staging.seal(&store, snapshot, 40) else {
                return;
            };
            let meta = SnapshotMeta {
                last_log_id: Some(snapshot),
                ..SnapshotMeta::default()
            };
            *done.lock().unwrap() = staged.install(&store, &meta).is_ok();
        });
        let crashed = world.disk().is_crashed();
        world.power_cut();
        let env = world.env();
        let found = world.run(async move { contents(&open(&env).await.expect("it opens")) });
        if *installed.lock().unwrap() {
            assert_eq!(found, (50, chunk(0..40)), "crash at {crash_at}");
        } else {
            let either = [(2, model(2)), (50, chunk(0..40))];
            assert!(either.contains(&found), "crash at {crash_at}: {found:?}");
        }
        if !crashed {
            assert!(*installed.lock().unwrap());
            return;
        }
        crash_at += 1;
    }
}

#[test]
#[ignore = "prints the cost of an apply; run it by name"]
fn cost_of_an_apply() {
    for size in [1_u64, 8, 64] {
        let world = World::new(1);
        let env = world.env();
        let took = world.run(async move {
            let store = open(&env).await.unwrap();
            let rounds = 2000;
            let begun = cpu_time();
            for round in 0..rounds {
                let first = 1 + round * size;
                let entries: Vec<Entry> = (first..first + size).map(entry).collect();
                store.apply(&entries, &Registers).unwrap();
            }
            (cpu_time() - begun) / u32::try_from(rounds).unwrap()
        });
        println!("{size} entries a transaction: {took:?} a transaction");
    }
}

#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "measures real time"
)]
fn cpu_time() -> std::time::Duration {
    static ZERO: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    ZERO.get_or_init(std::time::Instant::now).elapsed()
}
