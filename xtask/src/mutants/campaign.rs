//! Running a campaign: sweeps of the simulator, which gives each seed its limit of processor time.
//!
//! Invariant: the seeds of a sample count in their order, whatever order they end in, so that the
//! figures are the same with any number of jobs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::options::Options;
use super::record::{Kill, Record, Sample};
use crate::run::{collected, limited};

/// A sweep that says nothing for so long is no result at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// What `timeout` exits with.
const TIMED_OUT: i32 = 124;
/// The results are saved at least every so many seeds of a range.
const STRETCH_SEEDS: u64 = 50;

/// Runs a stretch of seeds with a mutant or none, all of them or up to the first that fails.
type Run<'a> = &'a dyn Fn(Option<&str>, Range<u64>, bool) -> anyhow::Result<Outcomes>;

/// By seed.
type Outcomes = BTreeMap<u64, Outcome>;

/// How one seed went.
struct Outcome {
    cpu_s: f64,
    failure: Option<Kill>,
}

/// Goes on until every mutant has its samples, and the clean seeds are run.
///
/// Breadth first: what a few seeds of each range kill has all its samples before any mutant is given many
/// seeds, so that a campaign that is broken off knows most of what it will find.
pub(super) fn run(
    options: &Options,
    mutants: &[String],
    record: &mut Record,
    simulator: &Path,
) -> anyhow::Result<()> {
    let run = |mutant: Option<&str>, seeds: Range<u64>, first: bool| {
        stretch(simulator, mutant, seeds, options.jobs, first)
    };
    for depth in depths(options.ranges.seeds) {
        for number in 0..options.ranges.count {
            for name in mutants {
                let mut told = true;
                while let Some(seeds) = missing(record, name, number, depth) {
                    let outcomes = run(Some(name), seeds, true)?;
                    take(record, name, outcomes, &run)?;
                    record.save()?;
                    told = false;
                }
                if !told && let Some(sample) = sample_of(record, name, number) {
                    tell(name, sample);
                }
            }
        }
    }
    while record.clean.seeds < options.clean {
        let first = record.ranges.from + record.clean.seeds;
        let count = STRETCH_SEEDS.min(options.clean - record.clean.seeds);
        let outcomes = run(None, first..first + count, false)?;
        record.clean.seeds += count;
        note_clean(record, outcomes);
        record.save()?;
        let (seeds, failed) = (record.clean.seeds, record.clean.failed.len());
        eprintln!("{seeds} clean seeds, {failed} false alarms");
    }
    Ok(())
}

fn sample_of<'a>(record: &'a Record, name: &str, number: u64) -> Option<&'a Sample> {
    let samples = record.samples.get(name)?;
    samples.get(usize::try_from(number).ok()?)
}

/// How many seeds of each range are run before more are: four times as many in each round.
fn depths(seeds: u64) -> Vec<u64> {
    let mut depths = vec![STRETCH_SEEDS.min(seeds)];
    while let Some(last) = depths.last().copied().filter(|last| *last < seeds) {
        depths.push((4 * last).min(seeds));
    }
    depths
}

/// The seeds to run next for range `number` of a mutant, unless it is done, or as deep as it shall go now, or
/// a range before it is not done.
///
/// More than half of the ranges survived decide the median: the rest would tell nothing.
fn missing(record: &Record, name: &str, number: u64, depth: u64) -> Option<Range<u64>> {
    let range = record.ranges.range(number);
    let sample = sample_of(record, name, number);
    let whole = |s: &Sample| s.kill.is_none() && s.seeds == record.ranges.seeds;
    let samples = record.samples.get(name).map_or(&[][..], Vec::as_slice);
    let survived = samples.iter().filter(|sample| whole(sample)).count();
    let survived = u64::try_from(survived).expect("few ranges");
    if sample.is_none() && 2 * survived > record.ranges.count {
        return None;
    }
    let before = samples
        .iter()
        .take(usize::try_from(number).expect("few ranges"));
    let ended = before.filter(|sample| whole(sample) || sample.kill.is_some());
    if u64::try_from(ended.count()).expect("few ranges") < number {
        return None;
    }
    let done = sample.map_or(0, |sample| sample.seeds);
    let killed = sample.is_some_and(|sample| sample.kill.is_some());
    let first = range.start + done;
    let end = range.end.min(range.start + depth);
    (!killed && first < end).then(|| first..end.min(first + STRETCH_SEEDS))
}

