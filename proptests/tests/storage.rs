//! Superblock, blob store and verified files against plain models, with crashes at any call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hedgerow_disk::testing::World;
use hedgerow_disk::{
    ExtentConfig, JournalConfig, JournalGeometry, Store, StoreConfig, StoreError, Superblock,
    SuperblockContent, VerifiedConfig, VerifiedError, VerifiedFile,
};
use hedgerow_env::{
    BlobName, ContainerId, ContainerIndex, Env, FamilyId, NodeId, Random, Sequence, StoreId,
    VirtualDiskId, WriterId,
};
use hedgerow_proptests::config;
use proptest::prelude::*;

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared
        .lock()
        .expect("nobody panics while holding the model")
}

fn crash() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => (0..60_u64).prop_map(Some), 2 => (60..400_u64).prop_map(Some), 1 => Just(None)]
}

// Superblock.

type Values = BTreeMap<Vec<u8>, Vec<u8>>;

fn blank() -> SuperblockContent {
    SuperblockContent {
        store: StoreId(1),
        node: NodeId(2),
        cluster: None,
        pool: 0,
        is_system: true,
        start_count: 0,
        starts: BTreeMap::new(),
        rolled_back: false,
        journal_born: false,
        feature_level: 1,
        journal: JournalGeometry {
            segment_bytes: 1 << 20,
            alignment: 4096,
        },
        peers: BTreeMap::new(),
        retired: [].into(),
        values: BTreeMap::new(),
    }
}

/// Some make the content longer than a sector: only then can a crash tear it.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 400..2000_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

/// What the last update that returned left, and the one under way.
#[derive(Debug, Default)]
struct Updates {
    returned: Values,
    started: Option<Values>,
}

async fn update_all(env: Env, updates: Vec<(u8, Vec<u8>)>, shared: Arc<Mutex<Updates>>) {
    let superblock = Superblock::open_or_create(&env, "pool", blank)
        .await
        .expect("one copy is whole");
    let found = superblock.content().values;
    {
        let mut model = locked(&shared);
        let is_known = found == model.returned || Some(&found) == model.started.as_ref();
        assert!(is_known, "found {found:?}, expected {model:?}");
        *model = Updates {
            returned: found,
            started: None,
        };
    }
    for (key, value) in updates {
        let mut next = superblock.content().values;
        next.insert(vec![key], value);
        locked(&shared).started = Some(next.clone());
        let values = next.clone();
        superblock
            .update(move |content| content.values = values)
            .await
            .expect("the disk works");
        *locked(&shared) = Updates {
            returned: next,
            started: None,
        };
    }
}

// Blob store.

#[derive(Debug, Clone)]
enum StoreStep {
    Put { name: u64, length: usize },
    Delete { name: u64 },
    Flush,
    Pause(u64),
    Scrub,
    Read { name: u64 },
}

fn store_step() -> impl Strategy<Value = StoreStep> {
    let name = || 0..12_u64;
    prop_oneof![
        8 => (name(), prop_oneof![0..600_usize, 600..20_000_usize])
            .prop_map(|(name, length)| StoreStep::Put { name, length }),
        4 => name().prop_map(|name| StoreStep::Delete { name }),
        2 => Just(StoreStep::Flush),
        3 => prop_oneof![Just(1_u64), Just(30), Just(1500)].prop_map(StoreStep::Pause),
        1 => Just(StoreStep::Scrub),
        4 => name().prop_map(|name| StoreStep::Read { name }),
    ]
}

fn store_config() -> StoreConfig {
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

fn blob(name: u64) -> BlobName {
    BlobName {
        container: ContainerId {
            family: FamilyId(1),
            disk: VirtualDiskId(2),
            index: ContainerIndex(u32::try_from(name % 3).expect("below 3")),
        },
        writer: WriterId(3),
        sequence: Sequence(name),
    }
}

/// Version and length of each blob.
type Blobs = BTreeMap<u64, (u64, usize)>;

/// Every state since the last that is known to be durable, and what the store shows now.
#[derive(Debug)]
struct History {
    states: Vec<Blobs>,
    durable: usize,
    versions: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            states: vec![Blobs::new()],
            durable: 0,
            versions: 0,
        }
    }
}

impl History {
    fn now(&self) -> &Blobs {
        self.states.last().expect("there is a first state")
    }

    fn change(&mut self, change: impl FnOnce(&mut Blobs)) -> usize {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
        self.states.len() - 1
    }
}

fn payload(name: u64, version: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    Random::from_seed(version << 8 | name).fill(&mut bytes);
    bytes.into()
}

fn header(name: u64, version: u64) -> Bytes {
    Bytes::from(format!("blob {name} version {version}"))
}

