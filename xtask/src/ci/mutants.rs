//! The power of the checks: every planted bug must be found by the seeds that `sim/mutants.toml` lists.
//!
//! Invariant: the seeds of a mutant are among those that pass without it, so that what fails is the
//! planted bug and nothing else.

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::Command;

use anyhow::{Context as _, bail};
use toml::Table;

use super::Tally;
use super::seeds::{self, SEEDS};
use crate::repository;
use crate::run::expected;

const TABLE: &str = "sim/mutants.toml";
/// An oracle that needs more seeds than this to find a known bug is too weak to count.
const MOST_SEEDS: u64 = 50;

#[derive(Debug, PartialEq, Eq)]
struct Row {
    name: String,
    seeds: Range<u64>,
    /// The oracle that has to find it; None for any.
    oracle: Option<String>,
    /// Why no seeds of this length find it, and what does; its seeds are not run then.
    explained: Option<String>,
}

/// Plants each bug in turn and runs its seeds until one fails.
pub(super) fn kill() -> anyhow::Result<Tally> {
    let path = repository::root().join(TABLE);
    let text = std::fs::read_to_string(path).context(TABLE)?;
    let rows = parse(&text).context(TABLE)?;
    let catalogue = expected(Command::new(seeds::simulator()).arg("mutants"))?;
    let catalogue: BTreeSet<&str> = catalogue.split_whitespace().collect();
    let mut tally = Tally::default();
    for complaint in complaints(&rows, &catalogue) {
        eprintln!("{TABLE}: {complaint}");
        tally.failed += 1;
    }
    for row in rows
        .iter()
        .filter(|row| catalogue.contains(row.name.as_str()))
    {
        if let Some(explanation) = &row.explained {
            eprintln!("{}: NOT KILLED by the seeds of CI: {explanation}", row.name);
            continue;
        }
        let options = ["--mutant", row.name.as_str(), "--stop-after", "1"];
        let sweep = seeds::run("ci-mutant", &row.seeds, &options)?;
        match verdict(row, &sweep.failures) {
            Ok(text) => {
                eprintln!("{}: {text}", row.name);
                tally.passed += 1;
            }
            Err(text) => {
                eprintln!("{}: {text}", row.name);
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

fn verdict(row: &Row, failures: &[(u64, String)]) -> Result<String, String> {
    let wanted = |oracle: &str| row.oracle.as_deref().is_none_or(|wanted| wanted == oracle);
    match (
        failures.iter().find(|(_, oracle)| wanted(oracle)),
        failures.first(),
    ) {
        (Some((seed, oracle)), _) => Ok(format!("killed by {oracle} at seed {seed}")),
        (None, Some((seed, oracle))) => Err(format!(
            "found by {oracle} at seed {seed}, not by the oracle meant for it"
        )),
        (None, None) => Err(format!("survived the seeds {:?}", row.seeds)),
    }
}

fn complaints(rows: &[Row], catalogue: &BTreeSet<&str>) -> Vec<String> {
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let absent = catalogue
        .difference(&listed)
        .map(|name| format!("no row for mutant {name}"));
    let unknown = listed
        .difference(catalogue)
        .map(|name| format!("no mutant {name} exists"));
    absent.chain(unknown).collect()
}

fn parse(text: &str) -> anyhow::Result<Vec<Row>> {
    let document: Table = text.parse()?;
    let rows = document
        .get("mutant")
        .map_or(Some(&[][..]), |rows| Some(rows.as_array()?));
    rows.context("mutant: write [[mutant]]")?
        .iter()
        .map(parse_row)
        .collect()
}

fn parse_row(row: &toml::Value) -> anyhow::Result<Row> {
    let field = |name: &str| row.get(name).and_then(toml::Value::as_str);
    let name = field("name").context("name: text is expected")?.to_owned();
    let explained = field("explained").map(str::to_owned);
    if explained.is_some() {
        return Ok(Row {
            name,
            seeds: 0..0,
            oracle: None,
            explained,
        });
    }
    let range = field("seeds").and_then(|seeds| seeds.split_once(".."));
    let (first, end) = range.with_context(|| format!("{name}: seeds: write \"0..10\""))?;
    let seeds = first.parse::<u64>()?..end.parse::<u64>()?;
    if seeds.is_empty() || !SEEDS.contains(&seeds.start) || seeds.end > SEEDS.end {
        bail!("{name}: seeds: a range within {SEEDS:?} is expected, which pass without it");
    }
    if seeds.end - seeds.start > MOST_SEEDS {
        bail!("{name}: seeds: {MOST_SEEDS} at most");
    }
    let oracle = field("oracle")
        .filter(|oracle| *oracle != "any")
        .map(str::to_owned);
    Ok(Row {
        name,
        seeds,
        oracle,
        explained,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row {
            name: name.to_owned(),
            seeds: 0..9,
            oracle: None,
            explained: None,
        }
    }

    #[test]
    fn the_table_names_seeds_that_pass_without_the_bug() {
        let text = "[[mutant]]\nname = \"a\"\nseeds = \"2..9\"\noracle = \"any\"\n";
        assert_eq!(
            parse(text).unwrap(),
            [Row {
                seeds: 2..9,
                ..row("a")
            }]
        );
        assert_eq!(parse("# nothing yet\n").unwrap(), []);
        for seeds in ["9..2", "90..101", "0..51", "all"] {
            let text = format!("[[mutant]]\nname = \"a\"\nseeds = \"{seeds}\"\n");
            assert!(parse(&text).is_err(), "{seeds}");
        }
    }

    #[test]
    fn a_mutant_that_survives_or_has_no_row_is_a_failure() {
        assert!(verdict(&row("a"), &[]).unwrap_err().contains("survived"));
        let found = [(4, "durability".to_owned())];
        assert_eq!(
            verdict(&row("a"), &found).unwrap(),
            "killed by durability at seed 4"
        );
        let other = Row {
            oracle: Some("replicas".into()),
            ..row("a")
        };
        assert!(verdict(&other, &found).is_err());
        let catalogue = BTreeSet::from(["a", "b"]);
        let lines = complaints(&[row("a"), row("c")], &catalogue);
        assert_eq!(lines, ["no row for mutant b", "no mutant c exists"]);
    }
}
