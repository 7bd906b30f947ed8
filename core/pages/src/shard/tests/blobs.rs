//! CONFIRM, COLLECT, DROP and names.

use hedgerow_protocol::{NameState, ShardStatistics};

use super::*;

fn names(shard: &Shard, list: &[BlobName]) -> Vec<NameState> {
    match query::names(&shard.state, list) {
        Ok(ShardReply::Names(states)) => states,
        other => panic!("expected names, got {other:?}"),
    }
}

fn drop_disk() -> ShardCommand {
    ShardCommand::Drop {
        disk: VirtualDiskId(1),
        family: FamilyId(1),
        layers: vec![LayerId(1)],
    }
}

#[test]
fn who_lacks_a_blob_is_told_until_it_confirms() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    assert_eq!(shard.lacks(3), vec![1]);
    let pulled = shard.pull(3, 0, 10);
    let expected = Change::Incomplete {
        blob: blob(1, 1),
        epoch: PlacementEpoch(1),
        sources: stores(&[1, 2]),
    };
    assert!(pulled.changes.contains(&expected));
    let sum = query::statistics(&shard.state).unwrap();
    let counted = ShardStatistics {
        containers: 1,
        blobs: 1,
        stored_bytes: 4096,
        incomplete: 1,
        under_replicated_bytes: 4096,
    };
    assert_eq!(sum, counted);
    assert_eq!(shard.confirm(3, &[blob(1, 1)], 1), vec![true]);
    assert!(shard.lacks(3).is_empty());
    assert_eq!(shard.confirm(3, &[blob(1, 1)], 1), vec![true], "repeated");
    assert!(shard.view(&[1], 0, 8).incomplete.is_empty());
}

#[test]
fn a_confirm_counts_for_a_known_name_a_member_and_the_present_epoch_alone() {
    let mut shard = Shard::ready();
    assert_eq!(
        shard.confirm(3, &[blob(1, 1)], 1),
        vec![false],
        "not committed yet"
    );
    shard.committed(write(1, 0, 8));
    assert_eq!(shard.lacks(3), vec![1], "the early confirm changed nothing");
    assert_eq!(
        shard.confirm(9, &[blob(1, 1)], 1),
        vec![false],
        "a stranger"
    );
    shard.confirm(3, &[blob(1, 1)], 2);
    assert_eq!(shard.lacks(3), vec![1], "an epoch to come");
    shard.place(
        2,
        members(&[
            (1, MemberState::Active),
            (2, MemberState::Resting),
            (3, MemberState::Active),
            (4, MemberState::Active),
        ]),
    );
    assert_eq!(
        shard.confirm(3, &[blob(1, 1)], 1),
        vec![false],
        "an epoch that passed"
    );
    assert_eq!(shard.confirm(3, &[blob(1, 1)], 2), vec![true]);
}

#[test]
fn after_a_change_of_placement_what_is_lacked_is_listed_anew() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let handled = shard.pull(3, 0, 10).next;
    shard.place(
        2,
        members(&[
            (1, MemberState::Active),
            (2, MemberState::Resting),
            (3, MemberState::Active),
            (4, MemberState::Active),
        ]),
    );
    let news = shard.pull(3, handled, 10).changes;
    assert!(
        news.iter().any(|change| matches!(
            change,
            Change::Incomplete {
                epoch: PlacementEpoch(2),
                ..
            }
        )),
        "a store that passed the first listing sees it again: {news:?}"
    );
}

#[test]
fn only_names_that_are_free_and_settled_are_collected() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.committed(write(2, 0, 8));
    shard.run(void(&[4], 0));
    let none = ShardOutcome::Collected(Vec::new());
    assert_eq!(
        shard.run(collect(1, &[1, 2, 3, 4])),
        none,
        "nothing is below L"
    );

    shard.run(void(&[], 4));
    let outcome = shard.run(collect(1, &[1, 2, 3, 4]));
    let freed = vec![Sequence(1), Sequence(3)];
    assert_eq!(
        outcome,
        ShardOutcome::Collected(freed.clone()),
        "2 is live, 4 not below L"
    );
    for store in [1, 2, 3] {
        let news = Change::Collected {
            container: home(),
            writer: WriterId(1),
            sequences: freed.clone(),
        };
        assert!(
            shard.pull(store, 0, 10).changes.contains(&news),
            "store {store}"
        );
    }
    let refused = shard.refused(ShardCommand::Commit(write(3, 0, 8)));
    assert_eq!(refused, ShardRefusal::Collected);
    let refused = shard.refused(ShardCommand::Commit(write(1, 0, 8)));
    assert_eq!(refused, ShardRefusal::Collected);
}

