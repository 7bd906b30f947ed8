//! Stories of a pool: puts, deletions, flush, compaction, scrub, full disks, and crashes of all of
//! it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, DiskError, Env, FamilyId, NodeId, OpenMode, Sequence,
    VirtualDiskId, WriterId,
};

use crate::testing::World;
use crate::{
    ExtentConfig, JournalConfig, Life, Others, ReadError, Recovery, Store, StoreConfig, StoreError,
    StreamTag,
};

fn config() -> StoreConfig {
    StoreConfig {
        node: Some(NodeId(1)),
        journal: JournalConfig {
            segment_bytes: 64 << 10,
            segments: 8,
            reserve_segments: 2,
            ..JournalConfig::small()
        },
        extent: ExtentConfig {
            segment_bytes: 128 << 10,
            ..ExtentConfig::default()
        },
        flush_bytes: 64 << 10,
        ..StoreConfig::small()
    }
}

pub(super) async fn open(env: &Env) -> (Store, Recovery) {
    Store::open(env, "pool", config()).await.unwrap()
}

pub(super) fn name(sequence: u64) -> BlobName {
    BlobName {
        container: ContainerId {
            family: FamilyId(1),
            disk: VirtualDiskId(2),
            index: ContainerIndex(u32::try_from(sequence % 2).unwrap()),
        },
        writer: WriterId(3),
        sequence: Sequence(sequence),
    }
}

pub(super) fn payload(sequence: u64, version: u64) -> Bytes {
    let length = usize::try_from(sequence * 977 % 20_000 + 1).unwrap();
    let mut bytes = vec![0; length];
    hedgerow_env::Random::from_seed(sequence << 8 | version).fill(&mut bytes);
    bytes.into()
}

pub(super) fn header(sequence: u64, version: u64) -> Bytes {
    format!("header {sequence} {version}").into_bytes().into()
}

/// Puts a blob, waiting while the store is busy or full.
pub(super) async fn put(env: &Env, store: &Store, sequence: u64, version: u64) {
    loop {
        let payload = payload(sequence, version);
        match store.put_blob(name(sequence), header(sequence, version), payload) {
            Ok(receipt) => return receipt.durable().await.unwrap(),
            Err(StoreError::Busy | StoreError::Full) => env.sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) async fn check(store: &Store, sequence: u64, version: u64) {
    let expected = payload(sequence, version);
    let found = store
        .read_blob(name(sequence), 0, expected.len())
        .await
        .unwrap();
    assert_eq!(found, expected, "blob {sequence}");
    assert_eq!(
        store.blob_header(name(sequence)),
        Some(header(sequence, version))
    );
    let middle = expected.len() / 2;
    let part = store
        .read_blob(name(sequence), middle, expected.len() - middle)
        .await
        .unwrap();
    assert_eq!(part, expected[middle..], "half of blob {sequence}");
}

#[test]
fn a_blob_is_readable_at_once_and_after_flush_and_restart() {
    let world = World::new(1);
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        assert!(recovery.created);
        let receipt = store
            .put_blob(name(1), header(1, 0), payload(1, 0))
            .unwrap();
        check(&store, 1, 0).await;
        receipt.durable().await.unwrap();
        store.flush().await.unwrap();
        assert_eq!(store.usage().unflushed, 0);
        check(&store, 1, 0).await;
        store.close().await;
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        assert_eq!(
            (recovery.created, recovery.session, recovery.blobs),
            (false, 2, 1)
        );
        check(&store, 1, 0).await;
        assert_eq!(store.blobs(None, 10), [name(1)]);
        assert_eq!(store.containers(), [name(1).container]);
        assert!(store.blobs_of(name(2).container).is_empty());
        let range = store.read_blob(name(1), 0, 100_000).await;
        assert!(matches!(range, Err(ReadError::OutOfRange { .. })));
        assert_eq!(
            store.read_blob(name(9), 0, 1).await,
            Err(ReadError::Missing(name(9)))
        );
    });
}

#[test]
fn a_stream_of_blobs_far_larger_than_the_journal_flows_through_it() {
    let world = World::new(2);
    let env = world.env();
    world.run(async move {
        let (store, _) = open(&env).await;
        for sequence in 0..200 {
            put(&env, &store, sequence, 0).await;
        }
        for sequence in 0..200 {
            check(&store, sequence, 0).await;
        }
        store.flush().await.unwrap();
        let usage = store.usage();
        assert_eq!((usage.unflushed, usage.blobs), (0, 200));
        store.close().await;
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        assert_eq!(recovery.blobs, 200);
        for sequence in 0..200 {
            check(&store, sequence, 0).await;
        }
    });
}

