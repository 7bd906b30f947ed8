//! A power cut under a whole cluster: what a client was told is written is there afterwards.
//!
//! `kill -9` leaves the kernel's page cache alive, and with it every write that was never synced. Here
//! the cluster lives on a disk with a slow flush and a cache that forgets ([`super::power`]): the
//! power goes in the instant in which the client learns of its last write.
//!
//! The test is itself tested: with the planted bug `acknowledge-before-sync` it has to see a loss.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::cluster::{DevStart, free_ports};
use super::image::noise;
use super::loop_disk::{LoopDisk, need_root};
use super::power::Power;
use super::{qemu, step};
use crate::run::Background;

/// Three nodes with preallocated journals fit.
const DEVICE_BYTES: u64 = 4 << 30;
/// Slower than any message between processes, so that an answer before the sync is seen as one.
const FLUSH_DELAY: Duration = Duration::from_millis(60);
const WRITES: u32 = 24;
const WRITE_BYTES: u32 = 16 << 10;
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// The journal is replayed on a slow disk.
const RESTART_LIMIT: Duration = Duration::from_secs(60);
const MUTANT: &str = "acknowledge-before-sync";

/// What a cluster made of a power cut.
enum Outcome {
    Kept,
    Lost(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Kept => write!(out, "everything acknowledged is there"),
            Outcome::Lost(text) => write!(out, "lost: {text}"),
        }
    }
}

pub(super) fn tell(folder: &Path) -> anyhow::Result<String> {
    need_root()?;
    step("the device forgets what was not synced", || {
        prove_device(&folder.join("device"))
    })?;
    let product = step("cut the power under the cluster", || {
        cut(&folder.join("good"), None)
    })?;
    if let Outcome::Lost(text) = product {
        bail!("an acknowledged write was lost: {text}");
    }
    let planted = step("the same with the bug planted that this looks for", || {
        cut(&folder.join("planted"), Some(MUTANT))
    })?;
    match planted {
        Outcome::Kept => bail!("the planted bug {MUTANT} was not seen: this test sees nothing"),
        Outcome::Lost(text) => Ok(format!("{WRITES} writes kept; with {MUTANT}: {text}")),
    }
}

/// The device below everything else: one file is synced, one is not.
fn prove_device(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    let power = Power::new(folder, DEVICE_BYTES)?;
    let disk = LoopDisk::mount(&power, folder, true)?;
    let (synced, unsynced) = (disk.mount.join("synced"), disk.mount.join("unsynced"));
    let content = noise(1, 1 << 20);
    std::fs::write(&synced, &content)?;
    File::open(&synced)?.sync_all()?;
    File::open(&disk.mount)?.sync_all()?;
    std::fs::write(&unsynced, &content)?;
    power.cut();
    disk.unmount()?;
    power.restore()?;
    let disk = LoopDisk::mount(&power, folder, false)?;
    if std::fs::read(&synced)? != content {
        bail!("a synced file was lost: the device is broken");
    }
    if std::fs::read(&unsynced).is_ok_and(|read| read == content) {
        bail!("a file that was never synced is still there: the device forgets nothing");
    }
    disk.unmount()
}

fn cut(folder: &Path, mutant: Option<&str>) -> anyhow::Result<Outcome> {
    std::fs::create_dir_all(folder)?;
    let power = Power::new(folder, DEVICE_BYTES)?;
    let disk = LoopDisk::mount(&power, folder, true)?;
    let data = disk.mount.join("data");
    let mut start = DevStart::new(&data, free_ports(1)?[0]);
    start.mutant = mutant;
    start.limit = RESTART_LIMIT;
    let mut dev = start.start()?;

    power.set_flush_delay(FLUSH_DELAY);
    write_one_by_one(&dev.url)?;
    let unflushed = power.cut();
    dev.process.kill()?;
    let url = dev.url.clone();
    drop(dev);
    disk.unmount()?;

    power.set_flush_delay(Duration::ZERO);
    power.restore()?;
    eprintln!("             {unflushed} bytes were in the cache and are gone");
    let disk = LoopDisk::mount(&power, folder, false)?;
    // The product that comes back has no bug planted: what is lost was lost before.
    start.mutant = None;
    let outcome = match start.start() {
        Err(error) => Outcome::Lost(format!("the cluster does not come back: {error:#}")),
        Ok(mut dev) => {
            let outcome = read_back(&url);
            dev.process.kill()?;
            outcome
        }
    };
    disk.unmount()?;
    Ok(outcome)
}

/// Each write has its own pattern and place, and follows the answer to the one before. It never asks
/// for a flush: an answer is a promise. Returns in the instant of the last answer.
fn write_one_by_one(url: &str) -> anyhow::Result<()> {
    let mut command = Command::new("qemu-io");
    let mut client = Background::start_talking("qemu-io", command.args(["-f", "raw", url]))?;
    for number in 0..WRITES {
        let offset = number * WRITE_BYTES;
        client.say(&format!(
            "write -P {} {offset} {WRITE_BYTES}",
            pattern(number)
        ))?;
        let rest = client.wait_line("wrote ", WRITE_LIMIT)?;
        if !rest.starts_with(&format!(
            "{WRITE_BYTES}/{WRITE_BYTES} bytes at offset {offset}"
        )) {
            bail!("write {number}: {rest}");
        }
    }
    Ok(())
}

fn pattern(number: u32) -> u32 {
    number % 250 + 1
}

fn read_back(url: &str) -> Outcome {
    for number in 0..WRITES {
        let (pattern, offset) = (pattern(number), number * WRITE_BYTES);
        let read = format!("read -P {pattern} {offset} {WRITE_BYTES}");
        if let Err(error) = qemu::io(url, &[&read]).context("acknowledged") {
            let text = format!("{error:#}");
            let what = text.lines().next().unwrap_or_default();
            return Outcome::Lost(format!("write {number} of {WRITES}: {what}"));
        }
    }
    Outcome::Kept
}
