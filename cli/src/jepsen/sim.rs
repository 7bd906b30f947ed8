//! The target `sim`: the program `hedgerow-sim`, which stands beside this one, runs the test.
//!
//! It is another program because the simulator replaces parts of the C library (see
//! ARCHITECTURE.md); what it is given is a folder with a plan, what it leaves there is what a test
//! of processes leaves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use hedgerow_jepsen::run::{PLAN_FILE, RESULTS_FILE, Results, TestPlan};

/// The program's name.
const PROGRAM: &str = "hedgerow-sim";
/// Its exit codes after which there are results.
const WITH_RESULTS: [i32; 3] = [0, 1, 3];

/// Runs `plan` in `folder`.
#[expect(
    clippy::disallowed_methods,
    reason = "a test's folder belongs to no node"
)]
pub(super) fn run(
    plan: &TestPlan,
    folder: &Path,
    program: Option<&Path>,
    mutant: Option<&str>,
) -> anyhow::Result<Results> {
    let program = named(program)?;
    let path = folder.join(PLAN_FILE);
    std::fs::write(&path, serde_json::to_vec_pretty(plan)?)
        .with_context(|| path.display().to_string())?;
    let mut command = Command::new(&program);
    command.arg("test").arg(folder);
    if let Some(mutant) = mutant {
        command.args(["--mutant", mutant]);
    }
    let ended = command
        .output()
        .with_context(|| program.display().to_string())?;
    let has_results = |code: i32| WITH_RESULTS.contains(&code);
    if !ended.status.code().is_some_and(has_results) {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!("{}: {}: {}", program.display(), ended.status, said.trim());
    }
    let path = folder.join(RESULTS_FILE);
    if !path.exists() {
        bail!(
            "{} ended, and left no results in {}: --program has to name a {PROGRAM}",
            program.display(),
            folder.display()
        );
    }
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// Whether the program holds the bug.
pub(super) fn check_mutant(program: Option<&Path>, name: &str) -> anyhow::Result<()> {
    let program = named(program)?;
    let listed = Command::new(&program).arg("mutants").output();
    let listed = listed.with_context(|| program.display().to_string())?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    if !listed.lines().any(|line| line.trim() == name) {
        bail!("--mutant {name}: no such bug; `{PROGRAM} mutants` lists them");
    }
    Ok(())
}

fn named(program: Option<&Path>) -> anyhow::Result<PathBuf> {
    // A path without a slash would be looked for among the system's programs.
    program.map_or_else(sibling, |program| Ok(std::path::absolute(program)?))
}

/// The simulator's program beside this one.
fn sibling() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(PROGRAM);
    if !path.is_file() {
        bail!(
            "the target sim needs the program {PROGRAM} beside this one, and there is no {}: build \
             it with `cargo build --release -p {PROGRAM}`, or name it with --program",
            path.display()
        );
    }
    Ok(path)
}
