//! COMMIT, VOID and the block map.

use hedgerow_protocol::{AttemptEnd, MAXIMUM_MARKS};

use super::*;

#[test]
fn refusals_come_in_their_order_generation_epoch_quorum_layer_name() {
    let mut shard = Shard::ready();
    shard.run(void(&[5], 0));
    let mut commit = write(5, 0, 8);
    commit.generation = Generation(0);
    commit.epoch = PlacementEpoch(9);
    commit.acknowledged = stores(&[1, 7, 8]);
    commit.layer = LayerId(0);
    let mut next = |commit: &Commit| shard.refused(ShardCommand::Commit(commit.clone()));

    assert!(matches!(
        next(&commit),
        ShardRefusal::StaleGeneration { .. }
    ));
    commit.generation = Generation(1);
    assert!(matches!(next(&commit), ShardRefusal::StaleEpoch { .. }));
    commit.epoch = PlacementEpoch(1);
    let short = ShardRefusal::TooFewAcknowledged { got: 1, needed: 2 };
    assert_eq!(next(&commit), short, "strangers do not count");
    commit.acknowledged = stores(&[1, 3]);
    assert_eq!(next(&commit), ShardRefusal::FrozenLayer);
    commit.layer = LayerId(1);
    assert_eq!(next(&commit), ShardRefusal::Void);
}

#[test]
fn data_needs_a_placement_and_holes_do_not() {
    let mut shard = Shard::empty();
    shard.fence(1, &[1]);
    let refused = shard.refused(ShardCommand::Commit(write(1, 0, 8)));
    assert_eq!(refused, ShardRefusal::NotPlaced);
    shard.committed(unmap(2, 0, 8));
    assert_eq!(shard.map(10), "hole(w1:2)x8 -x2");
}

#[test]
fn contradictions_are_malformed() {
    let mut shard = Shard::ready();
    let mut overlapping = write(1, 0, 8);
    overlapping.extents.push(overlapping.extents[0]);
    let mut empty = write(1, 0, 8);
    empty.extents.clear();
    let mut beyond_unit = write(1, 0, 129);
    beyond_unit.extents[0].first_block = 4;
    let mut past_end = write(1, u32::MAX - 3, 8);
    past_end.stored_bytes = 1;
    let mut high_mark = write(4, 0, 8);
    high_mark.low_water = Sequence(5);
    let zero = write(0, 0, 8);
    let nothing = write(1, 0, 0);
    let mut bytes_without_blob = unmap(1, 0, 8);
    bytes_without_blob.stored_bytes = 512;
    for wrong in [
        overlapping,
        empty,
        beyond_unit,
        past_end,
        high_mark,
        zero,
        nothing,
        bytes_without_blob,
    ] {
        let refused = shard.refused(ShardCommand::Commit(wrong.clone()));
        assert!(
            matches!(refused, ShardRefusal::Malformed { .. }),
            "{wrong:?}: {refused}"
        );
    }
}

#[test]
fn a_repeated_commit_is_answered_as_applied_and_changes_nothing() {
    let mut shard = Shard::ready();
    let index = shard.committed(write(1, 0, 8));
    shard.committed(write(2, 4, 8));
    shard.place(2, writable(&[1, 2, 4]));
    let before = shard.state.clone();
    assert_eq!(
        shard.committed(write(1, 0, 8)),
        index,
        "even under an epoch that passed"
    );
    assert_eq!(shard.state, before);

    // Wholly overwritten, its index is no longer kept: a cache fills nothing from it.
    let mut over = write(3, 0, 8);
    over.epoch = PlacementEpoch(2);
    over.acknowledged = stores(&[1, 2]);
    shard.committed(over);
    assert_eq!(shard.committed(write(1, 0, 8)), 0);
    assert_eq!(shard.map(12), "w1:3+0x8 w1:2+4x4");
}

#[test]
fn a_higher_sequence_stands_against_a_lower_one_in_any_order() {
    let mut shard = Shard::ready();
    shard.committed(write(5, 4, 4));
    shard.committed(write(3, 0, 12));
    assert_eq!(shard.map(12), "w1:3+0x4 w1:5+0x4 w1:3+8x4");
    shard.committed(write(4, 0, 12));
    assert_eq!(shard.map(12), "w1:4+0x4 w1:5+0x4 w1:4+8x4");
    shard.committed(write(2, 4, 4));
    assert_eq!(
        shard.map(12),
        "w1:4+0x4 w1:5+0x4 w1:4+8x4",
        "lost everywhere"
    );
}

#[test]
fn an_unmap_leaves_a_versioned_hole_that_a_late_lower_write_does_not_pierce() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.committed(unmap(3, 2, 4));
    shard.committed(write(2, 0, 8));
    assert_eq!(shard.map(8), "w1:2+0x2 hole(w1:3)x4 w1:2+6x2");
}

