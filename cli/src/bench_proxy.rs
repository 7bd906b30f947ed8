//! `hedgerow dev --bench-proxy`, for `cargo xtask bench`: load straight into the proxy of a running
//! node, without iSCSI in between.
//!
//! Reads one workload a line from standard input, as JSON, runs it on the virtual disk through the
//! same proxy that serves the portal, and answers `ran SECONDS`.
//! Does not: check what it reads (other tests do), or count processor time (whoever asks does).

use std::io::BufRead as _;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hedgerow_node::{Node, OperationTag, VirtualDisk};
use serde::Deserialize;

use crate::out::say;

/// Marks the tags of these writes: initiators' have this bit clear.
const TAG_MARK: u64 = 1 << 62;
/// Most operations in flight: beyond it the queue itself would be measured.
const DEPTH_MAX: usize = 1024;

/// What is to be run.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    write: bool,
    /// Of one operation.
    bytes: u64,
    /// Operations in flight.
    depth: usize,
    /// From one operation to the next, around the region.
    stride: u64,
    region_bytes: u64,
    operations: u64,
}

impl Workload {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let workload: Self = serde_json::from_str(line).context("a workload")?;
        let fits = workload.bytes > 0 && workload.bytes <= workload.region_bytes;
        if !fits || !(1..=DEPTH_MAX).contains(&workload.depth) {
            bail!("{line}: bytes must fit the region, and depth be 1 to {DEPTH_MAX}");
        }
        Ok(workload)
    }

    fn offset(&self, number: u64) -> u64 {
        let at = u128::from(number) * u128::from(self.stride) % u128::from(self.region_bytes);
        let at = u64::try_from(at).expect("less than the region");
        at.min(self.region_bytes - self.bytes)
    }
}

/// Runs workloads on `disk` until standard input ends.
pub(crate) async fn serve(node: &Node, disk: &str) -> anyhow::Result<()> {
    let proxy = node.proxy().context("the node has no proxy")?;
    let mut next_tag = TAG_MARK;
    loop {
        let read = node.env().blocking("bench-input", || {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let line = read.await?;
        if line.trim().is_empty() {
            return Ok(());
        }
        let workload = Workload::parse(line.trim())?;
        // The portal of this node would release the attachment that it had, in the midst of it.
        proxy.detach(&proxy.attach(disk).await?).await?;
        let disk = proxy.attach(disk).await?;
        let began = node.env().now();
        // This future is polled on the thread that the program began with; the portal's sessions run
        // on the runtime's workers, and so does this load.
        let load = async move { run(&disk, workload, next_tag).await };
        node.env().to_the_end("bench-load", load).await?;
        next_tag += workload.operations;
        say!("ran {}", node.env().now().since(began).as_secs_f64());
    }
}

async fn run(disk: &VirtualDisk, workload: Workload, first_tag: u64) -> anyhow::Result<()> {
    let bytes = usize::try_from(workload.bytes)?;
    let data = Bytes::from(vec![0xa5; bytes]);
    stream::iter(0..workload.operations)
        .map(|number| {
            let data = data.clone();
            async move {
                let offset = workload.offset(number);
                if workload.write {
                    let tag = OperationTag(first_tag + number);
                    disk.write(offset, data, tag).await
                } else {
                    disk.read(offset, workload.bytes).await.map(drop)
                }
            }
        })
        .buffer_unordered(workload.depth)
        .try_collect::<()>()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_stays_within_its_region_and_nonsense_is_refused() {
        let line = r#"{"write":true,"bytes":4096,"depth":32,"stride":12288,
            "region_bytes":40960,"operations":100}"#;
        let workload = Workload::parse(line).unwrap();
        let offsets: Vec<u64> = (0..100).map(|number| workload.offset(number)).collect();
        assert!(offsets.iter().all(|offset| offset + 4096 <= 40_960));
        assert_eq!(offsets[..5], [0, 12_288, 24_576, 36_864, 8_192]);
        assert!(Workload::parse(&line.replace("32", "0")).is_err());
        assert!(Workload::parse(&line.replace("40960", "512")).is_err());
        assert!(Workload::parse(&line.replace("depth", "debt")).is_err());
    }
}