/// Adds a stretch to the last sample of a mutant. A seed that fails without it, too, is no kill.
fn take(record: &mut Record, name: &str, outcomes: Outcomes, run: Run<'_>) -> anyhow::Result<()> {
    let seeds = record.ranges.seeds;
    let samples = record.samples.entry(name.to_owned()).or_default();
    let is_open = |sample: &Sample| sample.kill.is_none() && sample.seeds < seeds;
    if !samples.last().is_some_and(is_open) {
        samples.push(Sample::default());
    }
    for (seed, outcome) in outcomes {
        let failure = match outcome.failure {
            Some(failure) if passes_clean(record, seed, run)? => Some(failure),
            _ => None,
        };
        let samples = record.samples.get_mut(name).expect("entered above");
        let sample = samples.last_mut().expect("pushed above");
        sample.seeds += 1;
        sample.cpu_s += outcome.cpu_s;
        if failure.is_some() {
            sample.kill = failure;
            return Ok(());
        }
    }
    Ok(())
}

fn passes_clean(record: &mut Record, seed: u64, run: Run<'_>) -> anyhow::Result<bool> {
    let known = (record.ranges.from..record.ranges.from + record.clean.seeds).contains(&seed)
        || record.clean.passed.contains(&seed);
    if !known && !record.clean.failed.contains_key(&seed) {
        note_clean(record, run(None, seed..seed + 1, false)?);
        record.clean.passed.push(seed);
    }
    Ok(!record.clean.failed.contains_key(&seed))
}

fn note_clean(record: &mut Record, outcomes: Outcomes) {
    for (seed, outcome) in outcomes {
        record.clean.cpu_s += outcome.cpu_s;
        if let Some(failure) = outcome.failure {
            eprintln!(
                "FALSE ALARM: seed {seed} fails without a mutant: {}",
                failure.oracle
            );
            record.clean.failed.insert(seed, failure.oracle);
        }
    }
}

fn tell(name: &str, sample: &Sample) {
    let seeds = sample.seeds;
    match &sample.kill {
        Some(Kill { seed, oracle, .. }) => {
            eprintln!("{name}: killed by {oracle} at seed {seed}, the {seeds}. of its range");
        }
        None => eprintln!("{name}: survived {seeds} seeds"),
    }
}

/// Runs a stretch of seeds with `jobs` at once; with `first`, only up to the first that fails. The
/// outcomes are of every seed from the beginning to that one.
fn stretch(
    simulator: &Path,
    mutant: Option<&str>,
    seeds: Range<u64>,
    jobs: usize,
    first: bool,
) -> anyhow::Result<Outcomes> {
    let json = std::env::temp_dir().join(format!("mutants-{}.json", std::process::id()));
    let mut command = limited(ANSWER_LIMIT, "env");
    command.arg(simulator).arg("sweep");
    command.args(["--seeds", &format!("{}..{}", seeds.start, seeds.end)]);
    command.args(["--jobs", &jobs.to_string()]).arg("--json");
    command.arg(&json);
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant]);
    }
    if first {
        command.args(["--stop-after", "1"]);
    }
    let finished = collected(&mut command)?;
    if finished.status.code() == Some(TIMED_OUT) {
        bail!("seeds {seeds:?}: no answer in {ANSWER_LIMIT:?}");
    }
    let text = std::fs::read_to_string(&json)
        .with_context(|| format!("{}: {}", finished.status, finished.text))?;
    std::fs::remove_file(&json)?;
    let mut outcomes = parse(&text)?;
    if first {
        // Later seeds were begun before the failure was known.
        let failed = outcomes
            .iter()
            .find(|(_, outcome)| outcome.failure.is_some());
        let end = failed.map_or(seeds.end, |(seed, _)| seed + 1);
        outcomes.split_off(&end);
    }
    Ok(outcomes)
}

