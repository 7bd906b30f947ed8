//! An ext4 file system on a [`Power`] device: qemu-storage-daemon shows the device as a file through
//! FUSE, and a loop device without a cache of its own makes a disk of that file.
//!
//! Invariant: what is mounted and attached is let go of again, whatever happens in between.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::image::path_with_sbin;
use super::power::Power;
use crate::run::{Background, collected, expected, is_root};

const START_LIMIT: Duration = Duration::from_secs(20);

/// The mounted file system.
pub(super) struct LoopDisk {
    pub(super) mount: PathBuf,
    /// `/dev/loopN`, while attached.
    loop_device: Option<String>,
    mounted: bool,
    /// Ends last; declared last, so that it is dropped last.
    daemon: Background,
}

fn system(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path_with_sbin());
    command
}

/// Loop devices and mounts are for root alone.
pub(super) fn need_root() -> anyhow::Result<()> {
    if !is_root()? {
        bail!("this story mounts a file system: run it as root, or name only the others");
    }
    Ok(())
}

impl LoopDisk {
    /// Makes a new file system on the device, or mounts the one that is there.
    pub(super) fn mount(power: &Power, folder: &Path, new: bool) -> anyhow::Result<LoopDisk> {
        let file = folder.join("device");
        std::fs::write(&file, "")?;
        let port = power.port();
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--blockdev").arg(format!(
            "driver=nbd,node-name=power,server.type=inet,server.host=127.0.0.1,server.port={port}"
        ));
        command.arg("--export").arg(format!(
            "type=fuse,id=file,node-name=power,mountpoint={},writable=on,growable=off",
            file.display()
        ));
        let mut disk = LoopDisk {
            mount: folder.join("mount"),
            loop_device: None,
            mounted: false,
            daemon: Background::start("qemu-storage-daemon", &mut command)?,
        };
        let end = Instant::now() + START_LIMIT;
        while std::fs::metadata(&file)?.len() == 0 {
            disk.daemon.must_run()?;
            if Instant::now() > end {
                bail!("the FUSE export did not appear{}", disk.daemon.tail());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let attach = ["-f", "--show", "--direct-io=on"];
        let device = expected(system("losetup").args(attach).arg(&file))?
            .trim()
            .to_owned();
        disk.loop_device = Some(device.clone());
        if new {
            expected(system("mkfs.ext4").args(["-q", "-F", &device]))?;
        }
        std::fs::create_dir_all(&disk.mount)?;
        expected(
            system("mount")
                .args(["-t", "ext4", &device])
                .arg(&disk.mount),
        )?;
        disk.mounted = true;
        Ok(disk)
    }

    /// Unmounts and lets go of the device. What the kernel still writes goes to the device as it is.
    pub(super) fn unmount(mut self) -> anyhow::Result<()> {
        self.release()?;
        let status = self.daemon.stop("TERM", START_LIMIT)?;
        if !status.success() {
            bail!("qemu-storage-daemon: {status}{}", self.daemon.tail());
        }
        Ok(())
    }

    fn release(&mut self) -> anyhow::Result<()> {
        if self.mounted {
            expected(system("umount").arg(&self.mount)).context("something still uses it")?;
            self.mounted = false;
        }
        if let Some(device) = self.loop_device.take() {
            expected(system("losetup").args(["-d", &device]))?;
        }
        Ok(())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if self.mounted {
            // After an error; something may still have files open there.
            drop(collected(system("umount").arg("-l").arg(&self.mount)));
            self.mounted = false;
        }
        drop(self.release());
        // Asked to end it unmounts its export; killed, it would leave a dead mount behind.
        drop(self.daemon.stop("TERM", START_LIMIT));
    }
}
