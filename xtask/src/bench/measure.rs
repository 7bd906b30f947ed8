//! One workload on one target: by `qemu-img bench`, or by the process that serves, straight into its
//! proxy.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::REGION_BYTES;
use crate::e2e::qemu;
use crate::run::{Background, expected, limited};
use crate::usage::Usage;

/// Beyond this a run of a few seconds hangs.
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// The operations of the trial that finds out how many fit the time.
const TRIAL_OPERATIONS: u64 = 64;
/// qemu-img counts in 32 bits.
const MOST_OPERATIONS: u64 = 1 << 30;

/// What is done.
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// For scripts.
    pub(super) key: &'static str,
    write: bool,
    bytes: u64,
    depth: u32,
    /// From one operation to the next, around the region.
    stride: u64,
}

/// An odd number of 4 KiB blocks near the golden section of the region: every block is visited before
/// one is visited again, and neighbours in time are far apart.
const SCATTERED: u64 = 4096 * ((REGION_BYTES / 4096 * 618 / 1000) | 1);

impl Workload {
    /// The first fills the region; reads find data.
    pub(super) const ALL: [Workload; 6] = [
        Workload {
            name: "sequential write 1 MiB, QD 4",
            key: "sequential_write_1m_qd4",
            write: true,
            bytes: 1 << 20,
            depth: 4,
            stride: 1 << 20,
        },
        Workload {
            name: "sequential read 1 MiB, QD 4",
            key: "sequential_read_1m_qd4",
            write: false,
            bytes: 1 << 20,
            depth: 4,
            stride: 1 << 20,
        },
        Workload {
            name: "random read 4 KiB, QD 1",
            key: "random_read_4k_qd1",
            write: false,
            bytes: 4096,
            depth: 1,
            stride: SCATTERED,
        },
        Workload {
            name: "random read 4 KiB, QD 32",
            key: "random_read_4k_qd32",
            write: false,
            bytes: 4096,
            depth: 32,
            stride: SCATTERED,
        },
        Workload {
            name: "random write 4 KiB, QD 1",
            key: "random_write_4k_qd1",
            write: true,
            bytes: 4096,
            depth: 1,
            stride: SCATTERED,
        },
        Workload {
            name: "random write 4 KiB, QD 32",
            key: "random_write_4k_qd32",
            write: true,
            bytes: 4096,
            depth: 32,
            stride: SCATTERED,
        },
    ];

    /// How many operations go once around the region.
    fn around(&self) -> u64 {
        REGION_BYTES / self.bytes
    }
}

/// What came out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) operations_per_s: f64,
    pub(super) bytes_per_s: f64,
    /// Of the process that serves, all nodes together; 0 for the raw file.
    pub(super) cpu_us_per_operation: f64,
}

/// What it is done to.
pub(super) enum Target {
    /// The first part of the disk, through iSCSI.
    Disk { image: String },
    /// The same part, straight into the proxy.
    Proxy,
    /// A file beside the cluster's.
    RawFile { image: String },
}

impl Target {
    /// The first part of the disk at `url`.
    pub(super) fn url(url: &str) -> anyhow::Result<Target> {
        let image = qemu::beginning(url, REGION_BYTES)?;
        Ok(Target::Disk { image })
    }

    pub(super) fn raw_file(path: &Path) -> Target {
        let file = json!({ "driver": "file", "filename": path.display().to_string() });
        Target::RawFile {
            image: format!("json:{}", json!({ "driver": "raw", "file": file })),
        }
    }

