//! The history readers on arbitrary input, and the near-linear checkers against brute force.

use hedgerow_jepsen::check::brute::is_linearizable;
use hedgerow_jepsen::check::spec::Call;
use hedgerow_jepsen::check::specs::{Register, RegisterOp};
use hedgerow_jepsen::check::{
    BlockHistory, BlockOp, Outcome, Verdict, ZEROS, ZoneAnswer, ZoneChecker,
};
use hedgerow_jepsen::history::History;
use hedgerow_jepsen::history::edn::{Reader, read_one};
use hedgerow_proptests::config;
use proptest::prelude::*;

/// Pieces of EDN and of Jepsen's histories, so that arbitrary text gets past the first character.
const PIECES: [&str; 42] = [
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "#{",
    "#",
    "\"",
    "\\",
    "\\newline",
    "\\u12",
    "\\",
    ":",
    ":type",
    ":invoke",
    ":ok",
    ":fail",
    ":info",
    ":f",
    ":value",
    ":process",
    ":time",
    ":index",
    " ",
    "\n",
    ",",
    ";",
    "nil",
    "true",
    "-",
    "+",
    "0",
    "17",
    "9223372036854775808",
    "1.5e3",
    "NaN",
    "1N",
    "#inst",
    "#_",
    "jepsen.util",
    "é\u{10ffff}",
];

