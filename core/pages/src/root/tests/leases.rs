//! `Attach`, `Detach`, `Renew` and `ExpireLease`.

use super::*;

#[test]
fn an_exclusive_disk_waits_for_the_release_of_its_holder() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let first = root.granted(attach(&disk, session(1, 7), 100));
    assert_eq!(
        (first.writer, first.disk.generation),
        (WriterId(1), Generation(2))
    );
    let again = root.granted(attach(&disk, session(1, 7), 100));
    assert_eq!(again, first, "the same nonce");

    let held = RootRefusal::Held {
        holder: session(1, 7),
    };
    assert_eq!(root.refused(attach(&disk, session(2, 1), 200)), held);
    let restarted = attach(&disk, session(1, 8), 101);
    assert_eq!(
        root.refused(restarted.clone()),
        held,
        "its own old incarnation too"
    );

    let renewed = root.granted(attach(&disk, session(1, 7), 102));
    assert_eq!(
        (renewed.writer, renewed.disk.generation),
        (WriterId(2), Generation(3))
    );
    assert_eq!(
        renewed.disk.attachments.len(),
        1,
        "in place of the former one"
    );

    let detach = |writer| RootCommand::Detach {
        disk: disk.disk,
        writer: WriterId(writer),
    };
    assert_eq!(root.run(detach(1)), RootOutcome::Done, "not held any more");
    assert_eq!(root.refused(restarted.clone()), held);
    assert_eq!(root.run(detach(2)), RootOutcome::Done);
    assert_eq!(root.run(detach(2)), RootOutcome::Done, "repeated");
    let next = root.granted(restarted);
    assert_eq!(
        (next.writer, next.disk.generation),
        (WriterId(3), Generation(5))
    );
    assert!(
        root.pending(&RootQuery::PendingFloors).is_empty(),
        "it was released"
    );
}

#[test]
fn an_attach_that_comes_behind_a_later_one_of_its_session_is_refused() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let holder = session(1, 7);
    root.granted(attach(&disk, holder, 2));
    let overtaken = RootRefusal::Overtaken { newest: 2 };
    assert_eq!(root.refused(attach(&disk, holder, 1)), overtaken);
    root.run(RootCommand::Detach {
        disk: disk.disk,
        writer: WriterId(1),
    });
    for late in [1, 2] {
        assert_eq!(root.refused(attach(&disk, holder, late)), overtaken);
    }
    let other = root.disk(create(2, "other"));
    root.granted(attach(&other, holder, 1));
    root.granted(attach(&disk, session(1, 8), 1));
}

#[test]
fn the_end_of_a_lease_fences_its_disks_everywhere() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let holder = session(1, 7);
    root.granted(attach(&disk, holder, 100));
    let attached_at = root.renewed_at(holder).unwrap();
    let renewed = root.run(RootCommand::Renew(holder));
    let renewed_at = root.renewed_at(holder).unwrap();
    assert!(renewed_at > attached_at);
    assert_eq!(renewed, RootOutcome::Renewed { renewed_at });
    let expire = |renewed_at| RootCommand::ExpireLease {
        session: holder,
        renewed_at,
    };
    let stands = root.run(expire(attached_at));
    assert_eq!(
        stands,
        RootOutcome::Renewed { renewed_at },
        "renewed meanwhile"
    );
    assert_eq!(root.run(expire(renewed_at)), RootOutcome::Done);
    assert_eq!(root.renewed_at(holder), None);
    assert_eq!(root.pending(&RootQuery::PendingFloors), [(1, vec![1, 2])]);
    for command in [RootCommand::Renew(holder), attach(&disk, holder, 101)] {
        assert_eq!(root.refused(command), RootRefusal::LeaseEnded);
    }
    assert_eq!(root.run(expire(renewed_at)), RootOutcome::Done, "repeated");

    let applied = |generation, group| RootCommand::FloorApplied {
        disk: disk.disk,
        generation: Generation(generation),
        group: GroupId(group),
    };
    root.run(applied(2, 1));
    assert_eq!(
        root.pending(&RootQuery::PendingFloors),
        [(1, vec![1, 2])],
        "an older one"
    );
    root.run(applied(3, 1));
    assert_eq!(root.pending(&RootQuery::PendingFloors), [(1, vec![2])]);
    root.run(applied(3, 2));
    assert!(root.pending(&RootQuery::PendingFloors).is_empty());
    let next = root.granted(attach(&disk, session(2, 1), 200));
    assert_eq!(next.disk.generation, Generation(4));
}

#[test]
fn a_lease_that_holds_nothing_ends_without_consequence() {
    let mut root = Root::ready();
    let idle = session(3, 3);
    root.run(RootCommand::Renew(idle));
    let expire = RootCommand::ExpireLease {
        session: idle,
        renewed_at: root.renewed_at(idle).unwrap(),
    };
    root.run(expire);
    let renewed = root.run(RootCommand::Renew(idle));
    assert!(matches!(renewed, RootOutcome::Renewed { .. }));
}

#[test]
fn a_wait_for_a_lease_that_ended_never_ends_the_next_one() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    let holder = session(1, 7);
    let first = root.granted(attach(&disk, holder, 100));
    let expire = RootCommand::ExpireLease {
        session: holder,
        renewed_at: root.renewed_at(holder).unwrap(),
    };
    root.run(RootCommand::Detach {
        disk: disk.disk,
        writer: first.writer,
    });
    assert_eq!(root.run(expire.clone()), RootOutcome::Done, "nothing held");
    let second = root.granted(attach(&disk, holder, 101));
    let answer = root.run(expire);
    assert!(matches!(answer, RootOutcome::Renewed { .. }), "{answer:?}");
    let record = root.named("demo");
    assert_eq!(record.generation, second.disk.generation, "not fenced");
}

#[test]
fn ended_sessions_are_remembered_and_their_number_is_bounded() {
    let mut root = Root::ready();
    let disk = root.disk(create(1, "demo"));
    for incarnation in 1..=40 {
        root.granted(attach(&disk, session(1, incarnation), incarnation));
        let renewed_at = root.renewed_at(session(1, incarnation)).unwrap();
        root.run(RootCommand::ExpireLease {
            session: session(1, incarnation),
            renewed_at,
        });
    }
    let newest = RootCommand::Renew(session(1, 40));
    assert_eq!(root.refused(newest), RootRefusal::LeaseEnded);
    let remembered = root.state.0.keys().filter(|key| key[0] == 11).count();
    assert_eq!(remembered, 32);
}
