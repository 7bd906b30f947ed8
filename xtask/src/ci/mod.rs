//! `cargo xtask ci`: everything that has to pass before a change lands.
//!
//! Steps run in order, quick ones first; the first that fails ends the run. Nothing is skipped unless
//! `--skip` asks for it, and then the closing lines say so.

mod packages;
pub(crate) mod seeds;

use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::run::{Finished, is_root, shown, teed};
use crate::{e2e, jepsen, mutants, repository, tidy};

/// The one profile of tests, end-to-end runs and seeds.
pub(crate) const PROFILE: &str = "ci";

/// What the programs under test can do beyond those that ship: bugs can be planted in them, and a
/// node's configuration may have its clock and its disk lie. One set for all steps, so that each
/// crate is compiled once.
pub(crate) const FEATURES: &str = "hedgerow/mutants,hedgerow/testing";

/// How many checks a step ran.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
}

impl Tally {
    pub(crate) fn passed(passed: usize) -> Tally {
        Tally { passed, failed: 0 }
    }
}

struct Step {
    name: &'static str,
    /// Returns what was counted; an error ends the run and counts as a failure if nothing else did.
    run: fn() -> anyhow::Result<Tally>,
}

const STEPS: &[Step] = &[
    Step {
        name: "packages",
        run: packages::install,
    },
    Step {
        name: "format",
        run: format,
    },
    Step {
        name: "tidy",
        run: || tidy::check().map(Tally::passed),
    },
    Step {
        name: "clippy",
        run: clippy,
    },
    Step {
        name: "ships",
        run: ships,
    },
    Step {
        name: "tests",
        run: tests,
    },
    Step {
        name: "build",
        run: || build().map(|()| Tally::default()),
    },
    Step {
        name: "seeds",
        run: seeds::sweep,
    },
    Step {
        name: "repeat",
        run: seeds::repeat,
    },
    Step {
        name: "regressions",
        run: seeds::regressions,
    },
    Step {
        name: "mutants",
        run: mutants::kill_listed,
    },
    Step {
        name: "e2e",
        run: e2e::all,
    },
    Step {
        name: "jepsen",
        run: jepsen::quick_part,
    },
];

/// `cargo xtask ci [--skip STEP]...`.
pub(crate) fn command(arguments: &[&str]) -> anyhow::Result<()> {
    let skipped = skipped(arguments)?;
    packages::check_user(is_root()?, &skipped)?;
    let began = Instant::now();
    let mut total = Tally::default();
    let mut failure = None;
    for (number, step) in STEPS.iter().enumerate() {
        if skipped.contains(&step.name) {
            continue;
        }
        let (place, all) = (number + 1, STEPS.len());
        eprintln!(
            "\n== {place}/{all} {} (at {} s)",
            step.name,
            began.elapsed().as_secs()
        );
        let step_began = Instant::now();
        let result = (step.run)();
        let seconds = step_began.elapsed().as_secs_f64();
        match result {
            Ok(tally) if tally.failed == 0 => {
                total.passed += tally.passed;
                eprintln!(
                    "== {}: {} passed in {seconds:.1} s",
                    step.name, tally.passed
                );
            }
            Ok(tally) => {
                total.passed += tally.passed;
                total.failed += tally.failed;
                failure = Some(format!("{}: {} failed", step.name, tally.failed));
            }
            Err(error) => {
                total.failed += 1;
                failure = Some(format!("{}: {error:#}", step.name));
            }
        }
        if failure.is_some() {
            break;
        }
    }
    for name in &skipped {
        println!("skipped as asked for: {name}");
    }
    if let Some(failure) = &failure {
        println!("failed: {failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if failure.is_some() {
        bail!("ci failed after {} s", began.elapsed().as_secs());
    }
    Ok(())
}

/// The steps that the command line leaves out.
fn skipped(arguments: &[&str]) -> anyhow::Result<Vec<&'static str>> {
    let mut skipped = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if *argument != "--skip" {
            bail!("ci: {argument}: write --skip STEP");
        }
        let name = rest.next().context("ci: --skip needs the name of a step")?;
        let Some(step) = STEPS.iter().find(|step| step.name == *name) else {
            let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
            bail!("ci: no step {name:?}; there are {}", names.join(", "));
        };
        skipped.push(step.name);
    }
    Ok(skipped)
}

fn format() -> anyhow::Result<Tally> {
    shown(repository::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Tally::passed(1))
}

fn clippy() -> anyhow::Result<Tally> {
    clippy_of(&["--workspace", "--all-targets", "--features", FEATURES])
}

/// The program as it ships, without the features of tests: nothing else here compiles that.
fn ships() -> anyhow::Result<Tally> {
    clippy_of(&["--package", "hedgerow"])
}

