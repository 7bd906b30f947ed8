//! `hedgerow-sim test`: one test of `hedgerow jepsen run --target sim`, in the folder made for it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use hedgerow_jepsen::run::{PLAN_FILE, TestPlan};
use hedgerow_sim::target::{TestRun, exit_code, run_test};

use crate::out::say;
use crate::plant;

const EXIT_NOT_RUN: u8 = 2;

/// `hedgerow-sim test`
#[derive(Args, Debug)]
pub(crate) struct Test {
    /// A folder with plan.json: everything else of the test is written there
    folder: PathBuf,
    /// Plant this bug first (see `mutants`)
    #[arg(long)]
    mutant: Option<String>,
    /// Print every log line of every node
    #[arg(long)]
    verbose: bool,
}

impl Test {
    pub(crate) fn run(&self) -> ExitCode {
        if let Err(code) = plant(self.mutant.as_deref()) {
            return code;
        }
        match self.tested() {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("hedgerow-sim: not run: {error:#}");
                ExitCode::from(EXIT_NOT_RUN)
            }
        }
    }

    fn tested(&self) -> anyhow::Result<u8> {
        let plan = read(&self.folder.join(PLAN_FILE))?;
        let run = run_test(&plan, self.verbose);
        write(&self.folder, &run)?;
        let results = run.results?;
        let seconds = run.virtual_time.as_secs_f64();
        say!(
            "{:?}: {} trace={:016x} virtual_s={seconds:.3}",
            results.verdict,
            results.reason,
            run.trace_hash
        );
        Ok(exit_code(results.verdict))
    }
}

/// A test's plan.
#[expect(
    clippy::disallowed_methods,
    reason = "a tool without a node reads its input"
)]
pub(crate) fn read(path: &Path) -> anyhow::Result<TestPlan> {
    let name = || path.display().to_string();
    let text = std::fs::read(path).with_context(name)?;
    let plan: TestPlan = serde_json::from_slice(&text).with_context(name)?;
    plan.check().with_context(name)?;
    Ok(plan)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's folder lies on the real disk, outside any world"
)]
fn write(folder: &Path, run: &TestRun) -> anyhow::Result<()> {
    for (name, contents) in &run.files {
        let path = folder.join(name);
        let named = || path.display().to_string();
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(named)?;
        }
        std::fs::write(&path, contents).with_context(named)?;
    }
    Ok(())
}
