//! The count of acknowledgements, by transcripts: each target has a letter, its outcome follows.

use hedgerow_env::{PlacementEpoch, StoreId};
use hedgerow_protocol::HBlockRefusal;

use crate::{Acknowledgements, TargetOutcome, Verdict};

/// Plays `events` (`a+` held, `a?` unknown, `a-` busy, `a0` full, `a!` stale epoch,
/// `.` the deadline) on targets a, b, c... in these domains and tells where the verdict came, and which.
fn play(domains: &[u16], targets: usize, quorum: u8, events: &str) -> String {
    let stores: Vec<StoreId> = (1..=targets)
        .map(|id| StoreId(id.try_into().unwrap()))
        .collect();
    let mut counting = Acknowledgements::new(&stores, domains, quorum).unwrap();
    let mut told = String::new();
    for event in events.split_whitespace() {
        let verdict = if event == "." {
            counting.deadline()
        } else {
            let (target, outcome) = event.split_at(1);
            let index = usize::from(target.as_bytes()[0] - b'a');
            let outcome = match outcome {
                "+" => TargetOutcome::Held,
                "?" => TargetOutcome::Unknown,
                "-" => TargetOutcome::Refused(HBlockRefusal::Busy {
                    reason: "full".to_owned(),
                }),
                "!" => TargetOutcome::Refused(HBlockRefusal::StaleEpoch {
                    current: PlacementEpoch(9),
                }),
                "0" => TargetOutcome::Refused(HBlockRefusal::NoRoom {
                    acknowledged: Vec::new(),
                }),
                other => panic!("unknown event {other}"),
            };
            counting.record(index, &outcome)
        };
        if let Some(verdict) = verdict {
            assert!(told.is_empty(), "a second verdict: {verdict:?}");
            told = format!("{event} {}", tell(&verdict));
        }
    }
    assert_eq!(counting.is_decided(), !told.is_empty());
    told
}

fn tell(verdict: &Verdict) -> String {
    let letters = |stores: &[StoreId]| -> String {
        stores
            .iter()
            .map(|store| char::from(b'a' + u8::try_from(store.0 - 1).unwrap()))
            .collect()
    };
    match verdict {
        Verdict::Written(stores) => format!("written {}", letters(stores)),
        Verdict::TooFew(stores) => format!("too-few {}", letters(stores)),
        Verdict::NoRoom(stores) => format!("no-room {}", letters(stores)),
        Verdict::Refused(refusal) => format!("refused: {refusal}"),
    }
}

#[test]
fn a_write_is_written_at_w_and_not_before() {
    for (targets, quorum, events, told) in [
        (1, 1, "a+", "a+ written a"),
        (3, 2, "a+", ""),
        (3, 2, "a+ a+", ""),
        (3, 2, "a+ c+ b+", "c+ written ac"),
        (3, 2, "b+ c+", "c+ written bc"),
        (3, 2, "a? b+ c+", "c+ written bc"),
        (3, 3, "a+ b+ c+", "c+ written abc"),
        (4, 3, "a+ b+ d+ c+", "d+ written abd"),
    ] {
        assert_eq!(play(&[], targets, quorum, events), told, "{events}");
    }
}

#[test]
fn too_few_comes_when_no_more_can_answer_or_the_time_is_up() {
    for (events, told) in [
        ("a+ .", ". too-few a"),
        (".", ". too-few "),
        ("a+ b? c-", "c- too-few a"),
        ("a? b?", "b? too-few "),
        ("a+ . b+ c+", ". too-few a"),
        ("a+ b+ .", "b+ written ab"),
    ] {
        assert_eq!(play(&[], 3, 2, events), told, "{events}");
    }
}

/// Full stores are told from silent ones: only room would have helped.
#[test]
fn no_room_comes_when_room_alone_is_missing() {
    for (events, told) in [
        ("a0 b0", "b0 no-room "),
        ("a0 b+ c0", "c0 no-room b"),
        ("a0 b+ .", ". no-room b"),
        ("a0 b? .", "b? too-few "),
        ("a0 b+ c+", "c+ written bc"),
        ("a0 .", ". too-few "),
    ] {
        assert_eq!(play(&[], 3, 2, events), told, "{events}");
    }
}

#[test]
fn the_acknowledging_set_spans_two_domains_where_the_members_do() {
    for (domains, events, told) in [
        (&[7, 7, 8][..], "a+ b+", ""),
        (&[7, 7, 8], "a+ b+ c+", "c+ written abc"),
        (&[7, 7, 8], "a+ c+", "c+ written ac"),
        (&[7, 7, 8], "a+ b+ c?", "c? too-few ab"),
        (&[7, 7, 8], "c? a+", "c? too-few "),
        (&[7, 7, 7], "a+ b+", "b+ written ab"),
        (&[1, 2, 3], "b+ c+", "c+ written bc"),
    ] {
        assert_eq!(play(domains, 3, 2, events), told, "{domains:?} {events}");
    }
    assert_eq!(
        play(&[1, 2], 2, 1, "a+"),
        "a+ written a",
        "one copy cannot span"
    );
}

#[test]
fn a_member_that_knows_better_ends_the_write_unless_it_is_written() {
    let stale = "refused: stale placement epoch; e9 has been seen";
    assert_eq!(play(&[], 3, 2, "a+ b!"), format!("b! {stale}"));
    assert_eq!(play(&[], 3, 2, "b! a+ c+"), format!("b! {stale}"));
    assert_eq!(play(&[], 3, 2, "a+ c+ b!"), "c+ written ac");
}

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let stores = [StoreId(1), StoreId(2), StoreId(1)];
    for (stores, domains, quorum) in [
        (&stores[..0], &[][..], 1),
        (&stores[..2], &[], 0),
        (&stores[..2], &[], 3),
        (&stores[..2], &[1], 1),
        (&stores[..3], &[], 2),
    ] {
        assert!(Acknowledgements::new(stores, domains, quorum).is_err());
    }
}
