//! A test of real processes as a scenario of the simulator, as far as it goes.
//!
//! What carries over: nodes and racks, the disk's block size, how many clients act how often, and
//! every fault with its time and nodes. What does not: the clients' very operations and the moments
//! at which messages met; those come from the seed. A slow or lossy TCP link becomes one whose
//! messages are late, lost and damaged, because that is what TCP stood for.

use std::time::Duration;

use hedgerow_jepsen::run::workload::WorkloadPlan;
use hedgerow_jepsen::run::{DamageKind, Fault, Link, LinkRules as Rules, TestPlan, TimedFault};

use crate::scenario::Plan;
use crate::world::{
    Crash, DiskFaults, FaultAction, LinkRules, LinkState, NodeIndex, TimedFault as Strike,
};

/// Blocks that clients use, at most: as many as a drawn plan has.
const HOT_BLOCKS: u64 = 32;

/// The scenario of `test`, and what of it could not be carried over.
#[must_use]
pub fn plan_of(test: &TestPlan) -> (Plan, Vec<String>) {
    let mut left_out = Vec::new();
    let mut plan = Plan::draw(test.seed);
    plan.nodes = test.nodes;
    plan.racks = test.racks;
    plan.data_centres = 1;
    plan.drift_ppm = Vec::new();
    plan.formation = Vec::new();
    plan.moves.retain(|step| step.to.0 < test.nodes);
    match &test.workload {
        WorkloadPlan::Block(block) => {
            plan.policy.block_size = block.block_size;
            let room = plan.container_bytes / u64::from(block.block_size);
            let hot: u64 = block.hot.iter().map(|span| span.count).sum();
            plan.hot_blocks = hot.min(HOT_BLOCKS).min(room * u64::from(plan.containers));
        }
        other => left_out.push(format!("the workload {}: blocks instead", other.name())),
    }
    plan.clients = test.clients.concurrency.min(8);
    let pause_ms = 1000 * u64::from(test.clients.concurrency) / u64::from(test.clients.rate);
    plan.pause = Duration::from_millis(pause_ms.clamp(1, 1000));
    plan.safety = Duration::from_millis(test.duration_ms);
    plan.faults = Vec::new();
    plan.operators = Vec::new();
    plan.additions = Vec::new();
    plan.tunables = None;
    plan.abandonment.take_if(|one| one.node.0 >= test.nodes);
    plan.restoration.take_if(|one| one.node.0 >= test.nodes);
    for timed in &test.faults {
        if matches!(timed.fault, Fault::Join { .. } | Fault::Drain { .. }) {
            left_out.push(timed.fault.text());
        }
        carry(timed, &mut plan.faults);
    }
    plan.faults.sort_by_key(|strike| strike.at_ns);
    (plan, left_out)
}

/// One fault as what it does when it begins and when it ends.
fn carry(timed: &TimedFault, strikes: &mut Vec<Strike>) {
    let (begin, end) = (timed.at_ms * 1_000_000, timed.until_ms * 1_000_000);
    let mut push = |at_ns, action| strikes.push(Strike { at_ns, action });
    let mut down = |nodes: &[u16], crash: Crash| {
        for node in nodes {
            push(begin, FaultAction::Crash(NodeIndex(*node), crash));
            push(end, FaultAction::Restart(NodeIndex(*node)));
        }
    };
    match &timed.fault {
        // A scenario has no operator, and the nodes that it has.
        Fault::Join { .. } | Fault::Drain { .. } => {}
        fault @ (Fault::Kill { .. } | Fault::Restart { .. }) => down(&fault.nodes(), Crash::KILL),
        Fault::LoseUnsynced { nodes } | Fault::PowerLoss { nodes } => down(nodes, Crash::RESET),
        Fault::Damage { node, damage, draw } => {
            down(&[*node], Crash::KILL);
            // The world rots bits; it does not cut files off.
            let bits = if *damage == DamageKind::Flip { 1 } else { 64 };
            for bit in 0..bits {
                let place = draw.wrapping_add(bit * 8);
                push(begin + 1, FaultAction::Rot(NodeIndex(*node), place));
            }
        }
        Fault::Wipe { node } => {
            down(&[*node], Crash::KILL);
            push(begin + 1, FaultAction::WipeDisk(NodeIndex(*node)));
        }
        Fault::Pause { nodes } => {
            for node in nodes {
                push(begin, FaultAction::Pause(NodeIndex(*node)));
                push(end, FaultAction::Resume(NodeIndex(*node)));
            }
        }
        Fault::Partition { groups, .. } => {
            let group = |group: &Vec<u16>| group.iter().map(|node| NodeIndex(*node)).collect();
            let groups = groups.iter().map(group).collect();
            push(begin, FaultAction::Partition(groups));
            push(end, FaultAction::HealLinks);
        }
        Fault::Links { links, rules, .. } => {
            for Link { from, to } in links {
                let between = (NodeIndex(*from), NodeIndex(*to));
                strikes.extend(carry_link(between, rules, (begin, end)));
            }
        }
        Fault::Clock {
            node,
            wall_offset_ms,
            rate_ppm,
            strobe_ms,
        } => {
            let node = NodeIndex(*node);
            for (at_ns, is_off) in turns((begin, end), *strobe_ms) {
                let (rate, step) = if is_off {
                    (*rate_ppm, *wall_offset_ms)
                } else {
                    (0, -*wall_offset_ms)
                };
                push(at_ns, FaultAction::Drift(node, rate));
                push(at_ns, FaultAction::StepWall(node, step));
            }
        }
        Fault::FullDisk { node } => {
            let node = NodeIndex(*node);
            let full = DiskFaults {
                capacity_bytes: Some(0),
                ..DiskFaults::default()
            };
            push(begin, FaultAction::Disk(node, full));
            push(end, FaultAction::Disk(node, DiskFaults::default()));
            push(end + 1_000_000, FaultAction::Restart(node));
        }
    }
}

