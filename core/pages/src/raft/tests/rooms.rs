//! Disks that get full and have room again: replicas rest meanwhile, nodes live on.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt;
use hedgerow_disk::journal::{CopyForward, StreamTag};

use super::super::log_record::Kind;
use super::damage::{damage, records};
use super::world::{Cluster, GROUP, PATIENCE};

type Model = BTreeMap<String, String>;

/// Bytes of a value: some dozens of them make a state grow.
const VALUE_BYTES: usize = 6 << 10;

fn pair(number: u32) -> (String, String) {
    let value = format!("{number:06}").repeat(VALUE_BYTES / 6);
    (format!("key{number:04}"), value)
}

fn fill_up(cluster: &Cluster, at: usize) {
    let disk = &cluster.nodes[at].disk;
    disk.limit(disk.used());
}

fn rests(cluster: &Cluster, at: usize) -> bool {
    cluster.nodes[at].host().replica(GROUP).is_none()
}

/// Waits until the replica at `at` runs, or does not.
async fn until_it(cluster: &Cluster, at: usize, is_resting: bool) {
    let wait = async {
        while rests(cluster, at) != is_resting {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, wait).await;
    assert!(done.is_ok(), "node {at} rests: {}", !is_resting);
}

/// Writes new keys until the replica at `at` rests; the number after the last.
async fn write_until_rest(cluster: &Cluster, model: &mut Model, at: usize, from: u32) -> u32 {
    let mut number = from;
    while !rests(cluster, at) {
        let (key, value) = pair(number);
        cluster.write(&key, &value).await;
        model.insert(key, value);
        number += 1;
        assert!(number < from + 2_000, "the state never grew");
    }
    number
}

async fn write_some(cluster: &Cluster, model: &mut Model, range: std::ops::Range<u32>) {
    for number in range {
        let (key, value) = pair(number);
        cluster.write(&key, &value).await;
        model.insert(key, value);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_room_rests_and_comes_back_when_there_is_some() {
    let cluster = Cluster::of_three(41).await;
    let mut model = Model::new();
    write_some(&cluster, &mut model, 0..8).await;
    for at in 0..3 {
        fill_up(&cluster, at);
        let after = write_until_rest(&cluster, &mut model, at, 100 * 100 * (1 + to_u32(at))).await;
        let damaged = cluster.nodes[at].host().damaged();
        assert!(damaged[0].reason.contains("no space"), "{damaged:?}");
        assert!(!damaged[0].is_lost);
        // The others go on; and it stays away for as long as there is no room.
        write_some(&cluster, &mut model, after..after + 30).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(cluster.nodes[at].halted(), None, "its node lives on");
        cluster.nodes[at].disk.limit(u64::MAX);
        until_it(&cluster, at, false).await;
        cluster.converge(&model).await;
        assert!(cluster.nodes[at].host().damaged().is_empty());
    }
}

fn to_u32(at: usize) -> u32 {
    u32::try_from(at).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_outlives_full_disks_everywhere() {
    for seed in 50..58 {
        let mut cluster = Cluster::of_three(seed).await;
        let mut model = Model::new();
        write_some(&cluster, &mut model, 0..20).await;
        for at in 0..3 {
            fill_up(&cluster, at);
        }
        let mut number = 1_000;
        // Until no majority has room any more.
        while (0..3).filter(|at| rests(&cluster, *at)).count() < 2 {
            let (key, value) = pair(number);
            for at in 0..3 {
                if !rests(&cluster, at) && cluster.propose_at(at, &key, &value).await.is_ok() {
                    model.insert(key, value);
                    break;
                }
            }
            number += 1;
            assert!(number < 4_000, "the states never grew");
        }
        assert!((0..3).all(|at| cluster.nodes[at].halted().is_none()));
        if seed % 2 == 0 {
            // The power fails while they rest.
            cluster.nodes[0].power_cut().await;
            cluster.nodes[0].disk.limit(u64::MAX);
            cluster.nodes[0].start().await;
        }
        for at in 0..3 {
            cluster.nodes[at].disk.limit(u64::MAX);
        }
        for at in 0..3 {
            until_it(&cluster, at, false).await;
        }
        write_some(&cluster, &mut model, 5_000..5_020).await;
        let held = cluster.nodes[0].contents().await;
        for (key, value) in &model {
            assert_eq!(held.get(key), Some(value), "seed {seed}: {key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_resting_replica_can_be_retired() {
    let cluster = Cluster::of_three(71).await;
    let mut model = Model::new();
    write_some(&cluster, &mut model, 0..8).await;
    fill_up(&cluster, 2);
    write_until_rest(&cluster, &mut model, 2, 100).await;
    let host = cluster.nodes[2].shared_host();
    let retired = cluster.nodes[2].inside(async move { host.retire_replica(GROUP).await });
    assert_eq!(retired.await, Ok(()));
    cluster.nodes[2].disk.limit(u64::MAX);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(rests(&cluster, 2), "a retired number never runs again");
}

#[tokio::test(start_paused = true)]
async fn copying_that_is_aborted_half_way_keeps_no_segment() {
    let cluster = Cluster::of_three(81).await;
    let mut model = Model::new();
    write_some(&cluster, &mut model, 0..8).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (node, stream) = (&cluster.nodes[1], StreamTag::raft(GROUP));
    let log = node.shared_host().0.running(GROUP).unwrap().log.clone();
    let before = log.journal.live_positions(stream).len();
    for _ in 0..3 {
        // As when the replica comes to rest: the copies are written, and who wrote them is gone.
        let positions = log.journal.live_positions(stream);
        let freeing = log.free_segment(CopyForward { stream, positions }, async {});
        assert!(freeing.now_or_never().is_none(), "no copy is durable yet");
        assert!(log.journal.live_positions(stream).len() > before);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(log.journal.live_positions(stream).len(), before);
    // The journal goes round, twice.
    let passing = node.pass_through_journal(4 << 20);
    let passed = tokio::time::timeout(PATIENCE, passing).await;
    assert!(passed.is_ok(), "a segment is never freed");
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_starts_on_a_full_disk_and_its_replica_comes_back_when_there_is_room() {
    let mut rested = 0;
    for seed in 90..94 {
        let mut cluster = Cluster::of_three(seed).await;
        let mut model = Model::new();
        write_some(&cluster, &mut model, 0..8).await;
        fill_up(&cluster, 2);
        let after = write_until_rest(&cluster, &mut model, 2, 100).await;
        cluster.nodes[2].power_cut().await;
        // Not even what it had in reserve is left.
        cluster.nodes[2].disk.limit(0);
        cluster.nodes[2].start().await;
        // A state that lost what was not synced may open in the room that it has.
        if rests(&cluster, 2) {
            rested += 1;
            let damaged = cluster.nodes[2].host().damaged();
            assert!(damaged[0].reason.contains("no space"), "{damaged:?}");
            assert!(!damaged[0].is_lost);
        }
        // Its log stays, and keeps no segment from being freed.
        let passing = cluster.nodes[2].pass_through_journal(4 << 20);
        let passed = tokio::time::timeout(PATIENCE, passing).await;
        assert!(passed.is_ok(), "seed {seed}: a segment is never freed");
        write_some(&cluster, &mut model, after..after + 30).await;
        if seed % 2 == 0 {
            // Once more, with its log copied forward.
            cluster.nodes[2].power_cut().await;
            cluster.nodes[2].start().await;
        }
        assert_eq!(cluster.nodes[2].halted(), None);
        cluster.nodes[2].disk.limit(u64::MAX);
        until_it(&cluster, 2, false).await;
        cluster.converge(&model).await;
        assert!(cluster.nodes[2].host().damaged().is_empty());
    }
    assert!(rested > 0, "no state wanted room when it was opened");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_log_on_a_full_disk_is_judged_when_there_is_room() {
    let mut waited = 0;
    for seed in 90..94 {
        let mut cluster = Cluster::of_three(seed).await;
        let mut model = Model::new();
        write_some(&cluster, &mut model, 0..8).await;
        fill_up(&cluster, 2);
        let after = write_until_rest(&cluster, &mut model, 2, 100).await;
        // The closing mark: from it on the newest record is no torn tail.
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.nodes[2].power_cut().await;
        cluster.nodes[2].disk.limit(0);
        let stream = u64::from(GROUP.0);
        let entries = records(&cluster.nodes[2].disk, stream, Kind::Entry);
        damage(&cluster.nodes[2].disk, &entries[entries.len() - 2]);
        cluster.nodes[2].start().await;
        let damaged = cluster.nodes[2].host().damaged();
        let waits = damaged
            .first()
            .is_some_and(|one| one.reason.contains("log is damaged"));
        waited += u32::from(waits);
        write_some(&cluster, &mut model, after..after + 10).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(cluster.nodes[2].halted(), None);
        cluster.nodes[2].disk.limit(u64::MAX);
        until_it(&cluster, 2, false).await;
        cluster.converge(&model).await;
        assert!(cluster.nodes[2].host().damaged().is_empty());
        // It has let go of what it kept: the journal goes round.
        let passing = cluster.nodes[2].pass_through_journal(4 << 20);
        let passed = tokio::time::timeout(PATIENCE, passing).await;
        assert!(passed.is_ok(), "seed {seed}: a segment is never freed");
    }
    assert!(waited > 0, "no log had to wait");
}