/// What a client of the store knows of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The version that was last acknowledged; none for deleted.
    acknowledged: Option<u64>,
    /// A version (or deletion) that was under way at the crash.
    attempted: Option<Option<u64>>,
}

/// Random puts, replacements and deletions until the disk dies.
async fn churn(env: Env, seed: u64, known: Arc<Mutex<BTreeMap<u64, Known>>>) {
    let (store, recovery) = open(&env).await;
    assert!(recovery.damaged.is_empty(), "{:?}", recovery.damaged);
    let mut random = hedgerow_env::Random::from_seed(seed);
    for step in 1..400 {
        let sequence = random.below(40);
        let version = (!random.chance(1, 3)).then_some(seed << 20 | step);
        let attempt = |attempted| {
            let mut known = known.lock().unwrap();
            let entry = known.entry(sequence).or_insert(Known {
                acknowledged: None,
                attempted: None,
            });
            match attempted {
                true => entry.attempted = Some(version),
                false => {
                    *entry = Known {
                        acknowledged: version,
                        attempted: None,
                    }
                }
            }
        };
        attempt(true);
        match version {
            Some(version) => put(&env, &store, sequence, version).await,
            None => {
                let receipt = store.delete_blob(name(sequence)).unwrap();
                receipt.durable().await.unwrap();
                assert!(!store.contains(name(sequence)));
            }
        }
        attempt(false);
        if random.chance(1, 40) {
            store.flush().await.unwrap();
        }
    }
}

