//! `cargo xtask trained`: the simulator, optimised by what it does when it runs seeds.
//!
//! Built twice in the profile for sweeps: once so that it counts what it runs, and, when it has run some
//! seeds and an idle cluster, once more by these counts. A quarter faster than the profile alone, for two
//! builds of minutes; traces are the same.
//!
//! Does not: serve a release of the product, whose load is another.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::repository;
use crate::run::{expected, shown};

/// The seeds that it is trained with.
const SEEDS: &str = "0..40";

/// What cargo's configuration sets, which flags in the environment replace.
const FLAGS: &str = "--cfg madsim";

/// `cargo xtask trained`.
pub(crate) fn command(arguments: &[&str]) -> anyhow::Result<()> {
    if let Some(odd) = arguments.first() {
        bail!("trained: {odd}: it takes no options");
    }
    let tool = merging_tool()?;
    let home = repository::target().join("trained");
    let counts = home.join("counts");
    if counts.exists() {
        std::fs::remove_dir_all(&counts).with_context(|| counts.display().to_string())?;
    }
    std::fs::create_dir_all(&counts).with_context(|| counts.display().to_string())?;
    let counting = format!("-Cprofile-generate={}", counts.display());
    let first = build(&home.join("counting"), &counting)?;
    shown(Command::new(&first).args(["sweep", "--seeds", SEEDS]))?;
    let idle = repository::root().join("sim/measures/idle.json");
    shown(Command::new(&first).arg("replay").arg(idle))?;
    let profile = home.join("counts.profdata");
    shown(
        Command::new(tool)
            .args(["merge", "-o"])
            .args([&profile, &counts]),
    )?;
    let using = format!("-Cprofile-use={}", profile.display());
    let built = build(&home.join("using"), &using)?;
    let path = home.join("hedgerow-sim");
    std::fs::copy(&built, &path).with_context(|| built.display().to_string())?;
    println!("trained: {}", path.display());
    Ok(())
}

/// The program that brings counts together, of the compiler's own version.
fn merging_tool() -> anyhow::Result<PathBuf> {
    let compiler = || Command::new("rustc");
    let root = expected(compiler().args(["--print", "sysroot"]))?;
    let about = expected(compiler().arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc -vV names no host")?;
    let tools = Path::new(root.trim()).join("lib/rustlib").join(host);
    let tool = tools.join("bin/llvm-profdata");
    if !tool.exists() {
        bail!("trained: the compiler's tools are missing: run `rustup component add llvm-tools`");
    }
    Ok(tool)
}

/// Builds the simulator in a folder of its own.
fn build(folder: &Path, flag: &str) -> anyhow::Result<PathBuf> {
    let mut cargo = repository::cargo();
    cargo
        .env("RUSTFLAGS", format!("{FLAGS} {flag}"))
        .args(["build", "--profile", "sweep", "-p", "hedgerow-sim"])
        .arg("--target-dir")
        .arg(folder);
    shown(&mut cargo)?;
    Ok(folder.join("sweep/hedgerow-sim"))
}
