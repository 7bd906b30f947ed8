//! Operations written down: a run's history as what clients do in another run.
//!
//! A test draws its operations while it runs, so two runs of one plan ask different things of a
//! cluster that answers differently. A script asks the same things at the same times, and faults
//! strike when they really struck. Pure.
//!
//! Does not: carry over answers, or which messages met which; those are the other run's own.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::bounds::{self, within};
use super::faults::{FaultRecord, TimedFault};
use super::plan::{PlanError, TestPlan};
use super::target::Operation;
use crate::history::{Event, EventKind, History, Process, Value, edn};

/// Functions that workloads have.
const FUNCTIONS: [&str; 4] = ["read", "write", "zero", "cas"];
/// A client may be gone before a millisecond is over, and has no patience beyond the plan's most.
const LIMIT_MS: RangeInclusive<u64> = 0..=*bounds::TIMEOUT_MS.end();
/// How the recorder says that a client gave up.
pub(super) const NO_ANSWER: &str = "no answer after ";

/// One operation of a script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedOperation {
    /// When it is sent, from the first operation of the test; later if its client is not ready.
    pub at_us: u64,
    /// Whose it is, from 0 to the concurrency.
    pub slot: u32,
    /// The function.
    pub function: String,
    /// The independent object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<i64>,
    /// The argument, as EDN.
    pub argument: String,
    /// Its client gives up after this, if sooner than the plan says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
}

impl ScriptedOperation {
    /// Whether the plan's clients can do it, and its target can be asked so.
    pub(super) fn check(&self, field: &str, plan: &TestPlan) -> Result<(), PlanError> {
        let named = |error: PlanError| PlanError(format!("{field}: {error}"));
        let latest_us = plan.duration_ms.saturating_mul(1_000);
        within(&format!("{field}.at_us"), "", self.at_us, &(0..=latest_us))?;
        let slots = u64::from(plan.clients.concurrency);
        within(
            &format!("{field}.slot"),
            "",
            self.slot,
            &(0..=slots.saturating_sub(1)),
        )?;
        let limit_ms = self.limit_ms.unwrap_or_default();
        within(&format!("{field}.limit_ms"), "", limit_ms, &LIMIT_MS)?;
        let operation = self.operation().map_err(named)?;
        plan.workload.takes(&operation).map_err(named)
    }

    /// What is asked.
    ///
    /// # Errors
    /// A function that no workload has, or an argument that is no EDN.
    pub(super) fn operation(&self) -> Result<Operation, PlanError> {
        let known = FUNCTIONS.iter().find(|known| **known == self.function);
        let Some(function) = known else {
            let text = format!("no workload has the function {}", self.function);
            return Err(PlanError(text));
        };
        let argument = edn::read_one(&self.argument)
            .map_err(|error| PlanError(format!("{}: {error}", self.argument)))?;
        Ok(Operation {
            function,
            key: self.key,
            argument,
        })
    }
}

/// The plan of a test that does again what a run did: its operations at their times, its faults from
/// when until when they struck. Says what could not be carried over.
///
/// # Errors
/// The plan cannot be run, the records are of another plan, the history has operations of no
/// workload, or none in the time of the test.
pub fn again(
    plan: &TestPlan,
    records: &[FaultRecord],
    history: &History,
) -> Result<(TestPlan, Vec<String>), PlanError> {
    plan.check()?;
    if records.len() != plan.faults.len() {
        let (records, faults) = (records.len(), plan.faults.len());
        let text = format!("{records} records of faults, and the plan has {faults} faults");
        return Err(PlanError(text));
    }
    let began_ns = began(plan, records, history);
    let (faults, mut left_out) = struck(plan, records, began_ns);
    let (script, strangers) = operations(plan, history, began_ns)?;
    if script.is_empty() {
        let text = "the history has no operation of a client in the time of the plan";
        return Err(PlanError(text.to_owned()));
    }
    if strangers > 0 {
        left_out.push(format!(
            "{strangers} events of the preparation and the final reads"
        ));
    }
    let mut again = plan.clone();
    again.faults = faults;
    again.script = Some(script);
    again.nemesis = plan
        .nemesis
        .iter()
        .filter(|name| again.faults.iter().any(|timed| timed.kind == **name))
        .cloned()
        .collect();
    again.check()?;
    Ok((again, left_out))
}

