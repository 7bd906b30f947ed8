//! The table of coverage: which faults struck during which phases, over many seeds.
//!
//! A cell that no seed hit is listed by name.
//! Does not: know which cells no run can hit; they count as missed.

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
}

/// Sums a table up.
#[must_use]
pub fn summary(coverage: &Coverage) -> Summary {
    let mut summary = Summary {
        hit: 0,
        missed: Vec::new(),
    };
    for (kind, phase) in cells() {
        if coverage.get(&(kind, phase)).is_some_and(|count| *count > 0) {
            summary.hit += 1;
        } else {
            summary.missed.push((kind, phase));
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
                None => ".".into(),
            };
            text.push_str(&format!("{cell:>6}"));
        }
        text.push('\n');
    }
    let summary = summary(coverage);
    text.push_str(&format!(
        "{} of {} cells hit, {} never hit (.)\n",
        summary.hit,
        summary.hit + summary.missed.len(),
        summary.missed.len()
    ));
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

/// The table as JSON.
#[must_use]
pub fn document(coverage: &Coverage, seeds: usize) -> Value {
    let summary = summary(coverage);
    let mut rows: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((kind, phase), count) in coverage {
        let row = rows.entry(phase.name()).or_default();
        row.insert(kind.name(), *count);
    }
    let name = |(kind, phase): &(FaultKind, Phase)| format!("{} / {}", kind.name(), phase.name());
    json!({
        "schema_version": 1,
        "seeds": seeds,
        "hit": summary.hit,
        "never_hit": summary.missed.iter().map(name).collect::<Vec<_>>(),
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
        assert_eq!(summary.hit + summary.missed.len(), all);
        assert!(table(&total).contains("2 of "));
    }
}
