//! The pure cores: request tables, keep-alive, back-off, the decisions of a handshake.

use super::*;
use crate::back_off::BackOff;
use crate::frame::RequestId;
use crate::handshake::{answer, common_version, conclude};
use crate::hello::{Hello, Introduction, SPOKEN, Verdict, VersionRange};
use crate::keep_alive::{KeepAlive, Smoothed, Step};
use crate::multiplexer::{Progress, RequestTable, ServeTable};

fn at(milliseconds: u64) -> Instant {
    Instant::from_nanoseconds(milliseconds * 1_000_000)
}

#[test]
fn each_request_is_completed_once() {
    let mut table = RequestTable::default();
    let first = table.begin("first").unwrap();
    let second = table.begin("second").unwrap();
    assert_eq!(
        table.complete(first),
        None,
        "nothing answers what was not sent"
    );
    assert!(table.sending(first) && table.sending(second));
    assert_eq!(table.complete(second), Some("second"));
    assert_eq!(table.complete(second), None, "twice");
    assert_eq!(table.abandon(first), Some(Progress::Sent));
    assert_eq!(table.complete(first), None, "late");
    let third = table.begin("third").unwrap();
    assert_eq!(table.abandon(third), Some(Progress::NotSent));
    assert!(!table.sending(third), "nobody waits for it");
    assert_eq!((table.length(), table.begun()), (0, 3));
}

#[test]
fn the_end_of_a_connection_tells_what_was_sent() {
    let mut table = RequestTable::default();
    let first = table.begin(1).unwrap();
    table.begin(2).unwrap();
    assert!(table.sending(first));
    assert_eq!(table.close(), [(Progress::Sent, 1), (Progress::NotSent, 2)]);
    assert_eq!(table.begin(3), Err(3));
}

#[test]
fn a_request_that_runs_is_not_started_again_and_can_be_stopped_at_any_time() {
    let mut table = ServeTable::default();
    let id = RequestId(1);
    assert!(table.admit(id));
    assert!(!table.admit(id), "a second copy");
    assert_eq!(table.attach(id, "stop"), Ok(()));
    assert_eq!(table.cancel(id), Some("stop"));
    assert_eq!(table.cancel(id), None);
    // Cancelled between admission and attachment: the means come back to be used.
    assert!(table.admit(id), "a later copy runs again");
    assert_eq!(table.cancel(id), None);
    assert_eq!(table.attach(id, "stop"), Err("stop"));
    assert!(table.admit(id) && table.admit(RequestId(2)));
    assert_eq!(table.attach(id, "one"), Ok(()));
    table.finish(RequestId(2));
    assert_eq!(table.length(), 1);
    assert_eq!(table.close(), ["one"]);
    assert!(!table.admit(RequestId(3)));
}

#[test]
fn silence_condemns_unless_we_do_not_read() {
    let second = Duration::from_secs(1);
    let mut alive = KeepAlive::new(at(0), second, 1, 3 * second);
    assert_eq!(alive.step(at(0)), Step::Wait(at(1000)));
    assert_eq!(alive.step(at(1000)), Step::Ping(RequestId(1)));
    assert_eq!(alive.step(at(1000)), Step::Wait(at(2000)));
    assert_eq!(
        alive.pong(RequestId(1), at(1030)),
        Some(Duration::from_millis(30))
    );
    assert_eq!(alive.pong(RequestId(1), at(1040)), None, "a second copy");
    alive.received(at(1030));
    assert_eq!(alive.step(at(2000)), Step::Ping(RequestId(2)));
    assert_eq!(alive.step(at(3000)), Step::Ping(RequestId(3)));
    assert_eq!(alive.pong(RequestId(2), at(3010)), None, "of an older ping");
    assert_eq!(alive.step(at(3500)), Step::Wait(at(4000)));
    assert_eq!(alive.step(at(4029)), Step::Ping(RequestId(4)));
    assert_eq!(alive.step(at(4030)), Step::Dead);
    alive.reading(false, at(4030));
    assert_eq!(
        alive.step(at(9000)),
        Step::Ping(RequestId(5)),
        "not while we do not read"
    );
    alive.reading(true, at(9500));
    assert_eq!(alive.step(at(9500)), Step::Wait(at(10_000)));
    assert_eq!(alive.step(at(12_499)), Step::Ping(RequestId(6)));
    assert_eq!(
        alive.step(at(12_500)),
        Step::Dead,
        "counted from when reading resumed"
    );
}

#[test]
fn the_called_side_pings_rarely_unless_it_does_not_read() {
    let second = Duration::from_secs(1);
    let mut alive = KeepAlive::new(at(0), second, 4, 4 * second);
    for now in [1000, 2000, 3000] {
        alive.received(at(now));
        assert_eq!(alive.step(at(now)), Step::Wait(at(now + 1000)));
    }
    alive.received(at(4000));
    assert_eq!(alive.step(at(4000)), Step::Ping(RequestId(1)));
    assert_eq!(alive.step(at(4000)), Step::Wait(at(5000)));
    alive.reading(false, at(4500));
    assert_eq!(alive.step(at(5000)), Step::Wait(at(5500)));
    assert_eq!(alive.step(at(5500)), Step::Ping(RequestId(2)));
    assert_eq!(alive.step(at(6500)), Step::Ping(RequestId(3)));
    alive.reading(true, at(7000));
    assert_eq!(alive.step(at(7500)), Step::Ping(RequestId(4)));
    assert_eq!(alive.step(at(8500)), Step::Wait(at(9500)));
}

