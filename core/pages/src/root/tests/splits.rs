//! `SplitShard`, `ShardOpened` and `SplitDone`.

use hedgerow_env::MapEpoch;
use hedgerow_protocol::SplitRecord;

use super::*;

fn split_of(root: &Root) -> Option<SplitRecord> {
    match query::answer(&root.state, &RootQuery::Split).unwrap() {
        RootAnswer::Split(split) => split,
        other => panic!("{other:?}"),
    }
}

/// The groups of the slots, with the map epoch.
fn slots(root: &Root) -> (u64, Vec<u32>) {
    let table = query::table(&root.state).unwrap();
    let groups = table.shards.iter().map(|shard| shard.group.0).collect();
    (table.epoch.0, groups)
}

fn pending(root: &Root, query: &RootQuery) -> Vec<u32> {
    match query::answer(&root.state, query).unwrap() {
        RootAnswer::Pending(work) => {
            let groups = work.iter().flat_map(|item| &item.groups);
            groups.map(|group| group.0).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn split(group: u32, epoch: u64) -> RootCommand {
    RootCommand::SplitShard {
        group: GroupId(group),
        epoch: MapEpoch(epoch),
    }
}

fn opened(group: u32) -> RootCommand {
    let group = GroupId(group);
    RootCommand::ShardOpened { group }
}

fn done(group: u32) -> RootCommand {
    let group = GroupId(group);
    RootCommand::SplitDone { group }
}

#[test]
fn a_split_is_shown_when_the_new_shard_serves() {
    let mut root = Root::ready();
    let (epoch, before) = slots(&root);
    assert_eq!(before, [1, 2]);
    let refused = root.refused(split(1, epoch + 1));
    assert!(matches!(refused, RootRefusal::TableChanged { .. }));
    assert!(matches!(
        root.refused(split(9, epoch)),
        RootRefusal::Invalid { .. }
    ));
    let RootOutcome::Splitting(begun) = root.run(split(1, epoch)) else {
        panic!("the split begins");
    };
    assert_eq!((begun.from, begun.to.group), (GroupId(1), GroupId(3)));
    assert_eq!(begun.to.members[0].member.replica, ReplicaNumber(1));
    assert_eq!(slots(&root), (epoch, before), "nobody is sent there yet");
    let again = root.run(split(1, epoch));
    assert_eq!(again, RootOutcome::Splitting(begun), "asked again");
    assert!(matches!(
        root.refused(split(2, epoch)),
        RootRefusal::SplitUnderWay { .. }
    ));
    // Of no split, or too early: nothing changes.
    root.run(opened(7));
    root.run(done(3));
    assert!(split_of(&root).is_some_and(|split| !split.opened));

    root.run(opened(3));
    assert_eq!(slots(&root), (epoch + 1, vec![1, 2, 3, 2]));
    assert!(split_of(&root).is_some_and(|split| split.opened));
    root.run(opened(3));
    assert_eq!(slots(&root).0, epoch + 1, "opened once");
    root.run(done(3));
    assert_eq!(split_of(&root), None);
    // A group that has two slots changes its members in both, and splits without a slot more.
    root.run(RootCommand::SetGroupMembers(group(2, &[1, 2])));
    let table = query::table(&root.state).unwrap();
    assert!([1, 3].map(|slot| table.shards[slot].members.len()) == [2, 2]);
    root.run(split(2, epoch + 2));
    root.run(opened(4));
    assert_eq!(slots(&root).1, [1, 2, 3, 4]);
}

#[test]
fn whatever_waits_for_each_shard_waits_for_the_new_one_too() {
    let mut root = Root::ready();
    let RootOutcome::Disk(first) = root.run(create(1, "first")) else {
        panic!("it is created");
    };
    let RootOutcome::Disk(second) = root.run(create(2, "second")) else {
        panic!("it is created");
    };
    root.run(RootCommand::DeleteDisk { disk: first.disk });
    root.run(RootCommand::DiskDropped {
        disk: first.disk,
        group: GroupId(2),
    });
    assert_eq!(pending(&root, &RootQuery::PendingDrops), [1]);
    let resize = |disk: &DiskRecord, size_bytes| RootCommand::Resize {
        disk: disk.disk,
        from_bytes: disk.size_bytes,
        generation: disk.generation,
        size_bytes,
    };
    root.run(resize(&second, 1 << 30));
    assert_eq!(pending(&root, &RootQuery::PendingFloors), [1, 2]);
    root.run(split(1, slots(&root).0));
    assert_eq!(pending(&root, &RootQuery::PendingDrops), [1, 3]);
    assert_eq!(pending(&root, &RootQuery::PendingFloors), [1, 2, 3]);
    let applied = |group| RootCommand::FloorApplied {
        disk: second.disk,
        generation: Generation(second.generation.0 + 1),
        group: GroupId(group),
    };
    for group in [1, 2] {
        root.run(applied(group));
    }
    let refused = root.refused(attach(&second, session(1, 1), 1));
    assert!(matches!(refused, RootRefusal::Cutting { .. }), "of shard 3");
    root.run(applied(3));
    let granted = root.run(attach(&second, session(1, 1), 1));
    assert!(matches!(granted, RootOutcome::Granted(_)));
    // What begins to wait while the split is under way concerns the new shard, too.
    root.run(RootCommand::Detach {
        disk: second.disk,
        writer: WriterId(1),
    });
    root.run(RootCommand::DeleteDisk { disk: second.disk });
    assert_eq!(pending(&root, &RootQuery::PendingDrops), [1, 3, 1, 2, 3]);
}

#[test]
fn no_shard_has_less_than_its_share_of_the_most_slots() {
    let mut root = Root::ready();
    // Always the one that was split before: it has half of what it had.
    for group in 3.. {
        let (epoch, slots) = slots(&root);
        if slots.len() == 1024 {
            let refused = root.refused(split(1, epoch));
            assert!(matches!(refused, RootRefusal::Invalid { .. }));
            // Another one has more than one slot.
            let other = root.run(split(2, epoch));
            assert!(matches!(other, RootOutcome::Splitting(_)));
            return;
        }
        root.run(split(1, epoch));
        root.run(opened(group));
        root.run(done(group));
    }
}