/// What a sweep wrote down.
fn parse(text: &str) -> anyhow::Result<Outcomes> {
    let document: Value = serde_json::from_str(text)?;
    let rows = document["results"].as_array();
    let rows = rows.context("results: an array is expected")?;
    let outcome = |row: &Value| {
        let seed = row["seed"].as_u64().context("seed: a number is expected")?;
        let code = row["exit_code"].as_i64();
        let oracle = row["oracle"].as_str();
        let cpu_s = row["cpu_s"].as_str().and_then(|text| text.parse().ok());
        Ok((
            seed,
            Outcome {
                cpu_s: cpu_s.unwrap_or(0.0),
                failure: failure(seed, code, oracle),
            },
        ))
    };
    rows.iter().map(outcome).collect()
}

/// What the exit code and the oracle of a run say.
fn failure(seed: u64, code: Option<i64>, oracle: Option<&str>) -> Option<Kill> {
    let kind = match (code, oracle) {
        (Some(0), _) => return None,
        (_, Some("hang")) => "hang",
        (Some(10), _) => "correctness",
        (Some(11), _) => "liveness",
        _ => "crash",
    };
    Some(Kill {
        seed,
        oracle: oracle.unwrap_or("process").to_owned(),
        kind: kind.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::options::Ranges;

    fn outcome(failure: Option<&str>) -> Outcome {
        let code = failure.map_or(0, |_| 11);
        let oracle = failure.map_or("null".to_owned(), |oracle| format!("{oracle:?}"));
        let row =
            format!(r#"{{"seed": 3, "exit_code": {code}, "oracle": {oracle}, "cpu_s": "2.5"}}"#);
        let text = format!(r#"{{"results": [{row}]}}"#);
        parse(&text).unwrap().remove(&3).unwrap()
    }

    fn record() -> Record {
        let path = std::env::temp_dir().join("no-such-results.json");
        let ranges = Ranges {
            from: 0,
            seeds: 60,
            count: 3,
        };
        Record::open(&path, "a", &ranges).unwrap()
    }

    #[test]
    fn a_seed_kills_only_if_it_passes_without_the_mutant() {
        let mut record = record();
        let clean = |_: Option<&str>, seeds: Range<u64>, _: bool| {
            // Seed 1 fails either way.
            let failure = (seeds.start == 1).then_some("service");
            Ok(BTreeMap::from([(seeds.start, outcome(failure))]))
        };
        let outcomes = BTreeMap::from([
            (0, outcome(None)),
            (1, outcome(Some("service"))),
            (2, outcome(Some("copies"))),
            (3, outcome(None)),
        ]);
        take(&mut record, "m", outcomes, &clean).unwrap();
        let sample = &record.samples["m"][0];
        assert_eq!((sample.seeds, sample.cpu_s), (3, 7.5));
        let kill = sample.kill.as_ref().unwrap();
        assert_eq!(
            (kill.oracle.as_str(), kill.kind.as_str()),
            ("copies", "liveness")
        );
        assert_eq!(record.clean.failed, BTreeMap::from([(1, "service".into())]));
        assert_eq!(missing(&record, "m", 0, 60), None);
        assert_eq!(missing(&record, "m", 1, 60), Some(60..110));
    }

    #[test]
    fn ranges_after_most_have_survived_are_not_run() {
        let mut record = record();
        let whole = |seeds| Sample {
            seeds,
            ..Sample::default()
        };
        record
            .samples
            .insert("m".into(), vec![whole(60), whole(50)]);
        assert_eq!(missing(&record, "m", 1, 50), None);
        assert_eq!(missing(&record, "m", 2, 60), None);
        assert_eq!(missing(&record, "m", 1, 60), Some(110..120));
        record
            .samples
            .insert("m".into(), vec![whole(60), whole(60)]);
        assert_eq!(missing(&record, "m", 2, 60), None);
    }

    #[test]
    fn few_seeds_of_every_range_come_before_many_of_one() {
        assert_eq!(depths(1000), [50, 200, 800, 1000]);
        assert_eq!(depths(40), [40]);
        let record = record();
        assert_eq!(missing(&record, "m", 0, 50), Some(0..50));
        assert_eq!(missing(&record, "m", 1, 50), None);
    }

    #[test]
    fn codes_tell_a_hang_from_a_crash() {
        let kind = |code, oracle| failure(1, code, oracle).unwrap().kind;
        assert_eq!(kind(Some(11), Some("hang")), "hang");
        assert_eq!(kind(Some(12), Some("process")), "crash");
        assert_eq!(kind(None, None), "crash");
    }
}
