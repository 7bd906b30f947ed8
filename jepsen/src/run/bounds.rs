//! What the numbers of a plan may be. Pure.
//!
//! Invariant: a number out of bounds is refused with the field's place in `plan.json`, the number, the
//! bounds, and the option of `jepsen run` that sets it.

use std::ops::RangeInclusive;

use super::fault_proxy::LinkRules;
use super::faults::{Fault, TimedFault, apart};
use super::nemesis;
use super::plan::PlanError;

/// Fewer nodes bear no loss, and node names beyond this are of no use on one machine.
pub(super) const NODES: RangeInclusive<u64> = 1..=15;
/// Below this no fault begins and ends; above it histories outgrow memory.
pub(super) const DURATION_MS: RangeInclusive<u64> = 5_000..=24 * 3_600_000;
/// Whoever has not recovered in an hour will not.
pub(super) const RECOVERY_MS: RangeInclusive<u64> = 1_000..=3_600_000;
/// Each has a connection of its own.
pub(super) const CONCURRENCY: RangeInclusive<u64> = 1..=256;
/// More is not to be had, and a history outgrows memory.
pub(super) const RATE: RangeInclusive<u64> = 1..=100_000;
/// An operation that takes longer than ten minutes takes for ever.
pub(super) const TIMEOUT_MS: RangeInclusive<u64> = 1..=600_000;
/// Parts per million.
pub(super) const PPM: RangeInclusive<u64> = 0..=1_000_000;
/// A disk that is slower than this is out of order.
pub(super) const SLOW_DISKS_MS: RangeInclusive<u64> = 0..=1_000;
/// Clients that rest for longer than this are not there.
pub(super) const REST_MS: RangeInclusive<u64> = 0..=10_000;
/// Nodes that join while a test runs.
pub(super) const SPARES: RangeInclusive<u64> = 0..=2;
/// How unevenly things are chosen: at 100 it would always be the first.
pub(super) const SKEW: RangeInclusive<u64> = 0..=95;
pub(super) const PERCENT: RangeInclusive<u64> = 0..=100;
/// Keys, names and blocks that the final reads go through.
pub(super) const KEYS: RangeInclusive<u64> = 1..=100_000;
pub(super) const NAMES: RangeInclusive<u64> = 1..=1_000;
pub(super) const BLOCKS: RangeInclusive<u64> = 1..=1 << 20;
/// A virtual disk of 16 TiB is as good as any larger one.
pub(super) const DISK_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 44;
/// Blocks of one request; 2 MiB of 64 KiB blocks stay below a target's limits.
pub(super) const REQUEST_BLOCKS: RangeInclusive<u64> = 1..=256;

/// A year: the wall clock only labels.
const WALL_OFFSET_MS: RangeInclusive<u64> = 0..=366 * 24 * 3_600_000;
/// What is later than this never comes.
const LATE_MS: RangeInclusive<u64> = 0..=600_000;
/// A day's test has a fault every few seconds in each of several lanes.
const MOST_FAULTS: u64 = 100_000;

/// Refuses a number out of bounds. `option` is empty if none sets it.
pub(super) fn within(
    field: &str,
    option: &str,
    found: impl Into<u64>,
    bounds: &RangeInclusive<u64>,
) -> Result<(), PlanError> {
    let found = found.into();
    if bounds.contains(&found) {
        return Ok(());
    }
    let (least, most) = (bounds.start(), bounds.end());
    let set_by = match option {
        "" => String::new(),
        option => format!(" ({option})"),
    };
    Err(PlanError(format!(
        "{field} is {found}: from {least} to {most} are possible{set_by}"
    )))
}

/// Refuses faults that no test could bear, or that could not strike: their times, their numbers and
/// their nodes.
pub(super) fn faults(
    faults: &[TimedFault],
    (nodes, spares): (u16, u16),
    duration_ms: u64,
) -> Result<(), PlanError> {
    within(
        "the number of faults",
        "",
        faults.len() as u64,
        &(0..=MOST_FAULTS),
    )?;
    for (number, timed) in faults.iter().enumerate() {
        let field = |name: &str| format!("faults[{number}].{name}");
        within(&field("at_ms"), "", timed.at_ms, &(0..=duration_ms))?;
        within(
            &field("until_ms"),
            "",
            timed.until_ms,
            &(timed.at_ms..=duration_ms),
        )?;
        match &timed.fault {
            Fault::Clock {
                wall_offset_ms,
                rate_ppm,
                strobe_ms,
                ..
            } => {
                let offset = wall_offset_ms.unsigned_abs();
                within(&field("fault.wall_offset_ms"), "", offset, &WALL_OFFSET_MS)?;
                within(&field("fault.rate_ppm"), "", rate_ppm.unsigned_abs(), &PPM)?;
                within(&field("fault.strobe_ms"), "", *strobe_ms, &LATE_MS)?;
            }
            Fault::Links { rules, .. } => link_rules(&field("fault.rules"), rules)?,
            _ => {}
        }
        nemesis::known(&field("kind"), &timed.kind)?;
        fault_nodes(&field("fault"), &timed.fault, (nodes, spares))?;
        let aim = timed.aim.unwrap_or(0);
        within(&field("aim"), "", aim, &(0..=u64::from(nodes + spares) - 1))?;
    }
    each_joins_once(faults)
}

