//! The zone checker: the shapes it must know, streaming against batch, and its memory.

use super::*;
use crate::check::spec::Call;
use crate::check::specs::RegisterOp;
use crate::fuzz::{Dice, histories};

fn feed(checker: &mut ZoneChecker, call: &Call<RegisterOp>) {
    match call.op {
        RegisterOp::Write(value) => checker.write(call.invoke, call.complete, value),
        RegisterOp::Read(value) => checker.read(
            call.invoke,
            call.complete.expect("reads are answered"),
            value,
        ),
        RegisterOp::CompareAndSet(from, to) => {
            checker.compare_and_set(call.invoke, call.complete, from, to)
        }
    };
}

#[test]
fn a_read_may_see_a_write_that_is_still_open_but_not_go_back_after_it() {
    let mut checker = ZoneChecker::new(0);
    checker.write(0, Some(100), 1);
    checker.read(10, 20, 1);
    assert_eq!(checker.clone().finish(), ZoneAnswer::Valid);
    checker.read(30, 40, 0);
    let ZoneAnswer::Invalid(witness) = checker.finish() else {
        panic!("it went back")
    };
    assert_eq!(witness.operations, [0, 1, 2]);
}

#[test]
fn equal_times_are_concurrent() {
    let mut checker = ZoneChecker::new(0);
    checker.write(0, Some(10), 1);
    checker.read(10, 20, 0);
    assert_eq!(checker.clone().finish(), ZoneAnswer::Valid);
    checker.read(11, 20, 0);
    assert!(matches!(checker.finish(), ZoneAnswer::Invalid(_)));
}

#[test]
fn a_write_of_unknown_outcome_may_take_effect_late_but_only_once() {
    let mut checker = ZoneChecker::new(0);
    checker.write(0, None, 1);
    checker.write(10, Some(20), 2);
    checker.read(30, 40, 2);
    checker.read(50, 60, 1);
    assert_eq!(checker.clone().finish(), ZoneAnswer::Valid);
    checker.read(70, 80, 2);
    assert!(matches!(checker.finish(), ZoneAnswer::Invalid(_)));
}

#[test]
fn a_value_written_twice_is_left_to_the_general_search() {
    let mut checker = ZoneChecker::new(0);
    checker.write(0, Some(1), 5);
    checker.write(2, Some(3), 5);
    assert_eq!(checker.finish(), ZoneAnswer::Ambiguous(5));
}

/// Feeds calls as a running test would: when they end, or are known to be of unknown outcome.
fn stream(mut calls: Vec<Call<RegisterOp>>) -> ZoneAnswer {
    let mut checker = ZoneChecker::new(0).sweep_from(0);
    calls.sort_by_key(|call| call.complete.unwrap_or(call.invoke));
    for at in 0..calls.len() {
        feed(&mut checker, &calls[at]);
        let open = calls[at + 1..].iter().map(|call| call.invoke).min();
        checker.advance(open.unwrap_or(u64::MAX));
    }
    checker.finish()
}

#[test]
fn streaming_and_forgetting_changes_no_verdict() {
    let mut counts = [0; 3];
    for number in 0..100_000 {
        let calls = histories::unique_register(&mut Dice::new(7, number));
        let mut batch = ZoneChecker::new(0);
        calls.iter().for_each(|call| feed(&mut batch, call));
        match (batch.finish(), stream(calls.clone())) {
            (ZoneAnswer::Valid, ZoneAnswer::Valid) => counts[0] += 1,
            (ZoneAnswer::Invalid(_), ZoneAnswer::Invalid(_)) => counts[1] += 1,
            (ZoneAnswer::Ambiguous(_), _) => counts[2] += 1,
            (batch, streamed) => panic!("{number}: {batch:?} but {streamed:?} in {calls:#?}"),
        }
    }
    assert!(counts[0] > 10_000 && counts[1] > 10_000, "{counts:?}");
}

/// An open call: when it was sent, what it writes, and what it read at its point.
type OpenCall = (u64, Option<u64>, Option<u64>);

/// A long history of `clients` on one register, answers taken at a point inside each call; after
/// `stale_after` operations one read returns the first value again.
fn long_run(operations: u64, clients: u64, stale_after: u64) -> (ZoneAnswer, usize) {
    let mut dice = Dice::new(3, operations);
    let mut checker = ZoneChecker::new(0);
    let (mut value, mut most_live) = (0, 0);
    let mut open: Vec<Option<OpenCall>> = (0..clients).map(|_| None).collect();
    for time in 0..operations {
        let client = usize::try_from(dice.below(clients)).expect("few clients");
        match open[client] {
            None => open[client] = Some((time, dice.once_in(2).then_some(time + 1), None)),
            Some((invoke, write, None)) => {
                value = write.unwrap_or(value);
                open[client] = Some((invoke, write, Some(value)));
            }
            Some((invoke, write, Some(read))) => {
                open[client] = None;
                match write {
                    Some(written) => checker.write(invoke, Some(time), written),
                    None if time > stale_after => {
                        checker.read(invoke, time, if dice.once_in(50) { 0 } else { read })
                    }
                    None => checker.read(invoke, time, read),
                };
                let oldest = open.iter().flatten().map(|call| call.0).min();
                checker.advance(oldest.unwrap_or(time));
                most_live = most_live.max(checker.live_values());
            }
        }
    }
    // Writes that took effect but never ended may have been seen.
    for (invoke, write, read) in open.into_iter().flatten() {
        if let (Some(written), Some(_)) = (write, read) {
            checker.write(invoke, None, written);
        }
    }
    (checker.finish(), most_live)
}

#[test]
fn memory_is_bounded_by_what_is_open() {
    let (answer, most_live) = long_run(600_000, 16, u64::MAX);
    assert_eq!(answer, ZoneAnswer::Valid);
    assert!(most_live <= 2 * SWEEP_FLOOR, "{most_live} values were live");
    let (answer, _) = long_run(600_000, 16, 500_000);
    assert!(matches!(answer, ZoneAnswer::Invalid(_)));
}
