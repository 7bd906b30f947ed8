//! A tape in words: the cluster, then every fault, move and operation in the order of their times.
//!
//! Does not: count anything for the shrinker, or leave anything out; the file itself holds no more.

use std::fmt::Write;

use crate::scenario::{ClientId, ClientOperation, Deed, Move, OperatorAction, OperatorDeed, Plan};
use crate::world::{
    Crash, CrashLoop, DiskFaults, FaultAction, LinkRules, LinkState, NodeIndex, Strike, TimedFault,
};

use super::Tape;

/// The whole tape in words.
#[must_use]
pub fn describe(tape: &Tape) -> String {
    let plan = &tape.script.plan;
    let mut text = shape(plan);
    if let Some(mutant) = &tape.mutant {
        push(&mut text, &format!("planted bug: {mutant}"));
    }
    for strike in &tape.script.strikes {
        push(&mut text, &format!("struck: {}", strike_words(strike)));
    }
    push(&mut text, "   time s  where  what");
    for fault in &plan.formation {
        let (place, what) = action_words(&fault.action);
        let what = format!("{what} (while the cluster forms)");
        push(&mut text, &line(fault.at_ns, &place, &what));
    }
    let mut events: Vec<(u64, String, String)> = Vec::new();
    for fault in &plan.faults {
        let (place, what) = action_words(&fault.action);
        events.push((fault.at_ns, place, what));
    }
    events.extend(plan.moves.iter().map(move_words));
    for split in &plan.splits {
        let what = format!("an operator asks for the split of shard {}", split.which);
        events.push((split.at_ns, String::new(), what));
    }
    for addition in &plan.additions {
        let what = "is added: a blank node starts and joins".to_owned();
        events.push((addition.at_ns, addition.node.to_string(), what));
    }
    events.extend(plan.operators.iter().map(operator_words));
    for operation in tape.script.operations.iter().flatten() {
        let seen = tape.failure.as_ref().is_some_and(|failure| {
            let tag = operation.tag().to_string();
            failure.text.contains(&tag)
        });
        events.push(operation_words(operation, seen));
    }
    let end_ns = u64::try_from(plan.safety.as_nanos()).unwrap_or(u64::MAX);
    events.push((end_ns, String::new(), "every fault ends".into()));
    events.sort_by_key(|(at_ns, ..)| *at_ns);
    for (at_ns, place, what) in events {
        push(&mut text, &line(at_ns, &place, &what));
    }
    match (&tape.script.operations, tape.script.service) {
        (None, _) => push(&mut text, "clients do what the seed draws"),
        (Some(_), 0) => push(
            &mut text,
            "then every block is read and the cluster is judged",
        ),
        (Some(_), wanted) => push(
            &mut text,
            &format!("then {wanted} operations must succeed, and the cluster is judged"),
        ),
    }
    if let Some(abandonment) = &plan.abandonment {
        let (writes, node) = (abandonment.writes, abandonment.node);
        let after = milliseconds(abandonment.after_ns);
        let what = format!("then node {node} is killed {after} after it began {writes} writes");
        push(&mut text, &what);
    }
    if let Some(restoration) = &plan.restoration {
        let (node, at_ns) = (restoration.node, restoration.image_at_ns);
        let at = milliseconds(at_ns);
        let what = format!("last, node {node} gets the image of its disk taken at {at}");
        push(&mut text, &what);
    }
    if let Some(failure) = &tape.failure {
        let (kind, oracle) = (failure.kind.word(), &failure.oracle);
        push(&mut text, &format!("{kind}, {oracle}: {}", failure.text));
    }
    text
}

fn line(at_ns: u64, place: &str, what: &str) -> String {
    let (seconds, milliseconds) = (at_ns / 1_000_000_000, at_ns / 1_000_000 % 1_000);
    format!("{seconds:>5}.{milliseconds:03}  {place:<5}  {what}")
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("text takes every line");
}

fn plural(count: impl Into<u64>, one: &str) -> String {
    match count.into() {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    }
}

fn shape(plan: &Plan) -> String {
    let policy = &plan.policy;
    let drifting = plan.drift_ppm.iter().filter(|drift| **drift != 0).count();
    let drifting = u64::try_from(drifting).expect("usize fits 64 bits");
    format!(
        "{} in {}, {}, {}; {} of a disk with replication {}, {:?}, {}-byte blocks{}; {} ({})\n",
        plural(plan.nodes, "node"),
        plural(plan.racks.min(plan.nodes), "rack"),
        plural(plan.data_centres.min(plan.nodes), "data centre"),
        plural(plan.shards, "shard"),
        plural(plan.containers, "container"),
        policy.replication_factor,
        policy.placement,
        policy.block_size,
        if policy.compression {
            ", compressed"
        } else {
            ""
        },
        plural(plan.hot_blocks, "block"),
        plural(drifting, "drifting clock"),
    ) + &tunables(plan)
}

