//! `hedgerow-sim replay`: runs a tape again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hedgerow_sim::scenario::run_script;
use hedgerow_sim::shrink::Outcome;
use hedgerow_sim::tape::{Tape, TapeError, describe};
use hedgerow_sim::world::Recording;

use crate::out::{self, say};
use crate::stopwatch::Stopwatch;
use crate::{Again, finish, limit_cpu, plant};

/// `hedgerow-sim replay`
#[derive(Args, Debug)]
pub(crate) struct Replay {
    /// The tape; `-` reads it from standard input
    tape: PathBuf,
    /// Plant this bug instead of the tape's own; `none` plants none
    #[arg(long)]
    mutant: Option<String>,
    /// Print every log line of every node
    #[arg(long)]
    verbose: bool,
    /// Print the tape in words instead of running it
    #[arg(long)]
    list: bool,
    /// Print what came of it as one line of JSON
    #[arg(long)]
    json: bool,
    /// Give up after so many seconds of processor time
    #[arg(long, value_name = "SECONDS")]
    cpu_limit: Option<u64>,
    #[command(flatten)]
    html: crate::html::Html,
}

impl Replay {
    pub(crate) fn run(&self) -> ExitCode {
        let tape = match read(&self.tape) {
            Ok(tape) => tape,
            Err(error) => {
                eprintln!("hedgerow-sim: {}: {error}", self.tape.display());
                return ExitCode::from(2);
            }
        };
        if self.list {
            out::write(format_args!("{}", describe(&tape)));
            return ExitCode::SUCCESS;
        }
        let mutant = self.mutant.as_deref().or(tape.mutant.as_deref());
        let mutant = mutant.filter(|name| *name != "none");
        if let Err(code) = plant(mutant) {
            return code;
        }
        if let Some(seconds) = self.cpu_limit {
            limit_cpu(seconds.max(1));
        }
        let watch = Stopwatch::start();
        let report = run_script(&tape.script, Recording::HashOnly, self.verbose);
        let taken = watch.taken();
        if self.json {
            let code = report.verdict.as_ref().err().map(|failure| failure.kind);
            let cpu_ns = u64::try_from(taken.cpu.as_nanos()).unwrap_or(u64::MAX);
            let outcome = Outcome::new(report, cpu_ns);
            let text = serde_json::to_string(&outcome).expect("an outcome has no odd keys");
            say!("{text}");
            return code.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(kind.exit_code()));
        }
        if report.trace_hash != tape.trace {
            say!(
                "the trace differs from the recorded one ({:016x}, commit {}): other code, another \
                 planted bug, or an edited tape",
                tape.trace,
                tape.commit
            );
        }
        let again = Again::Tape {
            path: &self.tape,
            mutant: self.mutant.as_deref(),
        };
        self.html.write(&tape.script, &report, &again, mutant);
        finish(&again, &report, taken)
    }
}

/// Reads a tape from a file, or from standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Tape, TapeError> {
    if path != Path::new("-") {
        return Tape::read(path);
    }
    let mut text = String::new();
    let failed = |source| TapeError::File {
        path: path.to_owned(),
        source,
    };
    std::io::stdin().read_to_string(&mut text).map_err(failed)?;
    Tape::parse(&text)
}
