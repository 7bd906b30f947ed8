//! The registry: which replica of a group a store has, after any history and damage.

use hedgerow_disk::journal::{Class, DamagedRange, HeaderCopy, Position, RecoveredRecord};
use hedgerow_disk::testing::World;
use hedgerow_disk::{Store, StoreConfig};
use hedgerow_env::{GroupId, NodeId, ReplicaNumber, StoreId};
use hedgerow_protocol::{GroupMember, MemberId};

use super::super::registry::{Key, Registry, ReplicaRecord};

fn record(group: u32, replica: u32, retired: bool) -> ReplicaRecord {
    ReplicaRecord {
        group: GroupId(group),
        member: GroupMember {
            member: MemberId {
                store: StoreId(5),
                replica: ReplicaNumber(replica),
            },
            node: NodeId(6),
            address: "node6:700".to_owned(),
        },
        retired,
    }
}

fn found(at: u64, record: &ReplicaRecord) -> RecoveredRecord {
    RecoveredRecord {
        position: Position(at),
        record: record.record(),
        class: Class::Control,
    }
}

fn lost(record: &ReplicaRecord, complete: bool) -> DamagedRange {
    let header = HeaderCopy {
        position: Position(900),
        stream: record.record().stream,
        kind: record.record().kind,
        class: Class::Control,
        header: record.record().header,
        content: 0,
    };
    DamagedRange {
        start: Position(900),
        end: Position(1000),
        records: vec![header],
        complete,
    }
}

/// The newest records and the keys whose newest record is lost.
fn recover(
    records: Vec<RecoveredRecord>,
    damaged: Vec<DamagedRange>,
) -> (Vec<ReplicaRecord>, Vec<Key>) {
    let world = World::new(1);
    let env = world.env();
    world.run(async move {
        let (store, _) = Store::open(&env, "pool", StoreConfig::small())
            .await
            .unwrap();
        let (registry, lost) = Registry::recover(store.journal().clone(), records, &damaged);
        (registry.records(), lost.into_iter().collect())
    })
}

#[test]
fn the_highest_number_wins_and_of_one_number_the_retirement() {
    let histories = vec![
        found(1, &record(1, 1, false)),
        // A retirement that was copied forward behind its successor's registration.
        found(2, &record(1, 2, false)),
        found(3, &record(1, 1, true)),
        found(4, &record(2, 7, true)),
        found(5, &record(2, 7, false)),
    ];
    let expected = vec![record(1, 2, false), record(2, 7, true)];
    assert_eq!(recover(histories, Vec::new()), (expected, Vec::new()));
}

#[test]
fn a_lost_registration_is_known_by_the_copy_of_its_header() {
    let newest = record(1, 2, false);
    let older = found(1, &record(1, 1, true));
    let (_, keys) = recover(vec![older], vec![lost(&newest, true)]);
    assert_eq!(keys, vec![newest.key()]);
    // A lost record that was superseded matters to nobody.
    let intact = found(5, &newest);
    let (records, keys) = recover(vec![intact], vec![lost(&record(1, 1, true), true)]);
    assert_eq!((records, keys), (vec![newest], Vec::new()));
}

#[test]
fn registrations_are_durable_when_they_return_and_survive_freed_segments() {
    let world = World::new(2);
    let env = world.env();
    world.run(async move {
        let (store, _) = Store::open(&env, "pool", StoreConfig::small())
            .await
            .unwrap();
        let (registry, _) = Registry::recover(store.journal().clone(), Vec::new(), &[]);
        registry.write(record(1, 1, false)).await.unwrap();
        registry.write(record(1, 1, true)).await.unwrap();
        registry.write(record(2, 3, false)).await.unwrap();
        assert!(!registry.is_in_doubt());
        registry.doubt().await.unwrap();
    });
    world.power_cut();
    let env = world.env();
    world.run(async move {
        let (store, mut recovery) = Store::open(&env, "pool", StoreConfig::small())
            .await
            .unwrap();
        let stream = super::super::registry::REGISTRY_STREAM;
        let records = recovery.control.remove(&stream).unwrap();
        let journal = store.journal().clone();
        let (registry, lost) = Registry::recover(journal.clone(), records, &recovery.damaged);
        assert_eq!(
            registry.records(),
            vec![record(1, 1, true), record(2, 3, false)]
        );
        assert!(lost.is_empty());
        let before = journal.live_positions(stream);
        assert!(registry.is_in_doubt());
        assert_eq!(
            before.len(),
            3,
            "one live record for each group, and the doubt"
        );
        let request = hedgerow_disk::journal::CopyForward {
            stream,
            positions: before.clone(),
        };
        registry.free_segment(request).await.unwrap();
        let after = journal.live_positions(stream);
        assert_eq!(after.len(), 3);
        assert!(registry.is_in_doubt());
        assert!(
            after.iter().all(|position| !before.contains(position)),
            "they moved"
        );
    });
}