/// What the store shows of a name, verified against the version that its header tells.
async fn read(store: &Store, name: u64) -> Option<(u64, usize)> {
    let own = store.blob_header(blob(name))?;
    let text = std::str::from_utf8(&own).expect("a header of ours");
    let version = text
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("ours");
    assert_eq!(own, header(name, version));
    let length =
        usize::try_from(store.blob_length(blob(name)).expect("it has a header")).expect("small");
    let expected = payload(name, version, length);
    let middle = length / 3;
    let whole = store
        .read_blob(blob(name), 0, length)
        .await
        .expect("nothing is damaged");
    assert_eq!(whole, expected);
    let part = store
        .read_blob(blob(name), middle, length - middle)
        .await
        .expect("as before");
    assert_eq!(part, expected[middle..]);
    Some((version, length))
}

async fn show(store: &Store) -> Blobs {
    let mut blobs = Blobs::new();
    for name in 0..12 {
        if let Some(found) = read(store, name).await {
            blobs.insert(name, found);
        }
    }
    assert_eq!(store.blobs(None, 100).len(), blobs.len(), "and no other");
    blobs
}

fn await_durable(
    env: &Env,
    receipt: Result<hedgerow_disk::Receipt, StoreError>,
    shared: &Arc<Mutex<History>>,
    change: impl FnOnce(&mut Blobs),
) {
    let receipt = match receipt {
        Ok(receipt) => receipt,
        Err(StoreError::Busy | StoreError::Full) => return,
        Err(error) => panic!("{error}"),
    };
    let state = locked(shared).change(change);
    let shared = Arc::clone(shared);
    env.spawn("receipt", async move {
        if receipt.durable().await.is_ok() {
            let mut history = locked(&shared);
            history.durable = history.durable.max(state);
        }
    });
}

async fn use_store(env: Env, steps: Vec<StoreStep>, is_closed: bool, shared: Arc<Mutex<History>>) {
    let (store, recovery) = Store::open(&env, "pool", store_config())
        .await
        .expect("it opens");
    assert_eq!(
        (&recovery.damaged[..], &recovery.damaged_blobs[..]),
        (&[][..], &[][..])
    );
    let found = show(&store).await;
    {
        let mut history = locked(&shared);
        let possible = &history.states[history.durable..];
        assert!(
            possible.contains(&found),
            "found {found:?}, possible are {possible:?}"
        );
        let versions = history.versions;
        *history = History {
            states: vec![found],
            durable: 0,
            versions,
        };
    }
    for step in steps {
        match step {
            StoreStep::Put { name, length } => {
                let version = {
                    let mut history = locked(&shared);
                    history.versions += 1;
                    history.versions
                };
                let bytes = payload(name, version, length);
                let receipt = store.put_blob(blob(name), header(name, version), bytes);
                await_durable(&env, receipt, &shared, |blobs| {
                    blobs.insert(name, (version, length));
                });
            }
            StoreStep::Delete { name } => {
                let receipt = store.delete_blob(blob(name));
                await_durable(&env, receipt, &shared, |blobs| {
                    blobs.remove(&name);
                });
            }
            StoreStep::Flush => store.flush().await.expect("there is room"),
            StoreStep::Pause(milliseconds) => env.sleep(Duration::from_millis(milliseconds)).await,
            StoreStep::Scrub => {
                let report = store.scrub(64 << 10).await.expect("the disk works");
                assert_eq!(report.bad, []);
            }
            StoreStep::Read { name } => {
                let found = read(&store, name).await;
                assert_eq!(found.as_ref(), locked(&shared).now().get(&name));
            }
        }
    }
    assert_eq!(&show(&store).await, locked(&shared).now());
    if is_closed {
        store.close().await;
        let mut history = locked(&shared);
        history.durable = history.states.len() - 1;
    }
}

// Verified files.

#[derive(Debug, Clone)]
enum FileStep {
    Write {
        offset: usize,
        length: usize,
        byte: u8,
    },
    Resize(usize),
    Sync,
    Compare,
}

const FILE_BYTES_MAX: usize = 30 * 4096;

fn file_step() -> impl Strategy<Value = FileStep> {
    prop_oneof![
        8 => (0..FILE_BYTES_MAX, prop_oneof![1..5000_usize, Just(4096)], any::<u8>(), any::<bool>())
            .prop_map(|(offset, length, byte, is_aligned)| {
                let offset = if is_aligned { offset / 4096 * 4096 } else { offset };
                FileStep::Write { offset, length, byte }
            }),
        3 => (0..FILE_BYTES_MAX, any::<bool>())
            .prop_map(|(length, is_aligned)| {
                FileStep::Resize(if is_aligned { length / 4096 * 4096 } else { length })
            }),
        4 => Just(FileStep::Sync),
        1 => Just(FileStep::Compare),
    ]
}

#[derive(Debug, Default)]
struct FileModel {
    synced: Vec<u8>,
    syncing: Option<Vec<u8>>,
}

fn content(file: &VerifiedFile) -> Result<Vec<u8>, VerifiedError> {
    let mut bytes = vec![0; usize::try_from(file.len()).expect("small")];
    file.read(0, &mut bytes)?;
    Ok(bytes)
}

