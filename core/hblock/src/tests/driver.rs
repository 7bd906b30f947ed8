//! The drivers, on small clusters of fakes: writes, reads, repair, catch-up, retirement, sweeps.

use std::time::Duration;

use bytes::Bytes;
use hedgerow_env::{Generation, PlacementEpoch, StoreId, WriterId};
use hedgerow_protocol::{
    Change, HBlockRefusal, HBlockReply, HBlockRequest, Layout, MemberState, NameState, Placement,
    PlacementMember,
};

use crate::HBlockConfig;
use crate::testing::{Cluster, blob, blob_with, container, name, refusal};

fn written(reply: HBlockReply) -> Vec<u64> {
    match reply {
        HBlockReply::Written { acknowledged } => acknowledged.iter().map(|store| store.0).collect(),
        other => panic!("expected written, got {other:?}"),
    }
}

fn placed(epoch: u64, members: &[u64]) -> Change {
    Change::Placed {
        container: container(),
        placement: Placement {
            epoch: PlacementEpoch(epoch),
            generation: Generation(1),
            members: members
                .iter()
                .map(|store| PlacementMember {
                    store: StoreId(*store),
                    node: hedgerow_env::NodeId(*store),
                    state: MemberState::Active,
                })
                .collect(),
            layout: Layout::Replicated { copies: 3 },
            write_quorum: 2,
        },
    }
}

fn incomplete(sequence: u64, epoch: u64, sources: &[u64]) -> Change {
    Change::Incomplete {
        blob: name(sequence),
        epoch: PlacementEpoch(epoch),
        sources: sources.iter().map(|store| StoreId(*store)).collect(),
    }
}

