//! `cargo xtask jepsen --mutants`: how many planted bugs do real processes show within ten minutes?
//!
//! The sample is taken from the catalogue at even distances, before anything is run. A bug is
//! *shown* when a test ends *invalid*; a test that ends *unknown* shows nothing, though it may
//! hint. Results are kept in a file that is replaced after every test, and a campaign goes on
//! where it stopped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use crate::repository;
use crate::run::collected;

/// How many planted bugs are tried.
const SAMPLE: usize = 20;
/// How long each is tried.
const BUDGET: Duration = Duration::from_secs(600);
/// The share that has to be shown, in percent.
const GOAL_PERCENT: usize = 60;
/// What strikes in turn: which nemeses, for how many seconds.
const ROUNDS: &[(&str, u32)] = &[
    ("kill,pause", 60),
    ("unsynced,clock", 60),
    ("partition", 110),
    ("kill,links", 90),
    ("damage,wipe,restart", 90),
];
/// Where results are kept.
const RECORD: &str = "jepsen/mutants.json";

/// Runs or resumes the campaign with `program`, and prints its table.
pub(super) fn run(program: &Path) -> anyhow::Result<()> {
    let path = repository::target().join(RECORD);
    let mut record = read(&path)?;
    let names = sample(&catalogue()?);
    // Breadth first: broken off early, it has tried all a little, not a few for long.
    while names.iter().any(|name| !finished(&record[name])) {
        for name in &names {
            if !finished(&record[name]) {
                let tested = test(program, name, &record[name])?;
                record.insert_result(name, tested);
                write(&path, &record.0)?;
            }
        }
    }
    print_table(&names, &record)
}

/// Results by planted bug: `{seconds, tests, shown: null | {seed, nemesis, reason}}`.
struct Record(Map<String, Value>);

impl std::ops::Index<&String> for Record {
    type Output = Value;

    fn index(&self, name: &String) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
}

impl Record {
    fn insert_result(&mut self, name: &str, result: Value) {
        self.0.insert(name.to_owned(), result);
    }
}

fn finished(result: &Value) -> bool {
    !result["shown"].is_null() || result["seconds"].as_u64().unwrap_or(0) >= BUDGET.as_secs()
}

/// One more test of a planted bug; what is known of it then.
fn test(program: &Path, name: &str, known: &Value) -> anyhow::Result<Value> {
    let tests = known["tests"].as_u64().unwrap_or(0);
    let round = usize::try_from(tests)? % ROUNDS.len();
    let (nemesis, seconds) = ROUNDS[round];
    let seed = 1000 + tests;
    let store = repository::target().join("jepsen").join("mutants");
    let mut command = Command::new(program);
    command
        .args(["jepsen", "run", "--json", "--nodes", "5", "--rate", "200"])
        .args(["--mutant", name, "--nemesis", nemesis])
        .args(["--time", &seconds.to_string()])
        .args(["--seed", &seed.to_string()])
        .arg("--store")
        .arg(&store);
    let began = Instant::now();
    let finished = collected(&mut command)?;
    let spent = began.elapsed().as_secs() + known["seconds"].as_u64().unwrap_or(0);
    let verdict = match finished.status.code() {
        Some(0) => "valid",
        Some(1) => "invalid",
        Some(3) => "unknown",
        _ => bail!("{name}: {}\n{}", finished.status, finished.text),
    };
    eprintln!("{name}: {nemesis}, seed {seed}: {verdict}");
    let shown = (verdict == "invalid").then(|| {
        let json = finished.text.find('{').map(|place| &finished.text[place..]);
        let results = json.and_then(|json| {
            let mut values = serde_json::Deserializer::from_str(json).into_iter::<Value>();
            values.next()?.ok()
        });
        let reason = results.map_or(Value::Null, |results| results["reason"].clone());
        json!({ "seed": seed, "nemesis": nemesis, "reason": reason })
    });
    // What a test leaves is of use only when it failed, and large.
    std::fs::remove_dir_all(&store).context("the tests' folder")?;
    Ok(json!({ "seconds": spent, "tests": tests + 1, "shown": shown }))
}

/// The names in the catalogue of planted bugs, in its order.
fn catalogue() -> anyhow::Result<Vec<String>> {
    let path = repository::root().join("core/env/src/mutants.rs");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(names(&text))
}

fn names(text: &str) -> Vec<String> {
    let row = |line: &str| {
        let (variant, name) = line.trim().split_once(" = \"")?;
        let plain = variant.chars().all(char::is_alphanumeric);
        plain.then(|| name.trim_end_matches("\",").to_owned())
    };
    text.lines().filter_map(row).collect()
}

fn sample(all: &[String]) -> Vec<String> {
    let count = SAMPLE.min(all.len());
    let picked = (0..count).map(|number| all[number * all.len() / count].clone());
    picked.collect()
}

fn read(path: &PathBuf) -> anyhow::Result<Record> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Record(serde_json::from_str(&text).context("the record")?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record(Map::new())),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn write(path: &Path, record: &Map<String, Value>) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_string_pretty(record)?)?;
    std::fs::rename(new, path)?;
    Ok(())
}

fn print_table(names: &[String], record: &Record) -> anyhow::Result<()> {
    println!("| planted bug | shown after | by | what was seen |");
    println!("| --- | --- | --- | --- |");
    let mut shown = 0;
    for name in names {
        let result = &record[name];
        let seconds = &result["seconds"];
        if let Some(reason) = result["shown"]["reason"].as_str() {
            shown += 1;
            let nemesis = result["shown"]["nemesis"].as_str().unwrap_or_default();
            println!("| `{name}` | {seconds} s | {nemesis} | {reason} |");
        } else {
            println!("| `{name}` | not in {seconds} s | | |");
        }
    }
    println!("\n{shown} of {} are shown", names.len());
    if shown * 100 < GOAL_PERCENT * names.len() {
        bail!("fewer than {GOAL_PERCENT} % of the planted bugs are shown");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_spread_over_the_catalogue() {
        let text =
            "/// A.\n    FirstBug = \"first-bug\",\n    const X: &str = \"no\";\n    B = \"b\",\n";
        assert_eq!(names(text), ["first-bug", "b"]);
        let all: Vec<String> = (0..130).map(|number| number.to_string()).collect();
        let sample = sample(&all);
        assert_eq!(
            (sample.len(), sample[0].as_str(), sample[19].as_str()),
            (20, "0", "123")
        );
    }

    #[test]
    fn a_bug_is_tried_until_it_is_shown_or_its_time_is_up() {
        assert!(!finished(&Value::Null));
        assert!(!finished(
            &json!({ "seconds": 599, "tests": 6, "shown": null })
        ));
        assert!(finished(
            &json!({ "seconds": 600, "tests": 6, "shown": null })
        ));
        assert!(finished(
            &json!({ "seconds": 9, "tests": 1, "shown": { "reason": "x" } })
        ));
    }
}
