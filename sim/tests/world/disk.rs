//! The disk: what a sync promises, what a power loss leaves, and each fault.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{DiskError, Env, File, OpenMode};
use hedgerow_sim::world::{
    Crash, DiskArea, DiskCall, DiskCallId, DiskFault, DiskFaults, DiskSpec, FaultAction,
    FaultNumber, NodeIndex, SECTOR_BYTES, Strike, Survival, SyncMode, World, WorldConfig,
};

use crate::{check, check_with, nodes};

const SECTOR: usize = 512;

async fn create(env: &Env, path: &str) -> Arc<dyn File> {
    env.disk()
        .open(path, OpenMode::Create)
        .await
        .expect("the disk works")
}

async fn open(env: &Env, path: &str) -> Arc<dyn File> {
    env.disk()
        .open(path, OpenMode::Existing)
        .await
        .expect("the file exists")
}

async fn write(file: &Arc<dyn File>, offset: u64, byte: u8, length: usize) {
    let parts = vec![Bytes::from(vec![byte; length])];
    file.write_at(offset, parts).await.expect("the disk works");
}

/// A file `f` of 8 KiB of ones, durable with its name.
async fn durable_ones(world: &World) -> (NodeIndex, Env, Arc<dyn File>) {
    let [a] = nodes(world);
    let env = world.start_idle(a);
    let file = create(&env, "f").await;
    write(&file, 0, 1, 8_192).await;
    file.sync().await.expect("honest");
    env.disk().sync_directory("").await.expect("honest");
    (a, env, file)
}

fn surviving(world: &World, node: NodeIndex, survival: Survival) {
    let faults = DiskFaults {
        survival: Some(survival),
        ..world.disk_faults(node)
    };
    world.set_disk_faults(node, faults);
}

async fn contents(env: &Env, path: &str) -> Vec<u8> {
    let file = open(env, path).await;
    let length = usize::try_from(file.length().await.expect("open")).expect("small");
    file.read_at(0, length)
        .await
        .expect("the disk works")
        .to_vec()
}

#[test]
fn what_was_synced_survives_every_power_loss() {
    for seed in 0..40 {
        check(seed, |world| async move {
            let (a, _, file) = durable_ones(&world).await;
            write(&file, 100, 2, 3_000).await;
            world.crash(a, Crash::POWER);
            let left = contents(&world.restart(a), "f").await;
            assert_eq!(left.len(), 8_192);
            assert!(
                left[..100]
                    .iter()
                    .chain(&left[3_100..])
                    .all(|byte| *byte == 1)
            );
        });
    }
}

#[test]
fn unsynced_sectors_are_each_old_or_new_and_every_way_occurs() {
    let mut ways = BTreeSet::new();
    for seed in 0..60 {
        let left = check(seed, |world| async move {
            let (a, _, file) = durable_ones(&world).await;
            write(&file, 256, 2, 1_024).await;
            write(&file, 4_096, 3, 512).await;
            world.crash(a, Crash::POWER);
            contents(&world.restart(a), "f").await
        });
        // The write at 256 falls into three sectors: each part is whole or absent.
        for part in [256..512, 512..1_024, 1_024..1_280, 4_096..4_608] {
            assert!(
                left[part.clone()]
                    .iter()
                    .all(|byte| *byte == left[part.start])
            );
        }
        ways.insert([left[256], left[512], left[1_024], left[4_096]]);
    }
    assert!(ways.contains(&[1, 1, 1, 1]) && ways.contains(&[2, 2, 2, 3]));
    assert!(
        ways.iter().any(|way| way[0] != way[1] || way[1] != way[2]),
        "torn: {ways:?}"
    );
    assert!(
        ways.contains(&[1, 1, 1, 3]),
        "the later write without the earlier: {ways:?}"
    );
}

#[test]
fn a_write_in_flight_may_leave_any_part() {
    let mut kept = BTreeSet::new();
    for seed in 0..60 {
        let count = check(seed, |world| async move {
            let (a, env, file) = durable_ones(&world).await;
            let writing = Arc::clone(&file);
            env.spawn("writing", async move { write(&writing, 0, 2, 4_096).await });
            world.sleep(Duration::from_micros(1)).await;
            world.crash(a, Crash::POWER);
            let left = contents(&world.restart(a), "f").await;
            left[..4_096]
                .chunks(SECTOR)
                .filter(|sector| sector[0] == 2)
                .count()
        });
        kept.insert(count);
    }
    assert!(
        kept.contains(&0) && kept.contains(&8) && kept.len() > 4,
        "{kept:?}"
    );
}