fn read(store: u64, sequence: u64, units: Vec<u16>) -> HBlockRequest {
    HBlockRequest::Read {
        store: StoreId(store),
        name: name(sequence),
        units,
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_reaches_every_member_and_is_answered_at_the_quorum() {
    let cluster = Cluster::start(3).await;
    cluster.store(3).set_append_time(Duration::from_millis(200));
    let begun = cluster.env.now();
    let acknowledged = written(cluster.write(blob(1, 4), 1, vec![]).await);
    assert_eq!(acknowledged, vec![1, 2]);
    let took = cluster.env.now().since(begun);
    assert!(
        took < Duration::from_millis(100),
        "did not wait for the third: {took:?}"
    );
    assert!(!cluster.store(3).sound(name(1)));
    cluster
        .until("the third copy arrives", || cluster.store(3).sound(name(1)))
        .await;
    assert_eq!(
        cluster.network.fetches(),
        0,
        "it was forwarded, not fetched"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_before_the_epoch_is_durable() {
    let cluster = Cluster::start(3).await;
    cluster.store(2).set_record_time(Duration::from_millis(150));
    cluster.store(3).set_record_time(Duration::from_millis(150));
    let begun = cluster.env.now();
    written(cluster.write(blob(1, 1), 1, vec![]).await);
    let took = cluster.env.now().since(begun);
    assert!(
        took >= Duration::from_millis(150),
        "the blobs alone took 1 ms: {took:?}"
    );

    let begun = cluster.env.now();
    written(cluster.write(blob(2, 1), 1, vec![]).await);
    let took = cluster.env.now().since(begun);
    assert!(took < Duration::from_millis(10), "known by now: {took:?}");

    // A restart remembers what was answered under.
    written(cluster.write(blob(3, 1), 4, vec![]).await);
    cluster.stop_node(StoreId(2)).await;
    cluster.start_node(StoreId(2)).await;
    let stale = refusal(cluster.offer(2, blob(4, 1), 1, 3).await);
    let current = PlacementEpoch(4);
    assert_eq!(stale, HBlockRefusal::StaleEpoch { current });
}

#[tokio::test(start_paused = true)]
async fn a_write_without_its_quorum_says_who_has_it_and_a_repeat_completes_it() {
    let cluster = Cluster::start(3).await;
    cluster.network.cut(StoreId(2));
    cluster.network.cut(StoreId(3));
    let too_few = refusal(cluster.write(blob(1, 1), 1, vec![]).await);
    let acknowledged = vec![StoreId(1)];
    assert_eq!(too_few, HBlockRefusal::TooFew { acknowledged });
    cluster.network.heal(StoreId(3));
    let acknowledged = written(cluster.write(blob(1, 1), 1, vec![]).await);
    assert_eq!(acknowledged, vec![1, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_acknowledging_set_spans_two_racks_where_the_members_do() {
    let cluster = Cluster::start(3).await;
    cluster.store(3).set_append_time(Duration::from_millis(100));
    let acknowledged = written(cluster.write(blob(1, 1), 1, vec![7, 7, 8]).await);
    assert_eq!(acknowledged, vec![1, 2, 3], "waited for the other rack");
    cluster.network.cut(StoreId(3));
    let too_few = refusal(cluster.write(blob(2, 1), 1, vec![7, 7, 8]).await);
    assert!(
        matches!(too_few, HBlockRefusal::TooFew { .. }),
        "{too_few:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn other_bytes_under_a_name_are_refused_also_while_the_first_are_on_their_way() {
    let cluster = Cluster::start(3).await;
    assert_eq!(
        cluster.offer(2, blob(1, 1), 1, 1).await,
        HBlockReply::Stored
    );
    assert_eq!(
        cluster.offer(2, blob(1, 1), 1, 1).await,
        HBlockReply::Stored,
        "a repeat"
    );
    let other = || blob_with(1, 1, 99);
    assert_eq!(
        refusal(cluster.offer(2, other(), 1, 1).await),
        HBlockRefusal::OtherDigest
    );
    assert_eq!(
        refusal(cluster.write(other(), 1, vec![]).await),
        HBlockRefusal::OtherDigest
    );

    cluster.store(2).set_append_time(Duration::from_millis(100));
    let (first, second, third) = tokio::join!(
        cluster.offer(2, blob(5, 1), 1, 1),
        cluster.offer(2, blob_with(5, 1, 99), 1, 1),
        cluster.offer(2, blob(5, 1), 1, 1),
    );
    assert_eq!(first, HBlockReply::Stored);
    assert_eq!(refusal(second), HBlockRefusal::OtherDigest);
    assert_eq!(third, HBlockReply::Stored, "joined the first");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_do_not_have_their_digests_are_never_stored() {
    let cluster = Cluster::start(3).await;
    let (header, payload) = blob(1, 2);
    let mut bytes = payload.to_vec();
    bytes[600] ^= 1;
    let reply = cluster.offer(2, (header, Bytes::from(bytes)), 1, 1).await;
    assert!(matches!(refusal(reply), HBlockRefusal::Malformed { .. }));
    assert!(cluster.store(2).held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn members_answer_again_under_a_new_epoch_from_the_name() {
    let cluster = Cluster::start(3).await;
    written(cluster.write(blob(1, 1), 1, vec![]).await);
    let ask = |epoch: u64| HBlockRequest::Acknowledge {
        store: StoreId(2),
        epoch: PlacementEpoch(epoch),
        container: container(),
        names: vec![
            (name(1), blob(1, 1).0.identity_digest()),
            (name(2), blob(2, 1).0.identity_digest()),
        ],
    };
    let held = cluster.ask(2, ask(2)).await;
    assert_eq!(held, HBlockReply::Held(vec![name(1)]));
    let stale = refusal(cluster.ask(2, ask(1)).await);
    let current = PlacementEpoch(2);
    assert_eq!(stale, HBlockRefusal::StaleEpoch { current });
    let stale = refusal(cluster.write(blob(3, 1), 1, vec![]).await);
    assert_eq!(
        stale,
        HBlockRefusal::StaleEpoch { current },
        "one member knows better"
    );
}

#[tokio::test(start_paused = true)]
async fn reads_return_the_units_that_were_asked_for() {
    let cluster = Cluster::start(3).await;
    let (header, payload) = blob(1, 4);
    written(
        cluster
            .write((header.clone(), payload.clone()), 1, vec![])
            .await,
    );
    let (reply, bytes) = cluster
        .ask_with(2, read(2, 1, vec![3, 1]), Bytes::new())
        .await;
    assert_eq!(
        reply,
        HBlockReply::Units(vec![header.units[3], header.units[1]])
    );
    assert_eq!(bytes[..512], payload[3 * 512..]);
    assert_eq!(bytes[512..], payload[512..1024]);

    let missing = refusal(cluster.ask(2, read(2, 9, vec![0])).await);
    assert_eq!(missing, HBlockRefusal::Missing);
    let elsewhere = refusal(cluster.ask(2, read(3, 1, vec![0])).await);
    assert_eq!(elsewhere, HBlockRefusal::NoSuchStore);
    for units in [vec![], vec![1, 1]] {
        let reply = refusal(cluster.ask(2, read(2, 1, units)).await);
        assert!(matches!(reply, HBlockRefusal::Malformed { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_never_served_and_is_repaired_from_another_member() {
    let cluster = Cluster::start(3).await;
    cluster.shard.tell(StoreId(2), placed(1, &[1, 2, 3]));
    written(cluster.write(blob(1, 2), 1, vec![]).await);
    cluster.shard.set_state(name(1), NameState::Live);
    cluster.sleep(1_000).await;
    cluster.store(2).damage(name(1));
    cluster.network.cut(StoreId(1));
    cluster.network.cut(StoreId(3));
    assert_eq!(
        refusal(cluster.ask(2, read(2, 1, vec![0])).await),
        HBlockRefusal::Damaged
    );
    let acknowledge = HBlockRequest::Acknowledge {
        store: StoreId(2),
        epoch: PlacementEpoch(2),
        container: container(),
        names: vec![(name(1), blob(1, 2).0.identity_digest())],
    };
    let held = cluster.ask(2, acknowledge).await;
    assert_eq!(
        held,
        HBlockReply::Held(vec![]),
        "a damaged copy counts for nothing"
    );
    assert_eq!(cluster.node(2).damaged(), 1);

    cluster.network.heal(StoreId(3));
    cluster
        .until("it is repaired", || cluster.store(2).sound(name(1)))
        .await;
    cluster
        .until("it is counted", || cluster.node(2).damaged() == 0)
        .await;
    assert_eq!(cluster.node(2).status()[0].repaired, 1);
}

#[tokio::test(start_paused = true)]
async fn the_scrub_finds_damage_that_nobody_reads() {
    let cluster = Cluster::start_with(
        3,
        HBlockConfig {
            scrub_delay: Duration::from_secs(5),
            scrub_interval: Duration::from_secs(5),
            ..HBlockConfig::default()
        },
    )
    .await;
    cluster.shard.tell(StoreId(3), placed(1, &[1, 2, 3]));
    written(cluster.write(blob(1, 1), 1, vec![]).await);
    cluster.shard.set_state(name(1), NameState::Live);
    cluster.sleep(1_000).await;
    cluster.store(3).damage(name(1));
    cluster
        .until("it is repaired", || cluster.store(3).sound(name(1)))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_suspected_blob_that_is_missing_is_fetched_only_if_it_lives() {
    let cluster = Cluster::start(3).await;
    cluster.shard.tell(StoreId(2), placed(1, &[1, 2, 3]));
    for sequence in [1, 2] {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
    }
    cluster.shard.set_state(name(1), NameState::Live);
    cluster.shard.set_state(name(2), NameState::Collected);
    cluster.sleep(1_000).await;
    for sequence in [1, 2] {
        cluster.store(2).lose(name(sequence));
        let suspect = HBlockRequest::Suspect {
            store: StoreId(2),
            name: name(sequence),
        };
        assert_eq!(cluster.ask(2, suspect).await, HBlockReply::Done);
    }
    cluster
        .until("the live one is back", || cluster.store(2).sound(name(1)))
        .await;
    cluster
        .until("nothing is left to repair", || {
            cluster.node(2).damaged() == 0
        })
        .await;
    assert_eq!(cluster.store(2).held(), vec![name(1)]);
}

/// Damage took blobs whose names the store does not know. Nobody reads them, and no feed lists them:
/// the shard counts this store as a holder.
#[tokio::test(start_paused = true)]
async fn a_store_that_reads_a_feed_anew_gets_back_what_it_is_counted_for() {
    let cluster = Cluster::start(3).await;
    cluster.shard.tell(StoreId(2), placed(1, &[1, 2, 3]));
    for sequence in 1..=5 {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
        cluster.shard.set_state(name(sequence), NameState::Live);
    }
    cluster.shard.count(StoreId(2), (1..=5).map(name));
    cluster
        .until("the position is reported", || {
            cluster.shard.handled(StoreId(2)) == 1
        })
        .await;
    cluster.stop_node(StoreId(2)).await;
    for sequence in [2, 4, 5] {
        cluster.store(2).lose(name(sequence));
    }
    cluster.start_node(StoreId(2)).await;
    cluster.sleep(5_000).await;
    assert_eq!(cluster.store(2).held().len(), 2, "it knows of no damage");

    cluster.stop_node(StoreId(2)).await;
    cluster.store(2).forget_feeds();
    cluster.start_node(StoreId(2)).await;
    let names: Vec<_> = (1..=5).map(name).collect();
    cluster
        .until("all are back", || cluster.store(2).held() == names)
        .await;
    assert_eq!(cluster.network.fetches(), 3);
}

/// Until the comparison is over a restart begins it again.
#[tokio::test(start_paused = true)]
async fn the_position_of_a_feed_is_not_kept_before_the_comparison_is_over() {
    let config = HBlockConfig {
        sweep_pause: Duration::from_secs(60),
        ..HBlockConfig::default()
    };
    let cluster = Cluster::start_with(2, config).await;
    cluster.shard.tell(StoreId(2), placed(1, &[1, 2]));
    cluster.shard.count(StoreId(2), (1..=3).map(name));
    cluster.stop_node(StoreId(2)).await;
    cluster.start_node(StoreId(2)).await;
    cluster.sleep(50_000).await;
    assert_eq!(cluster.shard.handled(StoreId(2)), 0, "one page is left");
    cluster.sleep(60_000).await;
    assert_eq!(cluster.shard.handled(StoreId(2)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_catches_up_and_confirms() {
    let cluster = Cluster::start(3).await;
    cluster.stop_node(StoreId(3)).await;
    for sequence in 1..=40 {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
        cluster
            .shard
            .tell(StoreId(3), incomplete(sequence, 1, &[1, 2]));
    }
    cluster.sleep(1_000).await;
    cluster.start_node(StoreId(3)).await;
    cluster
        .until("all is confirmed", || cluster.shard.incomplete() == 0)
        .await;
    assert_eq!(cluster.store(3).held().len(), 40);
    assert_eq!(cluster.network.fetches(), 40);
    for (store, name, epoch) in cluster.shard.confirmed() {
        assert_eq!((store, epoch), (StoreId(3), PlacementEpoch(1)));
        assert!(cluster.store(3).sound(name));
    }
    cluster
        .until("the position is reported", || {
            cluster.shard.handled(StoreId(3)) == 40
        })
        .await;

    // After a restart it goes on from there: nothing is fetched twice.
    let fetches = cluster.network.fetches();
    cluster.stop_node(StoreId(3)).await;
    cluster.start_node(StoreId(3)).await;
    cluster.sleep(3_000).await;
    assert_eq!(cluster.network.fetches(), fetches);
}

#[tokio::test(start_paused = true)]
async fn a_third_copy_on_its_way_is_confirmed_without_a_fetch() {
    let cluster = Cluster::start(3).await;
    cluster.store(3).set_append_time(Duration::from_millis(300));
    assert_eq!(
        written(cluster.write(blob(1, 1), 1, vec![]).await),
        vec![1, 2]
    );
    cluster.shard.tell(StoreId(3), incomplete(1, 1, &[1, 2]));
    cluster
        .until("it is confirmed", || cluster.shard.incomplete() == 0)
        .await;
    assert_eq!(cluster.network.fetches(), 0);
}

#[tokio::test(start_paused = true)]
async fn catching_up_goes_on_beside_a_source_that_is_silent() {
    let cluster = Cluster::start(3).await;
    cluster.stop_node(StoreId(3)).await;
    for sequence in 1..=200 {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
        cluster
            .shard
            .tell(StoreId(3), incomplete(sequence, 1, &[1, 2]));
    }
    cluster.sleep(1_000).await;
    cluster.network.cut(StoreId(1));
    let begun = cluster.env.now();
    cluster.start_node(StoreId(3)).await;
    cluster
        .until("all is confirmed", || cluster.shard.incomplete() == 0)
        .await;
    let took = cluster.env.now().since(begun);
    let each_waits = cluster.config.fetch_timeout * 200 / 2 / cluster.config.fetches;
    assert!(took < each_waits / 5, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_source_is_passed_over() {
    let cluster = Cluster::start(3).await;
    cluster.stop_node(StoreId(3)).await;
    written(cluster.write(blob(1, 1), 1, vec![]).await);
    cluster.sleep(1_000).await;
    cluster.store(2).damage(name(1));
    cluster.shard.tell(StoreId(3), incomplete(1, 1, &[1, 2]));
    cluster.start_node(StoreId(3)).await;
    cluster
        .until("it is confirmed", || cluster.shard.incomplete() == 0)
        .await;
    assert!(cluster.store(3).sound(name(1)));
    assert_eq!(
        cluster.node(2).damaged(),
        1,
        "the source knows of its damage now"
    );
}

#[tokio::test(start_paused = true)]
async fn confirmations_survive_lost_answers_a_silent_shard_and_a_full_store() {
    let cluster = Cluster::start(3).await;
    cluster.stop_node(StoreId(3)).await;
    for sequence in 1..=5 {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
        cluster
            .shard
            .tell(StoreId(3), incomplete(sequence, 1, &[1, 2]));
    }
    cluster.sleep(1_000).await;
    cluster.store(3).set_full(true);
    cluster.start_node(StoreId(3)).await;
    cluster.sleep(5_000).await;
    assert_eq!(cluster.shard.incomplete(), 5, "nothing fits");
    cluster.shard.set_silent(true);
    cluster.store(3).set_full(false);
    cluster.sleep(20_000).await;
    assert_eq!(cluster.store(3).held().len(), 5);
    cluster.shard.forget_answers(3);
    cluster.shard.set_silent(false);
    cluster
        .until("all is handled", || cluster.shard.handled(StoreId(3)) == 5)
        .await;
    assert_eq!(cluster.shard.incomplete(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_confirmed_is_given_up_once_its_shard_calls_it_free() {
    let cluster = Cluster::start(3).await;
    written(cluster.write(blob(1, 1), 1, vec![]).await);
    cluster.sleep(100).await;
    cluster.shard.tell(StoreId(3), incomplete(1, 1, &[1, 2]));
    cluster.shard.unlist(StoreId(3), name(1));
    cluster.sleep(20_000).await;
    assert_eq!(
        cluster.shard.handled(StoreId(3)),
        0,
        "live, so it must be confirmed"
    );
    cluster.shard.set_state(name(1), NameState::Collected);
    cluster
        .until("it is given up", || cluster.shard.handled(StoreId(3)) == 1)
        .await;
    assert!(cluster.store(3).held().is_empty());
}

#[tokio::test(start_paused = true)]
async fn collected_names_are_deleted_and_refused_from_then_on() {
    let cluster = Cluster::start(3).await;
    for sequence in 1..=3 {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
    }
    cluster.sleep(100).await;
    let collected = Change::Collected {
        container: container(),
        writer: WriterId(1),
        sequences: vec![name(1).sequence, name(3).sequence],
    };
    cluster.shard.tell(StoreId(2), collected);
    let remaining = vec![name(2)];
    cluster
        .until("they are deleted", || cluster.store(2).held() == remaining)
        .await;
    let refused = refusal(cluster.offer(2, blob(1, 1), 1, 1).await);
    assert_eq!(refused, HBlockRefusal::Collected);
    cluster
        .until("it is handled", || cluster.shard.handled(StoreId(2)) == 1)
        .await;

    cluster.stop_node(StoreId(2)).await;
    cluster.start_node(StoreId(2)).await;
    let refused = refusal(cluster.offer(2, blob(3, 1), 1, 1).await);
    assert_eq!(
        refused,
        HBlockRefusal::Collected,
        "remembered over a restart"
    );
}

#[tokio::test(start_paused = true)]
async fn a_retired_container_is_dropped_and_reported_but_an_old_message_is_not_obeyed() {
    let cluster = Cluster::start(3).await;
    for sequence in 1..=3 {
        written(cluster.write(blob(sequence, 1), 2, vec![]).await);
    }
    cluster.sleep(100).await;
    let retire = |epoch: u64| Change::Retire {
        container: container(),
        epoch: PlacementEpoch(epoch),
    };
    cluster.shard.tell(StoreId(2), retire(1));
    cluster
        .until("the old one is passed over", || {
            cluster.shard.handled(StoreId(2)) == 1
        })
        .await;
    assert_eq!(cluster.store(2).held().len(), 3);
    assert!(cluster.shard.retired().is_empty());

    cluster.shard.tell(StoreId(2), retire(3));
    let reported = vec![(StoreId(2), container(), PlacementEpoch(3))];
    cluster
        .until("it is reported", || cluster.shard.retired() == reported)
        .await;
    assert!(
        cluster.store(2).held().is_empty(),
        "dropped before it was reported"
    );
    let refused = refusal(cluster.offer(2, blob(9, 1), 1, 2).await);
    assert!(matches!(refused, HBlockRefusal::StaleEpoch { .. }));
    cluster.shard.tell(StoreId(2), placed(4, &[1, 2, 3]));
    cluster.sleep(2_000).await;
    assert_eq!(
        cluster.offer(2, blob(9, 1), 1, 4).await,
        HBlockReply::Stored
    );
}

#[tokio::test(start_paused = true)]
async fn a_sweep_frees_what_is_collected_and_keeps_what_is_unknown() {
    let cluster = Cluster::start_with(
        3,
        HBlockConfig {
            sweep_interval: Duration::from_secs(30),
            ..HBlockConfig::default()
        },
    )
    .await;
    let states = [
        NameState::Live,
        NameState::Pending,
        NameState::Collected,
        NameState::Unknown,
    ];
    for (sequence, state) in (1..).zip(states) {
        assert_eq!(
            cluster.offer(2, blob(sequence, 1), 1, 1).await,
            HBlockReply::Stored
        );
        cluster.shard.set_state(name(sequence), state);
    }
    cluster.sleep(29_000).await;
    assert_eq!(cluster.store(2).held().len(), 4, "not before its time");
    cluster.sleep(5_000).await;
    assert_eq!(cluster.store(2).held(), vec![name(1), name(2), name(4)]);
    assert_eq!(cluster.node(2).status()[0].quarantined, 1);
    cluster.shard.set_state(name(4), NameState::Live);
    cluster.sleep(60_000).await;
    assert_eq!(cluster.node(2).status()[0].quarantined, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_says_no_room_and_a_stopped_one_says_so_for_good() {
    let cluster = Cluster::start(3).await;
    cluster.store(2).set_full(true);
    let full = refusal(cluster.offer(2, blob(1, 1), 1, 1).await);
    let acknowledged = Vec::new();
    assert_eq!(full, HBlockRefusal::NoRoom { acknowledged });
    let acknowledged = written(cluster.write(blob(2, 1), 1, vec![]).await);
    assert_eq!(
        acknowledged,
        vec![1, 3],
        "one full member does not stop a write"
    );
    cluster.store(3).set_full(true);
    let full = refusal(cluster.write(blob(4, 1), 1, vec![]).await);
    let acknowledged = vec![StoreId(1)];
    assert_eq!(full, HBlockRefusal::NoRoom { acknowledged });
    cluster.store(3).set_full(false);

    cluster.store(2).stop();
    cluster.sleep(10).await;
    for reply in [
        cluster.offer(2, blob(3, 1), 1, 1).await,
        cluster.ask(2, read(2, 1, vec![0])).await,
    ] {
        assert!(matches!(refusal(reply), HBlockRefusal::Stopped { .. }));
    }
    assert!(cluster.node(2).status()[0].stopped.is_some());
}

#[tokio::test(start_paused = true)]
async fn writes_beyond_the_room_are_busy_and_find_room_again() {
    let cluster = Cluster::start_with(
        3,
        HBlockConfig {
            write_bytes: 1024,
            ..HBlockConfig::default()
        },
    )
    .await;
    for id in 1..=3 {
        cluster
            .store(id)
            .set_append_time(Duration::from_millis(250));
    }
    let (first, second) = tokio::join!(
        cluster.write(blob(1, 2), 1, vec![]),
        cluster.write(blob(2, 2), 1, vec![]),
    );
    written(first);
    assert!(matches!(refusal(second), HBlockRefusal::Busy { .. }));
    cluster.sleep(500).await;
    written(cluster.write(blob(2, 2), 1, vec![]).await);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_request_still_leaves_its_copies() {
    let cluster = Cluster::start(3).await;
    for id in 1..=3 {
        cluster.store(id).set_append_time(Duration::from_millis(50));
    }
    let write = cluster.write(blob(1, 1), 1, vec![]);
    let abandoned = cluster.env.timeout(Duration::from_millis(5), write).await;
    assert!(abandoned.is_err());
    cluster.sleep(200).await;
    for id in 1..=3 {
        assert!(cluster.store(id).sound(name(1)), "store {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_member_asks_its_shard_about_once_a_second() {
    let cluster = Cluster::start(1).await;
    cluster.sleep(10_000).await;
    let before = cluster.shard.pulls();
    cluster.sleep(10_000).await;
    let pulls = cluster.shard.pulls() - before;
    assert!((9..=11).contains(&pulls), "{pulls} pulls in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_lists_step_by_step_is_nudged_until_it_has_listed_all() {
    let cluster = Cluster::start(3).await;
    cluster.stop_node(StoreId(3)).await;
    for sequence in 1..=5 {
        written(cluster.write(blob(sequence, 1), 1, vec![]).await);
        let change = incomplete(sequence, 1, &[1, 2]);
        cluster.shard.tell_in_steps(StoreId(3), change);
    }
    cluster.sleep(1_000).await;
    cluster.start_node(StoreId(3)).await;
    cluster
        .until("all is held", || cluster.store(3).held().len() == 5)
        .await;
    cluster
        .until("all is confirmed", || cluster.shard.incomplete() == 0)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_listing_asks_after_every_name_that_is_held() {
    let cluster = Cluster::start(1).await;
    for sequence in [1, 2] {
        let reply = cluster.offer(1, blob(sequence, 1), 1, 1).await;
        assert_eq!(reply, HBlockReply::Stored);
    }
    cluster.shard.set_state(name(1), NameState::Live);
    cluster.shard.set_state(name(2), NameState::Collected);
    cluster.sleep(5_000).await;
    assert_eq!(cluster.store(1).held().len(), 2, "no sweep is due");
    cluster.shard.set_full(true);
    cluster
        .until("the free one is deleted", || {
            cluster.store(1).held() == vec![name(1)]
        })
        .await;
}