fn use_file(
    file: &VerifiedFile,
    steps: &[FileStep],
    shared: &Mutex<FileModel>,
) -> Result<(), VerifiedError> {
    let mut now = content(file)?;
    {
        let mut model = locked(shared);
        let is_known = now == model.synced || Some(&now) == model.syncing.as_ref();
        assert!(
            is_known,
            "{} bytes are neither of the last sync nor of the next",
            now.len()
        );
        *model = FileModel {
            synced: now.clone(),
            syncing: None,
        };
    }
    for step in steps {
        match step {
            FileStep::Write {
                offset,
                length,
                byte,
            } => {
                let Some(offset) = offset.checked_rem(now.len()) else {
                    continue;
                };
                let end = now.len().min(offset + length);
                // Not all alike: a byte that moved shows.
                let pattern: Vec<u8> = (offset..end)
                    .map(|at| byte ^ (at % 251).to_le_bytes()[0])
                    .collect();
                now[offset..end].copy_from_slice(&pattern);
                file.write(offset as u64, &pattern)?;
            }
            FileStep::Resize(length) => {
                now.resize(*length, 0);
                file.set_len(*length as u64)?;
            }
            FileStep::Sync => {
                locked(shared).syncing = Some(now.clone());
                file.sync()?;
                *locked(shared) = FileModel {
                    synced: now.clone(),
                    syncing: None,
                };
            }
            FileStep::Compare => assert_eq!(content(file)?, now),
        }
    }
    assert_eq!(content(file)?, now);
    Ok(())
}

/// The node died in the middle; nothing else may go wrong.
fn is_death(error: &VerifiedError) -> bool {
    matches!(
        error,
        VerifiedError::Disk(_) | VerifiedError::Stopped { .. }
    )
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn a_superblock_holds_the_last_update_or_the_one_under_way(
        seed in any::<u64>(),
        sessions in prop::collection::vec(
            (
                prop::collection::vec((0..4_u8, value()), 0..6),
                crash(),
                prop::option::of((0..2_u64, 0..300_u64)),
            ),
            1..6,
        ),
    ) {
        let world = World::new(seed);
        let shared = Arc::new(Mutex::new(Updates::default()));
        for (updates, crash, rot) in sessions {
            if let Some(call) = crash {
                world.disk().crash_in(call % 40);
            }
            let has_updates = !updates.is_empty();
            let whole = world.run_or_crash(update_all(world.env(), updates, Arc::clone(&shared)));
            world.power_cut();
            // Both copies are whole and equal after an update, and only then: either may rot.
            let rot = rot.filter(|_| whole.is_some() && has_updates);
            if let Some((copy, offset)) = rot {
                world.disk().rot("pool/superblock", copy * (256 << 10) + offset, 3);
            }
            if rot.is_some() {
                // Writing mends what was rotten, so that the next session begins with two copies.
                let mend = vec![(9, vec![9])];
                world.run(update_all(world.env(), mend, Arc::clone(&shared)));
                world.power_cut();
            }
        }
        world.run(update_all(world.env(), Vec::new(), shared));
    }

    #[test]
    fn a_verified_file_holds_the_last_sync_or_the_one_under_way(
        seed in any::<u64>(),
        sessions in prop::collection::vec(
            (prop::collection::vec(file_step(), 0..50), crash()),
            1..6,
        ),
    ) {
        let world = World::new(seed);
        let shared = Arc::new(Mutex::new(FileModel::default()));
        for (steps, crash) in sessions.into_iter().chain([(Vec::new(), None)]) {
            if let Some(call) = crash {
                world.disk().crash_in(call);
            }
            let (env, model) = (world.env(), Arc::clone(&shared));
            let outcome = world.run_or_crash(async move {
                let config = VerifiedConfig { log_bytes: 64 << 10, dirty_bytes: 24 << 10 };
                let file = VerifiedFile::open(&env, "pool/pages", config).await?;
                use_file(&file, &steps, &model)
            });
            if let Some(Err(error)) = outcome {
                prop_assert!(world.disk().is_crashed() && is_death(&error), "{error}");
            }
            world.power_cut();
        }
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_store_shows_a_state_that_was_and_none_older_than_the_last_durable_one(
        seed in any::<u64>(),
        sessions in prop::collection::vec(
            (prop::collection::vec(store_step(), 0..60), crash(), any::<bool>()),
            1..6,
        ),
    ) {
        let world = World::new(seed);
        let shared = Arc::new(Mutex::new(History::default()));
        for (steps, crash, is_closed) in sessions.into_iter().chain([(Vec::new(), None, true)]) {
            if let Some(call) = crash {
                world.disk().crash_in(call);
            }
            let using = use_store(world.env(), steps, is_closed, Arc::clone(&shared));
            world.run_or_crash(using);
            world.power_cut();
        }
    }
}