#[test]
fn a_sync_covers_only_what_completed_before_it_began() {
    check(3, |world| async move {
        let (a, env, file) = durable_ones(&world).await;
        surviving(&world, a, Survival::Nothing);
        write(&file, 0, 2, 512).await;
        let (syncing, writing) = (Arc::clone(&file), Arc::clone(&file));
        env.spawn(
            "writing",
            async move { write(&writing, 4_096, 3, 512).await },
        );
        world.sleep(Duration::from_micros(1)).await;
        syncing.sync().await.expect("honest");
        world.crash(a, Crash::POWER);
        let left = contents(&world.restart(a), "f").await;
        assert_eq!((left[0], left[4_096]), (2, 1));
    });
}

#[test]
fn overlapping_writes_of_one_page_are_hardened_apart() {
    check(4, |world| async move {
        let (a, _, file) = durable_ones(&world).await;
        surviving(&world, a, Survival::Nothing);
        write(&file, 0, 2, 1_000).await;
        let syncing = Arc::clone(&file);
        let sync = madsim::task::spawn(async move { syncing.sync().await });
        world.sleep(Duration::from_micros(1)).await;
        write(&file, 500, 3, 1_000).await;
        sync.await.expect("runs").expect("honest");
        let seen = file.read_at(0, 2_000).await.expect("the disk works");
        assert_eq!(
            (seen[499], seen[500], seen[1_499], seen[1_500]),
            (2, 3, 3, 1)
        );
        world.crash(a, Crash::POWER);
        let left = contents(&world.restart(a), "f").await;
        assert_eq!((left[499], left[500], left[999], left[1_000]), (2, 2, 2, 1));
    });
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    check(5, |world| async move {
        let (a, _, file) = durable_ones(&world).await;
        write(&file, 0, 2, 4_096).await;
        world.crash(a, Crash::KILL);
        let env = world.restart(a);
        assert_eq!(contents(&env, "f").await[0], 2);
        // It is still not durable: a later power loss may take it.
        surviving(&world, a, Survival::Nothing);
        world.crash(a, Crash::POWER);
        assert_eq!(contents(&world.restart(a), "f").await[0], 1);
    });
}

#[test]
fn names_are_durable_only_after_a_sync_of_their_directory() {
    check(6, |world| async move {
        let (a, env, _) = durable_ones(&world).await;
        surviving(&world, a, Survival::Nothing);
        let disk = env.disk();
        let file = create(&env, "d/new").await;
        write(&file, 0, 5, 10).await;
        file.sync().await.expect("honest");
        disk.rename("f", "d/moved").await.expect("exists");
        assert_eq!(disk.list("").await, Ok(vec!["d".to_owned()]));
        assert_eq!(
            disk.list("d").await,
            Ok(vec!["moved".to_owned(), "new".to_owned()])
        );
        world.crash(a, Crash::POWER);
        let env = world.restart(a);
        assert_eq!(env.disk().list("").await, Ok(vec!["f".to_owned()]));

        let file = create(&env, "d/new").await;
        write(&file, 0, 5, 10).await;
        file.sync().await.expect("honest");
        env.disk().rename("f", "d/moved").await.expect("exists");
        env.disk().sync_directory("d").await.expect("honest");
        env.disk().remove("d/moved").await.expect("exists");
        world.crash(a, Crash::POWER);
        let env = world.restart(a);
        assert_eq!(env.disk().list("").await, Ok(vec!["d".to_owned()]));
        assert_eq!(contents(&env, "d/new").await, [5; 10]);
        assert_eq!(contents(&env, "d/moved").await, [1; 8_192]);
    });
}

