//! HBlock on a real store over a disk that loses what was not synced.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_disk::testing::World;
use hedgerow_disk::{Store, StoreConfig};
use hedgerow_env::{Env, Generation, GroupId, NodeId, PlacementEpoch, StoreId};
use hedgerow_protocol::{
    HBlockRefusal, HBlockReply, HBlockRequest, MemberState, NameState, PlacementMember, WriteTarget,
};

use crate::testing::{
    FakeNetwork, FakeShard, MembersHandle, ShardHandle, blob, container, name, refusal,
};
use crate::{BlobStore, ControlKey, DiskStore, HBlock, HBlockConfig, StoreFault};

async fn open(env: &Env) -> DiskStore {
    let opened = Store::open(env, "pool", StoreConfig::small()).await;
    let (store, mut recovery) = opened.unwrap();
    DiskStore::new(env, store, &mut recovery)
}

async fn start(env: &Env, shard: &Arc<FakeShard>) -> (HBlock, StoreId) {
    let store = open(env).await;
    let id = store.id();
    let members = MembersHandle(env.clone(), Arc::<FakeNetwork>::default());
    let shards = ShardHandle(env.clone(), Arc::clone(shard));
    let hblock = HBlock::with_ports(
        env.clone(),
        vec![Arc::new(store)],
        Arc::new(members),
        Arc::new(shards),
        HBlockConfig::default(),
    );
    (hblock.await.unwrap(), id)
}

async fn write(
    env: &Env,
    hblock: &HBlock,
    store: StoreId,
    sequence: u64,
    epoch: u64,
) -> HBlockReply {
    let (header, payload) = blob(sequence, 8);
    let member = PlacementMember {
        store,
        node: NodeId(1),
        state: MemberState::Active,
    };
    let request = HBlockRequest::Write {
        store,
        header,
        generation: Generation(1),
        epoch: PlacementEpoch(epoch),
        targets: vec![WriteTarget {
            member,
            address: String::new(),
        }],
        write_quorum: 1,
        domains: vec![],
    };
    let deadline = env.now() + Duration::from_secs(5);
    hblock.answer(request, payload, deadline).await.0
}

async fn read(env: &Env, hblock: &HBlock, store: StoreId, sequence: u64) -> (HBlockReply, Bytes) {
    let request = HBlockRequest::Read {
        store,
        name: name(sequence),
        units: vec![1, 2, 5],
    };
    let deadline = env.now() + Duration::from_secs(5);
    hblock.answer(request, Bytes::new(), deadline).await
}

#[test]
fn what_was_answered_survives_a_power_cut_at_any_operation() {
    for seed in 0..12 {
        let world = World::new(seed);
        let shard = Arc::<FakeShard>::default();
        let answered = Arc::new(std::sync::Mutex::new(Vec::new()));
        world.disk().crash_in(40 + seed * 11);
        let (env, told, at) = (world.env(), Arc::clone(&answered), Arc::clone(&shard));
        world.run_or_crash(async move {
            let (hblock, store) = start(&env, &at).await;
            for sequence in 1..=40 {
                let epoch = 1 + sequence / 10;
                let reply = write(&env, &hblock, store, sequence, epoch).await;
                assert!(matches!(reply, HBlockReply::Written { .. }), "{reply:?}");
                told.lock().unwrap().push((sequence, epoch));
            }
        });
        world.power_cut();
        let answered = answered.lock().unwrap().clone();
        let env = world.env();
        world.run(async move {
            let (hblock, store) = start(&env, &shard).await;
            for (sequence, _) in &answered {
                let (reply, bytes) = read(&env, &hblock, store, *sequence).await;
                let (header, payload) = blob(*sequence, 8);
                let units = [1, 2, 5].map(|unit: usize| header.units[unit]);
                assert_eq!(reply, HBlockReply::Units(units.to_vec()), "seed {seed}");
                assert_eq!(bytes[..1024], payload[512..1536]);
                assert_eq!(bytes[1024..], payload[2560..3072]);
            }
            if let Some((_, epoch)) = answered.last().filter(|(_, epoch)| *epoch > 1) {
                let stale = refusal(write(&env, &hblock, store, 99, epoch - 1).await);
                assert!(
                    matches!(stale, HBlockRefusal::StaleEpoch { .. }),
                    "seed {seed}"
                );
            }
        });
    }
}

