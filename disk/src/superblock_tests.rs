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
                    .update(|content| content.start_count = start)
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
    bytes[8] = 2;
    let end = HEADER_BYTES + encode_body(&content()).len();
    let checksum = xxh3_128(&bytes[..end]);
    bytes[end..end + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    world.disk().overwrite(PATH, 0, &bytes);
    assert!(matches!(
        reopened(&world),
        Err(SuperblockError::TooNew { found: 2, .. })
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
            .update(|content| content.values.insert(b"large".to_vec(), value))
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
        b"HEDGEROW\x01\0\0\0\x76\0\0\0\x03\0\0\0\0\0\0\0"
    );
    let end = HEADER_BYTES + 118;
    assert_eq!(
        format!("{:032x}", Reader(&bytes[end..]).u128().unwrap()),
        "73a26bba36fc4cb05d7378d5b6590255",
        "the format of a superblock must not change under the same version"
    );
}
