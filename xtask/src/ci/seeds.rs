//! The simulator's steps: many seeds once, and a few twice to compare their traces.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{PROFILE, Tally};
use crate::repository;
use crate::run::teed;

/// The seeds that every change has to pass. The mutants' seeds are among them.
pub(crate) const SEEDS: std::ops::Range<u64> = 0..100;
/// The seeds that run twice: enough to see a leak of chance, which shows in most seeds.
const REPEATED: std::ops::Range<u64> = 0..5;

/// What a sweep wrote down.
pub(crate) struct Sweep {
    pub(crate) passed: usize,
    /// The failing seeds with the oracles that stopped them, by seed.
    pub(crate) failures: Vec<(u64, String)>,
}

/// A sweep of `seeds` on the cores of the machine, with results in `target/NAME.json`.
pub(crate) fn run(
    name: &str,
    seeds: &std::ops::Range<u64>,
    options: &[&str],
) -> anyhow::Result<Sweep> {
    let json = repository::target().join(format!("{name}.json"));
    // The results of an older run must not be taken for this one's.
    if json.exists() {
        std::fs::remove_file(&json)?;
    }
    let mut command = Command::new(simulator());
    command.current_dir(repository::root());
    command.args([
        "sweep",
        "--seeds",
        &format!("{}..{}", seeds.start, seeds.end),
    ]);
    command.arg("--json").arg(&json).args(options);
    let status = command.status().context("hedgerow-sim: is it built?")?;
    let text = std::fs::read_to_string(&json)
        .with_context(|| format!("hedgerow-sim sweep: {status}, and no results"))?;
    let sweep = parse(&text)?;
    if status.success() != sweep.failures.is_empty() {
        bail!(
            "hedgerow-sim sweep: {status}, but {} seeds failed",
            sweep.failures.len()
        );
    }
    Ok(sweep)
}

pub(crate) fn simulator() -> PathBuf {
    repository::target().join(PROFILE).join("hedgerow-sim")
}

fn parse(text: &str) -> anyhow::Result<Sweep> {
    let document: Value = serde_json::from_str(text)?;
    let results = document["results"]
        .as_array()
        .context("results: an array is expected")?;
    let mut sweep = Sweep {
        passed: 0,
        failures: Vec::new(),
    };
    for result in results {
        let seed = result["seed"]
            .as_u64()
            .context("seed: a number is expected")?;
        match result["exit_code"]
            .as_i64()
            .context("exit_code: a number is expected")?
        {
            0 => sweep.passed += 1,
            _ => {
                let oracle = result["oracle"].as_str().unwrap_or("none");
                sweep.failures.push((seed, oracle.to_owned()));
            }
        }
    }
    Ok(sweep)
}

fn all_pass(name: &str, seeds: &std::ops::Range<u64>, options: &[&str]) -> anyhow::Result<Tally> {
    let sweep = run(name, seeds, options)?;
    let expected = usize::try_from(seeds.end - seeds.start)?;
    let seen = sweep.passed + sweep.failures.len();
    if seen != expected {
        bail!("{seen} seeds have results, {expected} were asked for");
    }
    Ok(Tally {
        passed: sweep.passed,
        failed: sweep.failures.len(),
    })
}

/// Every seed once.
pub(super) fn sweep() -> anyhow::Result<Tally> {
    all_pass("ci-seeds", &SEEDS, &[])
}

/// A few seeds twice, each time in a process of its own: the traces are the same.
pub(super) fn repeat() -> anyhow::Result<Tally> {
    all_pass("ci-repeat", &REPEATED, &["--twice"])
}

/// The tapes of bugs found before: those of planted bugs still show them, the others pass.
pub(super) fn regressions() -> anyhow::Result<Tally> {
    let mut command = Command::new(simulator());
    command.current_dir(repository::root()).arg("regressions");
    let finished = teed(&mut command)?;
    let checked = regressions_checked(&finished.text);
    match (finished.status.success(), checked) {
        (true, Some(passed @ 1..)) => Ok(Tally::passed(passed)),
        (_, checked) => bail!("hedgerow-sim regressions: {}, {checked:?}", finished.status),
    }
}

/// `2 tapes, 0 not as they should be`: how many, if all are.
fn regressions_checked(text: &str) -> Option<usize> {
    let (count, rest) = text.lines().find_map(|line| line.split_once(" tapes, "))?;
    rest.starts_with("0 ").then(|| count.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tapes_count_only_when_all_are_as_they_should_be() {
        let text = "a: ok\n2 tapes, 0 not as they should be\n";
        assert_eq!(regressions_checked(text), Some(2));
        assert_eq!(
            regressions_checked("2 tapes, 1 not as they should be"),
            None
        );
        assert_eq!(regressions_checked("hedgerow-sim: no such folder"), None);
    }

    #[test]
    fn results_are_read_from_the_sweep() {
        let text = r#"{"schema_version":1,"results":[
            {"seed":3,"exit_code":0,"oracle":null},
            {"seed":4,"exit_code":10,"oracle":"linearizability"}]}"#;
        let sweep = parse(text).unwrap();
        assert_eq!(sweep.passed, 1);
        assert_eq!(sweep.failures, [(4, "linearizability".to_owned())]);
        assert!(parse(r#"{"results":[{"seed":1}]}"#).is_err());
    }
}