#[test]
fn a_rename_at_a_crash_leaves_the_old_file_or_the_new_one_whole() {
    let mut ways = BTreeSet::new();
    for seed in 0..30 {
        let left = check(seed, |world| async move {
            let (a, env, _) = durable_ones(&world).await;
            let file = create(&env, "f.next").await;
            write(&file, 0, 2, 8_192).await;
            file.sync().await.expect("honest");
            env.disk().sync_directory("").await.expect("honest");
            env.disk().rename("f.next", "f").await.expect("exists");
            world.crash(a, Crash::POWER);
            contents(&world.restart(a), "f").await
        });
        assert!(left == [1; 8_192] || left == [2; 8_192]);
        ways.insert(left[0]);
    }
    assert_eq!(ways.len(), 2, "both happen");
}

#[test]
fn lengths_are_synced_with_the_file_and_preallocation_is_free() {
    check(7, |world| async move {
        let (a, env, file) = durable_ones(&world).await;
        surviving(&world, a, Survival::Nothing);
        let free = env.disk().free_bytes("").await.expect("works");
        file.resize(64 << 20).await.expect("fits");
        assert_eq!(
            env.disk().free_bytes("").await,
            Ok(free - (64 << 20) + 8_192)
        );
        file.sync().await.expect("honest");
        file.resize(10).await.expect("fits");
        file.resize(8_192).await.expect("fits");
        assert_eq!(
            file.read_at(0, 12).await.expect("works").as_ref(),
            [[1; 10].as_slice(), &[0; 2]].concat()
        );
        world.crash(a, Crash::POWER);
        let file = open(&world.restart(a), "f").await;
        assert_eq!(file.length().await, Ok(64 << 20));
        assert_eq!(
            file.read_at(8_190, 4).await.expect("works").as_ref(),
            [1, 1, 0, 0]
        );
        assert_eq!(
            file.read_at((64 << 20) - 2, 9)
                .await
                .expect("works")
                .as_ref(),
            [0, 0]
        );
    });
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else() {
    let mut config = WorldConfig::new(8);
    config.disk = DiskSpec {
        capacity_bytes: 16_384,
        ..DiskSpec::default()
    };
    check_with(config, |world| async move {
        let (_, env, file) = durable_ones(&world).await;
        let full = file
            .write_at(8_192, vec![Bytes::from(vec![2; 9_000])])
            .await;
        assert!(matches!(full, Err(DiskError::NoSpace { .. })));
        assert!(matches!(
            file.resize(20_000).await,
            Err(DiskError::NoSpace { .. })
        ));
        assert_eq!(file.length().await, Ok(8_192));
        write(&file, 8_192, 2, 8_192).await;
        write(&file, 0, 3, 8_192).await;
        env.disk().remove("f").await.expect("exists");
        assert_eq!(env.disk().free_bytes("").await, Ok(16_384));
    });
}

/// What reading, writing and syncing report under `faults`.
async fn outcomes(world: &World, faults: DiskFaults) -> [bool; 3] {
    let (a, _, file) = durable_ones(world).await;
    world.set_disk_faults(a, faults);
    let written = file.write_at(0, vec![Bytes::from(vec![2; 512])]).await;
    [
        file.read_at(0, 512).await.is_ok(),
        written.is_ok(),
        file.sync().await.is_ok(),
    ]
}

#[test]
fn calls_fail_as_asked() {
    let always = 1_000_000;
    let none = DiskFaults::default();
    for (faults, expected) in [
        (none, [true, true, true]),
        (
            DiskFaults {
                read_error_ppm: always,
                ..none
            },
            [false, true, true],
        ),
        (
            DiskFaults {
                write_error_ppm: always,
                ..none
            },
            [true, false, true],
        ),
        (
            DiskFaults {
                sync_error_ppm: always,
                ..none
            },
            [true, true, false],
        ),
        (
            DiskFaults {
                sync: SyncMode::Fail,
                ..none
            },
            [true, true, false],
        ),
        (DiskFaults { lost: true, ..none }, [false, false, false]),
    ] {
        let got = check(
            9,
            move |world| async move { outcomes(&world, faults).await },
        );
        assert_eq!(got, expected, "{faults:?}");
    }
}

#[test]
fn after_a_failed_sync_later_ones_lie() {
    for mode in [SyncMode::FailThenLie, SyncMode::Honest] {
        check(10, move |world| async move {
            let (a, _, file) = durable_ones(&world).await;
            write(&file, 0, 2, 512).await;
            let sync_error_ppm = if mode == SyncMode::Honest {
                1_000_000
            } else {
                0
            };
            let faults = DiskFaults {
                sync: mode,
                sync_error_ppm,
                ..DiskFaults::default()
            };
            world.set_disk_faults(a, faults);
            assert!(file.sync().await.is_err());
            if mode == SyncMode::Honest {
                world.set_disk_faults(a, DiskFaults::default());
            }
            // The page is clean in the cache's eyes: this sync has nothing to do.
            file.sync().await.expect("it reports success");
            surviving(&world, a, Survival::Nothing);
            world.crash(a, Crash::POWER);
            assert_eq!(contents(&world.restart(a), "f").await[0], 1);
        });
    }
}

#[test]
fn phantom_misdirected_stale_and_flipping() {
    check(11, |world| async move {
        let (a, _, file) = durable_ones(&world).await;
        let none = DiskFaults::default();
        world.set_disk_faults(
            a,
            DiskFaults {
                phantom_write_ppm: 1_000_000,
                ..none
            },
        );
        write(&file, 0, 2, 512).await;
        world.set_disk_faults(a, none);
        assert_eq!(file.read_at(0, 1).await.expect("works")[0], 1, "phantom");

        let id = DiskCallId {
            disk: "a".to_owned(),
            path: "f".to_owned(),
            call: DiskCall::Write,
            number: 2,
        };
        world.script(Strike::Disk(id, DiskFault::Misdirect { sector: 5 }));
        write(&file, 0, 3, 512).await;
        let all = file.read_at(0, 8_192).await.expect("works");
        let first = all
            .iter()
            .position(|byte| *byte == 3)
            .expect("it landed somewhere");
        assert_eq!(
            u64::try_from(first).expect("small"),
            5 * SECTOR_BYTES,
            "misdirected"
        );

        write(&file, 0, 4, 512).await;
        world.set_disk_faults(
            a,
            DiskFaults {
                stale_read_ppm: 1_000_000,
                ..none
            },
        );
        assert_eq!(file.read_at(0, 1).await.expect("works")[0], 1, "stale");
        world.set_disk_faults(
            a,
            DiskFaults {
                flip_on_read_ppm: 1_000_000,
                ..none
            },
        );
        let flipped = file.read_at(0, 512).await.expect("works");
        let wrong: u32 = flipped.iter().map(|byte| (byte ^ 4).count_ones()).sum();
        assert_eq!(wrong, 1);
        world.set_disk_faults(a, none);
        assert_eq!(
            file.read_at(0, 512).await.expect("works").as_ref(),
            [4; 512]
        );
        assert_eq!(world.take_strikes().len(), 4);
    });
}

#[test]
fn bits_rot_on_the_medium() {
    check(12, |world| async move {
        let (a, _, file) = durable_ones(&world).await;
        assert!(world.rot(a, "/f", 5_000, 3));
        assert_eq!(file.read_at(5_000, 1).await.expect("works")[0], 1 ^ 8);
        assert!(
            !world.rot(a, "f", 1 << 20, 0),
            "nothing was ever written there"
        );
        world.crash(a, Crash::POWER);
        assert!(world.rot_somewhere(a, DiskArea::Everything, 77));
        let left = contents(&world.restart(a), "f").await;
        assert_eq!(
            left.iter().filter(|byte| **byte != 1).count(),
            2,
            "both flips are durable"
        );
    });
}

#[test]
fn slow_and_stuck_disks_take_their_time() {
    check(13, |world| async move {
        let (a, env, file) = durable_ones(&world).await;
        let began = env.now();
        file.read_at(0, 512).await.expect("works");
        let normal = env.now().since(began);
        world.set_disk_faults(
            a,
            DiskFaults {
                slow_factor: 100,
                ..DiskFaults::default()
            },
        );
        let began = env.now();
        file.read_at(0, 512).await.expect("works");
        assert!(env.now().since(began) > normal * 50);

        world.set_disk_faults(
            a,
            DiskFaults {
                stuck: true,
                ..DiskFaults::default()
            },
        );
        let stuck = file.sync();
        assert!(env.timeout(Duration::from_secs(60), stuck).await.is_err());
        let stuck = file.sync();
        let healed = world.clone();
        world.spawn(async move {
            healed.sleep(Duration::from_secs(5)).await;
            healed.set_disk_faults(a, DiskFaults::default());
        });
        assert_eq!(env.timeout(Duration::from_secs(6), stuck).await, Ok(Ok(())));
    });
}

#[test]
fn disks_are_wiped_imaged_restored_and_moved() {
    check(14, |world| async move {
        let (a, _, file) = durable_ones(&world).await;
        let b = world.add_node(hedgerow_sim::world::NodeSpec::new("b", "r", "d"));
        let old = world.disk_image(a);
        write(&file, 0, 2, 8_192).await;
        file.sync().await.expect("honest");
        assert!(!world.restore_disk(a, &old), "the node is up");
        world.crash(a, Crash::POWER);
        let new = world.disk_image(a);
        assert!(world.restore_disk(a, &old));
        assert_eq!(contents(&world.restart(a), "f").await, [1; 8_192]);
        assert!(world.restore_disk(b, &new), "moved to another node");
        assert_eq!(contents(&world.start_idle(b), "f").await, [2; 8_192]);
        world.crash(a, Crash::POWER);
        assert!(world.wipe_disk(a));
        assert_eq!(world.restart(a).disk().list("").await, Ok(Vec::new()));
    });
}

#[test]
fn a_node_crashes_at_its_nth_disk_call() {
    for calls in 1..=4 {
        check(15, move |world| async move {
            let (a, env, file) = durable_ones(&world).await;
            surviving(&world, a, Survival::Nothing);
            world.crash_after_calls(a, calls, Crash::POWER);
            env.spawn("writing", async move {
                for byte in 2.. {
                    write(&file, 0, byte, 512).await;
                    file.sync().await.expect("honest");
                }
            });
            world.wait_down(a).await;
            let left = contents(&world.restart(a), "f").await[0];
            // Calls 1 and 3 are writes, 2 and 4 the syncs that did not come back.
            assert_eq!(
                left,
                if calls <= 2 { 1 } else { 2 },
                "crash at call {calls}"
            );
        });
    }
}

#[test]
fn a_blocking_job_crashes_at_any_call_and_then_writes_nothing() {
    let mut ways = BTreeSet::new();
    for calls in 1..=6 {
        let left = check(16, move |world| async move {
            let (a, env, _) = durable_ones(&world).await;
            surviving(&world, a, Survival::Everything);
            world.crash_after_calls(a, calls, Crash::POWER);
            let disk = env.disk_handle();
            let task = env.clone();
            env.spawn("job", async move {
                let ended = task
                    .blocking("job", move || {
                        let file = disk.open_blocking("f", OpenMode::Existing)?;
                        file.write_at(0, &[2; 512])?;
                        file.sync()?;
                        file.write_at(0, &[3; 512])?;
                        file.sync()
                    })
                    .await;
                assert_eq!(ended, Ok(()), "a job that crashed never comes back");
            });
            world.sleep(Duration::from_secs(1)).await;
            world.crash(a, Crash::POWER);
            contents(&world.restart(a), "f").await[0]
        });
        ways.insert((calls, left));
    }
    let expected = [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 3)];
    assert_eq!(ways, BTreeSet::from(expected));
}

