//! Verified files against a plain array of bytes, under crashes at every call and under rot.

use std::sync::{Arc, Mutex};

use hedgerow_env::{Env, Random};

use super::format::{Frame, PageEntry, Table, encode_frame, encode_table};
use super::{PAGE_BYTES, Reserve, VerifiedConfig, VerifiedError, VerifiedFile};
use crate::codec::{narrow, wide};
use crate::testing::World;

const PATH: &str = "pool/pages";

fn config() -> VerifiedConfig {
    VerifiedConfig {
        log_bytes: 64 << 10,
        dirty_bytes: 24 << 10,
    }
}

async fn open(env: Env) -> Result<VerifiedFile, VerifiedError> {
    VerifiedFile::open(&env, PATH, config()).await
}

fn content(file: &VerifiedFile) -> Result<Vec<u8>, VerifiedError> {
    let mut bytes = vec![0; narrow(file.len())];
    file.read(0, &mut bytes)?;
    Ok(bytes)
}

/// What the file must hold.
#[derive(Debug, Clone, Default)]
struct Model {
    /// As of the last sync that returned.
    synced: Vec<u8>,
    /// As of the sync under way, if one is.
    syncing: Option<Vec<u8>>,
    current: Vec<u8>,
}

fn change(
    file: &VerifiedFile,
    model: &mut Model,
    random: &mut Random,
) -> Result<(), VerifiedError> {
    if model.current.is_empty() || random.chance(1, 12) {
        let length = random.below(60 * wide(PAGE_BYTES));
        model.current.resize(narrow(length), 0);
        return file.set_len(length);
    }
    let offset = random.index(model.current.len());
    let length = random.index((model.current.len() - offset).min(20_000)) + 1;
    let mut data = vec![0; length];
    random.fill(&mut data);
    model.current[offset..offset + length].copy_from_slice(&data);
    file.write(wide(offset), &data)
}

/// Random changes and syncs; every so often everything is compared.
fn exercise(
    file: &VerifiedFile,
    shared: &Mutex<Model>,
    random: &mut Random,
) -> Result<(), VerifiedError> {
    let mut model = shared.lock().unwrap().clone();
    for _ in 0..300 {
        change(file, &mut model, random)?;
        if random.chance(1, 10) {
            assert_eq!(content(file)?, model.current);
        }
        if random.chance(1, 4) {
            model.syncing = Some(model.current.clone());
            *shared.lock().unwrap() = model.clone();
            file.sync()?;
            model.synced = model.current.clone();
            model.syncing = None;
            *shared.lock().unwrap() = model.clone();
        }
    }
    Ok(())
}

#[test]
fn it_behaves_like_an_array_of_bytes() {
    for seed in 0..10 {
        let world = World::new(seed);
        let env = world.env();
        world.run(async move {
            let file = open(env).await.unwrap();
            exercise(&file, &Mutex::default(), &mut Random::from_seed(seed)).unwrap();
        });
    }
}

#[test]
fn a_crash_at_any_call_leaves_exactly_a_synced_state() {
    for seed in 0..250 {
        let world = World::new(seed);
        let model = Arc::new(Mutex::new(Model::default()));
        for round in 0..3 {
            world.disk().crash_in((seed * 7 + round * 31) % 400 + 1);
            let (env, shared) = (world.env(), Arc::clone(&model));
            world.run_or_crash(async move {
                let Ok(file) = open(env).await else { return };
                let mut random = Random::from_seed(seed << 8 | round);
                exercise(&file, &shared, &mut random).ok();
            });
            world.power_cut();
            let env = world.env();
            let found = world.run(async move { content(&open(env).await.unwrap()).unwrap() });
            let mut model = model.lock().unwrap();
            let is_legal = found == model.synced || Some(&found) == model.syncing.as_ref();
            assert!(
                is_legal,
                "seed {seed} round {round}: neither the last sync nor the next"
            );
            *model = Model {
                synced: found.clone(),
                syncing: None,
                current: found,
            };
            world.power_cut();
        }
    }
}

