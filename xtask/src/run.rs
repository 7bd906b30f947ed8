//! Running other programs: with their output shown, with it collected, or in the background.
//!
//! Invariant: a program started in the background never outlives its [`Background`]. Its output is
//! always read, so that it never blocks on a full pipe.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Lines of a background program's output that are kept for error messages.
const KEPT_LINES: usize = 60;

/// How a command would be typed, for messages.
pub(crate) fn typed(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let mut text = program.rsplit('/').next().unwrap_or_default().to_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        if argument.contains(' ') {
            text.push_str(&format!(" '{argument}'"));
        } else {
            text.push_str(&format!(" {argument}"));
        }
    }
    text
}

/// Runs a command with its output shown; an error if it fails.
pub(crate) fn shown(command: &mut Command) -> anyhow::Result<()> {
    let text = typed(command);
    let status = command
        .status()
        .with_context(|| format!("{text}: cannot be started"))?;
    if !status.success() {
        bail!("{text}: {status}");
    }
    Ok(())
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error, one after the other.
    pub(crate) text: String,
}

/// Runs a command and collects what it says, whatever its exit code.
pub(crate) fn collected(command: &mut Command) -> anyhow::Result<Finished> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{}: cannot be started", typed(command)))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Finished {
        status: output.status,
        text,
    })
}

/// Runs a command that has to succeed, and returns what it said.
pub(crate) fn expected(command: &mut Command) -> anyhow::Result<String> {
    let finished = collected(command)?;
    if !finished.status.success() {
        let text = typed(command);
        bail!("{text}: {}\n{}", finished.status, finished.text.trim_end());
    }
    Ok(finished.text)
}

/// Runs a command, passes its output on line by line, and returns it too.
pub(crate) fn teed(command: &mut Command) -> anyhow::Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{}: cannot be started", typed(command)))?;
    let text = Arc::new(Mutex::new(String::new()));
    let stdout = child.stdout.take().expect("it was piped");
    let stderr = child.stderr.take().expect("it was piped");
    std::thread::scope(|scope| {
        scope.spawn(|| pass_on(stdout, &text));
        scope.spawn(|| pass_on(stderr, &text));
    });
    let status = child.wait()?;
    let text = std::mem::take(&mut *text.lock().expect("both readers have ended"));
    Ok(Finished { status, text })
}

fn pass_on(stream: impl Read, text: &Mutex<String>) {
    for line in lines(stream) {
        eprintln!("{line}");
        let mut text = text.lock().expect("no panic under this lock");
        text.push_str(&line);
        text.push('\n');
    }
}

/// The stream's lines; bytes that are no UTF-8 are replaced.
fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    let mut reader = BufReader::new(stream);
    std::iter::from_fn(move || {
        let mut bytes = Vec::new();
        match reader.read_until(b'\n', &mut bytes) {
            Ok(1..) => Some(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
            Ok(0) | Err(_) => None,
        }
    })
}

/// A program in the background. Dropping it kills it.
pub(crate) struct Background {
    name: String,
    child: Child,
    lines: Receiver<String>,
    /// The newest lines of both streams.
    seen: Arc<Mutex<VecDeque<String>>>,
}

impl Background {
    /// Starts `command`; `name` stands for it in messages.
    pub(crate) fn start(name: &str, command: &mut Command) -> anyhow::Result<Background> {
        Background::start_with(name, command.stdin(Stdio::null()))
    }

    /// Starts `command` with commands of its own to read from [`Background::say`].
    pub(crate) fn start_talking(name: &str, command: &mut Command) -> anyhow::Result<Background> {
        Background::start_with(name, command.stdin(Stdio::piped()))
    }