#[test]
fn a_blocking_job_takes_the_time_of_its_calls() {
    check(17, |world| async move {
        let (_, env, _) = durable_ones(&world).await;
        let began = env.now();
        let disk = env.disk_handle();
        let error = env
            .blocking("job", move || {
                let file = disk.open_blocking("g", OpenMode::CreateNew)?;
                file.write_at(0, &[2; 512])?;
                file.sync()?;
                assert_eq!(file.length(), Ok(512));
                let mut buffer = [0; 512];
                file.read_at(0, &mut buffer)?;
                assert_eq!(buffer, [2; 512]);
                file.read_at(1, &mut buffer)
            })
            .await;
        assert!(
            matches!(error, Err(DiskError::Device { .. })),
            "past the end: {error:?}"
        );
        let took = env.now().since(began);
        assert!((500..1_500).contains(&took.as_micros()), "{took:?}");
        let again = env.disk().open("g", OpenMode::CreateNew).await;
        assert!(matches!(again, Err(DiskError::AlreadyExists { .. })));
        let missing = env.disk().open("h", OpenMode::Existing).await;
        assert!(matches!(missing, Err(DiskError::NotFound { .. })));
    });
}

#[test]
fn a_disk_that_failed_a_call_is_known_until_the_next_start() {
    check(60, |world| async move {
        let (a, _env, file) = durable_ones(&world).await;
        assert!(!world.disk_failed(a));
        world.set_disk_faults(
            a,
            DiskFaults {
                capacity_bytes: Some(0),
                ..DiskFaults::default()
            },
        );
        let full = file.resize(1 << 20).await;
        assert!(matches!(full, Err(DiskError::NoSpace { .. })), "{full:?}");
        assert!(!world.disk_failed(a), "a full disk works");
        world.set_disk_faults(
            a,
            DiskFaults {
                sync: SyncMode::Fail,
                ..DiskFaults::default()
            },
        );
        assert!(file.sync().await.is_err());
        world.set_disk_faults(a, DiskFaults::default());
        assert!(world.disk_failed(a));
        assert!(world.crash(a, Crash::KILL));
        assert!(world.disk_failed(a), "it may be why the node is down");
        world.start_idle(a);
        assert!(!world.disk_failed(a));
    });
}

