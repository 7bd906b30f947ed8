//! `hedgerow-sim shrink`: the smallest tape found that fails in the same way.
//!
//! The search is a pure core in the library; here its candidates run, each in a process of its own,
//! as many at once as asked for.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use hedgerow_sim::scenario::Script;
use hedgerow_sim::shrink::{Judgement, Outcome, Search, Size};
use hedgerow_sim::tape::{Tape, describe};

use crate::out::say;
use crate::replay::read;

/// A candidate is given up once it has taken so many times the processor time of the first run,
/// but not before [`LEAST_LIMIT_S`]: a smaller script may take longer to fail to converge.
const LIMIT_TIMES: u64 = 4;
/// See [`LIMIT_TIMES`].
const LEAST_LIMIT_S: u64 = 20;

/// `hedgerow-sim shrink`
#[derive(Args, Debug)]
pub(crate) struct Shrink {
    /// The tape of a failed run; `-` reads it from standard input
    tape: PathBuf,
    /// Plant this bug instead of the tape's own; `none` plants none
    #[arg(long)]
    mutant: Option<String>,
    /// Processor time to spend, such as 90s, 5m or 1h
    #[arg(long, default_value = "5m", value_parser = crate::duration::parse)]
    budget: Duration,
    /// Processes at once [default: the machine's cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the smallest tape here [default: beside TAPE, with `.min.json` at its end]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The failure's text must contain this
    #[arg(long, value_name = "TEXT")]
    containing: Option<String>,
}

/// Processes that replay scripts, and what they took.
struct Runner<'a> {
    tape: &'a Tape,
    jobs: usize,
    cpu_limit_s: u64,
    cpu: Duration,
    runs: u64,
}

impl Shrink {
    pub(crate) fn run(&self) -> ExitCode {
        let mut tape = match read(&self.tape) {
            Ok(tape) => tape,
            Err(error) => {
                eprintln!("hedgerow-sim: {}: {error}", self.tape.display());
                return ExitCode::from(2);
            }
        };
        match self.mutant.as_deref() {
            None => {}
            Some("none") => tape.mutant = None,
            Some(name) => tape.mutant = Some(name.to_owned()),
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut runner = Runner {
            tape: &tape,
            jobs: self.jobs.unwrap_or(cores).max(1),
            cpu_limit_s: self.budget.as_secs().max(1),
            cpu: Duration::ZERO,
            runs: 0,
        };
        let first = match runner.first() {
            Ok(outcome) => outcome,
            Err(text) => {
                eprintln!("hedgerow-sim: {}: {text}", self.tape.display());
                return ExitCode::from(1);
            }
        };
        let limit_s = first.cpu_ns / 1_000_000_000 * LIMIT_TIMES;
        runner.cpu_limit_s = limit_s.max(LEAST_LIMIT_S);
        let (script, outcome, rounds) = self.search(&mut runner, first);
        let (cpu, runs) = (runner.cpu, runner.runs);
        let shrunk = Tape {
            commit: env!("HEDGEROW_COMMIT").to_owned(),
            mutant: tape.mutant.clone(),
            failure: outcome.failure.clone(),
            trace: outcome.trace,
            script,
        };
        self.finish(
            &shrunk,
            &format!("runs={runs} rounds={rounds} cpu_s={:.1}", cpu.as_secs_f64()),
        )
    }

    fn search(&self, runner: &mut Runner<'_>, first: Outcome) -> (Script, Outcome, u64) {
        let script = runner.tape.script.clone();
        let mut search = Search::new(script, first, self.containing.clone());
        runner.progress(&search, "as it is");
        while runner.cpu < self.budget {
            let scripts = search.offer(runner.jobs);
            if scripts.is_empty() {
                runner.progress(&search, "nothing more to leave out");
                break;
            }
            let outcomes = runner.run_all(&scripts, &search);
            if let Judgement::Better(_) = search.judge(outcomes) {
                runner.progress(&search, "");
            }
        }
        let (script, outcome) = search.best();
        (script.clone(), outcome.clone(), search.round())
    }

    fn finish(&self, shrunk: &Tape, figures: &str) -> ExitCode {
        let path = self.out.clone().unwrap_or_else(|| beside(&self.tape));
        if let Err(error) = shrunk.write(&path) {
            eprintln!("hedgerow-sim: {error}");
            return ExitCode::from(2);
        }
        crate::out::write(format_args!("{}", describe(shrunk)));
        say!(
            "again: cargo run --release -p hedgerow-sim -- replay {}",
            path.display()
        );
        say!("shrunk: {} {figures}", Size::of(&shrunk.script));
        ExitCode::SUCCESS
    }
}

fn beside(tape: &Path) -> PathBuf {
    if tape == Path::new("-") {
        return PathBuf::from("tape.min.json");
    }
    tape.with_extension("min.json")
}

impl Runner<'_> {
    /// The run of the tape as it is; what it lacks of a failure, if it does.
    fn first(&mut self) -> Result<Outcome, String> {
        let outcome = self.run_one(&self.tape.script);
        let outcome = outcome.ok_or("it could not be replayed within the budget")?;
        self.cpu += Duration::from_nanos(outcome.cpu_ns);
        self.runs += 1;
        let Some(failure) = &outcome.failure else {
            return Err("it passes: there is no failure to shrink".to_owned());
        };
        match &self.tape.failure {
            Some(recorded) if !recorded.is_like(failure) => Err(format!(
                "it fails otherwise than recorded: {} by {}, not {} by {}",
                failure.kind.word(),
                failure.oracle,
                recorded.kind.word(),
                recorded.oracle
            )),
            _ => Ok(outcome),
        }
    }

