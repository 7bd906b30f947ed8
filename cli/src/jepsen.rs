//! `hedgerow jepsen`: the checkers, for histories of this cluster and of others, and the tests.

mod cluster;
mod control;
mod damage;
mod etcd;
mod namespaces;
mod node_process;
pub(crate) mod orders;
mod os;
mod processes;
mod run;
mod sim;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::jepsen_pages;
use crate::out::say;

/// Exit code for input that cannot be used.
const EXIT_UNUSABLE: u8 = 2;

/// `hedgerow jepsen ...`
#[derive(Subcommand, Debug)]
pub(crate) enum JepsenCommand {
    /// Check a history: exit 0 valid, 1 invalid, 2 unusable input, 3 unknown
    Check(Check),
    /// Write the page of a history or of a run: one HTML file that needs nothing else
    Page(jepsen_pages::Page),
    /// Browse a store of runs
    Serve(jepsen_pages::Serve),
    /// Test a cluster, of real processes or simulated: exit 0 valid, 1 invalid, 2 not run, 3 unknown
    Run(run::Run),
}

/// `hedgerow jepsen check`
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// What the history is of
    #[arg(long)]
    model: String,
    /// The initial value
    #[arg(long)]
    initial: Option<String>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// The history: Jepsen's EDN, its log lines, or our binary form
    file: PathBuf,
}

/// Runs the command.
pub(crate) fn run(command: JepsenCommand) -> ExitCode {
    match command {
        JepsenCommand::Check(check) => self::check(&check),
        JepsenCommand::Run(options) => run::run(options),
        JepsenCommand::Page(page) => jepsen_pages::page(&page),
        JepsenCommand::Serve(serve) => jepsen_pages::serve(&serve),
    }
}

fn check(check: &Check) -> ExitCode {
    #[expect(
        clippy::disallowed_methods,
        reason = "a tool without a node reads its input"
    )]
    let text = match std::fs::read(&check.file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("hedgerow: {}: {error}", check.file.display());
            return ExitCode::from(EXIT_UNUSABLE);
        }
    };
    let initial = check.initial.as_deref();
    let (code, output) = hedgerow_jepsen::command::check(&check.model, initial, &text, check.json);
    if code == i32::from(EXIT_UNUSABLE) {
        eprintln!("hedgerow: {}: {output}", check.file.display());
    } else {
        say!("{output}");
    }
    ExitCode::from(u8::try_from(code).unwrap_or(EXIT_UNUSABLE))
}

#[cfg(test)]
mod tests;
