//! The faults of a plan, each at its time, and what became of them.
//!
//! Invariant: there is one record for each fault, in the plan's order, whenever the test ends.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use hedgerow_env::{Instant, event};

use super::clients::Shared;
use super::faults::{FaultRecord, TimedFault, node_name};
use super::target::Struck;

/// How far a fault has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Striking,
    Over,
}

/// The faults of a test.
pub(super) struct Strikes<'a> {
    shared: &'a Shared,
    faults: &'a [TimedFault],
    zero: Instant,
    records: Mutex<Vec<(Stage, FaultRecord)>>,
}

impl<'a> Strikes<'a> {
    /// Faults whose times count from now.
    pub(super) fn new(shared: &'a Shared, faults: &'a [TimedFault]) -> Self {
        let zero_ns = shared.recorder.now_ns();
        let record = |timed: &TimedFault| FaultRecord {
            at_ns: zero_ns + timed.at_ms * 1_000_000,
            until_ns: None,
            kind: timed.kind.clone(),
            nodes: timed.fault.nodes().into_iter().map(node_name).collect(),
            text: timed.fault.text(),
            struck: false,
        };
        let records = faults.iter().map(|timed| (Stage::Waiting, record(timed)));
        Self {
            shared,
            faults,
            zero: shared.env.now(),
            records: Mutex::new(records.collect()),
        }
    }

    /// Begins and ends each fault at its time.
    pub(super) async fn all(&self) {
        let strikes = self.faults.iter().enumerate();
        join_all(strikes.map(|(number, timed)| self.strike(number, timed))).await;
    }

    /// What became of each.
    pub(super) fn records(&self) -> Vec<FaultRecord> {
        let records = self.records.lock().expect("no panic under this lock");
        records.iter().map(|(_, record)| record.clone()).collect()
    }

    /// Notes that the test ends now: what is on ends, and what is not on never begins.
    pub(super) fn cut_short(&self) {
        let now_ns = self.shared.recorder.now_ns();
        let mut records = self.records.lock().expect("no panic under this lock");
        for (stage, record) in records.iter_mut() {
            match stage {
                Stage::Waiting => record.text.push_str("; not begun: the test was cut short"),
                Stage::Striking => {
                    record.until_ns = Some(now_ns);
                    record.text.push_str("; the test was cut short");
                }
                Stage::Over => {}
            }
            *stage = Stage::Over;
        }
    }

    async fn strike(&self, number: usize, timed: &TimedFault) {
        let env = &self.shared.env;
        let at = |ms: u64| self.zero + Duration::from_millis(ms);
        env.sleep_until(at(timed.at_ms)).await;
        let fault = timed.aimed(self.shared.target.used_node());
        event!(env, Info, "nemesis", "begin {}", fault.text());
        self.note(number, Stage::Striking, |record, now_ns| {
            record.at_ns = now_ns;
            record.nodes = fault.nodes().into_iter().map(node_name).collect();
            record.text = fault.text();
        });
        if let Err(error) = self.shared.target.begin(&fault).await {
            event!(env, Warn, "nemesis", "not begun: {error}");
            return self.note(number, Stage::Over, |record, _| {
                record.text.push_str(&format!("; not begun: {error}"));
            });
        }
        env.sleep_until(at(timed.until_ms)).await;
        let struck = self.shared.target.end(&fault).await;
        let (struck, evidence) = match struck {
            Struck::Yes(evidence) => (true, evidence),
            Struck::No(why) => (false, format!("did not strike: {why}")),
        };
        event!(env, Info, "nemesis", "ended {}: {evidence}", fault.text());
        self.note(number, Stage::Over, |record, now_ns| {
            record.until_ns = Some(now_ns);
            record.struck = struck;
            record.text.push_str(&format!("; {evidence}"));
        });
    }

    fn note(&self, number: usize, stage: Stage, change: impl FnOnce(&mut FaultRecord, u64)) {
        let now_ns = self.shared.recorder.now_ns();
        let mut records = self.records.lock().expect("no panic under this lock");
        records[number].0 = stage;
        change(&mut records[number].1, now_ns);
    }
}
