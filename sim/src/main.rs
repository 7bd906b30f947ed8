//! `hedgerow-sim`: runs seeds and tapes.

mod determinism;
mod duration;
mod html;
mod junit;
mod out;
mod regressions;
mod replay;
mod shrink_command;
mod stopwatch;
mod sweep;
mod test;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hedgerow_env::mutants;
use hedgerow_sim::coverage;
use hedgerow_sim::from_test::plan_of;
use hedgerow_sim::scenario::{Class, Plan, Report, Script, run_script};
use hedgerow_sim::tape::Tape;
use hedgerow_sim::world::Recording;

use crate::out::say;
use crate::stopwatch::{Stopwatch, Taken};

/// Messages, futures and tables come and go with every event: a run allocates about as often as it
/// does anything else.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs Hedgerow's production code in a simulated world.
#[derive(Parser, Debug)]
#[command(name = "hedgerow-sim", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run one seed: exit 0 pass, 10 correctness, 11 liveness, 12 crash
    Run(Run),
    /// Run a test of `hedgerow jepsen run` in its folder: exit 0 valid, 1 invalid, 2 not run,
    /// 3 unknown
    Test(test::Test),
    /// Run many seeds, each in a process of its own
    Sweep(sweep::Sweep),
    /// Run a tape again; exit codes as of `run`
    Replay(replay::Replay),
    /// Find the smallest tape that fails in the same way
    Shrink(shrink_command::Shrink),
    /// Replay the tapes that are kept of bugs found: those of planted bugs must still show them
    Regressions(regressions::Regressions),
    /// Run the same in two processes, and show the first event in which they differ
    Determinism(determinism::Determinism),
    /// Print the trace's hash, its checkpoints and chosen events as JSON
    #[command(hide = true)]
    Trace(determinism::Trace),
    /// List the planted bugs
    Mutants,
    /// List the classes of faults that `--with` takes
    Classes,
}

/// `hedgerow-sim run`
#[derive(Args, Debug)]
struct Run {
    /// The seed
    #[arg(long, required_unless_present_any = ["test", "serve"])]
    seed: Option<u64>,
    /// Run the seeds that standard input names, for the sweep
    #[arg(long, hide = true, conflicts_with_all = ["seed", "test", "tape", "plan"])]
    serve: bool,
    /// Instead of a seed: the plan.json of a test of real processes, as far as it goes
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    test: Option<PathBuf>,
    /// Plant this bug first (see `mutants`)
    #[arg(long)]
    mutant: Option<String>,
    /// Give the seed this class of faults for certain (see `classes`)
    #[arg(long, value_name = "CLASS", value_parser = parse_class, conflicts_with = "test")]
    with: Vec<Class>,
    /// Print every log line of every node
    #[arg(long)]
    verbose: bool,
    /// Print the plan instead of running it
    #[arg(long)]
    plan: bool,
    /// Write the run's tape here if it fails
    #[arg(long, value_name = "FILE")]
    tape: Option<PathBuf>,
    /// Write the tape even if the run passes
    #[arg(long, requires = "tape")]
    tape_always: bool,
    /// Print which faults struck during what, for the sweep to add up
    #[arg(long, hide = true)]
    coverage: bool,
    #[command(flatten)]
    html: html::Html,
}

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Run(run) => run.run(),
        Command::Test(test) => test.run(),
        Command::Sweep(sweep) => sweep.run(),
        Command::Replay(replay) => replay.run(),
        Command::Shrink(shrink) => shrink.run(),
        Command::Regressions(regressions) => regressions.run(),
        Command::Determinism(determinism) => determinism.run(),
        Command::Trace(trace) => trace.run(),
        Command::Classes => {
            for class in Class::ALL {
                let drawn = Class::DRAWN.contains(class);
                let how = if drawn { "drawn" } else { "only --with" };
                say!("{:<20} {how}", class.name());
            }
            ExitCode::SUCCESS
        }
        Command::Mutants => {
            for mutant in mutants::Mutant::ALL {
                say!("{}", mutant.name());
            }
            ExitCode::SUCCESS
        }
    }
}

/// Reads a class of faults.
fn parse_class(name: &str) -> Result<Class, String> {
    Class::find(name).ok_or_else(|| "`hedgerow-sim classes` lists them".into())
}

/// What the line with a run's coverage begins with.
const COVERAGE: &str = "coverage: ";

/// Plants a bug, before anything runs.
fn plant(mutant: Option<&str>) -> Result<(), ExitCode> {
    let Some(name) = mutant else { return Ok(()) };
    let Some(mutant) = mutants::find(name) else {
        eprintln!("hedgerow-sim: no mutant {name:?}; `hedgerow-sim mutants` lists them");
        return Err(ExitCode::from(2));
    };
    mutants::choose(Some(mutant));
    Ok(())
}

impl Run {
    fn run(&self) -> ExitCode {
        let mutant = self.mutant.as_deref();
        if let Err(code) = plant(mutant) {
            return code;
        }
        if self.serve {
            return worker::serve(self);
        }
        let plan = match self.planned() {
            Ok(plan) => plan,
            Err(error) => {
                eprintln!("hedgerow-sim: {error:#}");
                return ExitCode::from(2);
            }
        };
        if self.plan {
            say!("{plan:#?}");
            return ExitCode::SUCCESS;
        }
        self.run_plan(plan, self.tape.as_deref())
    }

