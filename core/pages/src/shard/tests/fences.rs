//! FENCE and FLOOR.

use super::*;

/// Background fencing asks for every container that somebody touched.
#[test]
fn containers_are_listed_in_pages_and_those_with_holes_only_among_them() {
    let mut shard = Shard::ready();
    let touch = |index| ShardCommand::Fence {
        container: at(u32::try_from(index).unwrap()),
        generation: Generation(1),
        writers: vec![WriterId(1)],
        layer: LayerId(1),
    };
    shard.entry((1..=query::CONTAINERS_PAGE).map(touch).collect());
    let page = |disk, after: Option<u32>| {
        let after = after.map(ContainerIndex);
        match query::containers(&shard.state, FamilyId(1), VirtualDiskId(disk), after) {
            Ok(ShardReply::ContainersAfter { found, more }) => (found, more),
            other => panic!("expected containers, got {other:?}"),
        }
    };
    let (first, more) = page(1, None);
    assert_eq!((first.len(), more), (query::CONTAINERS_PAGE, true));
    assert!(
        first[0].1.is_some() && first[1].1.is_none(),
        "one is placed"
    );
    let last = first.last().unwrap().0.index.0;
    let (rest, more) = page(1, Some(last));
    assert_eq!(rest, [(at(last + 1), None)]);
    assert!(!more);
    assert_eq!(page(2, None), (Vec::new(), false), "of another disk");
}

#[test]
fn commits_need_a_fence_of_their_generation_that_admits_them() {
    let mut shard = Shard::empty();
    let refused = shard.refused(ShardCommand::Commit(write(1, 0, 8)));
    assert_eq!(refused, ShardRefusal::NotFenced);

    shard.fence(2, &[1]);
    let refused = shard.refused(ShardCommand::Commit(write(1, 0, 8)));
    let current = Generation(2);
    assert_eq!(refused, ShardRefusal::StaleGeneration { current });

    let mut newer = write(1, 0, 8);
    newer.generation = Generation(3);
    let refused = shard.refused(ShardCommand::Commit(newer));
    assert_eq!(
        refused,
        ShardRefusal::NotFenced,
        "this generation has not fenced it"
    );

    let mut foreign = write(1, 0, 8);
    foreign.generation = Generation(2);
    foreign.writer = WriterId(9);
    let refused = shard.refused(ShardCommand::Commit(foreign));
    assert_eq!(refused, ShardRefusal::NotAdmitted);
}

#[test]
fn a_fence_tells_what_a_cache_must_know_and_may_be_repeated() {
    let mut shard = Shard::ready();
    let index = shard.committed(write(1, 0, 8));
    let expected = ShardOutcome::Fenced {
        last_change: index,
        placement: Some(shard.placement()),
    };
    assert_eq!(shard.fence(1, &[1]), expected);
    assert_eq!(shard.fence(2, &[1, 2]), expected);
    let refused = shard.refused(fence(1, &[1]));
    let current = Generation(2);
    assert_eq!(refused, ShardRefusal::StaleGeneration { current });
}

#[test]
fn within_a_generation_nothing_changes_and_the_fenced_never_return() {
    let mut shard = Shard::ready();
    let refused = shard.refused(fence(1, &[1, 2]));
    assert!(
        matches!(refused, ShardRefusal::Malformed { .. }),
        "{refused}"
    );
    shard.fence(2, &[2]);
    let refused = shard.refused(fence(3, &[1, 2]));
    assert!(refused.to_string().contains("fenced before"), "{refused}");
    assert!(matches!(
        shard.fence(3, &[2, 3]),
        ShardOutcome::Fenced { .. }
    ));
}

#[test]
fn a_floor_fences_containers_that_exist_and_those_that_do_not() {
    let mut shard = Shard::ready();
    assert_eq!(shard.run(floor(5, &[7])), ShardOutcome::Done);
    let current = Generation(5);
    for refused in [
        shard.refused(ShardCommand::Commit(write(1, 0, 8))),
        shard.refused(fence(4, &[1])),
        shard.refused(place(2, writable(&[1, 2, 4]))),
        shard.refused(floor(4, &[8])),
    ] {
        assert_eq!(refused, ShardRefusal::StaleGeneration { current });
    }
    let mut elsewhere = unmap(1, 0, 8);
    elsewhere.container = at(9);
    elsewhere.generation = Generation(5);
    elsewhere.writer = WriterId(7);
    shard.committed(elsewhere);
    let mut admitted = write(1, 0, 8);
    admitted.generation = Generation(5);
    admitted.writer = WriterId(7);
    shard.committed(admitted);
    assert_eq!(shard.run(floor(5, &[7])), ShardOutcome::Done, "repeated");
}

#[test]
fn a_fenced_writer_loses_its_marks_and_cannot_learn_what_became_of_its_attempts() {
    let mut shard = Shard::ready();
    shard.committed(write(3, 0, 8));
    shard.fence(2, &[2]);
    assert_eq!(shard.refused(void(&[3, 4], 0)), ShardRefusal::NotAdmitted);
    assert!(
        !shard.state.0.keys().any(|key| key[0] == 5),
        "no marks are left"
    );
    assert_eq!(shard.map(8), "w1:3+0x8", "what it wrote stays");
}

#[test]
fn frozen_layers_take_no_commits() {
    let mut shard = Shard::ready();
    let mut commit = write(1, 0, 8);
    commit.layer = LayerId(0);
    let refused = shard.refused(ShardCommand::Commit(commit));
    assert_eq!(refused, ShardRefusal::FrozenLayer);
}