async fn verify(store: &Store, known: &mut BTreeMap<u64, Known>, seed: u64) {
    for (sequence, known) in known {
        let found = match store.blob_header(name(*sequence)) {
            None => None,
            Some(header) => {
                let text = String::from_utf8(header.to_vec()).unwrap();
                Some(text.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            }
        };
        let allowed = found == known.acknowledged || Some(found) == known.attempted;
        assert!(
            allowed,
            "seed {seed}: blob {sequence} is {found:?}, known {known:?}"
        );
        if let Some(version) = found {
            check(store, *sequence, version).await;
        }
        *known = Known {
            acknowledged: found,
            attempted: None,
        };
    }
}

#[test]
fn a_crash_at_any_call_keeps_puts_and_deletions() {
    for seed in 0..120 {
        let world = World::new(seed);
        let mut lives = Vec::new();
        let known = Arc::new(Mutex::new(BTreeMap::new()));
        for round in 0..4 {
            world.disk().crash_in((seed * 37 + round * 211) % 900 + 40);
            let client = churn(world.env(), seed * 4 + round, Arc::clone(&known));
            world.run_or_crash(client);
            world.power_cut();
            let (env, known) = (world.env(), Arc::clone(&known));
            world.run(async move {
                let (store, recovery) = open(&env).await;
                assert!(
                    recovery.damaged.is_empty(),
                    "seed {seed}: {:?}",
                    recovery.damaged
                );
                assert!(recovery.damaged_blobs.is_empty(), "seed {seed}");
                let mut state = known.lock().unwrap().clone();
                verify(&store, &mut state, seed).await;
                *known.lock().unwrap() = state;
            });
            world.power_cut();
            lives.extend(world.take_left());
        }
        let lives: Vec<_> = lives
            .iter()
            .filter_map(|left| left.downcast_ref::<Life>())
            .collect();
        assert!(lives.len() >= 4, "seed {seed}: {} lives", lives.len());
        for pair in lives.windows(2) {
            assert_eq!(pair[0].broken_by(pair[1]), None, "seed {seed}");
        }
    }
}

#[test]
fn mostly_dead_segments_are_compacted_and_removed() {
    let world = World::new(4);
    let env = world.env();
    world.run(async move {
        let (store, _) = open(&env).await;
        for sequence in 0..100 {
            put(&env, &store, sequence, 0).await;
        }
        store.flush().await.unwrap();
        let before = store.usage();
        for sequence in (0..100).filter(|sequence| sequence % 4 != 0) {
            store
                .delete_blob(name(sequence))
                .unwrap()
                .durable()
                .await
                .unwrap();
        }
        for _ in 0..6 {
            store.flush().await.unwrap();
        }
        let after = store.usage();
        assert!(
            after.used < before.used - before.live / 2,
            "{before:?} to {after:?}"
        );
        for sequence in (0..100).step_by(4) {
            check(&store, sequence, 0).await;
        }
        store.close().await;
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        assert_eq!(recovery.blobs, 25);
        for sequence in (0..100).step_by(4) {
            check(&store, sequence, 0).await;
        }
    });
}

#[test]
fn a_full_disk_refuses_data_loses_nothing_and_deletions_make_room() {
    let world = World::new(6);
    let (env, disk) = (world.env(), world.disk().clone());
    world.disk().limit(3 << 20);
    world.run(async move {
        let (store, _) = open(&env).await;
        let mut stored = Vec::new();
        let refused = (0..10_000).find_map(|sequence| {
            let put = store.put_blob(name(sequence), header(sequence, 0), payload(sequence, 0));
            match put {
                Ok(_) => {
                    stored.push(sequence);
                    None
                }
                Err(error) => Some(error),
            }
        });
        assert!(matches!(refused, Some(StoreError::Busy | StoreError::Full)));
        let mut sequence = u64::try_from(stored.len()).unwrap();
        let mut refusals = 0;
        while refusals < 50 {
            match store.put_blob(name(sequence), header(sequence, 0), payload(sequence, 0)) {
                Ok(receipt) => {
                    receipt.durable().await.unwrap();
                    stored.push(sequence);
                    sequence += 1;
                    refusals = 0;
                }
                Err(StoreError::Full | StoreError::Busy) => {
                    refusals += 1;
                    env.sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(
            store.usage().is_full && stored.len() > 50,
            "{:?}",
            store.usage()
        );
        for sequence in &stored {
            check(&store, *sequence, 0).await;
        }
        // Control records still go through, and deletions give room for data again.
        let control = store.append_control(StreamTag::HBLOCK, 1, Bytes::from_static(b"x"));
        control.unwrap().durable().await.unwrap();
        for sequence in &stored[..stored.len() / 2] {
            store
                .delete_blob(name(*sequence))
                .unwrap()
                .durable()
                .await
                .unwrap();
        }
        for _ in 0..4 {
            store.flush().await.ok();
        }
        put(&env, &store, sequence, 0).await;
        check(&store, sequence, 0).await;
        assert!(disk.used() <= 3 << 20);
    });
}

#[test]
fn a_disk_that_fills_from_outside_pauses_the_flush_without_loss() {
    let world = World::new(7);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (store, _) = open(&env).await;
        put(&env, &store, 19, 0).await;
        disk.limit(disk.used());
        assert_eq!(store.flush().await, Err(StoreError::Full));
        assert!(matches!(
            store.put_blob(name(20), Bytes::new(), payload(20, 0)),
            Err(StoreError::Full)
        ));
        check(&store, 19, 0).await;
        disk.limit(u64::MAX);
        store.flush().await.unwrap();
        check(&store, 19, 0).await;
        put(&env, &store, 20, 0).await;
    });
}

#[test]
fn a_failed_sync_of_the_extents_stops_the_pool() {
    let world = World::new(8);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let (store, _) = open(&env).await;
        put(&env, &store, 1, 0).await;
        disk.fail_syncs(Some("extents"));
        assert!(store.flush().await.is_err());
        assert!(store.stopped().await.reason.contains("injected"));
        let refused = store.put_blob(name(2), Bytes::new(), payload(2, 0)).err();
        assert!(matches!(refused, Some(StoreError::Stopped(_))));
    });
}

