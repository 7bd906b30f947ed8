//! The report of a run: one offline HTML file with a space-time diagram of nodes, messages and
//! faults, every block's history with the violating operations marked, and the log.
//!
//! The drawing is done by `assets/`, on the widgets that `hedgerow-jepsen`'s reports share.
//!
//! Invariants: the page is a function of the script and the report; it stays below
//! [`PAGE_MAXIMUM_BYTES`] however long the run was, and says what it leaves out. It judges nothing:
//! the violating operations are those that the checker names.

mod columns;
mod messages;
mod spans;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use hedgerow_jepsen::check::{Verdict, Witness};
use hedgerow_jepsen::report::operations;
use hedgerow_jepsen::report::pack::Pack;
use hedgerow_jepsen::report::page::Page;
use serde_json::{Value, json};

use crate::scenario::{Plan, Report, Script};

use columns::{Budget, Recorded};
pub use messages::describe;

/// A page can be mailed and opens at once.
pub const PAGE_MAXIMUM_BYTES: usize = 5_000_000;
/// Lines of the log that a page keeps at first.
const LINES_MAXIMUM: usize = 100_000;
/// Disk calls that a page keeps at first.
const DISK_CALLS_MAXIMUM: usize = 200_000;
/// Bytes of messages' words at first; a tenth is left of them when they are compressed.
const WORDS_MAXIMUM_BYTES: usize = 24 << 20;
/// Times that the budget is cut before the page is taken as it is: by then it keeps next to nothing.
const CUTS_MAXIMUM: u32 = 12;

/// What was run, for the page's head.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// `seed 7`, or the tape's name.
    pub name: String,
    /// The one command that repeats it.
    pub command: String,
    /// The code's commit.
    pub commit: &'a str,
    /// The planted bug.
    pub mutant: Option<&'a str>,
    /// What a reader should know besides.
    pub remarks: Vec<String>,
}

/// The page of a run that was recorded.
#[must_use]
pub fn page(script: &Script, report: &Report, subject: &Subject<'_>) -> String {
    let witness = match report.history.check() {
        Verdict::Invalid(witness) => Some(witness),
        Verdict::Valid | Verdict::Unknown(_) => None,
    };
    let end_ns = u64::try_from(report.virtual_time.as_nanos()).unwrap_or(u64::MAX);
    let focus_ns = witness
        .as_ref()
        .and_then(|w| focus(report, w))
        .unwrap_or(end_ns);
    let recorded = Recorded::new(&report.recorded, focus_ns, end_ns);
    let mut budget = Budget {
        messages: recorded.messages(),
        words: WORDS_MAXIMUM_BYTES,
        lines: LINES_MAXIMUM,
        disk_calls: DISK_CALLS_MAXIMUM,
    };
    let mut html = String::new();
    for _ in 0..CUTS_MAXIMUM {
        html = render(
            script,
            report,
            subject,
            witness.as_ref(),
            (&recorded, budget),
        );
        if html.len() <= PAGE_MAXIMUM_BYTES {
            break;
        }
        budget.cut(html.len());
    }
    html
}

/// When the last operation of the witness ended.
fn focus(report: &Report, witness: &Witness) -> Option<u64> {
    let events = report.history.to_history();
    let calls = events.calls().ok()?;
    let last = witness.operations.iter().filter_map(|&operation| {
        let call = calls.get(usize::try_from(operation).ok()?)?;
        let line = call.complete_line.unwrap_or(call.invoke_line);
        let event = events
            .events
            .get(usize::try_from(line).ok()?.checked_sub(1)?)?;
        u64::try_from(event.time_ns?).ok()
    });
    last.max()
}