#[test]
fn a_hole_vanishes_below_l_unless_an_older_layer_has_blocks() {
    let mut shard = Shard::ready();
    shard.committed(unmap(1, 0, 8));
    shard.run(void(&[], 1));
    assert_eq!(shard.map(8), "hole(w1:1)x8", "L is not above it");
    shard.run(void(&[], 2));
    assert_eq!(shard.map(8), "-x8");
    assert!(!shard.state.0.keys().any(|key| [3, 7].contains(&key[0])));

    // The same above a layer that is frozen by now.
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.run(ShardCommand::Fence {
        container: home(),
        generation: Generation(2),
        writers: vec![WriterId(1)],
        layer: LayerId(2),
    });
    let mut upper = unmap(2, 0, 4);
    upper.generation = Generation(2);
    upper.layer = LayerId(2);
    shard.committed(upper);
    shard.run(void(&[], 3));
    let view = shard.view(&[2, 1], 0, 8);
    let words: Vec<String> = view.extents.iter().map(word).collect();
    assert_eq!(words, ["hole(w1:2)x4", "w1:1+4x4"]);
}

#[test]
fn void_answers_applied_or_ends_the_attempt_for_good() {
    let mut shard = Shard::ready();
    shard.committed(write(2, 0, 8));
    let ended = shard.run(void(&[1, 2, 1], 0));
    let expected = [
        (Sequence(1), AttemptEnd::Void),
        (Sequence(2), AttemptEnd::Applied),
        (Sequence(1), AttemptEnd::Void),
    ];
    assert_eq!(ended, ShardOutcome::Ended(expected.to_vec()));
    let refused = shard.refused(ShardCommand::Commit(write(1, 0, 8)));
    assert_eq!(refused, ShardRefusal::Void);

    shard.run(void(&[], 3));
    let refused = shard.refused(ShardCommand::Commit(write(1, 0, 8)));
    assert_eq!(refused, ShardRefusal::BelowLowWater);
    assert_eq!(shard.refused(void(&[1], 3)), ShardRefusal::BelowLowWater);
    let again = shard.run(void(&[2], 3));
    let applied = vec![(Sequence(2), AttemptEnd::Applied)];
    assert_eq!(
        again,
        ShardOutcome::Ended(applied),
        "a live blob was applied"
    );
}

#[test]
fn marks_above_l_are_bounded_and_room_returns_with_l() {
    let mut shard = Shard::ready();
    let limit = u64::try_from(MAXIMUM_MARKS).unwrap();
    let many: Vec<u64> = (1..=limit).collect();
    shard.run(void(&many, 0));
    let refused = shard.refused(ShardCommand::Commit(write(limit + 1, 0, 8)));
    assert_eq!(refused, ShardRefusal::TooManyMarks);
    let mut settled = write(limit + 1, 0, 8);
    settled.low_water = Sequence(limit + 1);
    shard.committed(settled);
}

#[test]
fn commits_of_one_entry_see_each_other() {
    let mut shard = Shard::ready();
    let outcomes = shard.entry(vec![
        ShardCommand::Commit(write(1, 0, 8)),
        ShardCommand::Commit(write(1, 0, 8)),
        ShardCommand::Commit(write(2, 0, 4)),
        void(&[3], 2),
        ShardCommand::Commit(write(3, 0, 4)),
    ]);
    let index = shard.index;
    assert_eq!(outcomes[0], ShardOutcome::Committed { index });
    assert_eq!(outcomes[1], ShardOutcome::Committed { index });
    assert_eq!(outcomes[4], ShardOutcome::Refused(ShardRefusal::Void));
    assert_eq!(shard.map(8), "w1:2+0x4 w1:1+4x4");
}

#[test]
fn a_look_up_has_no_gaps_goes_through_layers_and_is_bounded() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 8, 8));
    assert_eq!(shard.map(20), "-x8 w1:1+0x8 -x4");
    let view = shard.view(&[1], 10, 4);
    assert_eq!(word(&view.extents[0]), "w1:1+2x4");
    assert_eq!(view.placements, vec![(home(), shard.placement())]);
    assert_eq!(view.incomplete, vec![(blob(1, 1), stores(&[3]))]);
    assert_eq!(view.generation, Some(Generation(1)));
    assert_eq!((view.index, view.last_change), (shard.index, shard.index));

    let too_much = query::MAXIMUM_LOOKUP_BLOCKS + 1;
    for (first, blocks) in [(0, 0), (0, too_much), (u32::MAX, 2)] {
        let reply = query::look_up(&shard.state, 1, home(), &[LayerId(1)], first, blocks);
        assert!(
            matches!(reply, Ok(ShardReply::Refused(_))),
            "{first} {blocks}"
        );
    }
}
