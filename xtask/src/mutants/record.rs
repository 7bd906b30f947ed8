//! What a campaign has found so far, in a file that is replaced whole after every finding.
//!
//! Invariants: the file names the sources that its results are of and the ranges of seeds; it is
//! never added to under others. A file that was written half is never seen: it is renamed into
//! place.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::options::Ranges;
use crate::repository;
use crate::run::expected;

/// What decides the outcome of a seed; how it is shown, kept and shrunk does not.
const SOURCES: [&str; 10] = [
    "core",
    "disk",
    "net",
    "gateways",
    "jepsen/src/check",
    "sim/src/oracles",
    "sim/src/scenario",
    "sim/src/world",
    "Cargo.lock",
    "Cargo.toml",
];

/// A seed that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kill {
    pub(super) seed: u64,
    pub(super) oracle: String,
    /// `correctness`, `liveness`, `crash` or `hang`.
    pub(super) kind: String,
}

/// One mutant on one range of seeds.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Sample {
    /// Seeds run, the killing one included.
    pub(super) seeds: u64,
    pub(super) cpu_s: f64,
    pub(super) kill: Option<Kill>,
}

/// Seeds that were run without any mutant.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Clean {
    /// So many from the first seed on were run in order.
    pub(super) seeds: u64,
    pub(super) cpu_s: f64,
    /// Everyone that failed, with its oracle: false alarms, or bugs.
    pub(super) failed: BTreeMap<u64, String>,
    /// Seeds run by themselves, because a mutant failed there.
    pub(super) passed: Vec<u64>,
}

/// The results of a campaign.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    source: String,
    pub(super) commit: String,
    pub(super) ranges: Ranges,
    /// By mutant, one sample for each range that was run, in order; the last may be unfinished.
    pub(super) samples: BTreeMap<String, Vec<Sample>>,
    pub(super) clean: Clean,
}

