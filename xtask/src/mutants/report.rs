//! The figures of a campaign, for people and for `docs/simulation.md`.
//!
//! Invariant: a range that survived counts as more seeds than it has; what was not run is shown as
//! such and never as killed.

use std::collections::BTreeMap;
use std::fmt;

use super::record::{Record, Sample};

/// The seeds within which nearly all are to be killed.
const MANY_SEEDS: u64 = 1000;

/// What is known of one mutant.
enum Standing {
    /// The median of the seeds-to-kill; the ranges behind it.
    Killed(u64, usize),
    /// Most ranges survived.
    Survived(usize),
    /// Some ranges were run, not enough for a median.
    Open(usize),
    Explained(String),
    NotRun,
}

struct Row {
    name: String,
    standing: Standing,
    /// Each oracle that fired, with how often.
    oracles: BTreeMap<String, usize>,
    /// Seeds of each range; those of a range that survived end in `+`.
    seeds: Vec<String>,
    cpu_s: f64,
}

/// A campaign's table.
pub(super) struct Report {
    rows: Vec<Row>,
    commit: String,
    max_seeds: u64,
    clean: (u64, usize),
}

impl Report {
    pub(super) fn new(
        record: &Record,
        catalogue: &[String],
        explained: &BTreeMap<String, String>,
    ) -> Self {
        let none = Vec::new();
        let row = |name: &String| {
            let samples = record.samples.get(name).unwrap_or(&none);
            Row {
                standing: standing(record, samples, explained.get(name)),
                name: name.clone(),
                oracles: oracles(samples),
                seeds: samples
                    .iter()
                    .map(|sample| {
                        let more = if sample.kill.is_some() { "" } else { "+" };
                        format!("{}{more}", sample.seeds)
                    })
                    .collect(),
                cpu_s: samples.iter().fold(0.0, |sum, sample| sum + sample.cpu_s),
            }
        };
        let in_order = record.ranges.from..record.ranges.from + record.clean.seeds;
        let apart = record.clean.passed.iter();
        let apart = apart.filter(|seed| !in_order.contains(seed)).count();
        let apart = u64::try_from(apart).expect("a count of seeds");
        Self {
            rows: catalogue.iter().map(row).collect(),
            commit: record.commit.clone(),
            max_seeds: record.ranges.seeds,
            clean: (record.clean.seeds + apart, record.clean.failed.len()),
        }
    }

    /// The table for the documentation.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::from(
            "| mutant | seeds to kill (median) | each range | oracles | core-seconds |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        for row in &self.rows {
            text.push_str(&format!(
                "| `{}` | {} | {} | {} | {:.1} |\n",
                row.name,
                row.standing_text(),
                row.seeds.join(", "),
                row.oracles_text(),
                row.cpu_s
            ));
        }
        text.push('\n');
        text.push_str(&self.summary());
        text.push('\n');
        text
    }

    fn summary(&self) -> String {
        let mut medians = Vec::new();
        let (mut survived, mut explained, mut open) = (0, 0, 0);
        for row in &self.rows {
            match row.standing {
                Standing::Killed(median, _) => medians.push(median),
                Standing::Survived(_) => survived += 1,
                Standing::Explained(_) => explained += 1,
                Standing::Open(_) | Standing::NotRun => open += 1,
            }
        }
        medians.sort_unstable();
        let many = medians.iter().filter(|median| **median <= MANY_SEEDS);
        let (within, judged) = (many.count(), medians.len() + survived);
        let median = medians
            .get(medians.len().saturating_sub(1) / 2)
            .map_or_else(|| "-".into(), u64::to_string);
        format!(
            "{} mutants at {}: {} killed ({within} of {judged} within {MANY_SEEDS} seeds, median \
             {median}), {survived} survived {} seeds, {explained} explained, {open} not judged yet; \
             {} false alarms in {} clean seeds",
            self.rows.len(),
            self.commit,
            medians.len(),
            self.max_seeds,
            self.clean.1,
            self.clean.0
        )
    }
}

