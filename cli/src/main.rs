//! `hedgerow`: the one binary. Configuration, wiring and every subcommand.

#![expect(
    clippy::disallowed_macros,
    reason = "this crate is not simulated, and every `select` of it is `biased`"
)]

mod asking;
mod bench_proxy;
mod client;
mod config_file;
mod dev;
mod failure;
mod jepsen;
mod jepsen_pages;
mod out;
mod production;
mod progress;
mod shard;
mod status;
#[cfg(feature = "testing")]
mod testing;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use hedgerow_env::{Env, Level, event};
use hedgerow_node::Node;
use tokio::signal::unix::{SignalKind, signal};

use crate::client::{ClientOptions, DiskCommand};
use crate::production::{Logging, abort_on_panic, client_env, production_env};

/// A storage cluster that lives in its own simulator.
#[derive(Parser, Debug)]
#[command(name = "hedgerow", version, propagate_version = true)]
struct CommandLine {
    /// How much to log to standard error
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "warn",
        env = "HEDGEROW_LOG"
    )]
    log: LogLevel,
    #[command(subcommand)]
    command: Command,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a three-node cluster on this machine and export a disk over iSCSI
    Dev(dev::DevOptions),
    /// Run one node
    Node {
        /// Its configuration (docs/operations/configuration.md)
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Tell in JSON what can be used, and errors
        #[arg(long)]
        json: bool,
    },
    /// Create, list, show, resize and delete virtual disks
    Disk {
        #[command(flatten)]
        options: ClientOptions,
        #[command(subcommand)]
        command: DiskCommand,
    },
    /// Show the state of the cluster
    Status {
        #[command(flatten)]
        options: ClientOptions,
    },
    /// Move the data off a node, or take that back
    Drain {
        #[command(flatten)]
        options: ClientOptions,
        /// The node's name, or its id
        node: String,
        /// It takes data again
        #[arg(long)]
        undo: bool,
    },
    /// List shards, or split one
    Shard {
        #[command(flatten)]
        options: ClientOptions,
        #[command(subcommand)]
        command: shard::ShardCommand,
    },
    /// Check histories of concurrent operations
    Jepsen {
        #[command(subcommand)]
        command: jepsen::JepsenCommand,
    },
}

impl Command {
    /// Whether a script reads what is said.
    fn is_for_scripts(&self) -> bool {
        match self {
            Self::Dev(options) => options.json,
            Self::Node { json, .. } => *json,
            Self::Disk { options, .. }
            | Self::Status { options }
            | Self::Drain { options, .. }
            | Self::Shard { options, .. } => options.json,
            Self::Jepsen { .. } => false,
        }
    }
}

/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

/// Reads the command line. What is wrong with it is told as everything else is.
fn parsed() -> Result<CommandLine, ExitCode> {
    let error = match CommandLine::try_parse() {
        Ok(line) => return Ok(line),
        Err(error) => error,
    };
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let message = lines.next().unwrap_or_default();
        let message = message.trim_start_matches("error: ");
        let rest: Vec<&str> = lines.map(str::trim).collect();
        let remedy = Some(rest.join(" ")).filter(|rest| !rest.is_empty());
        eprintln!(
            "{}",
            failure::in_one_line(message, remedy.as_deref(), EXIT_USAGE)
        );
        return Err(ExitCode::from(EXIT_USAGE));
    }
    error.exit()
}

