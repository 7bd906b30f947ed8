//! `hedgerow-sim sweep`: many seeds, one after the other in worker processes, on as many cores as asked for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clap::Args;
use hedgerow_sim::coverage;
use hedgerow_sim::scenario::{Class, Plan};
use hedgerow_sim::world::Coverage;
use serde_json::{Value, json};

use crate::junit;
use crate::out::say;
use crate::stopwatch::Stopwatch;
use crate::worker::Worker;

/// `hedgerow-sim sweep`
#[derive(Args, Debug)]
pub(crate) struct Sweep {
    /// The seeds, FIRST..END (END is not run)
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: (u64, u64),
    /// Processes at once [default: the machine's cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the results here
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
    /// Write the results here as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<std::path::PathBuf>,
    /// Write the tape of each failure into this directory
    #[arg(long, value_name = "DIRECTORY")]
    tapes: Option<std::path::PathBuf>,
    /// Begin no seed once so much time has passed, such as 90s, 30m or 8h
    #[arg(long, value_parser = crate::duration::parse)]
    budget: Option<std::time::Duration>,
    /// Stop after this many failures
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    stop_after: u64,
    /// Plant this bug first
    #[arg(long)]
    mutant: Option<String>,
    /// Give every seed this class of faults for certain (see `classes`)
    #[arg(long, value_name = "CLASS", value_parser = crate::parse_class)]
    with: Vec<Class>,
    /// Print which faults struck during what, and write it here as JSON
    #[arg(long, value_name = "FILE")]
    coverage: Option<std::path::PathBuf>,
    /// Run each seed twice and compare the traces
    #[arg(long)]
    twice: bool,
}

/// Reads FIRST..END.
pub(crate) fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (first, end) = text
        .split_once("..")
        .ok_or("write FIRST..END, such as 0..100")?;
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("{text:?} is no number"))
    };
    let (first, end) = (number(first)?, number(end)?);
    if first >= end {
        return Err("the range is empty".into());
    }
    Ok((first, end))
}

/// What ended a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Every seed was run.
    Seeds,
    /// The time was up.
    Budget,
    /// There were as many failures as asked for.
    Failures,
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Self::Seeds => "seeds",
            Self::Budget => "budget",
            Self::Failures => "failures",
        }
    }
}

struct Outcome {
    seed: u64,
    code: i32,
    output: String,
}

impl Outcome {
    fn last_line(&self) -> &str {
        self.output.lines().last().unwrap_or_default()
    }

    /// The line of what struck during what.
    fn coverage(&self) -> &str {
        let mut lines = self.output.lines();
        let line = lines.find_map(|line| line.strip_prefix(crate::COVERAGE));
        line.unwrap_or_default()
    }

    fn case(&self) -> junit::Case {
        let seconds = self.field("wall_s").and_then(|text| text.parse().ok());
        let failure = (self.code != 0).then(|| junit::Failed {
            crash: self.code == 12,
            oracle: self.field("oracle").unwrap_or("process").to_owned(),
            output: self.output.clone(),
        });
        junit::Case {
            name: format!("seed {}", self.seed),
            seconds: seconds.unwrap_or_default(),
            failure,
        }
    }

    /// Of the last line, or of that with the counts, which a process that was ended does not print.
    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.output.lines();
        let counts = lines.find(|line| line.starts_with(crate::COUNTS));
        let counts = counts.unwrap_or_default().split(' ');
        let mut words = self.last_line().split(' ').chain(counts);
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the sweep itself runs outside any world"
)]
fn write(path: &std::path::Path, text: &str) -> Result<(), ExitCode> {
    std::fs::write(path, text).map_err(|error| {
        eprintln!("hedgerow-sim: {}: {error}", path.display());
        ExitCode::from(2)
    })
}

