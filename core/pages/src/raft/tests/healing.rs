//! What damage does to a replica of a node that was down: its log is mended from the other members'
//! log stores or its own state, or its number is retired and a successor takes its place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_protocol::MemberId;

use super::super::log_record::Kind;
use super::damage::{Lying, damage, damage_sectors, records};
use super::world::{Cluster, GROUP, Node, PATIENCE, Registers};
use crate::raft::HostError;

type Model = BTreeMap<String, String>;

const STREAM: u64 = GROUP.0 as u64;

/// Too few for a snapshot: what is lost must come from peers.
async fn of_three_with(writes: u32, seed: u64) -> (Cluster, Model) {
    let cluster = Cluster::of_three(seed).await;
    let mut model = Model::new();
    for number in 0..writes {
        let (key, value) = (format!("key{:03}", number % 40), format!("value{number}"));
        cluster.write(&key, &value).await;
        model.insert(key, value);
    }
    cluster.converge(&model).await;
    // The journal's closing mark waits for idleness: from it on the newest record is no torn tail.
    tokio::time::sleep(Duration::from_millis(50)).await;
    (cluster, model)
}

fn entries(node: &Node) -> Vec<Lying> {
    records(&node.disk, STREAM, Kind::Entry)
}

fn entry_at(node: &Node, index: u64) -> Lying {
    let mut found = entries(node);
    found.retain(|lying| lying.header.index == index);
    found.pop().expect("the log holds it")
}

