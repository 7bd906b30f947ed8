//! PLACE and RETIRE.

use MemberState::{Active, Filling, Resting};

use super::*;

fn lost(epoch: u64, members: Vec<PlacementMember>, gone: &[u64]) -> ShardCommand {
    let mut command = place(epoch, members);
    if let ShardCommand::Place { lost, .. } = &mut command {
        *lost = stores(gone);
    }
    command
}

fn states(shard: &Shard) -> Vec<(u64, MemberState)> {
    let members = shard.placement().members.into_iter();
    members
        .map(|member| (member.store.0, member.state))
        .collect()
}

#[test]
fn epochs_rise_by_one_and_a_lost_race_shows_the_placement_that_stands() {
    let mut shard = Shard::empty();
    let refused = shard.refused(place(2, writable(&[1, 2, 3])));
    assert!(matches!(
        refused,
        ShardRefusal::BadPlacement { current: None, .. }
    ));
    shard.place(1, writable(&[1, 2, 3]));
    let current = shard.placement();
    for epoch in [0, 1, 3] {
        let refused = shard.refused(place(epoch, writable(&[1, 2, 4])));
        let current = current.clone();
        assert_eq!(
            refused,
            ShardRefusal::StaleEpoch { current },
            "epoch {epoch}"
        );
    }
    let again = shard.place(1, writable(&[1, 2, 3]));
    assert_eq!(again, ShardOutcome::Placed(current), "repeated");
}

#[test]
fn members_copies_and_quorum_must_fit() {
    let mut shard = Shard::empty();
    let with = |copies, quorum| {
        let mut command = place(1, writable(&[1, 2, 3]));
        if let ShardCommand::Place {
            layout,
            write_quorum,
            ..
        } = &mut command
        {
            *layout = Layout::Replicated { copies };
            *write_quorum = quorum;
        }
        command
    };
    for wrong in [
        place(1, writable(&[1, 2])),
        place(1, writable(&[1, 2, 2])),
        place(
            1,
            members(&[(1, Active), (2, Active), (3, Active), (4, Resting)]),
        ),
        with(7, 4),
        with(3, 1),
        with(3, 4),
    ] {
        let refused = shard.refused(wrong.clone());
        assert!(
            matches!(refused, ShardRefusal::BadPlacement { .. }),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_node_has_one_member_also_where_one_of_them_rests() {
    let on_node = |mut members: Vec<PlacementMember>, at: usize, node: u64| {
        members[at].node = NodeId(node);
        members
    };
    let mut shard = Shard::empty();
    let refused = shard.refused(place(1, on_node(writable(&[1, 2, 3]), 2, 1)));
    assert!(refused.to_string().contains("two members"), "{refused}");

    shard.place(1, writable(&[1, 2, 3]));
    let with_substitute = members(&[(1, Active), (2, Active), (3, Resting), (4, Filling)]);
    let refused = shard.refused(place(2, on_node(with_substitute.clone(), 3, 3)));
    assert!(refused.to_string().contains("two members"), "{refused}");
    let placed = shard.place(2, with_substitute);
    assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
}

#[test]
fn a_member_leaves_only_when_everything_is_on_w_others() {
    let mut shard = Shard::ready();
    let mut commit = write(1, 0, 8);
    commit.acknowledged = stores(&[2, 3]);
    shard.committed(commit);
    let refused = shard.refused(place(2, writable(&[1, 2, 4])));
    assert!(refused.to_string().contains("cannot leave"), "{refused}");

    // Resting, it holds what it has until its substitute has got it.
    shard.place(
        2,
        members(&[(1, Active), (2, Active), (3, Resting), (4, Filling)]),
    );
    assert_eq!(shard.lacks(4), vec![1]);
    let refused = shard.refused(place(3, writable(&[1, 2, 4])));
    assert!(refused.to_string().contains("cannot leave"), "{refused}");
    assert_eq!(shard.confirm(4, &[blob(1, 1)], 2), vec![true]);
    assert_eq!(states(&shard)[3], (4, Active), "it is filled");
    let placed = shard.place(3, writable(&[1, 2, 4]));
    assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
    let retire = Change::Retire {
        container: home(),
        epoch: PlacementEpoch(3),
    };
    assert!(shard.pull(3, 0, 10).changes.contains(&retire));
}

#[test]
fn every_blob_may_be_on_two_others_though_no_other_has_all() {
    let mut shard = Shard::ready();
    for (sequence, holders) in [(1, [1, 2]), (2, [1, 3])] {
        let mut commit = write(sequence, 0, 8);
        commit.extents[0].first_block = u32::try_from(sequence).unwrap() * 8;
        commit.acknowledged = stores(&holders);
        shard.committed(commit);
    }
    shard.confirm(2, &[blob(1, 2)], 1);
    // 1 holds both, 2 both, 3 only the second: 1 may go only if 3 gets the first, or 2 and 3 do.
    let refused = shard.refused(place(2, writable(&[2, 3, 4])));
    assert!(refused.to_string().contains("cannot leave"), "{refused}");
    shard.confirm(3, &[blob(1, 1)], 1);
    let placed = shard.place(2, writable(&[2, 3, 4]));
    assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
}

#[test]
fn a_lost_store_leaves_undrained() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let placed = shard.run(lost(2, writable(&[1, 3, 4]), &[2]));
    assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
    assert_eq!(shard.lacks(3), vec![1]);
    assert_eq!(shard.lacks(4), vec![1]);
}

#[test]
fn a_store_returns_only_after_its_retire_and_then_holds_nothing() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.confirm(3, &[blob(1, 1)], 1);
    shard.place(2, writable(&[1, 3, 4]));
    let refused = shard.refused(place(3, members(&[(1, Active), (3, Active), (2, Active)])));
    assert!(refused.to_string().contains("RETIRE"), "{refused}");

    let retired = |epoch| ShardCommand::Retired {
        container: home(),
        store: StoreId(2),
        epoch: PlacementEpoch(epoch),
    };
    shard.run(retired(1));
    assert_eq!(
        shard.pull(2, 0, 10).changes.len(),
        1,
        "another epoch is not meant"
    );
    shard.run(retired(2));
    assert!(shard.pull(2, 0, 10).changes.is_empty());

    shard.confirm(4, &[blob(1, 1)], 2);
    let placed = shard.place(3, writable(&[1, 3, 2]));
    assert!(matches!(placed, ShardOutcome::Placed(_)), "{placed:?}");
    assert_eq!(shard.lacks(2), vec![1], "what it once held is gone");
    assert_eq!(states(&shard)[2], (2, Filling));
}

#[test]
fn a_resting_member_is_taken_back_with_what_it_has() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let old = members(&[(1, Active), (2, Resting), (3, Active), (4, Filling)]);
    shard.place(2, old);
    let mut meanwhile = write(2, 8, 8);
    meanwhile.epoch = PlacementEpoch(2);
    meanwhile.acknowledged = stores(&[1, 4]);
    shard.committed(meanwhile);
    assert!(
        shard.lacks(2).is_empty(),
        "new blobs do not concern the resting"
    );

    shard.place(
        3,
        members(&[(1, Active), (2, Filling), (3, Active), (4, Resting)]),
    );
    assert_eq!(shard.lacks(2), vec![2], "only what it missed");
    assert!(shard.lacks(4).is_empty());
    shard.confirm(2, &[blob(1, 2)], 3);
    assert_eq!(states(&shard)[1], (2, Active));
}

