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

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hedgerow_jepsen::check::Objects;
use hedgerow_jepsen::command::{self, Asked};
use hedgerow_jepsen::history::History;

use crate::jepsen_pages;
use crate::out::{self, say};

/// Exit code for input that cannot be used.
const EXIT_UNUSABLE: u8 = 2;

/// `hedgerow jepsen ...`
#[derive(Subcommand, Debug)]
pub(crate) enum JepsenCommand {
    /// Check a history: exit 0 valid, 1 invalid, 2 unusable input, 3 unknown
    Check(Check),
    /// Write a history in another form, to standard output
    Convert(Convert),
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
    #[arg(long, allow_hyphen_values = true)]
    initial: Option<String>,
    /// Values are values even if all look like [key value]
    #[arg(long)]
    one_object: bool,
    /// Of fewer successful operations the verdict is unknown
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    at_least: usize,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    /// The history: Jepsen's EDN, its log lines, or our binary form
    file: PathBuf,
}

/// `hedgerow jepsen convert`
#[derive(Args, Debug)]
pub(crate) struct Convert {
    /// The form: EDN, one map a line; lines of jepsen.log, without times; our binary form
    #[arg(long, value_enum)]
    to: Form,
    /// The history, in any form
    file: PathBuf,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Form {
    Edn,
    Log,
    Binary,
}

/// Runs the command.
pub(crate) fn run(command: JepsenCommand) -> ExitCode {
    match command {
        JepsenCommand::Check(check) => self::check(&check),
        JepsenCommand::Convert(convert) => self::convert(&convert),
        JepsenCommand::Run(options) => run::run(options),
        JepsenCommand::Page(page) => jepsen_pages::page(&page),
        JepsenCommand::Serve(serve) => jepsen_pages::serve(&serve),
    }
}

/// Reads a history, from a pipe as well; if that cannot be, why, and what to name instead.
#[expect(
    clippy::disallowed_methods,
    reason = "a tool without a node reads its input"
)]
pub(crate) fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| unreadable(file, &error))
}

fn unreadable(file: &Path, error: &std::io::Error) -> String {
    let remedy = match error.kind() {
        std::io::ErrorKind::IsADirectory => "; name the history in it, such as history.bin",
        std::io::ErrorKind::NotFound => "; name the file of a history",
        _ => "",
    };
    format!("{}: {error}{remedy}", file.display())
}

fn convert(convert: &Convert) -> ExitCode {
    let text = match read(&convert.file) {
        Ok(text) => text,
        Err(why) => return unusable(&why),
    };
    let history = match History::parse(&text) {
        Ok(history) => history,
        Err(error) => return unusable(&format!("{}: {error}", convert.file.display())),
    };
    let written = match convert.to {
        Form::Edn => history.to_edn().into_bytes(),
        Form::Log => history.to_log().into_bytes(),
        Form::Binary => history.to_binary(),
    };
    out::write_bytes(&written);
    ExitCode::SUCCESS
}

fn unusable(why: &str) -> ExitCode {
    eprintln!("hedgerow: {why}");
    ExitCode::from(EXIT_UNUSABLE)
}

fn check(check: &Check) -> ExitCode {
    let text = match read(&check.file) {
        Ok(text) => text,
        Err(why) if check.json => {
            say!("{}", command::unusable_json(&why).trim_end());
            return ExitCode::from(EXIT_UNUSABLE);
        }
        Err(why) => return unusable(&why),
    };
    let initial = check.initial.as_deref();
    let asked = Asked {
        whose: match check.one_object {
            true => Objects::One,
            false => Objects::ByKey,
        },
        at_least: check.at_least,
    };
    let (code, output) = command::check_as(asked, &check.model, initial, &text, check.json);
    if code == i32::from(EXIT_UNUSABLE) && !check.json {
        eprintln!("hedgerow: {}: {}", check.file.display(), output.trim_end());
    } else {
        say!("{}", output.trim_end());
    }
    ExitCode::from(u8::try_from(code).unwrap_or(EXIT_UNUSABLE))
}

#[cfg(test)]
mod tests;
