//! The feed core: nothing is skipped, everything is retried, the list is bounded.

use std::collections::BTreeSet;
use std::time::Duration;

use hedgerow_env::{BlobName, Instant, PlacementEpoch, Random, StoreId};

use crate::testing::name;
use crate::{Attempt, Expected, Feed, FeedConfig, MAXIMUM_LISTED, PULL_LIMIT, UNKNOWN_LIMIT};

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanoseconds(milliseconds * 1_000_000)
}

fn expect(sequence: u64) -> Expected {
    Expected {
        name: name(sequence),
        epoch: PlacementEpoch(1),
        sources: vec![StoreId(2)],
    }
}

fn feed() -> Feed {
    Feed::new(FeedConfig::default(), 0, at(0))
}

fn begun(feed: &mut Feed, now: Instant) -> Vec<(BlobName, bool)> {
    let begun = feed.begin(now, 64);
    begun
        .into_iter()
        .map(|(expected, patient)| (expected.name, patient))
        .collect()
}

/// Looks for `sequence`, finds it held and confirms it.
fn settle(feed: &mut Feed, now: Instant, sequence: u64) {
    feed.attempted(now, name(sequence), Attempt::Held);
    let confirmable = feed.confirmable(1);
    assert_eq!(confirmable, vec![(name(sequence), PlacementEpoch(1))]);
    feed.confirmed(name(sequence));
}

#[test]
fn the_position_passes_a_batch_only_when_all_before_it_is_done() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![expect(1)], 10, true);
    feed.batch(at(0), 0, vec![expect(2)], 20, true);
    feed.batch(at(0), 0, vec![], 30, false);
    assert_eq!(
        begun(&mut feed, at(0)),
        vec![(name(1), false), (name(2), false)]
    );
    settle(&mut feed, at(1), 2);
    assert_eq!(feed.handled(), 0, "the first batch is open");
    settle(&mut feed, at(2), 1);
    assert_eq!(feed.handled(), 30);

    assert_eq!(feed.persist_due(at(2)), Some(30));
    feed.persisted(at(2), 30);
    assert_eq!(feed.report_due(), Some(30), "durable first, then reported");
    feed.reported(30);
    assert_eq!(
        (feed.persist_due(at(5_000)), feed.report_due()),
        (None, None)
    );
}

#[test]
fn a_lacking_blob_is_given_time_to_arrive_before_it_is_fetched() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![expect(1)], 1, false);
    assert_eq!(begun(&mut feed, at(0)), vec![(name(1), false)]);
    feed.attempted(at(1), name(1), Attempt::Lacking);
    assert_eq!(begun(&mut feed, at(499)), vec![]);
    assert_eq!(begun(&mut feed, at(500)), vec![(name(1), true)]);
}

#[test]
fn failures_are_retried_ever_more_slowly_up_to_the_limit() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![expect(1)], 1, false);
    let mut now = at(1_000);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert_eq!(begun(&mut feed, now), vec![(name(1), true)]);
        feed.attempted(now, name(1), Attempt::Lacking);
        let mut next = now;
        while begun_at(&mut feed, next).is_empty() {
            next = next + Duration::from_millis(50);
        }
        pauses.push(next.since(now).as_millis());
        now = next;
        feed.attempted(now, name(1), Attempt::Lacking);
        now = now + Duration::from_secs(10);
    }
    assert!(
        pauses.windows(2).all(|pair| pair[0] <= pair[1]),
        "{pauses:?}"
    );
    assert_eq!(pauses.last(), Some(&10_000));
}

fn begun_at(feed: &mut Feed, now: Instant) -> Vec<(BlobName, bool)> {
    begun(feed, now)
}

#[test]
fn an_unseen_answer_is_asked_for_again_and_unknown_names_are_inquired_after() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![expect(1)], 1, false);
    begun(&mut feed, at(0));
    feed.attempted(at(0), name(1), Attempt::Held);
    assert_eq!(feed.confirmable(10).len(), 1);
    feed.unconfirmed(at(0), name(1));
    assert_eq!(feed.handled(), 0);

    let mut now = at(0);
    for round in 1..=UNKNOWN_LIMIT {
        now = now + Duration::from_secs(20);
        assert_eq!(
            begun(&mut feed, now).len(),
            1,
            "looked at again before each CONFIRM"
        );
        feed.attempted(now, name(1), Attempt::Held);
        assert_eq!(feed.confirmable(10).len(), 1);
        assert_eq!(feed.unknown(now, name(1)), round == UNKNOWN_LIMIT);
    }
    feed.gone(name(1));
    assert_eq!((feed.handled(), feed.listed()), (1, 0));
}

#[test]
fn a_name_listed_again_under_a_newer_epoch_holds_both_batches() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![expect(1)], 1, true);
    let again = Expected {
        epoch: PlacementEpoch(2),
        sources: vec![StoreId(3)],
        ..expect(1)
    };
    feed.batch(at(0), 0, vec![again.clone(), again], 2, false);
    let found = feed.begin(at(0), 10);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0.sources, vec![StoreId(3)]);
    feed.attempted(at(0), name(1), Attempt::Held);
    assert_eq!(feed.confirmable(10), vec![(name(1), PlacementEpoch(2))]);
    feed.confirmed(name(1));
    assert_eq!(feed.handled(), 2);
}