fn edn_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(&PIECES[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(|one| one.to_string()),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn read_all(text: &str) {
    if let Ok(value) = read_one(text) {
        // What was read is written as text that reads the same.
        assert_eq!(read_one(&value.to_string()), Ok(value));
    }
    let mut reader = Reader::new(text, 1);
    // Every value takes a character at least; an end or an error ends it.
    for _ in 0..=text.len() {
        match reader.next_value() {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
    panic!("more values than characters in {text:?}");
}

fn parse_all(bytes: &[u8]) {
    let Ok(history) = History::parse(bytes) else {
        return;
    };
    let _ = history.calls();
    let binary = History::parse(&history.to_binary()).expect("our own form is read");
    assert_eq!(binary.events, history.events);
    let edn = History::parse(history.to_edn().as_bytes()).expect("our own EDN is read");
    assert_eq!(edn.events, history.events);
}

/// A line of a history that is mostly right.
fn line() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![":invoke", ":ok", ":fail", ":info", ":odd"]);
    let process = prop::sample::select(vec!["0", "1", ":nemesis", "-1", "nil"]);
    let value = prop::sample::select(vec![
        "nil",
        "3",
        "[1 2]",
        "[1 [[:r 2 nil] [:append 3 4]]]",
        "\"a\\\"b\"",
    ]);
    (
        kind,
        process,
        value,
        any::<i32>(),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(kind, process, value, time, is_broken)| {
            let end = if is_broken { "" } else { "}" };
            format!(
                "{{:type {kind}, :f :read, :process {process}, :value {value}, :time {time}{end}\n"
            )
        })
}

proptest! {
    #![proptest_config(config(12000))]

    #[test]
    fn arbitrary_text_is_read_or_refused(text in edn_like()) {
        read_all(&text);
        parse_all(text.as_bytes());
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        is_binary in any::<bool>(),
    ) {
        let head: &[u8] = if is_binary { b"HGHIST\x01\x00" } else { b"" };
        parse_all(&[head, &bytes].concat());
    }

    #[test]
    fn histories_that_are_read_survive_both_forms(lines in prop::collection::vec(line(), 0..8)) {
        parse_all(lines.concat().as_bytes());
    }

    /// A binary history cut or changed anywhere is refused, or is the beginning of the true one.
    #[test]
    fn damaged_binary_histories_never_tell_another_story(
        lines in prop::collection::vec(line(), 1..8),
        at in any::<prop::sample::Index>(),
        change in any::<u8>(),
    ) {
        let Ok(history) = History::parse(lines.concat().as_bytes()) else { return Ok(()) };
        let mut bytes = history.to_binary();
        let at = at.index(bytes.len());
        match change {
            0 => bytes.truncate(at),
            change => bytes[at] ^= change,
        }
        if let Ok(read) = History::parse(&bytes) && at >= 8 {
            prop_assert!(history.events.starts_with(&read.events), "{:?}", read.events);
            prop_assert!(read.events.len() < history.events.len() || bytes.len() > at + 1);
        }
    }
}

/// One call of a generated history: when, how long, what; and where in its window it happens.
#[derive(Debug, Clone)]
struct Planned {
    invoke: u64,
    length: u64,
    point: u64,
    is_unknown: bool,
    kind: u8,
}

fn planned() -> impl Strategy<Value = Planned> {
    (
        0..24_u64,
        0..10_u64,
        0..11_u64,
        prop::bool::weighted(0.15),
        0..8_u8,
    )
        .prop_map(|(invoke, length, point, is_unknown, kind)| Planned {
            invoke,
            length,
            point: invoke + point.min(length),
            is_unknown,
            kind,
        })
}

/// A history as a correct register gives it; then some answers are made wrong. Values are written
/// once, but for `zero`, which is written whenever `repeats` says so.
fn history(plan: &[Planned], lies: &[(usize, u64)], repeats: bool) -> Vec<Call<RegisterOp>> {
    let mut order: Vec<usize> = (0..plan.len()).collect();
    order.sort_by_key(|at| plan[*at].point);
    let mut ops = vec![None; plan.len()];
    let mut holds = 0;
    let mut next = 1;
    for at in order {
        let op = match plan[at].kind {
            0..4 => RegisterOp::Read(holds),
            4 if repeats => RegisterOp::Write(0),
            5 if !repeats => RegisterOp::CompareAndSet(holds, next),
            _ => RegisterOp::Write(next),
        };
        match op {
            RegisterOp::Write(0) => holds = 0,
            RegisterOp::Write(_) | RegisterOp::CompareAndSet(..) => {
                holds = next;
                next += 1;
            }
            RegisterOp::Read(_) => {}
        }
        ops[at] = Some(op);
    }
    let mut calls: Vec<Call<RegisterOp>> = Vec::new();
    for (planned, op) in plan.iter().zip(ops) {
        let op = op.expect("every call has its point");
        let is_read = matches!(op, RegisterOp::Read(_));
        if is_read && planned.is_unknown {
            continue;
        }
        let complete = (!planned.is_unknown).then_some(planned.invoke + planned.length);
        let id = calls.len() as u64;
        calls.push(Call {
            id,
            invoke: planned.invoke,
            complete,
            op,
        });
    }
    for (at, value) in lies {
        if let Some(call) = calls.get_mut(*at)
            && let RegisterOp::Read(read) = &mut call.op
        {
            *read = value % next;
        }
    }
    calls
}

fn feed(checker: &mut ZoneChecker, call: &Call<RegisterOp>) {
    let (invoke, complete) = (call.invoke, call.complete);
    match call.op {
        RegisterOp::Write(value) => checker.write(invoke, complete, value),
        RegisterOp::Read(value) => checker.read(invoke, complete.expect("answered"), value),
        RegisterOp::CompareAndSet(from, to) => checker.compare_and_set(invoke, complete, from, to),
    };
}

fn judge(answer: &ZoneAnswer) -> Option<bool> {
    match answer {
        ZoneAnswer::Valid => Some(true),
        ZoneAnswer::Invalid(_) => Some(false),
        ZoneAnswer::Ambiguous(_) => None,
    }
}

fn lies() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((0..10_usize, any::<u64>()), 0..6)
}

proptest! {
    #![proptest_config(config(20000))]

    #[test]
    fn zones_agree_with_brute_force(
        plan in prop::collection::vec(planned(), 0..10),
        lies in lies(),
    ) {
        let mut calls = history(&plan, &lies, false);
        let truth = is_linearizable(&Register { initial: 0 }, &calls);
        let mut whole = ZoneChecker::new(0);
        calls.iter().for_each(|call| feed(&mut whole, call));
        prop_assert_eq!(judge(&whole.finish()), truth, "{:#?}", calls);

        // The same as a stream that forgets whatever it may.
        let mut stream = ZoneChecker::new(0).sweep_from(1);
        calls.sort_by_key(|call| call.invoke);
        for call in &calls {
            stream.advance(call.invoke);
            feed(&mut stream, call);
        }
        prop_assert_eq!(judge(&stream.finish()), truth, "{:#?}", calls);
    }

    #[test]
    fn blocks_with_zeros_agree_with_brute_force(
        plan in prop::collection::vec(planned(), 0..10),
        lies in lies(),
    ) {
        let calls = history(&plan, &lies, true);
        let truth = is_linearizable(&Register { initial: ZEROS }, &calls);
        let mut zones = ZoneChecker::with_repeatable(ZEROS, ZEROS);
        calls.iter().for_each(|call| feed(&mut zones, call));
        prop_assert_eq!(judge(&zones.finish()), truth, "{:#?}", calls);

        let mut blocks = BlockHistory::new();
        for call in &calls {
            let op = match call.op {
                RegisterOp::Write(0) => BlockOp::Zero { first_block: 3, count: 1 },
                RegisterOp::Write(tag) => BlockOp::Write { first_block: 3, count: 1, tag },
                RegisterOp::Read(_) | RegisterOp::CompareAndSet(..) => {
                    BlockOp::Read { first_block: 3, count: 1 }
                }
            };
            let id = blocks.begin(call.id, call.invoke, op);
            if let Some(complete) = call.complete {
                let tags = match call.op {
                    RegisterOp::Read(tag) => Some(vec![tag]),
                    _ => None,
                };
                blocks.finish(id, complete, Outcome::Ok(tags)).expect("a whole history");
            }
        }
        let verdict = blocks.check();
        let found = match &verdict {
            Verdict::Valid => Some(true),
            Verdict::Invalid(_) => Some(false),
            Verdict::Unknown(_) => None,
        };
        prop_assert_eq!(found, truth, "{:#?}", calls);
    }
}

/// The comparison would be empty if all histories were of one kind.
#[test]
fn both_verdicts_come_up() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::new(config(1));
    let plans = (prop::collection::vec(planned(), 0..10), lies());
    let (mut valid, mut invalid) = (0, 0);
    for _ in 0..500 {
        let (plan, lies) = plans.new_tree(&mut runner).expect("a plan").current();
        let calls = history(&plan, &lies, false);
        match is_linearizable(&Register { initial: 0 }, &calls) {
            Some(true) => valid += 1,
            _ => invalid += 1,
        }
    }
    assert!(
        valid > 50 && invalid > 20,
        "{valid} valid, {invalid} invalid"
    );
}
