//! Pages of made-up recordings: that they say what happened, and stay small.

use std::time::Duration;

use hedgerow_jepsen::check::{BlockHistory, BlockOp, Outcome};

use super::{PAGE_MAXIMUM_BYTES, Subject, page};
use crate::scenario::{Failure, Plan, Report, Script};
use crate::world::{EventKind, NodeIndex, TraceEvent};

const SECOND_NS: u64 = 1_000_000_000;

fn report(
    recorded: Vec<TraceEvent>,
    history: BlockHistory,
    verdict: Result<(), Failure>,
) -> Report {
    Report {
        verdict,
        trace_hash: 7,
        events: recorded.len() as u64,
        virtual_time: Duration::from_secs(60),
        operations: (history.len() as u64, 0),
        drawn: Vec::new(),
        performed: Vec::new(),
        safety_began_ns: Some(SECOND_NS),
        strikes: Vec::new(),
        checkpoints: Vec::new(),
        recorded,
        history,
    }
}

fn subject() -> Subject<'static> {
    Subject {
        name: "seed 7".into(),
        command: "cargo run --release -p hedgerow-sim -- run --seed 7".into(),
        commit: "c0ffee",
        mutant: None,
        remarks: Vec::new(),
    }
}

/// A message as busy clusters send them: no two details are alike.
fn message(number: u64, of: u64) -> TraceEvent {
    let at_ns = number * 60 * SECOND_NS / of;
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    TraceEvent {
        number,
        at_ns,
        node: Some(NodeIndex(u16::try_from(mixed % 5).expect("small"))),
        kind: EventKind::Deliver,
        subject: mixed / 5 % 5,
        size: 64 + mixed % 5_000,
        checksum: mixed,
        since_ns: at_ns.saturating_sub(100_000 + mixed % 900_000),
        text: format!("raft\tappend\t1 to g{} prev {mixed:x} #{number}", mixed % 9),
        task: None,
    }
}

#[test]
fn a_failure_names_its_operations_and_how_to_repeat_it() {
    let mut history = BlockHistory::new();
    let op = |tag| BlockOp::Write {
        first_block: 3,
        count: 1,
        tag,
    };
    let write = history.begin(1, SECOND_NS, op(5));
    history
        .finish(write, 2 * SECOND_NS, Outcome::Ok(None))
        .unwrap();
    let read = history.begin(
        1,
        3 * SECOND_NS,
        BlockOp::Read {
            first_block: 3,
            count: 1,
        },
    );
    history
        .finish(read, 4 * SECOND_NS, Outcome::Ok(Some(vec![0])))
        .unwrap();
    let verdict = Err(Failure::correctness("linearizability", "block 3 </script>"));
    let report = report(
        (0..100).map(|n| message(n, 100)).collect(),
        history,
        verdict,
    );
    let html = page(&Script::from(Plan::plain()), &report, &subject());
    assert!(
        html.contains("\"witness\":[0,1]"),
        "both operations are marked"
    );
    assert!(html.contains("\"part\":\"block 3\""));
    assert!(html.contains("run --seed 7") && html.contains("c0ffee"));
    assert_eq!(
        html.matches("</script>").count(),
        3,
        "no text ends a script"
    );
    for elsewhere in ["http://", "https://", "src=", "@import"] {
        let found = html.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !found.contains(elsewhere),
            "the page loads nothing: {elsewhere}"
        );
    }
}

#[test]
fn a_million_messages_fit_a_page() {
    const COUNT: u64 = 1_000_000;
    let recorded = (0..COUNT).map(|number| message(number, COUNT)).collect();
    let report = report(recorded, BlockHistory::new(), Ok(()));
    let html = page(&Script::from(Plan::plain()), &report, &subject());
    assert!(html.len() <= PAGE_MAXIMUM_BYTES, "{} bytes", html.len());
    let kept = |name: &str| -> u64 {
        let (_, rest) = html
            .split_once(&format!("\"{name}\":"))
            .expect("it is told");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    assert_eq!(kept("messages") + kept("messages_left_out"), COUNT);
    assert!(
        kept("messages") >= COUNT / 5,
        "{} messages are kept",
        kept("messages")
    );
    if let Some(path) = std::env::var_os("HEDGEROW_TIMELINE_OUT") {
        #[expect(
            clippy::disallowed_methods,
            reason = "a person wants to look at the page"
        )]
        std::fs::write(path, html).unwrap();
    }
}