    /// Runs candidates at the same time, until one fails as wanted and all before it have ended.
    fn run_all(&mut self, scripts: &[Script], search: &Search) -> Vec<Option<Outcome>> {
        let next = AtomicUsize::new(0);
        let enough = AtomicUsize::new(scripts.len());
        let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(vec![None; scripts.len()]);
        let spent_ns = Mutex::new(0_u64);
        let runner: &Self = self;
        std::thread::scope(|scope| {
            for _ in 0..runner.jobs.min(scripts.len()) {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= enough.load(Ordering::Relaxed) {
                            return;
                        }
                        let outcome = runner.run_one(&scripts[at]);
                        let cpu_ns = outcome.as_ref().map_or_else(
                            || runner.cpu_limit_s * 1_000_000_000,
                            |outcome| outcome.cpu_ns,
                        );
                        *spent_ns.lock().expect("no panic under this lock") += cpu_ns;
                        if outcome.as_ref().is_some_and(|one| search.is_wanted(one)) {
                            enough.fetch_min(at, Ordering::Relaxed);
                        }
                        outcomes.lock().expect("no panic under this lock")[at] = outcome;
                    }
                });
            }
        });
        let spent_ns = spent_ns.into_inner().expect("the workers have ended");
        self.cpu += Duration::from_nanos(spent_ns);
        let outcomes = outcomes.into_inner().expect("the workers have ended");
        self.runs += u64::try_from(next.into_inner().min(scripts.len())).unwrap_or_default();
        outcomes
    }

    /// Replays a script in a process of its own; none when that came to no end.
    fn run_one(&self, script: &Script) -> Option<Outcome> {
        let own = std::env::current_exe().expect("a running program has a path");
        let tape = Tape {
            script: script.clone(),
            ..self.tape.clone()
        };
        let mut child = Command::new(own)
            .args(["replay", "-", "--json", "--cpu-limit"])
            .arg(self.cpu_limit_s.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut input = child.stdin.take().expect("it was asked for");
        // A child that refuses its input says why by its exit.
        drop(input.write_all(tape.text().as_bytes()));
        drop(input);
        let output = child.wait_with_output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    fn progress(&self, search: &Search, remark: &str) {
        let (script, outcome) = search.best();
        eprintln!(
            "{:>4} runs {:>6.1} CPU s  {}  {:.1} virtual s a run  {remark}",
            self.runs,
            self.cpu.as_secs_f64(),
            Size::of(script),
            Duration::from_nanos(outcome.virtual_ns).as_secs_f64()
        );
    }
}
