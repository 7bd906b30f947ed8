//! RELOCATE, and the question for mostly dead blobs.

use hedgerow_protocol::{MAXIMUM_MOVES, Move, Relocate};

use super::*;

/// Moves `blocks` blocks at `first_block` from the beginning of blob `from` on, where its range
/// began at `began`, to the beginning of a new blob.
fn moves(sequence: u64, from: u64, began: u32, first_block: u32, blocks: u32) -> Relocate {
    Relocate {
        container: home(),
        layer: LayerId(1),
        generation: Generation(1),
        epoch: PlacementEpoch(1),
        writer: WriterId(1),
        sequence: Sequence(sequence),
        low_water: Sequence(0),
        moves: vec![Move {
            first_block,
            blocks,
            from: blob(1, from),
            from_unit: 0,
            from_offset_blocks: u16::try_from(first_block - began).unwrap(),
            from_digest: Digest(u128::from(from)),
            unit: 0,
            unit_offset_blocks: 0,
            digest: Digest(u128::from(sequence)),
        }],
        acknowledged: stores(&[1, 2]),
        stored_bytes: blocks * 512,
    }
}

fn relocated(shard: &mut Shard, relocate: Relocate) -> u64 {
    match shard.run(ShardCommand::Relocate(relocate)) {
        ShardOutcome::Committed { index } => index,
        other => panic!("expected a relocation, got {other:?}"),
    }
}

fn versions(shard: &Shard, blocks: u32) -> Vec<Option<u64>> {
    let extents = shard.view(&[1], 0, blocks).extents;
    let version = |extent: &MapExtent| extent.version.map(|version| version.sequence.0);
    extents.iter().map(version).collect()
}

#[test]
fn what_still_refers_to_the_old_blob_moves_and_keeps_its_version() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 16));
    shard.committed(write(2, 4, 8));
    assert_eq!(shard.map(16), "w1:1+0x4 w1:2+0x8 w1:1+12x4");
    // It was read before the second write came.
    relocated(&mut shard, moves(3, 1, 0, 0, 16));
    assert_eq!(shard.map(16), "w1:3+0x4 w1:2+0x8 w1:3+12x4");
    assert_eq!(versions(&shard, 16), [Some(1), Some(2), Some(1)]);
    let collected = shard.run(collect(1, &[1]));
    assert_eq!(
        collected,
        ShardOutcome::Collected(Vec::new()),
        "L has not passed it"
    );
    shard.run(void(&[], 4));
    let collected = shard.run(collect(1, &[1, 2, 3]));
    assert_eq!(collected, ShardOutcome::Collected(vec![Sequence(1)]));
}

#[test]
fn a_part_of_an_entry_moves_and_the_rest_stays() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 16));
    relocated(&mut shard, moves(2, 1, 0, 4, 8));
    assert_eq!(shard.map(16), "w1:1+0x4 w1:2+0x8 w1:1+12x4");
    assert_eq!(versions(&shard, 16), [Some(1); 3]);
}

#[test]
fn nothing_overwritten_or_unmapped_returns() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.committed(unmap(2, 0, 4));
    shard.committed(write(3, 4, 4));
    relocated(&mut shard, moves(4, 1, 0, 0, 8));
    assert_eq!(shard.map(8), "hole(w1:2)x4 w1:3+0x4");
    shard.run(void(&[], 5));
    let collected = shard.run(collect(1, &[4]));
    assert_eq!(
        collected,
        ShardOutcome::Collected(vec![Sequence(4)]),
        "its name was dead at once"
    );
}

#[test]
fn an_entry_at_another_offset_or_of_another_unit_stays() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let mut other_offset = moves(2, 1, 0, 0, 8);
    other_offset.moves[0].from_offset_blocks = 1;
    let mut other_unit = moves(3, 1, 0, 0, 8);
    other_unit.moves[0].from_unit = 1;
    let mut other_digest = moves(4, 1, 0, 0, 8);
    other_digest.moves[0].from_digest = Digest(7);
    for relocate in [other_offset, other_unit, other_digest] {
        relocated(&mut shard, relocate);
        assert_eq!(shard.map(8), "w1:1+0x8");
    }
}

#[test]
fn a_late_write_is_ordered_by_the_version_that_was_kept() {
    let mut shard = Shard::ready();
    shard.committed(write(2, 0, 8));
    relocated(&mut shard, moves(5, 2, 0, 0, 8));
    shard.committed(write(1, 0, 8));
    assert_eq!(shard.map(8), "w1:5+0x8", "older than what was moved");
    shard.committed(write(3, 0, 8));
    assert_eq!(shard.map(8), "w1:3+0x8", "newer, though its name is lower");
}