fn clippy_of(what: &[&str]) -> anyhow::Result<Tally> {
    let mut command = repository::cargo();
    command.args(["clippy", "--profile", PROFILE]).args(what);
    shown(command.args(["--", "-D", "warnings"]))?;
    Ok(Tally::passed(1))
}

/// Unit, integration and property tests; by nextest where it is installed.
fn tests() -> anyhow::Result<Tally> {
    let all = ["--workspace", "--features", FEATURES];
    let nextest = repository::cargo().args(["nextest", "--version"]).output();
    if nextest.is_ok_and(|output| output.status.success()) {
        let finished = teed(
            repository::cargo()
                .args([
                    "nextest",
                    "run",
                    "--no-fail-fast",
                    "--cargo-profile",
                    PROFILE,
                ])
                .args(all),
        )?;
        return counted(&finished, nextest_tally(&finished.text));
    }
    eprintln!("cargo-nextest is not installed: using cargo test");
    let finished = teed(
        repository::cargo()
            .args(["test", "--no-fail-fast", "--profile", PROFILE])
            .args(all),
    )?;
    counted(&finished, libtest_tally(&finished.text))
}

/// A tally holds only together with the exit code: a build that fails runs no test.
fn counted(finished: &Finished, tally: Tally) -> anyhow::Result<Tally> {
    match (finished.status.success(), tally) {
        (
            true,
            Tally {
                passed: 1..,
                failed: 0,
            },
        ) => Ok(tally),
        (false, Tally { failed: 1.., .. }) => Ok(tally),
        (success, tally) => bail!("tests: success is {success}, and yet {tally:?}"),
    }
}

/// `     Summary [   1.2s] 30 tests run: 29 passed (1 slow), 1 failed, 2 skipped`.
fn nextest_tally(text: &str) -> Tally {
    let line = text
        .lines()
        .rev()
        .find(|line| line.trim_start().starts_with("Summary ["));
    let counts = line
        .and_then(|line| line.split("tests run:").nth(1))
        .unwrap_or_default();
    let bad = ["failed", "timed", "exec"]
        .iter()
        .map(|word| number_before(counts, word))
        .sum();
    Tally {
        passed: number_before(counts, "passed"),
        failed: bad,
    }
}

/// `test result: FAILED. 3 passed; 1 failed; 0 ignored; ...`, once for each test program.
fn libtest_tally(text: &str) -> Tally {
    let results = text.lines().filter(|line| line.starts_with("test result:"));
    results.fold(Tally::default(), |tally, line| Tally {
        passed: tally.passed + number_before(line, "passed"),
        failed: tally.failed + number_before(line, "failed"),
    })
}

/// The number in front of `word`; 0 when the word is not there.
fn number_before(text: &str, word: &str) -> usize {
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// Builds the two programs that the later steps run. The tests are named beside them since their
/// dependencies ask for features: without them every crate would be compiled a second time.
pub(crate) fn build() -> anyhow::Result<()> {
    shown(repository::cargo().args([
        "build",
        "--profile",
        PROFILE,
        "--workspace",
        "--bins",
        "--tests",
        "--features",
        FEATURES,
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_counts_every_kind_of_failure() {
        let text = "x\n     Summary [   1.234s] 30 tests run: 27 passed (1 slow), 1 failed, \
                    2 timed out, 4 skipped\n        FAIL a\n";
        assert_eq!(
            nextest_tally(text),
            Tally {
                passed: 27,
                failed: 3
            }
        );
        let text = "     Summary [   0.1s] 1 test run: 1 passed, 0 skipped";
        assert_eq!(
            nextest_tally(text),
            Tally {
                passed: 0,
                failed: 0
            }
        );
    }

    #[test]
    fn libtest_counts_are_summed() {
        let text = "test result: ok. 3 passed; 0 failed; 0 ignored\nx\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        assert_eq!(
            libtest_tally(text),
            Tally {
                passed: 5,
                failed: 1
            }
        );
    }

    #[test]
    fn only_known_steps_are_skipped() {
        assert_eq!(skipped(&["--skip", "e2e"]).unwrap(), ["e2e"]);
        assert!(packages::check_user(false, &["e2e"]).is_ok());
        assert!(packages::check_user(true, &[]).is_ok());
        let refused = packages::check_user(false, &["seeds"]).unwrap_err();
        assert!(refused.to_string().contains("--skip e2e"), "{refused}");
        let error = skipped(&["--skip", "everything"]).unwrap_err().to_string();
        assert!(
            error.contains("no step \"everything\"") && error.contains("clippy"),
            "{error}"
        );
    }
}
