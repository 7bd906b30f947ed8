//! Both ends of a process that runs one seed after the other: what a process costs once (its memory's
//! first touch, tables that a library fills at the first use) is a fifth of a seed.
//!
//! The sweep writes a seed and a tape's path on a line; the worker answers with what a run of its own
//! would print, and the line [`END`]. It ends after the first seed that does not pass: what a failure
//! left in memory reaches no other seed.
//!
//! Invariant: a worker's runs give the traces that processes of their own give.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread::JoinHandle;

use crate::out::say;
use crate::stopwatch::cpu_time;
use crate::{Run, limit_cpu};

/// Ends the output of a seed that passed.
const END: &str = "end of the seed";
/// A worker runs so many seeds at most, so that nothing that a run might leave behind adds up.
const SEEDS_MAXIMUM: u32 = 64;
/// A seed takes seconds of a core; one that takes this many hangs. Counted on the processor, so that a
/// busy machine makes no run a failure.
const SEED_CPU_SECONDS: u64 = 300;

/// The worker's own end: runs what standard input asks for, until that ends or a run fails.
pub(crate) fn serve(run: &Run) -> ExitCode {
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { break };
        let (seed, tape) = line.split_once(' ').unwrap_or((&line, ""));
        let Ok(seed) = seed.parse() else {
            eprintln!("hedgerow-sim: {line:?} is no seed");
            return ExitCode::from(2);
        };
        let tape = (!tape.is_empty()).then(|| PathBuf::from(tape));
        limit_cpu(cpu_time().as_secs() + SEED_CPU_SECONDS);
        let code = run.run_seed(seed, tape.as_deref());
        if code != ExitCode::SUCCESS {
            return code;
        }
        say!("{END}");
    }
    ExitCode::SUCCESS
}

/// The sweep's end.
pub(crate) struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    errors: JoinHandle<String>,
    seeds: u32,
}

/// What came of a seed: the exit code of a run, and what it printed.
pub(crate) type Answer = (i32, String);

impl Worker {
    /// Starts one with the options that all its seeds share.
    #[expect(
        clippy::disallowed_methods,
        reason = "the sweep itself runs outside any world"
    )]
    pub(crate) fn start(options: &[String]) -> std::io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["run", "--serve", "--no-html"])
            .args(options)
            // What a run frees the next one uses: handing it back would have it cleared again.
            .env("MIMALLOC_PURGE_DELAY", "-1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (requests, answers, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let errors = errors.expect("it is piped");
        Ok(Self {
            child,
            requests: requests.expect("it is piped"),
            answers: BufReader::new(answers.expect("it is piped")),
            errors: std::thread::spawn(move || read_all(errors)),
            seeds: 0,
        })
    }

    /// Ends it.
    pub(crate) fn end(self) {
        let Self {
            mut child,
            requests,
            ..
        } = self;
        drop(requests);
        let _ended = child.wait();
    }

    /// Runs a seed, and answers the worker for the next one if it takes any.
    pub(crate) fn run(
        mut self,
        seed: u64,
        tape: Option<&Path>,
    ) -> std::io::Result<(Answer, Option<Self>)> {
        let tape = tape.map(|path| path.display().to_string());
        let asked = match tape {
            Some(tape) => writeln!(self.requests, "{seed} {tape}"),
            None => writeln!(self.requests, "{seed}"),
        };
        let mut output = String::new();
        let mut line = String::new();
        while asked.is_ok() && self.answers.read_line(&mut line)? > 0 {
            if line.trim_end() == END {
                self.seeds += 1;
                if self.seeds < SEEDS_MAXIMUM {
                    return Ok(((0, output), Some(self)));
                }
                self.end();
                return Ok(((0, output), None));
            }
            output.push_str(&line);
            line.clear();
        }
        drop(self.requests);
        let status = self.child.wait()?;
        if status.signal() == Some(libc::SIGXCPU) {
            output.push_str(&format!(
                "no end in {SEED_CPU_SECONDS} s of processor time\nseed {seed}: FAIL liveness oracle=hang"
            ));
            return Ok(((11, output), None));
        }
        let code = status.code().unwrap_or(12);
        if ![10, 11, 12].contains(&code) || output.is_empty() {
            output.push_str(&self.errors.join().unwrap_or_default());
            output.push_str(&format!("\nseed {seed}: FAIL crash oracle=process"));
            return Ok(((12, output), None));
        }
        Ok(((code, output), None))
    }
}

fn read_all(mut errors: ChildStderr) -> String {
    let mut bytes = Vec::new();
    let _end = errors.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
