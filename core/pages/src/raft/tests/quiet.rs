//! Groups that go quiet, and what has them tick again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::{Cluster, GROUP, PATIENCE};

type Model = BTreeMap<String, String>;

fn is_quiet(cluster: &Cluster, at: usize) -> bool {
    let host = cluster.nodes[at].host();
    let replica = host.0.running(GROUP);
    replica.is_some_and(|replica| replica.quiet.is_quiet())
}

/// Waits until the running replicas are quiet, or none is.
async fn until_all(cluster: &Cluster, quiet: bool) {
    let running = (0..cluster.nodes.len()).filter(|at| cluster.nodes[*at].runs());
    let running: Vec<usize> = running.collect();
    let wait = async {
        while !running.iter().all(|at| is_quiet(cluster, *at) == quiet) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, wait).await;
    assert!(done.is_ok(), "not all of {running:?} are quiet: {quiet}");
}

fn term(cluster: &Cluster, at: usize) -> u64 {
    cluster.nodes[at].replica().leadership().term
}

/// Where the leader is, without asking it anything: that would have it tick.
fn leader_of(cluster: &Cluster) -> usize {
    let leads = |at: &usize| cluster.nodes[*at].replica().leadership().is_leader;
    let leader = (0..cluster.nodes.len()).find(leads);
    leader.expect("a quiet group has a leader")
}

async fn write(cluster: &Cluster, model: &mut Model, key: &str) {
    cluster.write(key, "value").await;
    model.insert(key.to_owned(), "value".to_owned());
}

#[tokio::test(start_paused = true)]
async fn an_idle_group_goes_quiet_keeps_its_leader_and_takes_writes_at_once() {
    let cluster = Cluster::of_three(101).await;
    let mut model = Model::new();
    for round in 0..5 {
        write(&cluster, &mut model, &format!("key{round}")).await;
        until_all(&cluster, true).await;
        let leader = leader_of(&cluster);
        let before = term(&cluster, leader);
        // Many times an election's patience.
        tokio::time::sleep(Duration::from_secs(60)).await;
        until_all(&cluster, true).await;
        assert_eq!(leader_of(&cluster), leader);
        assert_eq!(term(&cluster, leader), before, "nobody stood for election");
    }
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_of_a_quiet_group_dies_the_others_elect_another() {
    for seed in 110..114 {
        let mut cluster = Cluster::of_three(seed).await;
        let mut model = Model::new();
        write(&cluster, &mut model, "before").await;
        until_all(&cluster, true).await;
        let leader = leader_of(&cluster);
        cluster.nodes[leader].power_cut().await;
        let began = tokio::time::Instant::now();
        write(&cluster, &mut model, "after").await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(8), "seed {seed}: {took:?}");
        cluster.nodes[leader].start().await;
        cluster.converge(&model).await;
        until_all(&cluster, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_with_a_member_away_ticks_and_goes_quiet_when_it_is_back() {
    let mut cluster = Cluster::of_three(121).await;
    let mut model = Model::new();
    write(&cluster, &mut model, "one").await;
    until_all(&cluster, true).await;
    let leader = leader_of(&cluster);
    let away = (leader + 1) % 3;
    let before = term(&cluster, leader);
    cluster.nodes[away].power_cut().await;
    until_all(&cluster, false).await;
    // Offers are made again and again meanwhile, and nobody is left without a leader over them.
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(leader_of(&cluster), leader);
    }
    assert_eq!(term(&cluster, leader), before, "nobody stood for election");
    cluster.nodes[away].start().await;
    until_all(&cluster, true).await;
    write(&cluster, &mut model, "two").await;
    cluster.converge(&model).await;
}
