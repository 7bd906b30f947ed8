//! Golden bytes of what outlives a process (docs/format/hblock-records.md).

use std::collections::BTreeMap;

use hedgerow_env::{Generation, GroupId, PlacementEpoch, Sequence, StoreId, WriterId};
use hedgerow_protocol::{decode, encode};

use crate::testing::container;
use crate::{ContainerRecord, FeedRecord, Role, SequenceRanges};

#[test]
fn records_keep_their_bytes() {
    let mut ranges = SequenceRanges::default();
    for sequence in [3, 4, 9] {
        ranges.insert(Sequence(sequence));
    }
    let record = ContainerRecord {
        container: container(),
        epoch: PlacementEpoch(5),
        generation: Generation(300),
        role: Role::Retired,
        members: vec![StoreId(1), StoreId(2)],
        collected: BTreeMap::from([(WriterId(7), ranges)]),
    };
    let bytes = encode(&record);
    let golden = [
        25, 0, 1, 0, 1, 1, 0, 5, 251, 44, 1, 1, 2, 1, 2, 1, 7, 2, 3, 4, 9, 9,
    ];
    assert_eq!(bytes[..], golden);
    assert_eq!(decode::<ContainerRecord>(&bytes), Ok(record));

    let feed = FeedRecord {
        group: GroupId(2),
        handled: 70_000,
    };
    let bytes = encode(&feed);
    assert_eq!(bytes[..], [26, 0, 1, 0, 2, 252, 112, 17, 1, 0]);
    assert_eq!(decode::<FeedRecord>(&bytes), Ok(feed));
}