/// A file of `pages` pages, page n filled with n, checkpointed by a reopen.
fn filled(world: &World, pages: u8) {
    let env = world.env();
    world.run(async move {
        let file = open(env.clone()).await.unwrap();
        file.set_len(u64::from(pages) * wide(PAGE_BYTES)).unwrap();
        for page in 0..pages {
            file.write(u64::from(page) * wide(PAGE_BYTES), &[page + 1; PAGE_BYTES])
                .unwrap();
        }
        file.sync().unwrap();
        drop(file);
        open(env).await.unwrap();
    });
}

#[test]
fn a_rotten_or_stale_page_is_a_typed_error_and_the_others_still_read() {
    let world = World::new(1);
    filled(&world, 8);
    world.disk().rot(PATH, 3 * 4096 + 17, 1);
    // A misdirected write: page 5 holds what belongs to page 4.
    world.disk().overwrite(PATH, 5 * 4096, &[5; PAGE_BYTES]);
    let env = world.env();
    world.run(async move {
        let file = open(env).await.unwrap();
        let mut page = vec![0; PAGE_BYTES];
        for number in [3, 5] {
            let read = file.read(number * 4096, &mut page);
            assert!(matches!(read, Err(VerifiedError::Mismatch { page, .. }) if page == number));
        }
        file.read(4 * 4096, &mut page).unwrap();
        assert_eq!(page, [5; PAGE_BYTES]);
        // A page is healed by writing it whole.
        file.write(3 * 4096, &[9; PAGE_BYTES]).unwrap();
        file.sync().unwrap();
        file.read(3 * 4096, &mut page).unwrap();
    });
}

#[test]
fn damage_to_a_synced_log_frame_is_told_from_a_torn_tail() {
    let world = World::new(2);
    filled(&world, 4);
    let env = world.env();
    world.run(async move {
        let file = open(env).await.unwrap();
        file.write(0, &[77; 10]).unwrap();
        file.sync().unwrap();
    });
    world.disk().rot(&format!("{PATH}.log"), 600, 1);
    let env = world.env();
    let error = world.run(async move { open(env).await.err() });
    assert!(
        matches!(error, Some(VerifiedError::Damaged { .. })),
        "{error:?}"
    );
}

