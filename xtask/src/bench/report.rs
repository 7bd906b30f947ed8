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
    pub(super) iscsi: Measured,
    pub(super) proxy: Measured,
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
    /// How fast a target is, the raw file being 1.
    fn ratio(&self, target: &Measured) -> f64 {
        target.operations_per_s / self.raw.operations_per_s
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
                "iscsi": figures(&row.iscsi),
                "proxy": figures(&row.proxy),
                "raw_file": figures(&row.raw),
                "iscsi_ratio": row.ratio(&row.iscsi),
                "proxy_ratio": row.ratio(&row.proxy),
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
            "three nodes and three copies in one process, beside one raw file; CPU is that process's:"
        )?;
        writeln!(
            out,
            "{:<29}|{:^34}|{:^34}|{:^18}",
            "", "through iSCSI", "straight into the proxy", "raw file"
        )?;
        let ours = format!(
            "{:>8} {:>7} {:>9} {:>6}",
            "ops/s", "MB/s", "CPU us/op", "to raw"
        );
        writeln!(
            out,
            "{:<29}| {ours} | {ours} | {:>8} {:>7}",
            "", "ops/s", "MB/s"
        )?;
        for row in &self.rows {
            write!(out, "{:<29}", row.workload.name)?;
            for target in [&row.iscsi, &row.proxy] {
                write!(
                    out,
                    "| {:>8.0} {:>7.1} {:>9.1} {:>6.3} ",
                    target.operations_per_s,
                    target.bytes_per_s / 1e6,
                    target.cpu_us_per_operation,
                    row.ratio(target)
                )?;
            }
            writeln!(
                out,
                "| {:>8.0} {:>7.1}",
                row.raw.operations_per_s,
                row.raw.bytes_per_s / 1e6
            )?;
        }
        Ok(())
    }
}
