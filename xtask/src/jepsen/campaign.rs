//! `cargo xtask jepsen --mutants`: how many planted bugs do real processes show within ten minutes?
//!
//! The sample was drawn once, before anything was run, at even distances from the rows of
//! `sim/mutants.toml` that the simulator was expected to kill (neither `explained` nor `needs`) and
//! that were not `simulator_only`. Its rows say `processes`: rows that come and go do not change it. Every bug goes through the same rounds, the one
//! that its kind suggests first, and so does the program without any, which must never be *invalid*.
//!
//! A bug is *shown* when a test ends *invalid*; a test that ends *unknown* shows nothing, though it
//! may hint. The record is replaced before and after every test, so a campaign that was ended from
//! outside says which test was under way, and goes on there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::repository;
use crate::run::collected;

/// How many planted bugs are tried.
const SAMPLE: usize = 20;
/// How long each is tried.
const BUDGET: Duration = Duration::from_secs(600);
/// The share that has to be shown, in percent.
const GOAL_PERCENT: usize = 60;
/// A test that could not be run (the cluster did not form) is tried so often before the bug is
/// passed over for this time.
const ATTEMPTS: usize = 3;
/// The row of the program without a planted bug.
const NONE: &str = "(none)";
/// What is tried in turn: each is for a class of mistakes, and none for one.
const ROUNDS: &[(&str, u32)] = &[
    ("--nemesis kill,pause --rate 200", 30),
    // What is promised before it is durable, where everybody loses power, or all but one: so many
    // blocks that most writes are not overwritten before the final reads.
    (
        "--nemesis power --aim 60 --rate 400 --concurrency 64 --blocks 30000 --block-size 4096 \
         --skew 0 --reads 20 --small-stores",
        50,
    ),
    // What nodes tell each other of it when they connect.
    (
        "--nemesis power,reset --rate 200 --concurrency 32 --blocks 9000 --block-size 4096 \
         --small-stores",
        40,
    ),
    // Who holds the disk, and what it believes, when it is cut off or everybody else is away.
    (
        "--nemesis isolate,pair,strand --aim 70 --stray-one-in 5 --reads 80 --rate 200 \
         --concurrency 20 --small-stores",
        50,
    ),
    // The same for longer than a lease and what follows its end.
    (
        "--nemesis isolate,halves,one-way --cuts 6 --aim 80 --rate 200 --small-stores",
        60,
    ),
    // The same while somebody waits for the disk who only reads.
    (
        "--nemesis isolate,pair,slow --cuts 8 --aim 80 --stray-one-in 4 --strays-read --rate 200 \
         --concurrency 20 --nodes 3 --small-stores",
        60,
    ),
    // What nodes do when clients rest, and what it meets when these come back together.
    (
        "--nemesis clock --bursts 150 --slow-disks 10 --blocks 40 --block-size 4096 --skew 0 \
         --reads 60 --rate 80 --concurrency 8 --small-stores",
        50,
    ),
    // One node after the other loses what it has not synced, while connections break.
    (
        "--nemesis unsynced,reset --slow-disks 60 --rate 300 --concurrency 48 --blocks 9000 \
         --block-size 4096 --small-stores",
        50,
    ),
    (
        "--workload disk-lifecycle --nemesis kill,reset --rate 300 --concurrency 20 --keys 300 \
         --nodes 3",
        30,
    ),
    (
        "--nemesis links,kill --rate 300 --skew 80 --small-stores",
        50,
    ),
    (
        "--nemesis damage,wipe,restart --rate 200 --small-stores",
        50,
    ),
];
/// The rounds that bugs begin with, by what they break; the others follow in order.
const FIRST: &[(&str, &[&str])] = &[
    (
        "--nemesis power --aim",
        &[
            "acknowledge-before-sync",
            "purge-past-durable",
            "held-before-sync",
            "page-log-unsynced",
            "unknown-taken-for-applied",
        ],
    ),
    (
        "--nemesis unsynced,reset",
        &["stamps-show-undurable", "later-frame-speaks-for-earlier"],
    ),
    (
        "--nemesis isolate,pair,strand",
        &["missing-unit-reads-as-zeros", "two-placements-in-one-epoch"],
    ),
    (
        "--nemesis isolate,halves,one-way",
        &["attach-keeps-generation", "expiry-without-floor"],
    ),
    (
        "--nemesis isolate,pair,slow",
        &[
            "fence-skipped-on-read",
            "pending-name-deleted",
            "read-joins-round-under-way",
        ],
    ),
    (
        "--nemesis clock",
        &["cache-answers-during-commit", "applied-answered-as-void"],
    ),
    ("--workload disk-lifecycle", &["creation-not-remembered"]),
];
/// Where the record is kept.
const RECORD: &str = "jepsen/mutants.json";
const TABLE: &str = "sim/mutants.toml";

