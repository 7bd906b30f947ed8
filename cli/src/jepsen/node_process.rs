//! One process of a cluster under test: started, hurt, and watched for ends that nobody asked for.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hedgerow_env::Env;

use super::os::{self, Signal};

/// A clean stop closes sessions and writes what it has to; more is a hang.
const STOP_LIMIT: Duration = Duration::from_secs(20);
const STOP_POLL: Duration = Duration::from_millis(50);
/// What an incident quotes of a log.
const QUOTED_LINES: usize = 3;

/// How one process is started.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) log: PathBuf,
    /// Whether SIGTERM may end it as a signal; else it has to exit with 0.
    pub(super) dies_of_sigterm: bool,
}

/// The process of one node, if it runs.
#[derive(Debug)]
pub(super) struct NodeProcess {
    start: Start,
    child: Option<Child>,
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
            ended: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.start.name
    }

    /// Starts it, with its output appended to its log. Does nothing when it runs.
    #[expect(
        clippy::disallowed_types,
        reason = "std::fs::File hands the log to the process"
    )]
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let mut options = std::fs::OpenOptions::new();
        let log = options.create(true).append(true).open(&self.start.log);
        let log: std::fs::File = log.with_context(|| self.start.log.display().to_string())?;
        let mut command = Command::new(&self.start.program);
        command
            .args(&self.start.arguments)
            .envs(self.start.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn();
        self.child = Some(child.with_context(|| self.start.program.display().to_string())?);
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
                self.ended.push(Ended { status, last_words });
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

    /// Waits for a process that was told to end itself; an error when it lives on.
    pub(super) async fn wait(&mut self, env: &Env, limit: Duration) -> anyhow::Result<ExitStatus> {
        let give_up = env.now() + limit;
        let mut child = self.child.take().context("it does not run")?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if env.now() >= give_up {
                self.child = Some(child);
                bail!("{} still runs after {} s", self.name(), limit.as_secs());
            }
            env.sleep(STOP_POLL).await;
        }
    }

    /// SIGTERM, and SIGKILL when that is not heeded, which is an error.
    pub(super) async fn terminate(&mut self, env: &Env) -> anyhow::Result<()> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        os::send(pid, Signal::Continue)?;
        os::send(pid, Signal::Terminate)?;
        match self.wait(env, STOP_LIMIT).await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) if self.start.dies_of_sigterm && status.signal() == Some(libc::SIGTERM) => {
                Ok(())
            }
            Ok(status) => bail!("after SIGTERM: {status}; {}", last_lines(&self.start.log)),
            Err(error) => {
                self.kill()?;
                Err(error)
            }
        }
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

    /// Forgets an end by SIGKILL, which the tester ordered.
    pub(super) fn take_killed(&mut self) {
        self.pid();
        self.ended
            .retain(|ended| ended.status.signal() != Some(libc::SIGKILL));
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

/// The last lines of a log, in one.
fn last_lines(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(QUOTED_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
