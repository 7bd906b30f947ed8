//! What a group promises: elections, replication, restarts, snapshots, members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{GroupId, HaltReason};
use hedgerow_net::testing::Faults;
use hedgerow_net::{CallError, Message, Peer, RefusalCode, ServiceId};
use hedgerow_protocol::{MemberId, SERVICE_RAFT, encode};

use super::super::types::{RaftMessage, RaftRequest, Vote};
use super::world::{Cluster, GROUP, PATIENCE, Registers};
use crate::ProposeError;
use crate::raft::HostError;

type Model = BTreeMap<String, String>;

async fn write_all(cluster: &Cluster, model: &mut Model, range: std::ops::Range<u32>) {
    for number in range {
        let (key, value) = (format!("key{:03}", number % 40), format!("value{number}"));
        let before = cluster.write(&key, &value).await;
        let expected = model.insert(key, value).unwrap_or_default();
        assert_eq!(before, expected, "outcomes show the state before");
    }
}

#[tokio::test(start_paused = true)]
async fn three_replicas_elect_a_leader_and_hold_the_same_state() {
    let cluster = Cluster::of_three(1).await;
    let mut model = Model::new();
    write_all(&cluster, &mut model, 0..50).await;
    cluster.converge(&model).await;

    let leader = cluster.leader().await;
    let term = cluster.nodes[leader].replica().leadership().term;
    for node in &cluster.nodes {
        let leadership = node.replica().leadership();
        assert_eq!(leadership.leader, Some(cluster.nodes[leader].member(1)));
        assert_eq!((leadership.term, leadership.voters.len()), (term, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_names_the_leader_instead_of_proposing() {
    let cluster = Cluster::of_three(2).await;
    cluster.write("a", "1").await;
    cluster
        .converge(&Model::from([("a".to_owned(), "1".to_owned())]))
        .await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let answer = cluster.propose_at(follower, "a", "2").await;
    let expected = Some(cluster.nodes[leader].member(1));
    assert_eq!(
        answer,
        Err(ProposeError::NotLeader {
            leader: expected.clone()
        })
    );
    let replica = cluster.nodes[follower].replica();
    let read = cluster.nodes[follower]
        .inside(async move { replica.linearize().await })
        .await;
    assert_eq!(read, Err(ProposeError::NotLeader { leader: expected }));
}

#[tokio::test(start_paused = true)]
async fn concurrent_proposals_share_appends() {
    let cluster = Cluster::of_three(3).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let syncs_before = node.disk.operations();
    let replica = node.replica();
    let proposals = async move {
        let all = (0..200).map(|number| replica.propose(Bytes::from(format!("k{number}=v"))));
        futures_util::future::join_all(all).await
    };
    let answers = node.inside(proposals).await;
    assert!(answers.iter().all(Result::is_ok), "all are applied");
    let operations = node.disk.operations() - syncs_before;
    assert!(
        operations < 100,
        "200 proposals took {operations} changing disk calls"
    );
}

#[tokio::test(start_paused = true)]
async fn acknowledged_writes_survive_power_cuts_of_every_node_at_once() {
    let mut cluster = Cluster::of_three(4).await;
    let mut model = Model::new();
    for round in 0..4 {
        // Some rounds end before a snapshot, some after.
        write_all(&cluster, &mut model, round * 45..(round + 1) * 45).await;
        for node in &mut cluster.nodes {
            node.power_cut().await;
        }
        for node in &mut cluster.nodes {
            node.start().await;
        }
        cluster.leader().await;
        cluster.converge(&model).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_takes_over_when_the_leader_loses_power() {
    let mut cluster = Cluster::of_three(5).await;
    let mut model = Model::new();
    for round in 0..3 {
        write_all(&cluster, &mut model, round * 30..(round + 1) * 30).await;
        let old = cluster.leader().await;
        let term = cluster.nodes[old].replica().leadership().term;
        cluster.nodes[old].power_cut().await;
        let new = cluster.leader().await;
        assert!(cluster.nodes[new].replica().leadership().term > term);
        write_all(&cluster, &mut model, round * 30..round * 30 + 10).await;
        cluster.nodes[old].start().await;
        cluster.converge(&model).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_loses_nothing_and_starts_again() {
    let mut cluster = Cluster::of_three(6).await;
    let mut model = Model::new();
    write_all(&cluster, &mut model, 0..100).await;
    for node in &mut cluster.nodes {
        node.stop().await;
    }
    for node in &mut cluster.nodes {
        node.start().await;
    }
    cluster.leader().await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_away_for_long_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::of_three(7).await;
    let mut model = Model::new();
    write_all(&cluster, &mut model, 0..10).await;
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    cluster.nodes[late].power_cut().await;
    // Far more than the log keeps; with deletions, so that a merge would show.
    write_all(&cluster, &mut model, 10..300).await;
    cluster.write("key001", "").await;
    model.remove("key001");
    cluster.nodes[late].start().await;
    cluster.converge(&model).await;
    // And it is a full member again: it can carry the group with one other.
    let leader = cluster.leader().await;
    let gone = (0..3)
        .find(|at| *at != leader && *at != late)
        .unwrap_or((late + 1) % 3);
    cluster.nodes[gone].power_cut().await;
    write_all(&cluster, &mut model, 300..310).await;
}

#[tokio::test(start_paused = true)]
async fn members_are_added_and_removed() {
    let cluster = Cluster::blank(4, 8).await;
    let first = cluster.nodes[0].member(1);
    cluster.nodes[0]
        .start_replica(1, Some(vec![first.clone()]))
        .await;
    let mut model = Model::new();
    write_all(&cluster, &mut model, 0..100).await;

    let added: Vec<_> = cluster.nodes[1..]
        .iter()
        .map(|node| node.member(1))
        .collect();
    for node in &cluster.nodes[1..] {
        node.start_replica(1, None).await;
    }
    let replica = cluster.nodes[0].replica();
    let voters: Vec<MemberId> = added.iter().map(|member| member.member).collect();
    let (add, wanted) = (added.clone(), voters.clone());
    let changed = cluster.nodes[0]
        .inside(async move { replica.change_voters(add, wanted).await })
        .await;
    assert_eq!(changed, Ok(()));

    // The first voter is out; the other three elect among themselves and hold everything.
    let wait = async {
        while cluster.nodes[1..]
            .iter()
            .all(|node| !node.replica().leadership().is_leader)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("a leader among the new voters");
    let leader = cluster.leader().await;
    assert!(leader > 0, "the removed member leads no more");
    let mut expected = voters;
    expected.sort_unstable();
    assert_eq!(
        cluster.nodes[leader].replica().leadership().voters,
        expected
    );
    cluster.write("key000", "after").await;
    model.insert("key000".to_owned(), "after".to_owned());
    for node in &cluster.nodes[1..] {
        while node.contents().await != model {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retired_number_never_returns_and_its_successor_catches_up() {
    let mut cluster = Cluster::of_three(9).await;
    let mut model = Model::new();
    write_all(&cluster, &mut model, 0..100).await;
    let leader = cluster.leader().await;
    let out = (leader + 1) % 3;
    let old = cluster.nodes[out].member(1);
    let new = cluster.nodes[out].member(2);
    let retired = {
        let node = &cluster.nodes[out];
        node.host().retire_replica(GROUP).await
    };
    assert_eq!(retired, Ok(()));
    cluster.nodes[out].power_cut().await;
    cluster.nodes[out].start().await;
    assert!(cluster.nodes[out].host().groups().is_empty());
    let again = cluster.nodes[out]
        .host()
        .start_replica(GROUP, old.clone(), Arc::new(Registers), None)
        .await;
    let refusal = HostError::Retired {
        group: GROUP,
        member: old.member,
    };
    assert_eq!(again.map(drop), Err(refusal));

    cluster.nodes[out].start_replica(2, None).await;
    let voters: Vec<MemberId> = (0..3)
        .map(|at| {
            cluster.nodes[at]
                .member(if at == out { 2 } else { 1 })
                .member
        })
        .collect();
    let replica = cluster.nodes[leader].replica();
    let changed = cluster.nodes[leader]
        .inside(async move { replica.change_voters(vec![new], voters).await })
        .await;
    assert_eq!(changed, Ok(()));
    write_all(&cluster, &mut model, 100..120).await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn the_journal_is_freed_while_the_log_goes_on_and_votes_move_with_it() {
    let mut cluster = Cluster::of_three(10).await;
    let mut model = Model::new();
    let filler = "x".repeat(8000);
    let leader = cluster.leader().await;
    let term = cluster.nodes[leader].replica().leadership().term;
    for number in 0..500_u32 {
        let (key, value) = (format!("key{}", number % 16), format!("{number}{filler}"));
        cluster.write(&key, &value).await;
        model.insert(key, value);
    }
    // 4 MB went through each journal of 2 MiB.
    for node in &cluster.nodes {
        assert!(
            node.journal_used() < 2 << 20,
            "{} bytes in use",
            node.journal_used()
        );
        assert_eq!(node.halted(), None);
    }
    // Votes and registrations lay in segments freed long ago.
    for node in &mut cluster.nodes {
        node.power_cut().await;
    }
    for node in &mut cluster.nodes {
        node.start().await;
    }
    // Long enough to show what was found, too short for an election.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for node in &cluster.nodes {
        let found = node.replica().leadership().term;
        assert!(
            found >= term,
            "a vote is never forgotten: {found} after {term}"
        );
    }
    cluster.leader().await;
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn the_few_entries_that_a_log_keeps_never_hold_up_the_space_of_others() {
    let cluster = Cluster::of_three(16).await;
    let mut model = Model::new();
    // Fewer than a purge leaves behind: no snapshot would let them go.
    write_all(&cluster, &mut model, 0..12).await;
    let node = &cluster.nodes[0];
    let began = node.env().now();
    // The journal has 2 MiB: each of its segments is freed twice at least.
    node.pass_through_journal(6 << 20).await;
    let took = node.env().now().since(began);
    assert!(took < Duration::from_secs(10), "{took:?}");
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_loses_doubles_and_reorders_costs_time_but_no_write() {
    let mut cluster = Cluster::of_three(11).await;
    cluster.network.set_faults(Faults {
        lose_one_in: 20,
        double_one_in: 20,
        delay_one_in: 5,
        corrupt_one_in: 50,
        silent: false,
    });
    // A write of unknown outcome is repeated, so only the last value of a key is certain.
    let mut model = Model::new();
    for number in 0..120_u32 {
        let (key, value) = (format!("key{:03}", number % 20), format!("value{number}"));
        cluster.write(&key, &value).await;
        model.insert(key, value);
        if number % 40 == 20 {
            let leader = cluster.leader().await;
            cluster.nodes[leader].power_cut().await;
            cluster.leader().await;
            cluster.nodes[leader].start().await;
        }
    }
    cluster.network.set_faults(Faults::default());
    cluster.converge(&model).await;
    assert!(cluster.network.fates().lost > 10, "the faults struck");
}

#[tokio::test(start_paused = true)]
async fn a_message_for_another_member_is_refused() {
    let cluster = Cluster::of_three(12).await;
    cluster.leader().await;
    let (from, to) = (&cluster.nodes[0], &cluster.nodes[1]);
    let vote = openraft::raft::VoteRequest::new(Vote::new(99, from.member(1).member), None);
    let mut message = RaftMessage {
        group: GROUP,
        from: from.member(1).member,
        to: to.member(2).member,
        request: RaftRequest::PreVote(vote),
    };
    let peer = Peer::new(to.member(1).address, to.member(1).node);
    let call = |message: &RaftMessage| {
        let request = Message::new(encode(message), Bytes::new());
        let service = ServiceId(SERVICE_RAFT);
        from.inside(
            from.rpc()
                .call(&peer, service, request, Duration::from_secs(1)),
        )
    };
    let code = |answer: Result<Message, CallError>| match answer {
        Err(CallError::Refused(refusal)) => Some(refusal.code),
        _ => None,
    };
    assert_eq!(code(call(&message).await), Some(RefusalCode::NotMember));
    message.group = GroupId(77);
    assert_eq!(code(call(&message).await), Some(RefusalCode::NotHere));
    message.group = GROUP;
    message.to = to.member(1).member;
    assert!(call(&message).await.is_ok(), "the right member answers");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_state_stops_that_replica_and_a_successor_replaces_it() {
    let mut cluster = Cluster::of_three(13).await;
    let mut model = Model::new();
    write_all(&cluster, &mut model, 0..200).await;
    let leader = cluster.leader().await;
    let hurt = (leader + 1) % 3;
    // Opening moves everything into the pages file; then its pages rot.
    cluster.nodes[hurt].stop().await;
    cluster.nodes[hurt].start().await;
    cluster.nodes[hurt].stop().await;
    let disk = &cluster.nodes[hurt].disk;
    let pages = disk
        .paths("pool/pages/")
        .into_iter()
        .find(|path| path.ends_with(".state"));
    let pages = pages.expect("the replica has a state");
    disk.rot(&pages, 0, disk.content(&pages).len());
    cluster.nodes[hurt].start().await;
    write_all(&cluster, &mut model, 200..240).await;

    let node = &cluster.nodes[hurt];
    let wait = async {
        while node.host().damaged().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the damage is met");
    let damaged = &node.host().damaged()[0];
    assert_eq!(
        (damaged.group, damaged.member),
        (GROUP, node.member(1).member)
    );
    assert!(damaged.reason.contains("damaged"), "{}", damaged.reason);
    assert!(damaged.is_lost);
    assert_eq!(node.halted(), None, "the node lives on");

    assert_eq!(node.host().retire_replica(GROUP).await, Ok(()));
    node.start_replica(2, None).await;
    let successor = node.member(2);
    let voters: Vec<MemberId> = (0..3)
        .map(|at| {
            cluster.nodes[at]
                .member(if at == hurt { 2 } else { 1 })
                .member
        })
        .collect();
    let leader = cluster.leader().await;
    let replica = cluster.nodes[leader].replica();
    let changed = cluster.nodes[leader]
        .inside(async move { replica.change_voters(vec![successor], voters).await })
        .await;
    assert_eq!(changed, Ok(()));
    cluster.converge(&model).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_halts_the_node() {
    let cluster = Cluster::of_three(14).await;
    cluster.write("a", "1").await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].disk.fail_syncs(Some("journal"));
    let _ = cluster.propose_at(leader, "a", "2").await;
    let halted = cluster.nodes[leader].halted();
    assert!(
        matches!(halted, Some(HaltReason::DiskFailed(_))),
        "{halted:?}"
    );
}