/// When clients and faults began, on the history's clock.
fn began(plan: &TestPlan, records: &[FaultRecord], history: &History) -> u64 {
    let faults = plan.faults.iter().zip(records);
    let of_faults =
        faults.map(|(timed, record)| record.at_ns.saturating_sub(timed.at_ms * 1_000_000));
    // The prepared image is written by a client that no slot has.
    let by_client = |event: &&Event| match event.process {
        Process::Client(process) => process < u64::from(plan.clients.concurrency),
        Process::Named(_) => false,
    };
    let first = history.events.iter().find(by_client);
    let of_clients = first.and_then(|event| u64::try_from(event.time_ns?).ok());
    of_faults.min().or(of_clients).unwrap_or(0)
}

/// The faults that began, from when until when they did. That a fault has ended is noted when the
/// target has said so, which may be after the plan's end: there it ends at that.
fn struck(
    plan: &TestPlan,
    records: &[FaultRecord],
    began_ns: u64,
) -> (Vec<TimedFault>, Vec<String>) {
    let (mut faults, mut left_out) = (Vec::new(), Vec::new());
    let ms = |at_ns: u64| at_ns.saturating_sub(began_ns) / 1_000_000;
    for (timed, record) in plan.faults.iter().zip(records) {
        match record.until_ns {
            Some(until_ns) => {
                let at_ms = ms(record.at_ns).min(plan.duration_ms);
                faults.push(TimedFault {
                    at_ms,
                    until_ms: ms(until_ns).clamp(at_ms, plan.duration_ms),
                    ..timed.clone()
                });
            }
            None => left_out.push(record.text.clone()),
        }
    }
    (faults, left_out)
}

fn operations(
    plan: &TestPlan,
    history: &History,
    began_ns: u64,
) -> Result<(Vec<ScriptedOperation>, usize), PlanError> {
    let concurrency = u64::from(plan.clients.concurrency);
    let end_ns = began_ns.saturating_add(plan.duration_ms.saturating_mul(1_000_000));
    let (mut script, mut strangers) = (Vec::<ScriptedOperation>::new(), 0);
    // Which of the script's operations a process has open.
    let mut open = std::collections::BTreeMap::new();
    for event in &history.events {
        let Process::Client(process) = event.process else {
            continue;
        };
        let at_ns = event.time_ns.and_then(|time| u64::try_from(time).ok());
        let at_ns = at_ns.ok_or_else(|| PlanError("the history has no times".to_owned()))?;
        if event.kind == EventKind::Invoke {
            if (began_ns..=end_ns).contains(&at_ns) {
                open.insert(process, script.len());
                script.push(scripted(
                    event,
                    (at_ns - began_ns) / 1_000,
                    process % concurrency,
                )?);
            } else {
                strangers += 1;
            }
        } else if let Some(place) = open.remove(&process) {
            script[place].limit_ms = given_up_after(event);
        }
    }
    Ok((script, strangers))
}

fn scripted(event: &Event, at_us: u64, slot: u64) -> Result<ScriptedOperation, PlanError> {
    let operation = ScriptedOperation {
        at_us,
        slot: u32::try_from(slot).expect("less than the concurrency"),
        function: event.function.clone(),
        key: event.key.as_ref().and_then(Value::int),
        argument: event.value.to_string(),
        limit_ms: None,
    };
    operation.operation()?;
    Ok(operation)
}