#[test]
fn the_driver_finds_what_is_free_and_settled() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.committed(write(2, 0, 8));
    shard.run(void(&[3, 9], 4));
    let mut cursor = Vec::new();
    let found = super::super::work::collectable(&shard.state, &mut cursor).unwrap();
    assert_eq!(found, vec![collect(1, &[1, 3])], "9 is not below L");
    assert!(cursor.is_empty(), "the table was read to its end");
    shard.entry(found);
    let found = super::super::work::collectable(&shard.state, &mut cursor).unwrap();
    assert!(found.is_empty());
}

#[test]
fn names_of_a_fenced_writer_are_free_by_definition() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.fence(2, &[3]);
    let list = [blob(1, 1), blob(1, 2), blob(3, 1), blob(2, 5), blob(4, 1)];
    let expected = [
        NameState::Live,
        NameState::Collected,
        NameState::Pending,
        NameState::Collected,
        NameState::Unknown,
    ];
    assert_eq!(
        names(&shard, &list),
        expected,
        "writer 4 was never admitted"
    );
    let elsewhere = BlobName {
        container: at(5),
        ..blob(1, 1)
    };
    assert_eq!(names(&shard, &[elsewhere]), [NameState::Unknown]);
    let outcome = shard.run(collect(1, &[1, 2]));
    assert_eq!(outcome, ShardOutcome::Collected(vec![Sequence(2)]));
}

#[test]
fn a_dropped_disk_goes_in_bounded_steps_and_answers_for_its_names_for_ever() {
    let mut shard = Shard::ready();
    let commits = (1..=700).map(|sequence| {
        let mut commit = write(sequence, 0, 1);
        commit.extents[0].first_block = u32::try_from(sequence).unwrap();
        ShardCommand::Commit(commit)
    });
    shard.entry(commits.collect());
    let mut steps = 0;
    while shard.run(drop_disk()) == (ShardOutcome::Dropped { finished: false }) {
        steps += 1;
        assert!(steps < 10, "it ends");
    }
    assert!(steps >= 1, "one step does not do it all");
    assert_eq!(
        query::statistics(&shard.state).unwrap(),
        ShardStatistics::default()
    );
    for store in [1, 2, 3] {
        let retire = Change::Retire {
            container: home(),
            epoch: PlacementEpoch(2),
        };
        assert_eq!(shard.pull(store, 0, 10).changes, vec![retire]);
        shard.run(ShardCommand::Retired {
            container: home(),
            store: StoreId(store),
            epoch: PlacementEpoch(2),
        });
    }
    let kinds: Vec<u8> = shard.state.0.keys().map(|key| key[0]).collect();
    assert_eq!(kinds, vec![2], "only the floor stays");
    assert_eq!(names(&shard, &[blob(1, 7)]), [NameState::Collected]);
    for command in [
        ShardCommand::Commit(write(800, 0, 1)),
        fence(9, &[2]),
        floor(9, &[2]),
        place(1, writable(&[1, 2, 3])),
        void(&[9], 1),
    ] {
        assert_eq!(shard.refused(command), ShardRefusal::Deleted);
    }
    assert_eq!(
        shard.run(drop_disk()),
        ShardOutcome::Dropped { finished: true }
    );
}

#[test]
fn a_feature_level_is_committed_once_and_none_above_the_build() {
    let mut shard = Shard::empty();
    let level = |feature_level| ShardCommand::Finalise { feature_level };
    assert_eq!(shard.run(level(1)), ShardOutcome::Done);
    let refused = shard.refused(level(2));
    assert_eq!(refused, ShardRefusal::FeatureLevel { needed: 2 });
    assert_eq!(ShardMachine::feature_level(&shard.state), Ok(1));
}