/// What befalls one directed link.
fn carry_link(
    (from, to): (NodeIndex, NodeIndex),
    rules: &Rules,
    (begin, end): (u64, u64),
) -> Vec<Strike> {
    let strike = |at_ns, action| Strike { at_ns, action };
    let mut strikes = vec![
        strike(begin, FaultAction::Link(from, to, link_rules(rules))),
        strike(end, FaultAction::Link(from, to, LinkRules::default())),
    ];
    // A connection has both directions: breaking those of one breaks it.
    if from < to {
        let breaks = breaks((begin, end), rules.reset_ppm).into_iter();
        strikes.extend(breaks.map(|at_ns| strike(at_ns, FaultAction::BreakConnections(from, to))));
    }
    strikes
}

/// When a clock is put wrong (true) and right again: once, or in turns of `strobe_ms`.
fn turns((begin, end): (u64, u64), strobe_ms: u64) -> Vec<(u64, bool)> {
    if strobe_ms == 0 {
        return vec![(begin, true), (end, false)];
    }
    let (mut turns, mut at_ns, mut is_off) = (Vec::new(), begin, true);
    while at_ns < end || !is_off {
        turns.push((at_ns.min(end), is_off));
        is_off = !is_off;
        at_ns += strobe_ms * 1_000_000;
    }
    turns
}

/// When a link breaks its connections: its rate counts in pieces, of which a busy link passes a
/// hundred a second.
fn breaks((begin, end): (u64, u64), reset_ppm: u32) -> Vec<u64> {
    let shortest_ns = 250_000_000;
    let Some(period_ns) = 10_000_000_000_000_u64.checked_div(u64::from(reset_ppm)) else {
        return Vec::new();
    };
    let period_ns = period_ns.max(shortest_ns);
    let times = (1..).map(|turn| begin + turn * period_ns);
    times.take_while(|at_ns| *at_ns < end).collect()
}

pub(crate) fn link_rules(rules: &Rules) -> LinkRules {
    LinkRules {
        state: if rules.cut {
            LinkState::Cut
        } else {
            LinkState::default()
        },
        loss_ppm: rules.stall_ppm,
        duplicate_ppm: rules.duplicate_ppm / 10,
        corrupt_ppm: rules.corrupt_ppm,
        delay_ns: rules.delay_ms * 1_000_000,
        jitter_ns: rules.jitter_ms * 1_000_000,
        ..LinkRules::default()
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_env::Random;
    use hedgerow_jepsen::run::workload::BlockPlan;
    use hedgerow_jepsen::run::{ClientPlan, LEAST_CUT_MS, kinds_named};

    use super::*;

    #[test]
    fn what_repeats_ends_as_it_was_before() {
        let ms = 1_000_000;
        assert_eq!(turns((ms, 9 * ms), 0), [(ms, true), (9 * ms, false)]);
        let strobe = turns((0, 5 * ms), 2);
        let expected = [(0, true), (2, false), (4, true), (5, false)];
        assert_eq!(strobe, expected.map(|(at, is_off)| (at * ms, is_off)));
        assert_eq!(breaks((0, 1_000 * ms), 30_000).len(), 3);
        assert!(breaks((0, 1_000 * ms), 0).is_empty());
    }

    #[test]
    fn every_fault_of_a_test_has_its_counterpart_at_its_time() {
        let clients = ClientPlan {
            concurrency: 10,
            rate: 100,
            crash_ppm: 0,
            timeout_ms: 1000,
        };
        let block = BlockPlan::draw(&mut Random::from_seed(1), Some(4096), 30);
        let kinds = kinds_named("all", 5).unwrap();
        let workload = WorkloadPlan::Block(block);
        let test = TestPlan::draw(9, (5, 300), workload, clients, (&kinds, LEAST_CUT_MS)).unwrap();
        let (plan, left_out) = plan_of(&test);
        assert_eq!((plan.nodes, plan.safety.as_secs()), (5, 300));
        let needs_operator =
            |timed: &&TimedFault| matches!(timed.fault, Fault::Join { .. } | Fault::Drain { .. });
        let operators: Vec<String> = test
            .faults
            .iter()
            .filter(needs_operator)
            .map(|timed| timed.fault.text())
            .collect();
        assert!(!operators.is_empty(), "the draw has some");
        assert_eq!(left_out, operators, "a scenario has no operator");
        for timed in test.faults.iter().filter(|timed| !needs_operator(timed)) {
            let begins = |strike: &&Strike| strike.at_ns / 1_000_000 == timed.at_ms;
            let ends = |strike: &&Strike| strike.at_ns / 1_000_000 == timed.until_ms;
            assert!(
                plan.faults.iter().any(|strike| begins(&strike)),
                "{timed:?}"
            );
            // A clock in turns may be right again before the end.
            let ended = timed.kind == "strobe" || plan.faults.iter().any(|strike| ends(&strike));
            assert!(ended, "{timed:?}");
        }
    }
}