fn render(
    script: &Script,
    report: &Report,
    subject: &Subject<'_>,
    witness: Option<&Witness>,
    (recorded, budget): (&Recorded<'_>, Budget),
) -> String {
    let plan = &script.plan;
    let mut pack = Pack::default();
    let marked: BTreeSet<u64> =
        witness.map_or_else(BTreeSet::new, |w| w.operations.iter().copied().collect());
    let shape = operations::pack(&report.history.to_history(), &marked, &mut pack);
    let kept = recorded.pack(budget, &mut pack);
    let failure = report.verdict.as_ref().err();
    let meta = json!({
        "name": subject.name,
        "command": subject.command,
        "commit": subject.commit,
        "mutant": subject.mutant,
        "remarks": subject.remarks,
        "seed": plan.seed,
        "verdict": if failure.is_some() { "fail" } else { "pass" },
        "kind": failure.map(|failure| failure.kind.word()),
        "oracle": failure.map(|failure| failure.oracle),
        "text": failure.map(|failure| &failure.text),
        "trace": format!("{:016x}", report.trace_hash),
        "events": report.events,
        "end_ns": u64::try_from(report.virtual_time.as_nanos()).unwrap_or(u64::MAX),
        "nodes": nodes(plan),
        "spans": fault_spans(plan, report),
        "phases": phases(plan, report),
        "plan": plan_facts(plan),
        "part": witness.and_then(|witness| witness.part.clone()),
        "explanation": witness.map(|witness| &witness.explanation),
        "witness": marked,
        "operations": {
            "count": shape.count,
            "endings": shape.endings,
            "functions": shape.functions,
            "unit_ns": shape.unit_ns,
        },
        "kept": kept,
    });
    let plain = format!(
        "{}: {}\n{}\n{}\ncommit {}\n",
        subject.name,
        failure.map_or("pass", |failure| failure.oracle),
        failure.map_or("", |failure| &failure.text),
        subject.command,
        subject.commit
    );
    Page {
        title: &format!("{} - hedgerow-sim", subject.name),
        plain: &plain,
        meta: &meta,
        data: &pack,
        style: include_str!("assets/timeline.css"),
        script: concat!(
            include_str!("assets/timeline.js"),
            "\n",
            include_str!("assets/diagram.js"),
            "\n",
            include_str!("assets/panel.js")
        ),
    }
    .render()
}

/// The faults of both phases, as far as the run came.
fn fault_spans(plan: &Plan, report: &Report) -> Vec<Value> {
    let end_ns = u64::try_from(report.virtual_time.as_nanos()).unwrap_or(u64::MAX);
    let forming = spans::spans(&plan.formation, report.safety_began_ns.unwrap_or(end_ns));
    let mut all: Vec<Value> = forming.iter().map(|span| span.json(0)).collect();
    if let Some(began_ns) = report.safety_began_ns {
        let heals_ns = u64::try_from(plan.safety.as_nanos()).unwrap_or(u64::MAX);
        let safety = spans::spans(&plan.faults, heals_ns);
        all.extend(safety.iter().map(|span| span.json(began_ns)));
    }
    all
}

/// Names and places as the scenario gives them; behind the cluster's nodes the initiators' machine.
fn nodes(plan: &Plan) -> Vec<Value> {
    let node = |number: u16| {
        let rack = number % plan.racks.max(1);
        json!({
            "name": format!("node-{number}"),
            "rack": format!("rack-{rack}"),
            "dc": format!("dc-{}", rack % plan.data_centres.max(1)),
        })
    };
    let machine = json!({"name": "initiators", "rack": "clients", "dc": ""});
    let machine = (plan.initiators > 0).then_some(machine);
    (0..plan.nodes).map(node).chain(machine).collect()
}

/// The moments at which phases begin, as far as the run came.
fn phases(plan: &Plan, report: &Report) -> Vec<Value> {
    let mut phases = vec![json!([0, "formation"])];
    if let Some(began_ns) = report.safety_began_ns {
        let healed_ns = began_ns + u64::try_from(plan.safety.as_nanos()).unwrap_or(u64::MAX / 2);
        phases.push(json!([began_ns, "faults"]));
        phases.push(json!([healed_ns, "healed"]));
    }
    phases
}

fn plan_facts(plan: &Plan) -> Value {
    json!({
        "nodes": plan.nodes,
        "racks": plan.racks,
        "data centres": plan.data_centres,
        "shards": plan.shards,
        "replication factor": plan.policy.replication_factor,
        "placement": format!("{:?}", plan.policy.placement),
        "block size": plan.policy.block_size,
        "compression": plan.policy.compression,
        "containers": plan.containers,
        "hot blocks": plan.hot_blocks,
        "clients": plan.clients,
        "initiators": plan.initiators,
        "pause": format!("{:?}", plan.pause),
        "faults last": format!("{:?}", plan.safety),
        "moves of the disk": plan.moves.len(),
        "nodes added later": plan.additions.len(),
        "clock drift, ppm": plan.drift_ppm,
        "fault actions": plan.faults.len(),
    })
}