/// One test of one bug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Tested {
    /// The round's arguments.
    round: String,
    seed: u64,
    seconds: u64,
    /// `valid`, `invalid`, `unknown`, or `not run`.
    verdict: String,
    reason: String,
}

/// What is known of each bug, and which test is under way.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    under_way: Option<String>,
    bugs: BTreeMap<String, Vec<Tested>>,
}

impl Record {
    fn of(&self, name: &str) -> &[Tested] {
        self.bugs.get(name).map_or(&[], Vec::as_slice)
    }

    fn of_present_rounds(mut self) -> Self {
        let is_present = |tested: &Tested| ROUNDS.iter().any(|(round, _)| tested.round == *round);
        for tests in self.bugs.values_mut() {
            tests.retain(is_present);
        }
        self
    }

    /// Breadth first: broken off early, a campaign has tried all a little, not a few for long.
    fn next(&self, names: &[String]) -> Option<String> {
        let open = names.iter().filter(|name| !self.is_finished(name));
        open.min_by_key(|name| self.of(name).len()).cloned()
    }

    fn is_finished(&self, name: &str) -> bool {
        shown(self.of(name)).is_some() || seconds(self.of(name)) >= BUDGET.as_secs()
    }
}

/// The round that was tried least; of several the bug's own, then the first.
fn next_round(name: &str, tests: &[Tested]) -> (&'static str, u32) {
    let own = FIRST.iter().find(|(_, names)| names.contains(&name));
    let is_own = |round: &str| own.is_some_and(|(first, _)| round.starts_with(first));
    let tried = |round: &str| tests.iter().filter(|tested| tested.round == round).count();
    let rounds = ROUNDS.iter().copied();
    let least = rounds.min_by_key(|(round, _)| (tried(round), !is_own(round)));
    least.expect("there are rounds")
}

fn shown(tests: &[Tested]) -> Option<&Tested> {
    tests.iter().find(|tested| tested.verdict == "invalid")
}

fn seconds(tests: &[Tested]) -> u64 {
    tests.iter().map(|tested| tested.seconds).sum()
}

/// Runs or resumes the campaign with `program`, and prints its table. With names in `only`, it goes on
/// with those, which changes nothing about what each has to go through.
pub(super) fn run(program: &Path, only: &[&str]) -> anyhow::Result<()> {
    let path = repository::target().join(RECORD);
    let mut record = read(&path)?;
    if let Some(broken_off) = record.under_way.take() {
        eprintln!("the campaign was ended from outside during {broken_off}; it goes on there");
    }
    let mut names = vec![NONE.to_owned()];
    names.extend(sample()?);
    if let Some(unknown) = only
        .iter()
        .find(|name| !names.iter().any(|known| known == *name))
    {
        bail!("{unknown} is not in the sample");
    }
    let is_wanted = |name: &&String| only.is_empty() || only.contains(&name.as_str());
    let wanted: Vec<String> = names.iter().filter(is_wanted).cloned().collect();
    while let Some(name) = record.next(&wanted) {
        let (round, length) = next_round(&name, record.of(&name));
        let seed = 1000 + record.of(&name).len() as u64;
        record.under_way = Some(format!("{name}: {round}, seed {seed}"));
        write(&path, &record)?;
        let tested = test(program, &name, (round, length), seed)?;
        eprintln!(
            "{name}: {round}, seed {seed}: {} after {} s: {}",
            tested.verdict, tested.seconds, tested.reason
        );
        record.bugs.entry(name).or_default().push(tested);
        record.under_way = None;
        write(&path, &record)?;
    }
    print_table(&names, &record)
}

