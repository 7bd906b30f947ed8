//! The table of coverage: which faults struck during which phases, over many seeds.
//!
//! A cell that no seed hit is listed by name. Cells that no run can hit are left out of the count, each
//! with its reason; one that is hit all the same shows that the reason is wrong, and is named.
//!
//! Invariant: at most 15 % of all cells are called impossible.

use std::collections::BTreeMap;

use hedgerow_env::Phase;
use serde_json::{Value, json};

use crate::world::{Coverage, FaultKind};

/// One run's counts as a line, `kind/phase=count;...` with numbers for names: for the sweep, which
/// adds them up.
#[must_use]
pub fn line(coverage: &Coverage) -> String {
    let cells = coverage.iter().map(|((kind, phase), count)| {
        let (kind, phase) = (*kind as usize, *phase as usize);
        format!("{kind}/{phase}={count}")
    });
    cells.collect::<Vec<_>>().join(";")
}

/// Adds a run's line to `total`; what is no cell is left out.
pub fn add_line(total: &mut Coverage, line: &str) {
    for cell in line.split(';') {
        let Some((names, count)) = cell.split_once('=') else {
            continue;
        };
        let place = names.split_once('/').and_then(|(kind, phase)| {
            let kind = FaultKind::ALL.get(kind.parse::<usize>().ok()?)?;
            let phase = Phase::ALL.get(phase.parse::<usize>().ok()?)?;
            Some((*kind, *phase))
        });
        if let (Some(place), Ok(count)) = (place, count.parse::<u64>()) {
            *total.entry(place).or_default() += count;
        }
    }
}

/// Cells that no run can hit: kinds, phases, and why. None is known: a node connects before it has
/// opened its stores, and meets every fault of links then, too.
const IMPOSSIBLE: &[(&[FaultKind], &[Phase], &str)] = &[];

/// Why no run can hit a cell, if none can.
fn impossible(kind: FaultKind, phase: Phase) -> Option<&'static str> {
    let holds = |(kinds, phases, _): &&(&[FaultKind], &[Phase], &str)| {
        kinds.contains(&kind) && phases.contains(&phase)
    };
    IMPOSSIBLE.iter().find(holds).map(|(.., why)| *why)
}

/// Every cell of the table.
fn cells() -> impl Iterator<Item = (FaultKind, Phase)> {
    let kinds = FaultKind::ALL.iter();
    kinds.flat_map(|kind| Phase::ALL.iter().map(|phase| (*kind, *phase)))
}

/// What a sweep covered, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Cells that were hit.
    pub hit: usize,
    /// Cells that were not.
    pub missed: Vec<(FaultKind, Phase)>,
    /// Cells that no run can hit, and none did.
    pub impossible: usize,
    /// Cells that were hit although no run could: their reason is wrong.
    pub wrongly_impossible: Vec<(FaultKind, Phase)>,
}

impl Summary {
    /// The share of cells hit among those that can be, in tenths of a percent.
    #[must_use]
    pub fn share_permille(&self) -> usize {
        self.hit * 1_000 / (self.hit + self.missed.len()).max(1)
    }
}

/// Sums a table up.
#[must_use]
pub fn summary(coverage: &Coverage) -> Summary {
    let mut summary = Summary {
        hit: 0,
        missed: Vec::new(),
        impossible: 0,
        wrongly_impossible: Vec::new(),
    };
    for (kind, phase) in cells() {
        let is_hit = coverage.get(&(kind, phase)).is_some_and(|count| *count > 0);
        match (is_hit, impossible(kind, phase)) {
            (true, None) => summary.hit += 1,
            (true, Some(_)) => summary.wrongly_impossible.push((kind, phase)),
            (false, None) => summary.missed.push((kind, phase)),
            (false, Some(_)) => summary.impossible += 1,
        }
    }
    summary
}

/// The table as text: a row for each phase, a column for each kind of fault.
#[must_use]
pub fn table(coverage: &Coverage) -> String {
    let mut text = String::new();
    for (number, kind) in FaultKind::ALL.iter().enumerate() {
        text.push_str(&format!("{:>20}  {}\n", number + 1, kind.name()));
    }
    text.push_str(&format!("{:<20}", "phase"));
    for number in 1..=FaultKind::ALL.len() {
        text.push_str(&format!("{number:>6}"));
    }
    text.push('\n');
    for phase in Phase::ALL {
        text.push_str(&format!("{:<20}", phase.name()));
        for kind in FaultKind::ALL {
            let cell = match coverage.get(&(*kind, *phase)) {
                Some(count) => short(*count),
                None if impossible(*kind, *phase).is_some() => "-".into(),
                None => ".".into(),
            };
            text.push_str(&format!("{cell:>6}"));
        }
        text.push('\n');
    }
    let summary = summary(coverage);
    let share = summary.share_permille();
    text.push_str(&format!(
        "{} of {} cells hit ({}.{} %), {} never hit (.), {} impossible (-)\n",
        summary.hit,
        summary.hit + summary.missed.len(),
        share / 10,
        share % 10,
        summary.missed.len(),
        summary.impossible
    ));
    for cell in &summary.wrongly_impossible {
        text.push_str(&format!(
            "hit although called impossible: {}\n",
            cell_name(cell)
        ));
    }
    text
}

/// At most five characters.
fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{}k", count / 1_000),
        _ => format!("{}M", count / 1_000_000),
    }
}

fn cell_name((kind, phase): &(FaultKind, Phase)) -> String {
    format!("{} / {}", kind.name(), phase.name())
}

/// Every impossible cell with its reason.
fn reasons() -> BTreeMap<String, &'static str> {
    let all = cells().filter_map(|(kind, phase)| {
        let why = impossible(kind, phase)?;
        Some((cell_name(&(kind, phase)), why))
    });
    all.collect()
}

/// The table as JSON.
#[must_use]
pub fn document(coverage: &Coverage, seeds: usize) -> Value {
    let summary = summary(coverage);
    let mut rows: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((kind, phase), count) in coverage {
        let row = rows.entry(phase.name()).or_default();
        row.insert(kind.name(), *count);
    }
    json!({
        "schema_version": 1,
        "seeds": seeds,
        "hit": summary.hit,
        "share_permille": summary.share_permille(),
        "never_hit": summary.missed.iter().map(cell_name).collect::<Vec<_>>(),
        "impossible": reasons(),
        "hit_although_impossible":
            summary.wrongly_impossible.iter().map(cell_name).collect::<Vec<_>>(),
        "counts": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up_and_odd_cells_are_left_out() {
        let one = Coverage::from([
            ((FaultKind::Kill, Phase::Recovery), 2),
            ((FaultKind::Rot, Phase::Store), 1),
        ]);
        let mut total = Coverage::new();
        add_line(&mut total, &line(&one));
        add_line(&mut total, &line(&one));
        add_line(&mut total, "999/0=1;x;0/0");
        assert_eq!(total[&(FaultKind::Kill, Phase::Recovery)], 4);
        assert_eq!(total[&(FaultKind::Rot, Phase::Store)], 2);
        assert_eq!(total.len(), 2);
        let all = FaultKind::ALL.len() * Phase::ALL.len();
        let summary = summary(&total);
        assert_eq!(summary.hit, 2);
        let possible = summary.hit + summary.missed.len();
        assert_eq!(possible + summary.impossible, all);
        assert!(summary.impossible * 100 <= all * 15);
        assert!(table(&total).contains("2 of "));
    }
}
