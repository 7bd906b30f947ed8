//! Tapes of real runs: written down, cut down and run again, they give what they say.

use std::time::Duration;

use hedgerow_protocol::Policy;
use hedgerow_sim::compare::{Comparison, compare};
use hedgerow_sim::scenario::{Move, Plan, Report, Script, run_script};
use hedgerow_sim::tape::Tape;
use hedgerow_sim::world::{
    Crash, EventKind, FaultAction, LinkRules, NodeIndex, Recording, TimedFault, TraceSummary,
};

/// Three nodes and three seconds, so that a run takes little.
fn small() -> Plan {
    Plan {
        seed: 5,
        nodes: 3,
        racks: 3,
        policy: Policy::default(),
        hot_blocks: 8,
        clients: 4,
        pause: Duration::from_millis(20),
        safety: Duration::from_secs(3),
        ..Plan::plain()
    }
}

fn fault(at_ms: u64, action: FaultAction) -> TimedFault {
    let at_ns = at_ms * 1_000_000;
    TimedFault { at_ns, action }
}

/// The same with a crash, a lossy link and a move.
fn troubled() -> Plan {
    let lossy = LinkRules {
        loss_ppm: 200_000,
        duplicate_ppm: 200_000,
        ..LinkRules::default()
    };
    let (zero, one, two) = (NodeIndex(0), NodeIndex(1), NodeIndex(2));
    Plan {
        faults: vec![
            fault(300, FaultAction::Link(zero, one, lossy)),
            fault(1_000, FaultAction::Crash(two, Crash::POWER)),
            fault(2_000, FaultAction::Restart(two)),
        ],
        moves: vec![Move {
            at_ns: 1_500_000_000,
            to: one,
            former_goes_on_ns: 1_000_000_000,
            recovery_ns: None,
        }],
        // Clients rest in between, and the list is to be worth comparing.
        safety: Duration::from_secs(8),
        ..small()
    }
}

fn run(script: &Script) -> Report {
    let report = run_script(script, Recording::HashOnly, false);
    assert_eq!(report.verdict, Ok(()));
    report
}

#[test]
fn the_list_of_what_a_run_drew_gives_the_same_trace_again() {
    let script = Script::from(troubled());
    let drawn = run(&script);
    assert!(
        drawn.performed.len() > 50,
        "{} operations",
        drawn.performed.len()
    );
    let tape = Tape::of_run(&script, &drawn, "commit", None);
    let read = Tape::parse(&tape.text()).expect("it was just written");
    let listed = run(&read.script);
    assert_eq!(listed.trace_hash, drawn.trace_hash);
    assert_eq!(listed.performed, drawn.performed);
}

#[test]
fn leaving_one_operation_out_leaves_every_other_where_it_was() {
    let script = Script::from(small());
    let whole = run(&script);
    let mut kept = whole.performed.clone();
    let gone = kept.remove(kept.len() / 3);
    let shorter = run(&Script {
        operations: Some(kept.clone()),
        service: 0,
        ..script
    });
    let mut performed = shorter.performed;
    assert!(!performed.contains(&gone));
    performed.sort_by_key(|one| (one.id(), one.number));
    kept.sort_by_key(|one| (one.id(), one.number));
    assert_eq!(performed, kept);
}

#[test]
fn the_strikes_of_a_run_do_what_its_rates_did() {
    let rates = run(&Script::from(troubled()));
    assert!(rates.strikes.len() > 20, "{} strikes", rates.strikes.len());
    let mut plan = troubled();
    plan.faults
        .retain(|one| !matches!(one.action, FaultAction::Link(..)));
    // The link's action leaves an event in the trace: one that changes nothing takes its place.
    let (zero, one) = (NodeIndex(0), NodeIndex(1));
    plan.faults.insert(
        0,
        fault(300, FaultAction::Link(zero, one, LinkRules::default())),
    );
    let strikes = run(&Script {
        strikes: rates.strikes.clone(),
        ..Script::from(plan)
    });
    assert_eq!(strikes.strikes, rates.strikes);
    assert_eq!(strikes.performed, rates.performed);
    assert_eq!(strikes.virtual_time, rates.virtual_time);
}

#[test]
fn the_event_in_which_two_runs_first_differ_is_found() {
    let side = |plan: Plan| {
        move |recording| -> Result<TraceSummary, ()> {
            let report = run_script(&Script::from(plan.clone()), recording, false);
            Ok(TraceSummary {
                hash: report.trace_hash,
                events: report.events,
                virtual_ns: 0,
                checkpoints: report.checkpoints,
                recorded: report.recorded,
            })
        }
    };
    let mut other = troubled();
    let step = FaultAction::StepWall(NodeIndex(1), 77);
    other.faults.insert(2, fault(1_234, step.clone()));
    let comparison = compare(side(troubled()), side(other)).expect("no side fails");
    let Comparison::Differ(difference) = comparison else {
        panic!("{comparison:?}");
    };
    let event = difference.right.expect("the step of the clock");
    assert_eq!(event.kind, EventKind::Fault);
    assert_eq!(event.text, format!("{step:?}"));
    let named = |event: &hedgerow_sim::world::TraceEvent| event.task.is_some();
    assert!(difference.before.iter().any(named), "tasks have names");
}