#[test]
fn the_resting_and_strangers_do_not_acknowledge() {
    let mut shard = Shard::ready();
    shard.place(
        2,
        members(&[(1, Active), (2, Resting), (3, Active), (4, Filling)]),
    );
    let mut commit = write(1, 0, 8);
    commit.epoch = PlacementEpoch(2);
    let refused = shard.refused(ShardCommand::Commit(commit.clone()));
    assert_eq!(
        refused,
        ShardRefusal::TooFewAcknowledged { got: 1, needed: 2 }
    );
    commit.acknowledged = stores(&[1, 4]);
    shard.committed(commit);
}

#[test]
fn a_large_container_is_listed_for_its_new_member_in_bounded_steps() {
    let mut shard = Shard::ready();
    let blobs = 1300;
    let commits = (1..=blobs).map(|sequence| {
        let mut commit = write(sequence, 0, 1);
        commit.extents[0].first_block = u32::try_from(sequence).unwrap();
        commit.low_water = Sequence(sequence);
        commit.acknowledged = stores(&[1, 2, 3]);
        ShardCommand::Commit(commit)
    });
    shard.entry(commits.collect());
    shard.place(
        2,
        members(&[(1, Active), (2, Active), (3, Resting), (4, Filling)]),
    );
    assert_eq!(shard.lacks(4).len(), 512, "one step at once");
    shard.confirm(4, &[], 2);
    assert_eq!(shard.lacks(4).len(), 1024);
    shard.run(ShardCommand::Handled {
        store: StoreId(4),
        index: shard.index,
    });
    assert_eq!(shard.lacks(4).len(), usize::try_from(blobs).unwrap());
    let all: Vec<BlobName> = (1..=blobs).map(|sequence| blob(1, sequence)).collect();
    shard.confirm(4, &all[..1000], 2);
    shard.confirm(4, &all[1000..1299], 2);
    assert_eq!(states(&shard)[3], (4, Filling));
    shard.confirm(4, &all[1299..], 2);
    assert_eq!(states(&shard)[3], (4, Active));
    assert!(
        !shard.state.0.keys().any(|key| key[0] == 12),
        "no sweep is left"
    );
}

#[test]
fn the_driver_lets_drained_members_go_and_takes_returned_ones_back() {
    let mut shard = Shard::ready();
    for sequence in 1..=3 {
        let mut commit = write(sequence, 0, 8);
        commit.extents[0].first_block = u32::try_from(sequence).unwrap() * 8;
        shard.committed(commit);
    }
    shard.place(
        2,
        members(&[(1, Active), (2, Resting), (3, Active), (4, Filling)]),
    );
    let work = |shard: &Shard, up: &[u64]| {
        let is_up = |store: StoreId| up.contains(&store.0);
        let mut cursor = Vec::new();
        super::super::work::resting(&shard.state, &mut cursor, &is_up).unwrap()
    };
    assert!(
        work(&shard, &[1, 3, 4]).is_empty(),
        "neither drained nor returned"
    );
    shard.confirm(4, &[blob(1, 1)], 2);

    // 2 returns with all it had, 4 has one of three: 2 is taken back and 4 rests.
    let mut back = work(&shard, &[1, 2, 3, 4]);
    let outcome = shard.run(back.remove(0));
    assert!(matches!(outcome, ShardOutcome::Placed(_)), "{outcome:?}");
    assert_eq!(states(&shard)[1], (2, Active));
    assert_eq!(states(&shard)[3], (4, Resting));

    // 1 and 2 have everything, so 4 may go at once.
    let mut leave = work(&shard, &[1, 2, 3, 4]);
    let outcome = shard.run(leave.remove(0));
    assert!(matches!(outcome, ShardOutcome::Placed(_)), "{outcome:?}");
    let stores: Vec<u64> = states(&shard).iter().map(|(store, _)| *store).collect();
    assert_eq!(stores, [1, 2, 3]);
    assert!(work(&shard, &[1, 2, 3, 4]).is_empty());
}