#[test]
fn old_records_are_copied_forward_while_the_journal_goes_round() {
    let world = World::new(1);
    let env = world.env();
    let feed = ControlKey::Feed(GroupId(1));
    let busy = ControlKey::Container(container());
    world.run(async move {
        let store = open(&env).await;
        store
            .put_record(feed, Bytes::from_static(b"old"))
            .await
            .unwrap();
        // Twice the journal's 2 MiB: without copying forward it fills.
        for round in 0..1024_u32 {
            let mut value = vec![0; 4096];
            value[..4].copy_from_slice(&round.to_le_bytes());
            store.put_record(busy, Bytes::from(value)).await.unwrap();
        }
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let records = open(&env).await.records().await.unwrap();
        let keys: Vec<ControlKey> = records.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, vec![busy, feed]);
        assert_eq!(
            records[0].1[..4],
            1023_u32.to_le_bytes(),
            "the newest counts"
        );
        assert_eq!(records[1].1, Bytes::from_static(b"old"));
    });
}

#[test]
fn deleted_blobs_stay_deleted_and_rotten_ones_are_told_apart_from_missing_ones() {
    let world = World::new(2);
    let env = world.env();
    world.run(async move {
        let store = open(&env).await;
        for sequence in 1..=3 {
            let (header, payload) = blob(sequence, 8);
            store.put(header, payload).await.unwrap();
        }
        store.delete(vec![name(2), name(7)]).await.unwrap();
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let store = open(&env).await;
        assert_eq!(store.names(None, 10), vec![name(1), name(3)]);
        assert_eq!(store.names(Some(name(1)), 10), vec![name(3)]);
        assert_eq!(store.header(name(2)), Err(StoreFault::Missing));
        let (header, payload) = store.read_blob(name(3)).await.unwrap();
        assert_eq!((header, payload), blob(3, 8));
        let beyond = store.read_units(name(3), vec![8]).await;
        assert_eq!(beyond, Err(StoreFault::Missing));
    });
}

#[test]
fn a_failed_sync_stops_the_store_and_the_node_with_it() {
    let world = World::new(3);
    let (env, shard) = (world.env(), Arc::<FakeShard>::default());
    let faults = world.disk().clone();
    world.run(async move {
        let (hblock, store) = start(&env, &shard).await;
        shard.set_state(name(1), NameState::Live);
        faults.fail_syncs(Some("journal"));
        let reply = refusal(write(&env, &hblock, store, 1, 1).await);
        assert!(
            matches!(
                reply,
                HBlockRefusal::TooFew { .. } | HBlockRefusal::Stopped { .. }
            ),
            "{reply:?}"
        );
        env.sleep(Duration::from_millis(1)).await;
        let stopped = refusal(write(&env, &hblock, store, 2, 1).await);
        assert!(
            matches!(stopped, HBlockRefusal::Stopped { .. }),
            "{stopped:?}"
        );
    });
    let halted = world
        .events()
        .iter()
        .any(|event| event.contains("halt: disk failed"));
    assert!(halted, "the store is the system pool: {:?}", world.events());
}

/// Two pools of a node, each the only member of a write of its own.
#[test]
fn a_sync_that_fails_in_one_pool_is_success_in_the_other_alone() {
    for failing in 0..2 {
        let world = World::new(40);
        let disk = world.disk().clone();
        let env = world.env();
        world.run(async move {
            let shard = Arc::<FakeShard>::default();
            let mut pools: Vec<Arc<dyn BlobStore>> = Vec::new();
            let mut ids = Vec::new();
            for pool in 0..2 {
                let config = StoreConfig {
                    pool,
                    node: Some(NodeId(1)),
                    ..StoreConfig::small()
                };
                let opened = Store::open(&env, &format!("pool-{pool}"), config).await;
                let (store, mut recovery) = opened.unwrap();
                ids.push(store.id());
                pools.push(Arc::new(DiskStore::new(&env, store, &mut recovery)));
            }
            let members = MembersHandle(env.clone(), Arc::<FakeNetwork>::default());
            let shards = ShardHandle(env.clone(), shard);
            let config = HBlockConfig::default();
            let (members, shards) = (Arc::new(members), Arc::new(shards));
            let hblock = HBlock::with_ports(env.clone(), pools, members, shards, config)
                .await
                .unwrap();
            disk.fail_syncs(Some(&format!("pool-{failing}/")));
            for (pool, store) in ids.into_iter().enumerate() {
                let reply = write(&env, &hblock, store, 1, 1).await;
                let is_written = matches!(reply, HBlockReply::Written { .. });
                assert_eq!(is_written, pool != failing, "pool {pool}: {reply:?}");
                // A failed sync is never repeated: the pool is lost to this life.
                let again = write(&env, &hblock, store, 2, 1).await;
                let is_written = matches!(again, HBlockReply::Written { .. });
                assert_eq!(is_written, pool != failing, "pool {pool}: {again:?}");
            }
        });
    }
}
