//! The member core: what it refuses, and what it must have made durable before it answers.

use hedgerow_env::{Generation, PlacementEpoch, Sequence, StoreId, WriterId};
use hedgerow_protocol::{Digest, HBlockRefusal};

use crate::testing::{container, name};
use crate::{Finished, MAXIMUM_COLLECTED_WRITERS, Member, RecordVersion, Role, StoreDecision};

fn store(member: &mut Member, sequence: u64, generation: u64, epoch: u64) -> StoreDecision {
    let (generation, epoch) = (Generation(generation), PlacementEpoch(epoch));
    member.store(name(sequence), Digest(1), generation, epoch)
}

fn proceeds(decision: &StoreDecision) -> RecordVersion {
    match decision {
        StoreDecision::Proceed(version) => *version,
        other => panic!("expected to proceed, got {other:?}"),
    }
}

/// A member that has seen epoch 5 and generation 3, and made that durable.
fn seasoned() -> Member {
    let mut member = Member::default();
    let decision = store(&mut member, 1, 3, 5);
    let version = proceeds(&decision);
    assert_eq!(member.finish(name(1)), Finished::Kept);
    member.written(container(), version);
    member
}

#[test]
fn requests_older_than_what_was_seen_are_refused_and_newer_ones_raise_it() {
    let stale_epoch = StoreDecision::Refuse(HBlockRefusal::StaleEpoch {
        current: PlacementEpoch(5),
    });
    let stale_generation = StoreDecision::Refuse(HBlockRefusal::StaleGeneration {
        current: Generation(3),
    });
    for (generation, epoch, refused) in [
        (3, 4, Some(&stale_epoch)),
        (9, 4, Some(&stale_epoch)),
        (2, 5, Some(&stale_generation)),
        (2, 6, Some(&stale_generation)),
        (3, 5, None),
        (4, 5, None),
        (3, 6, None),
    ] {
        let mut member = seasoned();
        let decision = store(&mut member, 2, generation, epoch);
        match refused {
            Some(refused) => {
                assert_eq!(&decision, refused, "G{generation} e{epoch}");
                assert!(member.unwritten(container()).is_none(), "nothing changed");
            }
            None => {
                let version = proceeds(&decision);
                let raised = (generation, epoch) != (3, 5);
                let durable = member.is_durable(container(), version);
                assert_eq!(durable, !raised, "what was raised must be written first");
            }
        }
    }
}

#[test]
fn an_answer_waits_for_its_own_raise_and_not_for_an_earlier_one() {
    let mut member = seasoned();
    let first = proceeds(&store(&mut member, 2, 3, 6));
    let (version, record) = member.unwritten(container()).unwrap();
    assert_eq!(
        (record.epoch, record.generation),
        (PlacementEpoch(6), Generation(3))
    );
    let second = proceeds(&store(&mut member, 3, 4, 6));
    member.written(container(), version);
    assert!(member.is_durable(container(), first));
    assert!(
        !member.is_durable(container(), second),
        "generation 4 came after that record"
    );
}

#[test]
fn what_was_recovered_is_durable_and_still_refuses() {
    let mut member = seasoned();
    member.collected(container(), WriterId(1), &[Sequence(7)]);
    let record = member.record(container()).unwrap().clone();
    let mut recovered = Member::recovered([record]);
    assert!(recovered.unwritten(container()).is_none());
    assert!(matches!(
        store(&mut recovered, 2, 3, 4),
        StoreDecision::Refuse(_)
    ));
    assert_eq!(
        store(&mut recovered, 7, 3, 5),
        StoreDecision::Refuse(HBlockRefusal::Collected)
    );
}

#[test]
fn a_name_whose_store_left_while_it_is_appended_was_not_collected() {
    let mut member = Member::default();
    proceeds(&store(&mut member, 1, 1, 4));
    let left = PlacementEpoch(5);
    member
        .retire(container(), left)
        .expect("newer than the write");
    assert_eq!(member.finish(name(1)), Finished::Retired(left));
    member.abandon(name(1));
    assert!(!member.is_pending(name(1)));
}

