//! `cargo xtask jepsen`: the standard suite of tests on real processes, of bounded length.
//!
//! Each test is one `hedgerow jepsen run`; together they ask for every nemesis. The verdict must be
//! *valid*: a test that says nothing fails the suite as one that finds something does.

mod campaign;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::ci::{self, PROFILE, Tally};
use crate::repository;
use crate::run::shown;

struct Test {
    name: &'static str,
    /// Seconds of faults under load; starting, healing and judging come on top.
    seconds: u32,
    nodes: u32,
    arguments: &'static [&'static str],
    /// Whether it belongs to the part that runs in CI.
    quick: bool,
}

const fn test(
    name: &'static str,
    (seconds, nodes): (u32, u32),
    arguments: &'static [&'static str],
) -> Test {
    Test {
        name,
        seconds,
        nodes,
        arguments,
        quick: false,
    }
}

const fn quick(name: &'static str, size: (u32, u32), arguments: &'static [&'static str]) -> Test {
    Test {
        quick: true,
        ..test(name, size, arguments)
    }
}

/// About 15 minutes in all, about 5 of them quick. Seeds are fixed, so that the same faults strike
/// at the same times every night; what the processes make of it differs.
const TESTS: &[Test] = &[
    quick(
        "processes die, stop and lose each other",
        (70, 3),
        &["--nemesis", "kill,pause,isolate", "--seed", "101"],
    ),
    quick(
        "clocks and disks lie",
        (60, 3),
        &["--nemesis", "clock,strobe,unsynced", "--seed", "102"],
    ),
    quick(
        "etcd, which somebody else wrote",
        (50, 3),
        &[
            "--target",
            "etcd",
            "--workload",
            "cas-register",
            "--nemesis",
            "kill,halves",
            "--seed",
            "103",
        ],
    ),
    test(
        "every way of stopping",
        (105, 5),
        &[
            "--nemesis",
            "kill,restart,rolling,pause,strand",
            "--seed",
            "104",
        ],
    ),
    test(
        "every partition",
        (100, 5),
        &["--nemesis", "partition", "--seed", "105"],
    ),
    test(
        "every bad link",
        (60, 5),
        &["--nemesis", "links", "--seed", "106"],
    ),
    test(
        "full, damaged and lost disks",
        (70, 5),
        &["--nemesis", "full,damage,wipe", "--seed", "107"],
    ),
    test(
        "a node is emptied, another joins",
        (50, 4),
        &["--nemesis", "join,drain", "--seed", "5"],
    ),
    test(
        "no power anywhere",
        (40, 3),
        // First most nodes are without power, then all. Disks that take 60 ms to sync bear some 55
        // operations a second, and each loss costs 11 s: power is away for 2 to 4, nodes start, and
        // the last holder's lease has to end.
        &[
            "--nemesis",
            "power",
            "--rate",
            "60",
            "--concurrency",
            "20",
            "--seed",
            "114",
        ],
    ),
    test(
        "disks come and go",
        (40, 3),
        &[
            "--workload",
            "disk-lifecycle",
            "--nemesis",
            "kill,halves",
            "--rate",
            "20",
            "--seed",
            "108",
        ],
    ),
];

/// The options of the command.
const OPTIONS: [&str; 3] = ["--quick", "--no-build", "--mutants"];

/// Before the planted bugs that the campaign is to go on with.
const SOME_MUTANTS: &str = "--mutants=";

/// `cargo xtask jepsen [--quick | --mutants[=NAME,..]] [--no-build]`.
pub(crate) fn command(arguments: &[&str]) -> anyhow::Result<()> {
    let some_mutants = arguments
        .iter()
        .find_map(|word| word.strip_prefix(SOME_MUTANTS));
    let is_known = |word: &str| OPTIONS.contains(&word) || word.starts_with(SOME_MUTANTS);
    if let Some(unknown) = arguments.iter().find(|word| !is_known(word)) {
        bail!("jepsen: {unknown:?} is none of {}", OPTIONS.join(", "));
    }
    if !arguments.contains(&"--no-build") {
        ci::build()?;
    }
    keep_program()?;
    if some_mutants.is_some() || arguments.contains(&"--mutants") {
        let only: Vec<&str> = some_mutants
            .into_iter()
            .flat_map(|list| list.split(','))
            .collect();
        return campaign::run(&program(), &only);
    }
    let only_quick = arguments.contains(&"--quick");
    let tally = run(|test| test.quick || !only_quick)?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("jepsen: {} tests failed", tally.failed);
    }
    Ok(())
}

/// The part of CI.
pub(crate) fn quick_part() -> anyhow::Result<Tally> {
    keep_program()?;
    run(|test| test.quick)
}

/// Where the program under test is kept, so that a build meanwhile does not change it.
fn program() -> PathBuf {
    repository::target().join("jepsen").join("hedgerow")
}

fn keep_program() -> anyhow::Result<()> {
    let built = repository::target().join(PROFILE).join("hedgerow");
    let kept = program();
    std::fs::create_dir_all(kept.parent().context("a file has a folder")?)?;
    std::fs::copy(&built, &kept).with_context(|| built.display().to_string())?;
    Ok(())
}

fn run(wanted: impl Fn(&Test) -> bool) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let store = repository::target().join("jepsen").join("store");
    for test in TESTS.iter().filter(|test| wanted(test)) {
        eprintln!("\n-- {}", test.name);
        let began = Instant::now();
        let verdict = shown(&mut hedgerow(test, &store));
        let seconds = began.elapsed().as_secs();
        match verdict {
            Ok(()) => {
                tally.passed += 1;
                eprintln!("-- {}: valid after {seconds} s", test.name);
            }
            Err(error) => {
                tally.failed += 1;
                eprintln!("-- {}: FAIL after {seconds} s: {error:#}", test.name);
            }
        }
    }
    Ok(tally)
}

fn hedgerow(test: &Test, store: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .args(["jepsen", "run", "--store"])
        .arg(store)
        .args(["--time", &test.seconds.to_string()])
        .args(["--nodes", &test.nodes.to_string()])
        .args(test.arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every test costs beside its own time.
    const OVERHEAD_SECONDS: u32 = 25;

    #[test]
    fn the_suite_is_of_bounded_length() {
        let length = |wanted: &dyn Fn(&Test) -> bool| -> u32 {
            let tests = TESTS.iter().filter(|test| wanted(test));
            tests.map(|test| test.seconds + OVERHEAD_SECONDS).sum()
        };
        assert!(length(&|_| true) <= 15 * 60);
        assert!(length(&|test| test.quick) <= 5 * 60);
    }
}