/// One more test of a planted bug.
fn test(
    program: &Path,
    name: &str,
    (round, length): (&str, u32),
    seed: u64,
) -> anyhow::Result<Tested> {
    let store = repository::target().join("jepsen").join("mutants");
    let began = Instant::now();
    let mut outcome = ("not run", String::new());
    for _ in 0..ATTEMPTS {
        let mut command = Command::new(program);
        command
            .args(["jepsen", "run", "--json", "--seed", &seed.to_string()])
            .args(["--time", &length.to_string()])
            .args(round.split(' '))
            .arg("--store")
            .arg(&store);
        if name != NONE {
            command.args(["--mutant", name]);
        }
        let finished = collected(&mut command)?;
        let verdict = match finished.status.code() {
            Some(0) => "valid",
            Some(1) => "invalid",
            Some(3) => "unknown",
            _ => "not run",
        };
        outcome = (verdict, reason(&finished.text));
        // What a test leaves is of use only when it failed, and large.
        if store.exists() {
            std::fs::remove_dir_all(&store).context("the tests' folder")?;
        }
        if verdict != "not run" {
            break;
        }
        eprintln!("{name}: not run: {}: {}", finished.status, outcome.1);
    }
    Ok(Tested {
        round: round.to_owned(),
        seed,
        // One that does not end its time by itself would be tried for ever.
        seconds: began.elapsed().as_secs().max(1),
        verdict: outcome.0.to_owned(),
        reason: outcome.1,
    })
}

/// Why, by the results that a test prints, or by its last line.
fn reason(text: &str) -> String {
    let json = text.find('{').map(|place| &text[place..]);
    let results = json.and_then(|json| {
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
        values.next()?.ok()
    });
    let reason = results.and_then(|results| results["reason"].as_str().map(str::to_owned));
    reason.unwrap_or_else(|| text.lines().last().unwrap_or_default().to_owned())
}

/// The sample, in the table's order.
fn sample() -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(repository::root().join(TABLE)).context(TABLE)?;
    marked(&text).context(TABLE)
}

fn marked(text: &str) -> anyhow::Result<Vec<String>> {
    let document: toml::Table = text.parse()?;
    let rows = document.get("mutant").and_then(toml::Value::as_array);
    let rows = rows.context("mutant: write [[mutant]]")?.iter();
    let is_marked = |row: &&toml::Value| {
        let mark = row.get("processes").and_then(toml::Value::as_bool);
        mark == Some(true)
    };
    let name = |row: &toml::Value| Some(row.get("name")?.as_str()?.to_owned());
    let names: Vec<String> = rows.filter(is_marked).filter_map(name).collect();
    if names.len() != SAMPLE {
        let count = names.len();
        bail!("{count} rows say `processes`, {SAMPLE} are the sample");
    }
    Ok(names)
}

/// The record, without the tests of rounds that are no longer what they were.
fn read(path: &PathBuf) -> anyhow::Result<Record> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let record: Record =
                serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            Ok(record.of_present_rounds())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn write(path: &Path, record: &Record) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_string_pretty(record)?)?;
    std::fs::rename(new, path)?;
    Ok(())
}

