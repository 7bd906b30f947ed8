//! Measures and campaigns by hand, since they take longer than a test may:
//!
//! `fuzz SEED COUNT` compares the engines with exhaustive search on COUNT random histories;
//! `texts SEED COUNT` compares verdicts on COUNT random texts with what they mean;
//! `judge MODEL INITIAL FILE...` judges histories as `hedgerow jepsen check` does, and tells how
//! long each took (INITIAL `-` is the model's own);
//! `speed COUNT` streams COUNT operations of 64 clients through the register checker, and judges
//! them again at once.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a stopwatch by hand"
)]

use hedgerow_jepsen::check::{ZoneAnswer, ZoneChecker};
use hedgerow_jepsen::command::{EXIT_UNUSABLE, check};
use hedgerow_jepsen::fuzz::{Dice, Disagreement, fuzz, fuzz_texts};
use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    match (arguments.first().map(String::as_str), number(1), number(2)) {
        (Some("fuzz"), Some(seed), Some(count)) => tell(fuzz(seed, count)),
        (Some("texts"), Some(seed), Some(count)) => tell(fuzz_texts(seed, count)),
        (Some("speed"), Some(count), _) => speed(count),
        (Some("judge"), ..) if arguments.len() > 3 => {
            let initial = Some(arguments[2].as_str()).filter(|text| *text != "-");
            judge(&arguments[1], initial, &arguments[3..]);
        }
        _ => println!(
            "fuzz SEED COUNT, texts SEED COUNT, judge MODEL INITIAL FILE..., or speed COUNT"
        ),
    }
}

fn tell<R: std::fmt::Debug>(found: Result<R, Box<Disagreement>>) {
    match found {
        Ok(report) => println!("{report:?}"),
        Err(disagreement) => {
            println!("{disagreement:#?}");
            std::process::exit(1);
        }
    }
}

/// Judges each file: its verdict, seconds, name, and the first line of what is to be said.
fn judge(model: &str, initial: Option<&str>, files: &[String]) {
    for file in files {
        let text = std::fs::read(file).unwrap_or_else(|error| {
            eprintln!("measure: {file}: {error}; name the file of a history");
            std::process::exit(EXIT_UNUSABLE)
        });
        let started = Instant::now();
        let (code, output) = check(model, initial, &text, false);
        let seconds = started.elapsed().as_secs_f64();
        let verdict = ["valid", "invalid", "unusable", "unknown"];
        let verdict = usize::try_from(code)
            .ok()
            .and_then(|code| verdict.get(code));
        let first = output.lines().next().unwrap_or_default();
        println!("{}\t{seconds:.3}\t{file}\t{first}", verdict.unwrap_or(&"?"));
    }
}

/// A call as the checker takes it: times, and the value written or read.
struct Timed {
    invoke: u64,
    complete: u64,
    is_write: bool,
    value: u64,
    /// The oldest call still open when this one ended.
    oldest_open: u64,
}

fn speed(count: u64) {
    let (calls, still_open) = history(count, 64);
    let rate = |seconds: f64| calls.len() as f64 / seconds / 1e6;
    for streaming in [true, false] {
        let started = Instant::now();
        let mut checker = ZoneChecker::new(0);
        let mut most_live = 0;
        for call in &calls {
            if call.is_write {
                checker.write(call.invoke, Some(call.complete), call.value);
            } else {
                checker.read(call.invoke, call.complete, call.value);
            }
            if streaming {
                checker.advance(call.oldest_open);
            }
            most_live = most_live.max(checker.live_values());
        }
        for &(invoke, value) in &still_open {
            checker.write(invoke, None, value);
        }
        assert_eq!(checker.finish(), ZoneAnswer::Valid);
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "streaming {streaming}: {} operations in {seconds:.2} s, {:.1} million a second, at \
             most {most_live} values live",
            calls.len(),
            rate(seconds)
        );
    }
}

/// Calls of `clients` in order of their endings, each taking effect at a point inside, and the
/// writes that took effect but never ended.
fn history(count: u64, clients: usize) -> (Vec<Timed>, Vec<(u64, u64)>) {
    let mut dice = Dice::new(1, count);
    let mut open: Vec<Option<(u64, bool, Option<u64>)>> = vec![None; clients];
    let (mut calls, mut value, mut time) = (Vec::new(), 0, 0);
    while (calls.len() as u64) < count {
        time += 1;
        let client = usize::try_from(dice.below(clients as u64)).expect("few clients");
        match open[client] {
            None => open[client] = Some((time, dice.once_in(2), None)),
            Some((invoke, is_write, None)) => {
                if is_write {
                    value = time;
                }
                open[client] = Some((invoke, is_write, Some(value)));
            }
            Some((invoke, is_write, Some(value))) => {
                open[client] = None;
                let oldest_open = open
                    .iter()
                    .flatten()
                    .map(|call| call.0)
                    .min()
                    .unwrap_or(time);
                calls.push(Timed {
                    invoke,
                    complete: time,
                    is_write,
                    value,
                    oldest_open,
                });
            }
        }
    }
    let effective = open.into_iter().flatten().filter(|call| call.1);
    let still_open = effective
        .filter_map(|(invoke, _, value)| Some((invoke, value?)))
        .collect();
    (calls, still_open)
}