fn tunables(plan: &Plan) -> String {
    match &plan.tunables {
        Some(tunables) => format!("{tunables:?}\n"),
        None => String::new(),
    }
}

fn move_words(one: &Move) -> (u64, String, String) {
    let former = match one.former_goes_on_ns {
        0 => "and its holder releases it".to_owned(),
        length => format!("and its holder goes on for {}", milliseconds(length)),
    };
    (
        one.at_ns,
        one.to.to_string(),
        format!("the disk moves here, {former}"),
    )
}

fn operator_words(action: &OperatorAction) -> (u64, String, String) {
    let (place, what) = match &action.deed {
        OperatorDeed::Create {
            disk,
            client,
            policy,
            halves,
        } => (
            client.to_string(),
            format!(
                "an operator makes disk {disk} of {halves} half containers with replication {}, \
                 {:?}, {}-byte blocks; a client here uses it",
                policy.replication_factor, policy.placement, policy.block_size
            ),
        ),
        OperatorDeed::Resize { disk, halves } => (
            String::new(),
            format!("an operator gives disk {disk} {halves} half containers"),
        ),
        OperatorDeed::Delete { disk } => {
            (String::new(), format!("an operator deletes disk {disk}"))
        }
        OperatorDeed::Drain { node, until_ns } => (
            node.to_string(),
            format!("drains until {}", milliseconds(*until_ns)),
        ),
    };
    (action.at_ns, place, what)
}

/// The tag is mentioned where the failure's text has it.
fn operation_words(operation: &ClientOperation, seen: bool) -> (u64, String, String) {
    let who = match operation.client {
        ClientId::FORMER_HOLDER => "the former holder".to_owned(),
        client if client >= ClientId::FIRST_INITIATOR => {
            format!("initiator {}", client - ClientId::FIRST_INITIATOR)
        }
        client => format!("client {client}"),
    };
    let block = match operation.count {
        1 => operation.block.to_string(),
        count => format!("{} to {}", operation.block, operation.block + count - 1),
    };
    let what = match operation.deed {
        Deed::Read => format!("reads block {block}"),
        Deed::Write => format!("writes block {block}"),
        Deed::WriteThenCancel { after_us } => {
            format!("writes block {block} and cancels after {after_us} us")
        }
        Deed::Zero => format!("zeroes block {block}"),
    };
    let tag = match seen {
        true => format!(" (tag {})", operation.tag()),
        false => String::new(),
    };
    let what = format!("{who} {what}{tag}");
    (operation.at_ns, operation.node.to_string(), what)
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{} ms", nanoseconds / 1_000_000)
}

fn strike_words(strike: &Strike) -> String {
    match strike {
        Strike::Message(id, fault) => {
            format!(
                "message {} from {} to {}: {fault:?}",
                id.number, id.from, id.to
            )
        }
        Strike::Disk(id, fault) => format!(
            "{:?} {} of {} on {}: {fault:?}",
            id.call, id.number, id.path, id.disk
        ),
    }
}