#[test]
fn damage_in_the_journal_names_blobs_and_keeps_deletions() {
    let world = World::new(9);
    let env = world.env();
    let (lost_put, lost_delete) = world.run(async move {
        let (store, _) = open(&env).await;
        put(&env, &store, 1, 0).await;
        let lost_delete = store.delete_blob(name(1)).unwrap();
        let at_delete = lost_delete.position();
        lost_delete.durable().await.unwrap();
        // The closing mark comes between the two: frames side by side also keep one another's names.
        env.sleep(Duration::from_millis(20)).await;
        let receipt = store
            .put_blob(name(2), header(2, 0), payload(2, 0))
            .unwrap();
        let at_put = receipt.position();
        receipt.durable().await.unwrap();
        store
            .append_control(StreamTag::HBLOCK, 1, Bytes::from_static(b"kept"))
            .unwrap();
        store.journal().flushed().await.unwrap();
        store.close().await;
        (at_put, at_delete)
    });
    for position in [lost_put, lost_delete] {
        let segment = position.0 / (64 << 10);
        let path = format!("pool/journal/{segment:016x}.journal");
        world.disk().rot(&path, position.0 % (64 << 10) + 2, 1);
    }
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        assert_eq!(recovery.damaged.len(), 2);
        assert_eq!(recovery.damaged_blobs, [name(2)]);
        assert!(
            !store.contains(name(1)),
            "the deletion is known from its header's copy"
        );
        let kept = &recovery.control[&StreamTag::HBLOCK];
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].record.payload, "kept");
    });
}

#[test]
fn a_vanished_journal_and_a_foreign_pool_are_refused() {
    let world = World::new(10);
    let env = world.env();
    world.run(async move { open(&env).await.0.close().await });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let other = StoreConfig {
            node: Some(NodeId(2)),
            ..config()
        };
        let foreign = Store::open(&env, "pool", other).await.err();
        assert!(matches!(foreign, Some(StoreError::Foreign { .. })));
        for path in env.disk().list("pool/journal").await.unwrap() {
            env.disk()
                .remove(&format!("pool/journal/{path}"))
                .await
                .unwrap();
        }
        let lost = Store::open(&env, "pool", config()).await.err();
        assert!(matches!(lost, Some(StoreError::JournalLost { .. })));
    });
}

/// Starts the pool in `world` and closes it; answers the start's count and nonce.
fn started(world: &World) -> (u64, u64) {
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        let content = store.superblock().content();
        assert_eq!(content.start_count, recovery.session);
        assert_eq!(
            content.starts.last_key_value(),
            Some((&store.session(), &store.start_nonce()))
        );
        store.close().await;
        (store.session(), store.start_nonce())
    })
}

#[test]
fn a_restored_image_counts_the_same_start_under_another_nonce() {
    let world = World::new(11);
    let first = started(&world);
    let disk = world.disk();
    let image: Vec<(String, Vec<u8>)> = disk
        .paths("pool")
        .into_iter()
        .map(|path| (path.clone(), disk.content(&path)))
        .collect();
    let second = started(&world);
    assert_eq!(second.0, first.0 + 1);
    for (path, content) in &image {
        disk.overwrite(path, 0, content);
    }
    let restored = started(&world);
    assert_eq!(restored.0, second.0, "the count was used before");
    assert_ne!(restored.1, second.1, "the nonce was not");
}

