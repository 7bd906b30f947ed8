//! The figures of a run, for people and for scripts.

use std::fmt;

use serde_json::{Value, json};

use super::measure::{Measured, Workload};

/// A cluster that nobody uses.
pub(super) struct Idle {
    pub(super) cpu_percent: f64,
    pub(super) memory_mib: f64,
}

pub(super) struct Row {
    pub(super) workload: &'static Workload,
    pub(super) ours: Measured,
    pub(super) raw: Measured,
}

pub(super) struct Report {
    pub(super) commit: String,
    pub(super) cores: usize,
    pub(super) profile: String,
    pub(super) quick: bool,
    pub(super) ready_s: f64,
    pub(super) idle: Idle,
    pub(super) rows: Vec<Row>,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours.operations_per_s / self.raw.operations_per_s
    }
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let figures = |measured: &Measured| {
            json!({
                "operations_per_s": measured.operations_per_s,
                "bytes_per_s": measured.bytes_per_s,
                "cpu_us_per_operation": measured.cpu_us_per_operation,
            })
        };
        let rows = self.rows.iter().map(|row| {
            json!({
                "workload": row.workload.key,
                "iscsi": figures(&row.ours),
                "raw_file": figures(&row.raw),
                "ratio": row.ratio(),
            })
        });
        json!({
            "schema_version": 1,
            "commit": self.commit,
            "cores": self.cores,
            "profile": self.profile,
            "quick": self.quick,
            "ready_s": self.ready_s,
            "idle_cpu_percent": self.idle.cpu_percent,
            "idle_memory_mib": self.idle.memory_mib,
            "rows": rows.collect::<Vec<Value>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (commit, cores, profile) = (&self.commit, self.cores, &self.profile);
        writeln!(out, "commit {commit}, {cores} cores, profile {profile}")?;
        writeln!(
            out,
            "ready after {:.1} s; idle: {:.1} % of a core, {:.0} MiB",
            self.ready_s, self.idle.cpu_percent, self.idle.memory_mib
        )?;
        writeln!(
            out,
            "three nodes and three copies in one process, beside one raw file:"
        )?;
        writeln!(
            out,
            "{:<30} {:>10} {:>9} {:>12} {:>10} {:>9} {:>7}",
            "", "ops/s", "MB/s", "CPU us/op", "raw ops/s", "raw MB/s", "ratio"
        )?;
        for row in &self.rows {
            writeln!(
                out,
                "{:<30} {:>10.0} {:>9.1} {:>12.1} {:>10.0} {:>9.1} {:>7.3}",
                row.workload.name,
                row.ours.operations_per_s,
                row.ours.bytes_per_s / 1e6,
                row.ours.cpu_us_per_operation,
                row.raw.operations_per_s,
                row.raw.bytes_per_s / 1e6,
                row.ratio()
            )?;
        }
        Ok(())
    }
}