    fn start_with(name: &str, command: &mut Command) -> anyhow::Result<Background> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot be started", typed(command)))?;
        let seen: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (sender, lines_out) = channel();
        let stdout = child.stdout.take().expect("it was piped");
        let stderr = child.stderr.take().expect("it was piped");
        let keep = |seen: &Mutex<VecDeque<String>>, line: &str| {
            let mut seen = seen.lock().expect("no panic under this lock");
            if seen.len() == KEPT_LINES {
                seen.pop_front();
            }
            seen.push_back(line.to_owned());
        };
        let seen_out = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines(stdout) {
                keep(&seen_out, &line);
                // When nobody waits for lines any more they are read all the same.
                drop(sender.send(line));
            }
        });
        let seen_err = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines(stderr) {
                keep(&seen_err, &line);
            }
        });
        Ok(Background {
            name: name.to_owned(),
            child,
            lines: lines_out,
            seen,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub(crate) fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .context("it was not started to be talked to")?;
        writeln!(input, "{line}").with_context(|| format!("{}: {line}", self.name))
    }

    /// Waits for a line of standard output that has `mark` in it, and returns what follows it.
    pub(crate) fn wait_line(&mut self, mark: &str, limit: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(mark) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let limit = limit.as_secs();
                    bail!(
                        "{}: no line with {mark:?} within {limit} s{}",
                        self.name,
                        self.tail()
                    );
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{}: ended early: {status}{}", self.name, self.tail());
                }
            }
        }
    }

    /// The newest lines of its output, as the tail of a message.
    pub(crate) fn tail(&self) -> String {
        let seen = self.seen.lock().expect("no panic under this lock");
        let mut text = String::new();
        for line in seen.iter() {
            text.push_str("\n    | ");
            text.push_str(line);
        }
        text
    }

    /// An error if the program is not running any more.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{}: ended by itself: {status}{}", self.name, self.tail());
        }
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.must_run()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal such as `INT` and waits for the end; an error if it takes longer than `limit`.
    pub(crate) fn stop(&mut self, signal: &str, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.must_run()?;
        send_signal(self.pid(), signal)?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!(
            "{}: still runs {} s after SIG{signal}{}",
            self.name,
            limit.as_secs(),
            self.tail()
        );
    }

    /// Waits for the end; an error if it takes longer than `limit` or the exit code is not 0.
    pub(crate) fn finish(&mut self, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{}: {status}{}", self.name, self.tail()),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        bail!(
            "{}: not done after {} s{}",
            self.name,
            limit.as_secs(),
            self.tail()
        );
    }

    /// Whether the program is still running.
    pub(crate) fn running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal to one process. The shell's own `kill` is there on every machine.
pub(crate) fn send_signal(pid: u32, signal: &str) -> anyhow::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()]);
    expected(&mut command)?;
    Ok(())
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> anyhow::Result<bool> {
    Ok(expected(Command::new("id").arg("-u"))?.trim() == "0")
}

/// A command that is ended after `limit`.
pub(crate) fn limited(limit: Duration, program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &limit.as_secs().to_string(), program]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_program_is_waited_for_by_line_and_stopped_by_signal() {
        let script =
            "echo starting; echo ready at 7; trap 'exit 0' INT; while :; do sleep 0.05; done";
        let mut program =
            Background::start("script", Command::new("sh").args(["-c", script])).unwrap();
        let rest = program
            .wait_line("ready ", Duration::from_secs(10))
            .unwrap();
        assert_eq!(rest, "at 7");
        let status = program.stop("INT", Duration::from_secs(10)).unwrap();
        assert!(status.success());
    }

    #[test]
    fn a_program_that_ends_early_is_told_with_its_output() {
        let script = "echo it broke >&2; sleep 0.2; exit 3";
        let mut program =
            Background::start("script", Command::new("sh").args(["-c", script])).unwrap();
        let error = program
            .wait_line("ready ", Duration::from_secs(10))
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("exit status: 3") && text.contains("it broke"),
            "{text}"
        );
    }

    #[test]
    fn failures_name_the_command_and_what_it_said() {
        let error = expected(Command::new("sh").args(["-c", "echo why; exit 4"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("sh -c 'echo why; exit 4'") && text.contains("why"),
            "{text}"
        );
    }
}