/// Waits until the replica of `node` runs.
async fn until_it_runs(node: &Node) {
    let wait = async {
        while node.host().replica(GROUP).is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ran = tokio::time::timeout(PATIENCE, wait).await;
    assert!(ran.is_ok(), "{:?}", node.host().damaged());
}

/// Waits until the replica of `node` is retired; answers why.
async fn until_it_is_retired(node: &Node) -> String {
    let wait = async {
        while node.host().retired().is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let retired = tokio::time::timeout(2 * PATIENCE, wait).await;
    let runs = node.host().replica(GROUP).is_some();
    assert!(retired.is_ok(), "it waits, or runs: {runs}");
    assert_eq!(node.host().retired(), [(GROUP, node.member(1).member)]);
    assert!(node.host().replica(GROUP).is_none());
    node.host().damaged().pop().expect("it is reported").reason
}

/// Replaces the retired member of node `at` as the group's leader does.
async fn replace(cluster: &Cluster, at: usize) {
    let leader = cluster.leader().await;
    let replica = cluster.nodes[leader].replica();
    let old = cluster.nodes[at].member(1).member;
    let mut voters = replica.leadership().voters;
    voters.retain(|voter| *voter != old);
    let without = voters.clone();
    let removing = Arc::clone(&replica);
    let removed = cluster.nodes[leader]
        .inside(async move { removing.change_voters(Vec::new(), without).await })
        .await;
    assert_eq!(removed, Ok(()));
    assert_eq!(cluster.nodes[at].host().forget(GROUP, old).await, Ok(()));
    cluster.nodes[at].start_replica(2, None).await;
    let new = cluster.nodes[at].member(2);
    voters.push(new.member);
    let added = cluster.nodes[leader]
        .inside(async move { replica.change_voters(vec![new], voters).await })
        .await;
    assert_eq!(added, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_entry_comes_back_from_a_peers_log() {
    let (mut cluster, model) = of_three_with(30, 21).await;
    let hurt = (cluster.leader().await + 1) % 3;
    cluster.nodes[hurt].power_cut().await;
    for index in [9, 10, 20] {
        let lying = entry_at(&cluster.nodes[hurt], index);
        damage(&cluster.nodes[hurt].disk, &lying);
    }
    cluster.nodes[hurt].start().await;
    until_it_runs(&cluster.nodes[hurt]).await;
    let term_voters = cluster.nodes[hurt].replica().leadership();
    assert_eq!(term_voters.voters.len(), 3);
    assert_eq!(
        cluster.nodes[hurt].replica().member().replica.0,
        1,
        "the same member"
    );
    cluster.converge(&model).await;
    assert!(cluster.nodes[hurt].host().damaged().is_empty());

    // What was refilled stays: the next start asks nobody.
    cluster.nodes[hurt].power_cut().await;
    for at in 0..3 {
        if at != hurt {
            cluster.nodes[at].power_cut().await;
        }
    }
    cluster.nodes[hurt].start().await;
    assert!(cluster.nodes[hurt].host().replica(GROUP).is_some());
}

#[tokio::test(start_paused = true)]
async fn two_of_three_damaged_in_different_records_mend_each_other_without_a_leader() {
    let (mut cluster, mut model) = of_three_with(30, 22).await;
    for node in &mut cluster.nodes {
        node.power_cut().await;
    }
    for (at, index) in [(0, 8), (1, 15)] {
        let lying = entry_at(&cluster.nodes[at], index);
        damage(&cluster.nodes[at].disk, &lying);
        let lying = entry_at(&cluster.nodes[at], index + 3);
        damage_sectors(&cluster.nodes[at].disk, &lying, 1);
    }
    // The third, which is whole, stays away.
    cluster.nodes[0].start().await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(
        cluster.nodes[0].host().replica(GROUP).is_none(),
        "nobody to ask"
    );
    assert!(cluster.nodes[0].host().retired().is_empty(), "it waits");
    cluster.nodes[1].start().await;
    until_it_runs(&cluster.nodes[0]).await;
    until_it_runs(&cluster.nodes[1]).await;
    cluster.converge(&model).await;
    cluster.write("after", "1").await;
    model.insert("after".into(), "1".into());
    cluster.nodes[2].start().await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_waits_for_entries_still_knows_what_it_lacks_after_restarts() {
    let (mut cluster, model) = of_three_with(30, 23).await;
    for node in &mut cluster.nodes {
        node.power_cut().await;
    }
    let lying = entries(&cluster.nodes[0]).pop().unwrap();
    let last = lying.header.index;
    damage(&cluster.nodes[0].disk, &lying);
    for _ in 0..3 {
        cluster.nodes[0].start().await;
        assert!(cluster.nodes[0].host().replica(GROUP).is_none());
        cluster.nodes[0].power_cut().await;
    }
    let notes = records(&cluster.nodes[0].disk, STREAM, Kind::Lost);
    assert!(
        notes.iter().all(|note| note.header.index == last),
        "{notes:?}"
    );
    assert!(!notes.is_empty());
    for node in &mut cluster.nodes {
        node.start().await;
    }
    until_it_runs(&cluster.nodes[0]).await;
    cluster.leader().await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn entries_that_the_own_state_covers_need_nobody() {
    let (mut cluster, model) = of_three_with(75, 24).await;
    for node in &mut cluster.nodes {
        node.power_cut().await;
    }
    let purged = records(&cluster.nodes[0].disk, STREAM, Kind::Purge).pop();
    let purged = purged.expect("a snapshot was made").header.index;
    let lying = entry_at(&cluster.nodes[0], purged + 2);
    damage(&cluster.nodes[0].disk, &lying);
    cluster.nodes[0].start().await;
    assert!(
        cluster.nodes[0].host().replica(GROUP).is_some(),
        "without any peer"
    );
    for node in &mut cluster.nodes[1..] {
        node.start().await;
    }
    cluster.leader().await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_vote_retires_the_number_and_a_successor_takes_its_place() {
    let (mut cluster, mut model) = of_three_with(30, 25).await;
    let hurt = (cluster.leader().await + 1) % 3;
    cluster.nodes[hurt].power_cut().await;
    let votes = records(&cluster.nodes[hurt].disk, STREAM, Kind::Vote);
    damage(&cluster.nodes[hurt].disk, votes.last().unwrap());
    cluster.nodes[hurt].start().await;
    let reason = until_it_is_retired(&cluster.nodes[hurt]).await;
    assert!(reason.contains("vote"), "{reason}");

    // It is retired for good, whatever is left of the evidence.
    cluster.nodes[hurt].power_cut().await;
    cluster.nodes[hurt].start().await;
    let node = &cluster.nodes[hurt];
    assert_eq!(node.host().retired(), [(GROUP, node.member(1).member)]);
    let old = node.member(1);
    let again = node
        .host()
        .start_replica(GROUP, old.clone(), Arc::new(Registers), None);
    let refusal = HostError::Retired {
        group: GROUP,
        member: old.member,
    };
    assert_eq!(again.await.map(drop), Err(refusal));

    replace(&cluster, hurt).await;
    assert!(cluster.nodes[hurt].host().retired().is_empty());
    cluster.write("after", "1").await;
    model.insert("after".into(), "1".into());
    cluster.converge(&model).await;
    let leader = cluster.leader().await;
    let voters: Vec<MemberId> = cluster.nodes[leader].replica().leadership().voters;
    assert_eq!(voters.len(), 3);
    assert!(!voters.contains(&old.member));
}

#[tokio::test(start_paused = true)]
async fn a_start_goes_on_to_its_end_though_its_caller_gave_up() {
    let cluster = Cluster::blank(1, 27).await;
    let (node, first) = (&cluster.nodes[0], cluster.nodes[0].member(1));
    let members = Some(vec![first.clone()]);
    let host = node.host();
    let starting = host.start_replica(GROUP, first, Arc::new(Registers), members);
    // Polled once, as by a request whose connection breaks then.
    assert!(futures_util::FutureExt::now_or_never(starting).is_none());
    until_it_runs(node).await;
}

#[tokio::test(start_paused = true)]
async fn two_that_lost_the_same_entry_wait_for_the_third() {
    let (mut cluster, model) = of_three_with(30, 26).await;
    for node in &mut cluster.nodes {
        node.power_cut().await;
    }
    for at in [0, 1] {
        let lying = entry_at(&cluster.nodes[at], 12);
        damage(&cluster.nodes[at].disk, &lying);
        cluster.nodes[at].start().await;
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    for node in &cluster.nodes[..2] {
        assert!(node.host().replica(GROUP).is_none());
        assert!(node.host().retired().is_empty());
    }
    cluster.nodes[2].start().await;
    until_it_runs(&cluster.nodes[0]).await;
    until_it_runs(&cluster.nodes[1]).await;
    cluster.leader().await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_nobody_has_retires_the_number() {
    let (mut cluster, _) = of_three_with(30, 28).await;
    for node in &mut cluster.nodes {
        node.power_cut().await;
        let lying = entry_at(node, 12);
        damage(&node.disk, &lying);
    }
    for node in &mut cluster.nodes {
        node.start().await;
    }
    for node in &cluster.nodes {
        // The first of them retires on the word of all others; the rest hear no more of it.
        let settled = async {
            while node.host().retired().is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, settled).await.is_ok() {
            let reason = until_it_is_retired(node).await;
            assert!(reason.contains("2 of 2 other members lack it"), "{reason}");
            assert!(!entries(node).is_empty(), "nothing is removed");
            return;
        }
    }
    panic!("nobody concluded that the entry is lost");
}

#[tokio::test(start_paused = true)]
async fn neighbouring_frames_that_are_lost_end_in_a_whole_replica_or_a_retired_one() {
    for (seed, index) in [(31, 6), (32, 14), (33, 22)] {
        let (mut cluster, model) = of_three_with(30, seed).await;
        let hurt = (cluster.leader().await + 1) % 3;
        cluster.nodes[hurt].power_cut().await;
        let lying = entry_at(&cluster.nodes[hurt], index);
        damage_sectors(&cluster.nodes[hurt].disk, &lying, 4);
        cluster.nodes[hurt].start().await;
        let node = &cluster.nodes[hurt];
        let settled = async {
            while node.host().replica(GROUP).is_none() && node.host().retired().is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(2 * PATIENCE, settled)
            .await
            .expect("it settles");
        if node.host().replica(GROUP).is_none() {
            replace(&cluster, hurt).await;
        }
        cluster.converge(&model).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_registration_is_written_again() {
    let (mut cluster, model) = of_three_with(10, 27).await;
    let hurt = (cluster.leader().await + 1) % 3;
    cluster.nodes[hurt].power_cut().await;
    let disk = &cluster.nodes[hurt].disk;
    // "node2:700" in the registration's payload, wherever it lies.
    let text = format!("node{}:700", hurt + 1).into_bytes();
    let mut struck = 0;
    for path in disk.paths("pool/journal/") {
        let bytes = disk.content(&path);
        for at in 0..bytes.len() - text.len() {
            // The registration alone lies before every entry of the log.
            if bytes[at..].starts_with(&text) && struck == 0 {
                disk.rot(&path, u64::try_from(at).unwrap(), text.len());
                struck += 1;
            }
        }
    }
    assert_eq!(struck, 1);
    cluster.nodes[hurt].start().await;
    assert!(cluster.nodes[hurt].host().damaged().is_empty());
    until_it_runs(&cluster.nodes[hurt]).await;
    assert_eq!(cluster.nodes[hurt].replica().member().replica.0, 1);
    cluster.converge(&model).await;
}
