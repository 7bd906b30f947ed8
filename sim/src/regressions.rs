//! `hedgerow-sim regressions`: replays the tapes that are kept of failures found.
//!
//! Each must pass on the code as it stands. A tape of a planted bug must also still fail in its
//! way with the bug planted: one that no longer does has lost its power and is to be shrunk anew.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use hedgerow_sim::shrink::Outcome;
use hedgerow_sim::tape::{Tape, Verdict};

use crate::junit;
use crate::out::say;

/// The exit code when a tape no longer shows its planted bug.
const POWERLESS: u8 = 1;

/// `hedgerow-sim regressions`
#[derive(Args, Debug)]
pub(crate) struct Regressions {
    /// Tapes, and directories of tapes
    #[arg(default_value = "sim/regressions")]
    tapes: Vec<PathBuf>,
    /// Processes at once [default: the machine's cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// Write the results here as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// What replaying one tape came to.
struct Result {
    tape: PathBuf,
    seconds: f64,
    /// What was not as it should be: the exit code, the oracle, the words.
    wrong: Option<(u8, String, String)>,
}

impl Regressions {
    pub(crate) fn run(&self) -> ExitCode {
        let tapes = match self.list() {
            Ok(tapes) => tapes,
            Err(text) => {
                eprintln!("hedgerow-sim: {text}");
                return ExitCode::from(2);
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Result>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.unwrap_or(cores).max(1) {
                scope.spawn(|| {
                    while let Some(tape) = tapes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = check(tape);
                        say!("{}", result.line());
                        results
                            .lock()
                            .expect("no panic under this lock")
                            .push(result);
                    }
                });
            }
        });
        let mut results = results.into_inner().expect("the workers have ended");
        results.sort_by(|one, other| one.tape.cmp(&other.tape));
        self.report(&results)
    }

    fn list(&self) -> std::result::Result<Vec<PathBuf>, String> {
        let mut tapes = Vec::new();
        for path in &self.tapes {
            let failed = |error: std::io::Error| format!("{}: {error}", path.display());
            if !path.is_dir() {
                tapes.push(path.clone());
                continue;
            }
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let file = entry.map_err(failed)?.path();
                if file
                    .extension()
                    .is_some_and(|extension| extension == "json")
                {
                    tapes.push(file);
                }
            }
        }
        tapes.sort();
        if tapes.is_empty() {
            return Err(format!(
                "no tapes in {:?}: a check of nothing is none",
                self.tapes
            ));
        }
        Ok(tapes)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "results lie on the real disk, outside any world"
    )]
    fn report(&self, results: &[Result]) -> ExitCode {
        let wrong: Vec<u8> = results
            .iter()
            .filter_map(|result| result.wrong.as_ref().map(|wrong| wrong.0))
            .collect();
        say!(
            "{} tapes, {} not as they should be",
            results.len(),
            wrong.len()
        );
        if let Some(path) = &self.junit {
            let cases: Vec<junit::Case> = results.iter().map(Result::case).collect();
            let text = junit::document("hedgerow-sim regressions", &cases);
            if let Err(error) = std::fs::write(path, text) {
                eprintln!("hedgerow-sim: {}: {error}", path.display());
                return ExitCode::from(2);
            }
        }
        // A failure of the code as it stands says more than a tape that lost its power.
        let failures = wrong.iter().filter(|code| **code != POWERLESS).min();
        let code = failures.or(wrong.first()).copied().unwrap_or(0);
        ExitCode::from(code)
    }
}

impl Result {
    fn line(&self) -> String {
        let name = self.tape.display();
        match &self.wrong {
            None => format!("{name}: ok ({:.1} CPU s)", self.seconds),
            Some((_, _, words)) => format!("{name}: {words}"),
        }
    }

    fn case(&self) -> junit::Case {
        junit::Case {
            name: self.tape.display().to_string(),
            seconds: self.seconds,
            failure: self
                .wrong
                .as_ref()
                .map(|(code, oracle, words)| junit::Failed {
                    crash: *code == 12,
                    oracle: oracle.clone(),
                    output: words.clone(),
                }),
        }
    }
}

fn check(path: &Path) -> Result {
    let mut result = Result {
        tape: path.to_owned(),
        seconds: 0.0,
        wrong: None,
    };
    result.wrong = match Tape::read(path) {
        Ok(tape) => judge(path, &tape, &mut result.seconds).err(),
        Err(error) => Some((2, "tape".into(), error.to_string())),
    };
    result
}

fn judge(
    path: &Path,
    tape: &Tape,
    seconds: &mut f64,
) -> std::result::Result<(), (u8, String, String)> {
    if let Some(failure) = replay(path, "none", seconds)? {
        let code = failure.kind.exit_code();
        let again = format!("hedgerow-sim replay {} --mutant none", path.display());
        let words = format!(
            "FAIL {}: {}\n  again: {again}",
            failure.oracle, failure.text
        );
        return Err((code, failure.oracle, words));
    }
    let Some(mutant) = &tape.mutant else {
        return Ok(());
    };
    let shown = replay(path, mutant, seconds)?;
    let expected = tape.failure.as_ref();
    let as_expected = shown.as_ref().zip(expected);
    if as_expected.is_some_and(|(shown, expected)| shown.is_like(expected)) {
        return Ok(());
    }
    let now = shown.map_or_else(
        || "it passes".to_owned(),
        |failure| format!("it fails by {}", failure.oracle),
    );
    let words = format!(
        "POWERLESS: with {mutant} planted {now}, and the tape says {}; shrink a failing seed of it \
         again",
        expected.map_or("nothing", |expected| &expected.oracle)
    );
    Err((POWERLESS, "power".into(), words))
}

/// Replays a tape in a process of its own.
fn replay(
    path: &Path,
    mutant: &str,
    seconds: &mut f64,
) -> std::result::Result<Option<Verdict>, (u8, String, String)> {
    let process = |text: String| (12, "process".to_owned(), text);
    let own = std::env::current_exe().map_err(|error| process(error.to_string()))?;
    let output = Command::new(own)
        .arg("replay")
        .arg(path)
        .args(["--json", "--mutant", mutant])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| process(error.to_string()))?;
    let outcome: Outcome = serde_json::from_slice(&output.stdout)
        .map_err(|_| process(String::from_utf8_lossy(&output.stderr).into_owned()))?;
    *seconds += std::time::Duration::from_nanos(outcome.cpu_ns).as_secs_f64();
    Ok(outcome.failure)
}
