//! Superblocks under crashes and rot, and the golden bytes of one.

use super::*;
use crate::testing::World;

const PATH: &str = "pool/superblock";

fn content() -> SuperblockContent {
    SuperblockContent {
        store: StoreId(0x1122_3344_5566_7788),
        node: NodeId(7),
        cluster: Some(ClusterId(9)),
        pool: 1,
        is_system: true,
        start_count: 3,
        starts: BTreeMap::from([(3, 0x0123_4567_89ab_cdef)]),
        rolled_back: false,
        journal_born: true,
        feature_level: 2,
        journal: JournalGeometry {
            segment_bytes: 65_536,
            alignment: 512,
        },
        peers: BTreeMap::from([(
            StoreId(5),
            PeerKnowledge {
                start_count: 4,
                start_nonce: 0xfedc_ba98_7654_3210,
                position: 600,
            },
        )]),
        retired: BTreeSet::from([(GroupId(1), ReplicaNumber(2))]),
        values: BTreeMap::from([(b"k".to_vec(), b"value".to_vec())]),
    }
}

async fn open(env: Env) -> Result<Superblock, SuperblockError> {
    Superblock::open_or_create(&env, "pool", content).await
}

fn reopened(world: &World) -> Result<SuperblockContent, SuperblockError> {
    let env = world.env();
    world.run(async move { open(env).await.map(|superblock| superblock.content()) })
}

#[test]
fn everything_written_is_read_back() {
    let world = World::new(1);
    let env = world.env();
    world.run(async move {
        let superblock = open(env).await.unwrap();
        assert_eq!(superblock.content(), content());
        superblock
            .update(|content| content.start_count += 1)
            .await
            .unwrap();
    });
    world.power_cut();
    assert_eq!(reopened(&world).unwrap().start_count, 4);
}

#[test]
fn a_crash_at_any_call_leaves_the_old_or_the_new_content() {
    for calls in 0..40 {
        let world = World::new(calls);
        let env = world.env();
        world.disk().crash_in(calls);
        let acknowledged = Arc::new(Mutex::new(0));
        let count = Arc::clone(&acknowledged);
        world.run_or_crash(async move {
            let superblock = open(env).await.unwrap();
            for start in 4..8 {
                superblock
                    .update(move |content| content.start_count = start)
                    .await
                    .unwrap();
                *count.lock().unwrap() = start;
            }
        });
        world.power_cut();
        let found = reopened(&world).unwrap().start_count;
        let acknowledged = *acknowledged.lock().unwrap();
        assert!(
            found >= acknowledged,
            "crash at {calls}: {found} after {acknowledged}"
        );
        assert!(
            (3..8).contains(&found),
            "crash at {calls}: {found} was never written"
        );
    }
}