/// After how long the client gave this operation up, if it did.
fn given_up_after(event: &Event) -> Option<u64> {
    let Some(Value::String(text)) = &event.error else {
        return None;
    };
    let rest = text.strip_prefix(NO_ANSWER)?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::workload::{RegisterPlan, WorkloadPlan};
    use crate::run::{ClientPlan, LEAST_CUT_MS, kinds_named};

    fn plan() -> TestPlan {
        let workload = WorkloadPlan::CasRegister(RegisterPlan {
            keys: 2,
            reads_percent: 50,
            skew: 0,
        });
        let clients = ClientPlan {
            concurrency: 3,
            rate: 10,
            crash_ppm: 0,
            timeout_ms: 1000,
        };
        let kinds = kinds_named("kill", 3).unwrap();
        TestPlan::draw(5, (3, 30), workload, clients, (&kinds, LEAST_CUT_MS)).unwrap()
    }

    fn event(kind: EventKind, process: u64, at_ms: i64, error: Option<&str>) -> Event {
        Event {
            line: 0,
            kind,
            process: Process::Client(process),
            function: "write".to_owned(),
            key: Some(Value::Int(1)),
            value: Value::Int(at_ms),
            time_ns: Some(at_ms * 1_000_000),
            error: error.map(|text| Value::String(text.to_owned())),
        }
    }

    #[test]
    fn operations_and_faults_come_at_the_times_at_which_they_came() {
        let plan = plan();
        let records: Vec<FaultRecord> = plan
            .faults
            .iter()
            .zip(0..)
            .map(|(timed, number)| FaultRecord {
                // The history began five seconds before the clients; the first did not begin.
                at_ns: (timed.at_ms + 5_000) * 1_000_000,
                until_ns: (number > 0).then_some((timed.until_ms + 5_700) * 1_000_000),
                kind: timed.kind.clone(),
                nodes: Vec::new(),
                text: "kill -9; not begun".to_owned(),
                struck: number > 0,
            })
            .collect();
        let history = History {
            events: vec![
                event(EventKind::Invoke, 3, 100, None),
                event(EventKind::Ok, 3, 200, None),
                event(EventKind::Invoke, 4, 6_000, None),
                event(EventKind::Info, 4, 6_017, Some("no answer after 17 ms")),
                event(EventKind::Invoke, 7, 6_100, None),
            ],
            dropped_bytes: 0,
        };
        let (again, left_out) = again(&plan, &records, &history).unwrap();
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert_eq!(again.faults.len(), plan.faults.len() - 1);
        assert_eq!(again.faults[0].at_ms, plan.faults[1].at_ms);
        assert_eq!(again.faults[0].until_ms, plan.faults[1].until_ms + 700);
        let script = again.script.unwrap();
        let told: Vec<_> = script
            .iter()
            .map(|one| (one.at_us, one.slot, one.limit_ms, one.argument.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (1_000_000, 1, Some(17), "6000"),
                (1_100_000, 1, None, "6100")
            ]
        );
        assert_eq!(script[0].operation().unwrap().key, Some(1));
    }

    /// The records of the plan's faults, each from and until when it was to strike; and a history of
    /// one operation.
    fn recorded(plan: &TestPlan) -> (Vec<FaultRecord>, History) {
        let record = |timed: &TimedFault| FaultRecord {
            at_ns: timed.at_ms * 1_000_000,
            until_ns: Some(timed.until_ms * 1_000_000),
            kind: timed.kind.clone(),
            nodes: Vec::new(),
            text: "kill -9".to_owned(),
            struck: true,
        };
        let history = History {
            events: vec![event(EventKind::Invoke, 1, 1_000, None)],
            dropped_bytes: 0,
        };
        (plan.faults.iter().map(record).collect(), history)
    }

    #[test]
    fn a_fault_that_ended_late_ends_with_the_plan() {
        let plan = plan();
        let (mut records, history) = recorded(&plan);
        let last = records.last_mut().unwrap();
        last.until_ns = Some((plan.duration_ms + 900) * 1_000_000);
        let (replayed, _) = again(&plan, &records, &history).unwrap();
        assert_eq!(replayed.faults.last().unwrap().until_ms, plan.duration_ms);
        let last = records.last_mut().unwrap();
        last.at_ns = (plan.duration_ms + 100) * 1_000_000;
        let (replayed, _) = again(&plan, &records, &history).unwrap();
        let last = replayed.faults.last().unwrap();
        assert_eq!(
            (last.at_ms, last.until_ms),
            (plan.duration_ms, plan.duration_ms)
        );
    }

    #[test]
    fn a_folder_with_numbers_that_cannot_be_is_refused() {
        let sound = plan();
        let (records, history) = recorded(&sound);
        let refused = |change: fn(&mut TestPlan)| {
            let mut plan = sound.clone();
            change(&mut plan);
            again(&plan, &records, &history).unwrap_err().0
        };
        let none = refused(|plan| plan.clients.concurrency = 0);
        assert!(none.starts_with("clients.concurrency is 0"), "{none}");
        let late = refused(|plan| plan.faults[0].at_ms = u64::MAX);
        assert!(late.starts_with("faults[0].at_ms is"), "{late}");
        let long = refused(|plan| plan.duration_ms = 1 << 63);
        assert!(long.starts_with("duration_ms is"), "{long}");
        let mut records = records.clone();
        for record in &mut records {
            record.at_ns = u64::MAX;
        }
        let late = again(&sound, &records, &history).unwrap_err().0;
        assert!(late.contains("no operation of a client"), "{late}");
    }

    #[test]
    fn a_function_of_no_workload_is_refused() {
        let strange = ScriptedOperation {
            at_us: 0,
            slot: 0,
            function: "enqueue".to_owned(),
            key: None,
            argument: "1".to_owned(),
            limit_ms: None,
        };
        assert!(strange.operation().unwrap_err().0.contains("enqueue"));
    }
}