impl Sweep {
    pub(crate) fn run(&self) -> ExitCode {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = self.jobs.unwrap_or(cores).max(1);
        let next = Arc::new(AtomicU64::new(self.seeds.0));
        let failures = Arc::new(AtomicU64::new(0));
        let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
        let watch = Stopwatch::start();
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| self.work(&next, &failures, &outcomes, &watch));
            }
        });
        let mut outcomes = std::mem::take(&mut *outcomes.lock().expect("workers have ended"));
        outcomes.sort_by_key(|outcome| outcome.seed);
        let all = self.seeds.1 - self.seeds.0;
        let ended = if u64::try_from(outcomes.len()).is_ok_and(|count| count == all) {
            Ended::Seeds
        } else if failures.load(Ordering::Relaxed) >= self.stop_after {
            Ended::Failures
        } else {
            Ended::Budget
        };
        self.report(&outcomes, ended)
    }

    fn is_over(&self, failures: u64, watch: &Stopwatch) -> bool {
        let late = self
            .budget
            .is_some_and(|budget| watch.taken().wall >= budget);
        late || failures >= self.stop_after
    }

    fn work(
        &self,
        next: &AtomicU64,
        failures: &AtomicU64,
        outcomes: &Mutex<Vec<Outcome>>,
        watch: &Stopwatch,
    ) {
        let mut worker: Option<Worker> = None;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.seeds.1 || self.is_over(failures.load(Ordering::Relaxed), watch) {
                worker.into_iter().for_each(Worker::end);
                return;
            }
            let mut outcome = self.run_seed(seed, &mut worker);
            if self.twice && outcome.code == 0 {
                // In a new process, with another address layout.
                let mut other = None;
                let again = self.run_seed(seed, &mut other);
                other.into_iter().for_each(Worker::end);
                if again.field("trace") != outcome.field("trace") {
                    outcome.code = 10;
                    outcome.output.push_str(&format!(
                        "\ndeterminism: the same seed gave another trace: {}\nseed {seed}: FAIL \
                         correctness oracle=determinism trace=-",
                        again.last_line()
                    ));
                }
            }
            if outcome.code != 0 {
                failures.fetch_add(1, Ordering::Relaxed);
                say!("{}", outcome.output.trim_end());
            }
            let mut all = outcomes.lock().expect("no panic under this lock");
            all.push(outcome);
            if all.len().is_multiple_of(25) {
                let bad = failures.load(Ordering::Relaxed);
                eprintln!("{} seeds, {bad} failed", all.len());
            }
        }
    }

    fn run_seed(&self, seed: u64, worker: &mut Option<Worker>) -> Outcome {
        let tape = self.tapes.as_ref();
        let tape: Option<PathBuf> =
            tape.map(|directory| directory.join(format!("seed-{seed}.json")));
        let running = match worker.take() {
            Some(running) => Ok(running),
            None => Worker::start(&self.options()),
        };
        let answered = running.and_then(|running| running.run(seed, tape.as_deref()));
        let (code, output) = match answered {
            Ok((answer, next)) => {
                *worker = next;
                answer
            }
            Err(error) => (
                12,
                format!("{error}\nseed {seed}: FAIL crash oracle=process"),
            ),
        };
        Outcome { seed, code, output }
    }

    /// What all seeds share.
    fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if let Some(mutant) = &self.mutant {
            options.extend(["--mutant".to_owned(), mutant.clone()]);
        }
        for class in &self.with {
            options.extend(["--with".to_owned(), class.name().to_owned()]);
        }
        if self.coverage.is_some() {
            options.push("--coverage".to_owned());
        }
        options
    }

    /// Seeds that were not run.
    fn left(&self, outcomes: &[Outcome]) -> u64 {
        let run = u64::try_from(outcomes.len()).expect("usize fits 64 bits");
        self.seeds.1 - self.seeds.0 - run
    }

    /// What struck during what, added up.
    fn write_coverage(&self, outcomes: &[Outcome]) -> Result<(), ExitCode> {
        let Some(path) = &self.coverage else {
            return Ok(());
        };
        let mut total = Coverage::new();
        for outcome in outcomes {
            coverage::add_line(&mut total, outcome.coverage());
        }
        say!("{}", coverage::table(&total).trim_end());
        let document = coverage::document(&total, outcomes.len());
        write(path, &format!("{document:#}\n"))
    }

    /// The speed by the number of nodes, on which it hangs most.
    fn by_nodes(&self, outcomes: &[Outcome]) -> String {
        let mut totals: BTreeMap<u16, (u64, f64, f64)> = BTreeMap::new();
        for outcome in outcomes {
            let figure = |name| {
                outcome
                    .field(name)
                    .and_then(|text| text.parse::<f64>().ok())
            };
            if let (Some(virtual_s), Some(cpu_s)) = (figure("virtual_s"), figure("cpu_s")) {
                let nodes = Plan::draw_with(outcome.seed, &self.with).nodes;
                let total = totals.entry(nodes).or_default();
                *total = (total.0 + 1, total.1 + virtual_s, total.2 + cpu_s);
            }
        }
        let parts = totals.iter().map(|(nodes, (seeds, virtual_s, cpu_s))| {
            let speed = virtual_s / cpu_s.max(1e-9);
            format!("{nodes} nodes ({seeds} seeds) {speed:.1}")
        });
        format!(
            "virtual s/s by nodes: {}",
            parts.collect::<Vec<_>>().join(", ")
        )
    }

    fn write_junit(&self, outcomes: &[Outcome]) -> Result<(), ExitCode> {
        let Some(path) = &self.junit else {
            return Ok(());
        };
        let cases: Vec<junit::Case> = outcomes.iter().map(Outcome::case).collect();
        write(path, &junit::document("hedgerow-sim sweep", &cases))
    }

    fn report(&self, outcomes: &[Outcome], ended: Ended) -> ExitCode {
        let failed: Vec<&Outcome> = outcomes
            .iter()
            .filter(|outcome| outcome.code != 0)
            .collect();
        let sum = |name: &str| -> f64 {
            let values = outcomes.iter().filter_map(|outcome| outcome.field(name));
            values.filter_map(|value| value.parse::<f64>().ok()).sum()
        };
        let (virtual_s, cpu_s) = (sum("virtual_s"), sum("cpu_s"));
        say!("{}", self.by_nodes(outcomes));
        let per_minute = outcomes.len() as f64 * 60.0 / cpu_s.max(1e-9);
        say!(
            "{} seeds, {} failed, {virtual_s:.0} virtual s in {cpu_s:.1} CPU s: {:.1} virtual \
             s/s, {per_minute:.1} seeds per core-minute",
            outcomes.len(),
            failed.len(),
            virtual_s / cpu_s.max(1e-9)
        );
        if ended == Ended::Budget {
            say!(
                "the time was up: {} seeds were not begun",
                self.left(outcomes)
            );
        }
        let written = self
            .write_coverage(outcomes)
            .and_then(|()| self.write_junit(outcomes));
        if let Err(code) = written {
            return code;
        }
        if let Some(path) = &self.json {
            let rows: Vec<Value> = outcomes
                .iter()
                .map(|outcome| {
                    json!({
                        "seed": outcome.seed,
                        "exit_code": outcome.code,
                        "trace": outcome.field("trace"),
                        "oracle": outcome.field("oracle"),
                        "virtual_s": outcome.field("virtual_s"),
                        "wall_s": outcome.field("wall_s"),
                        "cpu_s": outcome.field("cpu_s"),
                    })
                })
                .collect();
            let document = json!({
                "schema_version": 1,
                "seeds": rows.len(),
                "failed": failed.len(),
                "ended_by": ended.word(),
                "seeds_left": self.left(outcomes),
                "virtual_s": virtual_s,
                "cpu_s": cpu_s,
                "results": rows,
            });
            if let Err(code) = write(path, &format!("{document:#}\n")) {
                return code;
            }
        }
        let smallest = failed.iter().map(|outcome| outcome.code).min().unwrap_or(0);
        ExitCode::from(u8::try_from(smallest).unwrap_or(12))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_and_processor_time_are_told_apart() {
        let mut outcome = Outcome {
            seed: 7,
            code: 0,
            output: "operations=3 succeeded=2 events=9 cpu_s=1.500\n\
                     seed 7: pass trace=00 virtual_s=30.000 wall_s=2.250\n"
                .into(),
        };
        let field = |outcome: &Outcome, name: &str| outcome.field(name).map(str::to_owned);
        assert_eq!(field(&outcome, "cpu_s").as_deref(), Some("1.500"));
        assert_eq!(field(&outcome, "wall_s").as_deref(), Some("2.250"));
        outcome.output = "ended by a signal\n".into();
        assert_eq!(field(&outcome, "cpu_s"), None);
    }
}