#[test]
fn either_copy_may_rot_but_not_both() {
    for rotten in [0, SUPERBLOCK_COPY_BYTES] {
        let world = World::new(2);
        let env = world.env();
        world.run(async move {
            let superblock = open(env).await.unwrap();
            superblock
                .update(|content| content.rolled_back = true)
                .await
                .unwrap();
        });
        world.disk().rot(PATH, rotten + 30, 1);
        assert!(
            reopened(&world).unwrap().rolled_back,
            "an update is in both copies"
        );
        world
            .disk()
            .rot(PATH, SUPERBLOCK_COPY_BYTES - rotten + 30, 1);
        let error = reopened(&world).unwrap_err();
        assert!(
            matches!(error, SuperblockError::BothDamaged { .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("remove its folder"),
            "the remedy is named: {error}"
        );
    }
}

#[test]
fn a_failed_sync_ends_all_updates() {
    let world = World::new(3);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let superblock = open(env).await.unwrap();
        disk.fail_syncs(Some("superblock"));
        let failed = superblock.update(|content| content.start_count = 9).await;
        assert!(matches!(failed, Err(SuperblockError::Disk(_))));
        disk.fail_syncs(None);
        let later = superblock.update(|content| content.start_count = 10).await;
        assert_eq!(later, Err(SuperblockError::Stopped));
        assert_eq!(superblock.content().start_count, 3);
    });
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let world = World::new(4);
    reopened(&world).unwrap();
    let mut bytes = encode(2, &content()).unwrap().to_vec();
    bytes[8] = 3;
    let end = HEADER_BYTES + encode_body(&content()).len();
    let checksum = xxh3_128(&bytes[..end]);
    bytes[end..end + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    world.disk().overwrite(PATH, 0, &bytes);
    assert!(matches!(
        reopened(&world),
        Err(SuperblockError::TooNew { found: 3, .. })
    ));
}

#[test]
fn too_many_values_are_refused() {
    let world = World::new(5);
    let env = world.env();
    world.run(async move {
        let superblock = open(env).await.unwrap();
        let value = vec![0; crate::codec::narrow(SUPERBLOCK_COPY_BYTES)];
        let refused = superblock
            .update(move |content| content.values.insert(b"large".to_vec(), value))
            .await;
        assert!(matches!(refused, Err(SuperblockError::TooLarge { .. })));
        superblock
            .update(|content| content.start_count = 9)
            .await
            .unwrap();
    });
}

#[test]
fn golden_bytes() {
    let bytes = encode(3, &content()).unwrap();
    assert_eq!(bytes.len(), BLOCK_BYTES);
    assert_eq!(
        &bytes[..24],
        b"HEDGEROW\x02\0\0\0\x92\0\0\0\x03\0\0\0\0\0\0\0"
    );
    let end = HEADER_BYTES + 146;
    assert_eq!(
        format!("{:032x}", Reader(&bytes[end..]).u128().unwrap()),
        "242850cb718049ddcbe136bb20fef415",
        "the format of a superblock must not change under the same version"
    );
}

/// The content as version 1 wrote it: no starts, and peers without nonces.
fn encode_version_1(content: &SuperblockContent) -> Vec<u8> {
    let mut body = encode_body(content);
    let starts = 72..76 + 16 * content.starts.len();
    body.drain(starts);
    let first_peer_nonce = 72 + 16;
    body.drain(first_peer_nonce..first_peer_nonce + 8);
    let mut writer = Writer::default();
    writer
        .u64(MAGIC)
        .u16(1)
        .u16(0)
        .u32(word(body.len()))
        .u64(3)
        .bytes(&body);
    let checksum = xxh3_128(&writer.0);
    writer.u128(checksum).pad(BLOCK_BYTES);
    writer.0
}

#[test]
fn version_1_is_read_without_its_knowledge_of_peers() {
    let bytes = encode_version_1(&content());
    let end = HEADER_BYTES + 118;
    assert_eq!(
        format!("{:032x}", Reader(&bytes[end..]).u128().unwrap()),
        "73a26bba36fc4cb05d7378d5b6590255",
        "these are the bytes that version 1 wrote"
    );
    let world = World::new(6);
    reopened(&world).unwrap();
    for copy in [0, SUPERBLOCK_COPY_BYTES] {
        world.disk().overwrite(PATH, copy, &bytes);
    }
    let expected = SuperblockContent {
        starts: BTreeMap::new(),
        peers: BTreeMap::new(),
        ..content()
    };
    assert_eq!(reopened(&world).unwrap(), expected);
}

#[test]
fn the_newest_starts_are_kept() {
    let mut content = content();
    for count in 4..100 {
        content.begin_start(count, count * 7);
    }
    assert_eq!(content.start_count, 99);
    assert_eq!(content.starts.len(), STARTS_KEPT);
    assert_eq!(content.starts.last_key_value(), Some((&99, &693)));
}

#[test]
fn the_first_nonce_heard_of_a_start_stays() {
    let shown = |start_count, start_nonce, position| PeerKnowledge {
        start_count,
        start_nonce,
        position,
    };
    let mut known = shown(4, 40, 600);
    known.learn(shown(4, 41, 700));
    assert_eq!(known, shown(4, 40, 700));
    known.learn(shown(5, 50, 650));
    assert_eq!(known, shown(5, 50, 700));
    known.learn(shown(3, 30, 100));
    assert_eq!(known, shown(5, 50, 700));
}

/// Polls `future` at most `polls` times, then drops it; whether it completed.
async fn dropped_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut count = 0;
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
            return std::task::Poll::Ready(Some(value));
        }
        count += 1;
        if count >= polls {
            return std::task::Poll::Ready(None);
        }
        std::task::Poll::Pending
    })
    .await
}

#[test]
fn an_update_that_nobody_awaits_any_more_is_no_failure() {
    for polls in 1.. {
        let world = World::new(7);
        let env = world.env();
        let completed = world.run(async move {
            let superblock = open(env).await.unwrap();
            let first = superblock.update(|content| content.start_count = 9);
            let outcome = dropped_after(polls, first).await;
            superblock
                .update(|content| content.rolled_back = true)
                .await
                .expect("a dropped update is no disk failure");
            let content = superblock.content();
            assert!(content.rolled_back);
            assert_eq!(content.start_count, 9, "what was begun went on to its end");
            outcome.is_some()
        });
        world.power_cut();
        let found = reopened(&world).unwrap();
        assert!(found.rolled_back && found.start_count == 9);
        if completed {
            return;
        }
    }
}