#[test]
fn a_repeat_joins_the_append_under_way_unless_its_bytes_differ() {
    let mut member = Member::default();
    proceeds(&store(&mut member, 1, 1, 1));
    assert!(matches!(
        store(&mut member, 1, 1, 1),
        StoreDecision::Join(_)
    ));
    let other = member.store(name(1), Digest(2), Generation(1), PlacementEpoch(1));
    assert_eq!(other, StoreDecision::Refuse(HBlockRefusal::OtherDigest));
    assert!(
        member.store_copy(name(1), Digest(1)).is_none(),
        "no second append beside it"
    );
    assert!(matches!(member.finish(name(1)), Finished::Kept));
    proceeds(&store(&mut member, 1, 1, 1));
}

#[test]
fn a_name_collected_while_it_is_appended_is_deleted_before_it_is_free() {
    let mut member = Member::default();
    proceeds(&store(&mut member, 1, 1, 1));
    member.collected(container(), WriterId(1), &[Sequence(1)]);
    assert_eq!(member.finish(name(1)), Finished::Collected);
    assert!(
        member.is_pending(name(1)),
        "still taken while it is deleted"
    );
    member.abandon(name(1));
    assert_eq!(
        store(&mut member, 1, 1, 1),
        StoreDecision::Refuse(HBlockRefusal::Collected)
    );
    assert!(member.store_copy(name(1), Digest(1)).is_none());
}

#[test]
fn retirement_is_passed_over_below_the_own_epoch_and_ends_with_a_higher_one() {
    let mut member = seasoned();
    assert_eq!(
        member.retire(container(), PlacementEpoch(4)),
        None,
        "an old message"
    );
    assert!(member.wants(name(1)));

    let version = member.retire(container(), PlacementEpoch(6)).unwrap();
    assert!(!member.is_durable(container(), version));
    assert!(!member.wants(name(1)));
    for epoch in [5, 6] {
        assert!(
            matches!(store(&mut member, 2, 3, epoch), StoreDecision::Refuse(_)),
            "epoch {epoch}"
        );
    }
    assert_eq!(
        member.retire(container(), PlacementEpoch(6)),
        Some(version),
        "repeated after a crash"
    );

    let members = vec![StoreId(1), StoreId(2)];
    member.placed(container(), PlacementEpoch(8), Generation(3), members);
    assert_eq!(member.record(container()).unwrap().role, Role::Member);
    proceeds(&store(&mut member, 2, 3, 8));
    assert_eq!(
        member.retire(container(), PlacementEpoch(6)),
        None,
        "an old message again"
    );
}

#[test]
fn a_late_placement_lowers_nothing() {
    let mut member = seasoned();
    let before = member.record(container()).unwrap().clone();
    member.placed(
        container(),
        PlacementEpoch(4),
        Generation(9),
        vec![StoreId(9)],
    );
    assert_eq!(member.record(container()), Some(&before));
}

#[test]
fn confirmations_go_out_under_the_highest_epoch_seen() {
    let member = seasoned();
    assert_eq!(
        member.confirm_epoch(container(), PlacementEpoch(3)),
        PlacementEpoch(5)
    );
    assert_eq!(
        member.confirm_epoch(container(), PlacementEpoch(7)),
        PlacementEpoch(7)
    );
}

#[test]
fn the_memory_of_collected_names_is_bounded_by_forgetting_the_oldest_writers() {
    let mut member = Member::default();
    let writers = u64::try_from(MAXIMUM_COLLECTED_WRITERS).unwrap() + 4;
    for writer in 1..=writers {
        member.collected(container(), WriterId(writer), &[Sequence(1)]);
    }
    let record = member.record(container()).unwrap();
    assert_eq!(record.collected.len(), MAXIMUM_COLLECTED_WRITERS);
    assert!(record.collected.contains_key(&WriterId(writers)));
    assert!(!record.collected.contains_key(&WriterId(1)));
}
