//! Clusters of real processes: `hedgerow dev`, `hedgerow node`, and the commands that ask them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::ci::PROFILE;
use crate::repository;
use crate::run::{Background, expected};

/// A person waits no longer than this for `hedgerow dev`.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(20);
/// A clean stop writes what it has to and closes sessions; more is a hang.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The `hedgerow` of the profile that tests use.
pub(crate) fn program() -> PathBuf {
    repository::target().join(PROFILE).join("hedgerow")
}

/// `hedgerow dev`, running.
pub(crate) struct Dev {
    pub(crate) process: Background,
    /// Of the disk `demo`.
    pub(crate) url: String,
    pub(crate) directory: PathBuf,
    /// From the start of the process to its line `ready`.
    pub(crate) ready_after: Duration,
}

/// How `hedgerow dev` is started.
pub(crate) struct DevStart<'a> {
    pub(crate) program: PathBuf,
    pub(crate) directory: &'a Path,
    pub(crate) port: u16,
    pub(crate) mutant: Option<&'a str>,
    pub(crate) limit: Duration,
    /// Whether it takes workloads for its proxy.
    pub(crate) bench_proxy: bool,
}

impl DevStart<'_> {
    /// The usual start; see the fields for what may differ.
    pub(crate) fn new(directory: &Path, port: u16) -> DevStart<'_> {
        DevStart {
            program: program(),
            directory,
            port,
            mutant: None,
            limit: READY_LIMIT,
            bench_proxy: false,
        }
    }

    /// Starts it and waits until its disk can be used.
    pub(crate) fn start(&self) -> anyhow::Result<Dev> {
        let mut command = Command::new(&self.program);
        command.args([
            "--log",
            "info",
            "dev",
            "--iscsi",
            &format!("127.0.0.1:{}", self.port),
        ]);
        command.arg("--dir").arg(self.directory);
        if let Some(mutant) = self.mutant {
            command.env("HEDGEROW_MUTANT", mutant);
        }
        let began = Instant::now();
        let mut process = if self.bench_proxy {
            Background::start_talking("hedgerow dev", command.arg("--bench-proxy"))?
        } else {
            Background::start("hedgerow dev", &mut command)?
        };
        let url = process.wait_line("ready ", self.limit)?;
        let ready_after = began.elapsed();
        if !url.starts_with("iscsi://") {
            bail!("ready {url}: an iscsi:// URL is expected");
        }
        Ok(Dev {
            process,
            url,
            directory: self.directory.to_path_buf(),
            ready_after,
        })
    }
}

impl Dev {
    /// What `hedgerow ARGUMENTS --json` says of this cluster.
    pub(crate) fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .arg("--json")
            .arg("--dir")
            .arg(&self.directory);
        json(&mut command)
    }

    /// Ctrl-C: it ends in time with exit code 0.
    pub(crate) fn interrupt(&mut self) -> anyhow::Result<()> {
        let status = self.process.stop("INT", STOP_LIMIT)?;
        if !status.success() {
            bail!("after Ctrl-C: {status}{}", self.process.tail());
        }
        Ok(())
    }
}

/// What `hedgerow ARGUMENTS --json` says of the cluster of the node at `address`.
pub(crate) fn ask_node(address: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .args(["--json", "--connect", address]);
    json(&mut command)
}

fn json(command: &mut Command) -> anyhow::Result<Value> {
    let text = expected(command)?;
    let value: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    if value["schema_version"] != 1 {
        bail!("schema_version is not 1: {text}");
    }
    Ok(value)
}

/// Asks again and again until `wanted` finds what it looks for, for `limit` at most.
pub(crate) fn wait_until<T>(
    limit: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Value>,
    mut wanted: impl FnMut(&Value) -> Option<T>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        // A cluster that forms or elects may refuse to answer for a moment.
        let answer = ask();
        if let Ok(value) = &answer
            && let Some(found) = wanted(value)
        {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!(
                "not so after {} s; the last answer: {answer:?}",
                limit.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The URL of a disk in the answer of `disk list`, once it is exported.
pub(crate) fn url_of(list: &Value, name: &str) -> Option<String> {
    let disk = list["disks"]
        .as_array()?
        .iter()
        .find(|disk| disk["name"] == name)?;
    Some(disk["urls"].as_array()?.first()?.as_str()?.to_owned())
}

/// Whether every one of `nodes` nodes is up and nothing lacks a copy, by the word of all of them.
pub(crate) fn whole(status: &Value, nodes: usize) -> Option<()> {
    let listed = status["nodes"].as_array()?;
    let up = listed.iter().filter(|node| node["state"] == "up").count();
    let lacking = status["under_replicated_bytes"].as_u64()?;
    let silent = |who: &str| status[who].as_array().map(Vec::len);
    let told = silent("silent_groups")? == 0 && silent("silent_nodes")? == 0;
    (up == nodes && lacking == 0 && told && status["damaged"] == 0).then_some(())
}

/// Ports of loopback that are free now; held together, so that they differ.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?);
    }
    held.iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}

/// One process `hedgerow node`.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: String,
    config: PathBuf,
    process: Option<Background>,
}

impl Node {
    /// Writes the node's configuration below `folder`. It is not started yet.
    pub(crate) fn configure(
        folder: &Path,
        number: usize,
        addresses: &[String],
        portal: Option<&str>,
    ) -> anyhow::Result<Node> {
        let name = format!("node-{number}");
        let address = addresses[number - 1].clone();
        let iscsi = portal
            .map(|portal| format!("\n[iscsi]\nlisten = \"{portal}\"\nexports = \"all\"\n"))
            .unwrap_or_default();
        let text = format!(
            "name = \"{name}\"\n\
             data_directory = {:?}\n\
             listen = \"{address}\"\n\
             seeds = {addresses:?}\n\
             \n\
             [location]\n\
             rack = \"rack-{number}\"\n\
             \n\
             [[pool]]\n\
             directory = \"pool-0\"\n\
             capacity = \"20GiB\"\n\
             {iscsi}",
            folder.join(&name)
        );
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, text)?;
        Ok(Node {
            name,
            address,
            config,
            process: None,
        })
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(program());
        command
            .args(["--log", "info", "node", "--config"])
            .arg(&self.config);
        let mut process = Background::start(&self.name, &mut command)?;
        process.wait_line("ready node", READY_LIMIT)?;
        self.process = Some(process);
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it is not running")?;
        process.kill()
    }

    /// SIGTERM, as service managers do: it ends in time with exit code 0.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("it is not running")?;
        let status = process.stop("TERM", STOP_LIMIT)?;
        if !status.success() {
            bail!("{}: after SIGTERM: {status}{}", self.name, process.tail());
        }
        Ok(())
    }

    /// An error, with its output, if it ended by itself.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        self.process
            .as_mut()
            .context("it is not running")?
            .must_run()
    }
}