/// A hash of the present sources, changes that are not committed included.
pub(super) fn source() -> anyhow::Result<String> {
    let git = |arguments: &[&str]| -> anyhow::Result<String> {
        let mut command = Command::new("git");
        command.current_dir(repository::root()).args(arguments);
        expected(command.arg("--").args(SOURCES))
    };
    let mut text = git(&["ls-files", "--stage"])?;
    text.push_str(&git(&["diff", "HEAD"])?);
    let untracked = git(&["ls-files", "--others", "--exclude-standard"])?;
    for name in untracked.lines() {
        text.push_str(name);
        text.push_str(&std::fs::read_to_string(repository::root().join(name)).unwrap_or_default());
    }
    let mut hash = Command::new("git")
        .args(["hash-object", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = hash.stdin.take().expect("it was piped");
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = hash.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn commit() -> String {
    let mut command = Command::new("git");
    command.current_dir(repository::root());
    let described = expected(command.args(["describe", "--always", "--dirty", "--exclude=*"]));
    described.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

impl Record {
    /// The record in `path`, or a new one.
    pub(super) fn open(path: &Path, source: &str, ranges: &Ranges) -> anyhow::Result<Self> {
        let fresh = Self {
            path: path.to_owned(),
            source: source.to_owned(),
            commit: commit(),
            ranges: *ranges,
            samples: BTreeMap::new(),
            clean: Clean::default(),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(fresh),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let document: Value = serde_json::from_str(&text)?;
        let found = decode(&document, fresh)
            .with_context(|| format!("{}: no results of a campaign", path.display()))?;
        if found.source != source {
            bail!(
                "{}: its results are of other sources ({}): name another file with --resume",
                path.display(),
                found.commit
            );
        }
        if found.ranges != *ranges {
            bail!(
                "{}: its results are of {} ranges of {} seeds from {} on: ask for the same, or \
                 name another file with --resume",
                path.display(),
                found.ranges.count,
                found.ranges.seeds,
                found.ranges.from
            );
        }
        Ok(found)
    }

    /// Replaces the file.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let new = self.path.with_extension("new");
        std::fs::write(&new, format!("{:#}\n", self.encode()))?;
        std::fs::rename(&new, &self.path)?;
        Ok(())
    }

    fn encode(&self) -> Value {
        let sample = |sample: &Sample| {
            let kill = sample
                .kill
                .as_ref()
                .map(|kill| json!({"seed": kill.seed, "oracle": kill.oracle, "kind": kill.kind}));
            json!({"seeds": sample.seeds, "cpu_s": sample.cpu_s, "kill": kill})
        };
        let samples = self.samples.iter().map(|(name, samples)| {
            let samples: Vec<Value> = samples.iter().map(sample).collect();
            (name.clone(), Value::from(samples))
        });
        let failed = self.clean.failed.iter();
        let failed: Vec<Value> = failed
            .map(|(seed, oracle)| json!({"seed": seed, "oracle": oracle}))
            .collect();
        json!({
            "schema_version": 1,
            "source": self.source,
            "commit": self.commit,
            "seeds_from": self.ranges.from,
            "max_seeds": self.ranges.seeds,
            "median_of": self.ranges.count,
            "mutants": samples.collect::<serde_json::Map<_, _>>(),
            "clean": {
                "seeds": self.clean.seeds,
                "cpu_s": self.clean.cpu_s,
                "failed": failed,
                "passed_apart": self.clean.passed,
            },
        })
    }
}

fn decode(document: &Value, mut record: Record) -> Option<Record> {
    let text = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let number = |value: &Value, name: &str| value.get(name)?.as_u64();
    if number(document, "schema_version")? != 1 {
        return None;
    }
    record.source = text(document, "source")?;
    record.commit = text(document, "commit")?;
    record.ranges = Ranges {
        from: number(document, "seeds_from")?,
        seeds: number(document, "max_seeds")?,
        count: number(document, "median_of")?,
    };
    let sample = |value: &Value| -> Option<Sample> {
        let kill = match value.get("kill")? {
            Value::Null => None,
            kill => Some(Kill {
                seed: number(kill, "seed")?,
                oracle: text(kill, "oracle")?,
                kind: text(kill, "kind")?,
            }),
        };
        Some(Sample {
            seeds: number(value, "seeds")?,
            cpu_s: value.get("cpu_s")?.as_f64()?,
            kill,
        })
    };
    for (name, samples) in document.get("mutants")?.as_object()? {
        let samples = samples.as_array()?.iter().map(sample);
        record
            .samples
            .insert(name.clone(), samples.collect::<Option<_>>()?);
    }
    let clean = document.get("clean")?;
    record.clean.seeds = number(clean, "seeds")?;
    record.clean.cpu_s = clean.get("cpu_s")?.as_f64()?;
    for failed in clean.get("failed")?.as_array()? {
        let seed = number(failed, "seed")?;
        record.clean.failed.insert(seed, text(failed, "oracle")?);
    }
    let passed = clean.get("passed_apart")?.as_array()?.iter();
    record.clean.passed = passed.map(Value::as_u64).collect::<Option<_>>()?;
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_gone_on_with_and_never_mixed_with_those_of_other_sources() {
        let folder = std::env::temp_dir().join(format!("mutants-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("results.json");
        let ranges = Ranges {
            from: 0,
            seeds: 40,
            count: 5,
        };
        let mut record = Record::open(&path, "a", &ranges).unwrap();
        let kill = Kill {
            seed: 3,
            oracle: "copies".into(),
            kind: "correctness".into(),
        };
        let sample = Sample {
            seeds: 4,
            cpu_s: 8.5,
            kill: Some(kill),
        };
        record
            .samples
            .insert("m".into(), vec![sample, Sample::default()]);
        record.clean.failed.insert(7, "service".into());
        record.clean.passed.push(3);
        record.save().unwrap();
        let again = Record::open(&path, "a", &ranges).unwrap();
        assert_eq!(again.samples, record.samples);
        assert_eq!(again.clean, record.clean);
        let other = Record::open(&path, "b", &ranges).unwrap_err().to_string();
        assert!(other.contains("other sources"), "{other}");
        let wider = Ranges {
            seeds: 50,
            ..ranges
        };
        let other = Record::open(&path, "a", &wider).unwrap_err().to_string();
        assert!(other.contains("40 seeds"), "{other}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