/// Refuses a fault about nobody, about nodes that there are not, or about one of them twice: it
/// could not strike, or only in name.
fn fault_nodes(field: &str, fault: &Fault, (nodes, spares): (u16, u16)) -> Result<(), PlanError> {
    let refuse = |text: String| Err(PlanError(format!("{field}.{text}")));
    let all = nodes + spares;
    if let Some(node) = fault.nodes().into_iter().find(|node| *node >= all) {
        return refuse(format!(
            "node is {node}: nodes count from 0, and the plan has {all}"
        ));
    }
    match fault {
        Fault::Kill { nodes: struck }
        | Fault::Pause { nodes: struck }
        | Fault::LoseUnsynced { nodes: struck }
        | Fault::PowerLoss { nodes: struck } => {
            if struck.is_empty() {
                return refuse("nodes is empty: name one".to_owned());
            }
            if fault.nodes().len() < struck.len() {
                return refuse("nodes names a node twice".to_owned());
            }
        }
        Fault::Partition { groups, .. } if apart(all, groups).is_empty() => {
            return refuse("groups part nobody: any two nodes share one".to_owned());
        }
        Fault::Partition { groups, .. } if groups.iter().all(Vec::is_empty) => {
            return refuse("groups is empty: name nodes that can talk".to_owned());
        }
        Fault::Links { links, .. } => {
            if links.is_empty() {
                return refuse("links is empty: name one".to_owned());
            }
            if let Some(link) = links.iter().find(|link| link.from == link.to) {
                return refuse(format!("links has one from {0} to {0}", link.from));
            }
        }
        Fault::Join { node } if *node < nodes => {
            return refuse(format!(
                "node is {node}: only a spare joins, and those follow the plan's {nodes} nodes"
            ));
        }
        _ => {}
    }
    Ok(())
}

/// Refuses a spare that joins twice: it is a member by then.
fn each_joins_once(faults: &[TimedFault]) -> Result<(), PlanError> {
    let mut joined = std::collections::BTreeSet::new();
    for (number, timed) in faults.iter().enumerate() {
        if let Fault::Join { node } = timed.fault
            && !joined.insert(node)
        {
            let text =
                format!("faults[{number}].fault.node is {node}: that node has joined before");
            return Err(PlanError(text));
        }
    }
    Ok(())
}