#[test]
fn faults_that_stand_are_ended_one_by_one() {
    check(31, |world| async move {
        let (a, _env, file) = durable_ones(&world).await;
        let begin = |number, faults| {
            let deed = Box::new(FaultAction::Disk(a, faults));
            assert!(world.apply(&FaultAction::Begin(FaultNumber(number), deed)));
        };
        let failing = DiskFaults {
            read_error_ppm: 1_000_000,
            area: DiskArea::Extents,
            ..DiskFaults::default()
        };
        let scarce = DiskFaults {
            capacity_bytes: Some(1),
            slow_factor: 3,
            ..DiskFaults::default()
        };
        begin(1, failing);
        begin(2, scarce);
        begin(
            3,
            DiskFaults {
                slow_factor: 7,
                ..failing
            },
        );
        let all = world.disk_faults(a);
        assert_eq!((all.capacity_bytes, all.slow_factor), (Some(1), 7));
        // Each rate strikes its own files: nothing lies in the folder of extents.
        assert!(file.read_at(0, 1).await.is_ok());
        assert!(world.apply(&FaultAction::End(FaultNumber(3))));
        assert_eq!(world.disk_faults(a).slow_factor, 3);
        assert!(world.apply(&FaultAction::End(FaultNumber(2))));
        // Which files a rate strikes, each fault knows by itself.
        let area = DiskArea::Everything;
        let left = DiskFaults { area, ..failing };
        assert_eq!(world.disk_faults(a), left);
        assert!(
            !world.apply(&FaultAction::End(FaultNumber(2))),
            "it has ended"
        );
        world.end_all_standing();
        assert_eq!(world.disk_faults(a), DiskFaults::default());
    });
}