#[test]
fn pulls_slow_down_while_nothing_comes_and_hints_hurry_them_within_reason() {
    let mut feed = feed();
    assert_eq!(feed.pull_due(at(0)), Some(0));
    feed.batch(at(0), 1, vec![], 5, false);
    assert_eq!(feed.pull_due(at(199)), None);
    assert_eq!(feed.pull_due(at(200)), Some(5));
    feed.batch(at(200), 0, vec![], 5, false);
    assert_eq!(feed.pull_due(at(599)), None, "twice as long");
    feed.batch(at(600), 0, vec![], 5, false);
    feed.batch(at(1_400), 0, vec![], 5, false);
    assert_eq!(
        feed.pull_due(at(2_400)),
        Some(5),
        "never longer than a second"
    );
    feed.batch(at(2_400), 0, vec![], 5, false);
    feed.pull_soon(at(2_401));
    assert_eq!(feed.pull_due(at(2_449)), None, "not for each hint");
    assert_eq!(feed.pull_due(at(2_450)), Some(5));
}

#[test]
fn a_full_list_stops_the_pulling_until_blobs_are_settled() {
    let mut feed = feed();
    let limit = u64::from(PULL_LIMIT);
    let batches = u64::try_from(MAXIMUM_LISTED).unwrap() / limit;
    for batch in 0..batches {
        assert!(feed.pull_due(at(0)).is_some());
        let expected = (batch * limit..(batch + 1) * limit).map(expect).collect();
        feed.batch(at(0), 0, expected, (batch + 1) * limit, true);
    }
    assert_eq!(feed.pull_due(at(9_000)), None);
    assert_eq!(
        begun(&mut feed, at(0)).len(),
        64,
        "no more at a time than the driver takes"
    );
    for sequence in 0..limit {
        feed.gone(name(sequence));
    }
    assert!(feed.pull_due(at(9_000)).is_some());
    assert_eq!(feed.handled(), limit);
    assert_eq!(
        begun(&mut feed, at(0)).len(),
        64,
        "what was given up is not counted any more"
    );
}

#[test]
fn positions_are_handed_back_as_they_came_and_an_open_blob_holds_them_back() {
    // A full listing marks its positions by their highest bit; its end does not have it.
    let marked = 1 << 63;
    let mut feed = Feed::new(FeedConfig::default(), 100, at(0));
    assert_eq!(feed.pull_due(at(0)), Some(100));
    feed.batch(at(0), 1, vec![expect(1)], marked | 7, true);
    assert_eq!(feed.pull_due(at(0)), Some(marked | 7));
    feed.batch(at(0), 1, vec![], 90, false);
    assert_eq!(feed.handled(), 100, "the listed blob is open");
    begun(&mut feed, at(0));
    settle(&mut feed, at(0), 1);
    assert_eq!(feed.handled(), 90);
    assert_eq!(feed.persist_due(at(0)), Some(90));
}

#[test]
fn a_position_that_moved_without_changes_is_rarely_written() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![], 10, false);
    assert_eq!(feed.persist_due(at(59_000)), None);
    assert_eq!(feed.persist_due(at(60_000)), Some(10));
    feed.batch(at(60_000), 1, vec![], 20, false);
    assert_eq!(feed.persist_due(at(60_000)), Some(20));
    feed.persisted(at(60_000), 20);
    feed.batch(at(60_500), 1, vec![], 30, false);
    assert_eq!(feed.persist_due(at(60_500)), None, "once a second");
    assert_eq!(feed.persist_due(at(61_000)), Some(30));
}

#[test]
fn more_without_changes_is_asked_for_at_a_pace() {
    let mut feed = feed();
    feed.batch(at(0), 0, vec![], 1, true);
    assert_eq!(feed.pull_due(at(49)), None);
    assert_eq!(feed.pull_due(at(50)), Some(1));
}

/// Plays random outcomes: whatever happens, the position never passes an open blob, and all blobs
/// are settled in the end.
#[test]
fn random_histories_never_skip_a_blob() {
    for seed in 0..50 {
        let mut random = Random::from_seed(seed);
        let mut feed = feed();
        let mut open: BTreeSet<(u64, BlobName)> = BTreeSet::new();
        let mut now = at(0);
        let mut index = 0;
        for _ in 0..400 {
            now = now + Duration::from_millis(random.below(400));
            if feed.pull_due(now).is_some() && index < 300 {
                let count = random.below(8);
                let batch: Vec<Expected> = (index..index + count).map(expect).collect();
                index += count;
                open.extend(batch.iter().map(|expected| (index, expected.name)));
                feed.batch(now, 0, batch, index, false);
            }
            for (name, _) in begun(&mut feed, now) {
                let attempt = match random.below(3) {
                    0 => Attempt::Lacking,
                    _ => Attempt::Held,
                };
                feed.attempted(now, name, attempt);
            }
            for (name, _) in feed.confirmable(5) {
                match random.below(4) {
                    0 => feed.unconfirmed(now, name),
                    1 => {
                        feed.unknown(now, name);
                    }
                    _ => {
                        feed.confirmed(name);
                        open.retain(|(_, listed)| *listed != name);
                    }
                }
            }
            let lowest = open.first().map_or(index, |(batch, _)| *batch);
            assert!(feed.handled() <= lowest, "seed {seed}");
        }
        for _ in 0..2_000 {
            now = now + Duration::from_secs(10);
            for (name, _) in begun(&mut feed, now) {
                feed.attempted(now, name, Attempt::Held);
            }
            for (name, _) in feed.confirmable(1024) {
                feed.confirmed(name);
            }
        }
        assert_eq!((feed.listed(), feed.handled()), (0, index), "seed {seed}");
    }
}
