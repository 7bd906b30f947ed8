//! The engines against the exhaustive search.

use super::brute;
use super::specs::{Register, RegisterOp};
use super::zones::{ZoneAnswer, ZoneChecker};
use crate::fuzz::{Dice, random_register};

#[test]
fn zones_agree_with_exhaustive_search() {
    let mut counts = [0_u64; 3];
    for number in 0..300_000 {
        let mut dice = Dice::new(1, number);
        let calls = random_register(&mut dice);
        let mut checker = ZoneChecker::with_repeatable(0, 0);
        let repeatable = calls.iter().any(|c| c.op == RegisterOp::Write(0));
        if !repeatable {
            checker = ZoneChecker::new(0);
        }
        for c in &calls {
            match c.op {
                RegisterOp::Write(v) => checker.write(c.invoke, c.complete, v),
                RegisterOp::Read(v) => checker.read(c.invoke, c.complete.expect("done"), v),
                RegisterOp::CompareAndSet(a, b) => {
                    checker.compare_and_set(c.invoke, c.complete, a, b)
                }
            };
        }
        let expected = brute::is_linearizable(&Register { initial: 0 }, &calls).expect("small");
        match checker.finish() {
            ZoneAnswer::Valid => {
                counts[0] += 1;
                assert!(expected, "{number}: {calls:#?}");
            }
            ZoneAnswer::Invalid(w) => {
                counts[1] += 1;
                assert!(!expected, "{number}: {w:?} {calls:#?}");
            }
            ZoneAnswer::Ambiguous(_) => counts[2] += 1,
        }
    }
    println!("{counts:?}");
    assert!(counts[0] > 10_000 && counts[1] > 10_000);
}

/// Registers with few values, so that most are written several times.
#[test]
fn search_agrees_with_exhaustive_search() {
    use super::search::{Limits, SearchAnswer, search};
    use crate::fuzz::random_repeating_register;
    let mut counts = [0_u64; 2];
    for number in 0..200_000 {
        let calls = random_repeating_register(&mut Dice::new(2, number));
        let register = Register { initial: 0 };
        let expected = brute::is_linearizable(&register, &calls).expect("small");
        let found = search(&register, &calls, Limits::default());
        counts[usize::from(expected)] += 1;
        assert_eq!(
            found == SearchAnswer::Linearizable,
            expected,
            "{number}: {found:?} {calls:#?}"
        );
    }
    println!("{counts:?}");
    assert!(counts.iter().all(|&count| count > 10_000));
}
