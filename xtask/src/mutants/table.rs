//! `sim/mutants.toml`: what is known of each planted bug, and the step of CI that goes by it.
//!
//! Invariants: every mutant of the catalogue has a row, and no other; the seeds of a row are among
//! those that pass without it, so that what fails is the planted bug and nothing else.
//! Does not: search for seeds (the campaign does).

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use toml::Table;

use crate::ci::Tally;
use crate::ci::seeds::{self, SEEDS};
use crate::repository;
use crate::run::expected;

const TABLE: &str = "sim/mutants.toml";
/// An oracle that needs more seeds than this to find a known bug is too weak to count.
const MOST_SEEDS: u64 = 50;

/// What is known of one planted bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    /// The seeds of CI that find it; none for those that the campaign alone finds.
    seeds: Range<u64>,
    /// The oracle that has to find it; None for any.
    oracle: Option<String>,
    /// Why no seed can find it, and what does: the campaign passes it over.
    pub(super) explained: Option<String>,
    /// What seeds lack to find it: CI passes it over, the campaign does not.
    pub(super) needs: Option<String>,
}

/// The names of the catalogue that a simulator was built with, in its order.
pub(super) fn catalogue(simulator: &Path) -> anyhow::Result<Vec<String>> {
    let listed = expected(Command::new(simulator).arg("mutants"))?;
    Ok(listed.split_whitespace().map(str::to_owned).collect())
}

/// The rows of the table.
pub(super) fn read() -> anyhow::Result<Vec<Row>> {
    let path = repository::root().join(TABLE);
    let text = std::fs::read_to_string(path).context(TABLE)?;
    parse(&text).context(TABLE)
}

/// Plants each bug that has seeds here and runs them until one fails.
pub(crate) fn kill() -> anyhow::Result<Tally> {
    let rows = read()?;
    let names = catalogue(&seeds::simulator())?;
    let catalogue: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let mut tally = Tally::default();
    for complaint in complaints(&rows, &catalogue) {
        eprintln!("{TABLE}: {complaint}");
        tally.failed += 1;
    }
    for row in rows
        .iter()
        .filter(|row| catalogue.contains(row.name.as_str()))
    {
        if row.seeds.is_empty() {
            let reason = row.explained.as_ref().or(row.needs.as_ref());
            let reason = reason.map_or("found by `cargo xtask mutants`", String::as_str);
            eprintln!("{}: no seeds of CI: {reason}", row.name);
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
    let needs = field("needs").map(str::to_owned);
    let campaign = row.get("campaign").and_then(toml::Value::as_bool);
    if explained.is_some() || needs.is_some() || campaign == Some(true) {
        return Ok(Row {
            name,
            seeds: 0..0,
            oracle: None,
            explained,
            needs,
        });
    }
    let range = field("seeds").and_then(|seeds| seeds.split_once(".."));
    let (first, end) = range.with_context(|| {
        format!("{name}: seeds: write \"0..10\", or needs, explained, campaign")
    })?;
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
        needs,
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
            needs: None,
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
        let text = "[[mutant]]\nname = \"a\"\ncampaign = true\n";
        assert!(parse(text).unwrap()[0].seeds.is_empty());
        assert!(parse("[[mutant]]\nname = \"a\"\n").is_err());
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