fn main() -> ExitCode {
    let line = match parsed() {
        Ok(line) => line,
        Err(code) => return code,
    };
    abort_on_panic();
    if let Err(error) = choose_mutant() {
        eprintln!("hedgerow: {error}");
        return ExitCode::from(EXIT_USAGE);
    }
    let command = match line.command {
        Command::Jepsen { command } => return jepsen::run(command),
        command => command,
    };
    let logging = Logging {
        level: match line.log {
            LogLevel::Debug => Level::Debug,
            LogLevel::Info => Level::Info,
            LogLevel::Warn => Level::Warn,
            LogLevel::Error => Level::Error,
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()
        .expect("a runtime needs threads, and the machine refused them");
    let in_json = command.is_for_scripts();
    let result = runtime.block_on(run(command, logging));
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::tell(&error, in_json),
    }
}

async fn run(command: Command, logging: Logging) -> anyhow::Result<()> {
    match command {
        Command::Dev(options) => dev::run(options, logging).await,
        Command::Node { config, json } => node(&config, json, logging).await,
        Command::Disk { options, command } => {
            client::disk(client_env(logging), &options, command).await
        }
        Command::Drain {
            options,
            node,
            undo,
        } => client::drain(client_env(logging), &options, node, !undo).await,
        Command::Shard { options, command } => {
            shard::shard(client_env(logging), &options, command).await
        }
        Command::Status { options } => status::status(client_env(logging), &options).await,
        Command::Jepsen { .. } => unreachable!("answered before the runtime was built"),
    }
}

/// Pause between two looks at whether a node serves, for the line that says what it waits for.
const SERVING_LOOK_PAUSE: Duration = Duration::from_millis(200);

#[cfg(not(feature = "testing"))]
fn node_env(file: &config_file::NodeFile, logging: Logging) -> anyhow::Result<Env> {
    production_env(&file.node.name, &file.data_directory, logging)
}

/// A build for tests obeys the section `[test]`, if there is one.
#[cfg(feature = "testing")]
fn node_env(file: &config_file::NodeFile, logging: Logging) -> anyhow::Result<Env> {
    let (name, root) = (&file.node.name, &file.data_directory);
    match &file.test {
        Some(test) => production::testing_env(name, root, logging, test),
        None => production_env(name, root, logging),
    }
}

async fn node(path: &std::path::Path, in_json: bool, logging: Logging) -> anyhow::Result<()> {
    let file = config_file::read(path)?;
    let name = file.node.name.clone();
    let env = node_env(&file, logging)?;
    // An error's text holds its causes already; printed as a chain it would say them twice.
    let node = Node::start(env.clone(), file.node)
        .await
        .map_err(|error| anyhow::Error::msg(error.to_string()))?;
    let portal = node.portal_address();
    out::offer(&ready(
        &name,
        &node.rpc_address(),
        portal.as_deref(),
        in_json,
    ));
    let waits_for = || node.waits_for().unwrap_or_default();
    let serving = async {
        while node.waits_for().is_some() {
            env.sleep(SERVING_LOOK_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = stop_signal() => {}
        () = async {
            progress::shown(&env, waits_for, serving).await;
            std::future::pending().await
        } => {}
    }
    event!(env, Info, "node", "stopping");
    node.shutdown().await;
    Ok(())
}

/// What a node that has started offers.
fn ready(name: &str, rpc: &str, portal: Option<&str>, in_json: bool) -> String {
    if in_json {
        let urls: Vec<String> = portal
            .iter()
            .map(|portal| format!("iscsi://{portal}"))
            .collect();
        let line = serde_json::json!({
            "schema_version": 1, "ready": urls, "node": name, "rpc": rpc, "portal": portal,
        });
        return line.to_string();
    }
    let node = format!("ready node {name} rpc {rpc}");
    portal.map_or_else(
        || node.clone(),
        |portal| format!("{node}\nready portal {portal}"),
    )
}

/// Completes at SIGINT or SIGTERM.
async fn stop_signal() {
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be caught");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be caught");
    tokio::select! {
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Plants the bug that HEDGEROW_MUTANT names; in a production build there are none to plant.
fn choose_mutant() -> Result<(), String> {
    let Some(name) = std::env::var_os("HEDGEROW_MUTANT") else {
        return Ok(());
    };
    let name = name.to_string_lossy().into_owned();
    #[cfg(feature = "mutants")]
    {
        let mutant = hedgerow_env::mutants::find(&name);
        let mutant = mutant.ok_or_else(|| format!("HEDGEROW_MUTANT: no mutant {name:?}"))?;
        hedgerow_env::mutants::choose(Some(mutant));
        eprintln!("hedgerow: running with the planted bug {name}");
        Ok(())
    }
    #[cfg(not(feature = "mutants"))]
    Err(format!(
        "HEDGEROW_MUTANT={name}: this build holds no mutants; unset it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_people_and_scripts_what_it_offers() {
        let told = |portal, in_json| ready("n1", "a:1", portal, in_json);
        assert_eq!(told(None, false), "ready node n1 rpc a:1");
        let two = "ready node n1 rpc a:1\nready portal a:2";
        assert_eq!(told(Some("a:2"), false), two);
        let line: serde_json::Value = serde_json::from_str(&told(Some("a:2"), true)).unwrap();
        assert_eq!(line["schema_version"], 1);
        assert_eq!(line["ready"], serde_json::json!(["iscsi://a:2"]));
        assert_eq!((&line["node"], &line["rpc"]), (&"n1".into(), &"a:1".into()));
        let line: serde_json::Value = serde_json::from_str(&told(None, true)).unwrap();
        assert_eq!(line["ready"], serde_json::json!([]));
    }
}
