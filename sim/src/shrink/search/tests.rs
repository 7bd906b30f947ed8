//! The search against failures whose smallest script is known.

use crate::scenario::{ClientId, Deed, FailureKind, Operations, Plan};
use crate::world::{Crash, FaultAction, NodeIndex, TimedFault};

use super::super::nodes;
use super::*;

/// A seed's plan with many faults, and the operations that five seconds of clients draw.
fn script() -> Script {
    let mut script = Script::from(Plan::draw(11));
    let five: Vec<NodeIndex> = (0..5).map(NodeIndex).collect();
    nodes::keep(&mut script, &five);
    let mut plan = script.plan;
    plan.containers = 2;
    plan.policy.block_size = 4_096;
    plan.hot_blocks = 20;
    plan.policy.replication_factor = 3;
    let mut faults: Vec<TimedFault> = plan.faults.clone();
    for (at_ns, action) in [
        (1_000, FaultAction::Crash(NodeIndex(3), Crash::POWER)),
        (2_000_000_000, FaultAction::Restart(NodeIndex(3))),
        (9_000_000_000, FaultAction::Pause(NodeIndex(1))),
    ] {
        faults.push(TimedFault { at_ns, action });
    }
    faults.sort_by_key(|fault| fault.at_ns);
    plan.faults = faults;
    let mut operations = Operations::new(&plan, None);
    for at in 0..100 {
        let initiator = ClientId::FIRST_INITIATOR;
        for client in (1..=plan.clients).chain(initiator..initiator + plan.initiators) {
            let node = NodeIndex(u16::from(at >= 50));
            let id = ClientId { node, client };
            operations.next(id, at * 50_000_000);
        }
    }
    let drawn = operations.drawn().to_vec();
    Script {
        operations: Some(drawn),
        ..Script::from(plan)
    }
}

fn outcome(script: &Script, fails: bool) -> Outcome {
    let failure = Verdict {
        kind: FailureKind::Correctness,
        oracle: "copies".into(),
        text: "block 7 is wrong".into(),
    };
    Outcome {
        failure: fails.then_some(failure),
        trace: 0,
        virtual_ns: 0,
        cpu_ns: 0,
        safety_began_ns: None,
        drawn: Vec::new(),
        performed: script.operations.clone().unwrap_or_default(),
        strikes: Vec::new(),
    }
}

/// Shrinks, where `fails` says which scripts fail; how many scripts that took.
fn shrink(jobs: usize, fails: impl Fn(&Script) -> bool) -> (Script, usize) {
    let script = script();
    assert!(fails(&script), "the whole script fails");
    let first = outcome(&script, true);
    let mut search = Search::new(script, first, None);
    let mut runs = 0;
    loop {
        let offered = search.offer(jobs);
        if offered.is_empty() {
            return (search.best().0.clone(), runs);
        }
        runs += offered.len();
        assert!(runs < 20_000, "it comes to an end");
        let outcomes = offered
            .iter()
            .map(|script| Some(outcome(script, fails(script))));
        search.judge(outcomes.collect());
    }
}

fn writes(script: &Script, block: u64) -> usize {
    let operations = script.operations.iter().flatten();
    operations
        .filter(|one| one.block == block && one.deed == Deed::Write)
        .count()
}

fn crashes(script: &Script) -> bool {
    let mut faults = script.plan.faults.iter();
    faults.any(|fault| matches!(fault.action, FaultAction::Crash(_, Crash::POWER)))
}

#[test]
fn a_fault_and_an_operation_are_all_that_is_left() {
    for jobs in [1, 2, 5] {
        let (least, runs) = shrink(jobs, |script| {
            crashes(script)
                && script.plan.nodes >= 3
                && script.operations.iter().flatten().count() > 0
        });
        let size = Size::of(&least);
        assert_eq!(
            (size.faults, size.operations),
            (1, Some(1)),
            "{:#?}",
            least.plan
        );
        assert_eq!((size.nodes, size.moves), (3, 0));
        assert_eq!(least.service, 0);
        assert_eq!(least.plan.shards, 1);
        assert!(runs < 700 * jobs, "{runs} runs with {jobs} jobs");
    }
}

#[test]
fn what_is_needed_together_stays_together() {
    // Two writes of one block by different clients, and a pause between them in the list of faults.
    let (least, _) = shrink(2, |script| {
        let pause = |fault: &TimedFault| matches!(fault.action, FaultAction::Pause(_));
        let blocks = 0..script.plan.hot_blocks;
        blocks.into_iter().any(|block| writes(script, block) >= 2)
            && script.plan.faults.iter().any(pause)
            && script.plan.policy.replication_factor >= 3
    });
    let size = Size::of(&least);
    assert_eq!(
        (size.faults, size.operations),
        (1, Some(2)),
        "{:#?}",
        least.plan
    );
    assert!(
        size.nodes <= 2,
        "where the pause is, and where the clients are"
    );
    assert_eq!(least.plan.hot_blocks, 1, "blocks are numbered anew");
}

#[test]
fn another_seed_is_tried_before_the_search_gives_up() {
    let own = script().plan.seed;
    // With fewer than 40 operations only other seeds show it.
    let (least, _) = shrink(1, |script| {
        let count = script.operations.iter().flatten().count();
        count >= 40 || (count >= 1 && script.plan.seed != own)
    });
    assert_eq!(Size::of(&least).operations, Some(1));
    assert_ne!(least.plan.seed, own);
}

#[test]
fn no_script_that_passed_is_offered_again() {
    let first = script();
    let mut search = Search::new(first.clone(), outcome(&first, true), None);
    let mut seen = BTreeSet::new();
    loop {
        let offered = search.offer(3);
        if offered.is_empty() {
            break;
        }
        for script in &offered {
            assert!(seen.insert(identity(script)), "offered twice");
        }
        let passed = offered.iter().map(|script| Some(outcome(script, false)));
        assert_eq!(search.judge(passed.collect()), Judgement::Nothing);
    }
    assert!(seen.len() > 100);
    assert_eq!(search.best().0, &first);
}

#[test]
fn a_failure_of_another_class_or_text_does_not_count() {
    let first = script();
    let text = Some("block 7".to_owned());
    let search = Search::new(first.clone(), outcome(&first, true), text);
    let mut other = outcome(&first, true);
    assert!(search.is_wanted(&other));
    other.failure.as_mut().expect("it failed").text = "block 8 is wrong".into();
    assert!(!search.is_wanted(&other));
    let mut other = outcome(&first, true);
    other.failure.as_mut().expect("it failed").oracle = "replicas".into();
    assert!(!search.is_wanted(&other));
}