    /// Runs `workload` for about `time`; `process` is the one that serves the disk.
    pub(super) fn measure(
        &self,
        process: &mut Background,
        workload: &Workload,
        time: Duration,
    ) -> anyhow::Result<Measured> {
        let trial = self.run(process, workload, TRIAL_OPERATIONS)?;
        let fitting = time.as_nanos() * u128::from(TRIAL_OPERATIONS) / trial.as_nanos().max(1);
        // What is written first must be the whole region, so that reads find data.
        let fills = workload.write && workload.bytes > 4096;
        let least = if fills {
            workload.around()
        } else {
            TRIAL_OPERATIONS
        };
        let operations = u64::try_from(fitting)?.clamp(least, MOST_OPERATIONS);
        let before = Usage::of(process.pid())?;
        let seconds = self.run(process, workload, operations)?.as_secs_f64();
        let cpu_s = match self {
            Target::Disk { .. } | Target::Proxy => Usage::of(process.pid())?.since(&before),
            Target::RawFile { .. } => 0.0,
        };
        let operations_per_s = operations as f64 / seconds;
        Ok(Measured {
            operations_per_s,
            bytes_per_s: operations_per_s * workload.bytes as f64,
            cpu_us_per_operation: cpu_s * 1e6 / operations as f64,
        })
    }

    /// How long `operations` operations took.
    fn run(
        &self,
        process: &mut Background,
        workload: &Workload,
        operations: u64,
    ) -> anyhow::Result<Duration> {
        match self {
            Target::Disk { image } => by_qemu(image, "none", workload, operations),
            Target::RawFile { image } if workload.write => {
                by_qemu(image, "directsync", workload, operations)
            }
            Target::RawFile { image } => by_qemu(image, "none", workload, operations),
            Target::Proxy => by_process(process, workload, operations),
        }
    }
}

fn by_process(
    process: &mut Background,
    workload: &Workload,
    operations: u64,
) -> anyhow::Result<Duration> {
    let line = json!({
        "write": workload.write,
        "bytes": workload.bytes,
        "depth": workload.depth,
        "stride": workload.stride,
        "region_bytes": REGION_BYTES,
        "operations": operations,
    });
    process.say(&line.to_string())?;
    let seconds = process.wait_line("ran ", RUN_LIMIT)?;
    let time = seconds.parse().map(Duration::try_from_secs_f64);
    time.with_context(|| format!("ran {seconds}"))?
        .with_context(|| format!("ran {seconds}"))
}

/// `cache` is qemu's: how a raw file is opened; a disk decides for itself.
fn by_qemu(
    image: &str,
    cache: &str,
    workload: &Workload,
    operations: u64,
) -> anyhow::Result<Duration> {
    let mut command: Command = limited(RUN_LIMIT, "qemu-img");
    let (stride, bytes) = (workload.stride.to_string(), workload.bytes.to_string());
    command.args([
        "bench",
        "-c",
        &operations.to_string(),
        "-d",
        &workload.depth.to_string(),
    ]);
    command.args(["-s", &bytes, "-S", &stride]);
    if workload.write {
        command.arg("-w");
    }
    command.args(["-t", cache, image]);
    let text = expected(&mut command)?;
    run_time(&text).with_context(|| format!("qemu-img bench said: {text}"))
}

/// `Run completed in 0.530 seconds.`
fn run_time(text: &str) -> Option<Duration> {
    let (_, rest) = text.split_once("Run completed in ")?;
    let seconds = rest.split(' ').next()?.parse().ok()?;
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    (!time.is_zero()).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_what_qemu_says() {
        let text = "Sending 9 write requests\nRun completed in 0.530 seconds.\n";
        assert_eq!(run_time(text), Some(Duration::from_millis(530)));
        assert_eq!(run_time("failed"), None);
    }

    #[test]
    fn scattered_operations_visit_every_block_once() {
        let blocks = REGION_BYTES / 4096;
        let mut seen = vec![false; usize::try_from(blocks).unwrap()];
        let mut offset = 0;
        for _ in 0..blocks {
            let block = usize::try_from(offset / 4096).unwrap();
            assert!(!seen[block], "block {block} is visited twice");
            seen[block] = true;
            offset = (offset + SCATTERED) % REGION_BYTES;
        }
    }
}
