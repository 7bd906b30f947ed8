//! `cargo xtask e2e`: stories told to real processes by real clients.
//!
//! Each story is one file with one `tell`. It works in a folder of its own below `target/e2e`,
//! which is removed when the story ends well and kept for a look when it does not.

mod chap;
pub(crate) mod cluster;
mod dev;
mod image;
mod loop_disk;
mod nodes;
mod power;
pub(crate) mod qemu;
mod suites;
mod unsynced;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::ci::{self, Tally};
use crate::repository;

struct Story {
    name: &'static str,
    /// What is shown when it holds.
    claim: &'static str,
    /// Tells the story in an empty folder; returns the figures worth printing.
    tell: fn(&Path) -> anyhow::Result<String>,
}

const STORIES: &[Story] = &[
    Story {
        name: "dev",
        claim: "a disk of `hedgerow dev` holds a file system through kill -9 and Ctrl-C",
        tell: dev::tell,
    },
    Story {
        name: "nodes",
        claim: "a copy goes on while a node of three is killed, and the node catches up",
        tell: nodes::tell,
    },
    Story {
        name: "unsynced",
        claim: "what was acknowledged survives the loss of everything that was not synced",
        tell: unsynced::tell,
    },
    Story {
        name: "chap",
        claim: "an initiator gets in with the secret, and with nothing else",
        tell: chap::tell,
    },
    Story {
        name: "suites",
        claim: "the suites of iscsi-test-cu pass",
        tell: suites::tell,
    },
];

/// `cargo xtask e2e [--no-build] [NAME]...`.
pub(crate) fn command(arguments: &[&str]) -> anyhow::Result<()> {
    let names: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|a| *a != "--no-build")
        .collect();
    if let Some(unknown) = names
        .iter()
        .find(|name| !STORIES.iter().any(|s| s.name == **name))
    {
        let known: Vec<&str> = STORIES.iter().map(|story| story.name).collect();
        bail!("e2e: no story {unknown:?}; there are {}", known.join(", "));
    }
    if names.len() == arguments.len() {
        ci::build()?;
    }
    let tally = tell(|story| names.is_empty() || names.contains(&story.name))?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        bail!("e2e: {} stories failed", tally.failed);
    }
    Ok(())
}

/// Every story; the programs are built already.
pub(crate) fn all() -> anyhow::Result<Tally> {
    tell(|_| true)
}

fn tell(wanted: impl Fn(&Story) -> bool) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for story in STORIES.iter().filter(|story| wanted(story)) {
        eprintln!("-- {}: {}", story.name, story.claim);
        let folder = empty_folder(&format!("e2e/{}", story.name))?;
        let began = Instant::now();
        let result = (story.tell)(&folder);
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(figures) => {
                eprintln!("-- {}: pass in {seconds:.1} s: {figures}", story.name);
                tally.passed += 1;
                std::fs::remove_dir_all(&folder).context("the story's folder")?;
            }
            Err(error) => {
                eprintln!("-- {}: FAIL after {seconds:.1} s: {error:#}", story.name);
                eprintln!("   its folder is kept: {}", folder.display());
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

/// An empty folder below the target folder, which is on a real disk.
pub(crate) fn empty_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = repository::target().join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("{}: of an older run", folder.display()))?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Prints a step of a story, and returns what the step returned.
pub(crate) fn step<T>(text: &str, run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    let result = run().with_context(|| text.to_owned())?;
    eprintln!("   {:6.1} s  {text}", began.elapsed().as_secs_f64());
    Ok(result)
}
