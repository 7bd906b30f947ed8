//! `cargo xtask`: the tools of this repository. What runs in CI is `cargo xtask ci`.
//!
//! Plain programs around cargo and the machine's commands: nothing here is part of the product, and
//! nothing here decides what is correct; it runs those who do and reports what they said.

mod bench;
mod ci;
mod e2e;
mod jepsen;
mod mutants;
mod repository;
mod run;
mod tidy;
mod trained;
mod usage;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci [--skip STEP]...          everything that has to pass before a change lands (the README's test)
  tidy                         the rules of the house that no compiler checks
  e2e [--no-build] [NAME]...   end-to-end tests with real processes: dev, nodes, unsynced, suites
  jepsen [--quick | --mutants] [--no-build]
                               tests of real processes under faults: 15 minutes, or 5; or how
                               many of 20 planted bugs they show in ten minutes each
  bench [--quick] [--json FILE]
                               speed through iSCSI beside the raw disk of the same run
  mutants [OPTION]...          the power of the simulator, measured with planted bugs
    --resume FILE              where results are kept and added to [target/mutants.json]
    --mutant NAME              only this one, explained or not; may be repeated
    --seeds-from A             the first seed [0]
    --max-seeds N              seeds of one range, after which a mutant counts as surviving [1000]
    --median-of K              disjoint ranges of seeds for each mutant [5]
    --clean N                  also run N seeds without any mutant, and count false alarms [0]
    --jobs J                   processes at once [the machine's cores]
    --markdown FILE            write the table there
    --report                   run nothing: only show what FILE holds
    --no-build                 take the simulator as it was built last
    --simulator FILE           take this one, such as target/trained/hedgerow-sim
  trained                      build target/trained/hedgerow-sim, for long sweeps: optimised by counts of
                               its own runs; a third faster, and two builds of minutes
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["ci", rest @ ..] => ci::command(rest),
        ["tidy"] => tidy::command(),
        ["e2e", rest @ ..] => e2e::command(rest),
        ["jepsen", rest @ ..] => jepsen::command(rest),
        ["mutants", rest @ ..] => mutants::command(rest),
        ["bench", rest @ ..] => bench::command(rest),
        ["trained", rest @ ..] => trained::command(rest),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