#[test]
fn losing_the_newest_table_is_never_silent() {
    for both in [false, true] {
        let world = World::new(3);
        filled(&world, 4);
        let env = world.env();
        world.run(async move {
            let file = open(env).await.unwrap();
            file.write(0, &[77; 10]).unwrap();
            file.sync().unwrap();
        });
        // Three opens: generations 1, 2 and 3; the newest is in table 1.
        world.disk().rot(&format!("{PATH}.table1"), 20, 1);
        if both {
            world.disk().rot(&format!("{PATH}.table0"), 20, 1);
        }
        let env = world.env();
        let error = world.run(async move { open(env).await.err() });
        assert!(
            matches!(error, Some(VerifiedError::Damaged { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn opening_reads_the_table_and_not_the_pages() {
    let world = World::new(4);
    filled(&world, 50);
    // Every page is rotten: an open that walked them would notice.
    world.disk().rot(PATH, 0, 50 * PAGE_BYTES);
    let env = world.env();
    world.run(async move {
        let file = open(env).await.unwrap();
        assert!(file.read(0, &mut [0; 1]).is_err());
    });
}

#[test]
fn a_failed_sync_stops_the_file_and_a_full_disk_is_known_before_the_sync() {
    let world = World::new(5);
    filled(&world, 4);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let file = open(env).await.unwrap();
        disk.limit(disk.used());
        let refused = file.set_len(1 << 20);
        assert!(matches!(
            refused,
            Err(VerifiedError::Disk(hedgerow_env::DiskError::NoSpace { .. }))
        ));
        disk.limit(u64::MAX);
        assert_eq!(file.len(), 4 * 4096, "as it was");
        file.write(0, &[1]).unwrap();
        disk.fail_syncs(Some("pages"));
        assert!(matches!(file.sync(), Err(VerifiedError::Disk(_))));
        disk.fail_syncs(None);
        assert!(matches!(file.sync(), Err(VerifiedError::Stopped { .. })));
        assert!(matches!(
            file.read(0, &mut [0]),
            Err(VerifiedError::Stopped { .. })
        ));
    });
}

#[test]
fn a_reserve_is_given_up_before_a_file_is_refused_and_taken_again() {
    let world = World::new(6);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let reserve = Reserve::new(&env, "pool/reserve".to_owned(), 64 << 10);
        reserve.hold().await.unwrap();
        let kept = Some(reserve.clone());
        let file = VerifiedFile::open_with(&env, PATH, config(), kept)
            .await
            .unwrap();
        disk.limit(disk.used());
        file.set_len(4 << 12).unwrap();
        file.write(0, &[7; 4 << 12]).unwrap();
        file.sync().unwrap();
        assert!(!reserve.is_held());
        let mut held = vec![0; 4 << 12];
        file.read(0, &mut held).unwrap();
        assert_eq!(held, [7; 4 << 12]);
        // With nothing left the file says so, and what was synced stands.
        let refused = file.set_len(1 << 20);
        assert!(matches!(
            refused,
            Err(VerifiedError::Disk(hedgerow_env::DiskError::NoSpace { .. }))
        ));
        assert!(reserve.hold().await.is_err());
        disk.limit(disk.used() + (64 << 10));
        reserve.hold().await.unwrap();
        assert!(reserve.is_held());
        drop(file);
        let file = VerifiedFile::open(&env, PATH, config()).await.unwrap();
        assert_eq!(content(&file), Ok(held));
    });
}

#[test]
fn a_sync_without_room_stops_the_file_and_the_next_open_has_the_last_sync() {
    let world = World::new(7);
    filled(&world, 4);
    let (env, disk) = (world.env(), world.disk().clone());
    world.run(async move {
        let file = VerifiedFile::open(&env, PATH, config()).await.unwrap();
        let before = content(&file).unwrap();
        file.write(0, &[9; 2 << 12]).unwrap();
        // The log was emptied by the open, but keeps its length: fill that first.
        disk.limit(disk.used());
        let mut outcome = Ok(());
        let mut synced = before;
        for round in 0..100_u8 {
            file.write(0, &[round; 4 << 12]).unwrap();
            outcome = file.sync();
            if outcome.is_err() {
                break;
            }
            synced = content(&file).unwrap();
        }
        assert!(matches!(
            outcome,
            Err(VerifiedError::Disk(hedgerow_env::DiskError::NoSpace { .. }))
        ));
        assert!(matches!(file.sync(), Err(VerifiedError::Stopped { .. })));
        disk.limit(u64::MAX);
        drop(file);
        let file = VerifiedFile::open(&env, PATH, config()).await.unwrap();
        assert_eq!(content(&file), Ok(synced));
    });
}

#[test]
fn golden_bytes() {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let entry = PageEntry {
        checksum: 0x1122_3344_5566_7788,
        counter: 5,
    };
    let table = encode_table(&Table {
        generation: 3,
        length: 4096,
        entries: vec![entry],
    });
    let golden_table = [
        "48475054 41424c45 0100 0000 00100000 0300000000000000 0010000000000000",
        "0100000000000000 0000000000000000 8877665544332211 0500000000000000 5f20ba9e5899fd7b",
    ];
    assert_eq!(hex(&table), golden_table.concat().replace(' ', ""));
    let frame = encode_frame(&Frame {
        generation: 3,
        sequence: 2,
        synced: 1,
        length: 8192,
        cut: u64::MAX,
        commit: true,
        pages: vec![(1, entry)],
    });
    assert_eq!(frame.len(), 512);
    let golden_frame = [
        "4847504c 0100 0100 0300000000000000 0200000000000000 0100000000000000",
        "0020000000000000 ffffffffffffffff 01000000 00000000 fc65e28308c7791f",
        "0100000000000000 8877665544332211 0500000000000000",
    ];
    assert_eq!(hex(&frame[..88]), golden_frame.concat().replace(' ', ""));
}
