//! Tapes come back as they were written, and every mistake in one is named.

use std::time::Duration;

use crate::scenario::{ClientOperation, Deed, FailureKind, Move};
use crate::world::{Crash, FaultAction, LinkRules, NodeIndex};

use super::*;

fn tape() -> Tape {
    let mut plan = Plan::draw(7);
    plan.additions.clear();
    plan.nodes = 5;
    plan.hot_blocks = 10;
    plan.clients = 2;
    plan.moves = vec![Move::of_released(5, NodeIndex(3))];
    plan.faults = vec![
        TimedFault {
            at_ns: 1_500_000_000,
            action: FaultAction::Crash(NodeIndex(2), Crash::POWER),
        },
        TimedFault {
            at_ns: 2_500_000_001,
            action: FaultAction::Link(
                NodeIndex(0),
                NodeIndex(1),
                LinkRules {
                    loss_ppm: 5,
                    ..LinkRules::default()
                },
            ),
        },
    ];
    let operation = ClientOperation {
        at_ns: 17,
        node: NodeIndex(1),
        client: 2,
        number: 3,
        block: 1,
        count: 1,
        deed: Deed::WriteThenCancel { after_us: 9 },
    };
    Tape {
        commit: "0123456789ab".into(),
        mutant: Some("quorum-one-short".into()),
        failure: Some(Verdict {
            kind: FailureKind::Correctness,
            oracle: "copies".into(),
            text: "a \"quoted\" text".into(),
        }),
        trace: 0xabc,
        script: Script {
            plan,
            operations: Some(vec![operation]),
            strikes: Vec::new(),
            service: 0,
        },
    }
}

#[test]
fn every_seeds_plan_comes_back_as_it_was_written() {
    let tape = tape();
    assert_eq!(Tape::parse(&tape.text()).expect("it is whole"), tape);
    for seed in 0..50 {
        let mut drawn = tape.clone();
        drawn.script = Script::from(Plan::draw(seed));
        assert_eq!(Tape::parse(&drawn.text()).expect("it is whole"), drawn);
    }
}

#[test]
fn a_reader_finds_each_fault_and_operation_on_a_line_of_its_own() {
    let text = tape().text();
    for line in [
        r#"      {"action": {"Crash": [2, {"dark": true, "power_loss": true}]}, "at_ns": 1500000000},"#,
        r#"      {"action": {"Link": [0, 1, {"loss_ppm": 5}]}, "at_ns": 2500000001}"#,
    ] {
        assert!(text.lines().any(|one| one == line), "{line}\n{text}");
    }
}

#[test]
fn what_a_tape_leaves_out_is_plain() {
    let text = r#"{"format": "hedgerow tape", "version": 1, "plan": {"nodes": 3}}"#;
    let tape = Tape::parse(text).expect("enough");
    assert_eq!(
        tape.script.plan,
        Plan {
            nodes: 3,
            ..Plan::plain()
        }
    );
    assert_eq!(tape.script.operations, None);
    assert_eq!(tape.script.plan.pause, Duration::from_millis(10));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let whole = tape().text();
    let check = |from: &str, to: &str, expected: &str| {
        assert!(whole.contains(from), "{from} stands in\n{whole}");
        let error = Tape::parse(&whole.replacen(from, to, 1)).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    };
    check(
        r#""version": 1"#,
        r#""version": 9"#,
        "this tape has version 9, and this simulator reads version 1: replay it with the simulator \
         of its `commit`, or record it again from its seed",
    );
    check(
        "hedgerow tape",
        "history",
        "`format` must be \"hedgerow tape\": this is no tape",
    );
    check(
        r#""racks""#,
        r#""rakcs""#,
        "plan.rakcs: there is no such field",
    );
    check(
        r#""nodes": 5"#,
        r#""nodes": "five""#,
        "plan.nodes: expected something like 1, found \"five\"",
    );
    check(
        r#""nodes": 5"#,
        r#""nodes": 2"#,
        "plan.moves[0].to: node 3 is not one of the 2",
    );
    check(
        r#"{"Crash": [2,"#,
        r#"{"Crash": [5,"#,
        "plan.faults[0]: node 5 is not one of the 5",
    );
    check(
        r#""loss_ppm""#,
        r#""loss""#,
        "plan.faults[1]: unknown field `loss`, expected one of `state`, `loss_ppm`, \
         `duplicate_ppm`, `duplicate_ns`, `reorder_ppm`, `reorder_ns`, `corrupt_ppm`, `delay_ns`, \
         `jitter_ns`, `bytes_per_second`",
    );
    check(
        r#""number": 3"#,
        r#""nomber": 3"#,
        "operations[0]: unknown field `nomber`, expected one of `at_ns`, `node`, `client`, \
         `number`, `block`, `count`, `deed`",
    );
    check(
        r#""block": 1"#,
        r#""block": 100000"#,
        "operations[0].block: 100000 is not within 0 to 9",
    );
    check(
        r#""service": 0"#,
        r#""service": -1"#,
        "service: invalid value: integer `-1`, expected u64",
    );
    check(
        r#""strikes": []"#,
        r#""strike": []"#,
        "strike: a tape has no such field",
    );
    assert!(matches!(Tape::parse("[1]"), Err(TapeError::NotATape)));
    assert!(matches!(Tape::parse("{"), Err(TapeError::NotJson(_))));
}