/// Where an action strikes, and what it does. Whatever has no words here shows its fields.
fn action_words(action: &FaultAction) -> (String, String) {
    match action {
        FaultAction::Crash(node, crash) => (node.to_string(), crash_words(*crash).into()),
        FaultAction::CrashAfterCalls(node, calls, crash) => (
            node.to_string(),
            format!("at disk call {calls} from now: {}", crash_words(*crash)),
        ),
        FaultAction::CrashLoop(node, rule) => (node.to_string(), loop_words(rule)),
        FaultAction::Restart(node) => (node.to_string(), "starts, if it is down".into()),
        FaultAction::Pause(node) => (node.to_string(), "pauses".into()),
        FaultAction::Resume(node) => (node.to_string(), "resumes".into()),
        FaultAction::Link(from, to, rules) => (
            String::new(),
            format!("link {from} to {to}: {}", rules_words(rules)),
        ),
        FaultAction::Partition(groups) => {
            let group = |group: &Vec<NodeIndex>| {
                let names: Vec<String> = group.iter().map(NodeIndex::to_string).collect();
                names.join(" ")
            };
            let groups: Vec<String> = groups.iter().map(group).collect();
            (String::new(), format!("partition: {}", groups.join(" | ")))
        }
        FaultAction::HealLinks => (String::new(), "every link opens".into()),
        FaultAction::BreakConnections(one, other) => (
            one.to_string(),
            format!("its connections with {other} break"),
        ),
        FaultAction::HalfOpen(one, other) => (
            one.to_string(),
            format!("its connections with {other} break, which is not told"),
        ),
        FaultAction::Disk(node, faults) => (node.to_string(), disk_words(faults)),
        FaultAction::KeepImage(node) => (node.to_string(), "an image of its disk is kept".into()),
        FaultAction::RestoreImage(node) => (node.to_string(), "gets the image of its disk".into()),
        FaultAction::SwapDisks(one, other) => {
            (one.to_string(), format!("exchanges its disk with {other}"))
        }
        FaultAction::AtPhase(node, phase, faults) => {
            let then = |fault: &TimedFault| {
                let (place, what) = action_words(&fault.action);
                format!("{}: {place} {what}", milliseconds(fault.at_ns))
            };
            let then: Vec<String> = faults.iter().map(then).collect();
            let what = format!("when its next {phase} begins, {}", then.join("; "));
            (node.to_string(), what)
        }
        FaultAction::Begin(number, begun) => {
            let (place, what) = action_words(begun);
            (place, format!("{what} (fault {})", number.0))
        }
        FaultAction::End(number) => (String::new(), format!("fault {} ends", number.0)),
        FaultAction::Drift(node, ppm) => {
            (node.to_string(), format!("its clock runs {ppm} ppm fast"))
        }
        FaultAction::StepWall(node, step_ms) => (
            node.to_string(),
            format!("its wall clock steps {step_ms} ms"),
        ),
        FaultAction::Rot(node, _) => (node.to_string(), "a bit rots on its disk".into()),
        FaultAction::RotIn(node, area, _) => (
            node.to_string(),
            format!("a bit rots on its disk: {area:?}"),
        ),
        FaultAction::RotSettled(node, _) => (
            node.to_string(),
            "a bit rots in the midst of its journal".into(),
        ),
        FaultAction::WipeDisk(node) => (node.to_string(), "its disk is wiped".into()),
    }
}

fn loop_words(rule: &CrashLoop) -> String {
    let (crash, life) = (crash_words(rule.crash), milliseconds(rule.life_ns));
    let down = milliseconds(rule.down_ns);
    format!("{crash}, and again at most {life} after each start; it starts {down} after each end")
}

fn crash_words(crash: Crash) -> &'static str {
    match (crash.power_loss, crash.dark) {
        (false, false) => "is killed",
        (false, true) => "is killed and goes dark",
        (true, true) => "loses power",
        (true, false) => "is reset",
    }
}

fn rules_words(rules: &LinkRules) -> String {
    if *rules == LinkRules::default() {
        return "open, no faults".into();
    }
    let mut words = Vec::new();
    match rules.state {
        LinkState::Open => {}
        LinkState::Cut => words.push("cut".to_owned()),
        LinkState::Clogged => words.push("clogged".to_owned()),
    }
    for (ppm, what) in [
        (rules.loss_ppm, "lost"),
        (rules.duplicate_ppm, "doubled"),
        (rules.reorder_ppm, "held back"),
        (rules.corrupt_ppm, "corrupted"),
    ] {
        if ppm > 0 {
            words.push(format!("{ppm} ppm {what}"));
        }
    }
    for (delay_ns, what) in [(rules.delay_ns, "delay"), (rules.jitter_ns, "jitter")] {
        if delay_ns > 0 {
            words.push(format!("{what} {}", milliseconds(delay_ns)));
        }
    }
    if rules.bytes_per_second > 0 {
        words.push(format!("{} bytes/s", rules.bytes_per_second));
    }
    words.join(", ")
}

fn disk_words(faults: &DiskFaults) -> String {
    if *faults == DiskFaults::default() {
        return "its disk works".into();
    }
    let whole = serde_json::to_value(faults).unwrap_or_default();
    let plain = serde_json::to_value(DiskFaults::default()).unwrap_or_default();
    let fields = whole.as_object().into_iter().flatten();
    let words: Vec<String> = fields
        .filter(|(name, value)| plain.get(name.as_str()) != Some(value))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    format!("its disk: {}", words.join(", "))
}