    /// Runs a seed as if it had been asked for by itself.
    fn run_seed(&self, seed: u64, tape: Option<&Path>) -> ExitCode {
        self.run_plan(Plan::draw_with(seed, &self.with), tape)
    }

    fn run_plan(&self, plan: Plan, tape: Option<&Path>) -> ExitCode {
        let mutant = self.mutant.as_deref();
        let script = Script::from(plan);
        let watch = Stopwatch::start();
        let report = run_script(&script, Recording::HashOnly, self.verbose);
        let taken = watch.taken();
        if let Some(path) = tape
            && (self.tape_always || report.verdict.is_err())
        {
            let tape = Tape::of_run(&script, &report, env!("HEDGEROW_COMMIT"), mutant);
            if let Err(error) = tape.write(path) {
                eprintln!("hedgerow-sim: {error}");
                return ExitCode::from(2);
            }
            say!("tape: {}", path.display());
        }
        let again = match &self.test {
            Some(path) => Again::Test { path, mutant },
            None => Again::Seed {
                seed: script.plan.seed,
                with: &self.with,
                mutant,
            },
        };
        self.html.write(&script, &report, &again, mutant);
        if self.coverage {
            say!("{COVERAGE}{}", coverage::line(&report.coverage));
        }
        finish(&again, &report, taken)
    }

    /// The plan of the seed, or of the test.
    fn planned(&self) -> anyhow::Result<Plan> {
        let Some(path) = &self.test else {
            return Ok(Plan::draw_with(self.seed.unwrap_or_default(), &self.with));
        };
        let (plan, left_out) = plan_of(&test::read(path)?);
        for what in left_out {
            eprintln!("hedgerow-sim: not carried over: {what}");
        }
        Ok(plan)
    }
}

/// What was run, for the line that names it and the command that repeats it.
enum Again<'a> {
    /// A seed.
    Seed {
        /// Which.
        seed: u64,
        /// The classes of faults that it has for certain.
        with: &'a [Class],
        /// The planted bug.
        mutant: Option<&'a str>,
    },
    /// A test of real processes.
    Test {
        /// Its plan.
        path: &'a Path,
        /// The planted bug.
        mutant: Option<&'a str>,
    },
    /// A tape.
    Tape {
        /// Its file.
        path: &'a Path,
        /// The planted bug, if not the tape's own.
        mutant: Option<&'a str>,
    },
}

impl Again<'_> {
    fn name(&self) -> String {
        match self {
            Self::Seed { seed, .. } => format!("seed {seed}"),
            Self::Test { path, .. } => format!("test {}", path.display()),
            Self::Tape { path, .. } => format!("tape {}", path.display()),
        }
    }

    fn command(&self) -> String {
        let (what, mutant) = match self {
            Self::Seed { seed, with, mutant } => {
                let with: Vec<_> = with
                    .iter()
                    .map(|one| format!(" --with {}", one.name()))
                    .collect();
                (format!("run --seed {seed}{}", with.concat()), mutant)
            }
            Self::Test { path, mutant } => (format!("run --test {}", path.display()), mutant),
            Self::Tape { path, mutant } => (format!("replay {}", path.display()), mutant),
        };
        let mutant = mutant
            .map(|name| format!(" --mutant {name}"))
            .unwrap_or_default();
        format!("cargo run --release -p hedgerow-sim -- {what}{mutant}")
    }
}

fn finish(again: &Again<'_>, report: &Report, taken: Taken) -> ExitCode {
    let (counts, closing) = told(&again.name(), report, taken);
    say!("{counts}");
    let Err(failure) = &report.verdict else {
        say!("{closing}");
        return ExitCode::SUCCESS;
    };
    say!("{}: {}", failure.oracle, failure.text);
    say!("commit {}", env!("HEDGEROW_COMMIT"));
    say!("again: {}", again.command());
    say!("{closing}");
    ExitCode::from(failure.kind.exit_code())
}

/// What the line with the counts of a run begins with.
const COUNTS: &str = "operations=";

/// The line with the counts of a run, and the last line, whose shape scripts rely on.
fn told(name: &str, report: &Report, taken: Taken) -> (String, String) {
    let (all, succeeded) = report.operations;
    let counts = format!(
        "{COUNTS}{all} succeeded={succeeded} events={} cpu_s={:.3}",
        report.events,
        taken.cpu.as_secs_f64()
    );
    let verdict = match &report.verdict {
        Ok(()) => String::from("pass"),
        Err(failure) => format!("FAIL {} oracle={}", failure.kind.word(), failure.oracle),
    };
    let closing = format!(
        "{name}: {verdict} trace={:016x} virtual_s={:.3} wall_s={:.3}",
        report.trace_hash,
        report.virtual_time.as_secs_f64(),
        taken.wall.as_secs_f64()
    );
    (counts, closing)
}

/// Ends this process once it has taken so much processor time. It may be set again.
#[expect(unsafe_code, reason = "std sets no limits")]
fn limit_cpu(seconds: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit for the call to fill.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_CPU, &raw mut limit) };
    limit.rlim_cur = seconds.min(limit.rlim_max);
    // SAFETY: `limit` is a valid rlimit for the call to read.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_CPU, &raw const limit) };
    if known != 0 || set != 0 {
        eprintln!("hedgerow-sim: the limit of processor time could not be set");
    }
}
