//! Each edit leaves out what it says, and nothing else.

use crate::scenario::{Addition, Move, Plan};
use crate::world::{
    Crash, DiskCall, DiskCallId, DiskFault, DiskFaults, FaultAction, LinkRules, MessageFault,
    MessageId, TimedFault,
};

use super::*;

fn node(number: u16) -> NodeIndex {
    NodeIndex(number)
}

fn operation(at_s: u64, node_number: u16, client: u32, block: u64) -> ClientOperation {
    ClientOperation {
        at_ns: at_s * 1_000_000_000,
        node: node(node_number),
        client,
        number: at_s,
        block,
        count: 1,
        deed: Deed::Write,
    }
}

fn fault(at_s: u64, action: FaultAction) -> TimedFault {
    let at_ns = at_s * 1_000_000_000;
    TimedFault { at_ns, action }
}

/// Nodes 0 to 4; things happen at 1, 2 ... 6 s.
fn script() -> Script {
    let lossy = LinkRules {
        loss_ppm: 7,
        delay_ns: 9,
        ..LinkRules::default()
    };
    let failing = DiskFaults {
        sync_error_ppm: 5,
        ..DiskFaults::default()
    };
    let disk_call = DiskCallId {
        disk: "node-3".into(),
        path: "journal".into(),
        call: DiskCall::Sync,
        number: 1,
    };
    let message = MessageId {
        from: node(1),
        to: node(3),
        number: 8,
    };
    Script {
        plan: Plan {
            nodes: 5,
            racks: 3,
            hot_blocks: 10,
            clients: 4,
            safety: std::time::Duration::from_secs(10),
            drift_ppm: vec![0, 10, 20, 30, 40],
            moves: vec![Move::of_released(3_000_000_000, node(3))],
            faults: vec![
                fault(1, FaultAction::Crash(node(1), Crash::KILL)),
                fault(2, FaultAction::Link(node(0), node(3), lossy)),
                fault(3, FaultAction::Restart(node(1))),
                fault(4, FaultAction::Disk(node(3), failing)),
                fault(
                    5,
                    FaultAction::Partition(vec![vec![node(1)], vec![node(0), node(3)]]),
                ),
                fault(6, FaultAction::Disk(node(3), DiskFaults::default())),
            ],
            ..Plan::plain()
        },
        operations: Some(vec![
            operation(1, 0, 2, 4),
            operation(2, 0, 3, 4),
            operation(4, 3, 1, 9),
        ]),
        strikes: vec![
            Strike::Message(message, MessageFault::Lose),
            Strike::Disk(disk_call, DiskFault::Error),
        ],
        service: 0,
    }
}

fn edited(edit: Edit) -> Script {
    edit.apply(&script()).expect("it changes something")
}

#[test]
fn nodes_that_stay_get_new_numbers_everywhere() {
    let after = edited(Edit::KeepNodes(vec![node(3), node(0), node(2)]));
    let plan = &after.plan;
    assert_eq!((plan.nodes, &plan.drift_ppm), (3, &vec![0, 20, 30]));
    assert_eq!(plan.moves[0].to, node(2), "3 is called 2 now");
    let actions: Vec<&FaultAction> = plan.faults.iter().map(|fault| &fault.action).collect();
    assert_eq!(
        actions.len(),
        3,
        "crash, restart and partition were about node 1"
    );
    assert!(matches!(actions[0], FaultAction::Link(from, to, _) if (from.0, to.0) == (0, 2)));
    assert!(matches!(actions[1], FaultAction::Disk(disk, _) if disk.0 == 2));
    let nodes: Vec<u16> = after
        .operations
        .iter()
        .flatten()
        .map(|one| one.node.0)
        .collect();
    assert_eq!(nodes, [0, 0, 2]);
    assert!(matches!(&after.strikes[..], [Strike::Disk(id, _)] if id.disk == "node-2"));
    assert_eq!(Edit::KeepNodes(Vec::new()).apply(&script()), None);
}

#[test]
fn added_nodes_are_renumbered_too_and_one_is_always_there_from_the_beginning() {
    let mut script = script();
    let added = |number, at_ns| Addition {
        at_ns,
        node: node(number),
    };
    script.plan.additions = vec![added(1, 5), added(3, 7)];
    let kept = |nodes: &[u16]| {
        let nodes = nodes.iter().copied().map(node).collect();
        let after = Edit::KeepNodes(nodes).apply(&script);
        after.expect("a smaller cluster").plan.additions
    };
    assert_eq!(kept(&[0, 2, 3]), [added(2, 7)]);
    assert_eq!(kept(&[1, 3]), [added(1, 7)]);
    let all = Edit::Plain(Feature::Additions).apply(&script);
    assert!(all.expect("it changes something").plan.additions.is_empty());
}

#[test]
fn an_episode_goes_with_its_end() {
    let after = edited(Edit::DeleteEpisodes(0..1));
    assert_eq!(
        after.plan.faults,
        [&script().plan.faults[1..2], &script().plan.faults[3..]].concat()
    );
    let after = edited(Edit::DeleteEpisodes(2..3));
    assert_eq!(
        after.plan.faults.len(),
        4,
        "the disk's faults and their end"
    );
}