#[test]
fn a_name_is_applied_once_or_void() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let index = relocated(&mut shard, moves(2, 1, 0, 0, 8));
    shard.committed(write(3, 0, 4));
    assert_eq!(relocated(&mut shard, moves(2, 1, 0, 0, 8)), index, "again");
    shard.run(void(&[4], 0));
    let late = shard.refused(ShardCommand::Relocate(moves(4, 2, 0, 4, 4)));
    assert_eq!(late, ShardRefusal::Void);
}

#[test]
fn it_is_refused_as_a_commit_is() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let refused = |shard: &mut Shard, change: &dyn Fn(&mut Relocate)| {
        let mut relocate = moves(2, 1, 0, 0, 8);
        change(&mut relocate);
        shard.refused(ShardCommand::Relocate(relocate)).to_string()
    };
    for (change, word) in [
        (
            &(|it: &mut Relocate| it.acknowledged = stores(&[1])) as &dyn Fn(&mut Relocate),
            "acknowledgements",
        ),
        (&|it| it.epoch = PlacementEpoch(2), "epoch"),
        (&|it| it.generation = Generation(2), "fence"),
        (&|it| it.writer = WriterId(2), "admitted"),
        (&|it| it.low_water = Sequence(3), "low-water"),
        (&|it| it.moves.clear(), "malformed"),
        (&|it| it.moves = vec![it.moves[0]; 2], "overlap"),
        (
            &|it| it.moves[0].from.container = at(1),
            "another container",
        ),
        (&|it| it.moves[0].unit_offset_blocks = 121, "largest unit"),
        (
            &|it| it.moves = vec![it.moves[0]; MAXIMUM_MOVES + 1],
            "moves",
        ),
    ] {
        let text = refused(&mut shard, change);
        assert!(text.contains(word), "{word}: {text}");
    }
    shard.fence(2, &[1, 2]);
    let stale = refused(&mut shard, &|_| {});
    assert!(stale.contains("stale generation"), "{stale}");
}

#[test]
fn a_frozen_layer_is_relocated_too() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let mut newer = fence(2, &[1]);
    if let ShardCommand::Fence { layer, .. } = &mut newer {
        *layer = LayerId(2);
    }
    shard.run(newer);
    let mut relocate = moves(2, 1, 0, 0, 8);
    relocate.generation = Generation(2);
    relocated(&mut shard, relocate);
    assert_eq!(shard.map(8), "w1:2+0x8");
}

#[test]
fn the_members_that_lack_the_new_blob_are_told() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.confirm(3, &[blob(1, 1)], 1);
    relocated(&mut shard, moves(2, 1, 0, 0, 8));
    assert_eq!(shard.lacks(3), [2]);
}

/// What SPARSE finds from a block on: `first block+blocks`, and where to go on.
fn sparse(shard: &Shard, first_block: u32) -> (String, Option<u32>) {
    let reply = query::sparse(&shard.state, shard.index, home(), LayerId(1), first_block);
    let Ok(ShardReply::Sparse { view, next }) = reply else {
        panic!("expected ranges, got {reply:?}");
    };
    assert_eq!(view.placements.len(), usize::from(!view.extents.is_empty()));
    let words = view.extents.iter();
    let words: Vec<String> = words
        .map(|extent| format!("{}+{}", extent.first_block, extent.blocks))
        .collect();
    (words.join(" "), next)
}

#[test]
fn a_blob_is_mostly_dead_when_a_quarter_of_it_lives() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 16));
    shard.committed(write(2, 0, 11));
    assert_eq!(sparse(&shard, 0), (String::new(), None), "5 of 16");
    shard.committed(unmap(3, 11, 1));
    assert_eq!(sparse(&shard, 0), ("12+4".into(), None), "4 of 16");
    assert_eq!(sparse(&shard, 13), (String::new(), None));
    relocated(&mut shard, moves(4, 1, 0, 12, 4));
    assert_eq!(sparse(&shard, 0), (String::new(), None), "moved");
}

#[test]
fn a_page_ends_where_one_relocation_does() {
    let mut shard = Shard::ready();
    let count = u32::try_from(MAXIMUM_MOVES).unwrap() + 2;
    for at in 0..count {
        let sequence = u64::from(at) * 2 + 1;
        shard.committed(write(sequence, at * 8, 8));
        shard.committed(unmap(sequence + 1, at * 8, 7));
    }
    let (found, next) = sparse(&shard, 0);
    assert_eq!(found.split(' ').count(), MAXIMUM_MOVES);
    let next = next.expect("two are left");
    let (found, next) = sparse(&shard, next);
    assert_eq!((found.split(' ').count(), next), (2, None));
}
