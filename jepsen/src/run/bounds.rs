//! What the numbers of a plan may be. Pure.
//!
//! Invariant: a number out of bounds is refused with the field's place in `plan.json`, the number, the
//! bounds, and the option of `jepsen run` that sets it.

use std::ops::RangeInclusive;

use super::fault_proxy::LinkRules;
use super::faults::{Fault, TimedFault};
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

/// Refuses faults that no test could bear: their times and their numbers.
pub(super) fn faults(faults: &[TimedFault], duration_ms: u64) -> Result<(), PlanError> {
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