#[test]
fn latency_follows_slowly() {
    let mut smoothed = Smoothed::default();
    assert_eq!(smoothed.value(), None);
    smoothed.sample(Duration::from_millis(8));
    smoothed.sample(Duration::from_millis(16));
    assert_eq!(smoothed.value(), Some(Duration::from_millis(9)));
}

#[test]
fn pauses_double_up_to_the_limit_and_use_forgives() {
    let limit = Duration::from_millis(1000);
    let mut back_off = BackOff::new(Duration::from_millis(20), limit);
    assert_eq!(back_off.paused_until(at(0)), None);
    let mut shortest = Vec::new();
    for _ in 0..8 {
        back_off.failed(at(0), 0);
        shortest.push(
            back_off
                .paused_until(at(0))
                .unwrap()
                .since(at(0))
                .as_millis(),
        );
    }
    assert_eq!(shortest, [10, 20, 40, 80, 160, 320, 500, 500]);
    back_off.failed(at(0), u64::MAX);
    let longest = back_off.paused_until(at(0)).unwrap().since(at(0));
    assert!(
        longest > Duration::from_millis(999) && longest <= limit,
        "{longest:?}"
    );
    assert_eq!(back_off.paused_until(at(1000)), None, "over");
    // A short life without an answer counts as one failure more; a useful one starts again.
    back_off.ended(at(2000), at(2100), false, 0);
    assert_eq!(back_off.paused_until(at(2100)), Some(at(2600)));
    back_off.ended(at(3000), at(3100), true, 0);
    assert_eq!(back_off.paused_until(at(3100)), Some(at(3110)));
    for _ in 0..100 {
        back_off.failed(at(0), u64::MAX);
    }
    assert!(back_off.paused_until(at(0)).unwrap() <= at(1000));
}

#[test]
fn the_newest_common_version_is_spoken() {
    let range = |oldest, newest| VersionRange { oldest, newest };
    assert_eq!(common_version(range(1, 3), range(2, 5)), Some(3));
    assert_eq!(common_version(range(4, 5), range(1, 4)), Some(4));
    assert_eq!(common_version(range(1, 2), range(3, 4)), None);
}

fn introduced(identity: Identity, versions: VersionRange) -> Introduction {
    let nonce = identity.node.0 + 100;
    Introduction {
        versions,
        identity,
        nonce,
        maximum_message_bytes: 1 << 20,
        served_requests: 8,
    }
}

/// Both sides' verdicts on a caller and a called side, each of which knows nothing of stores.
fn verdicts(caller: Introduction, called: Introduction, expected: u64) -> (Verdict, Verdict) {
    let hello = Hello {
        from: caller,
        expected: Some(NodeId(expected)),
    };
    let (reply, at_called) = answer(called, &hello, &|_| None);
    let (confirm, at_caller) = conclude(&hello, &reply, &|_| None);
    assert_eq!(at_called.is_some(), at_caller.is_some(), "both or none");
    if let (Some(one), Some(other)) = (at_called, at_caller) {
        assert_eq!((one.session, one.version), (other.session, other.version));
    }
    (reply.judgement.verdict, confirm.judgement.verdict)
}

#[test]
fn both_sides_of_a_handshake_come_to_their_own_verdict() {
    let in_cluster = |number, cluster: Option<u128>| {
        let identity = Identity {
            cluster: cluster.map(ClusterId),
            ..member(number)
        };
        introduced(identity, SPOKEN)
    };
    let accepted = (Verdict::Accepted, Verdict::Accepted);
    let foreign = (Verdict::ForeignCluster, Verdict::ForeignCluster);
    let wrong = (Verdict::WrongNode, Verdict::WrongNode);
    let called = |cluster| in_cluster(1, cluster);
    assert_eq!(
        verdicts(in_cluster(2, Some(7)), called(Some(7)), 1),
        accepted
    );
    assert_eq!(verdicts(in_cluster(2, None), called(Some(7)), 1), accepted);
    assert_eq!(verdicts(in_cluster(2, Some(7)), called(None), 1), accepted);
    assert_eq!(verdicts(in_cluster(2, None), called(None), 1), accepted);
    assert_eq!(
        verdicts(in_cluster(2, Some(8)), called(Some(7)), 1),
        foreign
    );
    assert_eq!(verdicts(in_cluster(2, Some(7)), called(Some(7)), 3), wrong);
    let newer = introduced(
        member(2),
        VersionRange {
            oldest: 2,
            newest: 3,
        },
    );
    let version = (Verdict::Version, Verdict::Version);
    assert_eq!(verdicts(newer, called(Some(7)), 1), version);
}