fn print_table(names: &[String], record: &Record) -> anyhow::Result<()> {
    println!("| planted bug | shown after | by | what was seen |");
    println!("| --- | --- | --- | --- |");
    let mut shown_bugs = 0;
    for name in names {
        let tests = record.of(name);
        let spent = seconds(tests);
        if let Some(tested) = shown(tests) {
            shown_bugs += usize::from(name != NONE);
            // A bar would begin another cell.
            let (round, reason) = (&tested.round, tested.reason.replace('|', "/"));
            println!("| `{name}` | {spent} s | `{round}` | {reason} |");
        } else {
            let valid = tests.iter().filter(|tested| tested.verdict == "valid");
            let (count, valid) = (tests.len(), valid.count());
            println!("| `{name}` | not in {spent} s | {count} tests, {valid} valid | |");
        }
    }
    let bugs = names.len() - 1;
    println!("\n{shown_bugs} of {bugs} are shown");
    if shown(record.of(NONE)).is_some() {
        bail!("the program without a planted bug failed a test");
    }
    if shown_bugs * 100 < GOAL_PERCENT * bugs {
        bail!("fewer than {GOAL_PERCENT} % of the planted bugs are shown");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tested(verdict: &str, seconds: u64) -> Tested {
        Tested {
            round: "--nemesis kill".to_owned(),
            seed: 1000,
            seconds,
            verdict: verdict.to_owned(),
            reason: String::new(),
        }
    }

    #[test]
    fn the_sample_is_what_the_table_marks() {
        let sample = sample().unwrap();
        let ends = [sample.first(), sample.last()].map(|name| name.map(String::as_str));
        let expected = ["acknowledge-before-sync", "unmap-count-in-bytes"].map(Some);
        assert_eq!(ends, expected);
        let few = marked("[[mutant]]\nname = \"a\"\nprocesses = true\n").unwrap_err();
        assert!(few.to_string().contains("1 rows say"), "{few}");
    }

    #[test]
    fn a_bug_is_tried_until_it_is_shown_or_its_time_is_up() {
        let mut record = Record::default();
        assert!(!record.is_finished("x"));
        record.bugs.insert("x".into(), vec![tested("unknown", 599)]);
        assert!(!record.is_finished("x"));
        record.bugs.insert("y".into(), vec![tested("valid", 600)]);
        assert!(record.is_finished("y"));
        record.bugs.insert("z".into(), vec![tested("invalid", 9)]);
        assert!(record.is_finished("z"));
        let names = ["x", "y", "z", "new"].map(String::from);
        assert_eq!(record.next(&names).as_deref(), Some("new"));
    }

    #[test]
    fn what_a_former_round_has_shown_is_forgotten() {
        let mut record = Record::default();
        let kept = Tested {
            round: ROUNDS[0].0.to_owned(),
            ..tested("invalid", 9)
        };
        let tests = vec![tested("valid", 30), kept.clone()];
        record.bugs.insert("x".into(), tests);
        assert_eq!(record.of_present_rounds().of("x"), [kept]);
    }

    #[test]
    fn a_bug_begins_with_its_own_round_and_goes_through_all() {
        let mut tests = Vec::new();
        for _ in ROUNDS {
            let (round, _) = next_round("creation-not-remembered", &tests);
            let round = round.to_owned();
            tests.push(Tested {
                round,
                ..tested("valid", 1)
            });
        }
        assert!(tests[0].round.starts_with("--workload disk-lifecycle"));
        assert_eq!(tests[1].round, ROUNDS[0].0);
        assert!(
            ROUNDS
                .iter()
                .all(|(round, _)| tests.iter().any(|tested| tested.round == *round))
        );
    }

    #[test]
    fn a_test_that_does_not_begin_tells_its_last_line() {
        assert_eq!(
            reason("a\nhedgerow: not run: why\n"),
            "hedgerow: not run: why"
        );
        assert_eq!(reason("log\n{\"reason\": \"stale\"}\nmore"), "stale");
    }
}