impl Row {
    fn standing_text(&self) -> String {
        match &self.standing {
            Standing::Killed(median, ranges) => format!("{median} (of {ranges})"),
            Standing::Survived(ranges) => format!("**survived** {ranges} ranges"),
            Standing::Open(ranges) => format!("{ranges} ranges so far"),
            Standing::Explained(text) => format!("explained: {text}"),
            Standing::NotRun => "not run".into(),
        }
    }

    fn oracles_text(&self) -> String {
        let oracles = self.oracles.iter();
        let oracles = oracles.map(|(oracle, count)| format!("{oracle} {count}"));
        oracles.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let seeds = row.seeds.join(" ");
            let (standing, oracles) = (row.standing_text(), row.oracles_text());
            writeln!(
                formatter,
                "{:<36} {standing:<22} [{seeds}] {oracles} {:.1} s",
                row.name, row.cpu_s
            )?;
        }
        formatter.write_str(&self.summary())
    }
}

fn oracles(samples: &[Sample]) -> BTreeMap<String, usize> {
    let mut oracles = BTreeMap::new();
    for kill in samples.iter().filter_map(|sample| sample.kill.as_ref()) {
        *oracles.entry(kill.oracle.clone()).or_default() += 1;
    }
    oracles
}

fn standing(record: &Record, samples: &[Sample], explained: Option<&String>) -> Standing {
    let ranges = usize::try_from(record.ranges.count).expect("few ranges");
    let middle = ranges / 2;
    let mut killed: Vec<u64> = samples
        .iter()
        .filter(|sample| sample.kill.is_some())
        .map(|sample| sample.seeds)
        .collect();
    killed.sort_unstable();
    let whole = |sample: &&Sample| sample.kill.is_none() && sample.seeds == record.ranges.seeds;
    let survived = samples.iter().filter(whole).count();
    // More cannot change on which side the median lies, nor, with all ranges run, its value.
    if survived > middle {
        return Standing::Survived(survived);
    }
    if killed.len() + survived == ranges {
        return Standing::Killed(killed[middle], ranges);
    }
    match explained {
        Some(text) => Standing::Explained(text.clone()),
        None if samples.is_empty() => Standing::NotRun,
        None => Standing::Open(killed.len() + survived),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::options::Ranges;
    use crate::mutants::record::Kill;

    fn sample(seeds: u64, killed: bool) -> Sample {
        let kill = killed.then(|| Kill {
            seed: seeds,
            oracle: "copies".into(),
            kind: "correctness".into(),
        });
        Sample {
            seeds,
            cpu_s: 1.0,
            kill,
        }
    }

    #[test]
    fn the_median_counts_survived_ranges_as_the_longest() {
        let path = std::env::temp_dir().join("no-such-results.json");
        let ranges = Ranges {
            from: 0,
            seeds: 40,
            count: 3,
        };
        let mut record = Record::open(&path, "a", &ranges).unwrap();
        let mut enter = |name: &str, samples: &[Sample]| {
            record.samples.insert(name.into(), samples.to_vec());
        };
        enter(
            "quick",
            &[sample(2, true), sample(9, true), sample(40, false)],
        );
        enter("slow", &[sample(40, false), sample(40, false)]);
        enter("open", &[sample(7, true)]);
        let names = ["quick", "slow", "open", "fine", "never"].map(String::from);
        let explained = BTreeMap::from([("fine".to_owned(), "the same".to_owned())]);
        let report = Report::new(&record, &names, &explained);
        let text = report.markdown();
        for line in [
            "| `quick` | 9 (of 3) | 2, 9, 40+ | copies 2 | 3.0 |",
            "| `slow` | **survived** 2 ranges | 40+, 40+ |  | 2.0 |",
            "| `open` | 1 ranges so far | 7 | copies 1 | 1.0 |",
            "| `fine` | explained: the same |  |  | 0.0 |",
            "1 killed (1 of 2 within 1000 seeds, median 9), 1 survived 40 seeds, 1 explained, 2 not",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