fn link_rules(field: &str, rules: &LinkRules) -> Result<(), PlanError> {
    let times = [
        ("delay_ms", rules.delay_ms),
        ("jitter_ms", rules.jitter_ms),
        ("stall_ms", rules.stall_ms),
    ];
    for (name, found) in times {
        within(&format!("{field}.{name}"), "", found, &LATE_MS)?;
    }
    let shares = [
        ("stall_ppm", rules.stall_ppm),
        ("reset_ppm", rules.reset_ppm),
        ("corrupt_ppm", rules.corrupt_ppm),
        ("duplicate_ppm", rules.duplicate_ppm),
    ];
    for (name, found) in shares {
        within(&format!("{field}.{name}"), "", found, &PPM)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::run::TestPlan;
    use crate::run::workload::{BlockPlan, WorkloadPlan};
    use crate::run::{ClientPlan, LEAST_CUT_MS, kinds_named};
    use hedgerow_env::Random;
    use serde_json::{Value, json};

    fn plan() -> Value {
        let block = BlockPlan::draw(&mut Random::from_seed(7), Some(4096), 30);
        let clients = ClientPlan {
            concurrency: 10,
            rate: 100,
            crash_ppm: 0,
            timeout_ms: 1000,
        };
        let kinds = kinds_named("all", 5).unwrap();
        let asked = (kinds.as_slice(), LEAST_CUT_MS);
        let plan = TestPlan::draw(7, (5, 300), WorkloadPlan::Block(block), clients, asked);
        serde_json::to_value(plan.unwrap()).unwrap()
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut text = plan();
        change(&mut text);
        let plan: TestPlan = serde_json::from_value(text).unwrap();
        plan.check().unwrap_err().to_string()
    }

    #[test]
    fn a_fault_that_could_not_strike_is_refused_and_its_field_named() {
        let timed = |fault: &Value| {
            let times = (1000, 2000);
            json!({"kind": "kill", "at_ms": times.0, "until_ms": times.1, "fault": fault})
        };
        let spares = plan()["spares"].as_u64().unwrap();
        assert!(spares > 0);
        for (fault, said) in [
            (
                json!({"fault": "kill", "nodes": []}),
                "fault.nodes is empty",
            ),
            (
                json!({"fault": "power-loss", "nodes": [1, 1]}),
                "fault.nodes names a node twice",
            ),
            (json!({"fault": "pause", "nodes": [99]}), "fault.node is 99"),
            (
                json!({"fault": "join", "node": 4}),
                "fault.node is 4: only a spare",
            ),
            (
                json!({"fault": "partition", "shape": "x", "groups": [[0, 1, 2, 3, 4, 5, 6]]}),
                "fault.groups part nobody",
            ),
            (
                json!({"fault": "partition", "shape": "x", "groups": []}),
                "fault.groups is empty",
            ),
            (
                json!({"fault": "links", "shape": "x", "links": [], "rules": {}}),
                "fault.links is empty",
            ),
        ] {
            let error = refused(|plan| {
                plan["spares"] = json!(2);
                plan["faults"] = json!([timed(&fault)]);
            });
            assert!(
                error.starts_with("faults[0]") && error.contains(said),
                "{error}"
            );
        }
        let join = timed(&json!({"fault": "join", "node": 5}));
        let error = refused(|plan| plan["faults"] = json!([join, join]));
        assert!(error.starts_with("faults[1].fault.node is 5"), "{error}");
    }

    #[test]
    fn a_nemesis_that_nobody_knows_is_refused_and_its_field_named() {
        let error = refused(|plan| plan["nemesis"] = json!(["kill", "frob"]));
        assert!(error.starts_with("nemesis[1] is \"frob\""), "{error}");
        let error = refused(|plan| plan["faults"][0]["kind"] = json!("zzz"));
        assert!(error.starts_with("faults[0].kind is \"zzz\""), "{error}");
        let error = refused(|plan| plan["faults"][0]["aim"] = json!(40));
        assert!(error.starts_with("faults[0].aim is 40"), "{error}");
    }

    #[test]
    fn a_script_that_the_workload_does_not_have_is_refused_and_its_place_named() {
        let mut one = json!({"at_us": 0, "slot": 0, "function": "write", "argument": "[0 1 1]"});
        let sound = one.clone();
        for (field, wrong, said) in [
            ("argument", json!("[0 1000000000 1]"), "count is 1000000000"),
            ("argument", json!("[0 0 1]"), "count is 0"),
            (
                "argument",
                json!("[99999999999 1 1]"),
                "first is 99999999999",
            ),
            ("argument", json!("[0 1 0]"), "tag is 0"),
            ("argument", json!("[0 1]"), "[0 1]"),
            ("argument", json!("nil"), "nil"),
            ("function", json!("cas"), "cas"),
            ("key", json!(1), "key"),
            ("slot", json!(10), "slot is 10"),
            ("at_us", json!(u64::MAX), "at_us is 18446744073709551615"),
            (
                "limit_ms",
                json!(u64::MAX),
                "limit_ms is 18446744073709551615",
            ),
        ] {
            one = sound.clone();
            one[field] = wrong;
            let error = refused(|plan| plan["script"] = json!([sound, one]));
            assert!(
                error.starts_with("script[1]") && error.contains(said),
                "{error}"
            );
        }
    }

    #[test]
    fn a_number_out_of_bounds_is_named_with_its_bounds() {
        let sound: TestPlan = serde_json::from_value(plan()).unwrap();
        assert_eq!(sound.check(), Ok(()));
        let faults = plan()["faults"].as_array().unwrap().clone();
        let with_rules = faults
            .iter()
            .position(|f| f["fault"]["rules"].is_object())
            .unwrap();
        let with_clock = faults
            .iter()
            .position(|f| f["fault"]["rate_ppm"].is_i64())
            .unwrap();
        let rules = format!("/faults/{with_rules}/fault/rules");
        let most = u64::from(u32::MAX);
        for (field, wrong) in [
            ("/nodes".to_owned(), 16),
            ("/racks".to_owned(), 0),
            ("/spares".to_owned(), 3),
            ("/duration_ms".to_owned(), 4_999),
            ("/recovery_ms".to_owned(), u64::MAX),
            ("/slow_disks_ms".to_owned(), 1_001),
            ("/rest_ms".to_owned(), 10_001),
            ("/clients/rate".to_owned(), most),
            ("/clients/timeout_ms".to_owned(), u64::MAX),
            ("/clients/crash_ppm".to_owned(), 1_000_001),
            ("/workload/disk_bytes".to_owned(), u64::MAX),
            ("/workload/largest".to_owned(), 0),
            ("/workload/hot/2/count".to_owned(), 0),
            ("/workload/hot/2/first".to_owned(), u64::MAX),
            ("/workload/image/count".to_owned(), 0),
            ("/faults/0/at_ms".to_owned(), u64::MAX),
            ("/faults/1/until_ms".to_owned(), 0),
            (format!("/faults/{with_clock}/fault/strobe_ms"), u64::MAX),
            (format!("{rules}/reset_ppm"), 1_000_001),
            (format!("{rules}/delay_ms"), u64::MAX),
        ] {
            let mut text = plan();
            let (parent, name) = field.rsplit_once('/').unwrap();
            text.pointer_mut(parent).unwrap()[name] = json!(wrong);
            let plan: TestPlan = serde_json::from_value(text).unwrap();
            let error = plan.check().unwrap_err().to_string();
            let said = format!("{name} is {wrong}: from ");
            assert!(error.contains(&said), "{field}: {error}");
        }
    }
}