/// Fills a pool of 6 MiB beside which a file of 1 MiB lies, until no blob is taken any more. Answers
/// the blobs that were stored.
async fn fill(env: &Env, store: &Store, others: Others) -> Vec<u64> {
    const REFUSALS: u32 = 20;
    let mut stored = Vec::new();
    let mut refusals = 0;
    while refusals < REFUSALS {
        store.observe_room(others).await.unwrap();
        let sequence = u64::try_from(stored.len()).unwrap() + 1;
        match store.put_blob(name(sequence), header(sequence, 1), payload(sequence, 1)) {
            Ok(receipt) => {
                receipt.durable().await.unwrap();
                stored.push(sequence);
                refusals = 0;
            }
            Err(StoreError::Busy | StoreError::Full) => {
                refusals += 1;
                env.sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    stored
}

/// Whether the file beside a full pool can double; afterwards the pool must still work.
fn grows_beside_a_full_pool(others: Others) -> bool {
    const STATE_BYTES: u64 = 1 << 20;
    let world = World::new(12);
    world.disk().limit(6 << 20);
    let env = world.env();
    world.run(async move {
        let (store, _) = open(&env).await;
        let state = env.disk().open("pool/pages/state", OpenMode::Create).await;
        let state = state.unwrap();
        state.resize(STATE_BYTES).await.unwrap();
        let stored = fill(&env, &store, others).await;
        assert!(stored.len() > 50, "{} blobs", stored.len());
        let grown = state.resize(2 * STATE_BYTES).await;
        assert!(
            matches!(grown, Ok(()) | Err(DiskError::NoSpace { .. })),
            "{grown:?}"
        );
        // Deletions go on, and make room for data again.
        for sequence in &stored {
            let receipt = store.delete_blob(name(*sequence)).unwrap();
            receipt.durable().await.unwrap();
        }
        assert!(store.journal().is_stopped().is_none());
        put(&env, &store, 1, 2).await;
        check(&store, 1, 2).await;
        grown.is_ok()
    })
}

#[test]
fn a_full_pool_leaves_room_for_what_grows_beside_it() {
    let told = Others {
        used_bytes: 1 << 20,
        growth_bytes: 1 << 20,
    };
    assert!(grows_beside_a_full_pool(told));
    assert!(
        !grows_beside_a_full_pool(Others::default()),
        "blobs take what nobody asked for: else this test shows nothing"
    );
}

#[test]
fn a_full_disk_keeps_what_it_took_and_is_left_alone_until_there_is_room() {
    const BLOBS: u64 = 20;
    let world = World::new(13);
    let disk = world.disk().clone();
    let env = world.env();
    world.run(async move {
        let slow = StoreConfig {
            flush_bytes: 64 << 20,
            flush_interval: Duration::from_secs(3600),
            ..config()
        };
        let (store, _) = Store::open(&env, "pool", slow).await.unwrap();
        for sequence in 1..=BLOBS {
            put(&env, &store, sequence, 1).await;
        }
        let unflushed = store.usage().unflushed;
        // Room for one segment of the two that are needed.
        disk.limit(disk.used() + (200 << 10));
        assert_eq!(store.flush().await, Err(StoreError::Full));
        let left = store.usage().unflushed;
        assert!(0 < left && left < unflushed, "{left} of {unflushed}");
        // The journal frees what was flushed.
        env.sleep(Duration::from_secs(1)).await;
        let (used, operations) = (disk.used(), disk.operations());
        for _ in 0..20 {
            assert_eq!(store.flush().await, Err(StoreError::Full));
        }
        // Refused writers ask for rounds; they come at a pace.
        for _ in 0..1_000 {
            let refused = store.put_blob(name(99), header(99, 1), payload(99, 1));
            assert_eq!(refused.err(), Some(StoreError::Full));
            env.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!((disk.used(), disk.operations()), (used, operations));

        disk.limit(u64::MAX);
        store.flush().await.unwrap();
        for sequence in 1..=BLOBS {
            check(&store, sequence, 1).await;
            let receipt = store.delete_blob(name(sequence)).unwrap();
            receipt.durable().await.unwrap();
        }
        store.flush().await.unwrap();
        let usage = store.usage();
        let extents = usage.used - usage.journal_capacity;
        assert!(extents < 200 << 10, "{extents} bytes are never freed");
    });
}

#[test]
fn a_pool_opens_on_a_full_disk_and_goes_on_when_there_is_room() {
    /// Each in a batch of its own, of 4 KiB: then the segment's footer finds no room in its file.
    const BLOBS: u64 = 32;
    let world = World::new(14);
    let disk = world.disk().clone();
    let small = |sequence: u64| payload(sequence, 1).slice(..977.min(payload(sequence, 1).len()));
    let env = world.env();
    world.run(async move {
        let (store, _) = open(&env).await;
        for sequence in 1..=BLOBS {
            let put = store.put_blob(name(sequence), header(sequence, 1), small(sequence));
            put.unwrap().durable().await.unwrap();
            store.flush().await.unwrap();
        }
    });
    world.power_cut();
    let limited = disk.clone();
    let env = world.env();
    world.run(async move {
        limited.limit(limited.used());
        let (store, recovery) = open(&env).await;
        assert_eq!(recovery.blobs, usize::try_from(BLOBS).unwrap());
        assert!(store.usage().is_full);
        // It was opened without knowing how large the disk is.
        limited.limit(u64::MAX);
        store.observe_room(Others::default()).await.unwrap();
        assert!(!store.usage().is_full);
        for sequence in BLOBS + 1..=2 * BLOBS {
            let put = store.put_blob(name(sequence), header(sequence, 1), small(sequence));
            put.unwrap().durable().await.unwrap();
            store.flush().await.unwrap();
        }
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let (store, recovery) = open(&env).await;
        assert!(recovery.damaged_blobs.is_empty());
        for sequence in 1..=2 * BLOBS {
            let expected = small(sequence);
            let found = store.read_blob(name(sequence), 0, expected.len()).await;
            assert_eq!(found, Ok(expected), "blob {sequence}");
        }
    });
}