#[test]
fn a_misplaced_write_lands_in_another_file_that_has_room_for_it() {
    check(12, |world| async move {
        let (a, env, file) = durable_ones(&world).await;
        let small = create(&env, "small").await;
        write(&small, 0, 2, SECTOR).await;
        let other = create(&env, "other").await;
        write(&other, 0, 3, 4 * SECTOR).await;
        let id = DiskCallId {
            disk: "a".to_owned(),
            path: "f".to_owned(),
            call: DiskCall::Write,
            number: 1,
        };
        world.script(Strike::Disk(id, DiskFault::Misplace { choice: 2 }));
        write(&file, 0, 4, 2 * SECTOR).await;
        assert_eq!(contents(&env, "f").await, [1; 8_192], "it is missing here");
        assert_eq!(contents(&env, "small").await, [2; SECTOR]);
        let landed = [[3; SECTOR], [3; SECTOR], [4; SECTOR], [4; SECTOR]].concat();
        assert_eq!(contents(&env, "other").await, landed);
        // There is no other file with so much room: it is lost.
        world.set_disk_faults(
            a,
            DiskFaults {
                misplaced_write_ppm: 1_000_000,
                ..DiskFaults::default()
            },
        );
        write(&file, 0, 5, 8 * SECTOR).await;
        world.set_disk_faults(a, DiskFaults::default());
        assert_eq!(contents(&env, "f").await, [1; 8_192]);
        assert_eq!(contents(&env, "other").await, landed);
    });
}