#[test]
fn strikes_take_the_place_of_rates_and_nothing_else_of_a_fault() {
    let after = edited(Edit::Strikes(Vec::new()));
    assert_eq!(
        after.plan.faults.len(),
        4,
        "the failing disk has nothing left, nor has its end"
    );
    let link = LinkRules {
        delay_ns: 9,
        ..LinkRules::default()
    };
    assert_eq!(
        after.plan.faults[1].action,
        FaultAction::Link(node(0), node(3), link)
    );
    let field = "delay_ns".to_owned();
    let after = edited(Edit::PlainRule { fault: 1, field });
    assert!(
        matches!(after.plan.faults[1].action, FaultAction::Link(_, _, rules) if rules.delay_ns == 0)
    );
}

#[test]
fn operations_of_several_nodes_become_those_of_one() {
    let after = edited(Edit::StayAtNode(node(0)));
    assert!(after.plan.moves.is_empty());
    let operations = after.operations.expect("a list");
    let ids: Vec<(u16, u32, u64)> = operations
        .iter()
        .map(|one| (one.node.0, one.client, one.number))
        .collect();
    assert_eq!(ids, [(0, 1, 0), (0, 2, 0), (0, 3, 0)]);
    assert_eq!(after.plan.clients, 3);
}

#[test]
fn numbers_begin_at_the_lowest() {
    let after = edited(Edit::Plain(Feature::Numbers));
    let operations = after.operations.expect("a list");
    let blocks: Vec<u64> = operations.iter().map(|one| one.block).collect();
    assert_eq!((blocks, after.plan.hot_blocks), (vec![0, 0, 1], 2));
    let mut long = script();
    long.operations.as_mut().expect("a list")[0].count = 3;
    let after = Edit::Plain(Feature::Numbers)
        .apply(&long)
        .expect("it changes");
    assert_eq!(after.plan.hot_blocks, 4, "4, 5, 6 and 9");
    let last = after.operations.expect("a list")[2];
    assert_eq!(last.block, 3);
    let after = Edit::SingleBlocks.apply(&long).expect("it changes");
    assert_eq!(
        after,
        Script {
            plan: after.plan.clone(),
            ..script()
        }
    );
}

#[test]
fn initiators_become_clients_beside_the_proxy() {
    let mut script = script();
    let first = ClientId::FIRST_INITIATOR;
    script.plan.initiators = 2;
    let operations = script.operations.as_mut().expect("a list");
    operations[2].client = first + 1;
    let after = Edit::NoInitiators.apply(&script).expect("it changes");
    let clients: Vec<u32> = after
        .operations
        .iter()
        .flatten()
        .map(|one| one.client)
        .collect();
    assert_eq!((clients, after.plan.initiators), (vec![2, 3, 5], 0));
    assert_eq!(after.plan.clients, 5);
    let after = Edit::StayAtNode(node(0))
        .apply(&script)
        .expect("it changes");
    let clients: Vec<u32> = after
        .operations
        .iter()
        .flatten()
        .map(|one| one.client)
        .collect();
    assert_eq!((clients, after.plan.initiators), (vec![1, 2, first], 1));
}

#[test]
fn faults_of_the_formation_go_on_their_own() {
    let mut script = script();
    script.plan.formation = script.plan.faults[..3].to_vec();
    let after = Edit::DeleteFormation(0..1)
        .apply(&script)
        .expect("it changes");
    assert_eq!(
        (after.plan.formation.len(), after.plan.faults.len()),
        (1, 6)
    );
    let after = Edit::KeepNodes(vec![node(0), node(3)])
        .apply(&script)
        .expect("it changes");
    assert_eq!(after.plan.formation.len(), 1);
}

#[test]
fn times_are_cut_without_changing_the_order() {
    let after = edited(Edit::Truncate(3_500_000_000));
    assert_eq!((after.plan.faults.len(), after.plan.moves.len()), (3, 1));
    assert_eq!(after.operations.expect("a list").len(), 2);
    let after = edited(Edit::CutWait {
        until_ns: 4_000_000_000,
        to_ns: 250_000_000,
    });
    let times: Vec<u64> = after
        .plan
        .faults
        .iter()
        .map(|fault| fault.at_ns / 1_000_000)
        .collect();
    assert_eq!(times, [1_000, 2_000, 3_000, 3_250, 4_250, 5_250]);
    assert_eq!(after.plan.safety.as_millis(), 9_250);
}

#[test]
fn an_edit_without_an_effect_yields_nothing() {
    for edit in [
        Edit::Service(3),
        Edit::DeleteOperations(7..9),
        Edit::OnlyBlock(77),
        Edit::CancelNothing,
        Edit::NobodyGoesOn,
        Edit::Plain(Feature::Shards),
        Edit::Truncate(20_000_000_000),
        Edit::RoundTimes,
        Edit::DeleteMoves(1..1),
    ] {
        // The list has three clients' operations: one task more than that is no edit's doing.
        let mut script = script();
        script.plan.clients = 3;
        assert_eq!(edit.apply(&script), None, "{edit:?}");
    }
}
