//! The command line of `cargo xtask mutants`.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail};

use crate::repository;

/// Which seeds the samples of a mutant use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ranges {
    /// The first seed of the first range.
    pub(super) from: u64,
    /// Seeds of one range.
    pub(super) seeds: u64,
    /// How many ranges; the median of them is told.
    pub(super) count: u64,
}

impl Ranges {
    /// The seeds of range `number`.
    pub(super) fn range(&self, number: u64) -> std::ops::Range<u64> {
        let first = self.from + number * self.seeds;
        first..first + self.seeds
    }
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) resume: PathBuf,
    pub(super) mutants: Vec<String>,
    pub(super) ranges: Ranges,
    pub(super) clean: u64,
    pub(super) jobs: usize,
    pub(super) markdown: Option<PathBuf>,
    pub(super) report: bool,
    pub(super) no_build: bool,
    pub(super) simulator: Option<PathBuf>,
}

impl Options {
    pub(super) fn parse(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut options = Self {
            resume: repository::target().join("mutants.json"),
            mutants: Vec::new(),
            ranges: Ranges {
                from: 0,
                seeds: 1000,
                count: 5,
            },
            clean: 0,
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            markdown: None,
            report: false,
            no_build: false,
            simulator: None,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || {
                let value = rest.next().copied();
                value.with_context(|| format!("mutants: {name} needs a value"))
            };
            match *name {
                "--report" => options.report = true,
                "--no-build" => options.no_build = true,
                "--simulator" => options.simulator = Some(value()?.into()),
                "--resume" => options.resume = value()?.into(),
                "--markdown" => options.markdown = Some(value()?.into()),
                "--mutant" => options.mutants.push(value()?.to_owned()),
                "--seeds-from" => options.ranges.from = number(name, value()?, 0)?,
                "--max-seeds" => options.ranges.seeds = number(name, value()?, 1)?,
                "--median-of" => options.ranges.count = number(name, value()?, 1)?,
                "--clean" => options.clean = number(name, value()?, 0)?,
                "--jobs" => options.jobs = number(name, value()?, 1)?,
                _ => bail!("mutants: {name}: no such option; `cargo xtask help` lists them"),
            }
        }
        Ok(options)
    }
}

fn number<T: FromStr + PartialOrd>(name: &str, text: &str, least: T) -> anyhow::Result<T> {
    match text.parse::<T>() {
        Ok(number) if number >= least => Ok(number),
        _ => bail!("mutants: {name} {text}: a number is expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_odd_options_are_named() {
        let options = Options::parse(&["--seeds-from", "100", "--max-seeds", "40"]).unwrap();
        assert_eq!(options.ranges.range(0), 100..140);
        assert_eq!(options.ranges.range(4), 260..300);
        for wrong in [&["--max-seeds", "0"][..], &["--jobs"], &["--seed", "1"]] {
            let error = Options::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong[0]), "{error}");
        }
    }
}
