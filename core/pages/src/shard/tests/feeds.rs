//! Pulling: pages, positions, what is forgotten when it was handled.

use super::*;

fn count_collected(pulled: &Pulled) -> usize {
    let collected = |change: &&Change| matches!(change, Change::Collected { .. });
    pulled.changes.iter().filter(collected).count()
}

/// What a store compares itself with after it lost blobs whose names it does not know.
#[test]
fn holdings_list_what_a_store_is_counted_for_and_nothing_else() {
    let mut shard = Shard::ready();
    for sequence in 1..=3 {
        let first_block = u32::try_from(sequence).unwrap() * 8;
        shard.committed(write(sequence, first_block, 8));
    }
    let held =
        |shard: &Shard, store, after| match query::holdings(&shard.state, StoreId(store), after) {
            Ok(ShardReply::Holdings { names, next: None }) => {
                names.iter().map(|name| name.sequence.0).collect::<Vec<_>>()
            }
            other => panic!("expected the last page of holdings, got {other:?}"),
        };
    assert_eq!(held(&shard, 1, None), [1, 2, 3]);
    assert_eq!(held(&shard, 1, Some(blob(1, 2))), [3], "after the second");
    assert!(held(&shard, 3, None).is_empty(), "it acknowledged none");
    shard.confirm(3, &[blob(1, 2)], 1);
    assert_eq!(held(&shard, 3, None), [2]);
    assert!(held(&shard, 9, None).is_empty(), "no member");
}

#[test]
fn pages_follow_the_log_and_never_split_one_entry() {
    let mut shard = Shard::ready();
    for entry in 0..3 {
        let commits = (1..=4).map(|sequence| {
            let sequence = entry * 4 + sequence;
            let mut commit = write(sequence, 0, 1);
            commit.extents[0].first_block = u32::try_from(sequence).unwrap();
            ShardCommand::Commit(commit)
        });
        shard.entry(commits.collect());
    }
    let mut after = 0;
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let pulled = shard.pull(3, after, 2);
        assert!(!pulled.full);
        for change in &pulled.changes {
            if let Change::Incomplete { blob, .. } = change {
                seen.push(blob.sequence.0);
            }
        }
        pages += 1;
        assert!(pulled.next > after, "a page goes on");
        after = pulled.next;
        if !pulled.more {
            break;
        }
    }
    assert_eq!(seen, (1..=12).collect::<Vec<u64>>());
    assert!(pages >= 3, "{pages} pages");
    assert_eq!(after, shard.index);
    assert!(shard.pull(3, after, 2).changes.is_empty());
}

#[test]
fn what_was_handled_is_forgotten_and_what_is_still_true_is_not() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    shard.committed(write(2, 0, 8));
    shard.run(void(&[], 3));
    shard.run(collect(1, &[1]));
    assert_eq!(count_collected(&shard.pull(1, 0, 10)), 1);
    let handled = |store, index| ShardCommand::Handled {
        store: StoreId(store),
        index,
    };
    shard.run(handled(1, shard.index - 1));
    assert_eq!(count_collected(&shard.pull(1, 0, 10)), 1, "it came later");
    shard.run(handled(1, shard.index));
    shard.run(handled(3, shard.index));
    assert_eq!(count_collected(&shard.pull(1, 0, 10)), 0);
    assert_eq!(shard.lacks(3), vec![2], "handled or not, it lacks the blob");
    assert_eq!(
        count_collected(&shard.pull(2, 0, 10)),
        1,
        "others have their own feed"
    );
}

#[test]
fn a_store_too_far_behind_gets_a_full_listing_that_it_can_page_through() {
    let mut shard = Shard::ready();
    shard.committed(write(1, 0, 8));
    let row = super::super::rows::StoreRow {
        dropped: 50,
        ..Default::default()
    };
    let key = super::super::keys::store(StoreId(3));
    shard.state.0.insert(key, row.encode());
    for sequence in 2..40 {
        let mut commit = write(sequence, 0, 1);
        commit.extents[0].first_block = u32::try_from(sequence).unwrap() * 8;
        shard.committed(commit);
    }
    let mut pulled = shard.pull(3, 20, 10);
    let mut listed = Vec::new();
    let mut pages = 0;
    loop {
        assert!(pulled.full, "every page of a full listing says so");
        listed.extend(pulled.changes);
        pages += 1;
        if !pulled.more {
            break;
        }
        let before = shard.state.clone();
        shard.run(ShardCommand::Handled {
            store: StoreId(3),
            index: pulled.next,
        });
        assert_eq!(shard.state, before, "a listing under way forgets nothing");
        pulled = shard.pull(3, pulled.next, 10);
    }
    assert!(pages > 2, "{pages} pages");
    assert_eq!(listed.len(), 40, "its placement and 39 blobs");
    assert_eq!(
        pulled.next & query::FULL_LISTING,
        0,
        "from here on a suffix"
    );
}
