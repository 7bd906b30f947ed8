//! One process of a cluster under test: started, hurt, and watched for ends that nobody asked for.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail};

use super::os::{self, Signal};

/// What an incident quotes of a log.
const QUOTED_LINES: usize = 3;
/// A panic with its backtrace fills no more lines at a log's end.
const PANIC_LINES: usize = 200;

/// How one process is started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) log: PathBuf,
}

/// The process of one node, if it runs.
#[derive(Debug)]
pub(super) struct NodeProcess {
    start: Start,
    child: Option<Child>,
    /// Whether it is not there yet: only [`NodeProcess::appear`] starts it.
    absent: bool,
    /// Whether it was told to stop.
    stopping: bool,
    /// Its end after it was told to stop.
    stopped: Option<Ended>,
    /// Ends that nobody asked for.
    ended: Vec<Ended>,
}

/// A process that ended by itself.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) last_words: String,
}

impl NodeProcess {
    pub(super) fn new(start: Start) -> Self {
        Self {
            start,
            child: None,
            absent: false,
            stopping: false,
            stopped: None,
            ended: Vec::new(),
        }
    }

    /// One that is not there until it appears.
    pub(super) fn absent(start: Start) -> Self {
        let mut node = Self::new(start);
        node.absent = true;
        node
    }

    pub(super) fn is_absent(&self) -> bool {
        self.absent
    }

    /// Starts one that was absent.
    pub(super) fn appear(&mut self) -> anyhow::Result<()> {
        self.absent = false;
        self.start()
    }

    pub(super) fn name(&self) -> &str {
        &self.start.name
    }

    /// Starts it, with its output appended to its log. Does nothing when it runs, or is absent.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        if self.absent {
            return Ok(());
        }
        if self.pid().is_some() {
            self.stopping = false;
            return Ok(());
        }
        let mut options = std::fs::OpenOptions::new();
        let log = options.create(true).append(true).open(&self.start.log);
        let log = log.with_context(|| self.start.log.display().to_string())?;
        let mut command = Command::new(&self.start.program);
        command
            .args(&self.start.arguments)
            .envs(self.start.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn();
        self.child = Some(child.with_context(|| self.start.program.display().to_string())?);
        (self.stopping, self.stopped) = (false, None);
        Ok(())
    }

    /// Its number while it runs; notes an end that nobody asked for.
    pub(super) fn pid(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        match child.try_wait() {
            Ok(None) => Some(child.id()),
            Ok(Some(status)) => {
                self.child = None;
                let last_words = last_lines(&self.start.log);
                let ended = Ended { status, last_words };
                if self.stopping {
                    self.stopped = Some(ended);
                } else {
                    self.ended.push(ended);
                }
                None
            }
            Err(_) => None,
        }
    }

    /// SIGKILL; whether it ran until then, and died of it.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        if self.pid().is_none() {
            bail!("{} does not run", self.name());
        }
        let mut child = self.child.take().context("it runs")?;
        child.kill()?;
        let status = child.wait()?;
        if status.signal() != Some(libc::SIGKILL) {
            bail!("{} ended by itself: {status}", self.name());
        }
        Ok(())
    }

    /// SIGTERM, without waiting for the end.
    pub(super) fn begin_stop(&mut self) -> anyhow::Result<()> {
        let pid = self.pid();
        let pid = pid.with_context(|| format!("{} does not run", self.start.name))?;
        os::send(pid, Signal::Continue)?;
        os::send(pid, Signal::Terminate)?;
        self.stopping = true;
        Ok(())
    }

    /// How the process ended after [`NodeProcess::begin_stop`], once it has.
    pub(super) fn stopped(&mut self) -> Option<anyhow::Result<()>> {
        if self.pid().is_some() {
            return None;
        }
        let ended = self.stopped.take()?;
        // A process that has just begun dies of the signal; nothing was promised yet.
        if ended.status.success() || ended.status.signal() == Some(libc::SIGTERM) {
            return Some(Ok(()));
        }
        let name = self.name();
        Some(Err(anyhow::anyhow!(
            "{name}: after SIGTERM: {}; {}",
            ended.status,
            ended.last_words
        )))
    }

    /// SIGSTOP.
    pub(super) fn pause(&mut self) -> anyhow::Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.start.name))?;
        Ok(os::send(pid, Signal::Stop)?)
    }

    /// SIGCONT; whether it was stopped until then.
    pub(super) fn resume(&mut self) -> anyhow::Result<bool> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.start.name))?;
        let stopped = os::state(pid) == Some('T');
        os::send(pid, Signal::Continue)?;
        Ok(stopped)
    }

    /// The next end is one that the tester ordered.
    pub(super) fn expect_end(&mut self) {
        self.stopping = true;
    }

    /// The ends that nobody asked for, each told once.
    pub(super) fn take_ended(&mut self) -> Vec<Ended> {
        self.pid();
        std::mem::take(&mut self.ended)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if self.pid().is_some()
            && let Some(mut child) = self.child.take()
        {
            // Nothing outlives a test, however it ends.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The last lines of a log, in one; of a panic, where and why instead of how it came there.
fn last_lines(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.len().saturating_sub(PANIC_LINES);
    let panicked = lines[tail..]
        .iter()
        .rposition(|line| line.contains(" panicked at "));
    let quoted = match panicked {
        Some(at) => lines[tail + at..].iter().take(2),
        None => lines[lines.len().saturating_sub(QUOTED_LINES)..]
            .iter()
            .take(QUOTED_LINES),
    };
    quoted.copied().collect::<Vec<_>>().join(" | ")
}
