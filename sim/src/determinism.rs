//! `hedgerow-sim determinism`: the same run in two processes, and where they differ if they do.
//!
//! The other process may be another build of the same code (debug beside release). `hedgerow-sim
//! trace` is what each of them runs.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use hedgerow_sim::compare::{Comparison, Difference, compare};
use hedgerow_sim::scenario::{Plan, Script, run_script};
use hedgerow_sim::world::{Recording, TraceEvent, TraceSummary};

use crate::out::say;
use crate::plant;
use crate::replay::read;
use crate::sweep::parse_range;

/// `hedgerow-sim trace`
#[derive(Args, Debug)]
pub(crate) struct Trace {
    /// The seed
    #[arg(long, required_unless_present = "tape")]
    seed: Option<u64>,
    /// The tape, instead of a seed
    #[arg(long, conflicts_with = "seed")]
    tape: Option<PathBuf>,
    /// Plant this bug first
    #[arg(long)]
    mutant: Option<String>,
    /// Keep the events with these numbers
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    range: Option<(u64, u64)>,
}

/// `hedgerow-sim determinism`
#[derive(Args, Debug)]
pub(crate) struct Determinism {
    /// The seeds, FIRST..END (END is not run)
    #[arg(long, value_name = "A..B", value_parser = parse_range, required_unless_present = "tape")]
    seeds: Option<(u64, u64)>,
    /// Compare runs of this tape instead
    #[arg(long, conflicts_with = "seeds")]
    tape: Option<PathBuf>,
    /// The program that runs the other side: a debug build, another commit [default: this one]
    #[arg(long, value_name = "BINARY")]
    against: Option<PathBuf>,
    /// Plant this bug first
    #[arg(long)]
    mutant: Option<String>,
    /// Processes at once, two for each run [default: the machine's cores]
    #[arg(long)]
    jobs: Option<usize>,
}

impl Trace {
    pub(crate) fn run(&self) -> ExitCode {
        if let Err(code) = plant(self.mutant.as_deref()) {
            return code;
        }
        let script = match (&self.tape, self.seed) {
            (Some(path), _) => match read(path) {
                Ok(tape) => tape.script,
                Err(error) => {
                    eprintln!("hedgerow-sim: {}: {error}", path.display());
                    return ExitCode::from(2);
                }
            },
            (None, seed) => Script::from(Plan::draw(seed.unwrap_or_default())),
        };
        let recording = match self.range {
            Some((first, end)) => Recording::Range(first..end),
            None => Recording::HashOnly,
        };
        let report = run_script(&script, recording, false);
        let summary = TraceSummary {
            hash: report.trace_hash,
            events: report.events,
            virtual_ns: u64::try_from(report.virtual_time.as_nanos()).unwrap_or(u64::MAX),
            checkpoints: report.checkpoints,
            recorded: report.recorded,
        };
        let text = serde_json::to_string(&summary).expect("a trace has no odd keys");
        say!("{text}");
        ExitCode::SUCCESS
    }
}

/// What is run on both sides.
enum What<'a> {
    Seed(u64),
    Tape(&'a Path),
}

impl What<'_> {
    fn name(&self) -> String {
        match self {
            Self::Seed(seed) => format!("seed {seed}"),
            Self::Tape(path) => format!("tape {}", path.display()),
        }
    }
}

impl Determinism {
    pub(crate) fn run(&self) -> ExitCode {
        let (first, end) = self.seeds.unwrap_or((0, 1));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = self.jobs.unwrap_or(cores).div_ceil(2).max(1);
        let (next, differing) = (AtomicU64::new(first), AtomicU64::new(0));
        let failed: Mutex<Option<String>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let over = failed.lock().expect("no panic under this lock").is_some();
                        if seed >= end || over {
                            return;
                        }
                        let what = self.tape.as_deref().map_or(What::Seed(seed), What::Tape);
                        match self.compare(&what) {
                            Ok(true) => {}
                            Ok(false) => {
                                differing.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(text) => {
                                *failed.lock().expect("no panic under this lock") = Some(text);
                            }
                        }
                    }
                });
            }
        });
        if let Some(text) = failed.into_inner().expect("the workers have ended") {
            eprintln!("hedgerow-sim: {text}");
            return ExitCode::from(2);
        }
        let differing = differing.into_inner();
        say!("{} runs compared, {differing} differ", end - first);
        ExitCode::from(if differing > 0 { 10 } else { 0 })
    }

    /// Compares one run in two processes; true when they are the same.
    fn compare(&self, what: &What<'_>) -> Result<bool, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let other = self.against.as_deref().unwrap_or(&own);
        let name = what.name();
        // The first two runs are independent: they may as well go on at the same time.
        let ahead = std::thread::scope(|scope| {
            let ahead = scope.spawn(|| self.trace(other, what, None));
            (
                self.trace(&own, what, None),
                ahead.join().expect("no panic there"),
            )
        });
        let (mut left, mut right) = (Some(ahead.0?), Some(ahead.1?));
        let comparison = compare(
            |recording| match left.take() {
                Some(summary) => Ok(summary),
                None => self.trace(&own, what, Some(recording)),
            },
            |recording| match right.take() {
                Some(summary) => Ok(summary),
                None => self.trace(other, what, Some(recording)),
            },
        )?;
        match comparison {
            Comparison::Same(hash, events) => {
                say!("{name}: same trace={hash:016x} events={events}");
                Ok(true)
            }
            Comparison::Differ(difference) => {
                crate::out::write(format_args!("{}", report(&name, &difference)));
                Ok(false)
            }
            Comparison::Elusive => {
                say!("{name}: DIFFERS, each time elsewhere: no single event could be caught");
                Ok(false)
            }
        }
    }

    fn trace(
        &self,
        program: &Path,
        what: &What<'_>,
        recording: Option<Recording>,
    ) -> Result<TraceSummary, String> {
        let mut command = Command::new(program);
        command.arg("trace").stdin(Stdio::null());
        match what {
            What::Seed(seed) => command.args(["--seed", &seed.to_string()]),
            What::Tape(path) => command.arg("--tape").arg(path),
        };
        if let Some(mutant) = &self.mutant {
            command.args(["--mutant", mutant]);
        }
        if let Some(Recording::Range(Range { start, end })) = recording {
            command.args(["--range", &format!("{start}..{end}")]);
        }
        let failed = |text: &str| format!("{} trace: {text}", program.display());
        let output = command
            .output()
            .map_err(|error| failed(&error.to_string()))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(&error.to_string()))
    }
}

fn report(name: &str, difference: &Difference) -> String {
    let mut text = format!("{name}: DIFFERS first in event {}\n", difference.number);
    for event in &difference.before {
        text.push_str(&format!("  both   {event}\n"));
    }
    let side = |event: &Option<TraceEvent>| {
        event
            .as_ref()
            .map_or_else(|| "(the run had ended)".to_owned(), TraceEvent::to_string)
    };
    text.push_str(&format!("  this   {}\n", side(&difference.left)));
    text.push_str(&format!("  other  {}\n", side(&difference.right)));
    text
}
